"""Healing: an answer that looped is continued from what the reader has, sampled ever more differently.

    loop -> opening -> free continuation -> end
              ^------------- loop

What the reader has cannot be withdrawn, so a continuation first finishes the sentence that the loop
left open, or begins another one: the opening, in which the loop's next word is banned. Then the
engine goes on as it likes. An attempt that finishes no sentence leaves no trace.

A ladder: each rung is one more attempt, and stays in force for the rest of the answer. The same
request climbs it in the same way.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dedup.answer.boundary import (
    BLOCK_BEGINS,
    can_stop,
    circles,
    is_bare_item,
    is_structured,
    rest_of_segment,
    stands_open,
)

MAX_ATTEMPTS: Final = 4
OPENING_TOKENS: Final = 16  # the loop's next word is banned for so long

_THINKING: Final = ("<think>", "</think>")
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
# What stands before an item's or a sentence's first word: space, a marker, emphasis, quotes.
_LEAD: Final = re.compile(
    r"\s*(?:[-*+•>#|]+\s+|\(?\d{1,4}[.):、．]\s*|\(?[A-Za-z][.)]\s+)*[\s*_\"'“‘「『《（(\[]*"
)
_ITEM: Final = re.compile(r"\s*(?:[-*+•]\s+|\(?\d{1,4}[.)、．]\s*)")
_ITEM_NUMBERS: Final = re.compile(r"^\s*\(?(\d{1,4})[.)、．]", re.MULTILINE)
_NUMBER: Final = re.compile(r"\d+")
_WORD: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|\S")
_FIRST_PIECE: Final = re.compile(r"\A\s*([^\w\s]*\w{0,16})")
_SPACE: Final = " \t"  # a line's end is for the model to see: else it goes on with the line
_TOKEN_CHARS: Final = 4
_MAX_REST: Final = 20  # characters; a longer word is the loop itself
_MAX_REST_OF_LINE: Final = 160
_MAX_ENDING: Final = 200
_COMMENT: Final = re.compile(r"\s*(?:#|//)")
_COMMAS: Final = tuple(",;，；、")
_REST_OF_ENUMERATED: Final = re.compile(r"[^,;，；、\n]{0,80}(?=[,;，；、])")
_REST_OF_ITEM: Final = re.compile(r"\s*[^\W\d][^\n]{0,78}?(?=[\s:：]*(?:\b\d{1,4}[.)、．]|\n|\Z))")
_MAX_FUTILE: Final = 2  # attempts behind a text that could as well stop
# The rest of a word that the loop was cut in.
_REST_OF_WORD: Final = re.compile(r"(?:[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|['’](?=\w))+")
_REST_OF_CLAUSE: Final = re.compile(
    r"[^\s，、；：,;:。！？!?…]{1,12}(?:[。！？!?…]+|(?=[\s，、；：,;:]))"
)
_MOST_REPEATED: Final = 3  # characters of a word that a loop says over and over
_WORD_COPIES: Final = 3  # of it that follow
# Words such as "to" and "of" that stand open: without them, what comes could not follow.
_LITTLE: Final = r"(?:[a-z]{1,2}|the|and)"
_REST_OF_PHRASE: Final = re.compile(rf" ?{_LITTLE}(?: {_LITTLE})*(?= [^\W\d_])")
# An item between commas that has begun, and the words that end it.
_ENUMERATED: Final = re.compile(r"[,;]\s[^,;:.!?\n]{1,40}\Z")
_REST_OF_ENUMERATED_WORDS: Final = re.compile(r"(?: ?[^\W\d_][\w'’-]*){1,3}(?=[,;])")
# Phrases of words. Where words have no space between them, a token may be a part of a character,
# and a model that may not end a character ends it as another one.
_SPACED_WORD: Final = re.compile(r"\S+")
_PHRASE_WORDS: Final = 6
_PHRASES_CHARS: Final = 4000  # at the end of a text
_MAX_PHRASES: Final = 128
_SCRIPT_CHARS: Final = 100  # at the end of a text, which tell its script
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


def _dry(multiplier: float, allowed_length: int) -> dict[str, float]:
    return {"dry_multiplier": multiplier, "dry_allowed_length": allowed_length}


# What each rung adds; a request that asks for more keeps it. DRY and n-gram bans leave alone what
# does not repeat. A frequency penalty, which drives a model away from its own words, is for servers
# that have neither. DRY begins at repeats of some length: a name said again must not come out as
# another one ("app. py", "Morrow").
_LADDER: Final[tuple[dict[str, float], ...]] = (
    {"temperature": 0.2, **_dry(0.8, 4)},
    {"temperature": 0.4, **_dry(0.8, 3)},
    {"temperature": 0.7, **_dry(1.2, 3)},
    {"temperature": 0.9, **_dry(1.6, 2), "no_repeat_ngram_size": 8},
)
_LADDER_WITHOUT_DRY: Final[tuple[dict[str, float], ...]] = (
    {"temperature": 0.2, "frequency_penalty": 0.2},
    {"temperature": 0.4, "frequency_penalty": 0.4},
    {"temperature": 0.6, "frequency_penalty": 0.6},
    {"temperature": 0.8, "frequency_penalty": 0.8},  # with more, small models lose their language
)
# Code and tables say their marks again in every line: what bans repeats breaks them. Of scripts without
# spaces a token may be a part of a character: where it is banned, another character comes.
_LADDER_OF_TEMPERATURE: Final[tuple[dict[str, float], ...]] = (
    {"temperature": 0.4},
    {"temperature": 0.6},
    {"temperature": 0.8},
    {"temperature": 1.0},
)


_METHOD_OF: Final = {"dry_allowed_length": "dry_multiplier"}
_SHORTER: Final = ("no_repeat_ngram_size", "dry_allowed_length")  # is stronger


@dataclass(frozen=True, slots=True)
class Support:
    """Abilities of an engine that can continue an answer.

    Args:
        methods: The parameters against repetition that it obeys, of those that the ladder has.
        opens: It lifts an opening's bans by itself, in one call.
        bans_phrases: It can ban phrases.
    """

    methods: frozenset[str] = frozenset({"frequency_penalty"})
    opens: bool = False
    bans_phrases: bool = False


ALL_METHODS: Final = frozenset({"dry_multiplier", "no_repeat_ngram_size", "frequency_penalty"})


@dataclass(frozen=True, slots=True)
class Opening:
    """Bans at the beginning of a continuation, for its first sentence or `OPENING_TOKENS`.

    Args:
        banned: The loop's next word; in scripts without spaces, its first characters.
        stands_open: The text ends within a sentence: no line's end may follow.
        can_stop: The text may end here: behind a sentence, and not behind its third copy.
        is_own_call: The engine cannot lift the bans by itself: another call goes on.
    """

    banned: tuple[str, ...]
    stands_open: bool
    can_stop: bool
    is_own_call: bool


@dataclass(frozen=True, slots=True)
class Continuation:
    """One call of an engine that continues an answer.

    Args:
        prefix: What has been generated; the engine continues behind it.
        opening: The bans at its beginning; None if there are none.
        parameters: Sampling parameters in place of the request's own.
        insertion: Text that goes before what the engine generates.
        reasoning: What the model reasoned before `prefix`, in a field of its own.
        phrases: What the text repeated, which may not come again; for engines without n-gram bans.
        ending: How the sentence or line ends in which the reader's text breaks off, for the case that
            nothing comes of it; None for the ending of the call before.
    """

    prefix: str
    opening: Opening | None
    parameters: Mapping[str, Any]
    insertion: str = ""
    reasoning: str = ""
    phrases: tuple[str, ...] = ()
    ending: str | None = None


@dataclass(slots=True)
class Healing:
    """The attempts to continue one answer.

    Args:
        parameters: The request's own parameters, under their names in chat.
        prompt: The user's last message, from which seeds are made.
        support: What the engine offers.

    Attributes:
        attempts: The number of attempts so far.
    """

    parameters: Mapping[str, Any]
    prompt: str
    support: Support
    attempts: int = field(default=0, init=False)
    _given: str | None = field(default=None, init=False)  # where the last attempt began
    _cut: tuple[str, str] = field(default=("", ""), init=False)  # what the loop went on with there
    _looped: str = field(default="", init=False)  # the last loop
    _num_futile: int = field(default=0, init=False)  # attempts that began there
    _banned: tuple[str, ...] = field(default=(), init=False)  # in all of those
    _phrases: tuple[str, ...] = field(default=(), init=False)  # from the last loop on
    _only_warms: bool = field(default=False, init=False)  # nothing but the temperature changes

    @property
    def limit(self) -> int | None:
        """Return the tokens that the request allows for the answer; None if it sets no limit."""
        values = [self.parameters.get(name) for name in _LIMITS]
        return min([value for value in values if isinstance(value, int)], default=None)

    def next(self, given: str, looped: str, tried: str, num_tokens: int) -> Continuation | None:
        """Return the next attempt; None if the answer has to end.

        Args:
            given: The text that the reader has.
            looped: The loop that was cut behind it; empty if it ends in none.
            tried: What the last attempt generated behind `given`, in vain.
            num_tokens: Tokens generated so far, the loop's among them.
        """
        self._looped = looped or self._looped
        left = self._left(num_tokens)
        if self.attempts == MAX_ATTEMPTS or left is None:
            return None
        if given != self._given:
            self._given, self._num_futile, self._banned = given, 0, ()
            is_code = is_structured(given)
            self._cut = _rest_of_line(given, looped) if is_code else _rest_of_word(given, looped)
            self._only_warms = is_code or _is_unspaced(given)
        rest, following = self._cut  # a later loop does not begin where the reader stands
        is_open = stands_open(given + rest, following) and bool(_last_line(given + rest).strip())
        may_stop = can_stop(given + rest, following) and not circles(given + rest)
        if may_stop and self._num_futile == _MAX_FUTILE:
            return None
        if not (self._num_futile or is_structured(given)):  # at first a list goes on as a list
            marker, following = _next_marker(given + rest, following)
            rest += marker
            may_stop = may_stop and not marker
        self._num_futile += 1
        if self.support.bans_phrases:
            self._phrases = () if self._only_warms else repeated_phrases(given + self._looped)
        words = (*self._banned, *next_words(following), *_FIRST_PIECE.findall(tried))
        self._banned = tuple(dict.fromkeys(filter(None, words)))
        rung = self.attempts
        self.attempts += 1
        is_own_call = not self.support.opens
        if rung > 0 and given.rfind(_THINKING[0]) > given.rfind(_THINKING[1]):
            insertion = f"{rest}\n{_THINKING[1]}\n\n"  # enough reasoning: now the answer
            is_open = False
            opening = Opening((), False, False, is_own_call)
        else:
            insertion = rest
            opening = Opening(self._banned, is_open, may_stop, is_own_call)
        parameters = self._parameters(rung, left)
        if is_own_call:
            for name in left or ("max_tokens",):
                parameters[name] = min(left.get(name, OPENING_TOKENS), OPENING_TOKENS)
        prefix = given + insertion
        # Models expect the space in front of the next word, not behind the last one. Where one
        # goes on with a mark again and again, it gets the space that the reader has.
        if not is_open or rung < 2:
            prefix = prefix.rstrip(_SPACE)
        return Continuation(
            prefix,
            opening,
            parameters,
            insertion,
            phrases=self._phrases,
            ending=self.ending(given, looped),
        )

    def ending(self, given: str, looped: str) -> str:
        """Return how the sentence or line ends in which the reader's text breaks off.

        Nothing of it can be withdrawn, so it ends in the loop's own words; an enumeration without end,
        or a poem behind a comma, ends with an ellipsis. Empty if the text does not break off, or in an
        item without a word.

        Args:
            given: The text that the reader has.
            looped: The loop that was cut behind it; empty if it ends in none.
        """
        if given == self._given:
            looped = "".join(self._cut)  # of the first attempt there
        is_open, is_code = stands_open(given, looped), is_structured(given)
        if not (is_open or is_code):
            # A line of verse may end in a comma, a poem does not.
            space = " " if given.endswith((",", ";")) else ""
            return f"{space}…" if given.rstrip(_SPACE).endswith(_COMMAS) else ""
        rest = rest_of_segment(given, looped[:_MAX_ENDING]) if is_open else ""
        if is_code:
            return _with_body(given, rest, looped[len(rest) :])[0]
        if is_bare_item(given + rest):
            item = _REST_OF_ITEM.match(looped)
            return "" if item is None else f"{item.group()}…"
        if rest and not rest.endswith(_COMMAS):
            return rest
        if given.rstrip().endswith(_COMMAS):
            return "…"
        clause = _REST_OF_ENUMERATED.match(looped)
        return (clause.group() if clause is not None else "") + "…"

    def freed(self, text: str, num_tokens: int) -> Continuation | None:
        """Return how the last attempt goes on behind its opening, which made it `text`."""
        left = self._left(num_tokens)
        if left is None:
            return None
        parameters = self._parameters(self.attempts - 1, left)
        return Continuation(text.rstrip(_SPACE), None, parameters, phrases=self._phrases)

    def answered(self, reasoning: str, num_tokens: int) -> Continuation | None:
        """Return how reasoning that loops in a field of its own is closed: the answer follows."""
        left = self._left(num_tokens)
        if self.attempts == MAX_ATTEMPTS or left is None:
            return None
        self.attempts += 1
        begin, end = _THINKING
        prefix = f"{begin}\n{reasoning.strip()}\n{end}\n\n"
        return Continuation(prefix, None, self._parameters(self.attempts - 1, left))

    def _left(self, num_tokens: int) -> dict[str, int] | None:
        """Return the limits that are left of the request's; None if nothing is."""
        left: dict[str, int] = {}
        for name in _LIMITS:
            if self.parameters.get(name) is not None:
                left[name] = int(self.parameters[name]) - num_tokens
                if left[name] < 1:
                    return None
        return left

    def _parameters(self, rung: int, left: Mapping[str, int]) -> dict[str, Any]:
        """Return the parameters of a rung, or the request's own where they are stronger."""
        methods = self.support.methods
        ladder = _LADDER if "dry_multiplier" in methods else _LADDER_WITHOUT_DRY
        if self._only_warms:
            ladder = _LADDER_OF_TEMPERATURE
        stronger = {
            name: self._stronger(name, value)
            for name, value in ladder[rung].items()
            if _METHOD_OF.get(name, name) in methods or name == "temperature"
        }
        return {**left, "seed": self._seed(rung), **stronger}

    def _stronger(self, name: str, wanted: float) -> float:
        given = self.parameters.get(name)
        if not isinstance(given, int | float):
            return wanted
        if name in _SHORTER:
            return min(given, wanted) if given else wanted
        return max(given, wanted)

    def _seed(self, rung: int) -> int:
        text = f"{self.parameters.get('seed')}\0{rung}\0{self.prompt}"
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:4], "big") >> 1


