"""Each family of models, from its files on disk to the tokens of an answer: they are those that `model.generate` gives.

The table in docs/guides/local.md is made from `FAMILIES`; after a change, UPDATE_DOCS=1 writes it anew.
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    BloomConfig,
    Gemma2Config,
    Glm4Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from dedup.config import DecodingConfig
from dedup.logits.detokenizer import Detokenizer
from dedup.logits.hf import logits_processors
from dedup_server.engines.local import dtype as dtype_module
from dedup_server.engines.local.batching import Batcher
from dedup_server.engines.local.engine import LocalEngine
from dedup_server.engines.local.loading import Dtype
from dedup_server.engines.local.one_by_one import OneByOne
from dedup_server.errors import ApiError, StartupError
from tests.server.tiny_model import said_by, tiny_config, tiny_tokenizer
from tests.server.wired import generate_chunks, sampled

pytestmark = pytest.mark.usefixtures("one_thread")

DOCS = Path(__file__).parents[2] / "docs"
CONTEXT = 192
WINDOW = 16  # of the models that look back so far only; the prompt alone is longer
NUM_TOKENS = 40
PROMPT = "She had not slept since the night when her brother disappeared."

VOCABULARY = len(tiny_tokenizer())
TOKENS = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    **TOKENS,
}
PLACES = {"max_position_embeddings": CONTEXT}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
STARTS = {"decoder_start_token_id": 0}
T5_SIZES = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "n_positions": CONTEXT,
}
BART_LAYERS = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
BART_SIZES = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, **BART_LAYERS}
# BART's own default makes the last token that there is room for an end token, here one that is none.
NO_FORCED_END = {"forced_eos_token_id": None}


@dataclass(frozen=True)
class Family:
    config: PreTrainedConfig
    decoder: type[Batcher] | type[OneByOne]
    why: str = ""  # it is not decoded in batches
    seed: int = 1  # of the random weights


FAMILIES: dict[str, Family] = {
    "Llama": Family(LlamaConfig(**SIZES, **PLACES, **GROUPED), Batcher),
    "Qwen2": Family(Qwen2Config(**SIZES, **PLACES, num_key_value_heads=2), Batcher),
    "Qwen3": Family(Qwen3Config(**SIZES, **PLACES, **GROUPED), Batcher),
    "Gemma2": Family(
        Gemma2Config(
            **SIZES,
            **PLACES,
            **GROUPED,
            sliding_window=WINDOW,
            query_pre_attn_scalar=8,
            attn_logit_softcapping=0.1,
        ),
        Batcher,
    ),
    "Mistral": Family(MistralConfig(**SIZES, **PLACES, **GROUPED, sliding_window=WINDOW), Batcher),
    "GPT-2": Family(GPT2Config(**SIZES, n_positions=CONTEXT), Batcher),
    "Glm4": Family(Glm4Config(**SIZES, **PLACES, **GROUPED), Batcher),
    "Bloom": Family(BloomConfig(**SIZES), OneByOne, "an attention of its own"),
    "Mamba": Family(
        MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=4, **TOKENS),
        OneByOne,
        "a state, not keys and values",
    ),
    "T5": Family(T5Config(**T5_SIZES, **TOKENS, **STARTS), OneByOne, "encoder-decoder", seed=3),
    "BART": Family(
        BartConfig(**BART_SIZES, **TOKENS, **PLACES, **STARTS, **NO_FORCED_END),
        OneByOne,
        "encoder-decoder",
    ),
}

PLAIN = DecodingConfig()
ALL = DecodingConfig(
    repetition_penalty=1.1,
    frequency_penalty=0.1,
    presence_penalty=0.1,
    no_repeat_ngram_size=3,
    dry_multiplier=0.8,
    lz_penalty=0.2,
    exempt=("special",),
)
CONFIGS = {"plain": PLAIN, "all": ALL}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each family, by its name."""
    root = tmp_path_factory.mktemp("families")
    for name, family in FAMILIES.items():
        save(family.config, root / name, seed=family.seed)
    return root


