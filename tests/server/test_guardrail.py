"""LiteLLM's generic guardrail API: what its framework emits of what the server gives back."""

import json
import random
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from dedup.config import FilterConfig
from dedup.text import filter as filter_module
from dedup.text.filter import RepetitionFilter
from dedup_server.errors import ApiError
from dedup_server.guardrail import PATH, Guardrail, GuardrailRequest, Params, read
from dedup_server.telemetry import Telemetry
from tests.server.mock_upstream import Upstream, proxy

OPENING = "The river rose in the night, and by morning the bridge was gone. "
CIRCLE = "I am going round and round in circles here. "
SENTENCES = (
    OPENING,
    CIRCLE,
    "Nobody in the village had heard it fall.\n\n",
    "桥在夜里塌了，村里没有人听见。",
    "She said: no. ",
    "- an item\n",
    "ha ",
    "```\nx = 1\n",
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Framework:
    """LiteLLM's part in `incremental_diff`: it emits what extends what was emitted, and no more."""

    def __init__(self, guardrail: Guardrail, name: str = "call", **params: Any) -> None:
        self.guardrail = guardrail
        self.name = name
        self.params = Params(**params)
        self.emitted: dict[int, str] = {}
        self.is_blocked = False

    def round(self, texts: dict[int, str], *, is_final: bool = False) -> None:
        """Hand over the texts of the choices that have one."""
        order = sorted(choice for choice, text in texts.items() if text)
        if not order or self.is_blocked:
            return
        request = GuardrailRequest(
            "response",
            [texts[choice] for choice in order],
            self.name,
            additional_provider_specific_params=self.params,
        )
        reply = self.guardrail.answer(request, "balanced")
        if reply["action"] == "BLOCKED":
            self.is_blocked = True
            return
        new = reply.get("texts") or request.texts
        held = reply.get("stream_holdback_chars") or [0] * len(order)
        for choice, text, size in zip(order, new, held, strict=True):
            already = self.emitted.get(choice, "")
            assert text.startswith(already)
            end = max(len(already), len(text) - (0 if is_final else size))
            self.emitted[choice] = text[:end]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guardrail(clock: Clock) -> Guardrail:
    return Guardrail(Telemetry(), clock)


def filtered(text: str, policy: Any = "balanced") -> str:
    one = RepetitionFilter(FilterConfig(policy=policy))
    return one.feed(text) + one.flush()


def counted(guardrail: Guardrail) -> str:
    guardrail.close()
    return generate_latest(guardrail._telemetry.registry).decode()


texts = st.lists(st.sampled_from(SENTENCES) | st.text(max_size=8), max_size=30).map("".join)
cuts = st.lists(st.integers(1, 60), max_size=60)


def prefixes(text: str, sizes: list[int]) -> Iterator[str]:
    at = 0
    for size in sizes:
        at += size
        if at >= len(text):
            break
        yield text[:at]
    yield text


@settings(deadline=None)
@given(texts, cuts, st.sampled_from(["off", "watch", "loops", "balanced", "strict"]))
def test_what_is_emitted_is_what_the_filter_gives(text: str, sizes: list[int], policy: str) -> None:
    framework = Framework(Guardrail(Telemetry(), Clock()), policy=policy, at_loop="drain")
    for prefix in prefixes(text, sizes):
        framework.round({0: prefix})
    framework.round({0: text}, is_final=True)  # the chunk with the finish reason has no text
    assert framework.emitted.get(0, "") == filtered(text, policy)


@settings(deadline=None)
@given(texts, cuts)
def test_text_at_the_very_end_is_emitted_where_the_last_call_brings_some(
    text: str, sizes: list[int]
) -> None:
    framework = Framework(Guardrail(Telemetry(), Clock()), at_loop="drain")
    one = RepetitionFilter()
    *before, last = prefixes(text, sizes)
    for prefix in before:
        framework.round({0: prefix})
    framework.round({0: last}, is_final=True)
    released = one.feed(text)
    emitted = framework.emitted.get(0, "")
    assert emitted.startswith(released)
    if one.ended or not before:
        assert emitted == filtered(text)
    else:
        assert len(emitted) == len(released) + one.held_chars  # nothing is lost


@settings(deadline=None)
@given(texts, texts, cuts)
def test_choices_are_told_apart_by_their_texts(one: str, other: str, sizes: list[int]) -> None:
    framework = Framework(Guardrail(Telemetry(), Clock()), at_loop="drain")
    for prefix in prefixes(other, sizes):
        framework.round({1: prefix})  # the first choice has none yet
    for prefix in prefixes(one, sizes):
        framework.round({0: prefix, 1: other})
    framework.round({0: one, 1: other}, is_final=True)
    framework.round({0: one, 1: other}, is_final=True)
    assert framework.emitted.get(0, "") == filtered(one)
    assert framework.emitted.get(1, "") == filtered(other)


def test_a_stream_ends_at_the_loop_once_the_reader_has_all_before_it(guardrail: Guardrail) -> None:
    framework = Framework(guardrail)
    text = OPENING + CIRCLE * 50
    num_calls = 0
    for prefix in prefixes(text, [20] * 1000):
        framework.round({0: prefix})
        num_calls += 1
        if framework.is_blocked:
            break
    assert framework.is_blocked
    assert framework.emitted[0] == filtered(text) == (OPENING + CIRCLE).rstrip()
    assert num_calls < 15


def test_a_whole_answer_is_not_blocked_nor_where_the_call_is_made_again(
    guardrail: Guardrail,
) -> None:
    framework = Framework(guardrail)
    text = OPENING + CIRCLE * 50
    for _ in range(3):
        framework.round({0: text}, is_final=True)
        assert framework.emitted == {0: filtered(text)}
    assert not framework.is_blocked


def test_an_answer_goes_on_while_one_of_its_choices_does(guardrail: Guardrail) -> None:
    framework = Framework(guardrail)
    novel = [chr(0x4E00 + number) for number in range(19 * 7)]
    for number in range(1, 20):
        framework.round({0: OPENING + CIRCLE * number, 1: "".join(novel[: number * 7])})
    assert not framework.is_blocked
    assert framework.emitted[0] == (OPENING + CIRCLE).rstrip()
    assert framework.emitted[1] == "".join(novel)


def test_text_without_repetition_comes_back_as_no_change(guardrail: Guardrail) -> None:
    request = GuardrailRequest("response", [OPENING + "Nobody"], "call")
    reply = guardrail.answer(request, "balanced")
    assert reply["action"] == "NONE"
    assert "texts" not in reply


def test_the_prompt_is_evidence(guardrail: Guardrail) -> None:
    messages = [{"role": "user", "content": f"Write '{CIRCLE.strip()}' 60 times."}]
    asked = GuardrailRequest("request", [], "call", messages)
    assert guardrail.answer(asked, "balanced") == {"action": "NONE"}
    framework = Framework(guardrail)
    text = CIRCLE * 50
    for prefix in prefixes(text, [60] * 100):
        framework.round({0: prefix})
    framework.round({0: text}, is_final=True)
    assert framework.emitted[0] == text
    other = Framework(guardrail, "other")
    other.round({0: text}, is_final=True)
    assert len(other.emitted[0]) < len(text)


def test_an_agent_in_a_loop_is_nudged_where_the_operator_wants_it(guardrail: Guardrail) -> None:
    messages: list[Any] = [{"role": "user", "content": "How long do we keep invoices?"}]
    for number in range(6):
        function = {"name": "search", "arguments": '{"query": "invoices"}'}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "Nothing."})
    request = GuardrailRequest("request", [], "call", messages)
    assert guardrail.answer(request, "balanced") == {"action": "NONE"}
    nudge = Params(agent_loops="nudge")
    request = GuardrailRequest(
        "request", [], "call", messages, additional_provider_specific_params=nudge
    )
    reply = guardrail.answer(request, "balanced")
    *same, last = reply["structured_messages"]
    assert same == messages[:-1]
    assert last["content"].startswith("Nothing.\n\n[repetition notice]")
    assert messages[-1]["content"] == "Nothing."


