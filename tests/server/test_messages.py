"""Answers of the Messages API: what the reader gets for what an engine sends."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.answer.channel import Editing
from dedup.config import Policy
from dedup_server.errors import ApiError, model_not_found, shutting_down, upstream_failed
from dedup_server.wire.messages import error_body
from dedup_server.wire.sse import Event, encode
from tests.server.played import PlayedEvents, event
from tests.server.wired import Wired, editing_of

LOOP = "I am going round and round in circles here. "
NOVEL = "The river rose in the night, and by morning the bridge was gone. Nobody in the village had heard it fall."
AGAIN = (
    NOVEL
    + " The miller said that he had slept badly. Nobody in the village had heard it fall. They sent a boy for the carpenter."
)
KEPT = NOVEL + " The miller said that he had slept badly. They sent a boy for the carpenter."
HELD = NOVEL + " Nobody in the village had"

Message = dict[str, Any]
Block = Iterable[Message]

FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
STARTS: dict[str, Message] = {
    "text_delta": {"type": "text", "text": ""},
    "thinking_delta": {"type": "thinking", "thinking": "", "signature": ""},
    "input_json_delta": {"type": "tool_use", "id": "t1", "name": "find", "input": {}},
}


def pieces(text: str, size: int = 5) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def block(kind: str, deltas: list[str], index: int = 0, *, signature: str = "") -> Block:
    yield {"type": "content_block_start", "index": index, "content_block": STARTS[kind]}
    for delta in deltas:
        yield {
            "type": "content_block_delta",
            "index": index,
            "delta": {"type": kind, FIELDS[kind]: delta},
        }
    if signature:
        yield {
            "type": "content_block_delta",
            "index": index,
            "delta": {"type": "signature_delta", "signature": signature},
        }
    yield {"type": "content_block_stop", "index": index}


def stream(*blocks: Block, stop_reason: str = "end_turn") -> list[Message]:
    """A whole stream of an engine."""
    started = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 12, "output_tokens": 1},
    }
    messages: list[Message] = [{"type": "message_start", "message": started}, {"type": "ping"}]
    for each in blocks:
        messages += each
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    messages.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 34}})
    messages.append({"type": "message_stop"})
    return messages


class Played(PlayedEvents):
    def __init__(
        self, messages: list[Message], editing: Editing | None = None, error: ApiError | None = None
    ) -> None:
        self.answer = Wired("messages", editing)
        super().__init__(self.answer, messages, error)
        assert [event.name.decode() for event in self.events] == [
            message["type"] for message in self.messages
        ]

    def text(self, kind: str = "text_delta", index: int = 0) -> str:
        deltas = [
            m["delta"]
            for m in self.messages
            if m["type"] == "content_block_delta" and m["index"] == index
        ]
        return "".join(delta[FIELDS[kind]] for delta in deltas if delta["type"] == kind)

    @property
    def ending(self) -> Message:
        return next(message for message in self.messages if message["type"] == "message_delta")


@pytest.mark.parametrize("policy", ["off", "watch", "loops", "balanced", "strict"])
def test_events_in_which_nothing_changes_are_the_same_bytes(policy: Policy) -> None:
    deltas = ["Hello", " there,", " what a fine day!"]
    messages = stream(
        block("thinking_delta", deltas, signature="abc"),
        block("text_delta", deltas, 1),
        block("input_json_delta", ['{"a": ', "1}"], 2),
        stop_reason="tool_use",
    )
    played = Played(messages, Editing(policy))
    assert played.bytes == played.sent
    assert (played.answer.input_tokens, played.answer.output_tokens) == (12, 34)
    assert played.answer.complete
    assert not played.answer.over


@pytest.mark.parametrize("policy", ["loops", "balanced", "strict"])
def test_novel_text_comes_whole(policy: Policy) -> None:
    played = Played(
        stream(block("text_delta", pieces(NOVEL)), block("thinking_delta", pieces(NOVEL), 1)),
        Editing(policy),
    )
    assert played.text() == played.text("thinking_delta", 1) == NOVEL
    assert "repetition" not in played.ending["delta"]


@pytest.mark.parametrize("policy", ["off", "watch"])
def test_the_identity_policies_change_nothing(policy: Policy) -> None:
    played = Played(
        stream(
            block("text_delta", pieces(LOOP * 60)), block("thinking_delta", pieces(LOOP * 60), 1)
        ),
        Editing(policy),
    )
    assert played.bytes == played.sent


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=1),
    st.sampled_from([AGAIN, AGAIN + " " + LOOP * 40, NOVEL]),
)
def test_the_text_is_the_same_however_it_is_cut(sizes: list[int], text: str) -> None:
    deltas, at = [], 0
    while at < len(text):
        size = sizes[len(deltas) % len(sizes)]
        deltas.append(text[at : at + size])
        at += size
    whole = json.loads(
        Wired("messages").whole(json.dumps({"content": [{"type": "text", "text": text}]}).encode())
    )
    played = Played(stream(block("text_delta", deltas)))
    assert played.text() == whole["content"][0]["text"]
    assert played.types[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_a_repeated_sentence_is_gone() -> None:
    played = Played(stream(block("text_delta", pieces(AGAIN))))
    assert played.text() == KEPT
    delta = played.ending["delta"]
    assert delta["stop_reason"] == "end_turn"
    assert delta["repetition"]["removed_sentences"] == 1
    assert delta["repetition"]["removed_chars"] == len(AGAIN) - len(KEPT)
    assert played.ending["usage"] == {"output_tokens": 34}


@pytest.mark.parametrize("policy", ["loops", "balanced", "strict"])
def test_thinking_is_not_edited_and_comes_before_its_signature(policy: Policy) -> None:
    thinking = AGAIN + " Nobody in the village had"
    played = Played(
        stream(block("thinking_delta", pieces(thinking), signature="abc")), Editing(policy)
    )
    assert played.text("thinking_delta") == thinking
    kinds = [
        message["delta"]["type"]
        for message in played.messages
        if message["type"] == "content_block_delta"
    ]
    assert kinds.index("signature_delta") == len(kinds) - 1
    assert "repetition" not in played.ending["delta"]


def test_what_is_held_comes_before_the_block_stops() -> None:
    played = Played(
        stream(block("text_delta", pieces(HELD)), block("text_delta", pieces(NOVEL), 1))
    )
    assert (played.text(), played.text(index=1)) == (HELD, NOVEL)


@pytest.mark.parametrize(
    ("blocks", "stop_reason", "channel"),
    [
        ([("text_delta", LOOP * 60)], "end_turn", "content"),
        ([("thinking_delta", NOVEL), ("text_delta", LOOP * 60)], "end_turn", "content"),
        ([("input_json_delta", '{"a": 1}'), ("text_delta", LOOP * 60)], "tool_use", "content"),
        ([("text_delta", NOVEL), ("thinking_delta", LOOP * 60)], "end_turn", "reasoning"),
        ([("thinking_delta", LOOP * 60)], "max_tokens", "reasoning"),
        (
            [("text_delta", NOVEL), ("input_json_delta", '{"q": "' + LOOP * 60)],
            "max_tokens",
            "tool_arguments",
        ),
    ],
)
def test_a_loop_ends_the_message(
    blocks: list[tuple[str, str]], stop_reason: str, channel: str
) -> None:
    played = Played(
        stream(*(block(kind, pieces(text), index) for index, (kind, text) in enumerate(blocks)))
    )
    kind, text = blocks[-1]
    index = len(blocks) - 1
    assert text.startswith(played.text(kind, index))
    assert played.text(kind, index).count(LOOP.strip()) in (1, 2)
    assert played.messages[-3] == {"type": "content_block_stop", "index": index}
    assert [message["type"] for message in played.messages].count("content_block_stop") == len(
        blocks
    )
    assert played.messages[-1] == {"type": "message_stop"}
    delta = played.ending["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == (stop_reason, None)
    assert delta["repetition"]["loop"]["channel"] == channel
    assert delta["repetition"]["removed_chars"] > 0
    assert played.ending["usage"]["estimated"]
    assert played.ending["usage"]["output_tokens"] > 1
    assert played.answer.cut
    assert played.answer.complete
    assert played.answer.over
    assert played.answer.feed(event({"type": "ping"})) == b""
    assert played.answer.fail(upstream_failed("late")) == b""


def test_what_is_held_comes_before_an_error_of_the_engine() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "oh"}}
    played = Played([*stream(block("text_delta", pieces(HELD)))[:-3], error])
    assert played.text() == HELD
    assert played.messages[-1] == error
    assert played.answer.failed
    assert played.answer.complete


@pytest.mark.parametrize("error", [upstream_failed("oh"), shutting_down()])
def test_a_failure_of_ours_is_an_error_event(error: ApiError) -> None:
    played = Played(stream(block("text_delta", pieces(HELD)))[:-3], error=error)
    assert played.text() == HELD
    assert played.messages[-1] == {
        "type": "error",
        "error": {"type": "api_error", "message": error.message},
    }
    assert "message_stop" not in played.types


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (model_not_found("m", []), "not_found_error"),
        (ApiError(422, "no"), "invalid_request_error"),
        (ApiError(502, "busy", type="overloaded_error"), "overloaded_error"),
        (upstream_failed("gone"), "api_error"),
        (upstream_failed("late", 504), "timeout_error"),
    ],
)
def test_the_type_of_an_error_is_the_api_s_own(error: ApiError, kind: str) -> None:
    assert error_body(error) == {
        "type": "error",
        "error": {"type": kind, "message": error.message},
    }


def test_a_stream_that_only_stops_gives_what_was_held() -> None:
    played = Played(stream(block("text_delta", pieces(HELD)))[:-3])
    assert played.text() == HELD
    assert not played.answer.complete


def test_text_that_comes_after_its_block_has_stopped_is_not_lost() -> None:
    messages = stream(block("text_delta", pieces(NOVEL)), block("text_delta", ["Hello there"]))
    assert Played(messages).text() == NOVEL + "Hello there"


def test_what_is_no_event_of_the_api_passes() -> None:
    answer = Wired("messages")
    for strange in (
        Event(b"", b": ping"),
        Event(b"[DONE]"),
        Event(b"{}"),
        Event(b'{"type": ["content_block_delta"]}'),
        Event(b'{"type": "content_block_delta"}'),
        Event(b'{"type": "content_block_delta", "delta": {"type": ["text_delta"]}, "index": {}}'),
        Event(
            b'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": 5}, "index": []}'
        ),
        Event(
            b'{"type": "content_block_delta", "delta": {"type": "citations_delta", "citation": {}}, "index": 0}'
        ),
        Event(b'{"type": "content_block_start", "index": "a", "content_block": 3}'),
        Event(b'{"type": "content_block_stop", "index": 17}', b"content_block_stop"),
        Event(b'{"type": "message_start", "message": []}'),
        Event(b'{"type": "message_delta", "delta": 3, "usage": []}'),
        Event(b'{"type": "strange"}', b"strange"),
    ):
        assert answer.feed(strange) == encode(strange.data, strange.name)


@pytest.mark.parametrize(
    "data", [b"<html>", b"[1]", b'{"error": {"message": "oh"}}', b"[" * 100_000]
)
def test_what_is_no_event_at_all_is_a_failure(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        Wired("messages").feed(Event(data))
    assert caught.value.status == 502


NAMES = "type index delta content_block message usage text thinking partial_json signature input_tokens output_tokens".split()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["", "a", LOOP * 60, *FIELDS]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)
TYPES = sorted({message["type"] for message in stream(block("text_delta", ["a"]))})


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(TYPES), st.dictionaries(st.sampled_from(NAMES[1:]), JSON)),
        max_size=6,
    )
)
def test_nothing_but_api_errors_is_raised(messages: list[tuple[str, Message]]) -> None:
    Played([{**message, "type": kind} for kind, message in messages])


def body(*content: Message, stop_reason: str = "end_turn") -> Message:
    usage = {"input_tokens": 12, "output_tokens": 34}
    return {
        "id": "msg_1",
        "type": "message",
        "content": [*content],
        "stop_reason": stop_reason,
        "usage": usage,
    }


def whole(*content: Message, stop_reason: str = "end_turn") -> tuple[Message, Wired]:
    answer = Wired("messages")
    return json.loads(
        answer.whole(json.dumps(body(*content, stop_reason=stop_reason)).encode())
    ), answer


def test_a_whole_message_is_the_same_bytes_where_nothing_changes() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": LOOP * 60}}
    signed = {"type": "thinking", "thinking": LOOP * 60, "signature": "abc"}
    sent = json.dumps(
        body(signed, {"type": "thinking", "thinking": AGAIN}, {"type": "text", "text": NOVEL}, call)
    ).encode()
    answer = Wired("messages")
    assert answer.whole(sent) is sent
    assert (answer.input_tokens, answer.output_tokens, answer.complete, answer.cut) == (
        12,
        34,
        True,
        False,
    )
    assert answer.channels[0].filter.loop  # what is signed is measured


def test_a_whole_message_is_edited() -> None:
    got, _ = whole({"type": "text", "text": AGAIN})
    assert got["content"] == [{"type": "text", "text": KEPT}]
    assert (got["stop_reason"], got["repetition"]["removed_sentences"]) == ("end_turn", 1)


@pytest.mark.parametrize(
    ("content", "given", "expected"),
    [
        ([{"type": "text", "text": LOOP * 60}], "max_tokens", "max_tokens"),
        ([{"type": "text", "text": LOOP * 60}], "tool_use", "tool_use"),
        ([{"type": "text", "text": LOOP * 60}], None, "end_turn"),
        ([{"type": "thinking", "thinking": LOOP * 60}], "end_turn", "max_tokens"),
        (
            [{"type": "thinking", "thinking": LOOP * 60}, {"type": "text", "text": NOVEL}],
            "end_turn",
            "end_turn",
        ),
    ],
)
def test_a_whole_message_with_a_loop_is_cut(
    content: list[Message], given: Any, expected: str
) -> None:
    got, answer = whole(*content, stop_reason=given)
    assert answer.cut
    assert got["stop_reason"] == expected
    assert got["repetition"]["loop"]
    assert len(got["content"][0][got["content"][0]["type"]]) < 4 * len(LOOP)


@pytest.mark.parametrize("sent", [b"", b"[]", b"{}", b'{"content": "a"}', b"\xff"])
def test_a_whole_body_that_is_no_message_is_a_failure(sent: bytes) -> None:
    with pytest.raises(ApiError):
        Wired("messages").whole(sent)


def test_how_a_request_wants_its_answer_edited() -> None:
    messages = [
        {"role": "user", "content": "first"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "an "}, {"type": "text", "text": "answer"}],
        },
        {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "image"}, 5]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "find", "input": {}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "x"}]},
        7,
    ]
    assert editing_of("messages", {"messages": messages}, "strict") == Editing(
        "strict", "second", ["an answer"], locks_reasoning=True
    )
    assert editing_of("messages", {"messages": 3}, "off") == Editing("off", locks_reasoning=True)


def test_a_reader_who_asks_for_repetition_gets_it() -> None:
    editing = editing_of(
        "messages", {"messages": [{"role": "user", "content": "Write it 50 times."}]}, "balanced"
    )
    played = Played(stream(block("text_delta", pieces(LOOP * 50))), editing)
    assert played.text() == LOOP * 50
    assert played.ending["delta"]["repetition"]["removed_chars"] == 0


def test_a_reader_who_asks_for_repetition_gets_no_more_than_that() -> None:
    editing = editing_of(
        "messages", {"messages": [{"role": "user", "content": "Write it 50 times."}]}, "balanced"
    )
    played = Played(stream(block("text_delta", pieces(LOOP * 200))), editing)
    assert 50 <= played.text().count(LOOP) < 70
    assert played.ending["delta"]["repetition"]["requested"] == {"reason": "copies", "copies": 57}
