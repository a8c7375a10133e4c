"""The upstream that the fault tests use."""

from collections.abc import Iterator

import pytest

from tests.faults.raw_upstream import RawUpstream, Trap, raw_upstream, trap


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with raw_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def evil() -> Iterator[Trap]:
    with trap() as evil:
        yield evil
