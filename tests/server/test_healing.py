"""Healing: an answer that loops goes on differently from where the loop began, and its reader notices nothing but an answer."""

import asyncio
import json
import urllib.request
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from dedup import RepetitionFilter
from dedup.answer.boundary import can_stop
from dedup.answer.continuation import MAX_ATTEMPTS, OPENING_TOKENS, Support
from dedup.training.pairs import preference_pair
from dedup_server.completion import Completion
from dedup_server.engines.base import Call, Take
from dedup_server.engines.upstream.dialects import DRY_TOKENS
from dedup_server.errors import invalid
from dedup_server.incidents import IncidentLog
from dedup_server.requests.base import GenerationRequest
from dedup_server.telemetry import Telemetry
from dedup_server.wire.sse import DONE, encode
from tests.server.mock_upstream import LOOP, proxy, upstream
from tests.server.test_completion import NOVEL, Played, chunk, count
from tests.server.wired import forwarded

# Of simplified Chinese.
IDEOGRAPHS = [char for char in map(chr, range(0x4E00, 0x9FA6)) if char.encode("gb2312", "ignore")]
SYLLABLES = "ba ke lo min ster ru tan vel gor shi ple dan wick ous ter mo fen ly cra bond".split()


def novel(random: Random) -> str:
    """Some sentences that nobody said before, in words of English or characters of Chinese."""
    sentences = []
    for _ in range(random.randrange(2, 6)):
        if random.random() < 0.4:
            sentences.append(
                "".join(random.choice(IDEOGRAPHS) for _ in range(random.randrange(6, 25))) + "。"
            )
        else:
            words = [
                "".join(random.choices(SYLLABLES, k=random.randrange(1, 4)))
                for _ in range(random.randrange(4, 12))
            ]
            sentences.append(
                " ".join(words).capitalize() + random.choice([". ", "! ", ".\n", ".\n\n"])
            )
    return "".join(sentences)


class LoopingEngine:
    """Says something new, and then the same for ever, as often as `num_loops` says; then it ends."""

    is_local = False
    models = ("m",)

    def __init__(
        self, seed: int, num_loops: int, can_go_on: bool = True, opens: bool = False
    ) -> None:
        self.random = Random(seed)
        self.num_loops = num_loops
        self.asked: list[Call] = []
        self._can_go_on = can_go_on
        self._opens = opens

    def validate(self, request: GenerationRequest) -> None: ...

    def support(self, request: GenerationRequest) -> Support | None:
        return Support(opens=self._opens) if self._can_go_on else None

    async def generate(self, call: Call, take: Take) -> None:
        self.asked.append(call)
        prefix = prefix_of(call)
        random = self.random
        text = (" " if prefix and not prefix[-1].isspace() else "") + novel(random)
        unit = ""
        if len(self.asked) <= self.num_loops:
            unit = novel(random)[: random.choice([7, 30, 90, 200])] + random.choice(
                [" ", "\n", ". ", "。"]
            )
        pieces = [text[at : at + 5] for at in range(0, len(text), 5)] + (
            [unit] * 400 if unit.strip() else []
        )
        self._say(call, take, chunk(role="assistant", content=""))
        for piece in pieces:
            self._say(call, take, {**chunk(content=piece), "id": f"c{len(self.asked)}"})
            await asyncio.sleep(0)
        self._say(call, take, {**chunk(finish_reason="stop"), "id": f"c{len(self.asked)}"})
        self._say(call, take, None)

    def _say(self, call: Call, take: Take, said: dict[str, Any] | None) -> None:
        take(call.reader.feed(encode(msgspec.json.encode(said)) if said else DONE))


def prefix_of(call: Call) -> str:
    return call.continuation.prefix if call.continuation else ""


def body_of(call: Call) -> dict[str, Any]:
    """The body of a request, with what a continuation puts in place of its own parameters."""
    return {**call.request.body, **(call.continuation.parameters if call.continuation else {})}


async def healed(
    engine: LoopingEngine, incidents: IncidentLog | None = None, **body: Any
) -> tuple[Played, list[bytes], Completion, Telemetry]:
    request = forwarded(
        "chat",
        {"messages": [{"role": "user", "content": "Hello"}], "model": "m", "stream": True, **body},
    )
    telemetry = Telemetry(["m"])
    completion = Completion(request, engine, "balanced", telemetry, heal=True, incidents=incidents)  # type: ignore[arg-type]
    written: list[bytes] = []
    written.append(await completion.stream(written.append, written.append))
    return Played(written), written, completion, telemetry


