"""What the server's tests have in common: an upstream with our server in front of it, and a model that decodes on one core."""

from collections.abc import Iterator

import pytest

from tests.server.mock_upstream import Upstream, proxy, upstream


@pytest.fixture(scope="module")
def mock() -> Iterator[Upstream]:
    with upstream() as mock:
        yield mock


@pytest.fixture(scope="module")
def url(mock: Upstream) -> Iterator[str]:
    """Of our server in front of `mock`."""
    with proxy(mock.url) as url:
        yield url


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch with a single thread: small models are faster so, and give the same numbers each time."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
