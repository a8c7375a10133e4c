"""Answers of the Responses API: what the reader gets for what an engine sends."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from dedup.answer.channel import Editing
from dedup.config import Policy
from dedup_server.errors import ApiError, upstream_failed
from dedup_server.wire.sse import Event, encode
from tests.server.played import PlayedEvents, event
from tests.server.wired import Wired, editing_of

LOOP = "I am going round and round in circles here. "
NOVEL = "The river rose in the night, and by morning the bridge was gone. Nobody in the village had heard it fall."
AGAIN = (
    "The river rose in the night, and by morning the bridge was gone. Nobody in the village had heard it fall. "
    "The miller said that he had slept badly. Nobody in the village had heard it fall. They sent a boy for the carpenter."
)
KEPT = (
    "The river rose in the night, and by morning the bridge was gone. Nobody in the village had heard it fall. "
    "The miller said that he had slept badly. They sent a boy for the carpenter."
)
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
USAGE = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    "output_tokens": 34,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 46,
}

Message = dict[str, Any]


def pieces(text: str, size: int = 5) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def response(output: list[Message], status: str = "completed", **fields: Any) -> Message:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": "m",
        "output": output,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": USAGE if status == "completed" else None,
        **fields,
    }


def text_part(text: str) -> Message:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(text: str | None, status: str = "completed", kind: str = "output_text") -> Message:
    part = text_part(text or "") if kind == "output_text" else {"type": "refusal", "refusal": text}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [] if text is None else [part],
    }


def message_events(deltas: list[str], index: int = 0) -> Iterable[Message]:
    place = {"item_id": "msg_1", "output_index": index, "content_index": 0}
    text = "".join(deltas)
    yield {
        "type": "response.output_item.added",
        "output_index": index,
        "item": message_item(None, "in_progress"),
    }
    yield {"type": "response.content_part.added", **place, "part": text_part("")}
    for delta in deltas:
        yield {"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": text_part(text)}
    yield {"type": "response.output_item.done", "output_index": index, "item": message_item(text)}


def refusal_events(deltas: list[str]) -> Iterable[Message]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    text = "".join(deltas)
    yield {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": message_item(None, "in_progress"),
    }
    yield {
        "type": "response.content_part.added",
        **place,
        "part": {"type": "refusal", "refusal": ""},
    }
    for delta in deltas:
        yield {"type": "response.refusal.delta", **place, "delta": delta}
    yield {"type": "response.refusal.done", **place, "refusal": text}
    yield {
        "type": "response.content_part.done",
        **place,
        "part": {"type": "refusal", "refusal": text},
    }
    yield {
        "type": "response.output_item.done",
        "output_index": 0,
        "item": message_item(text, kind="refusal"),
    }


def summary_item(text: str | None) -> Message:
    return {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [] if text is None else [{"type": "summary_text", "text": text}],
    }


def summary_events(deltas: list[str]) -> Iterable[Message]:
    place = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    text = "".join(deltas)
    yield {"type": "response.output_item.added", "output_index": 0, "item": summary_item(None)}
    yield {
        "type": "response.reasoning_summary_part.added",
        **place,
        "part": {"type": "summary_text", "text": ""},
    }
    for delta in deltas:
        yield {"type": "response.reasoning_summary_text.delta", **place, "delta": delta}
    yield {"type": "response.reasoning_summary_text.done", **place, "text": text}
    yield {
        "type": "response.reasoning_summary_part.done",
        **place,
        "part": {"type": "summary_text", "text": text},
    }
    yield {"type": "response.output_item.done", "output_index": 0, "item": summary_item(text)}


def reasoning_item(text: str | None) -> Message:
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {
        "id": "rs_1",
        "type": "reasoning",
        "summary": [],
        "content": content,
        "status": "in_progress",
    }


def reasoning_events(deltas: list[str]) -> Iterable[Message]:
    place = {"item_id": "rs_1", "output_index": 0, "content_index": 0}
    text = "".join(deltas)
    yield {"type": "response.output_item.added", "output_index": 0, "item": reasoning_item(None)}
    for delta in deltas:
        yield {"type": "response.reasoning_text.delta", **place, "delta": delta}
    yield {"type": "response.reasoning_text.done", **place, "text": text}
    yield {"type": "response.output_item.done", "output_index": 0, "item": reasoning_item(text)}


def call_item(arguments: str, status: str = "completed") -> Message:
    return {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "c1",
        "name": "find",
        "arguments": arguments,
        "status": status,
    }


def call_events(deltas: list[str], index: int = 0) -> Iterable[Message]:
    place = {"item_id": "fc_1", "output_index": index}
    text = "".join(deltas)
    yield {
        "type": "response.output_item.added",
        "output_index": index,
        "item": call_item("", "in_progress"),
    }
    for delta in deltas:
        yield {"type": "response.function_call_arguments.delta", **place, "delta": delta}
    yield {
        "type": "response.function_call_arguments.done",
        **place,
        "arguments": text,
        "name": "find",
    }
    yield {"type": "response.output_item.done", "output_index": index, "item": call_item(text)}


def stream(*parts: Iterable[Message], last: Message | None = None) -> list[Message]:
    """A whole stream of an engine, numbered."""
    messages = [
        {"type": "response.created", "response": response([], "in_progress")},
        {"type": "response.in_progress", "response": response([], "in_progress")},
    ]
    for part in parts:
        messages += part
    output = [
        message["item"] for message in messages if message["type"] == "response.output_item.done"
    ]
    messages.append(last or {"type": "response.completed", "response": response(output)})
    return [{**message, "sequence_number": number} for number, message in enumerate(messages)]


class Played(PlayedEvents):
    def __init__(
        self, messages: list[Message], editing: Editing | None = None, error: ApiError | None = None
    ) -> None:
        self.answer = Wired("responses", editing)
        super().__init__(self.answer, messages, error)

    def deltas(self, kind: str = "output_text") -> str:
        return "".join(
            message["delta"]
            for message in self.messages
            if message["type"] == f"response.{kind}.delta"
        )

    def check(self) -> "Played":
        """What holds of every stream: openai's types take it, its numbers have no gap, its events are named by their type."""
        for message in self.messages:
            EVENTS.validate_python(message)
        assert [message["sequence_number"] for message in self.messages] == list(
            range(len(self.messages))
        )
        assert [event.name.decode() for event in self.events] == [
            message["type"] for message in self.messages
        ]
        return self

    @property
    def last(self) -> Message:
        return self.messages[-1]["response"]  # type: ignore[no-any-return]