@pytest.mark.parametrize("block", range(10))
async def test_what_the_reader_sees_is_one_answer(block: int) -> None:
    """Wherever an engine loops, however often: the pieces that were sent are one text that does not loop, each attempt went on from
    what had been sent by then, and the answer ends once, within a bounded number of attempts."""
    for seed in range(block * 100, block * 100 + 100):
        engine = LoopingEngine(seed, num_loops=seed % 7, opens=bool(block % 2))
        played, _, completion, telemetry = await healed(engine)
        text = played.text()
        assert played.error is None, seed
        assert played.done, seed
        finish = played.finish()
        assert len({one["id"] for one in played.chunks}) == 1, seed
        assert sum("role" in one["delta"] for one in played.choices) == 1, seed
        attempts = [call.continuation for call in engine.asked if call.continuation]
        attempts = [one for one in attempts if one.opening is not None]
        assert len(attempts) <= MAX_ATTEMPTS
        assert len(engine.asked) <= 1 + len(attempts) * (1 if block % 2 else 2)
        for one in attempts:
            assert text.startswith(one.prefix.removesuffix(one.insertion).rstrip()), seed
        again = RepetitionFilter()
        assert again.feed(text) + again.flush() == text, seed
        assert again.loop is None, seed
        outcome = "cut" if "stop_reason" in finish else "healed" if attempts else "ok"
        assert (
            count(telemetry, "requests_total", model="m", endpoint="chat", outcome=outcome) == 1
        ), seed
        assert outcome == "ok" or can_stop(text) or len(attempts) == MAX_ATTEMPTS, seed
        assert completion.outcome == outcome


async def test_an_engine_that_always_loops_ends_at_a_clean_cut() -> None:
    engine = LoopingEngine(1, num_loops=99)
    played, _, _, telemetry = await healed(engine)
    assert 2 <= len(engine.asked) <= 2 * MAX_ATTEMPTS + 1
    finish = played.finish()
    assert finish["finish_reason"] == "stop"
    assert finish["stop_reason"] == "repetition_detected"
    assert can_stop(played.text())
    samples = {"healed": 0.0, "cut": 0.0}
    for metric in telemetry.registry.collect():
        for sample in metric.samples:
            if sample.name == "dedup_loops_total":
                samples[sample.labels["action"]] += sample.value
    assert samples["healed"] == len(finish["repetition"]["healed"])
    assert samples["healed"] >= 1
    assert samples["cut"] == (finish["repetition"]["loop"] is not None)


@pytest.mark.parametrize(
    ("body", "can_go_on"), [({"repetition": {"heal": False}}, True), ({}, False)]
)
async def test_where_it_is_off_or_cannot_be_the_answer_is_cut(
    body: dict[str, Any], can_go_on: bool
) -> None:
    engine = LoopingEngine(1, num_loops=1, can_go_on=can_go_on)
    played, _, _, _ = await healed(engine, **body)
    assert len(engine.asked) == 1
    assert played.finish()["stop_reason"] == "repetition_detected"


async def test_without_a_loop_not_a_byte_changes() -> None:
    for seed in range(20):
        on, off = [
            await healed(LoopingEngine(seed, 0), repetition={"heal": heal})
            for heal in (True, False)
        ]
        assert b"".join(on[1]) == b"".join(off[1])


async def test_the_ladder_is_climbed_the_same_way_every_time() -> None:
    asked = [(await healed(LoopingEngine(5, 9)), LoopingEngine(5, 9)) for _ in range(2)]
    assert asked[0][0][1] == asked[1][0][1]
    engines = [LoopingEngine(5, 9), LoopingEngine(5, 9)]
    for engine in engines:
        await healed(engine, temperature=0.1, max_tokens=4000)
    bodies = [[body_of(asked) for asked in engine.asked] for engine in engines]
    assert bodies[0] == bodies[1]
    temperatures = [body["temperature"] for body in bodies[0]]
    assert temperatures == sorted(temperatures)
    opened = [
        (body["temperature"], body.get("frequency_penalty"))
        for body in bodies[0]
        if body["max_tokens"] == OPENING_TOKENS
    ]
    assert len(opened) > 1
    assert len(set(opened)) == len(opened)
    assert len({body.get("seed") for body in bodies[0]}) == len(opened) + 1


async def test_tokens_that_are_used_up_are_not_asked_for_again() -> None:
    engine = LoopingEngine(5, 9)
    played, _, _, _ = await healed(engine, max_tokens=60)
    assert len(engine.asked) == 1
    assert played.finish()["stop_reason"] == "repetition_detected"