def _rest_of_word(given: str, looped: str) -> tuple[str, str]:
    """Return the rest of the word that a loop was cut in, with the little words behind it, or the rest
    of an item between commas, and what followed.

    Where words have no space between them, that is the rest of the clause, up to its mark. A loop
    without marks goes on with another character, behind its word if that is all it says.
    """
    rest: re.Match[str] | None = None
    if _UNSPACED.match(given[-1:]) and _UNSPACED.match(looped):
        rest = _REST_OF_CLAUSE.match(looped) or _rest_of_repeated_word(given, looped)
    elif _REST_OF_WORD.match(given[-1:] + "x"):
        rest = _REST_OF_WORD.match(looped)
    end = rest.end() if rest is not None and rest.end() <= _MAX_REST else 0
    last, following = (given + looped[:end])[-1:], looped[end : end + 1]
    if _ENUMERATED.search(given[-_SCRIPT_CHARS:] + looped[:end]):
        item = _REST_OF_ENUMERATED_WORDS.match(looped, end)
        if item is not None and item.end() <= _MAX_REST:
            return looped[: item.end()], looped[item.end() :]
    is_between = (last.isalpha() and following == " ") or (last == " " and following.isalpha())
    if is_between and (more := _REST_OF_PHRASE.match(looped, end)):
        end = more.end()
    return looped[:end], looped[end:]


