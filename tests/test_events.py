"""Parsed chat chunks and Responses events through `EventFilter`."""

from typing import Any

import pytest

from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup.answer.events import EventFilter

Json = dict[str, Any]
LOOP = "The cat sat on the mat and looked at the dog. "
REPEAT = "We keep invoices for ten years, as the law asks us to. "
OTHER = "Receipts are kept for six years in a separate folder. "


def chunk(text: str = "", *, slot: str = "content", reason: str | None = None, **more: Any) -> Json:
    delta = {slot: text} if text else {}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}


def pieces(text: str, size: int = 7) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def read(events: list[Json | None], slot: str = "content") -> str:
    return "".join(
        choice["delta"].get(slot) or "" for event in events if event for choice in event["choices"]
    )


def call(arguments: str, **more: Any) -> Json:
    calls = [{"index": 0, "function": {"arguments": arguments}, **more}]
    return {"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": None}]}


def test_repeats_are_removed_and_the_rest_comes_with_the_finish() -> None:
    one = EventFilter(Editing("balanced"))
    fed = [chunk(text) for text in pieces(REPEAT + OTHER + REPEAT + "That is all")]
    out = [one.feed(event) for event in [*fed, chunk(reason="stop")]]
    assert read(out) == REPEAT + OTHER + "That is all"
    assert out[-1] is not None
    assert out[-1]["choices"][0]["finish_reason"] == "stop"
    assert None in out  # nothing was left of them
    assert one.summary()["removed_sentences"] == 1


def test_a_plain_text_passes_as_it_came() -> None:
    one = EventFilter(Editing("balanced"))
    fed = [chunk(text) for text in pieces(REPEAT + OTHER)]
    out = [one.feed(event) for event in [*fed, chunk(reason="stop"), {"choices": [], "usage": {}}]]
    assert read(out) == REPEAT + OTHER
    assert out[-1] == {"choices": [], "usage": {}}


