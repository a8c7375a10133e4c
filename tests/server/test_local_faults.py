"""The local engine when something goes wrong: what a request, its reader or the model does harms no other, and nothing is kept."""

import asyncio
import functools
import gc
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn
from transformers import BloomConfig

from dedup.logits.history import TokenHistory
from dedup_server.app import create_app
from dedup_server.engines.local import batch_engine, batching
from dedup_server.engines.local.answering import ChoicesGeneration
from dedup_server.engines.local.batch_engine import BatchEngine
from dedup_server.engines.local.batching import Batcher
from dedup_server.engines.local.choice import Choice
from dedup_server.engines.local.decoding import OnEnd, Scores, Step
from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
from dedup_server.engines.local.one_by_one import OneByOne
from dedup_server.engines.local.one_by_one import Sequence as OneSequence
from dedup_server.errors import ApiError
from dedup_server.http.protocol import Limits, protocol_with
from dedup_server.settings import Settings
from tests.demo_server import free_port
from tests.faults.proxy import Reading, Reply, http_request, read_reply
from tests.server.tiny_model import save_tiny_model, tiny_config
from tests.server.wired import generate_chunks, sampled

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = [
    "She had not slept since the night when her brother disappeared.",
    "夜深了，屋里只点着一盏灯。",
    "The river rose in the night, and by morning the bridge was gone.",
    "春天到了，院子里的老槐树又开花了。",
]
OFF = {"repetition": {"policy": "off"}}
# Goes on until its reader leaves: no end token before the last.
ENDLESS = {
    "prompt": PROMPTS[0],
    "max_tokens": 900,
    "min_tokens": 900,
    "temperature": 1,
    "stream": True,
    **OFF,
}
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1, "seed": 1},
    {"temperature": 0.7, "top_p": 0.9, "seed": 2, "n": 2},
    {"temperature": 1.2, "top_k": 20, "repetition_penalty": 1.3, "seed": 3},
    {"temperature": 0.9, "min_p": 0.05, "no_repeat_ngram_size": 2, "seed": 4, "logprobs": 3},
    {"temperature": 0.5, "dry_multiplier": 0.8, "lz_penalty": 0.2, "seed": 5},
    {
        "temperature": 0,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "logit_bias": {"100": -5},
    },
    {
        "temperature": 1,
        "dynatemp_range": 0.3,
        "repetition_temperature": 1.0,
        "seed": 6,
        "stop": ["。", ". "],
    },
]
BROKEN = 666  # the seed of a request whose processor raises