def _rest_of_repeated_word(given: str, looped: str) -> re.Match[str] | None:
    """Return the rest of the word that a loop says over and over (狐狸狐狸狐); None if its copies are
    longer than a word.

    The word begins where the loop does.
    """
    text = given + looped
    for size in range(2, _MOST_REPEATED + 1):
        begin = len(given)
        while begin and text[begin - 1 : begin] == text[begin - 1 + size : begin + size]:
            begin -= 1
        is_cycle = looped[size : _WORD_COPIES * size] == looped[: (_WORD_COPIES - 1) * size]
        if is_cycle and len(given) - begin >= size:
            left = (begin - len(given)) % size
            return re.match(rf".{{{left}}}", looped)
    return None


def _rest_of_line(given: str, looped: str) -> tuple[str, str]:
    """Return the rest of the line of code that a loop was cut in, and what followed.

    Half a line is broken, whatever another attempt makes of it.
    """
    rest, end, following = looped.partition("\n")
    if rest.endswith(BLOCK_BEGINS) and _last_line(given).isspace():
        return "", looped  # the reader has its indentation alone, and a block would have no body
    if given.endswith("\n") or not end or len(rest) > _MAX_REST_OF_LINE:
        return _with_body(given, *_rest_of_word(given, looped))
    return _with_body(given, rest + end, following)


