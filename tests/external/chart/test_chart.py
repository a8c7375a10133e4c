"""The chart, rendered by Helm 3 and Helm 4 for every set of values in `values/`.

Objects of Kubernetes are compared with the schemas of each version, those of operators with the
models that their packages bring. The Gateway API has no such package: its schema is in this file.
"""

import difflib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from tests.docs_snippets import Snippet, commands_of, snippets
from tests.external.chart.helm import (
    CHART,
    HERE,
    PACKAGES,
    ROOT,
    VALUE_SETS,
    helm,
    objects,
    of_kind,
    options,
    template,
)

VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
MONITORING = ROOT / "docs" / "monitoring"
OPERATORS = {
    "ScaledObject": ScaledObject,
    "PrometheusRule": PrometheusRule,
    "ServiceMonitor": ServiceMonitor,
}


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
        "required": required.split(),
    }


def array(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


TEXT = {"type": "string", "minLength": 1}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
MATCH = {"type": {"enum": ["Exact", "PathPrefix", "RegularExpression"]}, "value": TEXT}
# https://gateway-api.sigs.k8s.io/reference/spec/: what this chart renders of an HTTPRoute.
HTTP_ROUTE = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "gateway.networking.k8s.io/v1"},
    kind={"const": "HTTPRoute"},
    metadata={"type": "object"},
    spec=closed(
        "parentRefs rules",
        parentRefs=array(
            closed("name", name=TEXT, namespace=TEXT, sectionName=TEXT, port=PORT), 32
        ),
        hostnames=array(TEXT, 16),
        rules=array(
            closed(
                "backendRefs",
                matches=array(closed(path=closed(**MATCH)), 64),
                timeouts=closed(request=DURATION, backendRequest=DURATION),
                backendRefs=array(closed("name port", name=TEXT, port=PORT), 16),
            ),
            16,
        ),
    ),
)


def test_the_operators_schemas_find_what_is_wrong() -> None:
    monitor = of_kind("ServiceMonitor", objects("monitoring"))
    for broken in ({"intervall": "5s"}, {"interval": 5}):
        with pytest.raises((AssertionError, ValueError)):
            check_operators({**monitor, "spec": {**monitor["spec"], "endpoints": [broken]}})
    route = of_kind("HTTPRoute", objects("httproute"))
    with pytest.raises(jsonschema.ValidationError):
        check_operators({**route, "spec": {**route["spec"], "rule": []}})


def check_operators(one: dict[str, Any]) -> None:
    """Check an object whose schema an operator defines.

    A model drops the fields that it does not know, and adds defaults.
    """
    if one["kind"] == "HTTPRoute":
        jsonschema.validate(one, HTTP_ROUTE)
        return
    model = OPERATORS[one["kind"]].model_validate(one)
    check_kept(one, model.model_dump(mode="json", by_alias=True, exclude_none=True))


def check_kept(given: Any, kept: Any) -> None:
    if isinstance(given, dict):
        assert not set(given) - set(kept), "unknown fields"
        for name, value in given.items():
            check_kept(value, kept[name])
    elif isinstance(given, list):
        assert len(given) == len(kept)
        for one, other in zip(given, kept, strict=True):
            check_kept(one, other)
    else:
        assert given == kept


@pytest.mark.parametrize("values", VALUE_SETS)
def test_every_object_has_the_schema_of_every_version(values: str) -> None:
    """Each version renders its own, as `Capabilities` may tell them apart."""
    for version in VERSIONS:
        for one in objects(values, "--kube-version", f"v{version}.0"):
            if one["kind"] == "HTTPRoute" or one["kind"] in OPERATORS:
                check_operators(one)
            else:
                kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("values", VALUE_SETS)
def test_helm_3_and_4_render_the_same(values: str) -> None:
    for package in PACKAGES.values():
        code, _, errors = helm("lint", CHART, "--strict", *options(values), package=package)
        assert (code, errors) == (0, ""), errors
    rendered = [
        list(yaml.safe_load_all(template(values, package=one))) for one in PACKAGES.values()
    ]
    assert rendered[0] == rendered[1]


def shown(values: str) -> list[str]:
    """Return what Helm renders, without empty lines, versions and the files of docs/monitoring."""
    lines = []
    is_file = False
    for line in template(values).replace(VERSION, "VERSION").splitlines():
        is_file = line != "---" and (is_file or line in ("  dedup.json: |", "  groups:"))
        if line.strip() and not is_file and not line.startswith("  # "):
            lines.append(line.rstrip())
    return lines


