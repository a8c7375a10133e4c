"""Transcripts: what was made up goes, what was said stays, with its times."""

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from dedup.transcripts import Dropped, clean_pages, clean_segments
from tests.transcripts_corpus import (
    HALLUCINATED,
    HALLUCINATED_HELD_BACK,
    SEED,
    SPOKEN,
    SPOKEN_HELD_BACK,
    TALK,
    Transcript,
    clocked,
    said,
)

Json = dict[str, Any]


class Named(NamedTuple):
    start: float
    end: float
    text: str


@dataclasses.dataclass
class Word:
    start: float
    end: float
    word: str


@dataclasses.dataclass
class Segment:
    start: float
    end: float
    text: str
    words: list[Word] | None = None


def name(transcript: Transcript) -> str:
    return transcript.name


@pytest.mark.parametrize("transcript", [*HALLUCINATED, *HALLUCINATED_HELD_BACK], ids=name)
def test_what_was_made_up_is_dropped(transcript: Transcript) -> None:
    dropped: list[Dropped] = []
    kept = list(clean_segments(transcript.segments, dropped))
    before = " ".join(segment["text"] for segment in transcript.segments)
    after = " ".join(segment["text"] for segment in kept)
    for text in transcript.made_up:
        copies = after.count(text)
        assert copies <= max(1, 0.35 * before.count(text))
        assert copies <= 4 or copies * len(text) <= 24
    said_ones = [
        segment
        for segment in transcript.segments
        if not any(text in segment["text"] for text in transcript.made_up)
    ]
    assert all(segment in kept for segment in said_ones)
    times = [(segment["start"], segment["end"]) for segment in transcript.segments]
    assert all((segment["start"], segment["end"]) in times for segment in kept)
    assert kept == sorted(kept, key=lambda segment: segment["start"])
    assert len(before) - len(after) >= sum(len(one.text) for one in dropped) > 0


@pytest.mark.parametrize("transcript", [*SPOKEN, *SPOKEN_HELD_BACK], ids=name)
def test_what_was_said_stays(transcript: Transcript) -> None:
    dropped: list[Dropped] = []
    segments = transcript.segments
    kept = list(clean_segments(segments, dropped))
    assert kept == segments
    assert all(one is other for one, other in zip(kept, segments, strict=True))
    assert dropped == []


@pytest.mark.parametrize("transcript", [*HALLUCINATED, *HALLUCINATED_HELD_BACK], ids=name)
def test_cleaning_again_changes_nothing(transcript: Transcript) -> None:
    kept = list(clean_segments(transcript.segments))
    assert list(clean_segments(kept)) == kept


def test_the_report_says_why() -> None:
    dropped: list[Dropped] = []
    lines = [*said(0.0, *TALK), *clocked(30.0, 4, 30.0, SEED)]
    kept = list(clean_segments([Named(*line) for line in lines], dropped))
    assert kept == [Named(*line) for line in lines[: len(TALK) + 1]]
    assert dropped == [
        Dropped(5 + n, SEED, 60.0 + 30 * n, 90.0 + 30 * n, "too slow") for n in range(3)
    ]


def test_words_go_with_the_text() -> None:
    text = " All in favor." + " Aye." * 60
    pieces = [" All", " in", " favor.", *[" Aye."] * 60]
    words = [Word(number / 10, number / 10 + 0.1, one) for number, one in enumerate(pieces)]
    segment = Segment(0.0, 6.3, text, words)
    [kept] = clean_segments([segment])
    assert segment.text == text  # what came is not changed
    assert kept.text.startswith(" All in favor. Aye.")
    assert kept.words is not None
    assert "".join(word.word for word in kept.words).strip() == kept.text.strip()
    assert kept.words == words[: len(kept.words)]
    assert (kept.start, kept.end) == (0.0, 6.3)
    as_dict = dataclasses.asdict(segment)
    [kept_dict] = clean_segments([as_dict])
    assert kept_dict == dataclasses.asdict(kept)


def test_a_segment_of_any_class_keeps_it() -> None:
    segment = SimpleNamespace(start=0.0, end=5.0, text="no, " * 90, id=7)
    [kept] = clean_segments([segment])
    assert isinstance(kept, SimpleNamespace)
    assert kept.id == 7
    assert len(kept.text) < 20
    assert segment.text == "no, " * 90


