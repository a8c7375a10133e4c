"""The benchmarks' load rig: an upstream and a client that cost little."""

import sys
from pathlib import Path

RIG = Path(__file__).parents[3] / "benchmarks" / "_proxy_rig.py"
sys.path.insert(0, str(RIG.parent))

from _proxy_rig import PROSE, Client, request_bytes  # noqa: E402

__all__ = ["PROSE", "RIG", "Client", "request_bytes"]
