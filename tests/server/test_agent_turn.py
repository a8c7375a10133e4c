"""The turn of an agent in a loop: which frames its reader gets, whatever the attempts bring."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.answer.agent_loops import AgentLoop, find_loop
from dedup.answer.agent_loops.ladder import RUNGS, Rung
from dedup.answer.agent_loops.notices import MARK, NUDGE, NUDGE_ZH, STOP_ZH
from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup.answer.frame import CONTENT, Delta, Finish, Frame
from dedup_server.agent_turn import HOLD_CHARS, AgentTurn
from dedup_server.endpoints import CHAT, MESSAGES, RESPONSES, Endpoint
from dedup_server.engines.base import Call, Frames
from dedup_server.errors import ApiError
from dedup_server.requests.base import GenerationRequest, parse
from tests.answer.agent_loops.histories import Api, Json, history, turn

STEP = turn("look_up", {"city": "Delft"}, "No entry was found for this city in the register.")
ENDPOINTS: dict[Api, Endpoint] = {"chat": CHAT, "messages": MESSAGES, "responses": RESPONSES}


class Script:
    """Answers of an engine: one entry a call.

    `again` makes the loop's call, `other` another one, `text` says something, `empty` nothing;
    `refuse` raises, `break` ends in the middle, `fail` reports an error in the stream.
    """

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.requests: list[GenerationRequest] = []

    async def generate(self, call: Call, take: Any) -> None:
        self.requests.append(call.request)
        name = self.answers.pop(0)
        if name == "refuse":
            raise ApiError(503, "not now")
        for frame in frames_of(name, len(self.requests)):
            pause: Awaitable[None] | None = take([frame])
            if pause is not None:
                await pause


def frames_of(name: str, number: int) -> Frames:
    if name in ("again", "other", "break", "fail"):
        city = "Delft" if name in ("again", "break") else f"Gouda {number}"
        begun = Delta(0, "tool_arguments", "tool_calls.0", "", tool=(f"id{number}", "look_up"))
        given = Delta(0, "tool_arguments", "tool_calls.0", f'{{"city": "{city}"}}')
        frames = [Frame([begun], input_tokens=100), Frame([given])]
        if name == "break":
            return frames
        if name == "fail":
            return [*frames, Frame([], error=ApiError(502, "broken"))]
        return [*frames, Frame([], [Finish(0, "tool_calls")], output_tokens=20, is_last=True)]
    text = {"text": f"answer {number}", "long": "word " * HOLD_CHARS}.get(name, "")
    frames = [Frame([Delta(0, CONTENT, CONTENT, text)], input_tokens=100)] if text else []
    return [*frames, Frame([], [Finish(0, "stop")], output_tokens=20, is_last=True)]


def request_of(api: Api = "chat", start: str = "Do it.", **fields: Any) -> GenerationRequest:
    endpoint = ENDPOINTS[api]
    field = "input" if api == "responses" else "messages"
    body = {
        "model": "m",
        "tools": [{"name": "look_up"}],
        field: history(api, *[STEP] * 6, start=start),
    }
    return parse(endpoint.forwarded, {**body, **fields})


class Turned:
    """A turn that was answered: what its reader got."""

    def __init__(
        self,
        script: Script,
        rungs: tuple[Rung, ...] = RUNGS,
        request: GenerationRequest | None = None,
    ) -> None:
        request = request or request_of()
        loop = find_loop(request.agent_history or [])
        assert loop is not None
        self.loop: AgentLoop = loop
        self.script = script
        self.answer = Answer(Editing("balanced"), prompt_tokens=7)
        self.frames: Frames = []
        self.turn = AgentTurn(loop, rungs, script, self.answer, 1)  # type: ignore[arg-type]
        endpoint = ENDPOINTS[request.endpoint]
        call = Call(request, endpoint.path, endpoint.reader())
        asyncio.run(self.turn.generate(call, self._take))

    def _take(self, frames: Frames) -> None:
        for frame in frames:
            if frame.error is not None:
                raise frame.error
            self.answer.feed(frame)
        self.frames += frames

    @property
    def text(self) -> str:
        return "".join(delta.text for frame in self.frames for delta in frame.deltas)

    @property
    def ids(self) -> list[str]:
        return [delta.tool[0] for frame in self.frames for delta in frame.deltas if delta.tool]


@pytest.mark.parametrize(
    ("rungs", "answers", "action", "recovered", "text"),
    [
        ((), ["again"], "measured", None, '{"city": "Delft"}'),
        ((), ["other"], None, None, '{"city": "Gouda 1"}'),
        (RUNGS, ["other"], None, None, '{"city": "Gouda 1"}'),
        (RUNGS, ["text"], None, None, "answer 1"),
        (RUNGS, ["again", "text"], "nudged", True, "answer 2"),
        (RUNGS, ["again", "other"], "nudged", True, '{"city": "Gouda 2"}'),
        (RUNGS, ["again", "again", "text"], "answered", True, "answer 3"),
        (RUNGS, ["again", "empty", "text"], "answered", True, "answer 3"),
        (("nudge",), ["again", "again"], "nudged", False, '{"city": "Delft"}'),
        (("answer",), ["again", "text"], "answered", True, "answer 2"),
        (("nudge", "answer"), ["again", "again", "again"], "answered", False, '{"city": "Delft"}'),
        (("nudge",), ["again", "refuse"], "nudged", False, '{"city": "Delft"}'),
        (("nudge",), ["again", "break"], "nudged", False, '{"city": "Delft"}'),
        (("nudge",), ["again", "fail"], "nudged", False, '{"city": "Delft"}'),
        (("nudge",), ["again", "empty"], "nudged", False, '{"city": "Delft"}'),
        (("nudge", "answer"), ["again", "again", "refuse"], "answered", False, '{"city": "Delft"}'),
        (("nudge", "answer"), ["again", "refuse", "text"], "answered", True, "answer 3"),
    ],
)
def test_the_ladder(
    rungs: tuple[Rung, ...],
    answers: list[str],
    action: str | None,
    recovered: bool | None,
    text: str,
) -> None:
    turned = Turned(Script(*answers), rungs)
    assert (turned.turn.action, turned.turn.has_recovered) == (action, recovered)
    assert turned.text == text
    assert turned.script.answers == []
    report = turned.answer.agent_loop
    assert (report is None) == (action is None)
    if report is not None:
        assert report["action"] == action
        assert report.get("recovered") == recovered
        assert report["steps"] == 6


def test_a_turn_that_goes_on_for_ever_is_stopped() -> None:
    turned = Turned(Script("again", "again", "again"))
    assert turned.turn.action == "stopped"
    assert turned.text.startswith(MARK)
    assert turned.ids == []
    assert turned.answer.is_stopped
    assert (turned.answer.tokens.known_input, turned.answer.num_tokens) == (300, 60)


def test_a_rung_that_fails_does_not_keep_the_next_from_being_climbed() -> None:
    turned = Turned(Script("again", "refuse", "fail"))
    assert turned.turn.action == "stopped"
    assert turned.text.startswith(MARK)


def test_a_text_of_any_kind_that_is_long_passes_to_the_filter() -> None:
    class Long(Script):
        async def generate(self, call: Call, take: Any) -> None:
            self.requests.append(call.request)
            for _ in range(200):
                take([Frame([Delta(0, "reasoning", "reasoning", "I think so. " * 100)])])
            take([Frame([], [Finish(0, "stop")], is_last=True)])

    turned = Turned(Long())
    assert len(turned.frames) == 201
    assert turned.turn.action is None


@pytest.mark.parametrize("choice", ["none", {"type": "none"}])
def test_calls_that_are_forbidden(choice: Any) -> None:
    api: Api = "chat" if choice == "none" else "messages"
    assert request_of(api, tool_choice=choice).forbids_calls
    assert not request_of(api).forbids_calls


@pytest.mark.parametrize(
    ("choice", "is_forced"),
    [
        ({"type": "allowed_tools", "mode": "auto"}, False),
        ({"type": "allowed_tools", "mode": "required"}, True),
        ({"type": "mcp", "server_label": "a"}, True),
        ({"type": "auto"}, False),
        ("auto", False),
    ],
)
def test_calls_that_are_forced(choice: Any, is_forced: bool) -> None:
    assert request_of("responses", tool_choice=choice).forces_call == is_forced


def test_notices_are_in_the_language_of_the_user() -> None:
    turned = Turned(Script("again", "again", "again"), request=request_of(start="查一下代尔夫特"))
    assert turned.text == STOP_ZH
    assert NUDGE_ZH in str(turned.script.requests[1].agent_history)


@pytest.mark.parametrize("api", ["chat", "messages", "responses"])
def test_what_is_asked_again(api: Api) -> None:
    request = request_of(
        api, tool_choice="auto" if api != "messages" else {"type": "auto"}, top_p=0.9
    )
    turned = Turned(Script("again", "again", "text"), request=request)
    first, nudged, answered = (one.body for one in turned.script.requests)
    field = "input" if api == "responses" else "messages"
    none: Json | str = {"type": "none"} if api == "messages" else "none"
    assert first == request.body
    assert answered["tool_choice"] == none
    assert nudged["tool_choice"] == first["tool_choice"]
    for body in (nudged, answered):
        assert body["tools"] == first["tools"]
        assert body["top_p"] == 0.9
        assert body[field][:-1] == first[field][:-1]
        assert MARK in str(body[field][-1])
    assert NUDGE in str(nudged[field][-1])


def test_a_text_is_not_taken_for_the_json_that_is_asked_for() -> None:
    form = {"type": "json_object"}
    turned = Turned(Script("again"), ("stop",), request_of(response_format=form))
    assert [finish.reason for frame in turned.frames for finish in frame.finishes or ()] == [
        "length"
    ]


@pytest.mark.parametrize(
    ("api", "choice"),
    [("chat", "required"), ("responses", "required"), ("messages", {"type": "any"})],
)
def test_a_call_that_is_forced_is_not_forbidden(api: Api, choice: Any) -> None:
    turned = Turned(
        Script("again", "again"), ("nudge", "answer"), request_of(api, tool_choice=choice)
    )
    assert turned.turn.action == "nudged"
    assert turned.script.requests[1].body["tool_choice"] == choice


def test_usage_counts_every_attempt() -> None:
    tokens = Turned(Script("again", "text")).answer.tokens
    assert (tokens.known_input, tokens.output, tokens.is_estimated) == (200, 40, False)
    tokens = Turned(Script("again", "refuse")).answer.tokens
    assert (tokens.known_input, tokens.output, tokens.is_estimated) == (100, 20, False)
    tokens = Turned(Script("again", "break")).answer.tokens
    assert tokens.known_input == 200
    assert tokens.output is not None
    assert tokens.output > 20
    assert tokens.is_estimated  # what broke off did not report its output
    tokens = Turned(Script("other")).answer.tokens
    assert (tokens.known_input, tokens.output, tokens.is_estimated) == (100, 20, False)


def test_a_long_text_is_an_answer_and_passes_at_once() -> None:
    turned = Turned(Script("again", "long"))
    assert turned.turn.action == "nudged"
    assert turned.turn.has_recovered
    assert len(turned.text) > HOLD_CHARS


def test_a_failure_of_the_first_attempt_is_the_answers() -> None:
    with pytest.raises(ApiError, match="not now"):
        Turned(Script("refuse"))
    with pytest.raises(ApiError, match="broken"):
        Turned(Script("fail"))


def test_a_turn_holds_until_an_answer_is_accepted() -> None:
    request = request_of()
    loop = find_loop(request.agent_history or [])
    assert loop is not None
    held: list[bool] = []

    class Watched(Script):
        async def generate(self, call: Call, take: Any) -> None:
            held.append(turn.is_holding)
            await super().generate(call, take)

    turn = AgentTurn(loop, RUNGS, Watched("again", "text"), Answer(Editing("balanced")), 1)  # type: ignore[arg-type]
    endpoint = ENDPOINTS[request.endpoint]
    asyncio.run(turn.generate(Call(request, endpoint.path, endpoint.reader()), lambda frames: None))
    assert held == [True, True]
    assert not turn.is_holding


ANSWERS = ["again", "other", "text", "empty", "long", "refuse", "break", "fail"]


@given(
    st.lists(st.sampled_from(ANSWERS), min_size=3, max_size=3),
    st.sets(st.sampled_from(RUNGS)).map(lambda rungs: tuple(one for one in RUNGS if one in rungs)),
)
@settings(max_examples=300, deadline=None)
def test_the_reader_gets_one_attempt_as_it_came(
    answers: list[str], rungs: tuple[Rung, ...]
) -> None:
    script = Script(*answers)
    try:
        turned = Turned(script, rungs)
    except ApiError:
        assert answers[0] in ("refuse", "fail") or (answers[0] == "again" and not rungs)
        return
    asked = len(script.requests)
    assert asked <= 1 + len([one for one in rungs if one != "stop"])
    if turned.turn.action == "stopped":
        assert turned.text.startswith(MARK)
        return
    pieces = [
        [delta.text for frame in frames_of(name, number) for delta in frame.deltas]
        for number, name in enumerate(answers[:asked], 1)
        if name != "refuse"
    ]
    assert [delta.text for frame in turned.frames for delta in frame.deltas] in pieces
    assert len(set(turned.ids)) == len(turned.ids) <= 1
