"""Continuous batching: every model family generates what `generate` does, and sequences do not
affect each other.
"""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BloomConfig,
    Gemma2Config,
    Glm4Config,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from dedup.config import DecodingConfig
from dedup.logits.hf import logits_processors
from dedup.logits.history import TokenHistory
from dedup.logits.processors import apply
from dedup_server.engines.local import batch_attention, batch_engine, batching, packed
from dedup_server.engines.local.batch_engine import BatchEngine, UnbatchableError
from dedup_server.engines.local.batching import Batcher
from dedup_server.engines.local.decoding import EngineFailedError, Scores
from dedup_server.engines.local.sampling import choose

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY = 300
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
WINDOW = {"sliding_window": 16}
PLAIN = DecodingConfig()
ALL = DecodingConfig(
    repetition_penalty=1.1,
    frequency_penalty=0.1,
    presence_penalty=0.1,
    no_repeat_ngram_size=3,
    dry_multiplier=0.8,
    dry_sequence_breakers=(),
    lz_penalty=0.2,
)
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, **GROUPED),
    "qwen2": Qwen2Config(**SIZES, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SIZES, **GROUPED),
    "gemma2": Gemma2Config(
        **SIZES, **GROUPED, **WINDOW, query_pre_attn_scalar=8, attn_logit_softcapping=0.1
    ),
    "mistral": MistralConfig(**SIZES, **GROUPED, **WINDOW),
    "gpt2": GPT2Config(**SIZES, n_positions=128),
    "glm4": Glm4Config(**SIZES, **GROUPED, pad_token_id=0),
}
# These are decoded by `generate`.
REFUSED: dict[str, tuple[PreTrainedConfig, str]] = {
    "bloom": (BloomConfig(**SIZES), "attention of its own"),
    "gptj": (
        GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=8, vocab_size=VOCABULARY),
        "attention of its own",
    ),
    "mamba": (MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=VOCABULARY), "a state"),
    "t5": (
        T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=VOCABULARY),
        "encoder-decoder",
    ),
    "bart": (
        BartConfig(
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            vocab_size=VOCABULARY,
        ),
        "encoder-decoder",
    ),
}


def build(config: PreTrainedConfig) -> Any:
    """Return a model with random weights, scaled so that the context matters."""
    torch.manual_seed(0)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(5)
    return model


def prompt(length: int, seed: int = 0) -> list[int]:
    random = Random(seed)
    return [random.randrange(3, VOCABULARY) for _ in range(length)]


