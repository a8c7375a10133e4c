"""Envoy and nginx with the files of server/deploy, in front of the ports given."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.demo_server import free_port
from tests.external.gateways.replicas import ROOT, process, wait_for
from tests.external.gateways.rig import envoy_command

DEPLOY = ROOT / "server" / "deploy"


@contextmanager
def envoy(ports: list[int], folder: Path) -> Iterator[tuple[int, int]]:
    """Run Envoy; give its port and its admin port."""
    public, admin = free_port(), free_port()
    command = envoy_command(folder, public, admin, ports)
    with process(command, folder / "envoy.log") as running:
        wait_for(admin, "/ready", running)
        wait_for(public, "/health/ready", running)
        yield public, admin


@contextmanager
def nginx(ports: list[int], folder: Path) -> Iterator[int]:
    """Run nginx; give its port."""
    public = free_port()
    text = (DEPLOY / "nginx.conf").read_text()
    servers = "".join(f"server 127.0.0.1:{port} max_fails=1 fail_timeout=2s;\n" for port in ports)
    text, found = re.subn(
        r"(    server 127\.0\.0\.1:\d+ max_fails=1 fail_timeout=2s;\n)+", servers, text
    )
    assert found == 1
    assert text.count("0.0.0.0:8080") == text.count("/run/nginx.pid") == 1
    text = text.replace("0.0.0.0:8080", f"127.0.0.1:{public}")
    text = text.replace("/run/nginx.pid", str(folder / "nginx.pid"))
    text = text.replace("worker_processes auto", "worker_processes 1")
    places = [f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi")]
    places += [f"{name}_temp_path {folder}/{name};" for name in ("uwsgi", "scgi")]
    text = text.replace("http {", "http {\n" + "\n".join(["access_log off;", *places]), 1)
    path = folder / "nginx.conf"
    path.write_text("daemon off;\n" + text)
    command = ["nginx", "-e", "stderr", "-c", str(path)]
    with process(command, folder / "nginx.log") as running:
        wait_for(public, "/health/ready", running)
        yield public
