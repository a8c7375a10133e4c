"""The scripted models, and the proxy in front of them under each setting of its rungs."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.agents.upstream import AgentUpstream, agent_upstream
from tests.demo_server import serving

RUNGS = ("", "nudge", "answer", "stop", "nudge,answer", "nudge,answer,stop")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "default")  # the agents' own deprecations


class Proxies:
    """A proxy for each setting, started when it is first needed."""

    def __init__(self, upstream_url: str, stack: ExitStack) -> None:
        self._upstream_url = upstream_url
        self._stack = stack
        self._urls: dict[str, str] = {}

    def url(self, rungs: str) -> str:
        """Return the base URL of a proxy that may climb these rungs, `/v1` included."""
        if rungs not in self._urls:
            started = serving("--upstream", self._upstream_url, agent_loops=rungs)
            self._urls[rungs] = self._stack.enter_context(started) + "/v1"
        return self._urls[rungs]


@pytest.fixture(scope="session")
def served() -> Iterator[AgentUpstream]:
    with agent_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(served: AgentUpstream) -> AgentUpstream:
    served.clear()
    return served


@pytest.fixture(scope="session")
def proxies(served: AgentUpstream) -> Iterator[Proxies]:
    with ExitStack() as stack:
        yield Proxies(served.url, stack)
