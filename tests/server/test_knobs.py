"""What each parameter of a request to the local engine does, one by one, with scores that are known.

`KNOBS` has them all, and docs/reference/parameters.md a table that is made of it; after a change, UPDATE_DOCS=1 writes it anew.
"""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config

from dedup.config import DecodingConfig
from dedup_server.completion import Completion
from dedup_server.engines.local.decoding import OnEnd, Scores, Step
from dedup_server.engines.local.engine import _ASKS_NOTHING, _SUPPORTED, LocalEngine
from dedup_server.engines.local.token_text import TokenTexts
from dedup_server.errors import ApiError
from dedup_server.requests.base import EndpointName, GenerationRequest
from dedup_server.requests.chat import SampledChatRequest, SampledCompletionRequest, Sampling
from dedup_server.telemetry import Telemetry
from tests.server.test_completion import LOOP, Played, written
from tests.server.test_families import STARTS, T5_SIZES, TOKENS, check_table, save
from tests.server.tiny_model import save_tiny_model, tiny_config, tiny_tokenizer
from tests.server.wired import generate_chunks, sampled

pytestmark = pytest.mark.usefixtures("one_thread")

CONTEXT = 256
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
WORDS = ["<s>", "</s>", "<unk>", "▁the", "▁cat", "▁sat"]
MESSAGES = [{"role": "user", "content": "the cat sat"}]
VOCABULARY = len(tiny_tokenizer())
END = 1
FAR = -30.0  # the score of a token that nobody is to say

CAT, SAT, ON, MAT, DOG = (
    tiny_tokenizer()(word)["input_ids"][0] for word in (" cat", " sat", " on", " mat", " dog")
)
COMMA = tiny_tokenizer()(",")["input_ids"][0]
HALF, THIRD, SIXTH = math.log(0.5), math.log(0.3), math.log(0.2)

Chunk = dict[str, Any]
Engines = dict[str, LocalEngine]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngine]:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    engine = LocalEngine(
        str(save_tiny_model(folder, tiny_config(max_position_embeddings=CONTEXT))), device="cpu"
    )
    engine.load()
    engine.loaded.tokenizer.chat_template = TEMPLATE
    yield engine
    engine.loaded.decoder.stop()


def scores(favoured: dict[int, float], others: float = FAR) -> Scores:
    row = np.full(VOCABULARY, others, np.float32)
    row[list(favoured)] = list(favoured.values())
    return row


@dataclass
class Chosen:
    """A step of a sequence: the model's scores, what the request's parameters made of them, and the token."""

    before: Scores
    after: Scores
    token: int

    @property
    def changes(self) -> dict[int, float]:
        """By how much the score of each token is another, of those that are."""
        changed = (self.before != self.after).nonzero()[0]
        return {
            int(token): round(float(self.after[token] - self.before[token]), 4) for token in changed
        }


@dataclass
class Answer:
    sequences: list[list[Chosen]] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def steps(self) -> list[Chosen]:
        (steps,) = self.sequences
        return steps

    @property
    def tokens(self) -> list[int]:
        return [step.token for step in self.steps]

    @property
    def first(self) -> Counter[int]:
        """The first token of each sequence: so many draws from one row of scores."""
        return Counter(steps[0].token for steps in self.sequences)

    @property
    def choices(self) -> list[Chunk]:
        return [choice for chunk in self.chunks for choice in chunk["choices"]]

    def text(self, index: int = 0) -> str:
        ours = [choice for choice in self.choices if choice["index"] == index]
        return "".join(
            choice["text"] if "text" in choice else choice["delta"].get("content", "")
            for choice in ours
        )

    @property
    def finish(self) -> list[str]:
        return [choice["finish_reason"] for choice in self.choices if choice["finish_reason"]]

    @property
    def usage(self) -> dict[str, int] | None:
        return self.chunks[-1].get("usage")


Rows = Callable[[int], Scores]


@contextmanager
def scored(engine: LocalEngine, rows: Rows | None, answer: Answer) -> Iterator[None]:
    """The model's scores at each step of a sequence are `rows(step)`, or its own; `answer` takes note of all."""
    decoder, submit = engine.loaded.decoder, engine.loaded.decoder.submit

    def watched(prompt: list[int], step: Step, on_end: OnEnd) -> Any:
        steps: list[Chosen] = []
        answer.sequences.append(steps)
        answer.prompts.append(prompt)

        def noted(given: Scores) -> int | None:
            if rows is not None:
                given[:VOCABULARY] = rows(len(steps))
            before = given.copy()
            token = step(given)
            history = step.args[0]._history.array()  # type: ignore[attr-defined]
            steps.append(Chosen(before, given.copy(), int(history[-1])))
            return token

        return submit(prompt, noted, on_end)

    decoder.submit = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        decoder.submit = submit  # type: ignore[method-assign]


def request_of(endpoint: EndpointName = "completions", **parameters: Any) -> GenerationRequest:
    """As it comes in JSON."""
    asked = {"messages": MESSAGES} if endpoint == "chat" else {"prompt": "the cat sat"}
    return sampled(endpoint, json.loads(json.dumps(asked | parameters)))


async def ask(
    engine: LocalEngine,
    rows: Rows | None = None,
    endpoint: EndpointName = "completions",
    **parameters: Any,
) -> Answer:
    request = request_of(endpoint, **parameters)
    engine.validate(request)
    answer = Answer()

    def take(events: list[dict[str, Any]]) -> None:
        answer.chunks.extend(events)

    with scored(engine, rows, answer):
        await generate_chunks(engine, request, take)
    return answer