def full_texts(node: Any, field: str) -> Iterable[str]:
    """All that the field says anywhere in an event."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == field and isinstance(value, str):
                yield value
            else:
                yield from full_texts(value, field)
    elif isinstance(node, list):
        for value in node:
            yield from full_texts(value, field)


def said_again(played: Played, field: str = "text") -> set[str]:
    """Every full text of what is done."""
    closing = [
        m
        for m in played.messages
        if m["type"].endswith(".done") or m["type"] in ("response.completed", "response.incomplete")
    ]
    return {text for message in closing for text in full_texts(message, field)}


@pytest.mark.parametrize("policy", ["off", "watch", "loops", "balanced", "strict"])
def test_events_in_which_nothing_changes_are_the_same_bytes(policy: Policy) -> None:
    deltas = ["Hello", " there,", " what a fine day!"]
    messages = stream(
        summary_events(deltas), message_events(deltas, 1), call_events(['{"a": ', "1}"], 2)
    )
    played = Played(messages, Editing(policy)).check()
    assert played.bytes == played.sent
    assert (played.answer.input_tokens, played.answer.output_tokens) == (12, 34)
    assert played.answer.complete
    assert not played.answer.over


@pytest.mark.parametrize("policy", ["loops", "balanced", "strict"])
def test_novel_text_comes_whole(policy: Policy) -> None:
    messages = stream(
        summary_events(pieces(NOVEL)),
        message_events(pieces(NOVEL), 1),
        call_events(pieces('{"a": 1}'), 2),
    )
    played = Played(messages, Editing(policy)).check()
    assert played.deltas() == played.deltas("reasoning_summary_text") == NOVEL
    assert played.last == messages[-1]["response"]


@pytest.mark.parametrize("policy", ["off", "watch"])
def test_the_identity_policies_change_nothing(policy: Policy) -> None:
    played = Played(stream(message_events(pieces(LOOP * 60))), Editing(policy))
    assert played.bytes == played.sent


@pytest.mark.parametrize(
    ("events", "kind", "field"),
    [
        (message_events, "output_text", "text"),
        (refusal_events, "refusal", "refusal"),
        (summary_events, "reasoning_summary_text", "text"),
        (reasoning_events, "reasoning_text", "text"),
    ],
)
def test_a_repeated_sentence_is_gone_wherever_the_text_is_said(
    events: Any, kind: str, field: str
) -> None:
    played = Played(stream(events(pieces(AGAIN)))).check()
    assert played.deltas(kind) == KEPT
    assert said_again(played, field) == {KEPT}
    assert played.last["status"] == "completed"
    assert played.last["repetition"] == {
        "policy": "balanced",
        "loop": None,
        "removed_chars": len(AGAIN) - len(KEPT),
        "removed_sentences": 1,
    }
    assert "stop_reason" not in played.last


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1),
    st.sampled_from([AGAIN, AGAIN + " " + LOOP * 40, NOVEL, AGAIN * 2]),
    st.booleans(),
)
def test_deltas_say_what_everything_says_however_the_text_is_cut(
    sizes: list[int], text: str, is_summary: bool
) -> None:
    deltas, at = [], 0
    while at < len(text):
        size = sizes[len(deltas) % len(sizes)]
        deltas.append(text[at : at + size])
        at += size
    played = Played(
        stream(summary_events(deltas) if is_summary else message_events(deltas))
    ).check()
    got = played.deltas("reasoning_summary_text" if is_summary else "output_text")
    assert said_again(played) == {got}
    assert got == Played(stream(message_events([text]))).deltas() or is_summary


def test_a_loop_in_plain_text_is_a_normal_end() -> None:
    played = Played(stream(message_events(pieces(NOVEL + " " + LOOP * 60)))).check()
    assert played.types == [
        *("created", "in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert said_again(played) == {played.deltas()}
    assert played.deltas().startswith(NOVEL)
    assert played.deltas().count(LOOP.strip()) <= 2
    last = played.last
    assert (last["status"], last["stop_reason"], last["id"]) == (
        "completed",
        "repetition_detected",
        "resp_1",
    )
    assert last["incomplete_details"] is None
    assert last["repetition"]["loop"]["channel"] == "content"
    assert last["repetition"]["removed_chars"] > 0
    assert last["usage"]["estimated"]
    assert last["output"][0]["status"] == "completed"
    Response.model_validate(last)
    assert played.answer.cut
    assert played.answer.complete
    assert played.answer.over
    assert played.answer.feed(event({"type": "response.in_progress"})) == b""
    assert played.answer.fail(upstream_failed("late")) == b""


@pytest.mark.parametrize(
    ("events", "kind", "field", "channel"),
    [
        (summary_events, "reasoning_summary_text", "text", "reasoning"),
        (reasoning_events, "reasoning_text", "text", "reasoning"),
        (call_events, "function_call_arguments", "arguments", "tool_arguments"),
    ],
)
def test_a_loop_that_leaves_something_unusable_is_incomplete(
    events: Any, kind: str, field: str, channel: str
) -> None:
    played = Played(stream(events(pieces('{"q": "' + LOOP * 60)))).check()
    last = played.last
    assert played.types[-1] == "incomplete"
    assert said_again(played, field) == {played.deltas(kind)}
    assert (last["status"], last["stop_reason"]) == ("incomplete", "repetition_detected")
    assert last["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["repetition"]["loop"]["channel"] == channel
    assert last["output"][0].get("status") in ("incomplete", None)


def test_a_loop_in_json_is_incomplete() -> None:
    body = {"input": "go", "text": {"format": {"type": "json_schema"}}}
    played = Played(
        stream(message_events(pieces('{"q": "' + LOOP * 60))),
        editing_of("responses", body, "balanced"),
    ).check()
    assert (played.last["status"], played.last["output"][0]["status"]) == (
        "incomplete",
        "incomplete",
    )


def test_items_closed_before_the_loop_stay_as_the_reader_saw_them() -> None:
    played = Played(
        stream(
            summary_events(pieces(AGAIN)),
            call_events(pieces('{"a": 1}'), 1),
            message_events(pieces(LOOP * 60), 2),
        )
    )
    output = played.check().last["output"]
    assert [item["type"] for item in output] == ["reasoning", "function_call", "message"]
    assert output[0]["summary"][0]["text"] == KEPT
    assert output[1] == call_item('{"a": 1}')
    assert output[2]["content"][0]["text"] == played.deltas()
    assert played.last["status"] == "completed"


def test_an_open_call_beside_a_loop_is_incomplete() -> None:
    played = Played(
        stream(list(call_events(['{"a'], 0))[:2], message_events(pieces(LOOP * 60), 1))
    ).check()
    assert played.last["status"] == "incomplete"
    assert [item["type"] for item in played.last["output"]] == ["function_call", "message"]
    assert {item["status"] for item in played.last["output"]} == {"incomplete"}


def test_logprobs_go_with_the_text_they_belong_to() -> None:
    logprobs = [{"token": "x", "bytes": [120], "logprob": -1.0, "top_logprobs": []}]
    messages = stream(message_events(pieces(AGAIN, 7)))
    for message in messages:
        if "logprobs" in message:
            message["logprobs"] = logprobs
    played = Played(messages).check()
    before = {
        message["delta"]: message["logprobs"]
        for message in messages
        if message["type"].endswith(".delta")
    }
    for message in played.messages:
        if message["type"].endswith("text.delta"):
            assert message["logprobs"] in ([], before.get(message["delta"]))
        if message["type"].endswith("text.done"):
            assert message["logprobs"] == []


def test_annotations_behind_a_removal_are_gone() -> None:
    def citation(start: int, end: int) -> Message:
        return {
            "type": "url_citation",
            "start_index": start,
            "end_index": end,
            "title": "t",
            "url": "http://u",
        }

    kept, lost = citation(0, 20), citation(len(AGAIN) - 20, len(AGAIN))
    messages = [
        message
        for message in stream(message_events(pieces(AGAIN)))
        if message["type"] != "response.completed"
    ]
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    done = next(
        at for at, message in enumerate(messages) if message["type"] == "response.output_text.done"
    )
    messages[done:done] = [
        {
            "type": "response.output_text.annotation.added",
            **place,
            "annotation_index": index,
            "annotation": annotation,
        }
        for index, annotation in enumerate([kept, lost])
    ]
    for message in messages[done + 3 :]:
        part = message.get("part") or message["item"]["content"][0]
        part["annotations"] = [kept, lost]
    messages.append({"type": "response.completed", "response": response([messages[-1]["item"]])})
    played = Played(
        [{**message, "sequence_number": number} for number, message in enumerate(messages)]
    ).check()
    added = [message["annotation"] for message in played.messages if "annotation" in message]
    assert added == [kept]
    assert played.last["output"][0]["content"][0]["annotations"] == [kept]


def test_what_is_held_comes_before_an_error_of_the_engine() -> None:
    held = NOVEL + " Nobody in the village had"
    error = {"type": "error", "code": "server_error", "message": "oh", "param": None}
    played = Played(stream([*message_events(pieces(held))][:-3], last=error)).check()
    assert played.deltas() == held
    assert played.types[-1] == "error"
    assert played.answer.failed
    assert played.answer.complete


def test_a_failed_response_passes() -> None:
    failed = response(
        [message_item(AGAIN)], "failed", error={"code": "server_error", "message": "oh"}
    )
    played = Played(
        stream(message_events(pieces(AGAIN)), last={"type": "response.failed", "response": failed})
    ).check()
    assert played.last == {**failed, "output": [message_item(KEPT)]}
    assert played.answer.failed


def test_a_failure_of_ours_is_an_error_event() -> None:
    held = NOVEL + " Nobody in the village had"
    messages = stream([*message_events(pieces(held))][:-3])[:-1]
    played = Played(messages, error=upstream_failed("the connection broke")).check()
    assert played.deltas() == held
    assert played.messages[-1] == {
        "type": "error",
        "code": "upstream_error",
        "message": "the connection broke",
        "param": None,
        "sequence_number": len(played.messages) - 1,
    }


def test_a_failure_before_the_first_event() -> None:
    assert Played([], error=upstream_failed("no")).check().types == ["error"]


def test_a_stream_that_only_stops_gives_what_was_held() -> None:
    held = NOVEL + " Nobody in the village had"
    played = Played(stream([*message_events(pieces(held))][:-3])[:-1]).check()
    assert played.deltas() == held
    assert not played.answer.complete


def test_text_that_comes_without_deltas_is_edited() -> None:
    messages = [
        message
        for message in stream(message_events([AGAIN]))
        if not message["type"].endswith("delta")
    ]
    assert said_again(Played(messages)) == {KEPT}
    bare = [message for message in messages if message["type"] == "response.completed"]
    assert said_again(Played(bare)) == {KEPT}


@pytest.mark.parametrize(
    "only", ["response.output_text.done", "response.output_item.done", "response.completed"]
)
def test_a_loop_that_comes_without_deltas_is_cut(only: str) -> None:
    played = Played(
        [message for message in stream(message_events([LOOP * 60])) if message["type"] == only]
    )
    assert played.answer.cut
    assert played.answer.over
    assert played.last["stop_reason"] == "repetition_detected"
    assert all(len(text) < 4 * len(LOOP) for text in said_again(played))


def test_a_last_event_that_became_unusable_is_named_so() -> None:
    played = Played(
        [
            message
            for message in stream(call_events([LOOP * 60]))
            if message["type"] == "response.completed"
        ]
    )
    assert (played.types, played.events[0].name) == (["incomplete"], b"response.incomplete")
    assert played.last["output"][0]["status"] == "incomplete"


def test_events_without_numbers_and_places() -> None:
    drop = ("sequence_number", "output_index", "content_index")
    messages = [
        {k: v for k, v in m.items() if k not in drop} for m in stream(message_events(pieces(AGAIN)))
    ]
    played = Played(messages)
    assert said_again(played) == {played.deltas()} == {KEPT}
    assert not any("sequence_number" in message for message in played.messages)


def test_what_is_no_event_of_the_api_passes() -> None:
    answer = Wired("responses")
    for strange in (
        Event(b"", b": ping"),
        Event(b"[DONE]"),
        Event(b"{}"),
        Event(b'{"type": ["response.output_text.delta"]}'),
        Event(b'{"type": "response.output_text.delta", "delta": 5, "output_index": {}}'),
        Event(
            b'{"type": "response.output_text.delta", "delta": "hello you", "output_index": [], "item_id": {}, "content_index": "a"}'
        ),
        Event(b'{"type": "response.output_text.done", "text": {}, "output_index": "7"}'),
        Event(b'{"type": "response.content_part.added", "part": []}'),
        Event(b'{"type": "response.content_part.done", "part": {"type": []}}'),
        Event(b'{"type": "response.output_item.added", "item": 3}'),
        Event(
            b'{"type": "response.output_item.done", "item": {"content": [1, {"type": "output_text"}], "type": {}, "id": []}}'
        ),
        Event(b'{"type": "response.output_text.annotation.added", "annotation": 1}'),
        Event(b'{"type": "response.strange.done"}', b"response.strange.done"),
        Event(
            b'{"type": "response.completed", "response": {"output": [0, {"id": {}, "content": {}}], "usage": []}}'
        ),
        Event(b'{"type": "response.completed"}'),
    ):
        assert answer.feed(strange) == encode(strange.data, strange.name)


@pytest.mark.parametrize(
    "data", [b"<html>", b"[1]", b'{"error": {"message": "oh"}}', b"[" * 100_000]
)
def test_what_is_no_event_at_all_is_a_failure(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        Wired("responses").feed(Event(data))
    assert caught.value.status == 502


FIELDS = (
    "type item part response output content summary text delta arguments item_id id output_index content_index summary_index "
    "sequence_number annotations annotation logprobs usage status output_text"
).split()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.sampled_from(["", "a", "msg_1", LOOP * 60, "output_text", "function_call"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
    ),
    max_leaves=12,
)
TYPES = sorted(
    {
        message["type"]
        for message in stream(message_events(["a"]), summary_events(["a"]), call_events(["a"]))
    }
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(FIELDS[1:]), JSON)),
        max_size=6,
    )
)
def test_nothing_but_api_errors_is_raised(messages: list[tuple[str, Message]]) -> None:
    Played([{**message, "type": kind} for kind, message in messages])


def test_a_part_that_is_no_object_fails_nothing() -> None:
    messages = stream(message_events(["a"]))
    for message in messages:
        if message["type"] == "response.content_part.done":
            message["part"] = True
    assert Played(messages).deltas() == "a"


def whole(body: Message, editing: Editing | None = None) -> tuple[Message, Wired]:
    answer = Wired("responses", editing)
    return json.loads(answer.whole(json.dumps(body).encode())), answer


def test_a_whole_response_is_the_same_bytes_where_nothing_changes() -> None:
    body = json.dumps(
        response([summary_item(NOVEL), message_item(NOVEL), call_item('{"a": 1}')])
    ).encode()
    answer = Wired("responses", Editing("strict"))
    assert answer.whole(body) is body
    assert (answer.input_tokens, answer.output_tokens, answer.complete) == (12, 34, True)


def test_a_whole_response_is_edited() -> None:
    got, _ = whole(response([summary_item(AGAIN), message_item(AGAIN)], output_text=AGAIN))
    assert [*full_texts(got["output"], "text")] == [KEPT, KEPT]
    assert got["output_text"] == KEPT
    assert got["repetition"]["removed_sentences"] == 2
    Response.model_validate(got)


@pytest.mark.parametrize(
    ("output", "status"),
    [
        ([message_item(LOOP * 60)], "completed"),
        ([call_item(LOOP * 60)], "incomplete"),
        ([summary_item(LOOP * 60)], "incomplete"),
    ],
)
def test_a_whole_response_with_a_loop_is_cut(output: list[Message], status: str) -> None:
    got, answer = whole(response(output))
    assert answer.cut
    assert (got["status"], got["stop_reason"], got["usage"]) == (
        status,
        "repetition_detected",
        USAGE,
    )
    assert (got["incomplete_details"] is None) == (status == "completed")
    assert got["output"][0].get("status", status) == status
    Response.model_validate(got)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"output": {}}', b"\xff"])
def test_a_whole_body_that_is_no_response_is_a_failure(body: bytes) -> None:
    with pytest.raises(ApiError):
        Wired("responses").whole(body)


def test_how_a_request_wants_its_answer_edited() -> None:
    conversation = [
        {"role": "user", "content": "first"},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "an "}, {"text": "answer"}],
        },
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "second"}, {"type": "input_image"}, 5],
        },
        {"type": "function_call_output", "output": "x"},
        7,
    ]
    assert editing_of("responses", {"input": conversation}, "strict") == Editing(
        "strict", "second", ["an answer"]
    )
    assert editing_of(
        "responses", {"input": "hello", "text": {"format": {"type": "json_object"}}}, "off"
    ) == Editing("off", "hello", (), True)
    assert editing_of("responses", {"input": 3, "text": {"format": "json"}}, "balanced") == Editing(
        "balanced"
    )


def test_a_reader_who_asks_for_repetition_gets_it() -> None:
    editing = editing_of("responses", {"input": "Write it 50 times."}, "balanced")
    played = Played(stream(message_events(pieces(LOOP * 50))), editing).check()
    assert played.deltas() == LOOP * 50
    assert played.last["repetition"]["removed_chars"] == 0


def test_a_reader_who_asks_for_repetition_gets_no_more_than_that() -> None:
    editing = editing_of("responses", {"input": "Write it 50 times."}, "balanced")
    played = Played(stream(message_events(pieces(LOOP * 200))), editing).check()
    assert 50 <= played.deltas().count(LOOP) < 70
    assert played.last["repetition"]["requested"] == {"reason": "copies", "copies": 57}
