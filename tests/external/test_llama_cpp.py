"""DRY against llama.cpp's own sampler and server: `make test-llama-cpp`.

With the Python of an environment that has xllamacpp 0.2.0, as LLAMA_PYTHON, it tests an earlier release.
"""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dedup.config import DecodingConfig
from dedup.logits.dry import dry
from dedup.logits.history import TokenHistory
from tests.demo_server import free_port

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from dry_llama_cpp import CONTEXT_IS_ALL, LlamaDry, parity

PROMPT = "She had not slept since the night when her brother disappeared."
LOOP = [1, 2, 3, 4] * 30  # the repeat before its end is 116 tokens long


@pytest.mark.parametrize("with_breakers", [False, True], ids=["without breakers", "with breakers"])
def test_dry_is_llama_cpps_own(with_breakers: bool) -> None:
    worst, penalised = parity(3000, with_breakers, seed=1)
    assert worst <= 1e-6
    assert penalised > 1000


def _penalties(last_n: int, theirs_last_n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return our penalties and llama.cpp's of the tokens after LOOP."""
    config = DecodingConfig(dry_multiplier=1.0, dry_base=1.1, dry_penalty_last_n=last_n)
    ours = np.zeros(8, np.float32)
    dry(TokenHistory(LOOP), ours, config)
    with LlamaDry(config, theirs_last_n, (), np.zeros(8, np.float32)) as theirs:
        for token in LOOP:
            theirs.accept(token)
        theirs.apply()
        return ours, theirs.logits.copy()


@pytest.mark.parametrize("last_n", [0, 1, 5, 6, 64, 100, 1000])
def test_last_n_from_0_on_is_llama_cpps_own(last_n: int) -> None:
    ours, theirs = _penalties(last_n, last_n)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert ours.any() == (last_n >= 6)  # four tokens, and two of them again


def test_minus_1_is_everything_here_and_in_earlier_releases() -> None:
    """Later, the library takes it for 0, which is off."""
    ours, everything = _penalties(-1, len(LOOP))
    np.testing.assert_allclose(ours, everything, rtol=1e-6)
    assert ours.any()
    _, theirs = _penalties(-1, -1)
    np.testing.assert_allclose(theirs, everything if CONTEXT_IS_ALL else np.zeros(8), rtol=1e-6)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("xllamacpp", reason="needs the server in xllamacpp")
    if CONTEXT_IS_ALL:
        pytest.skip("the server of an earlier release")
    from tests.external.llama_server import serving

    with serving(free_port()) as address:
        yield address


def _ask(server: str, **body: Any) -> tuple[int, Any]:
    asked = {"prompt": PROMPT, "temperature": 0, "max_tokens": 160, "dry_multiplier": 0.8, **body}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{server}/v1/completions", json.dumps(asked).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.load(response)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]


@pytest.mark.parametrize("last_n", [-1, -2, 1 << 31])
def test_its_server_refuses_a_last_n_below_0(server: str, last_n: int) -> None:
    status, message = _ask(server, dry_penalty_last_n=last_n)
    assert status == 400
    assert message.startswith(
        "Field 'dry_penalty_last_n': Value must be between 0 <= value <= 2147483647, but got -"
    )


def test_its_servers_default_is_64(server: str) -> None:
    """And 0 switches DRY off: the answer loops."""
    answers = {
        last_n: _ask(server, **({} if last_n is None else {"dry_penalty_last_n": last_n}))
        for last_n in (None, 0, 8, 64, 1024, (1 << 31) - 1)
    }
    assert {status for status, _ in answers.values()} == {200}
    assert answers[None] == answers[64]
    assert answers[1024] == answers[(1 << 31) - 1]
    assert answers[0] == _ask(server, dry_multiplier=0)
    assert answers[0] not in (answers[64], answers[1024])