def test_each_call_filters_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    num_fed = 0
    feed = RepetitionFilter.feed

    def counting(self: RepetitionFilter, delta: str) -> str:
        nonlocal num_fed
        num_fed += len(delta)
        return feed(self, delta)

    monkeypatch.setattr(RepetitionFilter, "feed", counting)
    framework = Framework(Guardrail(Telemetry(), Clock()))
    words = random.Random(5)
    text = " ".join("".join(words.choices("abcdefghijklmnop", k=6)) for _ in range(2000))
    for at in range(0, len(text), 25):
        framework.round({0: text[: at + 25]})
    framework.round({0: text}, is_final=True)
    assert framework.emitted[0] == text
    assert num_fed <= 5 * len(text)  # once, and four times to see what an end would release


def test_what_is_kept_is_bounded_in_number_and_time(clock: Clock) -> None:
    guardrail = Guardrail(Telemetry(), clock, max_answers=10, idle_seconds=60)
    text = OPENING + CIRCLE * 3 + "The end."
    frameworks = [Framework(guardrail, str(number), at_loop="drain") for number in range(40)]
    for prefix in prefixes(text, [30] * 10):
        for framework in frameworks:  # each is forgotten before it is asked for again
            framework.round({0: prefix})
            assert guardrail.num_answers <= 10
    for framework in frameworks:
        framework.round({0: text}, is_final=True)
        assert framework.emitted[0] == filtered(text)
    clock.now += 61
    guardrail.expire()
    assert guardrail.num_answers == 0