def test_an_answer_behind_reasoning_that_loops_passes() -> None:
    one = EventFilter(Editing("balanced"))
    fed = [chunk(text, slot="reasoning_content") for text in pieces(LOOP * 40)]
    fed += [chunk(text) for text in pieces(OTHER)] + [chunk(reason="stop")]
    out = [one.feed(event) for event in fed]
    assert one.is_cut
    assert len(read(out, "reasoning_content")) < 3 * len(LOOP)
    assert read(out) == OTHER
    assert out[-1] is not None
    assert out[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("size", [1, 4, 7, 40, 10_000])
def test_thoughts_in_tags_are_a_text_of_their_own(size: int) -> None:
    thoughts = f"<think>\n{REPEAT}{OTHER}{REPEAT}So:\n</think>\n\n"
    one = EventFilter(Editing("balanced"))
    fed = [chunk(text) for text in pieces(thoughts + REPEAT + OTHER, size)]
    out = [one.feed(event) for event in [*fed, chunk(reason="stop")]]
    if size > 7:  # the opening tag is in one piece
        assert read(out) == thoughts.replace(f"{REPEAT}So", "So") + REPEAT + OTHER
    assert read(out).endswith(f"</think>\n\n{REPEAT}{OTHER}")


@pytest.mark.parametrize("size", [1, 4, 7, 40])
def test_an_answer_behind_thoughts_in_tags_that_loop_passes(size: int) -> None:
    one = EventFilter(Editing("balanced"))
    fed = [chunk(text) for text in pieces(f"<think>{LOOP * 40}</think>{REPEAT}", size)]
    out = read([one.feed(event) for event in [*fed, chunk(reason="stop")]])
    assert out.startswith("<think>")
    assert out.endswith(f"</think>{REPEAT}")
    assert len(out) < 3 * len(LOOP) + len(REPEAT) + 20


def test_a_loop_is_hidden_and_usage_passes() -> None:
    one = EventFilter(Editing("balanced"))
    fed = [chunk(text) for text in pieces(REPEAT + LOOP * 40)]
    usage = chunk(" more", usage={"completion_tokens": 9})
    out = [one.feed(event) for event in [*fed, usage, chunk(reason="length")]]
    assert read(out).startswith((REPEAT + LOOP).rstrip())
    assert len(read(out)) < len(REPEAT) + 3 * len(LOOP)
    assert out[-2] is not None
    assert out[-2]["usage"] == {"completion_tokens": 9}
    loop = one.summary()["loop"]
    assert loop["channel"] == "content"
    assert loop["copies"] >= 3


def test_half_a_tool_call_ends_with_length() -> None:
    one = EventFilter(Editing("balanced"))
    first = call('{"text": "', id="call_1", type="function")
    fed = [first, *map(call, pieces(LOOP * 40)), chunk(reason="tool_calls")]
    out = [one.feed(event) for event in fed]
    assert out[0] == first
    assert out[-1] is not None
    assert out[-1]["choices"][0]["finish_reason"] == "length"
    calls = [event["choices"][0]["delta"].get("tool_calls") for event in out if event]
    text = "".join(one[0]["function"]["arguments"] for one in calls if one)
    assert len(text) < 3 * len(LOOP) + 20


def test_rounds_of_a_tool_loop_are_answers_of_their_own() -> None:
    one = EventFilter(Editing("balanced"))
    a_round = [chunk(REPEAT), chunk(reason="tool_calls")]
    assert read([one.feed(event) for event in a_round * 3]) == REPEAT * 3


def test_choices_are_filtered_apart() -> None:
    one = EventFilter(Editing("balanced"))
    out = []
    for text in pieces(LOOP * 30):
        choices = [{"index": n, "delta": {"content": text}, "finish_reason": None} for n in (0, 1)]
        choices[1]["delta"] = {"content": "x"} if len(out) == 3 else {}
        out.append(one.feed({"choices": choices}))
    given = ["", ""]
    for event in filter(None, out):
        for choice in event["choices"]:
            given[choice["index"]] += choice["delta"].get("content") or ""
    given[1] += "".join(delta.text for delta in one.release() if delta.choice == 1)
    assert len(given[0]) < 3 * len(LOOP)
    assert given[1] == "x"


def responses(text: str, reasoning: str = "") -> list[Json]:
    """Return the events of an answer of the Responses API."""
    items: list[Json] = []
    events: list[Json] = [{"type": "response.created", "response": {"output": []}}]
    if reasoning:
        item = {"type": "reasoning", "id": "rs_1", "summary": []}
        place = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
        part = {"type": "summary_text", "text": reasoning}
        name = "response.reasoning_summary_"
        events += [{"type": "response.output_item.added", "output_index": 0, "item": item}]
        empty = {**part, "text": ""}
        events += [{"type": f"{name}part.added", **place, "part": empty}]
        events += [{"type": f"{name}text.delta", **place, "delta": it} for it in pieces(reasoning)]
        events += [{"type": f"{name}text.done", **place, "text": reasoning}]
        events += [{"type": f"{name}part.done", **place, "part": part}]
        items.append({**item, "summary": [part]})
        events.append({"type": "response.output_item.done", "output_index": 0, "item": items[0]})
    index = len(items)
    item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
    place = {"item_id": "msg_1", "output_index": index, "content_index": 0}
    part = {"type": "output_text", "text": text}
    events += [{"type": "response.output_item.added", "output_index": index, "item": item}]
    events += [{"type": "response.content_part.added", **place, "part": {**part, "text": ""}}]
    name = "response.output_text"
    events += [{"type": f"{name}.delta", **place, "delta": piece} for piece in pieces(text)]
    events += [{"type": f"{name}.done", **place, "text": text}]
    events += [{"type": "response.content_part.done", **place, "part": part}]
    items.append({**item, "content": [part]})
    done = {"type": "response.output_item.done", "output_index": index, "item": items[-1]}
    response = {"id": "resp_1", "output": items, "usage": {"output_tokens": 5}}
    return [*events, done, {"type": "response.completed", "response": response}]


def test_events_of_the_responses_api_all_say_the_same() -> None:
    one = EventFilter(Editing("balanced"))
    fed = responses(REPEAT + OTHER + REPEAT + "That is all", LOOP * 40)
    out = [event for event in map(one.feed, fed) if event]
    text = REPEAT + OTHER + "That is all"
    by_type = {event["type"]: event for event in out}
    assert by_type["response.output_text.done"]["text"] == text
    assert by_type["response.content_part.done"]["part"]["text"] == text
    assert by_type["response.output_item.done"]["item"]["content"][0]["text"] == text
    reasoning, message = by_type["response.completed"]["response"]["output"]
    assert message["content"][0]["text"] == text
    thought = reasoning["summary"][0]["text"]
    assert LOOP.rstrip() in thought
    assert len(thought) < 3 * len(LOOP)
    deltas = [one["delta"] for one in out if one["type"] == "response.output_text.delta"]
    assert text.startswith("".join(deltas))


def test_a_second_response_of_a_message_is_another_answer() -> None:
    one = EventFilter(Editing("balanced"))
    for _ in range(2):
        out = [event for event in map(one.feed, responses(REPEAT)) if event]
        assert out[-1]["response"]["output"][0]["content"][0]["text"] == REPEAT


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"choices": None},
        {"choices": [None, {"delta": None}, {"delta": {"content": 3, "tool_calls": [{}, 7]}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": {"a": 1}}}]}}]},
        {"type": 7},
        {"type": "response.output_text.delta", "delta": {"text": "x"}},
        {"type": "response.output_item.done", "item": {"content": "x"}},
        {"type": "response.completed", "response": {"output": [None, {"summary": 3}]}},
        {"type": "response.completed", "response": None},
        {"selected_model_id": "a", "event": {"type": "status"}},
        {"error": {"message": "no"}},
    ],
)
def test_odd_events_pass(event: Json) -> None:
    one = EventFilter(Editing("balanced"))
    one.feed(chunk(REPEAT))
    assert one.feed(event) == event
    assert not one.has_failed


class FailingAnswer:
    """An answer whose `feed` fails in the end."""

    def __init__(self, editing: Editing) -> None:
        self._answer = Answer(editing)
        self._num_fed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._answer, name)

    def feed(self, frame: Any) -> Any:
        self._num_fed += 1
        if self._num_fed == 20:
            raise RuntimeError("a fault of ours")
        return self._answer.feed(frame)


