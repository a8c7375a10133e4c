"""Faults of the further attempts that an agent's loop leads to: no client is worse off for them."""

import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from tests.agents.answers import CALL_STOPS, STOPS
from tests.agents.client import Reply, ask, sent
from tests.agents.histories import request
from tests.agents.models import FINAL, LOOK_UP
from tests.agents.strict import Json
from tests.agents.upstream import PATHS, SLOW_SECONDS, AgentUpstream, Api, Fault, agent_upstream
from tests.agents.usage import INPUT_TOKENS, OUTPUT_TOKENS, input_of
from tests.server.mock_upstream import proxy

COPIES = 4
APIS: tuple[Api, ...] = tuple(PATHS)
CALL = (LOOK_UP[0], input_of(LOOK_UP))
TIMEOUT_SECONDS = 1.0
FAULTS: tuple[Fault, ...] = (400, 429, 503, "break", "error", "silence")

apis = pytest.mark.parametrize("api", APIS)
streamed_or_not = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
faults = (
    pytest.mark.parametrize(  # waiting for a timeout takes a second, and no API has one of its own
        ("api", "fault"),
        [(api, fault) for api in APIS for fault in FAULTS if fault != "silence" or api == "chat"],
    )
)


@pytest.fixture(scope="module")
def served() -> Iterator[AgentUpstream]:
    with agent_upstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(served: AgentUpstream) -> AgentUpstream:
    served.clear()
    return served


@pytest.fixture(scope="module", params=[True, False], ids=["streams", "whole first"])
def url(served: AgentUpstream, request: pytest.FixtureRequest) -> Iterator[str]:
    with proxy(
        served.url, stream_upstream=request.param, first_token_timeout_seconds=TIMEOUT_SECONDS
    ) as url:
        yield url


def looping(api: Api, rungs: str, model: str = "heeds-notice", **fields: object) -> Json:
    """Return a request whose history loops, from a client that allows these rungs."""
    climbed = rungs.split(",") if rungs else []
    return request(api, model, COPIES, repetition={"agent_loops": climbed}, **fields)


def assert_call_passes(reply: Reply) -> None:
    """Require the answer that the first attempt was."""
    got = reply.got
    assert got.error == ""
    assert got.only.calls == [CALL]
    assert got.only.stop == CALL_STOPS[reply.api]
    assert FINAL.startswith(got.only.text)


@apis
@streamed_or_not
def test_without_a_fault_the_second_attempt_is_the_answer(
    upstream: AgentUpstream, url: str, api: Api, stream: bool
) -> None:
    got = ask(url, api, looping(api, "nudge", stream=stream)).got
    assert (got.only.text, got.only.calls, got.only.stop) == (FINAL, [], STOPS[api])
    assert len(upstream.received) == 2
    assert upstream.refusals == []


@apis
@streamed_or_not
def test_a_call_that_is_made_again_passes_once(
    upstream: AgentUpstream, url: str, api: Api, stream: bool
) -> None:
    body = looping(api, "nudge,answer", "heeds-nothing", stream=stream)
    assert_call_passes(ask(url, api, body))
    assert len(upstream.received) == 3
    assert upstream.refusals == []


@streamed_or_not
@faults
@pytest.mark.parametrize("rung", ["nudge", "answer"])
def test_a_further_attempt_that_fails_lets_the_call_pass(
    upstream: AgentUpstream, url: str, api: Api, stream: bool, fault: Fault, rung: str
) -> None:
    upstream.faults[1] = fault
    assert_call_passes(ask(url, api, looping(api, rung, stream=stream)))
    assert len(upstream.received) == 2


@streamed_or_not
@faults
def test_no_fault_on_the_way_up_becomes_an_error(
    upstream: AgentUpstream, url: str, api: Api, stream: bool, fault: Fault
) -> None:
    """A nudge fails. Whether the ladder is climbed further or not, the answer is whole."""
    upstream.faults[1] = fault
    got = ask(url, api, looping(api, "nudge,answer,stop", stream=stream)).got
    assert got.error == ""
    if got.only.calls:
        assert got.only.calls == [CALL]
        assert got.only.stop == CALL_STOPS[api]
    else:
        assert got.only.text.strip()
        assert got.only.stop == STOPS[api]