def save(config: PreTrainedConfig, folder: Path, kind: Any = None, seed: int = 1) -> Path:
    """Random weights, large enough that what came before matters, with the tokenizer."""
    torch.manual_seed(seed)
    kind = kind or (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM)
    model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(5)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def generated(folder: Path, config: DecodingConfig, **options: Any) -> list[int]:
    """What `generate` says, greedy, of a model that is loaded as anyone loads one."""
    kind = (
        AutoModelForSeq2SeqLM
        if transformers.AutoConfig.from_pretrained(folder).is_encoder_decoder
        else AutoModelForCausalLM
    )
    model, tokenizer = (
        kind.from_pretrained(folder, **{"dtype": "float32", **options}).eval(),
        tiny_tokenizer(),
    )
    prompt = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    num_prompt = 1 if model.config.is_encoder_decoder else prompt.shape[1]
    processors = logits_processors(config, tokenizer, num_prompt, prompt)
    asked: dict[str, Any] = {
        "max_new_tokens": NUM_TOKENS,
        "do_sample": False,
        "logits_processor": processors,
    }
    row = model.generate(prompt, attention_mask=torch.ones_like(prompt), **asked)[0]
    return [int(token) for token in row[num_prompt:]]


async def answered(engine: LocalEngine, config: DecodingConfig) -> list[int]:
    """The same of the engine, as a stream."""
    said = said_by(engine)
    defaults = DecodingConfig()
    changed = {name: getattr(config, name) for name in DecodingConfig.__dataclass_fields__}
    changed = {name: value for name, value in changed.items() if value != getattr(defaults, name)}
    body = {"prompt": PROMPT, "max_tokens": NUM_TOKENS, "temperature": 0, "stream": True, **changed}
    request = sampled("completions", json.loads(json.dumps(body)))
    engine.validate(request)
    streamed: list[str] = []

    def take(events: list[dict[str, Any]]) -> None:
        for chunk in events:
            streamed.extend(choice["text"] for choice in chunk["choices"])

    await generate_chunks(engine, request, take)
    # Tokens at random are bytes that make no character; see the test of those below.
    assert ascii_of("".join(streamed)) == ascii_of(
        tiny_tokenizer().decode(said, skip_special_tokens=True)
    )
    return said


def ascii_of(text: str) -> str:
    return text.encode("ascii", "ignore").decode()


async def started(
    folder: Path, dtype: Dtype | None = None, trust_remote_code: bool = False
) -> LocalEngine:
    engine = LocalEngine(
        str(folder), device="cpu", dtype=dtype, trust_remote_code=trust_remote_code
    )
    await engine.start()
    return engine


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("name", FAMILIES)
async def test_a_stream_is_what_generate_gives_token_for_token(
    name: str, config: DecodingConfig, checkpoints: Path
) -> None:
    expected = generated(checkpoints / name, config)
    assert len(set(expected)) > 5, "a text of one token shows nothing"
    engine = await started(checkpoints / name)
    try:
        assert type(engine.loaded.decoder) is FAMILIES[name].decoder
        assert await answered(engine, config) == expected
    finally:
        await engine.stop()


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if family.config.is_encoder_decoder]
)
async def test_no_ngram_of_what_an_encoder_read_is_in_the_answer(
    name: str, checkpoints: Path
) -> None:
    """At size 1: none of its tokens, of which the plain answer has some."""
    folder = checkpoints / name
    for config in (PLAIN, ALL):
        expected = generated(folder, replace(config, encoder_no_repeat_ngram_size=1))
        engine = await started(folder)
        try:
            assert (
                await answered(engine, replace(config, encoder_no_repeat_ngram_size=1)) == expected
            )
        finally:
            await engine.stop()
        read = set(tiny_tokenizer()(PROMPT)["input_ids"])
        assert not read & set(expected)
        assert read & set(generated(folder, config))


@pytest.mark.parametrize(
    "name", [name for name, family in FAMILIES.items() if not family.config.is_encoder_decoder]
)
async def test_encoder_ngrams_are_refused_where_there_is_no_encoder(
    name: str, checkpoints: Path
) -> None:
    engine = await started(checkpoints / name)
    try:
        with pytest.raises(ApiError, match="has no encoder") as refused:
            await answered(engine, DecodingConfig(encoder_no_repeat_ngram_size=2))
    finally:
        await engine.stop()
    assert (refused.value.status, refused.value.param) == (400, "encoder_no_repeat_ngram_size")


