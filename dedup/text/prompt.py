"""Reads from a prompt how much repetition its answer may hold.

A prompt is evidence, never a switch: it allows a number of copies, of a unit where it names one.
Quotes are hidden first, and pasted code and texts to work on are left out. The rest is read
sentence by sentence: a number or a kind of repetition counts where a verb asks for it and is
neither negated nor part of a report. Of a long prompt the first and last `_END_CHARS` characters
are read. Time is linear in the characters read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from dedup.text import prompt_words as words
from dedup.text.words import fold

__all__ = ["NOTHING_REQUESTED", "RequestedRepetition", "read_prompt"]

Reason = Literal[
    "none", "copies", "in_prompt", "lyrics", "drill", "test_data", "counting", "repetition"
]

_END_CHARS: Final = 20_000
_MAX_COPIES: Final = 10_000
_MAX_COUNTED: Final = 1_000
_MAX_REQUESTS: Final = 16
_MAX_UNIT_CHARS: Final = 2_000
# Copies, and the period length up to which they are allowed. A chorus comes back some ten times,
# with an outro more often; a page holds thirty lines; test data are wanted in quantity; "say it
# forever" is answered with a screenful or two.
_ALLOWANCES: Final[dict[str, tuple[int, int]]] = {
    "lyrics": (16, 200),
    "drill": (30, 200),
    "test_data": (100, 200),
    "repetition": (100, 100),
}
_MIN_LONG_COPIES: Final = 3  # allowed of a period of any length
_MIN_LABELLED_CHARS: Final = 8  # units from here on may come with a label: "Copy 3: ..."
_RANKS: Final = ("copies", "counting", "in_prompt", "lyrics", "drill", "test_data", "repetition")

_PROBE_CHARS: Final = 6
_PROBE_STEP: Final = 16
_MAX_RUN_PERIOD: Final = 400
_MIN_RUN_COPIES: Final = 4  # three of a sentence
_MIN_RUN_CHARS: Final = 20
_MAX_RUNS: Final = 4
_SHORT_PARAGRAPH_CHARS: Final = 400


@dataclass(frozen=True, slots=True)
class RequestedRepetition:
    """What a prompt says about the repetition that its answer may hold.

    reason: why it may repeat. copies: whole copies allowed, slack included. unit: folded text of
    the unit asked for, "" for any unit. full_chars: period length up to which all copies are
    allowed; longer periods get proportionally fewer; 0 for any length. also: further requests of
    the same prompt.
    """

    reason: Reason
    copies: int
    unit: str
    full_chars: int = 0
    also: tuple["RequestedRepetition", ...] = ()

    def allowed_copies(self, unit: str) -> int:
        """Return how many whole copies of a loop's period the prompt makes legitimate.

        Args:
            unit: one period of the loop; it may be rotated, carry list markers and counters, and
                hold several copies of the unit asked for.
        """
        if not self.copies:
            return 0
        period, power = _root(_form(unit))
        if not period:
            return 0
        return max(request._allowed(period, power) for request in (self, *self.also))

    def _allowed(self, period: str, power: int) -> int:
        if not self.unit:
            copies = self.copies
            if not self.full_chars:
                return copies // power
            size = len(period) * power
            if size > self.full_chars:
                copies = max(_MIN_LONG_COPIES, copies * self.full_chars // size)
            return copies
        asked, asked_power = _root(_form(self.unit))
        if not asked:
            return 0
        held = len(period) // len(asked)
        if not held or (period + period).count(asked) < held:
            return 0
        if len(period) > len(asked) * held:
            label_fits = len(asked) >= _MIN_LABELLED_CHARS and len(asked) * held * 3 >= len(period) * 2
            if not label_fits:
                return 0
        return self.copies * asked_power // (held * power)


NOTHING_REQUESTED: Final = RequestedRepetition("none", 0, "")


def read_prompt(prompt: str) -> RequestedRepetition:
    """Return what `prompt` says about the repetition that its answer may hold."""
    if len(prompt) > 2 * _END_CHARS:
        prompt = f"{prompt[:_END_CHARS]}\n\n{prompt[-_END_CHARS:]}"
    text = fold(prompt)
    found: list[RequestedRepetition] = []
    for request in _requests(text):
        found.append(request)
        if len(found) == _MAX_REQUESTS:
            break
    found += _in_prompt(text)
    if not found:
        return NOTHING_REQUESTED
    reasons = {request.reason for request in found}
    if "copies" in reasons or "counting" in reasons:  # more precise than these
        found = [r for r in found if r.reason not in ("repetition", "drill", "test_data")]
    found = list(dict.fromkeys(sorted(found, key=lambda request: _RANKS.index(request.reason))))
    return replace(found[0], also=tuple(found[1:]))


def _requests(text: str) -> Iterator[RequestedRepetition]:
    hints = {
        group: [hint for hint in hints if hint in text] for group, hints in words.HINTS.items()
    }
    masked, quotes = _hide(text)
    if len(quotes) == 1 and len(masked.strip()) == 1:  # the whole prompt stands in quotes
        masked, quotes = _hide(quotes[0])
    instructions = "\n".join(
        line for line in _instructions(masked).split("\n") if not words.CODE_LINE.search(line)
    )
    start = 0
    while start < len(instructions):
        end_match = words.SENTENCE_END.search(instructions, start)
        end = end_match.end() if end_match else len(instructions)
        sentence = instructions[start:end].strip(" \n\t")
        start = end
        if sentence:
            groups = {g for g, present in hints.items() if any(hint in sentence for hint in present)}
            if quotes and words.QUOTE.search(sentence):
                groups.add("many")
            if groups:
                yield from _read_sentence(sentence, groups, masked, quotes)


def _read_sentence(
    sentence: str, groups: set[str], masked: str, quotes: list[str]
) -> Iterator[RequestedRepetition]:
    counted = False
    if "numbers" in groups:
        for match in words.NUMBERS.finditer(sentence):
            number = _number_of(match)
            if number >= 2 and _asks(sentence, match.start(), match.end()):
                counted = True
                yield RequestedRepetition("counting", _with_slack(min(number, _MAX_COUNTED)), "")
    if groups & {"times", "many"}:
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
    for match in words.TIMES.finditer(sentence):
        number = 2 if match["twice"] else _number_of(match)
        if number < 2 or words.RATE.search(sentence[: match.start()]):
            continue
        named = _units(sentence, match.end(), masked, quotes)
        if _asks(sentence, match.start(), match.end(), named=bool(named)):
            yield from _of_units("copies", _with_slack(number), 0, named)
    if "many" not in groups:
        return
    for match in words.MANY.finditer(sentence):
        number = _number_of(match)
        parts = match.groupdict()
        unit = next((v for k, v in parts.items() if v and k.startswith(("unit", "bare"))), "")
        crossed = words.CROSSED.search(match[0]) is not None  # 500 x 'a' needs no verb
        if number >= 5 and (crossed or _asks(sentence, match.start(), match.end(), named=True)):
            named = [_shown(unit, quotes)] if unit else []
            yield from _of_units("copies", _with_slack(number), 0, named)


def _read_kinds(sentence: str) -> Iterator[RequestedRepetition]:
    for kind, pattern in words.KINDS:
        for match in pattern.finditer(sentence):
            if _asks_for_kind(sentence, match.start(), match.end()):
                copies, chars = _ALLOWANCES[kind]
                if kind != "lyrics" and (rows := words.ROWS.search(sentence)):
                    copies = max(copies, _with_slack(min(words.number(rows["n"]), _MAX_COUNTED)))
                yield RequestedRepetition(kind, copies, "", chars)
                break


def _read_unnumbered(
    sentence: str, masked: str, quotes: list[str]
) -> Iterator[RequestedRepetition]:
    copies, chars = _ALLOWANCES["repetition"]
    for match in words.REPEAT.finditer(sentence):
        before, after = _clause(sentence, match.start(), match.end())
        if _is_dead(before, after):
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
    """Return whether a verb asks for what stands in `sentence[start:end]`.

    The last verb before it decides, else the first one in or behind it. Where a unit is named, the
    copies may be part of a story or a program.
    """
    found: re.Match[str] | None = None
    for verb in words.ASK.finditer(sentence):
        if words.NOUN_BEFORE.search(sentence[: verb.start()]):
            continue
        behind = verb.start() >= start
        if behind and (found or (verb_first and not words.KANA.search(sentence, verb.start()))):
            break
        found = verb
        if behind:
            break
    if found is None:
        return False
    before, after = _clause(sentence, found.start(), found.end())
    if _is_dead(before + found[0], after):
        return False
    between = words.AROUND.sub("", sentence[found.end() : start])
    return named or not words.TOPIC.search(between.removeprefix(" that"))


def _asks_for_kind(sentence: str, start: int, end: int) -> bool:
    if words.KIND_FIRST.fullmatch(sentence[:start]) and words.KIND_GOES_ON.match(sentence[end:]):
        return True
    if words.OTHER_KIND.search(sentence[:start]) or words.OTHER_KIND.match(sentence[end:].strip()):
        return False
    return _asks(sentence, start, end, verb_first=True)


def _clause(sentence: str, start: int, end: int) -> tuple[str, str]:
    """Return what stands before and behind `sentence[start:end]` in its clause."""
    before = words.CLAUSE_END.split(sentence[:start])[-1]
    return before, words.CLAUSE_END.split(sentence[end:], maxsplit=1)[0]


def _is_dead(before: str, after: str) -> bool:
    """Return whether a verb is negated, or part of a report or of a question how."""
    before = words.WISH.sub(" ", before)
    return bool(
        words.NEGATION.search(before)
        or words.TOLD.search(before)
        or words.NEGATION_AFTER.search(after)
    )


def _of_units(
    reason: Reason, copies: int, chars: int, named: list[str]
) -> Iterator[RequestedRepetition]:
    for unit in named or [""]:
        yield RequestedRepetition(reason, copies, unit, 0 if unit else chars)


def _units(sentence: str, end: int, masked: str, quotes: list[str]) -> list[str]:
    """Return the units that a sentence names: its quotes, the text behind a colon, "the word ha"."""
    units = [_shown(quote, quotes) for quote in words.QUOTE.findall(sentence)]
    label, colon, rest = sentence[end:].partition(":")
    if colon and len(label) <= 60 and not words.OTHER_COLON.search(label):
        at = masked.find(sentence)
        text = masked[at + len(sentence) - len(rest) :][:_MAX_UNIT_CHARS] if at >= 0 else rest
        text = text.strip()
        line, paragraph = text.split("\n", 1)[0], text.split("\n\n", 1)[0]
        # How much of the text is meant cannot be told: a sentence, a line, a paragraph.
        sentences = [part for part in words.SENTENCE_END.split(line) if part.strip()]
        units += [_shown(part, quotes) for part in (*sentences[:1], line, paragraph)]
    if not units and (match := words.NAMED.search(sentence)):
        units.append(match["unit"])
    return [unit for unit in dict.fromkeys(unit.strip() for unit in units) if _form(unit)]


def _hide(text: str) -> tuple[str, list[str]]:
    """Return `text` with a private-use character in place of each quote, and the quotes."""
    quotes: list[str] = []
    pieces: list[str] = []
    at = 0
    if not text.isascii():
        text = words.QUOTE.sub(" ", text)
    for match in words.HIDDEN.finditer(text):
        if len(quotes) == words.MAX_HIDDEN:
            break
        pieces += [text[at : match.start()], chr(words.FIRST_HIDDEN + len(quotes))]
        at = match.end()
        quotes.append(words.FENCE.sub("", match[0])[:_MAX_UNIT_CHARS].strip(words.MARKS))
    return "".join([*pieces, text[at:]]), quotes


def _shown(text: str, quotes: list[str]) -> str:
    return words.QUOTE.sub(lambda match: quotes[ord(match[0]) - words.FIRST_HIDDEN], text)


def _instructions(masked: str) -> str:
    """Return `masked` without a text to work on: behind "Translate this: ", or above."""
    if match := words.WORK_COLON.search(masked):
        return masked[: match.end()]
    first, _, rest = masked.strip().partition("\n\n")
    if len(first) < _SHORT_PARAGRAPH_CHARS and words.WORK.search(first) and len(rest) > len(first):
        return first
    text, _, last = masked.strip().rpartition("\n\n")
    if len(last) < _SHORT_PARAGRAPH_CHARS and words.WORK.search(last) and words.ABOVE.search(last):
        return last if text else masked
    return masked


def _in_prompt(text: str) -> list[RequestedRepetition]:
    runs = _runs(text)
    if not runs:
        return []
    same_text = words.SAME_TEXT.search(text) is not None
    found = []
    for unit, copies in runs:
        found.append(RequestedRepetition("in_prompt", _with_slack(copies), unit))
        if same_text:  # of a translation the unit differs
            chars = 4 * len(unit) + 8
            found.append(RequestedRepetition("in_prompt", copies * 3 // 2 + 4, "", chars))
    return sorted(found, key=lambda request: -request.copies)


def _runs(text: str) -> list[tuple[str, int]]:
    """Return units that stand repeated in `text`, without spacing, punctuation and counters."""
    plain = " ".join(text.split())
    if not any(_period(plain, at, 1) for at in range(0, len(plain) - _PROBE_CHARS, _PROBE_STEP)):
        return []
    form = _form(text)
    runs: dict[str, int] = {}
    at = 0
    while at < len(form) - _PROBE_CHARS and len(runs) < _MAX_RUNS:
        period = _period(form, at, 2)
        if not period:
            at += _PROBE_STEP // 2
            continue
        unit = form[at : at + period]
        end = at + period
        while form.startswith(unit, end):
            end += period
        start = at
        while start >= period and form.startswith(unit, start - period):
            start -= period
        copies = (end - start) // period
        if copies >= _MIN_RUN_COPIES - (period >= _MIN_RUN_CHARS) and end - start >= _MIN_RUN_CHARS:
            runs[unit] = max(runs.get(unit, 0), copies)
        at = end
    return list(runs.items())


def _period(text: str, at: int, repeats: int) -> int:
    """Return the period of a cycle at `at` that goes on for `repeats` more copies; 0 if none."""
    probe = text[at : at + _PROBE_CHARS]
    found = at
    for _ in range(4):  # the probe may recur within the period
        found = text.find(probe, found + 1, at + _MAX_RUN_PERIOD + _PROBE_CHARS)
        if found < 0:
            return 0
        period = found - at
        size = repeats * period
        if text[at : at + size] == text[found : found + size] and len(text) >= found + size:
            return period
    return 0


def _form(text: str) -> str:
    """Return `text` without case, spacing, punctuation and numbers; symbols alone stay."""
    text = fold(text)
    return words.SPACING.sub("", text) or "".join(text.split())


def _root(form: str) -> tuple[str, int]:
    """Return the shortest string that `form` is a power of, and the power."""
    if not form:
        return "", 1
    size = (form + form).find(form, 1)
    return form[:size], len(form) // size


def _number_of(match: re.Match[str]) -> int:
    groups = match.groupdict()
    return next((words.number(v) for k, v in groups.items() if v and k[0] == "n"), 0)


def _with_slack(number: int) -> int:
    """Return the copies allowed where `number` were asked for: models miscount."""
    number = min(number, _MAX_COPIES)
    return number + number // 10 + 2
