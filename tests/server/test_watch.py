"""`dedup watch`: its figures, and the command against servers that respond and that do not."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest

from dedup_server.telemetry import Telemetry
from dedup_server.watch import Scrape, Window, base_url, cells, table
from tests.demo_server import clean_environment, free_port
from tests.server.mock_upstream import proxy, upstream

WATCH = [sys.executable, "-m", "dedup", "watch"]
HOSTILE = "\x1b[2J\u202eevil\n"


def watch(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [*WATCH, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=clean_environment(),
    )
    return done.returncode, done.stdout, done.stderr


def telemetry() -> Telemetry:
    counted = Telemetry(["qwen", "llama"])
    counted.count("requests", 10, "qwen", "chat", "ok")
    counted.count("requests", 2, "qwen", "completions", "cut")
    counted.count("loops", 1, "qwen", "content", "exact", "cut")
    counted.observe("repetition_ratio", 0.2, "qwen", "content")
    counted.count("output_chars", 900, "qwen", "content")
    counted.count("removed_chars", 100, "qwen", "content")
    counted.add("streams_in_progress", 3, "qwen")
    return counted


def scrape(counted: Telemetry, at: float) -> Scrape:
    return Scrape.of(counted.exposition().decode(), at)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000/v1", "http://localhost:8000"),
        ("http://h/metrics/", "http://h"),
        ("https://h/llm/v1/", "https://h/llm"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_urls(given: str, url: str) -> None:
    assert base_url(given) == url


@pytest.mark.parametrize(
    "given",
    ["", "ftp://h", "http://", "h:99999", "h:0", "a b", "http://u:p@h", "h/?q", "[::1", "h\x1b[2J"],
)
def test_an_invalid_url_is_named(given: str) -> None:
    with pytest.raises(ValueError, match=r"URL|belong"):
        base_url(given)


def test_the_first_scrape_covers_the_time_since_the_start() -> None:
    now = scrape(telemetry(), 100)
    assert now.started_at is not None
    now = replace(now, at=now.started_at + 20)
    shown = cells("qwen", now, None)
    assert now.models == ["qwen"]
    assert (shown["requests/s"], shown["loops/min"], shown["streams"]) == ("0.6", "cut 3.0", "3")
    assert (shown["repetition"], shown["removed"], shown["upstream"]) == ("0.200", "10.0%", "-")


def test_a_server_that_does_not_tell_its_start_has_totals_and_no_rates() -> None:
    text = telemetry().exposition().decode()
    old = "\n".join(line for line in text.splitlines() if "start_time" not in line) + "\n"
    shown = cells("qwen", Scrape.of(old, 100), None)
    assert (shown["requests/s"], shown["loops/min"], shown["removed"]) == ("-", "-", "10.0%")


def test_the_next_scrape_has_rates() -> None:
    counted = telemetry()
    before = scrape(counted, 100)
    counted.count("requests", 5, "qwen", "chat", "ok")
    counted.count("loops", 2, "qwen", "content", "exact", "healed")
    counted.count("loops", 1, "qwen", "reasoning", "near", "cut")
    counted.observe("repetition_ratio", 0.6, "qwen", "content")
    counted.observe("repetition_ratio", 0.8, "qwen", "reasoning")
    counted.set("upstream_up", 1, "a:8000")
    counted.set("upstream_up", 0, "b:8000")
    shown = cells("qwen", scrape(counted, 110), before)
    assert shown["requests/s"] == "0.5"
    assert shown["loops/min"] == "cut 6.0, healed 12.0"
    assert (shown["repetition"], shown["removed"], shown["upstream"]) == ("0.700", "-", "1/2 up")


def test_agents_in_loops_are_counted_apart() -> None:
    counted = telemetry()
    counted.count("agent_loops", 4, "qwen", "exact", "measured")
    before = scrape(counted, 100)
    assert cells("qwen", before, None)["loops/min"] == "-"
    assert cells("qwen", scrape(counted, 110), before)["loops/min"] == "0"
    counted.count("loops", 1, "qwen", "content", "exact", "cut")
    counted.count("agent_loops", 2, "qwen", "exact", "measured")
    counted.count("agent_loops", 1, "qwen", "failure", "nudged")
    counted.count("agent_loops", 5, "llama", "exact", "stopped")
    now = scrape(counted, 110)
    assert cells("qwen", now, before)["loops/min"] == "cut 6.0, agents 18.0"
    assert cells("llama", now, before)["loops/min"] == "agents 30.0"


def test_a_restart_resets_counters() -> None:
    before, counted = scrape(telemetry(), 100), Telemetry(["qwen"])
    counted.count("requests", 4, "qwen", "chat", "ok")
    assert Window("qwen", scrape(counted, 102), before).rate("dedup_requests_total") == 2


def test_quantiles_are_those_of_prometheus() -> None:
    counted = Telemetry(["qwen"])
    for _ in range(100):
        counted.observe("overhead_seconds", 0.0004, "qwen")
    window = Window("qwen", scrape(counted, 1), None)
    assert window.quantile("dedup_overhead_seconds", 0.5) == pytest.approx(0.000375)
    for _ in range(100):
        counted.observe("overhead_seconds", 9, "qwen")
    assert cells("qwen", scrape(counted, 1), None)["overhead p99"] == "> 5 s"
    assert window.quantile("dedup_hold_seconds", 0.5) is None


def test_names_are_printable_and_columns_aligned() -> None:
    counted = Telemetry([HOSTILE, "通义千问"])
    for name in (HOSTILE, "通义千问"):
        counted.add("streams_in_progress", 1, name)
    now = scrape(counted, 1)
    heading, evil, chinese = table([cells(model, now, None) for model in now.models])
    assert "\\x1b[2J\\u202eevil" in evil
    assert heading.index("requests/s") + len("requests/s") == evil.index("-") + 1
    assert len(heading.split("streams")[0]) == len(chinese.split("      1 ")[0]) + len(
        "通义千问"
    )  # two columns each


def test_another_exposition_is_an_error() -> None:
    for text in ("", "<html>", "other_metric 1\n", "dedup_x{a= 1\n"):
        with pytest.raises((ValueError, KeyError, IndexError)):
            Scrape.of(text, 0)


def test_against_a_proxy() -> None:
    with upstream() as mock, proxy(mock.url) as url:
        body = {"model": "loop", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        asked = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
        urllib.request.urlopen(asked, timeout=30).close()
        code, out, _ = watch(f"{url}/v1", "--count", "2", "--interval", "0.1")
    first, second = out.splitlines()
    assert code == 0
    assert re.search(r"loop  requests/s \d+\.\d  .*loops/min \w+", first)
    assert "upstream up" in first
    assert "requests/s 0.0" in second
    assert "\x1b" not in out


def test_an_unreachable_server_is_retried() -> None:
    code, out, _ = watch(f"127.0.0.1:{free_port()}", "--count", "2", "--interval", "0.1")
    assert code == 1
    assert [line.count("cannot be reached") for line in out.splitlines()] == [1, 1]


def test_another_server_is_an_error() -> None:
    with upstream() as mock:
        code, out, _ = watch(mock.url, "--count", "1")
    assert code == 1
    assert "answered 404 to /metrics" in out


def test_a_bad_url_is_a_usage_error() -> None:
    code, out, errors = watch("ftp://x")
    assert (code, out) == (2, "")
    assert "'ftp://x' is not the URL" in errors


def test_a_terminal_is_redrawn_and_ctrl_c_exits() -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*WATCH, f"127.0.0.1:{free_port()}", "--interval", "0.1"],
        stdout=slave,
        stderr=slave,
        env=clean_environment(),
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # a shell ignores it in the background
    )
    try:
        os.close(slave)
        shown = b""
        deadline = time.monotonic() + 30
        while b"\x1b[1A" not in shown and time.monotonic() < deadline:
            shown += os.read(master, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert b"cannot be reached" in shown
    assert b"Traceback" not in shown