def test_an_answer_is_counted_once_it_is_over(guardrail: Guardrail, clock: Clock) -> None:
    text = OPENING + CIRCLE * 50
    request = GuardrailRequest("response", [text], "call", model="m")
    guardrail.answer(request, "balanced")
    clock.now += 61
    exposition = counted(guardrail)
    labels = 'action="cut",channel="content",kind="exact",model="m"'
    assert f"dedup_loops_total{{{labels}}} 1.0" in exposition
    labels = 'endpoint="guardrail",model="m",outcome="cut"'
    assert f"dedup_requests_total{{{labels}}} 1.0" in exposition


def test_a_fault_of_the_filter_costs_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    framework = Framework(Guardrail(Telemetry(), Clock()))
    text = OPENING + CIRCLE + OPENING + "Then more came, and it went on. "
    for at in range(10, len(OPENING + CIRCLE) + 20, 10):
        framework.round({0: text[:at]})

    def fail(self: RepetitionFilter, delta: str) -> str:
        raise RuntimeError("a fault")

    if not str(filter_module.__file__).endswith(".py"):
        pytest.skip("only an interpreted filter can be broken")
    monkeypatch.setattr(RepetitionFilter, "feed", fail)
    for at in range(len(OPENING + CIRCLE) + 20, len(text), 10):
        framework.round({0: text[:at]})
    framework.round({0: text}, is_final=True)
    assert framework.emitted[0] == text


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not valid JSON"),
        (b"[]", "Expected `object`"),
        (b'{"texts": []}', "missing required field `input_type`"),
        (b'{"input_type": "response", "texts": [1]}', "$.texts"),
        (
            b'{"input_type": "response", "additional_provider_specific_params": {"polcy": "off"}}',
            "polcy",
        ),
        (
            b'{"input_type": "response", "additional_provider_specific_params": {"policy": "x"}}',
            "Invalid enum value 'x'",
        ),
    ],
)
def test_a_bad_request_says_what_is_wrong(body: bytes, message: str) -> None:
    with pytest.raises(ApiError) as raised:
        read(body)
    assert message in str(raised.value)


def post(url: str, body: object, **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url + PATH, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def test_over_http(url: str) -> None:
    body = {"input_type": "response", "texts": [OPENING + CIRCLE * 50], "request_data": {}}
    status, reply = post(url, body)
    assert status == 200
    assert reply == {
        "action": "GUARDRAIL_INTERVENED",
        "texts": [(OPENING + CIRCLE).rstrip()],
    }
    status, reply = post(url, {"texts": ["x"]})
    assert status == 400
    assert "input_type" in reply["error"]["message"]


def test_keys_body_and_rate(mock: Upstream) -> None:
    body = {"input_type": "response", "texts": ["x"]}
    with proxy(mock.url, api_keys=("sekret",), max_body_bytes=2048, requests_per_minute=1) as url:
        assert post(url, body)[0] == 401
        for _ in range(3):  # the limit is for answers: a stream takes hundreds of calls
            status, reply = post(url, body, x_api_key="sekret")
            assert (status, reply["action"]) == (200, "NONE")
        assert post(url, {**body, "texts": ["x" * 3000]}, x_api_key="sekret")[0] == 413
