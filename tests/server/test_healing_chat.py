"""Answers of chat and of text completions that loop behind a real connection, streamed and whole."""

from collections.abc import Iterator
from typing import Literal

import pytest

from tests.server.mock_upstream import proxy, upstream
from tests.server.traffic import (
    ARGUMENTS,
    ENGLISH,
    ROUND,
    Ask,
    Exchange,
    Script,
    ScriptedUpstream,
    says,
    send,
)

KEPT = f"{ENGLISH} {ROUND}".rstrip()
LOOPS = f"{ENGLISH} {ROUND * 60}"
THEN = "Then it rained. It rained all day."
ITEMS = "\n\n" + "".join([f"{number}. Kusi: {number + 30}\n" for number in range(1, 60)])
CALL = ("arguments", ARGUMENTS)
REASONING: tuple[tuple[Literal["reasoning_content", "content"], str], ...] = (
    ("reasoning_content", LOOPS),
    ("content", THEN),
)
SCRIPTS = {
    "heals": says(LOOPS, goes_on=(says(THEN),)),
    "breaks-at-once": says(LOOPS, goes_on=(says("Then it", ends="break"),)),
    "breaks": says(LOOPS, goes_on=(says(f"{THEN} Then the", ends="break"),)),
    "errs": says(LOOPS, goes_on=(says(f"{THEN} Then the", ends="error"),)),
    "refuses": says(LOOPS, goes_on=(Script(ends=503),)),
    "circles": says(LOOPS, goes_on=(says(ITEMS),) * 4),
    "calls": says(LOOPS, goes_on=(Script(((CALL,),)),)),  # type: ignore[arg-type]
    "calls-later": says(LOOPS, goes_on=(Script(((("content", THEN + " "), CALL),)),)),  # type: ignore[arg-type]
    "thinks-in-circles": Script((REASONING,), goes_on=(says(THEN),)),
    "thought": Script(
        ((("reasoning_content", "Let me see."), ("content", LOOPS)),), goes_on=(says(THEN),)
    ),
}
ENDPOINTS: tuple[Literal["chat", "completions"], ...] = ("chat", "completions")


@pytest.fixture(scope="module")
def engine() -> Iterator[ScriptedUpstream]:
    with upstream(ScriptedUpstream(scripts=SCRIPTS)) as engine:
        assert isinstance(engine, ScriptedUpstream)
        yield engine


@pytest.fixture(scope="module", params=[True, False], ids=["streams", "first whole"])
def url(request: pytest.FixtureRequest, engine: ScriptedUpstream) -> Iterator[str]:
    with proxy(engine.url, stream_upstream=request.param) as url:
        yield url


def answered(url: str, engine: ScriptedUpstream, ask: Ask) -> Exchange:
    engine.sent.clear()
    exchange = send(url, ask, engine, 0)
    assert exchange.status == 200
    assert exchange.done
    return exchange


streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


@streamed_or_not
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(
    ("model", "text", "is_cut"),
    [
        ("heals", f"{KEPT} {THEN}", False),
        ("breaks-at-once", KEPT, True),
        ("breaks", f"{KEPT} {THEN}", True),
        ("errs", f"{KEPT} {THEN}", True),
        ("refuses", KEPT, True),
    ],
)
def test_a_continuation_that_fails_ends_the_answer_at_the_cut(
    url: str,
    engine: ScriptedUpstream,
    endpoint: Literal["chat", "completions"],
    stream: bool,
    model: str,
    text: str,
    is_cut: bool,
) -> None:
    exchange = answered(url, engine, Ask(model, endpoint, stream=stream))
    assert exchange.texts == {(0, "content"): text}
    finish = exchange.finishes[0]
    assert finish["finish_reason"] == "stop"
    assert finish.get("stop_reason") == ("repetition_detected" if is_cut else None)
    assert finish["repetition"]["removed_chars"] > 0


@streamed_or_not
@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("model", ["heals", "refuses", "circles"])
def test_an_answer_ends_with_its_usage_however_it_ends(
    url: str,
    engine: ScriptedUpstream,
    endpoint: Literal["chat", "completions"],
    stream: bool,
    model: str,
) -> None:
    exchange = answered(url, engine, Ask(model, endpoint, stream=stream, usage=stream))
    assert exchange.usage is not None
    assert exchange.usage["total_tokens"] > exchange.usage["completion_tokens"] > 0
    (repetition,) = [finish["repetition"] for finish in exchange.finishes.values()]
    is_cut = "stop_reason" in exchange.finishes[0]
    assert is_cut == (model != "heals")
    assert (repetition["loop"] is not None) == is_cut


@streamed_or_not
@pytest.mark.parametrize(
    ("model", "text"), [("calls", KEPT), ("calls-later", f"{KEPT} {THEN}")]
)  # fmt: skip
def test_a_continuation_may_call_a_tool_once(
    url: str, engine: ScriptedUpstream, stream: bool, model: str, text: str
) -> None:
    exchange = answered(url, engine, Ask(model, stream=stream))
    assert exchange.texts == {(0, "content"): text, (0, "tool_arguments"): ARGUMENTS}
    (calls,) = engine.sent.values()
    assert [call.is_opening for call in calls] == [False, True, False]
    assert "stop_reason" not in exchange.finishes[0]


@streamed_or_not
def test_reasoning_that_loops_is_closed_and_answered(
    url: str, engine: ScriptedUpstream, stream: bool
) -> None:
    exchange = answered(url, engine, Ask("thinks-in-circles", stream=stream))
    (calls,) = engine.sent.values()
    assert exchange.texts[0, "content"] == THEN
    assert exchange.texts[0, "reasoning"].rstrip() == KEPT
    is_streamed = bool(calls[0].body.get("stream"))  # if not, the content came with the reasoning
    assert len(calls) == (2 if is_streamed else 1)
    if is_streamed:
        assert calls[1].prefix == f"<think>\n{KEPT}\n</think>\n\n"
        assert exchange.finishes[0]["repetition"]["healed"]
    assert ("stop_reason" in exchange.finishes[0]) is not is_streamed


@streamed_or_not
def test_what_was_reasoned_goes_along(url: str, engine: ScriptedUpstream, stream: bool) -> None:
    exchange = answered(url, engine, Ask("thought", stream=stream))
    assert exchange.texts == {(0, "reasoning"): "Let me see.", (0, "content"): f"{KEPT} {THEN}"}
    (calls,) = engine.sent.values()
    last = {"role": "assistant", "content": KEPT, "reasoning_content": "Let me see."}
    assert calls[1].body["messages"][-1] == last
