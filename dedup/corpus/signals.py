"""Repetition signals of one document.

from dedup.corpus import repetition_signals

repetition_signals(text)["rps_doc_frac_chars_dupe_10grams"]
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from dedup.config import LoopConfig
from dedup.corpus import gopher, redpajama
from dedup.text.loops import LoopEvent, LoopScanner
from dedup.text.metrics import compression_ratio
from dedup.text.segmenter import segments_of
from dedup.text.words import sentence_key

Signal = float | int | str | None
OWN_NAMES: Final = (
    "chars",
    "loop_kind",
    "loop_onset",
    "loop_period",
    "loop_char_frac",
    "drift_char_frac",
    "dup_sentence_frac",
    "dup_sentence_char_frac",
    "repeated_line_frac",
    "compression_ratio",
)
NAMES: Final = (*OWN_NAMES, *gopher.NAMES, *redpajama.NAMES)
_PROSE: Final = ("sentence", "item")
_STRUCTURE: Final = ("code", "table")
_BLOCK_CHARS: Final = 2048  # a long text is read in blocks, for time linear in its length


class Sentence(NamedTuple):
    """A sentence, a line or an item of a list, as the text filter cuts it.

    Attributes:
        key: what it is compared by, as in `dedup.text.words.sentence_key`.
        text: the sentence as it is written, without a marker.
        in_prose: True of sentences and items, False of other lines.
    """

    key: str
    text: str
    in_prose: bool


def repetition_signals(
    text: str,
    *,
    words: Sequence[str] | None = None,
    sentences: Sequence[Sentence] | None = None,
) -> dict[str, Signal]:
    """Return all repetition signals of a text.

    Args:
        text: the text.
        words: its words for Gopher's n-grams; by default letters and digits, signs of punctuation,
            and single Chinese and Japanese characters.
        sentences: its sentences, if they are known: those of `sentences_of`.

    Returns:
        The signals of `OWN_NAMES`, `gopher.NAMES` and `redpajama.NAMES`. A name that ends in
        `_frac` is a share.
    """
    return {
        **own_signals(text, sentences),
        **gopher.gopher_signals(text, words),
        **redpajama.redpajama_signals(text),
    }


def sentences_of(text: str) -> list[Sentence]:
    """Return the sentences of a text that have a letter or digit, without code and tables."""
    found = []
    for segment in segments_of(text):
        if segment.kind not in _STRUCTURE:
            content = segment.text[segment.marker_chars :]
            if key := sentence_key(content):
                found.append(Sentence(key, content, segment.kind in _PROSE))
    return found


def own_signals(text: str, sentences: Sequence[Sentence] | None = None) -> dict[str, Signal]:
    """Return the signals that neither Gopher nor RedPajama has.

    Returns:
        `loop_kind`, `loop_onset` and `loop_period` of the first loop, None without one.
        `loop_char_frac`, the share of characters in loops, and `drift_char_frac`, in near loops
        only. `dup_sentence_frac`, the share of the sentences in prose equal to an earlier one, and
        `dup_sentence_char_frac`, the share of the text's characters in them; code, tables and lines
        that end without a stop are no prose. `repeated_line_frac`, the share of lines equal to an
        earlier one, spaces and case aside. `compression_ratio`, bytes over bytes compressed by
        zlib.
    """
    first, looping, drifting = _loops(text)
    if sentences is None:
        sentences = sentences_of(text)
    repeated, repeated_chars = _repeated(sentences)
    lines = [line for line in map(str.strip, text.casefold().split("\n")) if line]
    return {
        "chars": len(text),
        "loop_kind": first.kind if first else None,
        "loop_onset": first.onset if first else None,
        "loop_period": first.period if first else None,
        "loop_char_frac": looping / max(1, len(text)),
        "drift_char_frac": drifting / max(1, len(text)),
        "dup_sentence_frac": repeated,
        "dup_sentence_char_frac": repeated_chars / max(1, len(text)),
        "repeated_line_frac": 1 - len(set(lines)) / len(lines) if lines else 0.0,
        "compression_ratio": compression_ratio(text),
    }


def _loops(text: str) -> tuple[LoopEvent | None, int, int]:
    """Return the first loop, the characters in loops, and those in near loops."""
    scanner = LoopScanner(LoopConfig())
    first: LoopEvent | None = None
    inside: LoopEvent | None = None
    end = looping = drifting = 0

    def leave(until: int) -> None:
        nonlocal end, looping, drifting
        assert inside is not None
        size = max(0, until - max(end, inside.onset))
        looping += size
        if inside.kind == "near":
            drifting += size
        end = max(end, until)

    def scan() -> None:
        nonlocal first, inside
        while change := scanner.next_change():
            if isinstance(change, LoopEvent):
                first, inside = first or change, change
            elif inside:
                leave(change.at)
                inside = None

    for at in range(0, len(text), _BLOCK_CHARS):
        scanner.feed(text[at : at + _BLOCK_CHARS])
        scan()
    scanner.flush()
    scan()
    if inside:
        leave(len(text))
    return first, looping, drifting


def _repeated(sentences: Sequence[Sentence]) -> tuple[float, int]:
    """Return the share of sentences in prose that equal an earlier one, and their characters."""
    seen: set[str] = set()
    count = repeated = chars = 0
    for sentence in sentences:
        if sentence.in_prose:
            count += 1
            if sentence.key in seen:
                repeated += 1
                chars += len(sentence.text)
            else:
                seen.add(sentence.key)
    return repeated / max(1, count), chars
