"""Prometheus scrapes a server: promtool finds no fault, all rules evaluate, and every query of the
dashboard returns values.
"""

import json
import math
import os
import re
import shutil
import statistics
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from tests.demo_server import free_port, serving
from tests.faults.proxy import proxy
from tests.server.mock_upstream import upstream
from tests.server.traffic import (
    ALL_KINDS,
    Ask,
    ScriptedUpstream,
    every_outcome,
    scrape,
    send,
    settled,
)

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboard.json").read_text())
RULES = re.findall(r"- record: (\S+)", (MONITORING / "rules.yml").read_text())
ALERTS = re.findall(r"- alert: (\S+)", (MONITORING / "alerts.yml").read_text())
NUM_MODELS = 50
SCRAPE_SECONDS = 1
STEP_SECONDS = 1
# Enough for shares to be meaningful: with fewer, no alert fires.
ASKS = [
    *ALL_KINDS,
    *[Ask("loops", stream=False)] * 60,
    *[Ask("loops-zh", policy="watch")] * 60,  # a loop that is cut is short
    *[Ask("breaks")] * 8,
    *[Ask("calls-for-ever", usage=True, rungs=())] * 60,
]

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs Prometheus: apt-get install prometheus"
)


def promtool(
    *arguments: str | Path, text: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], input=text, capture_output=True, check=False
    )


def test_promtool_accepts_the_metrics_and_the_counters_are_right() -> None:
    with serving() as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        asked = answered_chars = cut = 0
        for prompt in (
            "She had not slept since the night when her brother disappeared.",
            "夜深了，屋里只点着一盏灯。",
        ):
            for policy in ("off", "balanced"):
                done = client.chat.completions.create(
                    model="demo",
                    messages=[{"role": "user", "content": prompt}],
                    temperature=0,
                    max_tokens=200,
                    extra_body={"repetition": {"policy": policy, "heal": False}},
                )
                asked += 1
                answered_chars += len(done.choices[0].message.content or "")
                cut += (done.choices[0].model_extra or {}).get(
                    "stop_reason"
                ) == "repetition_detected"
        with pytest.raises(NotFoundError):
            client.chat.completions.create(
                model="no-such-model", messages=[{"role": "user", "content": "Hello"}]
            )
        scraped = scrape(url)
    check = promtool("check", "metrics", text=scraped.encode())
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")

    def total(name: str, label: str = "") -> float:
        lines = re.findall(rf"^{name}{{(.*)}} (\S+)$", scraped, re.MULTILINE)
        return sum(float(value) for labels, value in lines if label in labels)

    assert (
        total("dedup_requests_total", 'outcome="ok"')
        + total("dedup_requests_total", 'outcome="cut"')
        == asked
    )
    assert total("dedup_requests_total", 'outcome="cut"') == cut > 0
    assert total("dedup_loops_total", 'action="cut"') == cut
    assert total("dedup_requests_total", 'outcome="rejected"') == 1
    assert total("dedup_output_chars_total") == answered_chars
    assert total("dedup_streams_in_progress") == 0


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    for check in (
        promtool("check", "config", MONITORING / "prometheus.yml"),
        promtool(
            "check", "rules", "--lint-fatal", MONITORING / "rules.yml", MONITORING / "alerts.yml"
        ),
        promtool("test", "rules", MONITORING / "alerts_test.yml"),
    ):
        assert check.returncode == 0, (check.stdout + check.stderr).decode()


@dataclass
class Prometheus:
    url: str
    began: float = 0.0
    ended: float = 0.0

    def get(self, path: str, **parameters: object) -> Any:
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=20
        ) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return list(self.get("query", query=expression)["result"])

    def values(self, expression: str) -> list[float]:
        """Return the values of all series during the traffic, as a panel queries them."""
        data = self.get(
            "query_range", query=expression, start=self.began, end=self.ended, step=STEP_SECONDS
        )
        return [float(value) for series in data["result"] for _, value in series["values"]]

    def wait_for_scrapes(self, number: int) -> None:
        """Wait for more scrapes and an evaluation of the rules."""
        before = self._num_scrapes()
        for _ in range(600):
            if self._num_scrapes() >= before + number:
                return
            time.sleep(0.1)
        raise AssertionError("Prometheus does not scrape")

    def _num_scrapes(self) -> int:
        result = self.query('count_over_time(up{job="dedup"}[1h])')
        return int(result[0]["value"][1]) if result else 0


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration, but the target, the intervals and a quieter
    day before.
    """
    text = (MONITORING / "prometheus.yml").read_text()
    for shipped, here in (
        ("127.0.0.1:8000", target),
        ("_interval: 15s", f"_interval: {SCRAPE_SECONDS}s"),
    ):
        assert shipped in text
        text = text.replace(shipped, here)
    (folder / "prometheus.yml").write_text(text)
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, folder)
    (folder / "yesterday").write_text(_yesterday())
    data = folder / "data"
    made = promtool("tsdb", "create-blocks-from", "openmetrics", folder / "yesterday", data)
    assert made.returncode == 0, made.stderr.decode()
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
    ]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--enable-feature=extra-scrape-metrics"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        prometheus = Prometheus(f"http://127.0.0.1:{port}")
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)


def _yesterday() -> str:
    """Return a day with a loop in 1% of the completions, and 1% of the characters removed."""
    lines = []
    now = int(time.time())
    for name in ("model:dedup_loops_per_answer:ratio1h", "model:dedup_removed_chars:share30m"):
        lines.append(f"# TYPE {name} gauge")
        for model in ("loops", "heals", "plain"):
            lines += [
                f'{name}{{model="{model}"}} 0.01 {at}'
                for at in range(now - 26 * 3600, now - 3600, 60)
            ]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedUpstream]:
    engine = ScriptedUpstream(NUM_MODELS)
    with upstream(engine):
        yield engine


@pytest.fixture(scope="module")
def prometheus(
    engine: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Run Prometheus during traffic of all kinds, sent twice: an increase needs two scrapes."""
    with (
        proxy(engine.url) as server,
        running_prometheus(
            tmp_path_factory.mktemp("prometheus"), f"127.0.0.1:{server.port}"
        ) as prometheus,
    ):
        url = f"http://127.0.0.1:{server.port}"
        prometheus.began = time.time()
        for turn in range(2):
            prometheus.wait_for_scrapes(2)
            for number, ask in enumerate(ASKS):
                send(url, ask, engine, 1000 * turn + number)
            settled(url, len(ASKS) * (turn + 1))
        prometheus.wait_for_scrapes(3)
        prometheus.ended = time.time()
        yield prometheus


