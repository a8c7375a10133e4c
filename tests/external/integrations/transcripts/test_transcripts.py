"""The real segments of faster-whisper. No model is run: the texts are those of reports."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faster_whisper.transcribe import Segment, Word  # type: ignore[import-not-found]

from dedup.transcripts import clean_segments
from tests.transcripts_corpus import HALLUCINATED, SPOKEN, Line, Transcript


def segments(lines: list[Line]) -> Iterator[Any]:
    """Yield segments as `transcribe` does, with words whose texts make up the segment's."""
    for number, (start, end, text) in enumerate(lines, 1):
        parts = [f" {part}" for part in text.split()]
        step = (end - start) / max(1, len(parts))
        words = [
            Word(start + step * n, start + step * (n + 1), part, 0.9)
            for n, part in enumerate(parts)
        ]
        yield Segment(
            id=number,
            seek=0,
            start=start,
            end=end,
            text="".join(parts),
            tokens=[],
            avg_logprob=-0.3,
            compression_ratio=1.0,
            no_speech_prob=0.1,
            words=words,
            temperature=0.0,
        )


@pytest.mark.shows("streamed", "loop cut", "repeats removed", "metrics")
@pytest.mark.parametrize("transcript", HALLUCINATED, ids=lambda one: one.name)
def test_segments_keep_their_type_and_times(transcript: Transcript) -> None:
    dropped: list[Any] = []
    cleaned = clean_segments(segments(transcript.lines), dropped)
    assert inspect.isgenerator(cleaned)
    kept = list(cleaned)
    assert dropped
    before = {segment.id: segment for segment in segments(transcript.lines)}
    for segment in kept:
        assert type(segment) is Segment
        assert (segment.start, segment.end) == (before[segment.id].start, before[segment.id].end)
        assert len(segment.text) <= len(before[segment.id].text)
        if segment.text == before[segment.id].text:
            assert segment == before[segment.id]
        elif len(segment.words) > 3:
            assert "".join(word.word for word in segment.words).strip() == segment.text.strip()


@pytest.mark.shows("whole")
@pytest.mark.parametrize("transcript", SPOKEN, ids=lambda one: one.name)
def test_what_was_said_stays(transcript: Transcript) -> None:
    assert list(clean_segments(segments(transcript.lines))) == list(segments(transcript.lines))


def test_the_page(
    blocks: Callable[[str, str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    class Model:
        def transcribe(self, audio: str, *, word_timestamps: bool) -> tuple[Iterator[Any], None]:
            return segments(HALLUCINATED[1].lines), None

    [block] = [one for one in blocks("transcripts", "python") if "model.transcribe" in one]
    exec(block, {"model": Model()})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[-1] == "1493.8  To become one of them, one must drink the seed of the creature."