Answer = tuple[
    dict[int, str], dict[int, str], list[Any]
]  # by choice: text, why it ended; and log-probabilities


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> float:
    """How long it took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.005)
    return time.monotonic() - began


def answer_of(chunks: list[dict[str, Any]]) -> Answer:
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    logprobs = []
    for choice in (choice for chunk in chunks for choice in chunk.get("choices", [])):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
        if choice.get("logprobs"):
            logprobs.append(choice["logprobs"])
    return texts, reasons, logprobs


# --- The engine by itself ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def started(
    model: Path = DEMO_MODEL, max_concurrent: int | None = None
) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(str(model), max_concurrent=max_concurrent, device="cpu")
    await engine.start()
    try:
        yield engine
    finally:
        await asyncio.wait_for(engine.stop(), 10)


@pytest.fixture
async def engine() -> AsyncIterator[LocalEngine]:
    async with started() as engine:
        yield engine


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "bloom", tiny_config(BloomConfig))


@pytest.fixture(params=["batched", "one by one"])
async def any_engine(request: pytest.FixtureRequest, bloom: Path) -> AsyncIterator[LocalEngine]:
    model = {"batched": DEMO_MODEL, "one by one": bloom}[request.param]
    async with started(model, 16) as engine:
        assert isinstance(
            engine.loaded.decoder, Batcher if request.param == "batched" else OneByOne
        )
        yield engine


async def complete(engine: LocalEngine, **parameters: Any) -> Answer:
    request = sampled("completions", {"prompt": PROMPTS[0], **parameters})
    engine.validate(request)
    chunks: list[dict[str, Any]] = []
    await generate_chunks(engine, request, lambda events: chunks.extend(events))
    return answer_of(chunks)


class Streams:
    """Endless answers in the making, each begun."""

    def __init__(self, engine: LocalEngine, number: int, **parameters: Any) -> None:
        self.chunks: list[list[dict[str, Any]]] = [[] for _ in range(number)]
        self._begun = [asyncio.Event() for _ in range(number)]
        self.tasks = []
        for one in range(number):
            request = sampled("completions", {**ENDLESS, "seed": one, **parameters})
            self.tasks.append(
                asyncio.create_task(
                    generate_chunks(engine, request, functools.partial(self._take, one))
                )
            )

    def _take(self, one: int, events: list[dict[str, Any]]) -> None:
        self.chunks[one] += events
        self._begun[one].set()

    async def begun(self) -> None:
        async with asyncio.timeout(20):
            for event in self._begun:
                await event.wait()

    async def errors(self) -> list[BaseException | None]:
        async with asyncio.timeout(20):
            return await asyncio.gather(*self.tasks, return_exceptions=True)


def scores_become(
    engine: LocalEngine, seed: int, change: Callable[[Scores], None], after: int = 3
) -> None:
    """From the `after`th token on the model's scores for the request with this seed are changed."""
    decoder = engine.loaded.decoder
    submit = decoder.submit

    def spoilt(prompt: list[int], step: Step, on_end: OnEnd) -> Any:
        choice = step.args[0]  # type: ignore[attr-defined]

        def changed(scores: Scores) -> int | None:
            if choice._sampling.seed == seed and choice.num_tokens >= after:
                change(scores)
            return step(scores)

        return submit(prompt, changed, on_end)

    decoder.submit = spoilt  # type: ignore[method-assign]


