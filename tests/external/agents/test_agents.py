"""Agents and models that loop: without the proxy, and on each rung of its ladder."""

import json

import pytest

from tests.agents.models import FINAL, HEALTHY, LOOPING, MODELS, WELCOME, Call, Model
from tests.agents.upstream import AgentUpstream, Received, compact, prefix_up_to_last_result
from tests.agents.usage import INPUT_TOKENS, OUTPUT_TOKENS
from tests.external.agents.agents import AGENTS, Agent, Seen, play
from tests.external.agents.conftest import RUNGS, Proxies

ROUNDS, LAPS = 4, 3  # that the proxy lets pass, both
STOPS = {"chat": "stop", "responses": "completed", "messages": "end_turn"}
ALL_RUNGS = "nudge,answer,stop"

agents = pytest.mark.parametrize("agent", AGENTS, ids=[agent.name for agent in AGENTS])
streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def ends_with(model: Model, rungs: str) -> str:
    """Return the rung that ends a loop; empty if none does."""
    for rung in rungs.split(","):
        heeded = {"nudge": ("notice",), "answer": ("notice", "choice")}
        if rung == "stop" or model.heeds in heeded.get(rung, ()):
            return rung
    return ""


def calls_up_to_the_rungs(model: Model) -> list[Call]:
    """Return the calls that a model makes before anything is done about its loop."""
    num_rounds = max(ROUNDS, LAPS * len(model.rounds))
    rounds = [model.rounds[number % len(model.rounds)] for number in range(num_rounds)]
    return [call for calls in rounds for call in calls]


def assert_given_up(seen: Seen, agent: Agent, model: Model) -> None:
    """Require that the agent went to its limit, and to no answer."""
    assert seen.error == agent.gives_up
    assert seen.num_calls == agent.limit * len(model.rounds[0])
    assert FINAL not in seen.text
    assert seen.thanks is None


@agents
@streamed_or_not
@pytest.mark.parametrize("name", LOOPING)
def test_without_the_proxy_an_agent_loops_to_its_limit(
    upstream: AgentUpstream, agent: Agent, stream: bool, name: str
) -> None:
    seen = play(agent, upstream.url, name, stream)
    assert_given_up(seen, agent, MODELS[name])
    assert upstream.refusals == []


@agents
@streamed_or_not
@pytest.mark.parametrize("name", LOOPING)
@pytest.mark.parametrize("rungs", RUNGS)
def test_a_loop_ends_on_the_rung_that_its_model_heeds(
    upstream: AgentUpstream, proxies: Proxies, agent: Agent, stream: bool, name: str, rungs: str
) -> None:
    model = MODELS[name]
    seen = play(agent, proxies.url(rungs), name, stream)
    assert upstream.refusals == []
    rung = ends_with(model, rungs)
    if not rung:
        assert_given_up(seen, agent, model)
        return
    assert seen.error == ""
    instead = [model.instead] if model.instead and rung == "nudge" else []
    calls = [*calls_up_to_the_rungs(model), *instead]
    assert sorted(seen.tools.calls) == sorted(calls)  # parallel calls run in threads
    if rung == "stop":
        assert seen.text.strip()
        assert FINAL not in seen.text
    else:
        assert seen.text.endswith(FINAL)
    assert seen.thanks in (WELCOME, None)
    assert seen.stop in (STOPS[agent.api], "")
    num_requests = len(upstream.received) - (seen.thanks is not None)
    tokens = (seen.input_tokens, seen.output_tokens)
    assert tokens == (num_requests * INPUT_TOKENS, num_requests * OUTPUT_TOKENS)


@agents
@streamed_or_not
@pytest.mark.parametrize("name", [*HEALTHY, "heeds-notice", "reasons"])
def test_a_proxy_that_only_measures_changes_no_request(
    upstream: AgentUpstream, proxies: Proxies, agent: Agent, stream: bool, name: str
) -> None:
    assert_same_requests(upstream, agent, stream, name, proxies.url(""))


@agents
@streamed_or_not
@pytest.mark.parametrize("name", HEALTHY)
def test_an_agent_that_is_not_in_a_loop_is_left_alone(
    upstream: AgentUpstream, proxies: Proxies, agent: Agent, stream: bool, name: str
) -> None:
    assert_same_requests(upstream, agent, stream, name, proxies.url(ALL_RUNGS))


def assert_same_requests(
    upstream: AgentUpstream, agent: Agent, stream: bool, name: str, url: str
) -> None:
    """Require that the upstream gets what it gets without the proxy, and the client sees the same."""
    direct = play(agent, upstream.url, name, stream)
    wanted = [told(one) for one in upstream.received]
    upstream.clear()
    seen = play(agent, url, name, stream)
    assert [told(one) for one in upstream.received] == wanted
    assert (seen.text, seen.error, seen.stop) == (direct.text, direct.error, direct.stop)
    assert (seen.input_tokens, seen.output_tokens) == (direct.input_tokens, direct.output_tokens)
    assert seen.tools.calls == direct.tools.calls


def told(received: Received) -> bytes:
    """Return what a request tells the model. The proxy asks for whole answers as streams."""
    body = {name: received.body[name] for name in received.body if name != "stream"}
    body.pop("stream_options", None)
    return compact(body)


def attempts(upstream: AgentUpstream) -> list[list[Received]]:
    """Return the requests by the answers they were made for, in order."""
    groups: list[list[Received]] = []
    for received in upstream.received:
        seen = received.conversation
        assert seen is not None
        is_further = seen.has_notice or not seen.may_call
        if is_further:
            groups[-1].append(received)
        else:
            groups.append([received])
    return groups


@agents
@streamed_or_not
@pytest.mark.parametrize("name", LOOPING)
def test_a_further_attempt_differs_behind_the_last_result_alone(
    upstream: AgentUpstream, proxies: Proxies, agent: Agent, stream: bool, name: str
) -> None:
    play(agent, proxies.url("nudge,answer"), name, stream)
    further = [group for group in attempts(upstream) if len(group) > 1]
    assert further
    for first, *others in further:
        assert first.conversation is not None
        prefix = prefix_up_to_last_result(first, first.conversation.results[-1])
        rest = compact(first.body)[len(prefix) :]
        nudged = compact(others[0].body)
        assert nudged.startswith(prefix)
        assert nudged.endswith(rest)
        assert json.loads(nudged) == others[0].body
        for other in others[1:]:
            assert compact(other.body["tools"]) == compact(first.body["tools"])
            choice = other.body["tool_choice"]
            assert choice == ({"type": "none"} if agent.api == "messages" else "none")
            field = "input" if agent.api == "responses" else "messages"
            history, before = other.body[field], first.body[field]
            assert len(history) == len(before)
            assert compact(history[:-1]) == compact(before[:-1])