async def say(engine: LocalEngine, *tokens: int, then: int = END, **parameters: Any) -> Answer:
    """Of a model that says these tokens whatever it is asked, then its end."""
    said = {place: scores({token: 10.0}) for place, token in enumerate(tokens)}
    return await ask(engine, lambda step: said.get(step, scores({then: 10.0})), **parameters)


async def draw(engine: LocalEngine, favoured: dict[int, float], **parameters: Any) -> Counter[int]:
    """What is said first, in 128 tries, after these scores."""
    row = scores(favoured)
    return (
        await ask(engine, lambda step: row, **{"n": 128, "seed": 1, "max_tokens": 1} | parameters)
    ).first


def refused(
    engine: LocalEngine, endpoint: EndpointName = "completions", **parameters: Any
) -> ApiError:
    with pytest.raises(ApiError) as error:
        engine.validate(request_of(endpoint, **parameters))
    assert error.value.status == 400
    return error.value


Case = Callable[[LocalEngine], Awaitable[None]]
KNOBS: dict[str, tuple[str, Case]] = {}


def knob(name: str, effect: str) -> Callable[[Case], Case]:
    """The case of a parameter. effect: what docs/reference/parameters.md says of it."""

    def note(case: Case) -> Case:
        assert name not in KNOBS
        KNOBS[name] = (effect, case)
        return case

    return note


# Which token


@knob(
    "temperature",
    "divides the scores; 0 is greedy decoding. Default: the checkpoint's, else 1",
)
async def _(engine: LocalEngine) -> None:
    for step in (await ask(engine, temperature=0, max_tokens=20)).steps:
        assert step.token == int(step.before.argmax())
    for temperature in (0.5, 1.0, 2.0):
        drawn = await draw(engine, {CAT: 1.0, DOG: 0.0}, temperature=temperature)
        share = 1 / (1 + math.exp(-1 / temperature))
        assert abs(drawn[CAT] - 128 * share) < 4 * math.sqrt(128 * share * (1 - share)), temperature
        assert drawn[CAT] + drawn[DOG] == 128
    assert drawn == await draw(engine, {CAT: 1.0, DOG: 0.0}, temperature=2)


@knob("top_p", "keeps the likeliest tokens that have this probability together")
async def _(engine: LocalEngine) -> None:
    odds = {CAT: HALF, DOG: THIRD, MAT: SIXTH}
    assert set(await draw(engine, odds)) == {CAT, DOG, MAT}
    assert set(await draw(engine, odds, top_p=0.75)) == {CAT, DOG}
    assert set(await draw(engine, odds, top_p=0.4)) == {CAT}


@knob("top_k", "keeps this many of the likeliest tokens; 0 and -1 keep all")
async def _(engine: LocalEngine) -> None:
    odds = {CAT: HALF, DOG: THIRD, MAT: SIXTH}
    assert set(await draw(engine, odds, top_k=1)) == {CAT}
    assert set(await draw(engine, odds, top_k=2)) == {CAT, DOG}
    assert (
        await draw(engine, odds, top_k=0)
        == await draw(engine, odds, top_k=-1)
        == await draw(engine, odds)
    )


@knob("min_p", "keeps tokens with at least this share of the likeliest one's probability")
async def _(engine: LocalEngine) -> None:
    odds = {CAT: HALF, DOG: THIRD, MAT: SIXTH}
    assert set(await draw(engine, odds, min_p=0.3)) == {CAT, DOG, MAT}
    assert set(await draw(engine, odds, min_p=0.5)) == {CAT, DOG}
    assert set(await draw(engine, odds, min_p=0.7)) == {CAT}


@knob(
    "seed",
    "makes the answer reproducible, in float32 whatever else runs; without it every answer differs",
)
async def _(engine: LocalEngine) -> None:
    alone = (await ask(engine, seed=7, max_tokens=30)).text()
    with scored(engine, None, Answer()):
        requests = [request_of(seed=seed, max_tokens=30) for seed in (7, 8, 7)]
        texts = ["", "", ""]

        def into(number: int) -> Callable[[list[dict[str, Any]]], None]:
            def take(events: list[dict[str, Any]]) -> None:
                for chunk in events:
                    texts[number] += "".join(choice["text"] for choice in chunk["choices"])

            return take

        await asyncio.gather(
            *(
                generate_chunks(engine, request, into(number))
                for number, request in enumerate(requests)
            )
        )
    assert texts[0] == texts[2] == alone
    assert texts[1] != alone
    assert (await ask(engine, max_tokens=30)).text() != (await ask(engine, max_tokens=30)).text()


@knob("logit_bias", "added to tokens' scores, -100 to 100, by token id")
async def _(engine: LocalEngine) -> None:
    row = scores({CAT: 2.0, DOG: 1.0})
    biased = await ask(
        engine,
        lambda step: row,
        logit_bias={str(CAT): -5, str(MAT): 2.5},
        temperature=0,
        max_tokens=3,
    )
    for step in biased.steps:
        assert step.changes == {CAT: -5.0, MAT: 2.5}
    assert biased.tokens == [DOG] * 3
    assert (await ask(engine, logit_bias={str(MAT): 100}, max_tokens=5)).tokens == [MAT] * 5
    unbiased = await ask(engine, temperature=0, max_tokens=10)
    banned = await ask(engine, logit_bias={str(unbiased.tokens[0]): -100}, max_tokens=30, seed=1)
    assert unbiased.tokens[0] not in banned.tokens


