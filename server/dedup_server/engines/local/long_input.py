"""A text longer than the context: cut into pieces that overlap, and what is said of each put together without saying it twice.

The text is cut between paragraphs where that is enough, else between sentences, else between words. Each piece begins with the last
sentences of the one before it, so that nothing is read without what it refers to; what a model says of those once more is left out.
"""

import re
from collections.abc import Callable, Iterator

from dedup.text.segmenter import Segmenter
from dedup.text.words import UNSPACED, sentence_key

_PARAGRAPHS = re.compile(r".+?(?:\n[^\S\n]*\n\s*|\Z)", re.DOTALL)
_WORDS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]*\s*")
_UNSPACED_END = re.compile(rf"[{UNSPACED}，。！？：；、）》”’」』…]\Z")
_LEAST_SEAM = 12  # bytes of UTF-8: less than that two texts have in common by chance
_SEAM_SENTENCES = 8

SizeOf = Callable[[str], int]


def split(text: str, size_of: SizeOf, room: int, overlap: int) -> list[str]:
    """Pieces of `text` that take at most `room` tokens each, as `size_of` counts them; all but the first begin with at most `overlap`
    tokens of the one before. Without these they are the text. Raises ValueError where a single word takes more than `room`."""
    if not 0 <= overlap < room:
        raise ValueError(f"overlap must be from 0 to {room - 1}, got {overlap}")
    pieces: list[str] = []
    current = ""
    size, is_new = 0, False  # whether there is more in `current` than the overlap
    for part in _parts(text, size_of, room, [_PARAGRAPHS.findall, sentences, _WORDS.findall, list]):
        part_size = size_of(part)
        if is_new and size + part_size > room:
            pieces.append(current)
            current = _last_sentences(current, size_of, min(overlap, room - part_size))
            size = size_of(current)
        current, size, is_new = current + part, size + part_size, True
    return [*pieces, current] if is_new else pieces


def new_part(said: str, text: str) -> str:
    """What of `text`, said of a piece, was not said at the end of `said`, of the piece before; with what is to stand between the two."""
    text = text.strip()
    for size in range(min(len(text), len(said)), 0, -1):
        if len(text[:size].encode("utf-8", "surrogatepass")) < _LEAST_SEAM:
            break
        if said.endswith(text[:size]):
            return text[size:]  # goes on where the other ended
    heard = {
        key for sentence in sentences(said)[-_SEAM_SENTENCES:] if (key := sentence_key(sentence))
    }
    left = sentences(text)
    while left and (sentence_key(left[0]) in heard or not sentence_key(left[0])):
        left.pop(0)
    new = "".join(left)
    if not (said and new) or said[-1].isspace():
        return new
    return ("" if _UNSPACED_END.search(said) else " ") + new


def sentences(text: str) -> list[str]:
    """The sentences, lines and items of `text`, each with the space after it; together they are the text."""
    segmenter = Segmenter()
    segmenter.feed(text)
    segmenter.flush()
    found = []
    while segment := segmenter.take():
        found.append(segment.text + segment.separator)
    return found


def _parts(
    text: str, size_of: SizeOf, room: int, ways: list[Callable[[str], list[str]]]
) -> Iterator[str]:
    if not text or size_of(text) <= room:
        if text:
            yield text
        return
    if not ways:
        raise ValueError(f"a single character takes more than {room} tokens")
    for part in ways[0](text):
        yield from _parts(part, size_of, room, ways[1:])


def _last_sentences(text: str, size_of: SizeOf, room: int) -> str:
    kept = ""
    for sentence in reversed(sentences(text)):
        if size_of(sentence + kept) > room:
            break
        kept = sentence + kept
    return kept
