"""Every metric is what one counts who knows only what the engine sent and what the clients received."""

import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dedup import FilterConfig, RepetitionFilter, repetition_metrics
from dedup.answer.agent_loops.notices import STOP
from dedup.answer.channel import Editing, no_clock
from dedup.text.loops.detector import LoopEvent
from dedup_server.telemetry import Telemetry
from tests.faults.proxy import proxy
from tests.server.mock_upstream import upstream
from tests.server.traffic import (
    ALL_KINDS,
    ARGUMENTS,
    SCRIPTS,
    STEPS,
    USAGE,
    WEATHER,
    Ask,
    Exchange,
    ScriptedUpstream,
    Sent,
    Text,
    send,
    settled,
)
from tests.server.wired import forwarded

# Of times one can know how many there are and how they stand to each other, but not how long they were.
TIMES = {
    "hold_seconds",
    "overhead_seconds",
    "time_to_first_token_seconds",
    "request_duration_seconds",
    "heal_seconds",
}
EXACT = {
    "requests", "sentences", "output_chars", "removed_chars", "loops", "tokens", "heal_attempts", "heal_discarded_chars",
    "filter_failures", "upstream_requests", "repetition_ratio", "loop_detection_chars", "streams_in_progress", "upstream_up",
    "build_info", "agent_loops", "agent_loop_tokens", "agent_nudges", "agent_loop_steps", "start_time_seconds",
}  # fmt: skip
_SENTENCE = re.compile(r"[^.!?。！？\s][^.!?。！？]*(?:[.!?。！？]|$)")


Key = tuple[str, frozenset[tuple[str, str]]]  # a metric and its labels


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


@dataclass
class Fed:
    """A text as the engine first sent it, up to where the server hung up, and its loops with what became of them."""

    text: str = ""
    loops: list[tuple[LoopEvent, str]] = field(default_factory=list)