# Penalties: `changes` has every token whose score was touched, so what is not in it was not.


async def penalized(
    engine: LocalEngine, prompt: list[int], said: list[int], **parameters: Any
) -> list[dict[int, float]]:
    """The changes at each step of an answer of these tokens, whose scores are 4 where they are in `prompt` or `said`."""
    known = sorted({*prompt, *said})

    def rows(step: int) -> Scores:
        return scores(dict.fromkeys(known, 4.0) | dict.fromkeys(said[step : step + 1], 40.0), -4.0)

    length = len(said) + 1
    return [
        step.changes
        for step in (
            await ask(engine, rows, prompt=prompt, temperature=0, max_tokens=length, **parameters)
        ).steps
    ]


@knob(
    "repetition_penalty",
    "for tokens of prompt and answer: divides scores above 0, multiplies those below. Default: the checkpoint's, else off",
)
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [CAT, SAT, CAT], [DOG], repetition_penalty=2)
    assert changes == [{CAT: -2.0, SAT: -2.0}, {CAT: -2.0, SAT: -2.0, DOG: -2.0}]
    below = await ask(
        engine,
        lambda step: scores({MAT: 1.0}, -4.0),
        prompt=[CAT],
        repetition_penalty=2,
        max_tokens=1,
    )
    assert below.steps[0].changes == {CAT: -4.0}


@knob("presence_penalty", "subtracted from the scores of tokens of the answer")
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [CAT], [DOG, DOG], presence_penalty=0.5)
    assert changes == [{}, {DOG: -0.5}, {DOG: -0.5}]


@knob("frequency_penalty", "subtracted from the scores of tokens of the answer, times their count")
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [CAT], [DOG, DOG], frequency_penalty=0.5)
    assert changes == [{}, {DOG: -0.5}, {DOG: -1.0}]


@knob("penalty_last_n", "number of last tokens that these three look at; -1 is all")
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [CAT], [DOG, SAT], presence_penalty=0.5, penalty_last_n=1)
    assert changes == [{}, {DOG: -0.5}, {SAT: -0.5}]


@knob(
    "penalty_decay",
    "weight of an occurrence in the frequency penalty, to the power of the number of later tokens",
)
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [CAT], [DOG, SAT], frequency_penalty=1, penalty_decay=0.5)
    assert changes == [{}, {DOG: -1.0}, {DOG: -0.5, SAT: -1.0}]


@knob(
    "penalize_prompt",
    "whether the prompt counts in these three; default: in the repetition penalty only",
)
async def _(engine: LocalEngine) -> None:
    assert await penalized(engine, [CAT], [DOG], presence_penalty=1, penalize_prompt=True) == [
        {CAT: -1.0},
        {CAT: -1.0, DOG: -1.0},
    ]
    assert await penalized(engine, [CAT], [DOG], repetition_penalty=2, penalize_prompt=False) == [
        {},
        {DOG: -2.0},
    ]


@knob("no_repeat_ngram_size", "no n-gram of this size occurs twice in prompt and answer")
async def _(engine: LocalEngine) -> None:
    assert await penalized(engine, [CAT, SAT, CAT], [], no_repeat_ngram_size=2) == [
        {SAT: -math.inf}
    ]
    assert await penalized(engine, [CAT, SAT, CAT], [], no_repeat_ngram_size=3) == [{}]
    assert await penalized(engine, [CAT, SAT, ON, CAT, SAT], [], no_repeat_ngram_size=3) == [
        {ON: -math.inf}
    ]


@knob(
    "no_repeat_ngram_window",
    "number of last tokens among which such an n-gram may begin; -1 is all",
)
async def _(engine: LocalEngine) -> None:
    asked = {"no_repeat_ngram_size": 2}
    assert await penalized(engine, [CAT, SAT, ON, CAT], [], no_repeat_ngram_window=4, **asked) == [
        {SAT: -math.inf}
    ]
    assert await penalized(engine, [CAT, SAT, ON, CAT], [], no_repeat_ngram_window=3, **asked) == [
        {}
    ]


@knob(
    "encoder_no_repeat_ngram_size",
    "no n-gram of this size of an encoder's input occurs in the answer",
)
async def _(engine: LocalEngine) -> None:
    """Of T5; see the fixture below. A model without an encoder refuses it."""
    assert refused(engine, encoder_no_repeat_ngram_size=2).param == "encoder_no_repeat_ngram_size"


@knob(
    "dry_multiplier",
    "DRY: a token that continues a repeated suffix loses multiplier · base^(length - allowed_length)",
)
async def _(engine: LocalEngine) -> None:
    assert await penalized(engine, [CAT, SAT, ON, CAT, SAT], [], dry_multiplier=0.5) == [{ON: -0.5}]
    assert await penalized(engine, [CAT, SAT, ON, CAT], [], dry_multiplier=0.5) == [{}]


STRETCH = [DOG, CAT, SAT, ON, DOG, CAT, SAT]  # of three tokens, said twice


@knob("dry_base", "see dry_multiplier")
async def _(engine: LocalEngine) -> None:
    for base in (2.0, 3.0):
        assert await penalized(engine, STRETCH, [], dry_multiplier=1, dry_base=base) == [
            {ON: -base}
        ]


