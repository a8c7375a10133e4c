"""A request's life, with an engine that plays a script."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from nltk.tokenize.punkt import PunktSentenceTokenizer

from dedup.answer.channel import Editing
from dedup.answer.continuation import Support
from dedup_server.completion import Completion
from dedup_server.engines.base import Call, Take
from dedup_server.errors import ApiError, upstream_failed
from dedup_server.keep_alive import KeepAlive
from dedup_server.requests.base import GenerationRequest
from dedup_server.telemetry import Telemetry
from dedup_server.wire.sse import DONE, Event, SSEDecoder, encode
from tests.server.wired import BODIES, Wired, forwarded

Chunk = dict[str, Any]
LOOP = "I am going round and round in circles here. "
NOVEL = "The river rose in the night, and by morning the bridge was gone. Nobody in the village had heard it fall."


class ScriptedEngine:
    """Yields what it is given; an exception in the script is raised."""

    def __init__(self, script: list[Chunk | Exception]) -> None:
        self.models = ["m"]
        self.script = script
        self.yielded = 0
        self.closed = False

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def ready(self) -> bool:
        return True

    def validate(self, request: GenerationRequest) -> None: ...

    is_local = False

    def describe(self, model: str) -> dict[str, Any]:
        return {}

    def support(self, request: GenerationRequest) -> Support | None:
        return None

    async def generate(self, call: Call, take: Take) -> None:
        first = self.script[0]
        if isinstance(first, dict) and any("message" in choice for choice in first["choices"]):
            take([call.reader.read_whole(msgspec.json.encode(first))])
            return
        try:
            for item in self.script:
                if isinstance(item, Exception):
                    raise item
                self.yielded += 1
                if pause := take(call.reader.feed(encode(msgspec.json.encode(item)))):
                    await pause
                await asyncio.sleep(0)
            if pause := take(call.reader.feed(DONE)):
                await pause
        finally:
            self.closed = True


def chunk(choice: int = 0, finish_reason: str | None = None, **delta: Any) -> Chunk:
    choices = [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
    return {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": choices,
    }


def in_pieces(
    text: str, size: int = 5, choice: int = 0, name: str = "content"
) -> list[Chunk | Exception]:
    return [chunk(choice, **{name: text[at : at + size]}) for at in range(0, len(text), size)]


class Played:
    """What a reader of a stream got."""

    def __init__(self, events: list[bytes]) -> None:
        decoder = SSEDecoder()
        data = [event.data for part in events for event in decoder.feed(part) if event.data]
        self.done = bool(data) and data[-1] == b"[DONE]"
        self.chunks = [msgspec.json.decode(event) for event in data if event != b"[DONE]"]
        self.error = (
            self.chunks.pop()["error"] if self.chunks and "error" in self.chunks[-1] else None
        )
        self.choices = [choice for chunk in self.chunks for choice in chunk["choices"]]

    def text(self, choice: int = 0, name: str = "content") -> str:
        return "".join(
            one["delta"].get(name) or "" for one in self.choices if one["index"] == choice
        )

    def finish(self, choice: int = 0) -> dict[str, Any]:
        finishes = [one for one in self.choices if one["index"] == choice and one["finish_reason"]]
        assert len(finishes) == 1
        return finishes[0]


def completion(
    script: list[Chunk | Exception], **body: Any
) -> tuple[Completion, ScriptedEngine, Telemetry]:
    request = forwarded(
        "chat",
        {"messages": [{"role": "user", "content": "Hello"}], "model": "m", "stream": True, **body},
    )
    engine, telemetry = ScriptedEngine(script), Telemetry(["m"])
    return Completion(request, engine, "balanced", telemetry), engine, telemetry


async def play(
    script: list[Chunk | Exception], **body: Any
) -> tuple[Played, ScriptedEngine, Telemetry]:
    played, engine, telemetry = completion(script, **body)
    return Played(await written(played)), engine, telemetry


async def written(played: Completion) -> list[bytes]:
    """All that is written of an answer."""
    events: list[bytes] = []

    def write(part: bytes) -> None:
        events.append(part)

    events.append(await played.stream(write, write))
    return events


def count(telemetry: Telemetry, name: str, **labels: str) -> float:
    return telemetry.registry.get_sample_value(f"dedup_{name}", labels) or 0.0


async def test_novel_text_comes_out_as_it_was() -> None:
    script = [chunk(role="assistant", content=""), *in_pieces(NOVEL), chunk(finish_reason="stop")]
    played, engine, telemetry = await play(script)
    assert played.text() == NOVEL
    assert played.chunks[0] == script[0]
    assert played.finish() == chunk(finish_reason="stop")["choices"][0]
    assert played.done
    assert engine.closed
    assert count(telemetry, "requests_total", model="m", endpoint="chat", outcome="ok") == 1
    assert count(telemetry, "output_chars_total", model="m", channel="content") == len(NOVEL)
    assert count(telemetry, "streams_in_progress", model="m") == 0


async def test_a_model_that_becomes_known_while_it_answers_is_counted_by_its_name() -> None:
    """The first request may come before the upstream has said which models it has."""
    request = forwarded(
        "chat",
        {"messages": [{"role": "user", "content": "Hello"}], "model": "m", "stream": True},
    )
    telemetry = Telemetry([])
    played = Completion(
        request,
        ScriptedEngine([*in_pieces(NOVEL), chunk(finish_reason="stop")]),
        "balanced",
        telemetry,
    )
    telemetry.learn(["m"])
    await written(played)
    assert count(telemetry, "requests_total", model="m", endpoint="chat", outcome="ok") == 1
    assert count(telemetry, "requests_total", model="other", endpoint="chat", outcome="ok") == 0
    assert [count(telemetry, "streams_in_progress", model=model) for model in ("m", "other")] == [
        0,
        0,
    ]


@pytest.mark.parametrize("policy", ["off", "watch"])
async def test_off_and_watch_pass_every_chunk_on(policy: str) -> None:
    script = [*in_pieces(LOOP * 30), chunk(finish_reason="length")]
    played, _, telemetry = await play(script, repetition={"policy": policy})
    assert played.chunks == script
    flagged = sum(
        count(telemetry, "loops_total", model="m", channel="content", kind=kind, action="flagged")
        for kind in ("exact", "near", "flood")
    )
    assert flagged == (policy == "watch")


async def test_a_loop_is_cut_and_the_engine_hung_up_on() -> None:
    script = [*in_pieces(NOVEL + " "), *in_pieces(LOOP * 100), chunk(finish_reason="length")]
    played, engine, telemetry = await play(script, stream_options={"include_usage": True})
    finish = played.finish()
    assert played.text().startswith(NOVEL)
    assert played.text().count(LOOP.strip()) == 1
    assert (finish["finish_reason"], finish["stop_reason"]) == ("stop", "repetition_detected")
    assert finish["repetition"]["policy"] == "balanced"
    assert finish["repetition"]["loop"]["channel"] == "content"
    assert finish["repetition"]["removed_chars"] > 0
    assert played.chunks[-1]["usage"]["estimated"] is True
    assert played.done
    assert engine.closed
    assert engine.yielded < len(script) / 2
    assert count(telemetry, "requests_total", model="m", endpoint="chat", outcome="cut") == 1
    assert count(telemetry, "loop_detection_chars_count", model="m") == 1


async def test_a_repeated_sentence_goes_and_the_rest_stays() -> None:
    sentence = "The bridge over the river was closed last week."
    text = f"{sentence} Traffic goes through the old town now. {sentence} Buses take the northern road instead."
    played, _, telemetry = await play([*in_pieces(text), chunk(finish_reason="stop")])
    assert played.text().count(sentence) == 1
    assert "Buses take the northern road instead." in played.text()
    assert played.finish()["repetition"]["removed_sentences"] == 1
    assert "stop_reason" not in played.finish()
    assert count(telemetry, "sentences_total", model="m", channel="content", verdict="removed") == 1


async def test_each_choice_ends_for_itself() -> None:
    pairs = zip(in_pieces(NOVEL), in_pieces(LOOP * 30, choice=1), strict=False)
    script = [item for pair in pairs for item in pair]
    script += [chunk(finish_reason="stop"), *in_pieces(LOOP * 30, choice=1)]
    played, engine, _ = await play(script, n=2)
    assert played.text(0) == NOVEL
    assert "stop_reason" not in played.finish(0)
    assert played.finish(1)["stop_reason"] == "repetition_detected"
    assert engine.closed
    assert engine.yielded < len(script)


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        (in_pieces('["' + LOOP * 60), {"response_format": {"type": "json_object"}}),
        (in_pieces(LOOP * 60, name="reasoning_content"), {}),
        (
            [
                chunk(tool_calls=[{"index": 0, "function": {"arguments": part}}])
                for part in ['{"a":"', *[LOOP] * 60]
            ],
            {},
        ),
    ],
    ids=["json", "reasoning", "tool arguments"],
)
async def test_what_a_cut_leaves_unusable_ends_with_length(
    pieces: list[Chunk | Exception], body: dict[str, Any]
) -> None:
    played, _, _ = await play(pieces, **body)
    assert played.finish()["finish_reason"] == "length"
    assert played.finish()["stop_reason"] == "repetition_detected"


async def test_json_and_tool_arguments_are_not_edited() -> None:
    sentence = "The bridge over the river was closed last week. "
    text = '{"a": "' + sentence + 'It rains. ", "b": "' + sentence + '"}'
    played, _, _ = await play(
        [*in_pieces(text), chunk(finish_reason="stop")], response_format={"type": "json_object"}
    )
    assert played.text() == text
    calls = [
        chunk(
            tool_calls=[
                {
                    "index": 0,
                    "id": "t",
                    "type": "function",
                    "function": {"name": "f", "arguments": ""},
                }
            ]
        )
    ]
    calls += [
        chunk(tool_calls=[{"index": 0, "function": {"arguments": text[at : at + 7]}}])
        for at in range(0, len(text), 7)
    ]
    played, _, _ = await play([*calls, chunk(finish_reason="tool_calls")])
    given = [call for one in played.choices for call in one["delta"].get("tool_calls", [])]
    assert "".join(call["function"]["arguments"] for call in given) == text
    assert (given[0]["id"], played.finish()["finish_reason"]) == ("t", "tool_calls")


async def test_reasoning_comes_before_the_answer() -> None:
    script = [
        *in_pieces("First I think.", name="reasoning_content"),
        *in_pieces(NOVEL),
        chunk(finish_reason="stop"),
    ]
    played, _, _ = await play(script)
    names = [name for one in played.choices for name in one["delta"]]
    assert names.index("content") > max(
        i for i, name in enumerate(names) if name == "reasoning_content"
    )
    assert (played.text(name="reasoning_content"), played.text()) == ("First I think.", NOVEL)


async def test_a_failure_in_mid_stream_is_an_error_event_after_the_held_text() -> None:
    played, engine, telemetry = await play([*in_pieces(NOVEL), upstream_failed("it broke")])
    assert played.text() == NOVEL
    assert played.error["message"] == "it broke"
    assert not played.done
    assert not any(choice["finish_reason"] for choice in played.choices)
    assert engine.closed
    assert (
        count(telemetry, "requests_total", model="m", endpoint="chat", outcome="upstream_error")
        == 1
    )


async def test_a_fault_of_the_engine_is_an_error_event_without_its_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    played, _, _ = await play([*in_pieces(NOVEL), RuntimeError("secret")])
    assert (played.text(), played.error["type"]) == (NOVEL, "server_error")
    assert "secret" not in played.error["message"]
    assert "secret" in caplog.text


async def test_a_refusal_before_the_first_chunk_is_raised() -> None:
    refused, _, telemetry = completion([ApiError(429, "slow down", retry_after="3")])
    with pytest.raises(ApiError, match="slow down"):
        await written(refused)
    assert count(telemetry, "requests_total", model="m", endpoint="chat", outcome="rejected") == 1


async def test_a_reader_that_leaves_closes_the_engine() -> None:
    left, engine, telemetry = completion(in_pieces(NOVEL))
    begun = asyncio.Event()

    def write(part: bytes) -> None:
        begun.set()

    streaming = asyncio.create_task(left.stream(write, write))
    await begun.wait()
    left.leave()
    streaming.cancel()
    await asyncio.wait({streaming})
    assert streaming.cancelled()
    assert engine.closed
    assert (
        count(telemetry, "requests_total", model="m", endpoint="chat", outcome="client_gone") == 1
    )


async def test_a_server_that_stops_ends_the_stream_with_an_error() -> None:
    stopped, engine, _ = completion(in_pieces(NOVEL))
    events: list[bytes] = []

    begun = asyncio.Event()

    def write(part: bytes) -> None:
        events.append(part)
        begun.set()

    streaming = asyncio.create_task(stopped.stream(write, write))
    await begun.wait()
    streaming.cancel()
    events.append(await streaming)
    assert Played(events).error["code"] == "shutting_down"
    assert engine.closed


async def test_a_filter_that_raises_costs_the_reader_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = "It was raining when Dr. Watson came down the stairs with his bag."
    asked = 0

    def fails_at_the_second(self: PunktSentenceTokenizer, text: str) -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:  # while the sentence, which was said before, is held
            raise RuntimeError("a fault of ours")
        return False

    monkeypatch.setattr(PunktSentenceTokenizer, "text_contains_sentbreak", fails_at_the_second)
    text = f"{said} {NOVEL} {said[:-9]}"
    played, _, telemetry = await play([*in_pieces(text), chunk(finish_reason="stop")])
    assert played.text() == text
    assert played.done
    assert asked == 2
    assert count(telemetry, "filter_failures_total", model="m") == 1


async def test_bytes_that_need_no_change_leave_as_they_came() -> None:
    odd = b'{ "id":"c1", "choices" : [ {"index":0,"delta":{"content":"\\u0041 new word"},"finish_reason":null} ], "x":1e400 }'
    answer = Wired("chat", Editing("balanced"))
    for event in (odd, odd.replace(b"new", b"other"), odd.replace(b"new", b"third")):
        assert answer.feed(Event(event)) == b"data: " + event + b"\n\n"


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("escapes", [False, True])
async def test_framed_chunks_are_edited_like_any_other(size: int, escapes: bool) -> None:
    """Whether a chunk is read by its frame or in full, the reader gets the same text."""
    text = f'{LOOP}He said "no", and left <them> there.\n{LOOP}夜深了，屋里只点着一盏灯。 {LOOP * 3}And so on.'
    framed, full = (
        Wired("chat", Editing("balanced")),
        Wired("chat", Editing("balanced"), num_choices=2),
    )
    got: list[list[bytes]] = [[], []]
    for piece in in_pieces(text, size):
        data = json.dumps(piece, ensure_ascii=escapes, separators=(",", ":")).encode()
        for answer, events in zip((framed, full), got, strict=True):
            if not answer.cut:
                events.append(answer.feed(Event(data)))
    for answer, events in zip((framed, full), got, strict=True):
        events.append(answer.end())
    assert Played(got[0]).text() == Played(got[1]).text()
    assert Played(got[0]).text() != text


async def test_deltas_are_collected_into_one_response() -> None:
    call = {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": ""}}
    script = [
        chunk(role="assistant", content=""),
        *in_pieces(NOVEL),
        chunk(tool_calls=[call]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a":1}'}}]),
        chunk(finish_reason="tool_calls"),
        {
            **chunk(),
            "choices": [],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        },
    ]
    collected, _, telemetry = completion(script, stream=False)
    response = msgspec.json.decode(await collected.collect())
    message = response["choices"][0]["message"]
    assert (response["object"], message["content"], response["usage"]["total_tokens"]) == (
        "chat.completion",
        NOVEL,
        7,
    )
    assert message["tool_calls"] == [
        {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert response["choices"][0]["finish_reason"] == "tool_calls"
    assert count(telemetry, "tokens_total", model="m", type="output") == 4


async def test_a_whole_response_is_filtered_too() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    message = {"role": "assistant", "content": NOVEL + " " + LOOP * 60}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": {"content": []},
        "finish_reason": "length",
    }
    collected, _, _ = completion([{**whole, "choices": [choice]}], stream=False)
    response = msgspec.json.decode(await collected.collect())
    one = response["choices"][0]
    assert one["message"]["content"].count(LOOP.strip()) == 1
    assert (one["finish_reason"], one["stop_reason"], response["usage"]) == (
        "stop",
        "repetition_detected",
        usage,
    )


async def test_text_completions() -> None:
    request = forwarded("completions", {"prompt": "Once", "stream": True})
    texts = [NOVEL[:20], NOVEL[20:]]
    script: list[Chunk | Exception] = [
        {
            "id": "c",
            "object": "text_completion",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "text": text, "finish_reason": end}],
        }
        for text, end in zip([*texts, ""], [None, None, "stop"], strict=True)
    ]
    played = Played(
        await written(Completion(request, ScriptedEngine(script), "balanced", Telemetry()))
    )
    assert "".join(choice["text"] for choice in played.choices) == NOVEL
    assert played.choices[-1]["finish_reason"] == "stop"


class Slow(ScriptedEngine):
    """Waits ahead of each piece."""

    async def generate(self, call: Call, take: Take) -> None:
        def slowly(frames: Any) -> Any:
            async def wait() -> None:
                if pause := take(frames):
                    await pause
                await asyncio.sleep(0.02)

            return wait()

        await super().generate(call, slowly)


@pytest.mark.parametrize("seconds", [0.01, 0.0])
async def test_comments_are_sent_while_text_is_held(seconds: float) -> None:
    held = in_pieces(f"{NOVEL} {NOVEL} Then the carpenter came.", 12)
    request = forwarded("chat", {**BODIES["chat"], "model": "m"})
    engine = Slow([*held, chunk(finish_reason="stop")])
    played = Completion(request, engine, "balanced", Telemetry(["m"]), keep_alive_seconds=seconds)
    parts = await written(played)
    assert (parts.count(b": held\n\n") > 3) is bool(seconds)
    got = Played([part for part in parts if part != b": held\n\n"])
    assert got.text() == f"{NOVEL} Then the carpenter came."
    assert Played(parts).text() == got.text()


async def test_a_stream_in_which_nothing_is_held_has_no_comment() -> None:
    request = forwarded("chat", {**BODIES["chat"], "model": "m"})
    script = [*in_pieces("abcdefghij", 1), chunk(finish_reason="stop")]
    played = Completion(request, Slow(script), "off", Telemetry(["m"]), keep_alive_seconds=0.001)
    assert not any(part.startswith(b":") for part in await written(played))


async def test_comments_go_behind_one_that_is_still_being_sent() -> None:
    """Each write takes its time, as where the client reads slowly: nothing overtakes anything."""
    sent: list[bytes] = []
    busy = False

    async def send(part: bytes) -> None:
        nonlocal busy
        assert not busy, "two writes at once"
        busy = True
        await asyncio.sleep(0.003)
        sent.append(part)
        busy = False

    def write(part: bytes) -> Any:
        return asyncio.ensure_future(send(part))

    text = f"{NOVEL} {NOVEL} Then the carpenter came."
    request = forwarded("chat", {**BODIES["chat"], "model": "m"})
    script = [*in_pieces(text, 12), chunk(finish_reason="stop")]
    played = Completion(
        request, Slow(script), "balanced", Telemetry(["m"]), keep_alive_seconds=0.007
    )
    last = await played.stream(write, write)
    assert Played([*sent, last]).text() == f"{NOVEL} Then the carpenter came."
    assert b": held\n\n" in sent


def test_a_comment_comes_soon_behind_the_silence_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However the last write and the looks fall: within a quarter more."""

    class Loop:
        def call_later(self, seconds: float, look: Callable[[], None]) -> None:
            self.next = (seconds, look)

    loop, sent, silence = Loop(), [], 0.0
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: loop)
    keep_alive = KeepAlive(10, lambda: True, lambda: sent.append(silence))
    keep_alive.start()
    loop.next[1]()
    keep_alive.is_silent = False  # a write, just behind a look
    while not sent:
        silence += loop.next[0]
        loop.next[1]()
    assert 10 <= sent[0] <= 12.5
