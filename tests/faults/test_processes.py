"""Several processes on one port, one that dies, and a reload while streams are in progress."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.demo_server import clean_environment
from tests.faults.proxy import Proxy, chat_request, proxy, read_reply
from tests.faults.raw_upstream import RawUpstream


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def counted(front: Proxy, start: str) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in front.metrics().splitlines()
        if line.startswith(start)
    )


def wait_for_log(front: Proxy, words: str) -> None:
    for _ in range(500):
        if words in front.log:
            return
        time.sleep(0.02)
    raise AssertionError(f"{words!r} is not in the log: {front.log}")


def test_workers_share_a_port_and_each_reports_the_metrics_of_all(upstream: RawUpstream) -> None:
    with proxy(upstream.url, workers=2) as front:
        assert len(children(front.process.pid)) == 2
        for _ in range(40):
            assert front.post("ok").status == 200
        numbers = {counted(front, "dedup_requests_total") for _ in range(20)}
        assert numbers == {40.0}  # whichever worker is asked
        assert counted(front, "dedup_streams_in_progress") == 0
        assert counted(front, "dedup_upstream_up") == 1
        assert counted(front, "dedup_build_info") == 1


def test_a_worker_that_dies_is_restarted_and_its_counts_stay(
    upstream: RawUpstream,
) -> None:
    with proxy(upstream.url, workers=2) as front:
        for _ in range(10):
            assert front.post("ok").status == 200
        victim = children(front.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for_log(front, "it is restarted")
        for _ in range(200):
            if len(children(front.process.pid)) == 2:
                break
            time.sleep(0.05)
        for _ in range(20):
            assert front.post("ok").status == 200
        assert counted(front, "dedup_requests_total") == 30


def test_workers_do_not_outlive_their_supervisor(upstream: RawUpstream) -> None:
    with proxy(upstream.url, workers=2) as front:
        workers = children(front.process.pid)
        front.process.kill()
        for _ in range(200):
            if not any(Path(f"/proc/{worker}").exists() for worker in workers):
                break
            time.sleep(0.05)
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def start_configured(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dedup.toml"
    path.write_text(text)
    return path


def test_a_reload_changes_later_requests_and_drops_no_stream(
    upstream: RawUpstream, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first-key\n")
    with proxy(upstream.url, api_keys_file=keys) as front:
        with front.connected() as connection:
            connection.sendall(chat_request("timed", True, "Authorization: Bearer first-key"))
            assert upstream.seen["timed"].asked.wait(5)
            keys.write_text("# changed\nsecond-key\n")
            front.process.send_signal(signal.SIGHUP)
            wait_for_log(front, "reloaded")
            assert front.post("ok", False, "Authorization: Bearer first-key").status == 401
            assert front.post("ok", False, "Authorization: Bearer second-key").status == 200
            assert read_reply(connection).events[-1] == "[DONE]"
        keys.write_text("")
        front.process.send_signal(signal.SIGHUP)
        wait_for_log(front, "not reloaded: ")
        assert front.post("ok", False, "Authorization: Bearer second-key").status == 200


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ('upstream = "http://127.0.0.1:1/v1"\npolicy = "strict"', 0, ["policy = strict"]),
        ('upstream = "ftp://x"', 1, ["upstream", "http://"]),
        (
            '[[upstreams]]\nurl = "http://x"\nmodel = "y"',
            1,
            ["upstreams.0.model", "unknown setting", "models"],
        ),
        ('[[upstreams]]\nurl = "http://x"\napi_key_env = "NOT_THERE"', 1, ["NOT_THERE", "not set"]),
        ("workers = 2", 1, ["workers", "upstream"]),
        ('upstream = "http://user:hidden@x/v1"', 1, ["password"]),
    ],
)
def test_check_config_names_errors(tmp_path: Path, text: str, code: int, words: list[str]) -> None:
    path = start_configured(tmp_path, text)
    command = [sys.executable, "-m", "dedup", "serve", "--config", str(path), "--check-config"]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=clean_environment()
    )
    assert ran.returncode == code
    output = ran.stdout if code == 0 else ran.stderr
    assert all(word in output for word in words), output
    assert "hidden" not in output
    assert code == 0 or output.count("\n") == 1


def test_the_request_to_try_names_a_model(upstream: RawUpstream) -> None:
    with proxy(upstream.url) as front:
        wait_for_log(front, "try: curl")
        listed = front.get("/v1/models").json["data"]
        assert f'"model": "{listed[0]["id"]}"' in front.log


def test_json_logs_are_json_without_prompts(upstream: RawUpstream) -> None:
    with proxy(upstream.url, log_format="json") as front:
        assert front.post("ok", content="a-word-of-the-prompt").status == 200
        wait_for_log(front, '"path":"/v1/chat/completions"')
        lines = [json.loads(line) for line in front.log.splitlines() if line.startswith("{")]
    line = next(line for line in lines if line.get("path") == "/v1/chat/completions")
    assert (line["status"], line["outcome"], line["model"], line["level"]) == (
        200,
        "ok",
        "ok",
        "info",
    )
    assert not any("a-word-of-the-prompt" in str(line) for line in lines)
