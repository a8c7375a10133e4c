"""Checks of server/deploy that need none of the programs it is for; `make test-chart` runs the rest."""

import json
import os
import re
import tomllib
from typing import Any

import pytest
import yaml

from dedup_server.settings import Settings, load
from tests.docs_snippets import ROOT

DEPLOY = ROOT / "server" / "deploy"
CHART = DEPLOY / "chart"
MONITORING = ROOT / "docs" / "monitoring"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def plain(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return a schema of pydantic's without references, titles, defaults and null: TOML has none,
    and each alternative would be a line of the error.
    """
    if reference := schema.get("$ref"):
        return plain(known[reference.rpartition("/")[2]], known)
    if alternatives := schema.get("anyOf"):
        (schema,) = [one for one in alternatives if one != {"type": "null"}]
    kept = {}
    for name, value in schema.items():
        if name == "properties":
            kept[name] = {key: plain(one, known) for key, one in value.items()}
        elif name in ("items", "additionalProperties") and isinstance(value, dict):
            kept[name] = plain(value, known)
        elif name not in ("title", "default", "description", "format", "writeOnly"):
            kept[name] = value
    return kept


def test_the_charts_schema_of_settings_is_the_servers() -> None:
    path = CHART / "values.schema.json"
    schema = json.loads(path.read_text())
    settings = Settings.model_json_schema()
    wanted = plain(settings, settings.get("$defs", {}))
    if os.environ.get("UPDATE_DOCS") == "1":
        schema["properties"]["config"] = wanted
        path.write_text(json.dumps(schema, indent=2) + "\n")
    assert schema["properties"]["config"] == wanted, "UPDATE_DOCS=1 writes it anew"


def test_every_value_of_the_chart_has_a_schema() -> None:
    def compare(where: str, values: dict[str, Any], schema: dict[str, Any]) -> None:
        assert schema["type"] == "object", where
        if "properties" not in schema:
            return
        assert schema["additionalProperties"] is False, where
        if where != "values.config":
            assert set(values) == set(schema["properties"]) - {"global"}, where
        for name, value in values.items():
            if isinstance(value, dict):
                compare(f"{where}.{name}", value, schema["properties"][name])

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    compare("values", values, json.loads((CHART / "values.schema.json").read_text()))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rules.yml", "rules.yml"),
        ("alerts.yml", "alerts.yml"),
        ("dashboard.json", "grafana/dashboard.json"),
    ],
)
def test_the_chart_holds_the_files_of_docs(name: str, source: str) -> None:
    assert (CHART / "files" / name).read_text() == (MONITORING / source).read_text()


def test_all_versions_are_the_packages() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_the_units_times_derive_from_the_grace_period() -> None:
    seconds = load(DEPLOY / "dedup.toml").grace_seconds
    unit = (DEPLOY / "dedup.service").read_text()
    assert f"TimeoutStopSec={seconds + 5:g}\n" in unit
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    grace = int(services["dedup"]["environment"]["DEDUP_GRACE_SECONDS"])
    assert services["dedup"]["stop_grace_period"] == f"{grace + 5}s"


def test_the_compose_files_prometheus_and_grafana_are_those_of_docs() -> None:
    configs = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["configs"]
    source = "grafana/provisioning/datasources/dedup.yml"
    for name, shipped, local, there in (
        ("prometheus", "prometheus.yml", "127.0.0.1:8000", "dedup:8000"),
        ("datasource", source, "127.0.0.1:9090", "prometheus:9090"),
    ):
        text = (MONITORING / shipped).read_text()
        assert local in text
        assert yaml.safe_load(configs[name]["content"]) == yaml.safe_load(
            text.replace(local, there)
        )


def test_the_service_file_has_each_key_once() -> None:
    """`systemd-analyze verify` passes over a key that overrides another."""
    lines = (DEPLOY / "dedup.service").read_text().splitlines()
    keys = [line.partition("=")[0] for line in lines if re.match(r"\w+=", line)]
    assert {key for key in keys if keys.count(key) > 1} == {"ExecReload", "SystemCallFilter"}
