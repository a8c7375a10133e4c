"""Properties of agent loops, over random histories."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.answer.agent_loops import AgentGuard, Call, LoopFinder, find_loop
from dedup.answer.agent_loops.notices import ANSWER_ZH, NUDGE
from dedup.answer.agent_loops.nudging import nudged
from tests.answer.agent_loops.histories import APIS, Api, Json, Made, Part, Turn, history

RESULTS = [
    "ok",
    "",
    '{"status": "running"}',
    "Error: permission denied for this account",
    "took 12ms: nothing new",
    "took 340ms: nothing new",
    "状态：处理中",
    "a longer result of several words that says what there is to say",
]
calls = st.builds(
    Made,
    st.sampled_from(["look", "read", "scroll"]),
    st.sampled_from(
        [{}, {"a": 1}, {"note": "please wait for it"}, {"note": "wait for it, please"}]
    ),
    st.sampled_from(RESULTS),
    st.booleans(),
)
turns = st.builds(
    Turn,
    st.lists(calls, max_size=2).map(tuple),
    st.sampled_from(["", "Let me look.", "I will now do it."]),
).filter(lambda one: bool(one.calls or one.text))
users = st.sampled_from(["Go on with something else.", "continue", "do it 6 times"])


@st.composite
def parts(draw: st.DrawFn) -> list[Part]:
    """Return turns, of which stretches repeat, with messages of a user between some of them."""
    made: list[Part] = []
    for _ in range(draw(st.integers(1, 4))):
        stretch: list[Part] = draw(st.lists(turns, min_size=1, max_size=4))
        made += stretch * draw(st.integers(1, 6))
        if draw(st.booleans()):
            made.append(draw(users))
    return made


@pytest.mark.parametrize("api", APIS)
@given(parts=parts())
@settings(max_examples=60, deadline=None)
def test_a_history_that_grows_is_read_as_if_it_were_new(api: Api, parts: list[Part]) -> None:
    finder = LoopFinder()
    messages = history(api, *parts)
    for end in _ends(messages):
        fresh = copy.deepcopy(messages[:end])
        before = copy.deepcopy(fresh)
        assert _told(finder.find(fresh)) == _told(find_loop(messages[:end]))
        assert fresh == before  # nothing is changed


BETWEEN: list[Json] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "<system-reminder>Mind the list.</system-reminder>"},
]


@pytest.mark.parametrize("api", APIS)
@given(parts=parts(), places=st.lists(st.integers(0, 60), max_size=4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_messages_that_stand_between_change_nothing_about_that(
    api: Api, parts: list[Part], places: list[int], data: st.DataObject
) -> None:
    finder = LoopFinder()
    messages = history(api, *parts)
    for place in places:
        messages.insert(place % (len(messages) + 1), data.draw(st.sampled_from(BETWEEN)))
    for end in range(1, len(messages) + 1):
        fresh = copy.deepcopy(messages[:end])
        assert _told(finder.find(fresh)) == _told(find_loop(messages[:end]))


@given(parts=parts())
@settings(max_examples=60, deadline=None)
def test_the_apis_agree(parts: list[Part]) -> None:
    # A response does not tell where a turn without calls ends and the next one begins.
    called = [part for part in parts if isinstance(part, str) or part.calls]
    plain = [_without_marks(part) for part in called]
    found = [find_loop(history(api, *plain)) for api in APIS]
    told = [None if one is None else (one.kind, one.cycle, one.steps) for one in found]
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("api", APIS)
@given(parts=parts(), notice=st.sampled_from([NUDGE, ANSWER_ZH]))
@settings(max_examples=60, deadline=None)
def test_a_notice_changes_nothing_but_the_end_of_the_last_result(
    api: Api, parts: list[Part], notice: str
) -> None:
    messages = history(api, *parts)
    before = copy.deepcopy(messages)
    changed = nudged(messages, notice)
    assert messages == before
    if changed is None:
        assert not any(isinstance(part, Turn) and part.calls for part in parts)
        return
    assert len(changed) == len(messages)
    places = [n for n, (one, two) in enumerate(zip(messages, changed, strict=True)) if one != two]
    assert len(places) == 1
    old, new = _result_in(messages[places[0]]), _result_in(changed[places[0]])
    assert new == (f"{old}\n\n{notice}" if old else notice)
    assert all(_result_in(one) is None for one in messages[places[0] + 1 :])
    assert _told(find_loop(changed)) == _told(find_loop(messages))
    assert nudged(changed, notice) != changed  # it can be told again


@given(parts=st.lists(calls, max_size=30))
@settings(max_examples=60, deadline=None)
def test_the_guard_and_the_messages_agree(parts: list[Made]) -> None:
    guard = AgentGuard()
    for number, call in enumerate(parts):
        verdict = guard.observe((call.name, call.arguments), call.result)
        seen = [Turn((one,)) for one in parts[: number + 1]]
        found = find_loop(history("chat", *[_without_marks(one) for one in seen], start="Do."))
        assert _told(verdict.loop) == _told(found)
        assert (verdict.action == "continue") or found is not None


@pytest.mark.parametrize("api", APIS)
@given(parts=parts())
@settings(max_examples=40, deadline=None)
def test_a_loop_goes_on_with_the_calls_of_its_next_step(api: Api, parts: list[Part]) -> None:
    loop = find_loop(history(api, *parts))
    if loop is None or loop.kind == "message":
        return
    for step in loop.next_steps:
        again = [Call(call.name, call.arguments, has_result=False) for call in step.calls]
        assert loop.is_repeated_by(again, step.text)
    assert not loop.is_repeated_by([Call("another", {}, has_result=False)])


scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9)
names = st.sampled_from(
    "role content type text id name input output call_id tool_call_id tool_use_id tool_calls function"
    " arguments action error status is_error".split()
)
words = st.sampled_from(
    "user assistant tool function system message function_call function_call_output tool_use"
    " tool_result text reasoning mcp_call computer_call custom_tool_call_output call_1".split()
)
json_values = st.recursive(
    scalars | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=12,
)
messages_of_any_form = st.lists(
    json_values | st.dictionaries(names, json_values, max_size=6), max_size=4
).map(lambda some: some * 5)


@given(messages_of_any_form)
@settings(max_examples=300, deadline=None)
def test_nothing_raises(messages: list[Any]) -> None:
    before = copy.deepcopy(messages)
    found = find_loop(messages)
    assert _told(LoopFinder().find(messages)) == _told(found)
    nudged(messages, NUDGE)
    assert messages == before


def test_the_finder_forgets_old_histories() -> None:
    finder = LoopFinder()
    step = Turn((Made("look", {}, "ok"),))
    for number in range(400):
        finder.find(history("chat", *[step] * 6, start=f"Task {number}."), number * 2**12)
    kept = [one.size for one in finder._histories.values()]
    assert sum(kept) == finder._size <= 64 * 2**20
    assert 20 < len(kept) <= 256
    finder.find(history("chat", *[step] * 6), 2**30)
    assert max(one.size for one in finder._histories.values()) < 2**30


def _ends(messages: list[Json]) -> list[int]:
    """Return the lengths of the requests that an agent would have sent on its way."""
    ends = [n for n, one in enumerate(messages) if one.get("role") == "assistant"]
    return [*ends, len(messages)]


def _told(loop: Any) -> Any:
    return loop.report() if loop is not None else None


def _without_marks(part: Part) -> Part:
    """Return a part that all APIs can say: only one of them marks errors."""
    if isinstance(part, str):
        return part
    made = tuple(Made(call.name, call.arguments, call.result) for call in part.calls)
    return Turn(made, part.text)


def _result_in(message: Json) -> str | None:
    """Return the last result in a message."""
    if message.get("role") == "tool":
        return str(message["content"])
    if str(message.get("type")).endswith("_output"):
        return str(message["output"])
    content = message.get("content")
    if message.get("role") == "user" and isinstance(content, list):
        return str(content[-1]["content"])
    return None
