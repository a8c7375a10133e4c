"""Agents of several libraries with a model that makes the same tool call again and again.

    make test-agents   # once: builds .venv-agents
    .venv-agents/bin/python -m benchmarks.agent_clients         # the three models that heed less and less
    .venv-agents/bin/python -m benchmarks.agent_clients --all   # and the other scripted models

Prints a Markdown table: agents of several libraries, unmodified, without the proxy and through it on more and more
of its rungs. The models are scripted (`tests/agents/models.py`), the sockets are real. A cell tells how many calls the
agent made, how many requests the upstream had, and how the run ended. Streamed and whole runs are both made; where they
differ, both are told.
"""

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from tests.agents.models import FINAL, HEALTHY, LOOPING
from tests.agents.upstream import AgentUpstream, agent_upstream
from tests.external.agents.agents import AGENTS, Agent, Seen, play
from tests.external.agents.conftest import Proxies

COLUMNS: Final = {
    "Without the proxy": None,
    "`nudge`": "nudge",
    "`nudge,answer`": "nudge,answer",
    "`nudge,answer,stop`": "nudge,answer,stop",
}
HEEDING: Final = {
    "heeds-notice": "a notice",
    "heeds-choice": "`tool_choice` none",
    "heeds-nothing": "nothing",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="all scripted models")
    names = {name: name for name in (*LOOPING, *HEALTHY)} if parser.parse_args().all else HEEDING
    print("| Agent | Model heeds |", " | ".join(COLUMNS), "|")
    print("| --- " * (2 + len(COLUMNS)) + "|")
    with agent_upstream() as upstream, ExitStack() as stack:
        proxies = Proxies(upstream.url, stack)
        for agent in AGENTS:
            for name, told in names.items():
                cells = " | ".join(_cells(upstream, proxies, agent, name))
                print(f"| {agent.name} | {told} | {cells} |", flush=True)


def _cells(upstream: AgentUpstream, proxies: Proxies, agent: Agent, name: str) -> Iterator[str]:
    for rungs in COLUMNS.values():
        url = upstream.url if rungs is None else proxies.url(rungs)
        ends = [_ending(upstream, agent, url, name, stream) for stream in (True, False)]
        yield " / ".join(dict.fromkeys(ends))


def _ending(upstream: AgentUpstream, agent: Agent, url: str, name: str, stream: bool) -> str:
    """Play an agent, and tell its run in a few words."""
    upstream.clear()
    seen = play(agent, url, name, stream)
    num_requests = len(upstream.received) - (seen.thanks is not None)
    refused = f", {len(upstream.refusals)} refused" if upstream.refusals else ""
    return f"{seen.num_calls} calls, {num_requests} requests{refused}: {_end_of(seen)}"


def _end_of(seen: Seen) -> str:
    if seen.error:
        return f"`{seen.error}`"
    if seen.stop == "tool_use":
        return "gives up without a word"
    return "answer" if seen.text.endswith(FINAL) else "told that it loops"


if __name__ == "__main__":
    main()
