"""The scripted upstream refuses what a real API refuses, and answers as one does."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.agents.answers import CALL_STOPS, STOPS
from tests.agents.client import ask
from tests.agents.histories import request
from tests.agents.messages import signature_of
from tests.agents.models import FINAL, LOOK_UP, LOOPING, SEARCH, THOUGHT
from tests.agents.upstream import PATHS, AgentUpstream, Api, agent_upstream
from tests.agents.usage import INPUT_TOKENS, OUTPUT_TOKENS, input_of

APIS: tuple[Api, ...] = tuple(PATHS)
THINKING = {"type": "enabled", "budget_tokens": 1024}

apis = pytest.mark.parametrize("api", APIS)
streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@pytest.fixture(scope="module")
def served() -> Iterator[AgentUpstream]:
    with agent_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(served: AgentUpstream) -> AgentUpstream:
    served.clear()
    return served


def with_notice(body: Any, api: Api) -> Any:
    """Return the request with more text in its last result."""
    body = copy.deepcopy(body)
    if api == "chat":
        body["messages"][-1]["content"] += "\n\nYou have asked that before."
    elif api == "responses":
        body["input"][-1]["output"] += "\n\nYou have asked that before."
    else:
        body["messages"][-1]["content"][-1]["content"] += "\n\nYou have asked that before."
    return body


@apis
@streamed_or_not
@pytest.mark.parametrize("name", LOOPING)
def test_a_model_loops_until_what_it_heeds_is_there(
    upstream: AgentUpstream, api: Api, stream: bool, name: str
) -> None:
    model = LOOPING[name]
    body = request(api, name, 4, stream=stream)
    choice = ask(upstream.url, api, body).got.only
    calls = model.rounds[4 % len(model.rounds)]
    assert choice.calls == [(call[0], input_of(call)) for call in calls]
    assert choice.stop == CALL_STOPS[api]
    assert choice.text == model.says
    nudged = ask(upstream.url, api, with_notice(body, api)).got.only
    assert (nudged.text == FINAL) is (model.heeds == "notice" and not model.instead)
    assert (nudged.calls == choice.calls) is (model.heeds != "notice")
    none = {"type": "none"} if api == "messages" else "none"
    forbidden = ask(upstream.url, api, {**body, "tool_choice": none}).got.only
    assert (forbidden.text == FINAL) is (model.heeds != "nothing")
    assert forbidden.stop == (CALL_STOPS if forbidden.calls else STOPS)[api]


@apis
@streamed_or_not
def test_it_reasons_and_counts_its_tokens(upstream: AgentUpstream, api: Api, stream: bool) -> None:
    body = request(api, "reasons", 0, stream=stream)
    if api == "messages":
        body["thinking"] = THINKING
    if api == "chat" and stream:
        body["stream_options"] = {"include_usage": True}
    got = ask(upstream.url, api, body).got
    assert got.only.thought.startswith(THOUGHT)
    assert got.tokens == (INPUT_TOKENS, OUTPUT_TOKENS)


Change = Callable[[Any], None]


def drop_last(body: Any) -> None:
    body["messages" if "messages" in body else "input"].pop()


def drop_tools(body: Any) -> None:
    del body["tools"]


def add_field(body: Any) -> None:
    body["repetition"] = {}


def no_tool(body: Any) -> None:
    body["tool_choice"] = {"type": "tool", "name": "fly", "function": {"name": "fly"}}


def wrong_id(body: Any) -> None:
    if "input" in body:
        body["input"][-1]["call_id"] = "call_0"
    elif body["messages"][-1]["role"] == "tool":
        body["messages"][-1]["tool_call_id"] = "call_0"
    else:
        body["messages"][-1]["content"][0]["tool_use_id"] = "call_0"


def user_between(body: Any) -> None:
    """Put a message of the user between the last calls and their results."""
    body["messages" if "messages" in body else "input"].insert(-1, {"role": "user", "content": "?"})


@apis
@pytest.mark.parametrize(
    "change", [drop_last, drop_tools, add_field, no_tool, wrong_id, user_between]
)
def test_what_no_api_takes_is_refused(upstream: AgentUpstream, api: Api, change: Change) -> None:
    body = request(api, "parallel", 2)
    assert ask(upstream.url, api, body).status == 200
    change(body)
    assert ask(upstream.url, api, body).status == 400
    assert len(upstream.refusals) == 1


def text_before_results(body: Any) -> None:
    body["messages"][-1]["content"].insert(0, {"type": "text", "text": "Look."})


def empty_text(body: Any) -> None:
    body["messages"][-1]["content"].append({"type": "text", "text": " "})


def two_of_the_user(body: Any) -> None:
    body["messages"].append({"role": "user", "content": "Look."})


def none_with_more(body: Any) -> None:
    body["tool_choice"] = {"type": "none", "disable_parallel_tool_use": True}


def unsigned(body: Any) -> None:
    thought = {"type": "thinking", "thinking": THOUGHT, "signature": signature_of("else")}
    body["messages"][1]["content"].insert(0, thought)


def thoughtless(body: Any) -> None:
    body["thinking"] = THINKING


def forced_and_thinking(body: Any) -> None:
    for message in body["messages"][1::2]:
        thought = {"type": "thinking", "thinking": THOUGHT, "signature": signature_of(THOUGHT)}
        message["content"].insert(0, thought)
    body["thinking"] = THINKING
    body["tool_choice"] = {"type": "any"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (text_before_results, "tool_result must come first"),
        (empty_text, "must be non-empty"),
        (two_of_the_user, "roles must alternate"),
        (none_with_more, "unrecognized fields"),
        (unsigned, "invalid signature"),
        (thoughtless, "expected thinking, but found tool_use"),
        (forced_and_thinking, "tool_choice forces use"),
    ],
)
def test_what_the_messages_api_does_not_take_is_refused(
    upstream: AgentUpstream, change: Change, message: str
) -> None:
    body = request("messages", "parallel", 2)
    change(body)
    assert ask(upstream.url, "messages", body).status == 400
    assert message in upstream.refusals[0]


def test_reasoning_of_the_responses_api_stays_with_its_call(upstream: AgentUpstream) -> None:
    body = request("responses", "reasons", 0)
    reasoning, call = _output(ask(upstream.url, "responses", body).raw)
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "Nothing."}
    histories = {
        "": [reasoning, call, result],
        "was changed": [{**reasoning, "summary": []}, call, result],
        "without its required following item": [reasoning],
        "without its required 'reasoning' item": [call, result],
    }
    for message, items in histories.items():
        upstream.received.clear()
        reply = ask(upstream.url, "responses", {**body, "input": [*body["input"], *items]})
        assert reply.status == (400 if message else 200)
        assert message in "".join(upstream.refusals)


def _output(raw: bytes) -> list[dict[str, Any]]:
    return list(json.loads(raw)["output"])


def test_parallel_calls_need_a_result_each(upstream: AgentUpstream) -> None:
    body = request("messages", "parallel", 1)
    assert [block["name"] for block in body["messages"][1]["content"]] == [LOOK_UP[0], SEARCH[0]]
    body["messages"][2]["content"].pop()
    assert ask(upstream.url, "messages", body).status == 400
