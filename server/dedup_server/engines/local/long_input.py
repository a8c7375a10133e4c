"""Texts longer than the context: split into pieces that overlap, their completions joined.

A text is split between paragraphs if that suffices, else between sentences, else between words.
Each piece begins with the last sentences of the piece before it, as context. What the completion
of a piece repeats because of this overlap is removed.
"""

import re
from collections.abc import Callable, Iterator

from dedup.text.segmenter import Segmenter
from dedup.text.words import UNSPACED, sentence_key

_PARAGRAPHS = re.compile(r".+?(?:\n[^\S\n]*\n\s*|\Z)", re.DOTALL)
_WORDS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]*\s*")
_UNSPACED_END = re.compile(rf"[{UNSPACED}，。！？：；、）》”’」』…]\Z")
_LEAST_SEAM = 12  # bytes of UTF-8; a shorter overlap of two texts may be chance
_SEAM_SENTENCES = 8

# Returns the number of tokens of a text.
SizeOf = Callable[[str], int]


def split(text: str, size_of: SizeOf, room: int, overlap: int) -> list[str]:
    """Split `text` into pieces of at most `room` tokens.

    All pieces but the first begin with at most `overlap` tokens of the piece before. Without these,
    the pieces joined are `text`.

    Raises:
        ValueError: a single character has more than `room` tokens, or `overlap` is invalid.
    """
    if not 0 <= overlap < room:
        raise ValueError(f"overlap must be from 0 to {room - 1}, got {overlap}")
    pieces: list[str] = []
    current = ""
    size, is_new = 0, False  # is_new: `current` is more than the overlap
    for part in _parts(text, size_of, room, [_PARAGRAPHS.findall, sentences, _WORDS.findall, list]):
        part_size = size_of(part)
        if is_new and size + part_size > room:
            pieces.append(current)
            current = _last_sentences(current, size_of, min(overlap, room - part_size))
            size = size_of(current)
        current, size, is_new = current + part, size + part_size, True
    return [*pieces, current] if is_new else pieces


def new_part(before: str, text: str) -> str:
    """Return the part of `text` that does not repeat the end of `before`.

    Args:
        before: completions of the pieces before, joined.
        text: completion of a piece.

    Returns:
        The part with the space that separates it from `before`.
    """
    text = text.strip()
    for size in range(min(len(text), len(before)), 0, -1):
        if len(text[:size].encode("utf-8", "surrogatepass")) < _LEAST_SEAM:
            break
        if before.endswith(text[:size]):
            return text[size:]
    last = sentences(before)[-_SEAM_SENTENCES:]
    known = {key for sentence in last if (key := sentence_key(sentence))}
    left = sentences(text)
    while left and (sentence_key(left[0]) in known or not sentence_key(left[0])):
        left.pop(0)
    new = "".join(left)
    if not new or not before or before[-1].isspace() or _UNSPACED_END.search(before):
        return new
    return f" {new}"


def sentences(text: str) -> list[str]:
    """Return the sentences, lines and list items of `text`, each with the separator after it."""
    segmenter = Segmenter()
    segmenter.feed(text)
    segmenter.flush()
    found = []
    while segment := segmenter.take():
        found.append(segment.text + segment.separator)
    return found


def _parts(
    text: str, size_of: SizeOf, room: int, splitters: list[Callable[[str], list[str]]]
) -> Iterator[str]:
    """Yield parts of at most `room` tokens, split by the first splitters that suffice."""
    if not text:
        return
    if size_of(text) <= room:
        yield text
        return
    if not splitters:
        raise ValueError(f"a single character has more than {room} tokens")
    for part in splitters[0](text):
        yield from _parts(part, size_of, room, splitters[1:])


def _last_sentences(text: str, size_of: SizeOf, room: int) -> str:
    """Return the last sentences of `text` that have at most `room` tokens together."""
    kept = ""
    for sentence in reversed(sentences(text)):
        if size_of(sentence + kept) > room:
            break
        kept = sentence + kept
    return kept