def _with_body(given: str, rest: str, following: str) -> tuple[str, str]:
    """Return `rest`, with the lines that follow up to the first one that begins no block.

    Without them a function has no body.
    """
    whole, left = rest, following
    while (line := _last_line((given + whole).rstrip())).endswith(":") and not _COMMENT.match(line):
        body, end, left = left.partition("\n")
        whole += body + end
        if not end or len(whole) > _MAX_REST_OF_LINE:
            return rest, following
    return whole, left


def _last_line(text: str) -> str:
    return text.rpartition("\n")[2]


def _next_marker(text: str, following: str) -> tuple[str, str]:
    """Return the marker of the item that a text is followed by, and what follows that.

    The marker is empty if no item begins there. Where the numbers of a text count up, it has the next
    one: what came between may have been removed.
    """
    found = _ITEM.match(following)
    if found is None or "\n" not in text[-1:] + found.group():
        return "", following
    marker = found.group()
    numbers = [0, *map(int, _ITEM_NUMBERS.findall(text))]
    if numbers[-1] == numbers[-2:][0] + 1:
        marker = _NUMBER.sub(str(numbers[-1] + 1), marker)
    return marker, following[found.end() :]


def next_words(text: str) -> tuple[str, ...]:
    """Return what a text begins with, behind markers and marks: its first word.

    In scripts without spaces these are the first characters, as many as a token may have.
    """
    lead = _LEAD.match(text)
    start = lead.end() if lead else 0
    word = _WORD.match(text, start)
    if word is None:
        return ()
    found = word.group()
    if not _UNSPACED.match(found):
        return (found,)
    return tuple(found[:size] for size in range(1, min(len(found), _TOKEN_CHARS) + 1))


def _is_unspaced(text: str) -> bool:
    """Return whether most letters at the end of a text are of scripts without spaces."""
    letters = [char for char in text[-_SCRIPT_CHARS:] if char.isalpha()]
    return 2 * sum(_UNSPACED.match(letter) is not None for letter in letters) > len(letters)


def repeated_phrases(text: str) -> tuple[str, ...]:
    """Return the phrases of `_PHRASE_WORDS` that a text has more than once, the last ones first.

    There are none in scripts without spaces.
    """
    text = text[-_PHRASES_CHARS:]
    words = list(_SPACED_WORD.finditer(text))
    lasts = words[_PHRASE_WORDS - 1 :]
    found = [text[one.start() : last.end()] for one, last in zip(words, lasts, strict=False)]
    phrases = [phrase for phrase in found if _UNSPACED.search(phrase) is None]
    counts = Counter(phrases)
    repeated = [phrase for phrase in reversed(phrases) if counts[phrase] > 1]
    return tuple(dict.fromkeys(repeated))[:_MAX_PHRASES]