class Truth:
    """Counts exchanges.

    Of an answer that was continued it counts only the first call by itself: how far the server read the others depends on what it
    made of them. There it holds the metrics to what the answer says of itself (`repetition`, `usage`), and that to what was sent.
    """

    def __init__(self, upstream_name: str, streams_always: bool) -> None:
        self.counts: Counter[Key] = Counter()
        self.observed: defaultdict[Key, list[float]] = defaultdict(list)
        self.spare: Counter[Key] = Counter()  # how much more it may be, where no more is known
        self._upstream = upstream_name
        self._streams_always = streams_always

    def count(self, exchange: Exchange, attempts: list[Sent]) -> None:
        ask = exchange.ask
        known = ask.model in SCRIPTS and (ask.raw is None or ask.raw.endswith(b"}"))
        model = ask.model if known else "other"
        outcome = _outcome(exchange, attempts)
        self.counts[key("requests", model=model, endpoint=ask.endpoint, outcome=outcome)] += 1
        for sent in attempts:
            code = "cancelled" if ask.leaves and exchange.status == 0 else str(sent.status)
            self.counts[key("upstream_requests", upstream=self._upstream, code=code)] += 1
        if not attempts:
            return  # refused here
        self.observed[key("request_duration_seconds", model=model)].append(exchange.seconds)
        if ask.rungs is not None:
            attempts = self._count_agent(exchange, attempts, model)
        if len(attempts) > 1:
            openings = [sent for sent in attempts if sent.is_opening]
            self.counts[key("heal_attempts", model=model)] += len(openings)
            if attempts[1].pieces:
                self.observed[key("heal_seconds", model=model)].append(0)
        texts = self._fed(exchange, attempts)
        if texts or attempts[-1].usage:
            self._count_tokens(exchange, attempts, model, texts)
        if not texts:
            return
        is_timed = ask.stream or self._streams_always or texts.get((0, "content")) == Fed(STOP)
        if exchange.texts and is_timed:
            self.observed[key("time_to_first_token_seconds", model=model)].append(0)
        self.observed[key("hold_seconds", model=model)].append(0)
        self.observed[key("overhead_seconds", model=model)].append(0)
        for place, fed in texts.items():
            self._count_text(exchange, model, place, fed, attempts)

    def _count_agent(self, exchange: Exchange, attempts: list[Sent], model: str) -> list[Sent]:
        """Count what was done about an agent in a loop. Return the one answer that it got, with the usage of all."""
        rungs = exchange.ask.rungs or ()
        repeats = [_is_call(sent, ARGUMENTS) for sent in attempts]
        asked_again = len(attempts) - 1
        is_stopped = all(repeats) and "stop" in rungs
        told: list[Any] = [finish.get("repetition") for finish in exchange.finishes.values()]
        if repeats[0]:
            action = "measured"
            if asked_again:
                action = {"nudge": "nudged", "answer": "answered"}[rungs[asked_again - 1]]
            if is_stopped:
                action = "stopped"
            self.counts[key("agent_loops", model=model, kind="exact", action=action)] += 1
            tokens = _quarter(["weather", ARGUMENTS, WEATHER])
            self.counts[key("agent_loop_tokens", model=model)] += tokens
            self.observed[key("agent_loop_steps", model=model)].append(STEPS)
            if asked_again and not is_stopped:
                outcome = "repeated" if repeats[-1] else "recovered"
                self.counts[key("agent_nudges", model=model, outcome=outcome)] += 1
            assert [one["agent_loop"]["action"] for one in told] == [action]
        else:
            assert told == [None]
        usage = {name: tokens * len(attempts) for name, tokens in USAGE.items()}
        pieces = {(0, "content"): [STOP]} if is_stopped else attempts[-1].pieces
        return [Sent(attempts[-1].body, pieces=pieces, usage=usage)]

    def _count_text(
        self, exchange: Exchange, model: str, place: Text, fed: Fed, attempts: list[Sent]
    ) -> None:
        channel, ask = place[1], exchange.ask
        policy = ask.policy or "balanced"
        received = exchange.texts.get(place, "")
        self.counts[key("output_chars", model=model, channel=channel)] += len(received)
        if (
            exchange.status >= 400
        ):  # an error stands in the answer's place: nothing was given out, but nothing removed either
            received = fed.text
        removed = 0 if ask.leaves else len(fed.text) - len(received)
        if len(attempts) > 1:
            removed = exchange.finishes[place[0]]["repetition"]["removed_chars"]
            sent = [len(piece) for one in attempts for piece in one.pieces.get(place, ())]
            assert 0 < removed + len(received) <= sum(sent) + len(attempts)  # a space at each seam
            discarded = key("heal_discarded_chars", model=model)
            if "stop_reason" in exchange.finishes[place[0]]:  # the last loop was not healed
                self.spare[discarded] += removed
            else:
                self.counts[discarded] += removed
        self.counts[key("removed_chars", model=model, channel=channel)] += removed
        if policy != "off":
            self.observed[key("repetition_ratio", model=model, channel=channel)].append(
                repetition_metrics(fed.text)["rep_4"]
            )
        for loop, action in fed.loops:
            self.counts[
                key("loops", model=model, channel=channel, kind=loop.kind, action=action)
            ] += 1
            self.observed[key("loop_detection_chars", model=model)].append(
                loop.detected_at - loop.onset
            )
        if policy in ("off", "loops") or channel == "tool_arguments" or fed.text == STOP:
            return  # in which no sentence is looked at; one that begins with "[" may be JSON
        sent, kept = _SENTENCE.findall(fed.text), _SENTENCE.findall(received)
        if ask.leaves or exchange.status >= 400:
            sent = kept = kept[:-1]  # of the last one nobody knows how it would have ended
        verdicts = {"kept": len(kept), "removed": len(sent) - len(kept), "flagged": 0}
        if fed.loops:  # in whose copies no sentence is looked at
            verdicts["removed"] = exchange.finishes[place[0]].get(
                "repetition", {"removed_sentences": 0}
            )["removed_sentences"]
        if policy == "watch":
            verdicts["flagged"] = len(kept) - len({sentence.strip() for sentence in kept})
        if (
            len(attempts) > 1
        ):  # one that two calls made may count as two, one that is withdrawn counts
            self.spare[key("sentences", model=model, channel=channel, verdict="kept")] += len(
                attempts
            )
        for verdict, number in verdicts.items():
            self.counts[key("sentences", model=model, channel=channel, verdict=verdict)] += number

    def _count_tokens(
        self, exchange: Exchange, attempts: list[Sent], model: str, texts: dict[Text, Fed]
    ) -> None:
        """As the engine reported them; a quarter of the bytes where it did not, or was hung up on before."""
        *hung_up, last = [sent for sent in attempts if sent.status == 200]
        input_tokens = _quarter([exchange.ask.prompt])
        output_tokens = _quarter([fed.text for fed in texts.values()])
        is_whole = not (exchange.ask.stream or self._streams_always)
        usage = last.usage
        is_estimated = not exchange.usage or exchange.usage.get("estimated")
        if _outcome(exchange, attempts) == "cut" and is_estimated and not is_whole:
            usage = None  # it was hung up on
        if len(attempts) > 1:
            assert exchange.usage
            if is_whole:  # the first attempt was not streamed, so it came with its usage
                input_tokens = (
                    hung_up[0].usage["prompt_tokens"] if hung_up else last.usage["prompt_tokens"]
                )
            output_tokens = exchange.usage["completion_tokens"]
            # What was not reported has as many tokens a byte as a continuation that was.
            num_bytes = [
                len("".join(map("".join, one.pieces.values())).encode()) for one in attempts
            ]
            rates = [USAGE["completion_tokens"] / size for size in num_bytes[1:] if size]
            most = sum(num_bytes) * max([0.25, *rates]) + USAGE["completion_tokens"] * len(attempts)
            assert 0 < output_tokens <= most
        elif usage:
            input_tokens, output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        if exchange.usage:
            assert (exchange.usage["prompt_tokens"], exchange.usage["completion_tokens"]) == (
                input_tokens,
                output_tokens,
            )
        self.counts[key("tokens", model=model, type="input")] += input_tokens
        self.counts[key("tokens", model=model, type="output")] += output_tokens

    def _fed(self, exchange: Exchange, attempts: list[Sent]) -> dict[Text, Fed]:
        """Return what the server read of the engine's first answer: at a loop it hangs up at the piece in which it finds it."""
        texts: dict[Text, Fed] = {}
        over: set[int] = set()  # choices that ended at a loop, of which nothing more was read
        for place, pieces in attempts[0].pieces.items():
            choice, channel = place
            if choice in over:
                continue
            policy: Any = exchange.ask.policy or "balanced"
            replayed = RepetitionFilter(
                FilterConfig(policy=policy, edit=channel != "tool_arguments"),
                prompt=exchange.ask.prompt,
            )
            fed = texts[place] = Fed()
            for piece in pieces:
                fed.text += piece
                replayed.feed(piece)
                if replayed.ended:
                    break
            if not exchange.ask.leaves:
                replayed.flush()
            if replayed.ended and (exchange.ask.stream or self._streams_always):
                over.add(choice)
            told = exchange.finishes.get(choice, {}).get("repetition") or {}
            if replayed.loop:
                fed.loops.append((replayed.loop, "cut" if replayed.ended else "flagged"))
            if len(attempts) > 1:
                loops = [(_loop(one), "healed") for one in told.get("healed", ())]
                if told["loop"]:
                    loops.append((_loop(told["loop"]), "cut"))
                assert loops[0][0] == replayed.loop
                fed.loops = loops
            elif replayed.ended:
                assert told["loop"]["onset"] == replayed.loop.onset
        return texts