async def test_a_loop_is_told_of_and_becomes_a_preference_pair(tmp_path: Path) -> None:
    incidents = IncidentLog(tmp_path / "loops.jsonl", 1 << 20)
    played, _, _, _ = await healed(LoopingEngine(3, 1), incidents)
    cut, _, _, _ = await healed(LoopingEngine(4, 99), incidents)
    await healed(LoopingEngine(5, 0), incidents)
    told = [
        msgspec.json.decode(line) for line in (tmp_path / "loops.jsonl").read_bytes().splitlines()
    ]
    assert [one["outcome"] for one in told] == ["healed", "cut"]
    assert told[0]["kept"] + told[0]["healed"] == played.text()
    assert cut.text().startswith(told[1]["kept"])
    assert told[1]["healed"] is None
    assert told[0]["request"]["messages"] == [{"role": "user", "content": "Hello"}]
    assert (tmp_path / "loops.jsonl").stat().st_mode & 0o077 == 0
    pair = preference_pair(told[0])
    assert pair is not None
    assert pair["chosen"] == [{"role": "assistant", "content": played.text()}]
    assert pair["rejected"][0]["content"] == told[0]["kept"] + told[0]["looped"]
    assert RepetitionFilter().feed(pair["rejected"][0]["content"]) != pair["rejected"][0]["content"]
    assert preference_pair(told[1]) is None
    with pytest.raises(ValueError, match="incident log"):
        preference_pair({"text": NOVEL})


def test_an_incident_log_is_bounded_and_its_failure_fails_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = IncidentLog(tmp_path / "loops.jsonl", 4096)
    for number in range(100):
        log.write({"kept": NOVEL, "number": number})
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["loops.jsonl", "loops.jsonl.1"]
    assert all(file.stat().st_size <= 4096 for file in files)
    assert msgspec.json.decode(files[0].read_bytes().splitlines()[-1])["number"] == 99
    lost = IncidentLog(tmp_path / "missing" / "loops.jsonl", 4096)
    for _ in range(3):
        lost.write({"kept": NOVEL})
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1


async def test_an_engine_that_refuses_to_go_on_leaves_a_clean_cut() -> None:
    class Refusing(LoopingEngine):
        async def generate(self, request: GenerationRequest, take: Take) -> None:
            if self.asked:
                raise invalid("the prompt is too long")
            await super().generate(request, take)

    played, _, completion, _ = await healed(Refusing(1, 9))
    assert played.error is None
    assert played.done
    assert played.finish()["stop_reason"] == "repetition_detected"
    assert completion.outcome == "cut"


def said_of(kept: str, owned_by: str) -> dict[str, Any]:
    """How a server is asked to go on with `kept`."""
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": kept}]
    if owned_by == "llamacpp":
        banned = [["I", False], [" I", False]]
        return {"messages": messages, "logit_bias": banned, "dry_penalty_last_n": DRY_TOKENS}
    final = {"add_generation_prompt": False, "continue_final_message": True}
    return {"messages": messages, **final}


@pytest.mark.parametrize("owned_by", ["vllm", "sglang", "llamacpp", "somebody"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["stutter", "stutter:latest"])  # one listed, and one that is not
def test_an_upstream_is_asked_to_go_on_as_it_can(owned_by: str, stream: bool, model: str) -> None:
    asked = {
        "model": model,
        "stream": stream,
        "max_tokens": 3000,  # more than the loop has, of which any part may come in one read
        "messages": [{"role": "user", "content": "Hello"}],
    }
    with upstream() as mock:
        mock.owned_by = owned_by
        with proxy(mock.url, stream_upstream=True) as url:
            request = urllib.request.Request(
                f"{url}/v1/chat/completions",
                json.dumps(asked).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=20) as response:
                body = response.read()
            with urllib.request.urlopen(url + "/metrics", timeout=20) as response:
                metrics = response.read().decode()
    if stream:
        text = Played([event + b"\n\n" for event in body.split(b"\n\n") if event]).text()
    else:
        text = json.loads(body)["choices"][0]["message"]["content"]
    if owned_by == "somebody":
        assert len(mock.bodies) == 1
        assert text == f"{NOVEL} {LOOP}".strip()
        return
    first, second = mock.bodies
    kept = f"{NOVEL} {LOOP}".strip()
    wanted = said_of(kept, owned_by)
    assert {name: second[name] for name in wanted} == wanted
    if owned_by == "vllm":
        word, *phrases = second["bad_words"]
        assert word == "I"
        assert phrases
    assert first["messages"] == asked["messages"]
    assert second["max_tokens"] == OPENING_TOKENS
    assert second["stream_options"] == {"include_usage": True}  # its tokens count
    if stream:
        assert b'"usage"' not in body  # the client did not ask for it
    label = model if model == "stutter" else "other"
    assert (
        f'dedup_requests_total{{endpoint="chat",model="{label}",outcome="healed"}} 1.0' in metrics
    )
    assert text == kept + " Then the carpenter came."