@streamed_or_not
@faults
def test_faults_of_the_first_attempt_are_what_they_are_without_rungs(
    upstream: AgentUpstream, url: str, api: Api, stream: bool, fault: Fault
) -> None:
    replies = []
    for rungs in ("", "nudge,answer,stop"):
        upstream.clear()
        upstream.faults[0] = fault
        replies.append(ask(url, api, looping(api, rungs, stream=stream)))
        assert len(upstream.received) == 1
    measured, climbed = replies
    if climbed.status != 200:
        # Of what is held nothing has been sent: the error still has a status of its own.
        assert climbed.raw == measured.raw or measured.got.error in climbed.raw.decode()
    else:
        assert climbed.got.error == measured.got.error != ""


@apis
@pytest.mark.parametrize("fault", [500, "break", "error"])
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
def test_an_attempt_that_fails_does_not_change_how_the_upstream_is_asked(
    upstream: AgentUpstream, api: Api, fault: Fault, number: int
) -> None:
    with proxy(upstream.url, stream_upstream=True) as url:
        upstream.faults[number] = fault
        ask(url, api, looping(api, "nudge"))
        upstream.clear()
        assert ask(url, api, looping(api, "nudge")).got.only.text == FINAL
        assert [one.body.get("stream") for one in upstream.received] == [True, True]


@apis
@streamed_or_not
def test_usage_counts_both_attempts(
    upstream: AgentUpstream, url: str, api: Api, stream: bool
) -> None:
    body = looping(api, "nudge", stream=stream)
    if api == "chat" and stream:
        body["stream_options"] = {"include_usage": True}
    assert ask(url, api, body).got.tokens == (2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


@apis
@streamed_or_not
@pytest.mark.parametrize("fault", ["silence", "slow"])
def test_a_client_that_leaves_ends_the_second_attempt(
    upstream: AgentUpstream, url: str, api: Api, stream: bool, fault: Fault
) -> None:
    upstream.faults[1] = fault
    with sent(url, api, looping(api, "nudge,answer,stop", stream=stream)):
        assert eventually(lambda: len(upstream.received) == 2)
    assert eventually(lambda: upstream.received[1].was_left)
    assert len(upstream.received) == 2
    assert eventually(lambda: "dedup_streams_in_progress 0.0" in _totals(url))


def _totals(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        lines: list[str] = response.read().decode().splitlines()
    running = [line for line in lines if line.startswith("dedup_streams_in_progress{")]
    return f"dedup_streams_in_progress {sum(float(line.split()[-1]) for line in running)}"


@apis
@streamed_or_not
@pytest.mark.parametrize(("rungs", "text"), [("", ""), ("nudge", FINAL)])
def test_a_call_that_comes_slowly_is_told_like_any_other(
    upstream: AgentUpstream, url: str, api: Api, stream: bool, rungs: str, text: str
) -> None:
    upstream.faults[0] = "slow"
    got = ask(url, api, looping(api, rungs, stream=stream)).got
    assert got.error == ""
    assert got.only.text == text
    assert got.only.calls == ([] if text else [CALL])


@apis
def test_a_proxy_that_only_measures_holds_nothing_back(
    upstream: AgentUpstream, url: str, api: Api
) -> None:
    upstream.faults[0] = "slow"
    reply = ask(url, api, looping(api, "", stream=True))
    times = [at for at, piece in reply.reads if b"Del" in piece or b"ci" in piece]
    assert times[-1] - times[0] > SLOW_SECONDS
    assert_call_passes(reply)


@streamed_or_not
def test_each_choice_climbs_for_itself(upstream: AgentUpstream, url: str, stream: bool) -> None:
    got = ask(url, "chat", looping("chat", "nudge", stream=stream, n=2)).got
    assert sorted(got.choices) == [0, 1]
    for choice in got.choices.values():
        assert (choice.text, choice.calls, choice.stop) == (FINAL, [], STOPS["chat"])
    assert upstream.refusals == []


@streamed_or_not
def test_a_choice_whose_attempt_fails_keeps_its_call(
    upstream: AgentUpstream, url: str, stream: bool
) -> None:
    upstream.faults = dict.fromkeys(range(1, 5), 500)
    got = ask(url, "chat", looping("chat", "nudge", stream=stream, n=2)).got
    assert sorted(got.choices) == [0, 1]
    for choice in got.choices.values():
        assert (choice.calls, choice.stop) == ([CALL], CALL_STOPS["chat"])