class Answer:
    """A sequence that collects its tokens."""

    def __init__(
        self,
        batcher: Batcher,
        tokens: list[int],
        limit: int = 40,
        config: DecodingConfig = PLAIN,
        sampling: dict[str, float] | None = None,
        on_step: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.tokens: list[int] = []
        self.error: BaseException | None = None
        self._history = TokenHistory(tokens, config.no_repeat_ngram_size)
        self._limit = limit
        self._config = config
        self._sampling = {
            "temperature": 0,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            **(sampling or {}),
        }
        self._random = Random(len(tokens))
        self._on_step = on_step
        self._ended = threading.Event()
        self.sequence = batcher.submit(tokens, self._step, self._end)

    def _step(self, scores: Scores) -> int | None:
        self._on_step(len(self.tokens))
        apply(self._config, self._history, scores)
        token = choose(scores, random=self._random, **self._sampling)  # type: ignore[arg-type]
        self._history.append(token)
        self.tokens.append(token)
        return token if len(self.tokens) < self._limit else None

    def _end(self, error: BaseException | None) -> None:
        self.error = error
        self._ended.set()

    def wait(self) -> list[int]:
        assert self._ended.wait(60)
        if self.error is not None:
            raise self.error
        return self.tokens


class CountedModel:
    """A model that notes how many tokens it is given."""

    def __init__(self, model: Any, sizes: list[int]) -> None:
        self._model = model
        self._sizes = sizes

    def __call__(self, **given: Any) -> Any:
        self._sizes.append(given["input_ids"].shape[1])
        return self._model(**given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def fail_at(number: int) -> Callable[[int], None]:
    def on_step(at: int) -> None:
        if at == number:
            raise RuntimeError("a processor's own fault")

    return on_step


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(FAMILIES["llama"])


@pytest.fixture
def batcher(model: Any) -> Iterator[Batcher]:
    batcher = Batcher(model, max_concurrent=16, context=1024)
    yield batcher
    batcher.stop()


def expected(model: Any, tokens: list[int], limit: int, config: DecodingConfig) -> list[int]:
    inputs = torch.tensor([tokens])
    options: dict[str, Any] = {
        "max_new_tokens": limit,
        "do_sample": False,
        "eos_token_id": VOCABULARY,
        "pad_token_id": 0,
    }
    processors = logits_processors(config, prompt_length=len(tokens))
    row = model.generate(
        inputs, attention_mask=torch.ones_like(inputs), logits_processor=processors, **options
    )[0]
    return [int(token) for token in row[len(tokens) :]]


@pytest.mark.parametrize("config", [PLAIN, ALL], ids=["plain", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_generates_what_generate_does(family: str, config: DecodingConfig) -> None:
    model = build(FAMILIES[family])
    prompts = [prompt(length) for length in (1, 5, 20, 33)]
    wanted = [expected(model, tokens, 40, config) for tokens in prompts]
    batcher = Batcher(model, max_concurrent=3, context=128)
    answers = [Answer(batcher, tokens, 40, config) for tokens in prompts]
    assert [answer.wait() for answer in answers] == wanted
    batcher.stop()
    assert expected(model, prompts[1], 40, config) == wanted[1]  # the model is restored


@pytest.mark.parametrize("family", REFUSED)
def test_an_unbatchable_model_is_refused_and_unchanged(family: str) -> None:
    config, reason = REFUSED[family]
    model = build(config)
    attention = model.config._attn_implementation
    with pytest.raises(UnbatchableError, match=reason):
        Batcher(model, max_concurrent=2, context=64)
    assert model.config._attn_implementation == attention


def test_a_model_with_other_scores_in_the_engine_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(FAMILIES["llama"])
    right = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        batch_attention,
        "scaled_dot_product_attention",
        lambda *given, **more: right(*given, **more) * 1.01,
    )
    with pytest.raises(UnbatchableError, match="not the model's"):
        Batcher(model, max_concurrent=2, context=64)


SETTINGS: list[tuple[DecodingConfig, dict[str, float]]] = [
    (PLAIN, {}),
    (ALL, {}),
    (PLAIN, {"temperature": 1.0}),
    (ALL, {"temperature": 0.7, "top_p": 0.9}),
    (DecodingConfig(repetition_penalty=1.3), {"temperature": 1.2, "top_k": 20}),
    (DecodingConfig(no_repeat_ngram_size=2), {"temperature": 0.9, "min_p": 0.05}),
    (
        DecodingConfig(frequency_penalty=0.5),
        {"temperature": 1.0, "top_k": 50, "top_p": 0.8, "min_p": 0.01},
    ),
    (DecodingConfig(dry_multiplier=1.0, dry_sequence_breakers=()), {"temperature": 0.5}),
]


def test_a_sequence_is_the_same_alone_and_among_others(batcher: Batcher) -> None:
    asked = [
        (prompt(3 + 5 * number, number), *SETTINGS[number % len(SETTINGS)]) for number in range(24)
    ]
    alone = [
        Answer(batcher, tokens, 40, config, sampling).wait() for tokens, config, sampling in asked
    ]
    together = [Answer(batcher, tokens, 40, config, sampling) for tokens, config, sampling in asked]
    assert [answer.wait() for answer in together] == alone
    assert len({tuple(tokens) for tokens in alone}) == 24


def test_in_bfloat16_scores_are_the_same_to_the_bit_alone_and_among_others() -> None:
    """Rounded so coarsely, the least difference would soon be another token."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("no bfloat16 in this CPU")
    if torch.cpu._is_amx_tile_supported():
        pytest.skip(
            "AMX sums a batch in another order than a single request (docs/guides/local.md)"
        )
    config = LlamaConfig(**{**SIZES, **GROUPED, "intermediate_size": 1152})
    batcher = Batcher(build(config).to(torch.bfloat16), max_concurrent=12, context=1024)

    def scores_of(lengths: list[int]) -> list[list[bytes]]:
        found: list[list[bytes]] = [[] for _ in lengths]
        ended = threading.Semaphore(0)

        def submit(number: int) -> None:
            def step(scores: Scores) -> int | None:
                found[number].append(scores.tobytes())
                return int(scores.argmax()) if len(found[number]) < 40 else None

            batcher.submit(
                prompt(lengths[number], lengths[number]), step, lambda error: ended.release()
            )

        for number in range(len(lengths)):
            submit(number)
        for _ in lengths:
            assert ended.acquire(timeout=60)
        return found

    lengths = [1, 5, 16, 17, 33, 64, 100, 250, 300, 500, 2, 31, 77, 600]
    alone = [scores_of([length])[0] for length in lengths]
    assert scores_of(lengths) == alone
    batcher.stop()


@pytest.mark.parametrize("dtype", packed.DTYPES)
@pytest.mark.parametrize("size", [64, 1536, 3000])
def test_a_row_times_packed_weights_does_not_depend_on_other_rows(
    dtype: torch.dtype, size: int
) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(size, 96).to(dtype)
    try:
        (weight,) = packed.pack([layer.weight])
    except RuntimeError:  # bfloat16 takes instructions that not every CPU has
        pytest.skip(f"weights of {dtype} cannot be packed on this CPU")
    rows = torch.randn(1, 20, size).to(dtype)
    with torch.inference_mode():
        together = packed.multiply(rows, weight, layer.bias)
        for number in range(20):
            row = rows[:, number : number + 1]
            assert torch.equal(packed.multiply(row, weight, layer.bias)[0, 0], together[0, number])
        torch.testing.assert_close(together, layer(rows), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("family", "num_products"),
    [("llama", 4), ("qwen2", 4), ("gemma2", 4), ("gpt2", 0), ("glm4", 4)],
)
def test_layers_that_read_the_same_rows_are_multiplied_together(
    family: str, num_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(FAMILIES[family])
    tokens = torch.tensor([prompt(9)])
    numbers: list[int] = []
    multiply = packed.multiply

    def counted(rows: torch.Tensor, *given: Any) -> torch.Tensor:
        numbers.append(rows.shape[1])
        return multiply(rows, *given)

    monkeypatch.setattr(packed, "multiply", counted)
    with torch.inference_mode():
        wanted = model(tokens, use_cache=False).logits
        undo = packed.pack_linears(model, 1 << 40)
        for _ in range(2):
            numbers.clear()
            found = model(tokens, use_cache=False).logits
            assert len(numbers) == 2 * num_products + 1  # and the scores
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        undo()
        numbers.clear()
        assert torch.equal(model(tokens, use_cache=False).logits, wanted)
    assert not numbers


def test_each_layer_of_a_product_gets_its_own_rows_multiplied() -> None:
    module = torch.nn.Module()
    module.gate_proj, module.up_proj = torch.nn.Linear(64, 32), torch.nn.Linear(64, 48)
    first, second = torch.randn(1, 3, 64), torch.randn(1, 5, 64)
    asked = [(module.gate_proj, first), (module.up_proj, second)]
    asked += [(module.gate_proj, second), (module.gate_proj, second), (module.up_proj, first)]
    with torch.inference_mode():
        wanted = [layer(rows) for layer, rows in asked]
        packed.pack_linears(module, 1 << 40)
        for (layer, rows), each in zip(asked, wanted, strict=True):
            torch.testing.assert_close(layer(rows), each)


def test_a_sequence_that_raises_fails_alone(batcher: Batcher) -> None:
    alone = Answer(batcher, prompt(9)).wait()
    broken = [Answer(batcher, prompt(9), on_step=fail_at(number)) for number in (0, 1, 7)]
    whole = Answer(batcher, prompt(9))
    for answer in broken:
        with pytest.raises(RuntimeError, match="own fault"):
            answer.wait()
    assert whole.wait() == alone
    wait_until(lambda: not batcher.engine.key_values.num_allocated)


def test_an_on_end_that_raises_affects_no_other_sequence(batcher: Batcher) -> None:
    def on_end(error: BaseException | None) -> None:
        raise RuntimeError("the loop is closed")

    batcher.submit(prompt(5), lambda scores: None, on_end)
    assert len(Answer(batcher, prompt(5)).wait()) == 40


def test_cancelled_sequences_free_their_places_and_others_are_unaffected(
    batcher: Batcher,
) -> None:
    alone = Answer(batcher, prompt(9), 200).wait()
    steps = threading.Semaphore(0)
    for _ in range(20):
        leaving = [
            Answer(batcher, prompt(12, number), 1000, on_step=lambda _: steps.release())
            for number in range(15)
        ]
        staying = Answer(batcher, prompt(9), 200)
        for _ in range(40):
            assert steps.acquire(timeout=10)
        for answer in leaving:
            batcher.cancel(answer.sequence)
        before_cancel = [len(answer.tokens) for answer in leaving]
        wait_until(lambda: batcher.engine.num_active <= 1, 1)
        assert staying.wait() == alone
        assert all(
            len(answer.tokens) <= before + 1
            for answer, before in zip(leaving, before_cancel, strict=True)
        )
        assert not any(answer._ended.is_set() for answer in leaving)
        batcher.cancel(staying.sequence)  # has ended: nothing happens
    assert batcher.num_active == 0
    wait_until(lambda: not batcher.engine.key_values.num_allocated)


def test_a_waiting_sequence_is_cancelled_before_it_begins(model: Any) -> None:
    batcher = Batcher(model, max_concurrent=1, context=1024)
    running = Answer(batcher, prompt(5), 300)
    waiting = Answer(batcher, prompt(5))
    batcher.cancel(waiting.sequence)
    assert len(running.wait()) == 300
    assert waiting.tokens == []
    batcher.stop()


def test_ended_sequences_leave_nothing_behind(batcher: Batcher) -> None:
    def live() -> int:
        gc.collect()
        return sum(
            type(each) in (batching.Sequence, batch_engine.Request) for each in gc.get_objects()
        )

    Answer(batcher, prompt(5), 2).wait()
    before = live()
    for _ in range(50):
        Answer(batcher, prompt(5), 2).wait()
        batcher.cancel(Answer(batcher, prompt(5), 500).sequence)
    wait_until(lambda: not batcher.engine.num_active)
    wait_until(lambda: live() <= before + 2)


def test_after_an_error_of_the_model_its_sequences_fail_and_later_ones_are_decoded(
    model: Any, batcher: Batcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    alone = Answer(batcher, prompt(9)).wait()
    forward = model.forward
    calls = []
    all_asked = threading.Event()

    def broken(*given: Any, **more: Any) -> Any:
        assert all_asked.wait(10)
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("out of memory")
        return forward(*given, **more)

    monkeypatch.setattr(model, "forward", broken)
    answers = [Answer(batcher, prompt(9, number)) for number in range(20)]
    all_asked.set()
    for answer in answers:
        with pytest.raises(EngineFailedError, match="out of memory"):
            answer.wait()
    assert Answer(batcher, prompt(9)).wait() == alone
    assert batcher.num_active == 0
    assert "the engine restarts" in caplog.text


def test_an_engine_that_failed_leaves_nothing_behind(
    model: Any, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        batching.log, "exception", lambda message: None
    )  # pytest keeps log records with their tracebacks
    forward = model.forward
    failures: list[RuntimeError] = []

    def broken(*given: Any, **more: Any) -> Any:
        failures.append(RuntimeError("out of memory"))
        raise failures[-1]

    engines = []
    for _ in range(3):
        engines.append(weakref.ref(batcher.engine.key_values))
        monkeypatch.setattr(model, "forward", broken)
        with pytest.raises(EngineFailedError, match="out of memory"):
            Answer(batcher, prompt(9)).wait()
        monkeypatch.setattr(model, "forward", forward)
        assert len(Answer(batcher, prompt(9)).wait()) == 40
    gc.collect()
    assert [engine() for engine in engines] == [None] * 3


def test_a_long_prompt_is_read_in_pieces_while_others_continue(model: Any) -> None:
    tokens = prompt(3 * batch_engine.READ_TOKENS + 7)
    wanted = expected(model, tokens, 20, ALL), expected(model, prompt(4), 60, ALL)
    batcher = Batcher(model, max_concurrent=4, context=2048)
    short = Answer(batcher, prompt(4), 60, ALL)
    long = [Answer(batcher, tokens, 20, ALL) for _ in range(2)]
    assert [answer.wait() for answer in long] == [wanted[0]] * 2
    assert short.wait() == wanted[1]
    assert Answer(batcher, tokens, 20, ALL).wait() == wanted[0]
    batcher.stop()


@pytest.mark.parametrize(("num_short", "most_read"), [(1, batch_attention.BLOCK), (8, 250)])
def test_short_prompts_are_read_at_once_if_they_are_many(
    model: Any, batcher: Batcher, monkeypatch: pytest.MonkeyPatch, num_short: int, most_read: int
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(batcher.engine, "_model", CountedModel(model, sizes))
    monkeypatch.setattr(batch_engine._Pace, "room", lambda self, number: batch_attention.BLOCK)
    asked: list[Answer] = []

    def ask(at: int) -> None:
        if at == 9 and not asked:
            sizes.clear()
            asked.extend(Answer(batcher, prompt(50, seed), 2) for seed in range(num_short))

    others = [Answer(batcher, prompt(8), 300, on_step=ask) for _ in range(5)]
    for answer in (*others, *asked):
        answer.wait()
    assert most_read <= max(sizes) - len(others) < most_read + batch_attention.BLOCK


def test_what_prompts_have_in_common_is_read_once(
    model: Any, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def num_read(tokens: list[int]) -> int:
        sizes.clear()
        assert len(Answer(batcher, tokens, 5).wait()) == 5
        return sum(sizes) - 4

    monkeypatch.setattr(batcher.engine, "_model", CountedModel(model, sizes))
    beginning = prompt(200)
    assert num_read(beginning) == 200
    assert num_read(beginning) == 200 - 192
    assert num_read(beginning + prompt(100, 1)) == 300 - 192
    assert num_read(beginning + prompt(100, 1) + prompt(20, 2)) == 320 - 288
    assert num_read(beginning[:120] + prompt(60, 3)) == 180 - 112
    assert num_read(prompt(200, 4)) == 200


@pytest.mark.parametrize("num_tokens", [768, 1024, 1400])
def test_without_free_memory_a_sequence_waits_and_generates_the_same(
    model: Any, monkeypatch: pytest.MonkeyPatch, num_tokens: int
) -> None:
    monkeypatch.setattr(BatchEngine, "_size", lambda self, context: (768, num_tokens))
    batcher = Batcher(model, max_concurrent=4, context=1024)
    assert batcher.context == 768
    most: list[int] = []

    def on_step(number: int) -> None:
        most.append(batcher.engine.key_values.num_allocated)

    alone = Answer(batcher, prompt(100), 600, ALL).wait()
    together = [Answer(batcher, prompt(100), 600, ALL, on_step=on_step) for _ in range(4)]
    assert [answer.wait() for answer in together] == [alone] * 4
    assert max(most) <= num_tokens
    wait_until(lambda: not batcher.engine.key_values.num_allocated)
    batcher.stop()


def test_memory_is_sized_from_the_machine(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, size, bytes
    batcher = Batcher(model, max_concurrent=16, context=1000)
    assert 16 * 1000 * token <= batcher.engine.cache_bytes <= 2 * 16 * 1000 * token
    assert batcher.context == 1000
    batcher.stop()
    free = int(520 * token / batch_engine.MEMORY_SHARE)
    monkeypatch.setattr(batch_engine, "free_bytes", lambda device: free)
    batcher = Batcher(model, max_concurrent=16, context=1000)
    assert 500 < batcher.context <= 520
    batcher.stop()
    monkeypatch.setattr(batch_engine, "free_bytes", lambda device: token)
    with pytest.raises(UnbatchableError, match="no memory"):
        Batcher(model, max_concurrent=16, context=1000)


def test_the_context_bounds_prompts_and_sequences(
    batcher: Batcher,
) -> None:
    for length in (0, 1024, 5000):
        with pytest.raises(ValueError, match="1 to 1023"):
            Answer(batcher, prompt(length))
    last = Answer(batcher, prompt(1000), 24)
    assert len(last.wait()) == 24
    over = Answer(batcher, prompt(1000), 100)
    with pytest.raises(ValueError, match="1024"):
        over.wait()


def test_stopping_ends_all_sequences_with_an_error(model: Any) -> None:
    batcher = Batcher(model, max_concurrent=2, context=1024)
    answers = [Answer(batcher, prompt(5), 900) for _ in range(4)]
    batcher.stop()
    for answer in answers:
        with pytest.raises(EngineFailedError, match="stopped"):
            answer.wait()
    with pytest.raises(EngineFailedError, match="stopped"):
        Answer(batcher, prompt(5))