def test_a_fault_costs_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedup.answer.events.Answer", FailingAnswer)
    one = EventFilter(Editing("balanced"))
    text = REPEAT + OTHER + REPEAT[:40]
    fed = [*map(chunk, pieces(text)), chunk(" The end.", reason="stop")]
    out = [one.feed(event) for event in fed]
    assert one.has_failed
    assert read(out) == text + " The end."


def test_a_stream_without_an_end_is_completed() -> None:
    one = EventFilter(Editing("balanced"))
    fed = REPEAT + OTHER.rstrip() + "\n\n" + REPEAT[:30]
    out = read([one.feed(event) for event in map(chunk, pieces(fed))])
    assert out != fed
    part = {"type": "output_text", "text": out.strip()}
    message = {"content": out, "output": [{"type": "message", "content": [part]}]}
    one.finish(message)
    assert message["content"] == fed
    assert part["text"] == fed


def test_a_message_that_was_not_streamed_is_filtered() -> None:
    text, thought = REPEAT + OTHER + REPEAT + "All.", LOOP * 30
    items = [
        {"type": "reasoning", "content": [{"type": "output_text", "text": thought}]},
        {"type": "function_call", "arguments": "{}", "name": "f"},
        {"type": "message", "content": [{"type": "output_text", "text": text}]},
    ]
    for message in ({"content": text}, {"content": text, "output": items}):
        one = EventFilter(Editing("balanced"))
        one.finish(message)
        assert message["content"] == REPEAT + OTHER + "All."
        assert one.summary()["removed_sentences"] == 1
    assert items[2]["content"][0]["text"] == REPEAT + OTHER + "All."
    assert len(items[0]["content"][0]["text"]) < 3 * len(LOOP)
