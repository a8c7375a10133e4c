"""DRY against llama.cpp's own sampler: `make test-llama-cpp`."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from dry_llama_cpp import parity


@pytest.mark.parametrize("with_breakers", [False, True], ids=["without breakers", "with breakers"])
def test_dry_is_llama_cpps_own(with_breakers: bool) -> None:
    worst, penalised = parity(3000, with_breakers, seed=1)
    assert worst <= 1e-6
    assert penalised > 1000
