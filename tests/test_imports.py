"""What importing costs, and what the library's face is."""

import subprocess
import sys

import pytest

import dedup


def test_public_names() -> None:
    assert dedup.__all__ == [
        "DecodingConfig",
        "FilterConfig",
        "LoopConfig",
        "LoopDetector",
        "LoopEvent",
        "Removal",
        "RepetitionFilter",
        "filter_stream",
        "filter_stream_async",
        "repetition_metrics",
    ]


@pytest.mark.parametrize("module", ["dedup", "dedup.cli", "dedup_server.app"])
def test_importing_loads_neither_torch_nor_transformers(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