def _loop(told: dict[str, Any]) -> LoopEvent:
    return LoopEvent(**{name: value for name, value in told.items() if name != "channel"})


def _is_call(sent: Sent, arguments: str) -> bool:
    return "".join(sent.pieces.get((0, "tool_arguments"), ())) == arguments


def _quarter(texts: Iterable[str]) -> int:
    return math.ceil(sum(len(text.encode()) for text in texts) / 4)


def _outcome(exchange: Exchange, attempts: list[Sent]) -> str:
    if exchange.ask.leaves:
        return "client_gone"
    if exchange.status != 200:
        return "rejected" if exchange.status < 500 else "upstream_error"
    if not exchange.done:
        return "upstream_error"
    if any("stop_reason" in finish for finish in exchange.finishes.values()):
        return "cut"
    is_healed = len(attempts) > 1 and exchange.ask.rungs is None
    return "healed" if is_healed else "ok"


def samples(text: str) -> Iterator[tuple[str, Key, dict[str, str], float]]:
    """Of a scrape the kind of each sample (`total`, `count`, ...), its metric, its labels and its value."""
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("dedup_")
        for sample in family.samples:
            labels = {label: value for label, value in sample.labels.items() if label != "le"}
            yield (
                sample.name.removeprefix(family.name + "_"),
                key(name, **labels),
                sample.labels,
                sample.value,
            )


def run(asks: Sequence[Ask], **settings: Any) -> tuple[Truth, str]:
    """What must be counted of these requests, and a scrape behind them."""
    engine = ScriptedUpstream()
    with upstream(engine), proxy(engine.url, **settings) as server:
        url = f"http://127.0.0.1:{server.port}"
        exchanges = [send(url, ask, engine, number) for number, ask in enumerate(asks)]
        text = settled(url, len(exchanges))
    truth = Truth(
        engine.url.removeprefix("http://").removesuffix("/v1"),
        settings.get("stream_upstream", True),
    )
    for exchange in exchanges:
        truth.count(exchange, engine.sent.get(exchange.id, []))
    return truth, text


@pytest.fixture(
    scope="module",
    params=[{}, {"workers": 2}, {"stream_upstream": False}],
    ids=["one", "two-workers", "whole"],
)
def counted(request: pytest.FixtureRequest) -> tuple[Truth, str]:
    return run(ALL_KINDS, **request.param)


def test_every_metric_is_looked_at() -> None:
    families = text_string_to_metric_families(Telemetry().exposition().decode())
    assert {family.name.removeprefix("dedup_") for family in families} == TIMES | EXACT


