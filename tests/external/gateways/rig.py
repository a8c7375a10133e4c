"""The benchmarks' load rig: an upstream and a client that cost little, and Envoy."""

import sys
from pathlib import Path

RIG = Path(__file__).parents[3] / "benchmarks" / "_proxy_rig.py"
sys.path.insert(0, str(RIG.parent))

from _envoy import envoy_command  # noqa: E402
from _proxy_rig import PROSE, Client, request_bytes  # noqa: E402

__all__ = ["PROSE", "RIG", "Client", "envoy_command", "request_bytes"]