@knob("dry_allowed_length", "see dry_multiplier")
async def _(engine: LocalEngine) -> None:
    for allowed, lost in ((1, 4.0), (3, 1.0)):
        assert await penalized(
            engine, STRETCH, [], dry_multiplier=1, dry_base=2, dry_allowed_length=allowed
        ) == [{ON: -lost}]
    assert await penalized(
        engine, STRETCH, [], dry_multiplier=1, dry_base=2, dry_allowed_length=4
    ) == [{}]


@knob("dry_sequence_breakers", "strings that end a suffix")
async def _(engine: LocalEngine) -> None:
    asked = {"dry_multiplier": 1, "dry_base": 2}
    assert await penalized(engine, STRETCH, [], dry_sequence_breakers=[" dog"], **asked) == [
        {ON: -1.0}
    ]
    assert await penalized(engine, STRETCH, [], dry_sequence_breakers=[" cat"], **asked) == [{}]
    assert await penalized(engine, STRETCH, [], dry_sequence_breakers=[], **asked) == [{ON: -2.0}]


@knob(
    "dry_penalty_last_n",
    "number of last tokens, of prompt and answer, that DRY looks at; -1 (default) is all, 0 is off",
)
async def _(engine: LocalEngine) -> None:
    for last_n, expected in ((-1, {ON: -2.0}), (7, {ON: -2.0}), (6, {ON: -1.0}), (4, {}), (0, {})):
        changes = await penalized(
            engine, STRETCH, [], dry_multiplier=1, dry_base=2, dry_penalty_last_n=last_n
        )
        assert changes == [expected], last_n


SAVED = math.log2(VOCABULARY)


@knob(
    "lz_penalty",
    "strength of the penalty on tokens of the answer that compression would save; nearer ones cost more",
)
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [MAT], [CAT, SAT, CAT], lz_penalty=0.5, lz_buffer=1)
    assert changes[0] == changes[1] == {}
    assert changes[2] == pytest.approx({SAT: -0.5 * SAVED}, abs=1e-3)
    assert changes[3] == pytest.approx({SAT: -0.5 * (SAVED - 1), CAT: -0.5 * SAVED}, abs=1e-3)


@knob("lz_window", "number of tokens of the answer that the LZ penalty looks at")
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [MAT], [CAT, SAT, ON], lz_penalty=1, lz_buffer=1, lz_window=2)
    assert [set(change) for change in changes] == [set(), set(), {SAT}, {ON}]


@knob("lz_buffer", "number of tokens that must precede a penalized one, and are compared")
async def _(engine: LocalEngine) -> None:
    changes = await penalized(engine, [MAT], [CAT, SAT, ON], lz_penalty=1, lz_buffer=2)
    assert [set(change) for change in changes] == [set(), set(), set(), {ON}]


@knob(
    "exempt", "kinds of tokens that no penalty touches: special, newlines, digits, json, template"
)
async def _(engine: LocalEngine) -> None:
    prompt = [CAT, END, COMMA]
    for kinds, spared in (
        ([], set()),
        (["special"], {END}),
        (["json"], {COMMA}),
        (["special", "json"], {END, COMMA}),
    ):
        changes = await penalized(engine, prompt, [], repetition_penalty=2, exempt=kinds)
        assert set(changes[0]) == set(prompt) - spared, kinds


@knob("exempt_token_ids", "tokens that no penalty touches")
async def _(engine: LocalEngine) -> None:
    asked = {"repetition_penalty": 2, "no_repeat_ngram_size": 1, "exempt_token_ids": [CAT]}
    assert await penalized(engine, [CAT, SAT], [], **asked) == [{SAT: -math.inf}]


# Temperatures that vary

NEAR = {CAT: math.log(0.9), DOG: math.log(0.1)}


@knob(
    "dynatemp_range",
    "the temperature is lower by up to this where the model is certain, and higher where it is not",
)
async def _(engine: LocalEngine) -> None:
    assert (await draw(engine, NEAR))[DOG] > 4
    assert (await draw(engine, NEAR, dynatemp_range=1))[DOG] == 0
    even = dict.fromkeys(range(2, VOCABULARY), 0.0) | {CAT: 3.0}
    assert (await draw(engine, even, dynatemp_range=1))[CAT] < (await draw(engine, even))[CAT]


@knob("dynatemp_exponent", "how fast it rises: 0 is the highest at once")
async def _(engine: LocalEngine) -> None:
    drawn = await draw(engine, NEAR, dynatemp_range=1, dynatemp_exponent=0)
    assert drawn == await draw(engine, NEAR, temperature=2)


def first_that_is_not(token: int, tokens: list[int]) -> int:
    return next(place for place, other in enumerate(tokens) if other != token)


@knob("repetition_temperature", "the temperature while the text repeats")
async def _(engine: LocalEngine) -> None:
    row = scores({CAT: 1.0}, 0.0)
    row[END] = FAR
    asked = {
        "prompt": [DOG],
        "temperature": 0,
        "repetition_temperature": 100,
        "max_tokens": 20,
        "seed": 1,
    }
    said = (await ask(engine, lambda step: row, **asked)).tokens
    assert first_that_is_not(CAT, said) == 9  # eight of them stand earlier too
    assert (
        len(
            set(
                (
                    await ask(engine, lambda step: row, **asked | {"repetition_temperature": 0})
                ).tokens
            )
        )
        == 1
    )