@pytest.mark.parametrize("values", VALUE_SETS)
def test_what_is_rendered_is_the_golden_file(values: str) -> None:
    """`least` is a file; of the others, the difference from it. UPDATE_GOLDEN=1 writes them anew."""
    lines = shown(values)
    path = HERE / "golden" / "least.yaml"
    if values != "least":
        path = HERE / "golden" / f"{values}.diff"
        lines = [
            line
            for line in difflib.unified_diff(shown("least"), lines, n=1, lineterm="")
            if not line.startswith(("---", "+++", "@@")) or line in ("----", "+---")
        ]
    text = "\n".join(lines) + "\n"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        path.write_text(text)
    assert path.read_text() == text, "UPDATE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("replicaCount=two", "at '/replicaCount': got string, want integer"),
        ("replicaCout=2", "additional properties 'replicaCout' not allowed"),
        ("image.repository=", "image.repository is required: build the image with"),
        ("image.digest=sha256:12", "at '/image/digest': 'sha256:12' does not match pattern"),
        ("config.upstream=", "config.upstream is required, such as http://vllm:8000/v1"),
        ("config.policy=strickt", "at '/config/policy': value must be one of 'off', 'watch',"),
        ("config.polcy=strict", "at '/config': additional properties 'polcy' not allowed"),
        ("config.workers=0", "at '/config/workers': minimum: got 0, want 1"),
        (
            "config.api_keys={a}",
            "config.api_keys cannot be set: keys do not belong into a ConfigMap",
        ),
        ("config.upstream_api_key=a", "config.upstream_api_key cannot be set: keys do not belong"),
        ("config.port=80", "config.port cannot be set: the container listens on 8000"),
        ("config.admin_port=9090", "config.admin_port cannot be set: set metrics.port"),
        ("metrics.port=8000", "metrics.port must be another port than service.port"),
        ("config.grace_seconds=60", "config.grace_seconds cannot be set: set terminationGrace"),
        ("existingConfigMap.name=a", "existingConfigMap.name and config.upstream exclude each"),
        ("secret.clientKeys=a", "are keys in a Secret: set secret.name"),
        ("terminationGracePeriodSeconds=20", "'/terminationGracePeriodSeconds': minimum: got 20"),
        ("autoscaling.type=both", "at '/autoscaling/type': value must be one of 'none', 'hpa', "),
        ("autoscaling.type=keda", "autoscaling.keda.serverAddress is required, such as http://"),
        ("autoscaling.type=hpa,autoscaling.minReplicas=11", "minReplicas 11 is more than auto"),
        (
            "podDisruptionBudget.minAvailable=1,podDisruptionBudget.maxUnavailable=1",
            "minAvailable and podDisruptionBudget.maxUnavailable exclude each other",
        ),
        ("podDisruptionBudget.maxUnavailable=0", "of 2 replicas lets no pod be evicted"),
        ("podDisruptionBudget.minAvailable=2", "of 2 replicas lets no pod be evicted"),
        ("podDisruptionBudget.minAvailable=many", "'/podDisruptionBudget/minAvailable': 'many'"),
        ("ingress.enabled=true", "ingress.hosts is required, such as"),
        ("httpRoute.enabled=true", "httpRoute.parentRefs is required"),
        ("serviceMonitor.interval=often", "at '/serviceMonitor/interval': 'often' does not match"),
        ("service.type=Ingress", "'/service/type': value must be one of 'ClusterIP',"),
        ("tmpSizeLimit=many", "at '/tmpSizeLimit': 'many' does not match pattern"),
    ],
)
def test_a_wrong_value_is_one_clear_line(broken: str, message: str) -> None:
    code, _, errors = helm("template", "llm", CHART, *options("least"), "--set", broken)
    assert code != 0
    lines = [line for line in errors.splitlines() if message in line]
    assert len(lines) == 1, errors
    # Helm's own lines around it: of the schema, and the hint to use --debug.
    rest = [line for line in errors.splitlines() if line and line not in lines]
    assert all(
        line.startswith(("Error: values don't meet", "dedup:", "Use --debug")) for line in rest
    )


@pytest.mark.parametrize(
    ("seconds", "pre_stop", "grace"), [(30, 5, 15), (300, 30, 260), (3600, 30, 3560)]
)
def test_the_times_of_a_drain_derive_from_one_value(
    seconds: int, pre_stop: int, grace: int
) -> None:
    rendered = objects("least", "--set", f"terminationGracePeriodSeconds={seconds}")
    pod = of_kind("Deployment", rendered)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert pod["terminationGracePeriodSeconds"] == seconds
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", str(pre_stop)]
    assert env["DEDUP_SHUTDOWN_DELAY_SECONDS"] == "5"
    assert env["DEDUP_GRACE_SECONDS"] == str(grace)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ("least", "Clients in the cluster: http://llm-dedup.models:8000/v1"),
        ("least", "A pod that stops still serves for 30 s, until load balancers have forgotten it"),
        ("ingress", "Clients elsewhere: https://llm.example/v1"),
        ("existing", "kubectl -n models rollout restart deploy/llm-dedup"),
        ("single", "One replica: requests fail while it is moved to another node."),
    ],
)
def test_the_notes_say_what_to_do(values: str, line: str) -> None:
    arguments = ("install", "llm", CHART, "--dry-run=client", "--namespace", "models")
    code, printed, errors = helm(*arguments, *options(values))
    assert code == 0, errors
    assert line in printed.partition("\nNOTES:\n")[2]