def test_counters_are_true(counted: tuple[Truth, str]) -> None:
    truth, text = counted
    measured = {one: value for kind, one, _, value in samples(text) if kind == "total"}
    for one, spare in truth.spare.items():
        least = truth.counts.pop(one, 0)
        assert least <= measured.pop(one, 0) <= least + spare, one
    assert measured == {one: value for one, value in truth.counts.items() if value}


def test_histograms_are_true(counted: tuple[Truth, str]) -> None:
    truth, text = counted
    counts = {one: value for kind, one, _, value in samples(text) if kind == "count"}
    assert counts == {one: len(values) for one, values in truth.observed.items()}
    for kind, one, labels, value in samples(text):
        values = truth.observed.get(one)
        if values is None or one[0] in TIMES:
            continue
        if kind == "sum":
            assert value == pytest.approx(sum(values), abs=1e-9), one
        elif kind == "bucket":
            assert value == sum(observed <= float(labels["le"]) for observed in values), (
                one,
                labels["le"],
            )


def test_every_metric_says_what_it_is(counted: tuple[Truth, str]) -> None:
    declared = {
        family.name: family.documentation
        for family in text_string_to_metric_families(Telemetry().exposition().decode())
    }
    for family in text_string_to_metric_families(counted[1]):
        assert family.documentation == declared[family.name]


def test_gauges_are_true(counted: tuple[Truth, str]) -> None:
    _, text = counted
    gauges: dict[str, list[float]] = defaultdict(list)
    for _, (name, _), _, value in samples(text):
        gauges[name].append(value)
    assert set(gauges["streams_in_progress"]) == {0}
    assert gauges["upstream_up"] == gauges["build_info"] == [1]
    assert 0 < time.time() - gauges["start_time_seconds"][0] < 3600


def test_times_stand_to_each_other_as_they_must(counted: tuple[Truth, str]) -> None:
    truth, text = counted
    sums: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for kind, (name, _), labels, value in samples(text):
        if kind == "sum" and name in TIMES:
            sums[labels["model"]][name] = value
    assert sums
    for model, times in sums.items():
        whole = times.pop("request_duration_seconds")
        assert all(0 <= part <= whole for part in times.values()), model
        if model not in (
            "silent",
            "stalls",
        ):  # which clients left, so that their own clocks stopped first
            assert whole <= sum(truth.observed[key("request_duration_seconds", model=model)]), model
        assert times.get("heal_seconds", 1) > 0, model


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(Ask("empty", usage=True), id="tokens of an answer without text"),
        pytest.param(
            Ask("fails"), id="time to the first text of an answer that fails right behind it"
        ),
        pytest.param(
            Ask("will-not-go-on", usage=True), id="seconds of a healing that never came about"
        ),
    ],
)
def test_an_odd_answer_is_counted_right(ask: Ask) -> None:
    truth, text = run([ask])
    measured = {one: value for kind, one, _, value in samples(text) if kind in ("total", "count")}
    for one in truth.spare:
        measured.pop(one, None)
        truth.counts.pop(one, None)
    assert measured == {
        **{one: value for one, value in truth.counts.items() if value},
        **{one: len(values) for one, values in truth.observed.items()},
    }


def test_characters_that_nobody_got_were_not_given_out() -> None:
    _, text = run([Ask("breaks", stream=False)])
    assert [
        value for _, (name, _), _, value in samples(text) if name == "output_chars" and value
    ] == []


def test_healing_a_whole_answer_takes_time() -> None:
    _, text = run([Ask("heals", stream=False)])
    (seconds,) = [
        value
        for kind, (name, _), _, value in samples(text)
        if (name, kind) == ("heal_seconds", "sum")
    ]
    assert seconds > 0


def test_text_that_passes_because_the_filter_failed_was_given_out() -> None:
    telemetry = Telemetry(["m"])
    channel = Editing("balanced").channel("content", no_clock)
    given = channel.feed("The river rose in the night. ")
    channel.filter.flush()  # so that it refuses what comes
    given += channel.feed("Nobody slept. ") + channel.feed("Then it rained.")
    telemetry.count_channel(channel, "m", is_delivered=True)
    measured = {
        one: value
        for kind, one, _, value in samples(telemetry.exposition().decode())
        if kind == "total"
    }
    assert measured[key("filter_failures", model="m")] == 1
    assert measured.get(key("output_chars", model="m", channel="content")) == len(given)


def test_the_prompt_of_a_cut_response_is_estimated() -> None:
    request = forwarded("responses", {"model": "m", "input": "What happened to the bridge?"})
    assert request.prompt_tokens == _quarter(["What happened to the bridge?"])