@knob(
    "repetition_temperature_length",
    "number of last tokens that must occur earlier for the text to count as repeating",
)
async def _(engine: LocalEngine) -> None:
    row = scores({CAT: 1.0}, 0.0)
    row[END] = FAR
    asked = {
        "prompt": [DOG],
        "temperature": 0,
        "repetition_temperature": 100,
        "max_tokens": 20,
        "seed": 1,
    }
    said = (await ask(engine, lambda step: row, **asked, repetition_temperature_length=3)).tokens
    assert first_that_is_not(CAT, said) == 4


# Where an answer ends


@knob("max_tokens", "of the answer; default: up to the end of the context")
async def _(engine: LocalEngine) -> None:
    row = scores({CAT: 10.0})
    for limit in (1, 7):
        answer = await ask(engine, lambda step: row, max_tokens=limit)
        assert (len(answer.tokens), answer.finish) == (limit, ["length"])
    assert len((await ask(engine, lambda step: row, prompt=[CAT] * 200)).tokens) == CONTEXT - 200


@knob("max_completion_tokens", "the same")
async def _(engine: LocalEngine) -> None:
    row = scores({CAT: 10.0})
    for endpoint in ("chat", "completions"):
        answer = await ask(
            engine, lambda step: row, endpoint, max_completion_tokens=7, max_tokens=7
        )
        assert (len(answer.tokens), answer.finish) == (7, ["length"])
        assert (
            refused(engine, endpoint, max_completion_tokens=7, max_tokens=8).param == "max_tokens"
        )


@knob("min_tokens", "neither an end token nor a stop string ends the answer before")
async def _(engine: LocalEngine) -> None:
    row = scores({END: 10.0, CAT: 5.0})
    answer = await ask(engine, lambda step: row, min_tokens=4, temperature=0)
    assert answer.tokens == [CAT] * 4 + [END]
    assert [step.changes for step in answer.steps] == [{END: -math.inf}] * 4 + [{}]
    assert (await ask(engine, lambda step: row, temperature=0)).tokens == [END]
    stopped = await say(engine, CAT, SAT, CAT, SAT, ON, stop=" cat", min_tokens=2)
    assert (stopped.text(), stopped.finish) == (" cat sat", ["stop"])


@knob(
    "stop",
    "up to 16 strings; the answer ends before the first that appears, across tokens too",
)
async def _(engine: LocalEngine) -> None:
    for stop, text in (
        ("t s", " ca"),
        ([" mat", "at on"], " cat s"),
        (["never", ""], " cat sat on"),
        ("on the", " cat sat on"),
    ):
        answer = await say(engine, CAT, SAT, ON, stop=stop)
        assert (answer.text(), answer.finish) == (text, ["stop"])
    assert (await say(engine, CAT, SAT, ON, stop="t s")).tokens == [CAT, SAT]


# What an answer is


@knob("n", "number of choices; with a seed each has random numbers of its own")
async def _(engine: LocalEngine) -> None:
    answer = await ask(engine, n=3, max_tokens=12, seed=1)
    assert {choice["index"] for choice in answer.choices} == {0, 1, 2}
    assert len({answer.text(index) for index in range(3)}) == 3
    assert answer.text(0) == (await ask(engine, max_tokens=12, seed=1)).text(0)
    assert answer.finish == ["length"] * 3


def log_softmax(row: Scores) -> Any:
    return torch.log_softmax(torch.from_numpy(row).double(), 0).numpy()


READABLE = {CAT: 2.0, SAT: 1.0, ON: 0.5, DOG: 0.0, MAT: -1.0}


@knob(
    "logprobs",
    "chat: adds the model's own log probabilities of tokens; completions: and this many alternatives",
)
async def _(engine: LocalEngine) -> None:
    own = await ask(
        engine, max_tokens=12, temperature=0.5, seed=1, repetition_penalty=2, logprobs=0
    )
    given = [
        one
        for choice in own.choices
        if choice["logprobs"]
        for one in choice["logprobs"]["token_logprobs"]
    ]
    assert given == pytest.approx(
        [log_softmax(step.before)[step.token] for step in own.steps], abs=1e-5
    )
    assert all(
        choice["logprobs"]["top_logprobs"] is None for choice in own.choices if choice["logprobs"]
    )

    answer = await ask(
        engine, lambda step: scores(READABLE), max_tokens=3, temperature=0, logprobs=2
    )
    lists = [choice["logprobs"] for choice in answer.choices if choice["logprobs"]]
    assert [token for one in lists for token in one["tokens"]] == [" cat"] * 3
    assert [offset for one in lists for offset in one["text_offset"]] == [0, 4, 8]
    expected = log_softmax(scores(READABLE))
    for top in (top for one in lists for top in one["top_logprobs"]):
        assert top == pytest.approx({" cat": expected[CAT], " sat": expected[SAT]})

    chat = await ask(
        engine, lambda step: scores(READABLE), "chat", max_tokens=2, temperature=0, logprobs=True
    )
    contents = [
        one
        for choice in chat.choices
        if choice["logprobs"]
        for one in choice["logprobs"]["content"]
    ]
    assert [(one["token"], one["bytes"], one["top_logprobs"]) for one in contents] == [
        (" cat", list(b" cat"), [])
    ] * 2
    assert [one["logprob"] for one in contents] == pytest.approx([expected[CAT]] * 2)
    silent = await ask(engine, None, "chat", max_tokens=2, logprobs=False)
    assert all(choice["logprobs"] is None for choice in silent.choices)