def fails_once(model: Any, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's next step fails."""
    forward = model.forward

    def broken(*given: Any, **more: Any) -> Any:
        monkeypatch.setattr(model, "forward", forward)
        raise error

    monkeypatch.setattr(model, "forward", broken)


async def test_24_requests_of_8_settings_say_among_others_what_they_say_alone(
    engine: LocalEngine,
) -> None:
    asked = [
        {"prompt": PROMPTS[number // 8], "max_tokens": 20, "min_tokens": 10, **SETTINGS[number % 8]}
        for number in range(24)
    ]
    alone = [await complete(engine, **one) for one in asked]
    together = await asyncio.gather(*(complete(engine, **one) for one in asked))
    for one, (texts, reasons, logprobs), (texts_alone, reasons_alone, logprobs_alone) in zip(
        asked, together, alone, strict=True
    ):
        assert (texts, reasons) == (texts_alone, reasons_alone), one
        assert len(texts) == len(reasons) == one.get("n", 1)
        assert [each["tokens"] for each in logprobs] == [each["tokens"] for each in logprobs_alone]
        for each, each_alone in zip(logprobs, logprobs_alone, strict=True):
            assert each["token_logprobs"] == pytest.approx(each_alone["token_logprobs"], abs=1e-4)
    assert len({text for texts, _, _ in alone for text in texts.values()}) > 16
    assert sum(bool(logprobs) for _, _, logprobs in together) == 3


async def test_when_the_server_stops_every_stream_ends_with_an_error_at_once(
    any_engine: LocalEngine,
) -> None:
    streams = Streams(any_engine, 16)
    await streams.begun()
    waiting = Streams(any_engine, 4)
    await asyncio.sleep(0.05)
    began = time.monotonic()
    await any_engine.stop()
    assert time.monotonic() - began < 2
    for error in await streams.errors() + await waiting.errors():
        assert isinstance(error, ApiError)
        assert (error.status, error.code) == (503, "shutting_down")
    assert not any(answer_of(chunks)[1] for chunks in streams.chunks + waiting.chunks)


NAN, MINUS, PLUS = float("nan"), -float("inf"), float("inf")


@pytest.mark.parametrize("value", [NAN, MINUS, PLUS])
async def test_scores_that_are_no_numbers_are_an_error_of_the_request_that_has_them(
    any_engine: LocalEngine, value: float
) -> None:
    alone = await complete(any_engine, seed=1, max_tokens=16, min_tokens=16)
    scores_become(any_engine, BROKEN, lambda scores: scores.fill(value))
    broken = [
        complete(any_engine, **{**each, "seed": BROKEN, "min_tokens": 20, "max_tokens": 30})
        for each in SETTINGS
    ]
    *errors, whole = await asyncio.gather(
        *broken, complete(any_engine, seed=1, max_tokens=16, min_tokens=16), return_exceptions=True
    )
    assert whole == alone
    for error in errors:
        assert isinstance(error, ApiError), error
        assert (error.status, error.code) == (500, "engine_error")


async def test_one_score_that_is_not_a_number_is_enough(engine: LocalEngine) -> None:
    def spoil(scores: Scores) -> None:
        scores[np.random.default_rng(0).integers(len(scores))] = NAN

    scores_become(engine, BROKEN, spoil)
    for each in SETTINGS:
        with pytest.raises(ApiError, match="no finite score"):
            await complete(engine, **{**each, "seed": BROKEN, "min_tokens": 20, "max_tokens": 30})


async def test_a_model_that_gives_no_numbers_fails_those_in_the_step_and_not_those_to_come(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = await complete(engine, seed=1, max_tokens=20)
    model = engine.loaded.model
    forward = model.forward

    def spoilt(*given: Any, **more: Any) -> Any:
        output = forward(*given, **more)
        output.logits.fill_(NAN)
        return output

    monkeypatch.setattr(model, "forward", spoilt)
    streams = Streams(engine, 16)
    for error in await streams.errors():
        assert isinstance(error, ApiError)
        assert (error.status, error.code) == (500, "engine_error")
    monkeypatch.setattr(model, "forward", forward)
    assert await complete(engine, seed=1, max_tokens=20) == alone


async def test_a_slow_reader_keeps_nobody_waiting_and_loses_nothing(
    any_engine: LocalEngine,
) -> None:
    asked = {"seed": 1, "max_tokens": 30, "min_tokens": 30}
    alone = await complete(any_engine, **asked)
    reads = asyncio.Event()
    chunks: list[dict[str, Any]] = []

    def take(events: list[dict[str, Any]]) -> asyncio.Future[bool]:
        chunks.extend(events)
        return asyncio.ensure_future(reads.wait())

    slow = asyncio.create_task(
        generate_chunks(any_engine, sampled("completions", {"prompt": PROMPTS[0], **asked}), take)
    )
    others = await asyncio.wait_for(
        asyncio.gather(*(complete(any_engine, **asked) for _ in range(10))), 20
    )
    assert others == [alone] * 10
    assert not slow.done()
    assert len(chunks) < 30
    reads.set()
    await asyncio.wait_for(slow, 10)
    assert answer_of(chunks) == alone


async def test_a_slow_reader_that_leaves_frees_its_place(any_engine: LocalEngine) -> None:
    def take(events: list[dict[str, Any]]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    slow = [
        asyncio.create_task(generate_chunks(any_engine, sampled("completions", ENDLESS), take))
        for _ in range(16)
    ]
    await asyncio.sleep(0.1)
    for task in slow:
        task.cancel()
    await asyncio.wait(slow, timeout=1)
    assert all(task.cancelled() for task in slow)
    await asyncio.wait_for(complete(any_engine, max_tokens=1), 2)


async def with_memory(monkeypatch: pytest.MonkeyPatch, num_tokens: int) -> LocalEngine:
    """Return an engine with memory for so many tokens."""
    monkeypatch.setattr(
        BatchEngine, "_size", lambda self, context: (min(context, num_tokens), num_tokens)
    )
    engine = LocalEngine(str(DEMO_MODEL), device="cpu")
    await engine.start()
    return engine


async def test_a_prompt_longer_than_the_memory_for_it_is_refused_and_truncated_where_that_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = await with_memory(monkeypatch, 512)
    longest = 512
    with pytest.raises(ApiError, match=rf"600 tokens.*{longest}") as refused:
        await complete(engine, prompt=[100] * 600)
    assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")
    _, reasons, _ = await complete(
        engine, prompt=[100] * 600, truncate=True, max_tokens=10, min_tokens=10
    )
    assert reasons == {0: "length"}
    _, reasons, _ = await complete(engine, prompt=[100] * (longest - 1), temperature=0)
    assert set(reasons) == {0}
    asked = {
        "prompt": [100] * 240,
        "max_tokens": 40,
        "min_tokens": 40,
    }  # each outgrows a place of 256
    alone = [await complete(engine, **asked, seed=seed) for seed in range(3)]
    assert (
        await asyncio.gather(*(complete(engine, **asked, seed=seed) for seed in range(3))) == alone
    )
    await engine.stop()


async def test_where_memory_is_short_and_those_who_have_it_leave_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sequences that were put back for want of memory, and new ones, begin when those for whom they made room are gone."""
    engine = await with_memory(monkeypatch, 768)
    alone = await complete(engine, seed=1, max_tokens=20)
    decoder = engine.loaded.decoder
    assert isinstance(decoder, Batcher)
    choose = Choice.choose
    left: list[int | None] = []

    def choose_and_leave(choice: Choice, scores: Scores) -> int:
        """Its reader leaves between this step and the next."""
        if decoder.engine._waiting:
            own = [each for each in decoder._sequences.values() if each.step.args[0] is choice]  # type: ignore[attr-defined]
            decoder.cancel(own[0])
            left.append(choice._sampling.seed)
        return choose(choice, scores)

    monkeypatch.setattr(Choice, "choose", choose_and_leave)
    streams = Streams(
        engine, 3, prompt=[100] * 240, max_tokens=40, min_tokens=40
    )  # each outgrows a place of 256
    async with asyncio.timeout(20):
        while not left:  # noqa: ASYNC110 - set in the decoder's thread
            await asyncio.sleep(0.001)
    try:
        assert await asyncio.wait_for(complete(engine, seed=1, max_tokens=20), 5) == alone
        async with asyncio.timeout(10):
            for seed, task in enumerate(streams.tasks):
                while not task.done() and seed not in left:  # noqa: ASYNC110 - more may leave meanwhile
                    await asyncio.sleep(0.001)
                if task.done():
                    await task
    finally:
        for task in streams.tasks:
            task.cancel()
        await engine.stop()


class Kept:
    """How much there is of what belongs to requests."""

    def __init__(self, engine: LocalEngine) -> None:
        gc.collect()
        kinds = (
            OneSequence,
            batching.Sequence,
            batch_engine.Request,
            Choice,
            TokenHistory,
            ChoicesGeneration,
            ApiError,
        )
        found = Counter(map(type, gc.get_objects()))
        self.objects = {kind.__name__: found[kind] for kind in kinds}
        self.tasks = len(asyncio.all_tasks())
        self.threads = threading.active_count()
        self.sequences = len(getattr(engine.loaded.decoder, "_sequences", ()))

    def is_no_more_than(self, other: "Kept") -> bool:
        rest = (
            (self.tasks, self.threads, self.sequences),
            (other.tasks, other.threads, other.sequences),
        )
        return all(self.objects[kind] <= other.objects[kind] for kind in self.objects) and all(
            map(int.__le__, *rest)
        )


@pytest.mark.parametrize(
    ("any_engine", "num_rounds"), [("batched", 200), ("one by one", 10)], indirect=["any_engine"]
)
async def test_rounds_of_requests_and_cancels_leave_nothing_behind(
    any_engine: LocalEngine, num_rounds: int
) -> None:
    async def a_round(number: int) -> None:
        streams = Streams(any_engine, 4, prompt=PROMPTS[number % 4], max_tokens=200, min_tokens=200)
        if number % 2:
            await streams.begun()
        else:
            await asyncio.sleep(0.001 * (number % 7))
        for task in streams.tasks:
            task.cancel()
        await streams.errors()

    # All threads that there will be: loaded cores would start the last one only later.
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(64)))
    warm = Streams(any_engine, 16)
    await warm.begun()
    for task in warm.tasks:
        task.cancel()
    for number in range(4):
        await a_round(number)
    del warm, task
    await complete(any_engine, max_tokens=2)
    await asyncio.sleep(0.2)
    before = Kept(any_engine)
    num_objects = len(gc.get_objects())
    for number in range(num_rounds):
        await a_round(number)
    for _ in range(20):
        await complete(any_engine, max_tokens=2)
        if (after := Kept(any_engine)).is_no_more_than(before):
            break
    assert after.is_no_more_than(before), (vars(before), vars(after))
    assert len(gc.get_objects()) - num_objects < 500
    decoder = any_engine.loaded.decoder
    if isinstance(decoder, Batcher):
        assert not decoder.engine.num_active
        assert not decoder.engine.key_values.num_allocated


async def test_an_engine_that_has_no_memory_to_start_anew_tries_again(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = await complete(engine, seed=1, max_tokens=20)
    decoder = engine.loaded.decoder
    assert isinstance(decoder, Batcher)
    start, left = decoder.engine.start, [1]

    def no_memory() -> None:
        if left and left.pop():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        start()

    monkeypatch.setattr(decoder.engine, "start", no_memory)
    streams = Streams(engine, 16)
    await streams.begun()
    fails_once(
        engine.loaded.model,
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        monkeypatch,
    )
    for error in await streams.errors():
        assert isinstance(error, ApiError)
        assert (error.status, error.code) == (500, "engine_failed")
        assert "out of memory" in error.message
    async with asyncio.timeout(5):
        while True:
            try:
                assert await complete(engine, seed=1, max_tokens=20) == alone
                break
            except ApiError as error:
                if error.code != "engine_failed":
                    raise
                await asyncio.sleep(0.1)
    assert "could not be restarted" in caplog.text


# --- Over a socket, the engine in this process --------------------------------------------------------------------------------------


@dataclass
class Local:
    engine: LocalEngine
    port: int
    running: list[Any] = field(default_factory=list)  # sequences that `generate` decodes

    def watch(self, decoder: OneByOne) -> None:
        decode = decoder._decode

        def watched(sequence: Any, prompt: list[int]) -> None:
            self.running.append(sequence)
            try:
                decode(sequence, prompt)
            finally:
                self.running.remove(sequence)

        decoder._decode = watched  # type: ignore[method-assign]

    @contextmanager
    def asked(self, **fields: Any) -> Iterator[Reading]:
        """A request that is sent; its reader leaves at the end."""
        with connected(self.port) as reading:
            reading.connection.sendall(request_of(fields))
            yield reading

    def ask(self, **fields: Any) -> Reply:
        with self.asked(**fields) as reading:
            return read_reply(reading.connection)

    def metric(self, name: str) -> float:
        return metric(self.port, name)

    @property
    def num_active(self) -> int:
        """Sequences that have a place, as the decoder itself sees it, or wait for one."""
        decoder = self.engine.loaded.decoder
        if isinstance(decoder, Batcher):
            return max(decoder.num_active, decoder.engine.num_active)
        assert isinstance(decoder, OneByOne)
        return decoder._pool._work_queue.qsize() + len(self.running)


@contextmanager
def connected(port: int) -> Iterator[Reading]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        yield Reading(connection)


def request_of(fields: dict[str, Any]) -> bytes:
    return http_request(
        "POST", "/v1/completions", json.dumps({"prompt": PROMPTS[0], **OFF, **fields}).encode()
    )


def metric(port: int, name: str) -> float:
    """The sum over all labels that `name` leaves open."""
    with connected(port) as reading:
        reading.connection.sendall(http_request("GET", "/metrics", b""))
        lines = read_reply(reading.connection).body.decode().splitlines()
    name, _, label = name.partition("{")
    samples = (
        line.rsplit(" ", 1) for line in lines if line.startswith(name) and label.rstrip("}") in line
    )
    return sum(float(value) for _, value in samples)


@contextmanager
def served(model: Path, max_concurrent: int) -> Iterator[Local]:
    engine = LocalEngine(str(model), "model", max_concurrent, "cpu")
    engine.load()
    port = free_port()
    settings = Settings(max_streams=200)
    limits = Limits(
        settings.max_header_bytes, settings.header_timeout_seconds, settings.idle_timeout_seconds
    )
    options: dict[str, Any] = {
        "http": protocol_with(limits),
        "ws": "none",
        "log_config": None,
        "access_log": False,
    }
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings, engine), host="127.0.0.1", port=port, **options)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        wait_until(lambda: is_ready(port))
        local = Local(engine, port)
        if isinstance(engine.loaded.decoder, OneByOne):
            local.watch(engine.loaded.decoder)
        yield local
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def is_ready(port: int) -> bool:
    with connected(port) as reading:
        reading.connection.sendall(http_request("GET", "/health/ready", b""))
        return read_reply(reading.connection).status == 200


@pytest.fixture(scope="module")
def demo() -> Iterator[Local]:
    with served(DEMO_MODEL, 16) as local:
        yield local


@pytest.fixture(scope="module")
def single(bloom: Path) -> Iterator[Local]:
    with served(bloom, 16) as local:
        yield local


@pytest.fixture(params=["batched", "one by one"])
def local(request: pytest.FixtureRequest) -> Local:
    local: Local = request.getfixturevalue("demo" if request.param == "batched" else "single")
    return local


def all_at_once(local: Local, asked: list[dict[str, Any]]) -> list[Reply]:
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(lambda fields: local.ask(**fields), asked))


def whole(reply: Reply) -> Answer:
    """Of a reply that must be complete, streamed or not."""
    assert reply.status == 200, reply.body
    if not reply.headers["Content-Type"].startswith("text/event-stream"):
        return answer_of([reply.json])
    assert reply.events[-1] == "[DONE]"
    assert not any("error" in chunk for chunk in reply.chunks)
    answer = answer_of(reply.chunks)
    assert set(answer[1]) == set(answer[0])
    return answer


def failed(reply: Reply) -> dict[str, Any]:
    """The error of a reply that must end in one: a status, or a stream's last event with nothing behind it."""
    if reply.headers["Content-Type"].startswith("text/event-stream"):
        assert not answer_of(reply.chunks)[1], "an ending as if all were well"
        assert "[DONE]" not in reply.events
        body = reply.chunks[-1]
    else:
        assert reply.status >= 500
        body = reply.json
    assert set(body) == {"error"}
    assert body["error"]["type"] == "server_error"
    return dict(body["error"])


def test_one_whose_processor_raises_fails_alone(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        {
            "prompt": PROMPTS[one],
            "seed": one,
            "max_tokens": 24,
            "min_tokens": 24,
            "stream": bool(one % 2),
        }
        for one in range(4)
    ]
    asked = [asked[one % 4] for one in range(15)]
    alone = [whole(local.ask(**each)) for each in asked[:4]]
    choose = Choice.choose

    def broken(choice: Choice, scores: Scores) -> int:
        if choice._sampling.seed == BROKEN and choice.num_tokens == 12:
            raise ZeroDivisionError("a processor's own fault")
        return choose(choice, scores)

    monkeypatch.setattr(Choice, "choose", broken)
    for stream in (True, False):
        *others, bad = all_at_once(local, [*asked, {**asked[0], "seed": BROKEN, "stream": stream}])
        assert [whole(reply) for reply in others] == [alone[one % 4] for one in range(15)]
        assert bad.status == (200 if stream else 500)
        assert failed(bad)["code"] == "engine_failed"
        if stream:
            assert answer_of(bad.chunks)[0][0]


def test_of_16_streams_15_hang_up_and_the_16th_is_untouched(local: Local) -> None:
    asked = {**ENDLESS, "prompt": PROMPTS[1], "seed": 7, "max_tokens": 200, "min_tokens": 200}
    alone = whole(local.ask(**asked))
    with ExitStack() as staying, ExitStack() as leaving:
        stays = staying.enter_context(local.asked(**asked))
        leave = [leaving.enter_context(local.asked(**ENDLESS, seed=one)) for one in range(15)]
        for one in leave:
            one.until(b'"text"')
        assert local.metric("dedup_streams_in_progress") == 16
        leaving.close()
        seconds = wait_until(
            lambda: local.num_active <= 1 and local.metric("dedup_streams_in_progress") <= 1, 1
        )
        assert seconds < 1
        stays.until(b"[DONE]")
        _, _, body = stays.received.partition(b"\r\n\r\n")
    events = [line for line in body.decode().splitlines() if line.startswith("data: {")]
    assert answer_of([json.loads(line[6:]) for line in events]) == alone
    wait_until(lambda: local.num_active == 0 and local.metric("dedup_streams_in_progress") == 0, 1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_gone_before_its_first_token_leaves_nothing(
    local: Local, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = local.engine.loaded.model
    forward, gate, in_step = model.forward, threading.Event(), threading.Event()

    def held(*given: Any, **more: Any) -> Any:
        in_step.set()
        assert gate.wait(10)
        return forward(*given, **more)

    monkeypatch.setattr(model, "forward", held)
    gone = local.metric('dedup_requests_total{outcome="client_gone"}')
    with local.asked(**{**ENDLESS, "stream": stream}):
        assert in_step.wait(10)
        assert local.metric("dedup_streams_in_progress") == 1
    wait_until(lambda: local.metric("dedup_streams_in_progress") == 0, 1)
    assert local.metric('dedup_requests_total{outcome="client_gone"}') == gone + 1
    gate.set()
    wait_until(lambda: local.num_active == 0, 1)
    assert whole(local.ask(max_tokens=5))


def test_a_client_gone_while_it_waits_for_a_place_never_begins(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []
    choose = Choice.choose

    def noted(choice: Choice, scores: Scores) -> int:
        said.append(choice._sampling.seed or 0)
        return choose(choice, scores)

    monkeypatch.setattr(Choice, "choose", noted)
    with ExitStack() as staying:
        stays = [staying.enter_context(local.asked(**ENDLESS, n=4, seed=1)) for _ in range(4)]
        for one in stays:
            one.until(b'"text"')
        with local.asked(**ENDLESS, seed=2):
            wait_until(lambda: local.metric("dedup_streams_in_progress") == 5)
        wait_until(lambda: local.metric("dedup_streams_in_progress") == 4, 1)
    wait_until(lambda: local.num_active == 0, 1)
    assert whole(local.ask(max_tokens=5, seed=3))
    assert {1, 3} <= set(said)
    assert 2 not in said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=["runtime", "memory"],
)
def test_a_fault_of_the_model_ends_what_is_in_it_with_an_error_and_the_next_is_served(
    demo: Local, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = whole(demo.ask(seed=1, max_tokens=30))
    asked = [
        {**ENDLESS, "prompt": PROMPTS[one % 4], "seed": one, "stream": one < 16}
        for one in range(20)
    ]  # four wait
    with ThreadPoolExecutor(20) as pool:
        replies = [pool.submit(lambda fields=each: demo.ask(**fields)) for each in asked]
        wait_until(lambda: demo.num_active == 20)
        fails_once(demo.engine.loaded.model, error, monkeypatch)
        for number, reply in enumerate(replies):
            told = failed(reply.result(20))
            assert told["code"] == "engine_failed"
            assert type(error).__name__ in told["message"]
            assert (
                reply.result().status == 200
                or number >= 16
                or not reply.result().body.startswith(b"data")
            )
    assert whole(demo.ask(seed=1, max_tokens=30)) == alone
    wait_until(lambda: demo.num_active == 0 and demo.metric("dedup_streams_in_progress") == 0, 1)
    assert "the engine restarts" in caplog.text


def test_one_by_one_a_fault_of_the_model_is_that_of_one(
    single: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        {
            "prompt": PROMPTS[one % 4],
            "seed": one,
            "max_tokens": 12,
            "min_tokens": 12,
            "stream": True,
        }
        for one in range(6)
    ]
    alone = [whole(single.ask(**each)) for each in asked]
    fails_once(single.engine.loaded.model, RuntimeError("out of memory"), monkeypatch)
    replies = all_at_once(single, asked)
    bad = [
        number
        for number, reply in enumerate(replies)
        if reply.status != 200 or "[DONE]" not in reply.events
    ]
    assert len(bad) == 1
    assert failed(replies[bad[0]])["code"] == "engine_failed"
    assert [whole(reply) for number, reply in enumerate(replies) if number not in bad] == [
        answer for number, answer in enumerate(alone) if number not in bad
    ]
