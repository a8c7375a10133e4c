"""Reads from a prompt how much repetition its response may contain.

A prompt is evidence, never a switch: it allows a number of copies, of one unit if it names one.
Quotes are masked first, and pasted code and texts to work on are left out. The rest is read
sentence by sentence: a number or a kind of repetition counts if a verb asks for it that is neither
negated nor part of a report. The first and last `_INSTRUCTION_CHARS` characters of a long prompt
are searched for requests, the first and last `_END_CHARS` for runs.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Final, Literal

from dedup.text import prompt_words as words
from dedup.text.runs import form, root, runs

__all__ = ["NOTHING_REQUESTED", "RequestedRepetition", "asks_again", "read_prompt"]

Reason = Literal[
    "none", "copies", "in_prompt", "lyrics", "poem", "drill", "test_data", "counting", "repetition"
]

_END_CHARS: Final = 10_000  # searched for a run
_INSTRUCTION_CHARS: Final = 3_000  # at either end, read for a request
_MAX_COPIES: Final = 10_000
_MAX_COUNTED: Final = 1_000
_MAX_REMEMBERED: Final = 16  # prompts
_MAX_REQUESTS: Final = 16
_MAX_SENTENCES: Final = 8  # at either end, of those that may hold a request
_MAX_WORK_CHARS: Final = 220  # from a word like "translate" to its colon
_MAX_UNIT_CHARS: Final = 2_000
# Copies, and the longest period of which so many are allowed. A song repeats its chorus some ten
# times, more often with an outro, and a poem a line three times in a row; a page has thirty lines;
# test data come in quantity; "say it forever" means a screenful or two.
_ALLOWANCES: Final[dict[str, tuple[int, int]]] = {
    "lyrics": (16, 32),
    "poem": (3, 64),
    "drill": (30, 200),
    "test_data": (100, 200),
    "repetition": (100, 100),
}
_MIN_LONG_COPIES: Final = 3  # allowed of a period of any length
_MIN_LABELLED_CHARS: Final = 8  # the least length of a unit with a label: "Copy 3: ..."
_RANKS: Final = (
    "copies",
    "counting",
    "in_prompt",
    "poem",
    "lyrics",
    "drill",
    "test_data",
    "repetition",
)

_NUMBERED: Final = frozenset(("times", "many", "numbers"))
_SHORT_PARAGRAPH_CHARS: Final = 400


@dataclass(frozen=True, slots=True)
class RequestedRepetition:
    """The repetition that a prompt allows its response to contain.

    reason: the kind of request.
    copies: whole copies allowed, slack included.
    unit: folded text of the unit asked for; "" for any unit.
    full_chars: the longest period, in characters, of which all copies are allowed; of longer ones
        proportionally fewer are; 0 for no limit.
    also: further requests of the same prompt.
    """

    reason: Reason
    copies: int
    unit: str
    full_chars: int = 0
    also: tuple["RequestedRepetition", ...] = ()

    def report(self) -> dict[str, object]:
        """Return the field `requested` of a report; no field if nothing is allowed."""
        if self.reason == "none":
            return {}
        return {"requested": {"reason": self.reason, "copies": self.copies}}

    def allowed_copies(self, unit: str) -> int:
        """Return how many whole copies of a loop's period are legitimate.

        Args:
            unit: one period of the loop. It may be rotated, contain list markers and counters, and
                be several copies of the unit asked for.
        """
        if not self.copies:
            return 0
        period, power = root(form(unit))
        if not period:
            return 0
        return max(request._allowed(period, power) for request in (self, *self.also))

    def _allowed(self, period: str, power: int) -> int:
        """Return the copies that this request allows of `power` copies of `period`."""
        if not self.unit:
            copies = self.copies
            if not self.full_chars:
                return copies // power
            size = len(period) * power
            if size > self.full_chars:
                copies = max(_MIN_LONG_COPIES, copies * self.full_chars // size)
            return copies
        asked, asked_power = root(form(self.unit))
        if not asked:
            return 0
        contained = len(period) // len(asked)
        if not contained or (period + period).count(asked) < contained:
            return 0
        asked_chars = len(asked) * contained
        has_label = len(period) > asked_chars
        if has_label and (len(asked) < _MIN_LABELLED_CHARS or 3 * asked_chars < 2 * len(period)):
            return 0
        return self.copies * asked_power // (contained * power)


NOTHING_REQUESTED: Final = RequestedRepetition("none", 0, "")


def read_prompt(prompt: str) -> RequestedRepetition:
    """Return the repetition that `prompt` allows its response to contain."""
    if len(prompt) > 2 * _END_CHARS:
        prompt = f"{prompt[:_END_CHARS]}\n\n{prompt[-_END_CHARS:]}"
    return _read(prompt)


@lru_cache(maxsize=_MAX_REMEMBERED)  # read once for all channels and choices of a response
def _read(prompt: str) -> RequestedRepetition:
    """Return what a prompt allows, its requests in the order of `_RANKS`."""
    found = list(islice(_requests(_folded(_ends(prompt))), _MAX_REQUESTS))
    found += _in_prompt(prompt)
    if not found:
        return NOTHING_REQUESTED
    reasons = {request.reason for request in found}
    if "copies" in reasons or "counting" in reasons:  # more precise than the kinds
        found = [r for r in found if r.reason not in ("repetition", "drill", "test_data")]
    found = list(dict.fromkeys(sorted(found, key=lambda request: _RANKS.index(request.reason))))
    return replace(found[0], also=tuple(found[1:]))


def _folded(text: str) -> str:
    """Return `text` with case and width folded; characters that do not change cost little."""
    if not text.isascii():
        text = words.TO_FOLD.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return text.casefold()


def _requests(text: str) -> Iterator[RequestedRepetition]:
    """Yield the requests of a folded prompt."""
    hints = _hints(text)
    masked, quotes = _mask(text)
    if not hints and not quotes:
        return
    if len(quotes) == 1 and len(masked.strip()) == 1:  # the whole prompt is a quote
        masked, quotes = _mask(quotes[0])
    sentences = list(_sentences(masked, hints))
    first, last = _instructions(masked) if sentences else (0, 0)
    sentences = [one for one in sentences if first <= one[0] < last]
    if len(sentences) > 2 * _MAX_SENTENCES:
        sentences = sentences[:_MAX_SENTENCES] + sentences[-_MAX_SENTENCES:]
    for start, end, groups in sentences:
        sentence = masked[start : min(end, last)].strip(" \n\t")
        yield from _read_sentence(sentence, groups, masked, quotes)


def _hints(text: str) -> dict[str, list[str]]:
    """Return the hints in `text`, by group."""
    if text.isascii():
        begins = {word[:4].decode() for word in set(text.encode().translate(words.LETTERS).split())}
    else:
        begins = set(words.WORD_BEGIN.findall(text))
    found: dict[str, list[str]] = {}
    for begin in begins & words.PREFIXED_HINTS.keys():
        for group, hint in words.PREFIXED_HINTS[begin]:
            if hint in text:
                found.setdefault(group, []).append(hint)
    for group, hint in words.ASCII_OTHER_HINTS if text.isascii() else words.OTHER_HINTS:
        if hint in text:
            found.setdefault(group, []).append(hint)
    return found


def _sentences(masked: str, hints: dict[str, list[str]]) -> Iterator[tuple[int, int, set[str]]]:
    """Yield the sentences that may contain a request, none twice.

    Each comes as its span and the groups of patterns that it may match.
    """
    read: set[str] = set()
    line_end = start = end = 0
    is_code: bool | None = None
    for at in _hits(masked, hints):
        if at < end:
            continue
        line_start = masked.rfind("\n", end, at) + 1
        start = max(end, line_start)
        for match in words.SENTENCE_END.finditer(masked, start, at):
            start = match.end()
        found = words.SENTENCE_END.search(masked, at)
        end = found.end() if found else len(masked)
        sentence = masked[start:end]
        groups = _groups(sentence, hints)
        if not groups or sentence in read:
            continue
        read.add(sentence)
        if is_code is None or start >= line_end:
            line = _line(masked, start)
            line_end = start + max(1, len(line))
            is_code = _is_code(line)
        if not is_code:
            yield start, end, groups


def _is_code(line: str) -> bool:
    """Return whether a line is code."""
    marked = words.CODE_MARK.search(line) or any(word in line for word in words.CODE_WORDS)
    return bool(marked and words.CODE_LINE.search(line))


def _hits(masked: str, hints: dict[str, list[str]]) -> list[int]:
    """Return the offsets of hints and quotes, in order."""
    hits = [] if masked.isascii() else [match.start() for match in words.QUOTE.finditer(masked)]
    for hint in {hint for present in hints.values() for hint in present}:
        at = masked.find(hint)
        while at >= 0:
            hits.append(at)
            at = masked.find(hint, at + len(hint))
    return sorted(hits)


def _groups(sentence: str, hints: dict[str, list[str]]) -> set[str]:
    """Return the groups of patterns that `sentence` may match."""
    groups = {
        group for group, present in hints.items() if any(hint in sentence for hint in present)
    }
    if not sentence.isascii() and words.QUOTE.search(sentence):
        groups.add("many")
    if groups and not words.ANY_NUMBER.search(sentence):
        groups -= _NUMBERED
    return groups


def _line(text: str, at: int) -> str:
    """Return the line of `text` that contains the offset `at`."""
    return text[text.rfind("\n", 0, at) + 1 :].partition("\n")[0]


def asks_again(prompt: str) -> bool:
    """Return whether `prompt` asks for an earlier response again, as it is or changed."""
    for sentence in words.SENTENCE_END.split(_folded(_ends(prompt))):
        for match in words.AGAIN.finditer(sentence):
            before, after = _clause(sentence, match.start(), match.end())
            if not _is_no_request(before, after):
                return True
    return False


def _read_sentence(
    sentence: str, groups: set[str], masked: str, quotes: list[str]
) -> Iterator[RequestedRepetition]:
    """Yield the requests of a sentence.

    Args:
        groups: the groups of patterns that it may match.
        masked: the prompt, with quotes masked.
        quotes: the quotes.
    """
    counted = False
    if "numbers" in groups:
        for match in words.NUMBERS.finditer(sentence):
            number = _number_of(match)
            if number >= 2 and _asks(sentence, match.start(), match.end()):
                counted = True
                yield RequestedRepetition("counting", _with_slack(min(number, _MAX_COUNTED)), "")
    asks = any(pattern.search(sentence) for pattern in (words.ASK, words.CROSSED, words.QUOTE))
    if asks and groups & _NUMBERED:
        for request in _read_numbered(sentence, groups, masked, quotes):
            counted = True
            yield request
    if not counted and "unnumbered" in groups:
        yield from _read_unnumbered(sentence, masked, quotes)
    if "kinds" in groups:
        yield from _read_kinds(sentence)


def _read_numbered(
    sentence: str, groups: set[str], masked: str, quotes: list[str]
) -> Iterator[RequestedRepetition]:
    """Yield the requests for a number of copies."""
    if "times" in groups:
        for match in words.TIMES.finditer(sentence):
            number = 2 if match["twice"] else _number_of(match)
            if number < 2 or words.RATE.search(sentence[: match.start()]):
                continue
            named = _units(sentence, match.end(), masked, quotes)
            if _asks(sentence, match.start(), match.end(), named=bool(named)):
                yield from _of_units("copies", _with_slack(number), 0, named)
    if "many" in groups:
        for match in words.MANY.finditer(sentence):
            number = _number_of(match)
            parts = match.groupdict()
            unit = next((v for k, v in parts.items() if v and k.startswith(("unit", "bare"))), "")
            crossed = words.CROSSED.search(match[0]) is not None  # 500 x 'a' needs no verb
            if number >= 5 and (crossed or _asks(sentence, match.start(), match.end(), named=True)):
                named = [_unmasked(unit, quotes)] if unit else []
                yield from _of_units("copies", _with_slack(number), 0, named)


def _read_kinds(sentence: str) -> Iterator[RequestedRepetition]:
    """Yield the requests for a kind of text that repeats: lyrics, drills, test data."""
    for kind, pattern in words.KINDS:
        for match in pattern.finditer(sentence):
            if _asks_for_kind(sentence, match.start(), match.end()):
                copies, chars = _ALLOWANCES[kind]
                if kind in ("drill", "test_data") and (rows := words.ROWS.search(sentence)):
                    copies = max(copies, _with_slack(min(words.number(rows["n"]), _MAX_COUNTED)))
                yield RequestedRepetition(kind, copies, "", chars)
                break


def _read_unnumbered(
    sentence: str, masked: str, quotes: list[str]
) -> Iterator[RequestedRepetition]:
    """Yield the request for repetition without a number."""
    copies, chars = _ALLOWANCES["repetition"]
    for match in words.REPEAT.finditer(sentence):
        before, after = _clause(sentence, match.start(), match.end())
        if _is_no_request(before, after):
            continue
        if match[0].isascii() and words.POLITE.sub("", words.WISH.sub("", before)):
            continue
        named = _units(sentence, match.end(), masked, quotes)
        if words.ONCE.search(sentence):
            yield from _of_units("copies", 2, 0, named)
        else:
            yield from _of_units("repetition", copies, chars, named)
        return
    for match in words.OVER_AND_OVER.finditer(sentence):
        named = _units(sentence, match.end(), masked, quotes)
        latin = match[0].isascii()
        if _asks(sentence, match.start(), match.end(), named=bool(named), verb_first=latin):
            yield from _of_units("repetition", copies, chars, named)
            return


def _asks(
    sentence: str, start: int, end: int, *, named: bool = False, verb_first: bool = False
) -> bool:
    """Return whether a verb asks for `sentence[start:end]`.

    The last verb before it decides, else the first one in or after it.

    Args:
        named: whether a unit is named: then the copies may be part of a story or a program.
        verb_first: whether a verb after it counts in Japanese alone.
    """
    found: re.Match[str] | None = None
    for verb in words.ASK.finditer(sentence):
        if words.NOUN_BEFORE.search(sentence[: verb.start()]):
            continue
        is_after = verb.start() >= start
        if is_after and (found or not _may_follow(sentence, end, verb, verb_first)):
            break
        found = verb
        if is_after:
            break
    if found is None:  # "I am sorry", 50 times
        return named and not words.POLITE.sub("", sentence[:start])
    before, after = _clause(sentence, found.start(), found.end())
    if _is_no_request(before + found[0], after):
        return False
    between = words.AROUND.sub("", sentence[found.end() : start])
    if named:
        return True
    told = words.TOPIC.search(between.removeprefix(" that"))
    return not (told or words.PROGRAM.search(sentence[:start]))


def _may_follow(sentence: str, end: int, verb: re.Match[str], verb_first: bool) -> bool:
    """Return whether `verb` may ask for text before it, which ends at `end`."""
    if verb_first:
        return words.KANA.search(sentence, verb.start()) is not None
    return not (
        verb[0].isascii() and words.NEXT_CLAUSE.search(sentence, end, max(end, verb.start()))
    )


def _asks_for_kind(sentence: str, start: int, end: int) -> bool:
    """Return whether a verb asks for the kind of text that `sentence[start:end]` names."""
    if words.KIND_FIRST.fullmatch(sentence[:start]) and words.KIND_GOES_ON.match(sentence[end:]):
        return True
    next_words = " ".join(sentence[end:].split()[:2])
    if words.OTHER_KIND.search(sentence[:start]) or words.OTHER_KIND.search(next_words):
        return False
    return _asks(sentence, start, end, verb_first=True)


def _clause(sentence: str, start: int, end: int) -> tuple[str, str]:
    """Return the text before and after `sentence[start:end]` in its clause."""
    before = words.CLAUSE_END.split(sentence[:start])[-1]
    return before, words.CLAUSE_END.split(sentence[end:], maxsplit=1)[0]


def _is_no_request(before: str, after: str) -> bool:
    """Return whether a verb is negated, or part of a report or of a question how.

    Args:
        before, after: the text before and after it in its clause.
    """
    before = words.WISH.sub(" ", before)
    return bool(
        words.NEGATION.search(before)
        or words.TOLD.search(before)
        or words.NEGATION_AFTER.search(after)
    )


def _of_units(
    reason: Reason, copies: int, chars: int, named: list[str]
) -> Iterator[RequestedRepetition]:
    """Yield a request for each unit named; one for any unit if none is."""
    for unit in named or [""]:
        yield RequestedRepetition(reason, copies, unit, 0 if unit else chars)


def _units(sentence: str, end: int, masked: str, quotes: list[str]) -> list[str]:
    """Return the units that a sentence names: its quotes, the text after a colon, "the word ha"."""
    units = [_unmasked(quote, quotes) for quote in words.QUOTE.findall(sentence)]
    label, colon, rest = sentence[end:].partition(":")
    if colon and len(label) <= 60 and not words.OTHER_COLON.search(label):
        at = masked.find(sentence)
        text = masked[at + len(sentence) - len(rest) :][:_MAX_UNIT_CHARS] if at >= 0 else rest
        text = text.strip()
        line, paragraph = text.split("\n", 1)[0], text.split("\n\n", 1)[0]
        # It may be a sentence, a line or a paragraph that is meant.
        sentences = [part for part in words.SENTENCE_END.split(line) if part.strip()]
        units += [_unmasked(part, quotes) for part in (*sentences[:1], line, paragraph)]
    if not units and (match := words.NAMED.search(sentence)):
        units.append(match["unit"])
    return [unit for unit in dict.fromkeys(unit.strip() for unit in units) if form(unit)]


def _mask(text: str) -> tuple[str, list[str]]:
    """Return `text` with a private-use character in place of each quote, and the quotes."""
    quotes: list[str] = []
    pieces: list[str] = []
    at = 0
    if not text.isascii():
        text = words.QUOTE.sub(" ", text)
    for match in words.MASKED.finditer(text):
        if len(quotes) == words.MAX_MASKS:
            break
        pieces += [text[at : match.start()], chr(words.FIRST_MASK + len(quotes))]
        at = match.end()
        quotes.append(words.FENCE.sub("", match[0])[:_MAX_UNIT_CHARS].strip(words.MARKS))
    return "".join([*pieces, text[at:]]), quotes


def _ends(text: str) -> str:
    """Return the first and last `_INSTRUCTION_CHARS` characters, without fences cut in two."""
    if len(text) <= 2 * _INSTRUCTION_CHARS:
        return text
    head, tail = text[:_INSTRUCTION_CHARS], text[-_INSTRUCTION_CHARS:]
    if head.count("```") % 2:
        head = head[: head.rfind("```")]
    if tail.count("```") % 2:
        tail = tail[tail.find("```") + 3 :]
    return f"{head}\n\n{tail}"


def _unmasked(text: str, quotes: list[str]) -> str:
    """Return masked text with its quotes."""
    return words.QUOTE.sub(lambda match: quotes[ord(match[0]) - words.FIRST_MASK], text)


def _instructions(masked: str) -> tuple[int, int]:
    """Return the span of `masked` without a text to work on: after "Translate this: ", or above."""
    size = len(masked)
    if end := _end_of_work_colon(masked):
        return 0, end
    first = masked.find("\n\n", size - len(masked.lstrip()))
    if first < 0:
        return 0, size
    short = first < _SHORT_PARAGRAPH_CHARS
    if short and words.WORK.search(masked[:first]) and size > 2 * first:
        return 0, first
    last = masked.rstrip().rfind("\n\n")
    paragraph = masked[last:]
    short = len(paragraph) < _SHORT_PARAGRAPH_CHARS
    if short and words.WORK.search(paragraph) and words.ABOVE.search(paragraph):
        return last, size
    return 0, size


def _end_of_work_colon(masked: str) -> int:
    """Return the end of the first "Translate this: "; 0 if there is none."""
    start = 0
    for match in words.COLON.finditer(masked):
        line = masked.rfind("\n", start, match.start()) + 1
        work = words.WORK.search(
            masked, max(line, start, match.start() - _MAX_WORK_CHARS), match.end()
        )
        if work:
            return match.end()
        start = match.end()
    return 0


def _in_prompt(text: str) -> list[RequestedRepetition]:
    """Return the repetition that a prompt itself contains."""
    found_runs = runs(text)
    if not found_runs:
        return []
    same_text = words.SAME_TEXT.search(_folded(text)) is not None
    found = []
    for unit, copies in found_runs:
        found.append(RequestedRepetition("in_prompt", _with_slack(copies), unit))
        if same_text:  # the unit of a translation differs
            chars = 4 * len(unit) + 8
            found.append(RequestedRepetition("in_prompt", copies * 3 // 2 + 4, "", chars))
    return sorted(found, key=lambda request: -request.copies)


def _number_of(match: re.Match[str]) -> int:
    """Return the number in a match; 0 if there is none."""
    groups = match.groupdict()
    return next((words.number(v) for k, v in groups.items() if v and k[0] == "n"), 0)


def _with_slack(number: int) -> int:
    """Return the copies allowed if `number` were asked for: models miscount."""
    number = min(number, _MAX_COPIES)
    return number + number // 10 + 2