@knob("top_logprobs", "chat: adds this many of the likeliest tokens to each, up to 20")
async def _(engine: LocalEngine) -> None:
    answer = await ask(engine, None, "chat", max_tokens=5, seed=1, logprobs=True, top_logprobs=7)
    contents = [
        one
        for choice in answer.choices
        if choice["logprobs"]
        for one in choice["logprobs"]["content"]
    ]
    assert len(contents) == len(answer.steps) == 5
    for one, step in zip(contents, answer.steps, strict=True):
        best = sorted(log_softmax(step.before), reverse=True)[:7]
        assert [top["logprob"] for top in one["top_logprobs"]] == pytest.approx(best, abs=1e-5)
    assert refused(engine, "chat", top_logprobs=2).param == "top_logprobs"
    assert refused(engine, top_logprobs=2).param == "top_logprobs"


@knob("echo", "completions: the prompt precedes the answer")
async def _(engine: LocalEngine) -> None:
    answer = await say(engine, ON, prompt=["the cat sat", "the dog sat"], echo=True)
    assert [answer.text(index) for index in (0, 1)] == ["the cat sat on", "the dog sat on"]
    assert answer.usage
    assert answer.usage["completion_tokens"] == 4
    assert (await say(engine, ON, echo=False)).text() == " on"
    assert (
        refused(engine, "chat", echo=True).param
        == refused(engine, echo=True, logprobs=1).param
        == "echo"
    )


@knob(
    "tools",
    "chat: functions that the model may call, of models whose chat template has `<tool_call>`",
)
async def _(engine: LocalEngine) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert refused(engine, "chat", tools=tools).param == "tools"
    assert refused(engine, tools=tools).param == "tools"
    tokenizer = engine.loaded.tokenizer
    template = tokenizer.chat_template
    tokenizer.chat_template = "{% for t in tools or [] %}cat{% endfor %}{# <tool_call> #} sat"
    try:
        offered = await say(engine, MAT, endpoint="chat", tools=tools * 2)
        withheld = await say(engine, MAT, endpoint="chat", tools=tools, tool_choice="none")
    finally:
        tokenizer.chat_template = template
    assert len(offered.prompts[0]) > len(withheld.prompts[0])


@knob(
    "truncate",
    "drops the beginning of a prompt that leaves no room for the answer, and reports truncated_prompt_tokens; else it is rejected",
)
async def _(engine: LocalEngine) -> None:
    prompt = [CAT, SAT, ON, DOG] * 100
    answer = await say(engine, MAT, prompt=prompt, truncate=True, max_tokens=6)
    assert answer.prompts == [prompt[-(CONTEXT - 6) :]]
    assert all(chunk["truncated_prompt_tokens"] == 400 - (CONTEXT - 6) for chunk in answer.chunks)
    assert answer.usage
    assert answer.usage["prompt_tokens"] == CONTEXT - 6
    assert all(
        "truncated_prompt_tokens" not in chunk
        for chunk in (await say(engine, MAT, truncate=True)).chunks
    )
    with pytest.raises(ApiError) as error:
        await ask(engine, prompt=prompt)
    assert (error.value.status, error.value.code) == (400, "context_length_exceeded")
    spoken = [{"role": "user", "content": "the cat sat on the mat " * 100}]
    assert (
        len((await say(engine, MAT, endpoint="chat", messages=spoken, truncate=True)).prompts[0])
        < CONTEXT
    )


@knob(
    "long_input",
    "completions: splits a prompt longer than the context into pieces and merges the answers to them",
)
async def _(engine: LocalEngine) -> None:
    text = "The cat sat on the mat, the dog sat on the cat. " * 60
    answer = await say(
        engine,
        CAT,
        prompt=text,
        max_tokens=20,
        long_input={"overlap": 0, "before": "Say: ", "after": "!"},
    )
    pieces = [tiny_tokenizer().decode(prompt) for prompt in answer.prompts]
    assert len(pieces) > 3
    assert all(piece.startswith("Say: ") and piece.endswith("!") for piece in pieces)
    assert "".join(piece.removeprefix("Say: ").removesuffix("!") for piece in pieces) == text
    assert all(len(prompt) <= CONTEXT - 20 for prompt in answer.prompts)
    assert refused(engine, "chat", long_input=True).param == "long_input"


# What is asked, and how it is told


@knob("model", "the served model or its alias; any other is a 404")
async def _(engine: LocalEngine) -> None:
    assert {chunk["model"] for chunk in (await say(engine, CAT, model="tiny")).chunks} == {"tiny"}
    with pytest.raises(ApiError) as error:
        engine.validate(request_of(model="gpt-4o"))
    assert error.value.status == 404


@knob("messages", "chat: put into the model's chat template; text only")
async def _(engine: LocalEngine) -> None:
    parts = [{"type": "text", "text": "the cat"}, {"type": "text", "text": " sat"}]
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": " sat"}]
    for messages in (MESSAGES, [{"role": "user", "content": parts}], turns):
        assert (await say(engine, ON, endpoint="chat", messages=messages)).prompts == [
            tiny_tokenizer()("the cat sat")["input_ids"]
        ]
    assert refused(engine, messages=MESSAGES).param == "messages"


