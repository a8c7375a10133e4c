"""Texts longer than the context: how they are split and how completions are joined."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_server.engines.local.engine import LocalEngine
from dedup_server.engines.local.long_input import new_part, split
from dedup_server.errors import ApiError
from tests.server.tiny_model import CONTEXT, save_tiny_model
from tests.server.wired import generate_chunks, sampled
from tests.text.test_promises import SENTENCES, SEPARATORS

texts = st.lists(
    st.tuples(
        st.one_of(st.sampled_from(SENTENCES), st.text(max_size=40)), st.sampled_from(SEPARATORS)
    ),
    max_size=30,
)


def size_of(text: str) -> int:
    """Return the number of tokens, of four bytes each."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


@given(texts, st.integers(8, 60), st.integers(0, 30))
@settings(deadline=None)
def test_pieces_fit_overlap_and_are_the_text(
    parts: list[tuple[str, str]], room: int, overlap: int
) -> None:
    """Every piece fits and begins with at most the overlap; without the overlaps, the pieces are
    the text.
    """
    text = "".join(
        f"{number}{sentence}{separator}" for number, (sentence, separator) in enumerate(parts)
    )  # all distinct
    overlap = min(overlap, room - 1)
    pieces = split(text, size_of, room, overlap)
    if not pieces:
        assert not text
        return
    # A piece may end within a token, which then counts in two pieces.
    assert all(size_of(piece) <= 2 * room for piece in pieces)
    joined = pieces[0]
    for piece in pieces[1:]:
        shared = max(
            (
                size
                for size in range(len(piece))
                if size_of(piece[:size]) <= overlap
                and text.startswith(joined + piece[size:])
                and joined.endswith(piece[:size])
            ),
            default=-1,
        )
        assert shared >= 0
        joined += piece[shared:]
    assert joined == text


def test_texts_are_split_between_paragraphs_or_sentences() -> None:
    first, second = (
        "The river had risen. It took the bridge.\n\n",
        "Nobody saw it. The dam had given way. The mill stood dry.\n",
    )
    assert split(first + second, size_of, 20, 0) == [first, second]
    assert split(second, size_of, 10, 0) == [
        "Nobody saw it. The dam had given way. ",
        "The mill stood dry.\n",
    ]
    assert split("河水涨了。冲走了老桥。没有人看见。", size_of, 10, 5) == [
        "河水涨了。冲走了老桥。",
        "冲走了老桥。没有人看见。",
    ]


@pytest.mark.parametrize(
    ("before", "text", "new"),
    [
        (
            "The river rose. It took the bridge.",
            "It took the bridge. Nobody saw it.",
            " Nobody saw it.",
        ),
        ("The river rose and took the", "rose and took the bridge away.", " bridge away."),
        ("The river rose. It took the bridge.", "A new day came.", " A new day came."),
        ("The river rose.\n", "A new day came.", "A new day came."),
        ("河水涨了。冲走了老桥。", "冲走了老桥。没有人看见。", "没有人看见。"),
        ("The river rose. It took the bridge.", "it took the bridge! It took the bridge.", ""),
        ("", "The river rose.", "The river rose."),
    ],
)
def test_the_overlap_is_not_repeated(before: str, text: str, new: str) -> None:
    assert new_part(before, text) == new


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
async def engine(tiny: Path) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(str(tiny))
    await engine.start()
    yield engine
    await engine.stop()


async def answer(engine: LocalEngine, **body: Any) -> list[dict[str, Any]]:
    request = sampled("completions", {"stream_options": {"include_usage": True}, **body})
    engine.validate(request)
    chunks: list[dict[str, Any]] = []

    def take(events: list[dict[str, Any]]) -> None:
        chunks.extend(events)

    await generate_chunks(engine, request, take)
    return chunks


LONG = " ".join(f"the cat sat on the mat {number}, the dog sat on the cat." for number in range(12))


async def test_a_long_text_is_completed_piece_by_piece(engine: LocalEngine) -> None:
    with pytest.raises(ApiError, match="tokens long"):
        await answer(engine, prompt=LONG)
    chunks = await answer(
        engine,
        prompt=LONG,
        long_input={"before": "the dog: ", "overlap": 4},
        max_tokens=6,
        temperature=0,
    )
    alone = await answer(
        engine,
        prompt=LONG,
        long_input={"before": "the dog: ", "overlap": 4},
        max_tokens=6,
        temperature=0,
    )
    assert [chunk["choices"] for chunk in chunks] == [chunk["choices"] for chunk in alone]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    used = chunks[-1]["usage"]
    assert used["completion_tokens"] % 6 == 0
    assert (
        used["completion_tokens"] // 6 > len(engine.loaded.tokenizer(LONG)["input_ids"]) // CONTEXT
    )
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1])


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"max_tokens": 70}, "long_input"),
        ({"long_input": {"overlap": 99}}, "long_input"),
        ({"long_input": {"overlaps": 9}}, "long_input.overlaps"),
        ({"n": 2}, "n"),
        ({"prompt": ["a", "b"]}, "prompt"),
    ],
)
async def test_incompatible_parameters_are_named(
    engine: LocalEngine, more: dict[str, Any], named: str
) -> None:
    with pytest.raises(ApiError) as refused:
        await answer(engine, **{"prompt": LONG, "long_input": True, **more})
    assert refused.value.status == 400
    assert refused.value.param == named


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [([], 0, ""), (["--temperature", "9"], 1, "temperature: must be ≤ 2")],
)
def test_the_command_line_reads_a_text_of_any_length(
    tiny: Path, flags: list[str], code: int, message: str
) -> None:
    command = [
        sys.executable,
        "-m",
        "dedup",
        "generate",
        "--model",
        str(tiny),
        "--max-tokens",
        "8",
        "--overlap",
        "4",
        *flags,
    ]
    ran = subprocess.run(
        command, input=LONG, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == code, ran.stderr
    assert message in ran.stderr
    assert bool(ran.stdout) == (code == 0)
