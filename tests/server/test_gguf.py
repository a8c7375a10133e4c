"""GGUF files: served as the folders they were made of, and refused in one line where they cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from dedup_server.audit.models import LocalModel
from dedup_server.engines.local import gguf_file
from dedup_server.engines.local.checkpoint import Checkpoint
from dedup_server.engines.local.engine import DEMO_MODEL, LocalEngine
from dedup_server.errors import StartupError
from tests.external import demo_gguf
from tests.server.tiny_model import said_by
from tests.server.wired import generate_chunks, sampled

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning"),
]

Kind = gguf.GGMLQuantizationType
PROMPTS = [
    "She had not slept since the night when her brother disappeared.",
    "夜深了，屋里只点着一盏灯。",
    "In 1894 he paid 12 pounds, 5 shillings.",
]
NUM_TOKENS = 24
_PADDING = 24  # bytes at the end of a file of `_small`


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tale.v2.gguf"
    demo_gguf.write(path)
    return path


async def _greedy(model: str | Path, prompts: list[str]) -> tuple[LocalEngine, list[list[int]]]:
    engine = LocalEngine(str(model), device="cpu")
    await engine.start()
    answers, said = [], said_by(engine)
    for prompt in prompts:
        said.clear()
        body = {"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0, "stream": True}
        await generate_chunks(engine, sampled("completions", body), lambda _: None)
        answers.append([token for token in said if token not in engine.loaded.end_tokens])
    assert sum(map(len, answers)) > NUM_TOKENS
    return engine, answers


async def test_a_gguf_file_is_served_like_its_folder(plain: Path) -> None:
    file, answers = await _greedy(plain, PROMPTS)
    folder, expected = await _greedy(DEMO_MODEL, PROMPTS)
    try:
        assert answers == expected
        assert file.models == ["tale.v2"]
        one, other = file.loaded, folder.loaded
        assert (one.end_tokens, one.context) == (other.end_tokens, other.context)
        assert one.tokenizer.chat_template == other.tokenizer.chat_template
        for prompt in PROMPTS:
            assert one.tokenizer(prompt)["input_ids"] == other.tokenizer(prompt)["input_ids"]
    finally:
        await file.stop()
        await folder.stop()


async def test_a_quantised_file_is_dequantised(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    demo_gguf.write(path, kind=Kind.Q4_0)
    assert len(path.read_bytes()) < len(plain.read_bytes()) / 2  # noqa: ASYNC240
    engine, answers = await _greedy(path, PROMPTS)
    try:
        model = engine.loaded.model
        assert model.dtype == torch.float32
        assert not getattr(model.config, "quantization_config", None)
        assert not getattr(model, "is_quantized", False)
        own = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file=path.name, dtype="float32"
        )
        for prompt, answer in zip(PROMPTS, answers, strict=True):
            asked = engine.loaded.tokenizer(prompt, return_tensors="pt")["input_ids"]
            row = own.generate(
                asked,
                attention_mask=torch.ones_like(asked),
                max_new_tokens=NUM_TOKENS,
                do_sample=False,
            )
            said = row[0, asked.shape[1] :].tolist()
            assert [token for token in said if token not in engine.loaded.end_tokens] == answer
    finally:
        await engine.stop()


def _small(
    path: Path, change: Callable[[gguf.GGUFWriter], object] | None = None, **more: Any
) -> Path:
    """A GGUF file with the least that is checked before loading."""
    writer = gguf.GGUFWriter(path, more.get("architecture", "llama"))
    if more.get("tokens", True):
        writer.add_token_list(["<s>", "</s>", "a"])
    if change:
        change(writer)
    if more.get("weights", True):
        kind = more.get("kind", Kind.F32)
        row = np.zeros(gguf.GGML_QUANT_SIZES[kind][1] * 2, np.uint8)
        writer.add_tensor("token_embd.weight", row, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_with_the_least_is_accepted(tmp_path: Path) -> None:
    for kind in (Kind.F32, Kind.BF16, Kind.Q4_1, Kind.Q6_K, Kind.IQ4_NL):
        Checkpoint.of(str(_small(tmp_path / f"{kind.name}.gguf", kind=kind))).require()


def test_every_token_that_ends_an_answer_is_one(tmp_path: Path) -> None:
    """llama.cpp ends at all of them; transformers reads the first."""

    def ends(writer: gguf.GGUFWriter) -> None:
        writer.add_eos_token_id(1)
        writer.add_eot_token_id(2)
        writer.add_eom_token_id(2)

    header = gguf_file.read_header(_small(tmp_path / "chat.gguf", ends))
    assert header.end_tokens == [1, 2]
    assert gguf_file.read_header(_small(tmp_path / "base.gguf")).end_tokens == []


def _as_part(writer: gguf.GGUFWriter) -> None:
    writer.add_uint16("split.no", 1)
    writer.add_uint16("split.count", 3)


def _with_type(path: Path, code: int) -> Path:
    """Overwrite the type of the only tensor, which stands before its offset, at the header's end."""
    data = bytearray(_small(path).read_bytes())
    at = data.rindex(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 8
    data[at : at + 4] = code.to_bytes(4, "little")
    path.write_bytes(data)
    return path


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "none": (lambda path: path, "no such file; a GGUF file on the hub has to be downloaded"),
    "empty": (lambda path: _bytes(path, b""), "is not a GGUF file"),
    "a pointer": (lambda path: _bytes(path, b"version https://git-lfs"), "is not a GGUF file"),
    "old": (lambda path: _bytes(path, b"GGUF\1\0\0\0" + b"\0" * 64), "version 1 is not supported"),
    "magic alone": (lambda path: _bytes(path, b"GGUF"), "is cut off or damaged"),
    "a part": (lambda path: _small(path, _as_part), "is part 2 of 3 of a split model; join"),
    "no weights": (lambda path: _small(path, weights=False), "has no weights"),
    "no tokenizer": (lambda path: _small(path, tokens=False), "has no tokenizer"),
    "half": (
        lambda path: _bytes(path, _small(path).read_bytes()[: -_PADDING - 1]),
        r"is cut off: it has [\d,]+ of [\d,]+ bytes",
    ),
    "a type of the future": (
        lambda path: _with_type(path, 3000),
        r"token_embd\.weight is of type 3000, which gguf does not know",
    ),
    "no dequantiser": (
        lambda path: _small(path, kind=Kind.Q8_K),
        "is quantised as Q8_K, which gguf cannot dequantise",
    ),
    "an architecture of the future": (
        lambda path: _small(path, architecture="strange"),
        "cannot be loaded: GGUF model with architecture strange is not supported yet",
    ),
    "an architecture without its numbers": (_small, "cannot be loaded|no tokenizer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_served_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, reason = REFUSED[name]
    path = make(tmp_path / "model.gguf")
    with pytest.raises(StartupError, match=reason) as refused:
        LocalEngine(str(path)).load()
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_folder_of_gguf_files_is_no_model(tmp_path: Path) -> None:
    _small(tmp_path / "small.gguf")
    with pytest.raises(StartupError, match=r"a folder; give one of its files: small\.gguf"):
        LocalEngine(str(tmp_path)).load()


def test_without_the_package_the_extra_is_named(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None)
    with pytest.raises(StartupError, match=r'needs gguf: pip install "dedup-llm\[local\]"'):
        Checkpoint.of(str(plain)).require()


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path) -> None:
    def full(writer: gguf.GGUFWriter) -> None:
        writer.add_context_length(64)
        writer.add_array("numbers", [1, 2, 3])
        writer.add_chat_template("{{ messages }}")

    path = _small(tmp_path / "whole.gguf", full)
    data = path.read_bytes()
    Checkpoint.of(str(path)).require()
    for length in range(len(data) - _PADDING):
        cut = _bytes(tmp_path / "cut.gguf", data[:length])
        with pytest.raises(StartupError, match=r"cut off|not a GGUF file") as refused:
            Checkpoint.of(str(cut)).require()
        assert "\n" not in str(refused.value)


def test_audited_answers_belong_to_the_file(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "tale.gguf"
    path.write_bytes(plain.read_bytes())
    (tmp_path / "notes.txt").write_text("")
    key = LocalModel(str(path), "cpu").key
    (tmp_path / "notes.txt").write_text("another file")
    assert LocalModel(str(path), "cpu").key == key
    demo_gguf.write(path, kind=Kind.Q8_0)
    assert LocalModel(str(path), "cpu").key != key