@knob("prompt", "completions: a string, strings, token ids, or lists of them")
async def _(engine: LocalEngine) -> None:
    ids = tiny_tokenizer()("the cat sat")["input_ids"]
    for prompt, expected in (
        ("the cat sat", [ids]),
        (["the cat sat"] * 2, [ids, ids]),
        (ids, [ids]),
        ([ids, [CAT]], [ids, [CAT]]),
    ):
        assert (await say(engine, ON, prompt=prompt)).prompts == expected
    assert refused(engine, "chat", prompt="the cat").param == "prompt"


def completion(
    engine: LocalEngine, endpoint: EndpointName = "chat", **parameters: Any
) -> Completion:
    request = request_of(endpoint, **parameters)
    engine.validate(request)
    return Completion(request, engine, "balanced", Telemetry(engine.models))


@knob("stream", "whether the answer is streamed")
async def _(engine: LocalEngine) -> None:
    row = scores({CAT: 10.0})
    with scored(engine, lambda step: row, Answer()):
        events = await written(
            completion(engine, stream=True, max_tokens=3, repetition={"policy": "off"})
        )
        whole = json.loads(
            await completion(engine, max_tokens=3, repetition={"policy": "off"}).collect()
        )
    assert Played(events).done
    assert Played(events).text() == whole["choices"][0]["message"]["content"] == " cat cat cat"
    num_prompt = len(tiny_tokenizer()("the cat sat")["input_ids"])
    assert whole["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 3,
        "total_tokens": num_prompt + 3,
    }


@knob("stream_options", "include_usage: a stream ends with the numbers of tokens")
async def _(engine: LocalEngine) -> None:
    streamed = await say(engine, CAT, SAT, stream=True, stream_options={"include_usage": True})
    size = len(tiny_tokenizer()("the cat sat")["input_ids"])
    assert streamed.usage == {
        "prompt_tokens": size,
        "completion_tokens": 3,
        "total_tokens": size + 3,
    }
    assert streamed.chunks[-1]["choices"] == []
    for options in (None, {"include_usage": False}):
        assert all(
            "usage" not in chunk
            for chunk in (await say(engine, CAT, stream=True, stream_options=options)).chunks
        )
    assert (
        refused(engine, stream_options={"continuous_usage_stats": True}).param
        == "stream_options.continuous_usage_stats"
    )


@knob("repetition", "policy: what the filter does about repetition in this answer")
async def _(engine: LocalEngine) -> None:
    looped = tiny_tokenizer()(LOOP * 4)["input_ids"]
    texts = {}
    for policy in ("off", "balanced"):
        rows = [scores({token: 10.0}) for token in [*looped, END]]
        with scored(engine, lambda step, rows=rows: rows[step], Answer()):  # type: ignore[misc]
            events = await written(completion(engine, stream=True, repetition={"policy": policy}))
        texts[policy] = Played(events).text()
    assert texts["off"] == LOOP * 4
    assert texts["balanced"].count(LOOP.strip()) == 1


BOOKS = {
    "user": "reader-17",
    "metadata": {"run": "7"},
    "prompt_cache_key": "chapter-3",
    "safety_identifier": "a81",
    "service_tier": "auto",
    "cache_prompt": False,
}


def takes_note(name: str) -> None:
    @knob(name, "accepted, without effect")
    async def _(engine: LocalEngine) -> None:
        plain = await ask(engine, seed=5, max_tokens=8)
        noted = await ask(engine, seed=5, max_tokens=8, **{name: BOOKS[name]})
        assert noted.tokens == plain.tokens
        assert [step.changes for step in noted.steps] == [{}] * len(noted.steps)


for book in BOOKS:
    takes_note(book)


@pytest.mark.parametrize("name", KNOBS)
async def test_a_parameter_does_what_the_docs_say(name: str, engine: LocalEngine) -> None:
    await KNOBS[name][1](engine)


async def test_what_an_encoder_read_is_not_said_again(tmp_path: Path) -> None:
    """`encoder_no_repeat_ngram_size`, with a T5."""
    engine = LocalEngine(
        str(save(T5Config(**T5_SIZES, **TOKENS, **STARTS), tmp_path)), device="cpu"
    )
    engine.load()
    row = scores({CAT: 4.0, SAT: 3.0, DOG: 2.0})
    asked = {"prompt": [CAT, SAT, ON], "temperature": 0, "max_tokens": 3}
    plain = await ask(engine, lambda step: row, **asked)
    single = await ask(engine, lambda step: row, encoder_no_repeat_ngram_size=1, **asked)
    after_cat = [scores({CAT: 3.0}), scores({SAT: 3.0, CAT: 2.0}), scores({CAT: 3.0})]
    pairs = await ask(engine, lambda step: after_cat[step], encoder_no_repeat_ngram_size=2, **asked)
    engine.loaded.decoder.stop()
    assert plain.tokens == [CAT] * 3
    assert single.tokens == [DOG] * 3
    assert [step.changes for step in single.steps] == [
        {CAT: -math.inf, SAT: -math.inf, ON: -math.inf}
    ] * 3
    assert [step.changes for step in pairs.steps] == [{}, {SAT: -math.inf}, {SAT: -math.inf}]


def test_every_parameter_there_is_has_a_case() -> None:
    fields = set(DecodingConfig.__dataclass_fields__) | set(Sampling.model_fields)
    fields |= set(SampledChatRequest.model_fields) | set(SampledCompletionRequest.model_fields)
    in_table = set(KNOBS)
    assert in_table == _SUPPORTED
    assert fields - in_table == set(_ASKS_NOTHING) & fields == {"response_format"}