@pytest.mark.parametrize("name", ["Gemma2", "Mistral"])
async def test_a_sliding_window_is_one(name: str, checkpoints: Path, tmp_path: Path) -> None:
    """The same weights without it say something else."""
    folder = checkpoints / name
    settings = json.loads((folder / "config.json").read_text())
    whole = tmp_path / name
    shutil.copytree(folder, whole)
    (whole / "config.json").write_text(json.dumps(settings | {"sliding_window": CONTEXT}))
    assert generated(whole, PLAIN) != generated(folder, PLAIN)


def test_an_encoder_only_model_is_refused_in_one_line(tmp_path: Path) -> None:
    config = tiny_config(BertConfig, architectures=["BertForMaskedLM"])
    save(config, tmp_path / "bert", transformers.AutoModelForMaskedLM)
    with pytest.raises(StartupError) as refused:
        LocalEngine(str(tmp_path / "bert")).load()
    assert (
        str(refused.value)
        == f"{tmp_path / 'bert'} is an encoder-only model (BertForMaskedLM) and cannot generate text"
    )


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "T5"])
async def test_half_precision_is_what_generate_gives_in_half_precision(
    name: str, checkpoints: Path
) -> None:
    expected = generated(checkpoints / name, PLAIN, dtype="bfloat16")
    engine = await started(checkpoints / name, dtype="bfloat16")
    try:
        assert engine.loaded.model.dtype == torch.bfloat16
        said = await answered(engine, PLAIN)
    finally:
        await engine.stop()
    # Two ways to add up in 8 bits of precision: after a tie they part.
    assert said[:8] == expected[:8]


async def test_on_the_cpu_a_checkpoint_in_half_precision_is_decoded_in_full(
    checkpoints: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoints / "Llama", dtype="float16")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    for dtype, expected in ((None, torch.float32), ("auto", torch.float16)):
        engine = await started(tmp_path, dtype)
        assert engine.loaded.model.dtype == expected
        await engine.stop()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [([0.020, 0.030], torch.bfloat16), ([0.027, 0.033], torch.float32), ([1, 1], torch.float32)],
    ids=["faster", "hardly faster", "slower"],
)
async def test_on_the_cpu_the_fastest_data_type_is_measured_and_reported(
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: list[float],
    expected: torch.dtype,
) -> None:
    times = {torch.float32: [0.030, 0.035], torch.bfloat16: seconds}
    monkeypatch.setattr(dtype_module, "_SAMPLE_BYTES", 1024)
    monkeypatch.setattr(dtype_module, "_seconds", lambda weights: times[weights[0].dtype])
    caplog.set_level("INFO", "dedup")
    engine = await started(checkpoints / "Llama")
    assert engine.loaded.model.dtype == expected
    name = str(expected).removeprefix("torch.")
    assert f"fastest here: {name} (ms a step for 1 and 16 sequences: float32" in caplog.text
    await engine.stop()
    engine = await started(checkpoints / "Llama", "float32")
    assert engine.loaded.model.dtype == torch.float32
    await engine.stop()


def test_multiplications_of_each_data_type_take_time() -> None:
    layer = torch.nn.Linear(4096, 8192, bias=False)
    best, told = dtype_module.fastest(torch.nn.Sequential(layer))
    assert best in dtype_module.CANDIDATES
    assert told.startswith(str(best).removeprefix("torch."))
    assert dtype_module.fastest(torch.nn.Linear(64, 64)) == (torch.float32, "")


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # torch's own, as it makes ready to compile
async def test_a_quantised_checkpoint_is_loaded_as_its_config_says(
    checkpoints: Path, tmp_path: Path
) -> None:
    """BitNet: weights of -1, 0, 1, the one kind that needs no further package."""
    folder = tmp_path / "bitnet"
    shutil.copytree(checkpoints / "Llama", folder)
    settings = json.loads((folder / "config.json").read_text())
    how = {
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "modules_to_not_convert": ["lm_head"],
    }
    settings["quantization_config"] = {"quant_method": "bitnet"} | how
    (folder / "config.json").write_text(json.dumps(settings))
    expected = generated(folder, ALL)
    assert expected != generated(checkpoints / "Llama", ALL)
    engine = await started(folder)
    try:
        assert type(engine.loaded.model.model.layers[0].mlp.up_proj).__name__ == "AutoBitLinear"
        assert await answered(engine, ALL) == expected
    finally:
        await engine.stop()