def test_the_server_is_scraped(prometheus: Prometheus) -> None:
    assert prometheus.query('up{job="dedup"}')[0]["value"][1] == "1"
    assert prometheus.query("sum(dedup_requests_total)")[0]["value"][1] == str(2 * len(ASKS))


def test_every_rule_is_healthy_and_every_recording_rule_has_values(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {*RULES, *ALERTS}
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
    for name in RULES:
        values = [float(one["value"][1]) for one in prometheus.query(name)]
        assert values, name
        assert all(map(math.isfinite, values)), name


def test_exactly_the_expected_alert_is_pending(prometheus: Prometheus) -> None:
    """Alerts fire after minutes; their conditions hold at once."""
    alerts = [
        (alert["labels"]["alertname"], alert["labels"].get("model"))
        for alert in prometheus.get("alerts")["alerts"]
    ]
    assert ("DedupLoopsAboveUsual", "loops") in alerts
    assert ("DedupRemovedTextRises", "loops") in alerts
    assert ("DedupRepetitionHigh", "loops-zh") in alerts
    assert ("DedupErrorsHigh", "breaks") in alerts
    assert ("DedupAgentsLoop", "calls-for-ever") in alerts
    assert not any(model in ("plain", "plain-zh") for _, model in alerts)
    assert {name for name, _ in alerts}.isdisjoint(
        {"DedupUpstreamDown", "DedupNotScraped", "DedupFilterFails", "DedupOverheadHigh"}
    )


@pytest.mark.parametrize(
    "model", [".*", "(plain|repeats-zh|loops|heals|calls-again)"], ids=["all models", "some models"]
)
@pytest.mark.parametrize(
    ("title", "expression"),
    [
        (panel["title"], target["expr"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    ],
)
def test_every_query_of_the_dashboard_returns_values(
    prometheus: Prometheus, title: str, expression: str, model: str
) -> None:
    """Variables are replaced as Grafana does."""
    rate_interval = max(STEP_SECONDS + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)
    expression = expression.replace("$__rate_interval", f"{rate_interval}s")
    expression = expression.replace("$model", model).replace("$instance", "127.0.0.1:.+")
    assert "$" not in expression, title
    assert any(map(math.isfinite, prometheus.values(expression))), (title, expression)


def test_the_models_of_the_dashboard_are_those_requested(prometheus: Prometheus) -> None:
    (variable,) = [one for one in DASHBOARD["templating"]["list"] if one["name"] == "model"]
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
    assert found
    series = prometheus.get("series", **{"match[]": found[1]})
    assert {one[found[2]] for one in series} >= {"plain", "loops", "heals", "other"}


def test_the_replicas_of_the_dashboard_are_those_scraped(prometheus: Prometheus) -> None:
    series = prometheus.get("series", **{"match[]": "dedup_build_info"})
    assert [one["instance"].partition(":")[0] for one in series] == ["127.0.0.1"]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = [
        Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:13]
        for one in (pid, *children)
    ]
    return sum(int(tick) for pair in ticks for tick in pair) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_scrape_costs(engine: ScriptedUpstream, tmp_path: Path, workers: int) -> None:
    """Measure scrapes of many models with all outcomes and channels. Print the figures of
    docs/guides/monitoring.md.
    """
    with proxy(engine.url, workers=workers) as server:
        url = f"http://127.0.0.1:{server.port}"
        asks = [ask for model in engine.more_models for ask in every_outcome(model)]
        engine.sent.clear()
        for number, ask in enumerate(asks):
            send(url, ask, engine, number)
        settled(url, len(asks))
        seconds = []
        used = cpu_seconds(server.process.pid)
        for _ in range(20):
            began = time.perf_counter()
            text = scrape(url)
            seconds.append(time.perf_counter() - began)
        used = (cpu_seconds(server.process.pid) - used) / 20
        with running_prometheus(tmp_path, f"127.0.0.1:{server.port}") as prometheus:
            prometheus.wait_for_scrapes(5)
            told = {
                name: float(prometheus.query(f'{name}{{job="dedup"}}')[0]["value"][1])
                for name in (
                    "scrape_samples_scraped",
                    "scrape_body_size_bytes",
                    "scrape_duration_seconds",
                )
            }
    num_samples = sum(not line.startswith("#") for line in text.splitlines())
    print(
        f"\n{NUM_MODELS} models, {workers} worker(s): {num_samples} samples,"
        f" {len(text.encode()) / 1024:.0f} KiB, "
        f"{1000 * statistics.median(seconds):.0f} ms per scrape (median of 20),"
        f" {1000 * used:.0f} ms of CPU time; "
        f"Prometheus says: {told}"
    )
    assert told["scrape_samples_scraped"] == num_samples
    assert (
        len(
            {line.partition('model="')[2].partition('"')[0] for line in text.splitlines()}
            & set(engine.more_models)
        )
        == NUM_MODELS
    )