# OpenAI's, of the two endpoints, and vLLM's own, that the engine does not have.
UNSUPPORTED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "best_of": 2,
    "function_call": {"name": "weather"},
    "functions": [{"name": "weather"}],
    "modalities": ["text", "audio"],
    "prediction": {"type": "content", "content": "the cat"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "low",
    "response_format": {"type": "json_object"},
    "store": True,
    "suffix": " on the mat",
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "weather"}}],
    "verbosity": "low",
    "web_search_options": {},
    "add_generation_prompt": False,
    "add_special_tokens": False,
    "allowed_token_ids": [5, 6],
    "bad_words": ["cat"],
    "cache_salt": "a",
    "chat_template": "{{ messages }}",
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": True,
    "detokenize": False,
    "documents": [{"title": "Cats"}],
    "echo_prompt": True,
    "guided_choice": ["yes", "no"],
    "guided_json": {"type": "object"},
    "guided_regex": "[a-z]+",
    "ignore_eos": True,
    "include_reasoning": False,
    "include_stop_str_in_output": True,
    "kv_transfer_params": {"a": 1},
    "length_penalty": 2.0,
    "logits_processors": ["a"],
    "mm_processor_kwargs": {"a": 1},
    "priority": 1,
    "prompt_embeds": "a",
    "prompt_logprobs": 1,
    "request_id": "r-1",
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "stop_token_ids": [5],
    "structured_outputs": {"regex": "[a-z]+"},
    "truncate_prompt_tokens": 10,
    "typical_p": 0.5,
    "use_beam_search": True,
    "vllm_xargs": {"a": 1},
    "xtc_probability": 0.5,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_its_name(name: str, engine: LocalEngine) -> None:
    for endpoint in ("chat", "completions"):
        error = refused(engine, endpoint, **{name: UNSUPPORTED[name]})
        assert error.param == name
        assert name in error.message
        assert error.code == "unsupported_parameter"


# Tokens that are half a character: there are two of them to a letter of a language that the tokenizer never saw.


async def test_alternatives_that_are_half_characters_are_so_many_as_asked_for(
    engine: LocalEngine,
) -> None:
    first, second = (tiny_tokenizer()(letter)["input_ids"][0] for letter in ("你", "ж"))
    row = scores({CAT: 2.0, first: 1.0, second: 0.5})
    answer = await ask(engine, lambda step: row, temperature=0, max_tokens=1, logprobs=3)
    (top,) = answer.choices[0]["logprobs"]["top_logprobs"]
    assert len(top) == 3


async def test_the_bytes_of_half_a_character_are_its_own(engine: LocalEngine) -> None:
    tokens = tiny_tokenizer()("你")["input_ids"]
    answer = await say(engine, *tokens, endpoint="chat", logprobs=True, top_logprobs=1)
    told = [
        one
        for choice in answer.choices
        if choice["logprobs"]
        for one in choice["logprobs"]["content"]
    ]
    assert b"".join(bytes(one["bytes"]) for one in told[: len(tokens)]) == "你".encode()


async def test_tokens_that_begin_with_a_space_show_it(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tokenizer as SentencePiece has it, a token by itself decodes without the space before it."""
    spaced = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    spaced.pre_tokenizer, spaced.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=spaced, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    loaded = replace(engine.loaded, tokenizer=tokenizer, texts=TokenTexts(tokenizer))
    monkeypatch.setattr(engine, "_loaded", loaded)
    answer = await say(engine, 4, 5, prompt=[3], logprobs=1)
    told = [token for choice in answer.choices for token in choice["logprobs"]["tokens"]]
    assert answer.text().lstrip() == "cat sat"
    assert "".join(told[:2]).lstrip() == "cat sat"


async def test_what_a_stop_string_cuts_off_has_no_log_probability(engine: LocalEngine) -> None:
    answer = await say(engine, CAT, SAT, ON, stop=" sat", logprobs=0)
    assert answer.text() == " cat"
    assert [token for choice in answer.choices for token in choice["logprobs"]["tokens"]] == [
        " cat"
    ]


async def test_more_tokens_at_least_than_at_most_are_refused(engine: LocalEngine) -> None:
    with pytest.raises(ApiError, match="min_tokens"):
        await say(engine, CAT, min_tokens=9, max_tokens=3)


async def test_a_seed_gives_a_prompt_its_text_beside_other_prompts_too(engine: LocalEngine) -> None:
    alone = await ask(engine, prompt="the dog", seed=1, max_tokens=12)
    beside = await ask(engine, prompt=["the cat sat", "the dog"], seed=1, max_tokens=12)
    assert beside.text(1) == alone.text()


async def test_a_seed_and_its_negative_are_two(engine: LocalEngine) -> None:
    assert (await ask(engine, seed=-1, max_tokens=12)).text() != (
        await ask(engine, seed=1, max_tokens=12)
    ).text()


async def test_a_token_of_too_many_digits_is_refused_as_any_other(engine: LocalEngine) -> None:
    for token in ("99999", "9" * 5000):
        with pytest.raises(ApiError) as error:
            await ask(engine, logit_bias={token: 1})
        assert (error.value.status, error.value.param) == (400, "logit_bias")


def knobs_table() -> str:
    lines = ["| Parameter | Effect |", "| --- | --- |"]
    return "\n".join(lines + [f"| `{name}` | {effect} |" for name, (effect, _) in KNOBS.items()])


def test_the_table_of_parameters_in_the_docs_is_this_one() -> None:
    check_table("reference/parameters.md", "parameters", knobs_table())
