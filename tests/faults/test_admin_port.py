"""The admin port, and a server that is stopped behind a balancer."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import pytest

from dedup_server.settings import SettingsError, load
from tests.demo_server import clean_environment, free_port
from tests.faults.proxy import Proxy, Reply, chat_request, http_request, proxy, read_reply
from tests.faults.raw_upstream import RawUpstream


def get(port: int, path: str, method: str = "GET") -> Reply:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(http_request(method, path, b""))
        return read_reply(connection)


def requests_counted(port: int) -> float:
    lines = get(port, "/metrics").body.decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("dedup_requests_total{")
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_metrics_move_to_the_admin_port_and_health_is_at_both(
    upstream: RawUpstream, workers: int
) -> None:
    admin = free_port()
    with proxy(upstream.url, admin_port=admin, workers=workers) as front:
        assert f"metrics: http://127.0.0.1:{admin}/metrics" in front.log
        for _ in range(10):
            assert front.post("ok").status == 200
        assert {requests_counted(admin) for _ in range(10)} == {10.0}  # whichever worker is asked
        for port in (front.port, admin):
            for path in ("/health/live", "/health/ready"):
                assert get(port, path).json == {"status": "ok"}
        assert front.get("/metrics").check_refused(404)["message"] == "there is no /metrics"
        assert "/metrics" not in front.get("/").json["routes"]
        assert "/metrics" not in front.get("/openapi.json").json["paths"]
        for path in ("/", "/v1/models", "/v1/chat/completions"):
            get(admin, path).check_refused(404)
        get(admin, "/metrics", "POST").check_refused(405)


def test_the_port_opens_when_the_engine_is_ready() -> None:
    port, admin = free_port(), free_port()
    command = [sys.executable, "-m", "dedup", "serve", "--port", str(port)]
    command += ["--admin-port", str(admin), "--upstream"]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a probe of it takes 3 s
        upstream_port = silent.getsockname()[1]
        server = subprocess.Popen(
            [*command, f"http://127.0.0.1:{upstream_port}"], env=clean_environment()
        )
        try:
            seen: set[tuple[int, int]] = set()
            while (503, 200) not in seen:
                assert server.poll() is None
                with suppress(ConnectionError):  # refused, or reset as it opens
                    is_open = _is_open(port)
                    ready, live = (
                        get(admin, f"/health/{name}").status for name in ("ready", "live")
                    )
                    if not is_open:
                        seen.add((ready, live))
            while not _is_open(port):
                time.sleep(0.05)
        finally:
            server.terminate()
            assert server.wait(20) == 0


def _is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def wait_until_draining(front: Proxy) -> None:
    for _ in range(500):
        if front.get("/health/ready").status == 503:
            return
        time.sleep(0.01)
    raise AssertionError(front.log)


def test_requests_are_served_until_the_port_closes_and_metrics_to_the_end(
    upstream: RawUpstream,
) -> None:
    admin = free_port()
    with (
        proxy(upstream.url, admin_port=admin, shutdown_delay_seconds=0.8) as front,
        front.connected() as idle,
        front.connected() as kept,
    ):
        kept.sendall(chat_request("ok", False, "Connection: keep-alive"))
        assert "connection" not in read_reply(kept).headers
        front.process.send_signal(signal.SIGTERM)
        wait_until_draining(front)
        assert get(admin, "/health/ready").check_refused(503)["code"] == "shutting_down"
        assert get(admin, "/health/live").status == 200
        kept.sendall(chat_request("ok", True, "Connection: keep-alive"))
        reply = read_reply(kept)
        assert reply.events[-1] == "[DONE]"
        assert reply.headers["connection"] == "close"
        assert kept.recv(1) == b""
        idle.sendall(chat_request("timed", True))  # ends behind the port
        while True:
            try:
                front.connected().__enter__().close()
            except ConnectionRefusedError:
                break
            time.sleep(0.02)
        assert requests_counted(admin) >= 2
        assert read_reply(idle).events[-1] == "[DONE]"
        assert front.process.wait(20) == 0


def test_a_second_signal_ends_the_delay(upstream: RawUpstream) -> None:
    with proxy(upstream.url, shutdown_delay_seconds=600) as front:
        front.process.send_signal(signal.SIGTERM)
        wait_until_draining(front)
        front.process.send_signal(signal.SIGTERM)
        assert front.process.wait(20) == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": 8000, "admin_port": 8000}, "admin_port and port: must be two different ports"),
        ({"admin_host": "0.0.0.0"}, "admin_host requires an admin_port"),
        ({"admin_port": 70000}, "--admin-port: input should be less than or equal to 65535"),
        ({"shutdown_delay_seconds": -1}, "--shutdown-delay-seconds: input should be greater"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(upstream="http://127.0.0.1:1/v1", **settings)
    assert words in str(error.value)


def test_a_port_in_use_is_named(upstream: RawUpstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(
                RuntimeError, match=f"127.0.0.1:{port}: .*; choose another with --admin-port"
            ),
            proxy(upstream.url, admin_port=port),
        ):
            pass
