import json
from typing import Any

import msgspec
import pytest

from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup.answer.frame import Delta, Finish, Frame, Start
from dedup_server.endpoints import ENDPOINTS
from dedup_server.errors import ApiError
from dedup_server.requests.base import EndpointName, Exchange
from dedup_server.requests.chat import ChatRequest, CompletionRequest
from tests.server.wired import BODIES, Chunks, forwarded, sampled

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("temperature", 5, ["temperature", "must be ≤ 2", "got 5"]),
        ("temperature", "1", ["temperature", "number", "'1'"]),
        ("top_p", 0, ["top_p", "must be > 0"]),
        ("n", True, ["n:", "integer", "True"]),
        ("n", 0, ["n:", "must be ≥ 1"]),
        ("n", "2", ["n:", "integer"]),
        ("max_tokens", 0, ["max_tokens", "≥ 1"]),
        ("frequency_penalty", -3, ["frequency_penalty", "≥ -2"]),
        ("repetition_penalty", 0, ["repetition_penalty", "> 0"]),
        ("stop", 5, ["stop", "a string or a list of strings"]),
        ("stop", ["a"] * 17, ["stop", "at most 16"]),
        ("stop", [1], ["stop: must be a string or a list of strings, got [1]"]),
        ("stream_options", 5, ["stream_options: must be an object, got 5"]),
        ("repetition", "off", ["repetition: must be an object, got 'off'"]),
        (
            "messages",
            [{"role": "user", "content": 1}],
            ["messages.0.content: must be a string or a list of parts, got 1"],
        ),
        ("messages", ["hi"], ["messages.0: must be an object"]),
        ("stream", "yes", ["stream", "boolean"]),
        ("repetition", {"policy": "loud"}, ["repetition.policy", "balanced"]),
        ("repetition", {"cure": True}, ["repetition.cure", "unknown"]),
        ("messages", [], ["messages: must be 1 to 16384 messages, got 0"]),
        ("messages", [{"content": "x"}], ["messages.0.role", "required"]),
    ],
)
def test_what_is_wrong_is_named_in_one_line(field: str, value: object, words: list[str]) -> None:
    with pytest.raises(ApiError) as raised:
        sampled("chat", {**CHAT, field: value})
    error = raised.value
    assert error.status == 400
    assert all(word in error.message for word in words), error.message
    assert "\n" not in error.message
    assert error.body()["error"]["param"]


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_a_body_that_is_not_an_object_is_refused(body: object) -> None:
    with pytest.raises(ApiError, match="JSON object"):
        sampled("chat", body)


def test_the_body_is_kept_as_it_came_less_what_is_ours() -> None:
    request = sampled(
        "chat", {**CHAT, "x_other": [1], "user": None, "repetition": {"policy": "off"}}
    )
    assert request.body == {**CHAT, "x_other": [1], "user": None}
    assert set(request.sent) == {"messages", "x_other", "repetition"}


def test_the_prompt_and_the_earlier_answers() -> None:
    parts = [{"type": "text", "text": "A"}, {"type": "image_url"}, {"type": "text", "text": "B"}]
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "y"},
        {"role": "user", "content": parts},
    ]
    request = sampled("chat", {"messages": messages})
    assert isinstance(request, ChatRequest)
    assert (request.last_prompt, request.earlier_answers) == ("A\nB", ["y"])


@pytest.mark.parametrize(
    ("prompt", "choices", "tokens"),
    [("four", 1, 1), (["a", "b"], 2, 2), ([1, 2], 1, 2), ([[1], [2, 3]], 2, 3)],
)
def test_prompts_of_every_shape(prompt: object, choices: int, tokens: int) -> None:
    request = sampled("completions", {"prompt": prompt})
    assert isinstance(request, CompletionRequest)
    assert (request.num_choices, request.prompt_tokens) == (choices, tokens)


def test_chunks_of_both_endpoints() -> None:
    chat, text = (
        Chunks(sampled(endpoint, body)).of(
            [
                Frame([], start=Start("m", 1), input_tokens=1),
                Frame([Delta(0, "content", "content", "x")], output_tokens=1),
                Frame([], [Finish(0, "stop")], output_tokens=2),
                Frame([], is_last=True),
            ]
        )
        for endpoint, body in (("chat", CHAT), ("completions", {"prompt": ""}))
    )
    assert chat[1]["choices"][0]["delta"] == {"content": "x"}
    assert [chunk["choices"][0]["text"] for chunk in text[:2]] == ["x", ""]
    assert text[1]["choices"][0]["finish_reason"] == "stop"
    assert {chunk["object"] for chunk in text} == {"text_completion"}
    assert chat[-1]["usage"]["total_tokens"] == 3


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses", "messages"])
def test_a_whole_answer_of_an_engine_in_this_process_has_its_usage(endpoint: EndpointName) -> None:
    row = ENDPOINTS[endpoint]
    answer = Answer(Editing("balanced"))
    writer = row.writer(answer, forwarded(endpoint, {**BODIES[endpoint], "stream": False}))
    for frame in (
        Frame([], start=Start("m", 1), input_tokens=7),
        Frame([Delta(0, "content", "content", "Hello")], output_tokens=1),
        Frame([], [Finish(0, "stop")], output_tokens=2),
        Frame([], is_last=True),
    ):
        writer.add(frame, answer.feed(frame))
    usage = json.loads(writer.whole())["usage"]
    counts = [usage[name] for name in usage if name.startswith(("input_", "prompt_"))]
    counts += [usage[name] for name in usage if name.startswith(("output_", "completion_"))]
    assert [count for count in counts if isinstance(count, int)] == [7, 2]
    assert "estimated" not in usage


@pytest.mark.parametrize(
    "prompt", [[], None, 5, [1, "a"], [True], [[1], ["a"]], [[1], "a"], ["a"] * 2049]
)
def test_a_prompt_is_text_or_tokens_or_several_of_one_kind(prompt: object) -> None:
    with pytest.raises(ApiError, match=r"prompt: must be"):
        sampled("completions", {"prompt": prompt})


@pytest.mark.parametrize("prompt", ["a", "", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_every_form_of_prompt_is_taken(prompt: object) -> None:
    assert sampled("completions", {"prompt": prompt}).sent["prompt"] == prompt


def test_what_an_upstream_knows_best_is_not_checked() -> None:
    body = {**CHAT, "temperature": 9, "max_tokens": -1, "top_k": "all"}
    assert forwarded("chat", body).body == body


def test_a_body_is_forwarded_as_it_came_unless_something_in_it_is_ours() -> None:
    raw = b'{ "messages": [{"role": "user", "content": "Hello"}], "seed": 1e2, "stream": true }'
    body = msgspec.json.decode(raw)
    assert forwarded("chat", body, Exchange(raw=raw)).forwarded(stream=True) == raw
    ours = forwarded("chat", {**body, "repetition": {"policy": "off"}}, Exchange(raw=raw))
    assert msgspec.json.decode(ours.forwarded(model="m")) == {**body, "model": "m"}