def tokens_of_bytes(data: bytes) -> list[int]:
    """A token a byte, of the tiny tokenizer's byte-level alphabet."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    letters |= {
        byte: chr(256 + place) for place, byte in enumerate(sorted(set(range(256)) - set(plain)))
    }
    return [tiny_tokenizer().convert_tokens_to_ids(letters[byte]) for byte in data]


@pytest.mark.parametrize("num_stray", [0, 1, 2, 3, 4])
def test_a_character_after_stray_bytes_is_given_out(num_stray: int) -> None:
    """As a model says them at a high temperature: first bytes that no others follow, then a whole character."""
    stream, said = (
        Detokenizer(tiny_tokenizer()),
        tokens_of_bytes(b"\xe4" * num_stray + "你好".encode()),
    )
    text = "".join(map(stream.feed, said)) + stream.flush()
    assert text.endswith("你好")
    assert set(text) <= set("\ufffd你好")


CODE = {
    "configuration_riddle.py": """
from transformers import LlamaConfig

class RiddleConfig(LlamaConfig):
    model_type = "riddle"
""",
    "modeling_riddle.py": """
from transformers import LlamaForCausalLM
from .configuration_riddle import RiddleConfig

class RiddleForCausalLM(LlamaForCausalLM):
    config_class = RiddleConfig
""",
}


@pytest.fixture
def with_own_code(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Llama, as a checkpoint that brings its classes itself."""
    monkeypatch.setattr(
        transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    folder = tmp_path / "riddle"
    shutil.copytree(checkpoints / "Llama", folder)
    settings = json.loads((folder / "config.json").read_text())
    classes = {
        "AutoConfig": "configuration_riddle.RiddleConfig",
        "AutoModelForCausalLM": "modeling_riddle.RiddleForCausalLM",
    }
    settings |= {
        "model_type": "riddle",
        "architectures": ["RiddleForCausalLM"],
        "auto_map": classes,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    for name, code in CODE.items():
        (folder / name).write_text(code)
    return folder


async def test_a_checkpoints_own_code_runs_only_when_it_is_trusted(
    with_own_code: Path, checkpoints: Path
) -> None:
    with pytest.raises(StartupError) as refused:
        LocalEngine(str(with_own_code)).load()
    assert "--trust-remote-code" in str(refused.value)
    assert "\n" not in str(refused.value)
    engine = await started(with_own_code, trust_remote_code=True)
    try:
        assert type(engine.loaded.model).__name__ == "RiddleForCausalLM"
        assert type(engine.loaded.decoder) is Batcher
        assert await answered(engine, ALL) == generated(checkpoints / "Llama", ALL)
    finally:
        await engine.stop()


def families_table() -> str:
    lines = ["| Family | Decoded | Remarks |", "| --- | --- | --- |"]
    for name, family in FAMILIES.items():
        details = [family.why] if family.why else []
        if getattr(family.config, "sliding_window", None) == WINDOW:
            details.append("sliding window")
        how = "together" if family.decoder is Batcher else "one by one"
        lines.append(f"| {name} | {how} | {', '.join(details)} |")
    lines.append("| BERT | refused | encoder-only |")
    return "\n".join(lines)


def check_table(page: str, marker: str, table: str) -> None:
    """The table between two comments in a page of docs/ is this one; with UPDATE_DOCS=1 it becomes it."""
    path = DOCS / page
    begins, ends = f"<!-- {marker}: begin -->", f"<!-- {marker}: end -->"
    text = path.read_text(encoding="utf-8")
    assert text.count(begins) == text.count(ends) == 1, (
        f"docs/{page} must have {begins} and {ends} once"
    )
    before, _, rest = text.partition(begins)
    shown, _, after = rest.partition(ends)
    if os.environ.get("UPDATE_DOCS") == "1":
        path.write_text(f"{before}{begins}\n{table}\n{ends}{after}", encoding="utf-8")
        return
    assert shown.strip() == table, (
        f"the table '{marker}' in docs/{page} is not what the tests say; UPDATE_DOCS=1 writes it anew"
    )


def test_the_table_of_families_in_the_docs_is_this_one() -> None:
    check_table("guides/local.md", "families", families_table())