def test_a_change_of_the_settings_rolls_the_pods() -> None:
    def pods(*more: str) -> Any:
        return of_kind("Deployment", objects("least", *more))["spec"]["template"]

    assert pods() == pods("--set", "replicaCount=3")
    assert pods() != pods("--set", "config.policy=strict")


@pytest.mark.parametrize("name", ["everything", "secret"])
def test_settings_come_out_as_they_went_in(name: str) -> None:
    values = yaml.safe_load((HERE / "values" / f"{name}.yaml").read_text())
    (text,) = [
        one["data"]["dedup.toml"] for one in objects(name) if "dedup.toml" in one.get("data", ())
    ]
    written = tomllib.loads(text)
    assert written == {"log_format": "json", "max_streams": 2000, **values["config"]}


def test_rules_alerts_and_dashboard_are_those_of_docs() -> None:
    rendered = {one["metadata"]["name"]: one for one in objects("monitoring")}
    for kind in ("rules", "alerts"):
        text = (MONITORING / f"{kind}.yml").read_text()
        text = text.replace("runbook_url: docs/", "runbook_url: https://docs.example/dedup/")
        assert rendered[f"llm-dedup-{kind}"]["spec"] == yaml.safe_load(text)
    dashboard = json.loads(rendered["llm-dedup-dashboard"]["data"]["dedup.json"])
    assert dashboard == json.loads((MONITORING / "grafana" / "dashboard.json").read_text())


GUIDE = [one for one in snippets() if one.page == "docs/guides/deploy.md"]


def test_the_guides_command_renders() -> None:
    (command,) = [
        line
        for one in GUIDE
        if one.language == "sh"
        for line in commands_of(one.text)
        if line.startswith("helm ")
    ]
    words = command.removeprefix("helm install llm server/deploy/chart ").split()
    code, rendered, errors = helm("template", "llm", CHART, *words)
    assert code == 0, errors
    assert "\n  name: llm-dedup\n" in rendered


@pytest.mark.parametrize(
    "snippet",
    [one for one in GUIDE if one.language == "yaml" and "seriesQuery" not in one.text],
    ids=str,
)
def test_the_guides_values_render(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(snippet.text)
    more = () if "upstreams" in snippet.text else ("--set", "config.upstream=http://vllm:8000/v1")
    values = ("--set", "image.repository=dedup", "-f", tmp_path / "values.yaml", *more)
    code, _, errors = helm("template", "llm", CHART, *values)
    assert code == 0, errors


def test_a_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    """The files of docs are links in the tree, and files in the package."""
    code, _, errors = helm("package", CHART, "-d", tmp_path)
    assert code == 0, errors
    (package,) = tmp_path.iterdir()
    code, rendered, errors = helm(
        "template", "llm", package, "--namespace", "models", *options("monitoring")
    )
    assert code == 0, errors
    assert rendered == template("monitoring")


# Checkov's policies that are not kept, and why.
NOT_KEPT = {
    "CKV_K8S_11": "no CPU limit: a process that is throttled stops all of its streams",
    "CKV_K8S_15": "IfNotPresent: a tag is a version, a digest is a content",
    "CKV_K8S_21": "the namespace is the release's",
    "CKV_K8S_43": "the digest is the operator's to set",
    "CKV_K8S_35": "environmentSecrets are the operator's choice; secret.name is mounted as files",
}


def test_policies_are_kept(tmp_path: Path) -> None:
    checkov = Path(sys.prefix) / "checkov" / "bin" / "checkov"
    for values in VALUE_SETS:
        if values == "openshift":  # its user is unknown here
            continue
        (tmp_path / f"{values}.yaml").write_text(template(values))
    command = [checkov, "-d", tmp_path, "--framework", "kubernetes", "--skip-download"]
    done = subprocess.run(
        [*command, "--compact", "--quiet", "-o", "json", "--skip-check", ",".join(NOT_KEPT)],
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    failed = [
        (one["check_id"], one["resource"], one["check_name"])
        for one in report["results"]["failed_checks"]
    ]
    assert failed == []
    assert report["summary"]["passed"] > 50 * (len(VALUE_SETS) - 1)
