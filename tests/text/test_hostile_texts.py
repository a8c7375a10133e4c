"""Texts that aim at a rule's cost: all of each is read, as an answer, as a prompt and as a measure.

Time is not asserted. A pattern that backtracks without bound would not end; `python
benchmarks/hostile_texts.py` measures.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from hostile_texts import KINDS, ROLES


@pytest.mark.parametrize("role", ROLES)
def test_hostile_texts_are_read_to_their_end(role: str) -> None:
    for kind, make in KINDS.items():
        text = make(4_000)
        assert len(text) == 4_000, kind
        ROLES[role](text)