def test_chunks_of_transformers() -> None:
    chunks: list[Json] = [{"timestamp": (s, e), "text": text} for s, e, text in said(0.0, *TALK)]
    chunks += [{"timestamp": (40.0 + n, 41.0 + n), "text": f" {SEED}"} for n in range(9)]
    chunks.append({"timestamp": (49.0, None), "text": " Good night."})
    assert list(clean_segments(chunks)) == [*chunks[:5], chunks[-1]]


def test_words_of_transformers() -> None:
    words = " It was very, very, very, very, very, very, very, very, very good.".split()
    chunks = [
        {"timestamp": (round(0.3 * n, 2), round(0.3 * n + 0.3, 2)), "text": f" {word}"}
        for n, word in enumerate(words)
    ]
    assert list(clean_segments(chunks)) == chunks


def test_without_times_only_what_comes_too_often_goes() -> None:
    lines = [{"text": "Thank you."} for _ in range(40)]
    assert list(clean_segments(lines)) == lines[:1]
    assert list(clean_segments(lines[:30])) == lines[:30]
    assert list(clean_segments(lines, max_copies=None)) == lines
    assert list(clean_segments(lines[:30], max_copies=10)) == lines[:1]


def test_live_segments_pass_at_once_and_repeats_are_held_within_bounds() -> None:
    taken: list[int] = []

    def live() -> Iterator[Json]:
        for number, (start, end, text) in enumerate(
            [*said(0.0, *TALK), *said(40.0, *["Yes."] * 99)]
        ):
            taken.append(number)
            yield {"start": start, "end": end, "text": text}

    for number, _ in enumerate(clean_segments(live(), max_copies=None)):
        assert taken[-1] - number <= 64
        if number < 5:
            assert taken[-1] == number
    assert len(taken) == 4 + 99


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="max_copies must be 1 or more"):
        list(clean_segments([], max_copies=0))
    with pytest.raises(TypeError, match="segment 0 is a str without a text"):
        list(clean_segments(["no"]))


HEADER = "ANNUAL REPORT 2025 - CONFIDENTIAL\n\n"
FOOTER = "\n\nACME GmbH, Hauptstr. 1, 10115 Berlin\n"
PAGES = [
    "The year began with a fire in the warehouse, which cost us two weeks of deliveries.",
    "Sales rose by four per cent. The new plant in Lyon was opened in May.",
    "The board thanks all employees for their work.",
]


def test_a_loop_on_a_page_is_dropped_and_the_next_page_is_not_hurt() -> None:
    loop = "life? He had written: Two co\n"
    dropped: list[Dropped] = []
    pages = [f"{HEADER}{page}{FOOTER}" for page in PAGES]
    looping = f"{HEADER}of wisdom. The larger questions of law and of\n{loop * 80}"
    kept = list(clean_pages([pages[0], looping, f"{loop}and so on.", *pages[1:]], dropped))
    assert [kept[0], *kept[3:]] == pages
    assert kept[1].startswith(HEADER)
    assert kept[1].count(loop.strip()) <= 3
    assert kept[2] == f"{loop}and so on."
    assert [(one.index, one.reason) for one in dropped] == [(1, "loop")]
    assert len(kept[1]) + len(dropped[0].text) == len(looping)


def test_forms_and_tables_of_pages_stay() -> None:
    table = "| Item | Amount |\n| --- | --- |\n" + "| Rent | 1,200.00 |\n" * 12
    form = "\n".join(["Name: ______________", "Date: ______________", "[ ] Yes  [ ] No"] * 6)
    contents = "\n".join(f"{n}. Chapter {n} ........ {n * 7}" for n in range(1, 30))
    pages = [f"{HEADER}{text}{FOOTER}" for text in (table, form, contents)]
    dropped: list[Dropped] = []
    assert list(clean_pages(pages, dropped)) == pages
    assert dropped == []


def test_chinese_pages() -> None:
    loop = "第三条 甲方应当按照约定支付价款。"
    pages = [
        "第一条 本合同自签字之日起生效。第二条 双方应当遵守。" + loop * 60,
        "第四条 争议由法院管辖。",
    ]
    kept = list(clean_pages(pages))
    assert kept[1] == pages[1]
    assert kept[0].count(loop) <= 2
