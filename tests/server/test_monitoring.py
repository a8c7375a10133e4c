"""The monitoring guide, the reference of metrics, rules, alerts and dashboard agree with each other
and with the metrics.
"""

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from dedup_server.telemetry import Telemetry

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "guides" / "monitoring.md").read_text("utf-8")
REFERENCE = (DOCS / "reference" / "metrics.md").read_text("utf-8")
RULES, ALERTS, ALERTS_TEST = (
    (DOCS / "monitoring" / name).read_text("utf-8")
    for name in ("rules.yml", "alerts.yml", "alerts_test.yml")
)
DASHBOARD: dict[str, Any] = json.loads(
    (DOCS / "monitoring" / "grafana" / "dashboard.json").read_text("utf-8")
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = "\n".join(target["expr"] for panel in GRAPHS for target in panel["targets"])


def declared() -> dict[str, tuple[str, set[str]]]:
    """Return kind and labels of each metric, by its name in queries."""
    metrics: dict[str, MetricWrapperBase] = Telemetry()._metrics
    kinds = {metric: metric._type for metric in metrics.values()}
    return {
        f"dedup_{name}" + ("_total" if kinds[metric] == "counter" else ""): (
            kinds[metric],
            set(metric._labelnames),
        )
        for name, metric in metrics.items()
    }


def test_exactly_the_declared_metrics_are_documented() -> None:
    rows = re.findall(r"^\| `(dedup_\w+)` \| (\w+) \| (.+?) \| .+ \|$", REFERENCE, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    assert {
        name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows
    } == declared()


def test_queries_use_existing_metrics_only() -> None:
    suffixes = {"histogram": ("_bucket", "_count", "_sum")}
    names = {
        name + suffix
        for name, (kind, _) in declared().items()
        for suffix in suffixes.get(kind, ("",))
    }
    recorded = set(re.findall(r"- record: (\S+)", RULES))
    asked = re.findall(
        r"(?<![\w:#\"])(?:model:)?dedup_\w+(?::\w+)?", RULES + ALERTS + ALERTS_TEST + QUERIES
    )
    assert set(asked) <= names | recorded
    assert set(re.findall(r"dedup_\w+", PAGE + REFERENCE)) <= set(declared())


def test_every_recording_rule_is_used() -> None:
    for name in re.findall(r"- record: (\S+)", RULES):
        assert (RULES + ALERTS + QUERIES).count(name) > 1, name


def test_every_alert_is_documented_and_tested_both_ways() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    _, _, runbook = PAGE.partition("\n## Alerts\n")
    assert re.findall(r"^### (\w+)$", runbook, re.MULTILINE) == alerts
    links = re.findall(r"runbook_url: (\S+)", ALERTS)
    assert links == [f"docs/guides/monitoring.md#{alert.lower()}" for alert in alerts]
    tested = Counter(
        (name, bool(fires))
        for name, fires in re.findall(
            r"alertname: (\w+)\n +eval_time: \S+(\n +exp_alerts:)?", ALERTS_TEST
        )
    )
    assert set(tested) == {(alert, fires) for alert in alerts for fires in (True, False)}


def test_links_have_targets() -> None:
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (DOCS / "guides" / link).exists(), link
    titles = {panel["title"] for panel in PANELS}
    _, _, runbook = PAGE.partition("\n## Alerts\n")
    assert set(re.findall(r"\*([A-Z][^*\n]+)\*", runbook)) <= titles


def test_panels_are_distinct_and_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24, panel["title"]
    for one, other in combinations(PANELS, 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, (one["title"], other["title"])


def test_panels_have_descriptions_and_units() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "model", "instance"}
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["model"]["datasource"] == variables["instance"]["datasource"] == source
    for panel in GRAPHS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"] == source
            assert target["legendFormat"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {
                "model",
                "instance",
                "__rate_interval",
            }
            assert "$model" in target["expr"] or panel["title"] in (
                "Upstreams that answer",
                "Requests to upstreams by status",
                "Versions",
            )
