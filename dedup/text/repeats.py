"""Decides whether a segment repeats an earlier one so that it is to be removed.

A repeat must weigh the more, in bytes of UTF-8, the less its surroundings repeat. Decisions rest on
the text that is kept: see `Context`.
"""

import re
from typing import Final

from dedup.text.context import FORMULA, LEADS_IN, NEAR_CHARS, Context
from dedup.text.seen import Seen, SeenSentences
from dedup.text.segmenter import Segment, is_terminated
from dedup.text.words import UNSPACED, utf8_size

# The least weight of a repeat, in bytes of UTF-8.
# Right after the same words, or in the order of before: "Yes, sir." twice is a dialogue.
_MIN_ECHO: Final = 20
_MIN_ITEM: Final = 16  # in the same list
_MIN_LABELLED_ITEM: Final = 32  # "Source: The Guardian"
# Within a few sentences of one paragraph or item; a line of old Chinese verse has eight characters.
_MIN_NEAR: Final = 25
# Between other words than before, or of a passage: a short sentence may be true twice.
_MIN_ALONE: Final = 60
_MIN_SECTION: Final = 100  # under another heading, which may be what it is true of
# A paragraph of one sentence under a line that is not prose, which may be what it is true of.
_MIN_PARAGRAPH: Final = 150
# At the text's end, where it breaks off:
_MIN_CUT_WORD: Final = 16  # within a word of an earlier sentence
_MIN_CUT_SENTENCE: Final = 32  # between two words of it
_MIN_CUT_PASSAGE: Final = 8  # where the sentence before it is a repeat, too
_KEEP: Final = 1 << 30  # the weight that no repeat has: it is kept
_PARALLEL_ITEMS: Final = 3  # side by side
_ROW: Final = re.compile(r"^[\"'\d]|[,;{}\[\]()]$")  # of JSON, CSV, code
# A speaker, or the question that is answered.
_LABEL: Final = re.compile(r"[^\s:：]{1,20}(?: [^\s:：]{1,20})?[:：]")
_UNSPACED: Final = re.compile(f"[{UNSPACED}]")
_OPEN: Final = re.compile(r"[(（\[][^)）\]]*$")


class RepeatJudge:
    """The decisions about repeats.

    seen: the sentences so far.
    context: the context of the next segment.
    last_removed: key of the segment removed since the last one kept; empty if none was.
    """

    def __init__(self, seen: SeenSentences) -> None:
        self.seen = seen
        self.context = Context()
        self.last_removed = ""

    def first_start(
        self, segment: Segment, key: str, earlier: Seen | None, *, in_item: bool, at_end: bool
    ) -> int | None:
        """Return the offset of the sentence that a segment repeats; None if it is to be kept.

        Args:
            key: the key of the segment.
            earlier: the earlier sentence with that key.
            in_item: whether it is a line of the last list item.
            at_end: whether the text ends with it.
        """
        weight = utf8_size(key)
        if at_end and not is_terminated(segment.text):
            return self._broken_off(segment, key, weight)
        if earlier is None or not _may_be_repeat(segment, weight):
            return None
        labelled = _LABEL.match(segment.text, segment.marker_chars) is not None
        if segment.kind == "item":
            least = _least_of_item(segment, labelled)
        else:
            least = self._least(segment, key, earlier, weight, labelled, in_item)
        if weight >= least:
            return earlier.start
        return None

    def _least(
        self,
        segment: Segment,
        key: str,
        earlier: Seen,
        weight: int,
        labelled: bool,
        in_item: bool,
    ) -> int:
        """Return the least weight of a sentence, a line or a quote that is removed."""
        context = self.context
        if segment.kind == "line" or context.is_verse:
            # Verse and titles come back; a line twice in a row is a fault.
            again = key == context.key and (weight >= _MIN_ALONE or context.times >= 2)
            if again and _ROW.search(segment.text) is None:
                return 0
            return _KEEP
        if key == context.key or (earlier.after and earlier.after == self.last_removed):
            return _MIN_ECHO
        if labelled or (in_item and _side_by_side(earlier, context)):
            return _KEEP
        if earlier.section != context.section:
            return _MIN_SECTION
        is_passage = earlier.after != "" and earlier.after == context.key
        if is_passage and context.passage + weight >= _MIN_ALONE:
            return _MIN_ECHO
        if segment.whole:
            return _MIN_ALONE if context.is_prose else _MIN_PARAGRAPH
        return _MIN_NEAR if context.chars - earlier.place <= NEAR_CHARS else _MIN_ALONE

    def _broken_off(self, segment: Segment, key: str, weight: int) -> int | None:
        """Return the offset of the sentence in whose repetition the text breaks off, if any."""
        if not segment.firm or weight < _MIN_CUT_PASSAGE:
            return None
        for earlier in self.seen.beginning_with(key):
            if weight >= self._least_broken_off(segment, key, earlier):
                return earlier.start
        return None

    def _least_broken_off(self, segment: Segment, key: str, earlier: Seen) -> int:
        """Return the least weight of the unfinished beginning of an earlier sentence."""
        context, removed = self.context, self.last_removed
        is_item, is_whole = segment.kind == "item", earlier.key == key
        if earlier.scope != segment.scope:
            return _KEEP
        if is_whole and is_item:
            return _MIN_ITEM
        if is_whole and segment.whole:
            return _KEEP  # a whole line may be all that was meant
        if removed and removed in (earlier.key, earlier.after):
            return _MIN_CUT_PASSAGE
        is_broken = _OPEN.search(segment.text) is not None or _breaks_word(earlier.key, len(key))
        if is_broken and not context.is_verse:
            return _MIN_CUT_WORD
        if segment.kind == "sentence" and not segment.whole:
            return _MIN_CUT_SENTENCE
        goes_on = context.key != "" and context.key in (earlier.key, earlier.after)
        if segment.kind == "line" and goes_on and not context.is_verse:
            return _MIN_CUT_SENTENCE
        return _KEEP


def _least_of_item(segment: Segment, labelled: bool) -> int:
    """Return the least weight of an item that is removed."""
    if segment.whole and "\n" not in segment.separator:
        return _KEEP  # the text may have been cut in it
    if labelled:
        return _MIN_LABELLED_ITEM
    return _MIN_ITEM


def _may_be_repeat(segment: Segment, weight: int) -> bool:
    """Return whether a segment is one of those that are removed."""
    return (
        weight >= _MIN_ITEM
        and segment.firm
        and not segment.wrapped
        and not segment.text.endswith(LEADS_IN)
        and FORMULA.search(segment.text) is None
    )


def _side_by_side(earlier: Seen, context: Context) -> bool:
    """Return whether an earlier sentence is in one of the items right before, of the same list."""
    is_near = earlier.item > 0 and 0 < context.item - earlier.item <= _PARALLEL_ITEMS
    return is_near and (earlier.marker == context.marker or "" in (earlier.marker, context.marker))


def _breaks_word(key: str, at: int) -> bool:
    """Return whether the offset `at` is within a word or a number of `key`."""
    return (
        key[at - 1 : at].isalnum() and key[at : at + 1].isalnum() and not _UNSPACED.match(key, at)
    )
