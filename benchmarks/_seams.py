"""Faults that a reader would see in a healed answer: at its seam, and at its end."""

import re
from typing import Final

from dedup.answer.boundary import is_whole, stands_open
from dedup.text.segmenter import is_terminated, segments_of

_FENCE: Final = re.compile(r"^(?:```|~~~)", re.MULTILINE)
_FULL_LINE: Final = 40  # characters of a line that should end as a sentence does
_LEAST_AGAIN: Final = 12  # characters
_PRONOUN: Final = re.compile(r"I\b")
_GLUED: Final = re.compile(r"[,.;:!?)\]}’'”]|n't\b")


def faults_of(before: str, after: str, looped: str = "") -> list[str]:
    """Return what is wrong with a healed answer; empty if nothing is.

    Args:
        before: What the reader had when the loop was found.
        after: What came instead of the loop.
        looped: The loop.
    """
    return [*seam_faults(before, after, looped), *end_faults(before + after)]


def seam_faults(before: str, after: str, looped: str = "") -> list[str]:
    """Return what is wrong where the continuation begins."""
    found: list[str] = []
    if not after.strip():
        return found
    first = after.lstrip()[0]
    is_open = stands_open(before, looped) and not _in_code(before)
    space = after[: len(after) - len(after.lstrip())]
    if is_open and "\n" in space:
        found.append("a paragraph begins within a sentence")
    if any(before.endswith(after[:size]) for size in range(_LEAST_AGAIN, len(after) + 1)):
        found.append("what stands before it comes again")
    if before[-1:] == " " and after[0] == " ":
        found.append("two spaces")
    if before[-1:] == " " and _GLUED.match(after):
        found.append("a space before a mark")
    is_word = before[-1:].isascii() and before[-1:].isalnum()
    if is_word and first.isalnum() and not space and looped[:1].isspace():
        found.append("two words run together")
    is_new = first.isupper() and not _PRONOUN.match(after.lstrip())
    if is_open and is_new and next(filter(str.isalpha, looped), "A").islower():
        found.append("a sentence begins within a sentence")
    if re.search(r"[.!?][\"')*]*\s*\Z", before) and not is_open and first.islower():
        found.append("a sentence begins in lower case")
    paragraph = before.rsplit("\n", 1)[-1] + after.lstrip("\n").split("\n", 1)[0]
    if "\n" not in space and not _in_code(before) and paragraph.count("**") % 2:
        found.append("bold is left open")
    return found


def end_faults(text: str) -> list[str]:
    """Return what is wrong where an answer ends."""
    if _in_code(text):
        return ["a code fence is left open"]
    *earlier, last = segments_of(text.rstrip() + "\n")
    if not is_whole(last, *earlier[-1:]):
        return ["it ends within a sentence"]
    if is_terminated(last.text) or last.kind in ("code", "table", "quote"):
        return []
    if last.kind == "item":  # as the items before it end
        items = [one for one in earlier if one.kind == "item"]
        is_usual = not items or not is_terminated(items[-1].text)
    else:
        is_usual = last.kind == "line" and len(last.text) < _FULL_LINE
    return [] if is_usual else ["it ends within a sentence"]


def _in_code(text: str) -> bool:
    return len(_FENCE.findall(text)) % 2 == 1
