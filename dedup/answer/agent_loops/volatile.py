"""Comparison of results whose times, ids, durations and counters differ.

The texts are compared from one difference to the next, so that equal stretches cost a comparison
of memory. A difference is volatile if both texts have a value of the same kind there.
"""

import re
from collections.abc import Sequence
from typing import Final

_MAX_DIFFERENCES: Final = 64
_MAX_ID: Final = 128  # characters
_BEHIND: Final = 48  # characters before a value that may name it

_MONTH: Final = r"(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec)[a-z]*"
_DAY: Final = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*"
_ZONE: Final = r"(?:\s?(?:Z|UTC|GMT|[+-]\d\d:?\d\d))?"
_UNIT: Final = (
    r"(?:ns|µs|μs|us|msecs?|ms|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?"
    r"|毫秒|微秒|秒钟?|分钟|小时|天|ミリ秒|時間)"
)
# Values that differ from call to call although nothing happened, by kind.
_VALUE: Final = re.compile(
    rf"(?P<time>(?:{_DAY},?\s+)?(?:\d{{4}}[-/.]\d\d?[-/.]\d\d?|\d\d?[-/.]\d\d?[-/.]\d{{4}}"
    rf"|{_MONTH}\s+\d\d?,?\s+\d{{4}}|\d\d?\s+{_MONTH}\s+\d{{4}}|{_MONTH}\s+\d\d?"
    rf"|\d{{4}}年\d\d?月\d\d?日)"
    rf"(?:[T_]\d\d-\d\d-\d\d(?:-\d+)?Z?|[T\s,]+(?:上午|下午)?\d\d?[:時时点]\d\d(?:[:分]\d\d秒?(?:[.,]\d+)?)?{_ZONE})?)"
    rf"|(?P<clock>\d\d?:\d\d(?::\d\d(?:[.,]\d+)?)?(?:\s?[ap]\.?m\.?)?{_ZONE}(?!\w)"
    r"|\d\d?[时点時]\d\d?分?(?:\d\d?秒)?)"
    r"|(?P<epoch>1[5-9]\d{8}(?:\d{3}|\d{6}|\d{9}|\.\d+)?(?!\w))"
    rf"|(?P<durations>\d+(?:\.\d+)?(?:/\d+(?:\.\d+)?){{2,}}\s?{_UNIT}(?!\w))"
    rf"|(?P<duration>(?:\d+(?:\.\d+)?\s?{_UNIT}\s?)+(?![A-Za-z0-9%/]))"
    r"|(?P<path>(?:/private)?/(?:tmp|var/(?:folders|tmp))/[^\s\"'`]+|~?te?mp[a-z0-9_]{5,})"
    r"|(?P<ticket>(?-i:[A-Z]{2,6})-\d{4,}(?!\w))"
    r"|(?P<address>0x[0-9a-f]{4,}(?!\w))"
    r"|(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?!\w))"
    r"|(?P<hex>(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}(?!\w))"
    r"|(?P<number>\d{8,}(?![\w.%/])(?!\s?(?:[kmgt]?i?b\b|bytes|rows|records|字节)))"
    r"|(?P<host>(?:replica|node|worker|server|host|shard|instance|backend|pod|partition|thread)"
    r"[-_ #]?\d+(?!\w))"
    r"|(?P<id>(?=[\d_-]*[a-z])(?:[a-z]{2,12}[_-][a-z0-9]{5,}|[a-z0-9]{8,})"
    r"(?:[_-][a-z0-9]+)*(?!\w))",
    re.IGNORECASE | re.ASCII,
)
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_IN_NAME: Final = re.compile(r"[\w#-]\Z")
_RELEVANCE: Final = re.compile(
    r"(?:score|relevance|similarity|distance)\W{1,4}[01]\Z", re.IGNORECASE
)
_NAMED: Final = "named"
_TOKEN: Final = re.compile(r"(?:\d+(?:[.,]\d+)*|[\w-]{5,}|(?=[A-Za-z_-]*\d)[\w-]+)(?!\w)")
_NAME: Final = re.compile(r"[A-Za-z_]+\Z|[\u4e00-\u9fff]+\Z")
# Words that name an id, at the end of the name: `run_id`, `messageId`, `Request ID`.
_OF_IDS: Final = re.compile(
    r"(?:(?:\A|_)(?i:id|uid|uuid|guid|instance|process|nonce|etag|cursor|session|trace|span|pid)|(?<=[a-z])I[dD])\Z"
    r"|(?:编号|序号|请求号?|会话)\Z"
)
# Words behind which an id may stand: "job dpqgzq_0558", "LOG_NO". It must look like one.
_OF_HANDLES: Final = re.compile(
    r"(?:\A|_)(?:no|nr|num|ref|key|job|query|run|batch|task|request|snapshot|receipt|as|commit|build)\Z",
    re.IGNORECASE,
)
# Words that name a number which differs although nothing happened: `uptime_s`, `call_count`.
_OF_NUMBERS: Final = re.compile(
    r"(?:(?:\A|_)(?i:timestamp|time|date|at|ts|elapsed|duration|took|latency|uptime|seq|sequence"
    r"|token|port|attempts?|versuch|intento|tentative|stamp|ms|millis|nanosec|usec|secs?|seconds|in|out|retr(?:y|ies)|tr(?:y|ies)|requests?|calls?|iterations?|invocations?|hits"
    r"|views|visits|counter|(?:credits?|quota|limit|requests|calls)_(?:left|remaining)"
    r"|remaining_(?:credits|quota|requests|calls)|(?:request|call|execution|exec|access|view|hit|attempt|retry)_count)"
    r"|(?<=[a-z])(?:At|Time|Date|Ms|Seconds))(?i:_(?:ns|us|ms|s|secs?|seconds|millis|minutes))?\Z"
    r"|(?:耗时|用时|时间|时间戳|尝试|次数)\Z",
)
_COUNTED: Final = re.compile(
    r"\s?(?:times?\b|attempts?\b|retr(?:y|ies)\b|requests?\b|calls?\b|次|回)"
    r"|(?:st|nd|rd|th)\s(?:time|attempt|try|call|request)",
    re.IGNORECASE,
)
_OF_TOTAL: Final = re.compile(r"\s?(?:%|/\s?\d|of\s\d|out\sof)")  # progress
# Numbers that tell how far or how much something is, by the word before or behind them.
_OF_PROGRESS: Final = re.compile(
    r"(?:progress|percent|pct|done|completed?|processed|finished|remaining|left|step|epoch|page|loss"
    r"|rows?|items?|files?|passed|failed|downloaded|uploaded|received|sent|size|length|total|count"
    r"|version|line|position|price|value|amount|balance|quantity|stock"
    r"|queue|queued|pending|backlog|depth|users|visitors|viewers|players|followers|last|bid|ask"
    r"|temperature|humidity|usage|load|level|pressure|speed|battery|rate|health|hp|lat|lon|altitude"
    r"|温度|湿度|价格|库存|进度|完成|剩余|第|共|页)\Z",
    re.IGNORECASE,
)
_THINGS: Final = re.compile(
    r"\s?(?:rows?|items?|files?|tests?|pages?|records?|lines?|steps?|bytes|[kmgt]i?b\b|个|条|行|页|项)",
    re.IGNORECASE,
)
# A line of an HTTP response's head whose value differs from one to the next.
_HEADER: Final = re.compile(
    r"(?:x-[\w-]+|age|via|date|etag|cf-ray|server-timing|set-cookie|expires|last-modified|alt-svc"
    r"|retry-after|ratelimit-[\w-]+|report-to|nel):",
    re.IGNORECASE,
)
_HAS_DIGIT: Final = re.compile(r"[^\s\"]*\d")
_BEFORE_VALUE: Final = " \t\n\"'`()[]{}<>|,;=#"
_BETWEEN: Final = " \t:=#\"'`(["
_LETTERS: Final = re.compile(r"[A-Za-z]+")
# Letters and digits in turns, capitals within, or more consonants in a row than words have.
_RANDOM: Final = re.compile(
    r"\A\d{6,}\Z|\d[A-Za-z]|[A-Za-z]{2}\d+[A-Za-z]|[A-Za-z]{4}\d{3}|(?:[a-z]+[A-Z]+){2}"
    r"|(?i:[bcdfghjklmnpqrstvwxz]{4})"
)


_LINE: Final = "line"
_ANY_NUMBER: Final = "any number"
_PATTERNS: Final = {
    _NAMED: _TOKEN,
    _LINE: re.compile(r"[^\n]*"),
    _ANY_NUMBER: _NUMBER,
}

Span = tuple[int, int, str]  # start and end of a volatile value, and its kind


def differ_only_in_volatile(one: str, other: str) -> bool:
    """Return whether two texts are the same but for times, ids, durations and counters."""
    return one == other or volatile_spans(one, other) is not None


def has_any_number(spans: Sequence[Span]) -> bool:
    """Return whether a value among them is a number of which nothing says what it is."""
    return any(kind == _ANY_NUMBER for _, _, kind in spans)


def has_measure(text: str, spans: Sequence[Span]) -> bool:
    """Return whether such a number stands by itself, and may measure something.

    What is part of a name (`P12877`, `shot_0007`) does not, nor does how well something is found.
    """
    return any(
        kind == _ANY_NUMBER
        and not _IN_NAME.search(text, max(0, start - 1), start)
        and not _RELEVANCE.search(text, max(0, start - _BEHIND), start + 1)
        for start, _, kind in spans
    )


def known_spans(
    one: str, other: str, known: "list[Span] | None", *, any_number: bool
) -> "list[Span] | None":
    """Return the volatile values of a text at the places where another is known to have some.

    Args:
        known: The values in `other`, from its own comparison with an earlier text.

    Returns:
        None if the texts differ anywhere else, or nothing is known.
    """
    if one == other:
        return known or []
    if not known or not (any_number or not has_any_number(known)):
        return None
    return _same_spans(one, other, known)


def volatile_spans(one: str, other: str, *, any_number: bool = False) -> "list[Span] | None":
    """Return the volatile values of a text that is otherwise like another; None if it is not.

    Args:
        any_number: All numbers count as volatile but those that tell how far or how much something
            is.
    """
    spans: list[Span] = []
    at, other_at = 0, 0
    for _ in range(_MAX_DIFFERENCES):
        size = _common(one, at, other, other_at)
        at += size
        other_at += size
        if at == len(one) and other_at == len(other):
            return spans
        found = _volatile_at(one, at, other, other_at)
        if found is None:
            found = _header_at(one, at, other, other_at)
        if found is None and any_number:
            found = _numbers_at(one, at, other, other_at)
        if found is None:
            return None
        span, other_at = found
        spans.append(span)
        at = span[1]
    return None


def _same_spans(one: str, other: str, known: list[Span]) -> list[Span] | None:
    """Return the values of `one` at the places where `other` has some; None if it has not."""
    spans: list[Span] = []
    at, other_at = 0, 0
    for start, end, kind in known:
        if start < other_at or not one.startswith(other[other_at:start], at):
            return None
        at += start - other_at
        pattern = _PATTERNS.get(kind, _VALUE)
        if pattern is _TOKEN and other[start:end].isdigit():
            pattern = _NUMBER
        found = pattern.match(one, at)
        if found is None or (pattern is _VALUE and found.lastgroup != kind):
            return None
        spans.append((at, found.end(), kind))
        at, other_at = found.end(), end
    return spans if one[at:] == other[other_at:] else None


def _common(one: str, at: int, other: str, other_at: int) -> int:
    """Return the length of the common text from two offsets on."""
    longest = min(len(one) - at, len(other) - other_at)
    size, step = 0, 16
    while step:  # ever longer stretches as long as they are equal, then shorter ones
        end = size + step
        if end <= longest and one[at + size : at + end] == other[other_at + size : other_at + end]:
            size = end
            step *= 2
        elif step == 1:
            return size
        elif end > longest:
            step = min(step // 2, longest - size)
        else:
            return size + _within(one, at + size, other, other_at + size, step)
    return size


def _within(one: str, at: int, other: str, other_at: int, size: int) -> int:
    """Return the length of the common text of two stretches of `size` that differ."""
    low, high = 0, size  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[at + low : at + middle] == other[other_at + low : other_at + middle]:
            low = middle
        else:
            high = middle
    return low


def _volatile_at(one: str, at: int, other: str, other_at: int) -> tuple[Span, int] | None:
    """Return the volatile value of one text that differs, and where that of the other ends."""
    start = _value_start(one, at)
    found = _values_at(one, start, at, other, other_at)
    if found is None and _HAS_DIGIT.match(one, start):
        start = _next_start(one, start, at)
        while found is None and start <= at:
            found = _values_at(one, start, at, other, other_at)
            start = _next_start(one, start, at)
    return found


def _values_at(one: str, start: int, at: int, other: str, other_at: int) -> tuple[Span, int] | None:
    """Return two volatile values of a kind that begin equally far before a difference."""
    other_start = other_at - (at - start)
    if other_start < 0:
        return None
    found, there = _VALUE.match(one, start), _VALUE.match(other, other_start)
    if found is not None and there is not None and found.lastgroup == there.lastgroup:
        kind = found.lastgroup
        is_value = kind not in ("id", "number") or are_ids(found.group(), there.group())
        if is_value and found.end() >= at and there.end() >= other_at:
            return (start, found.end(), str(found.lastgroup)), there.end()
    ends = _named(one, start, other, other_start)
    if ends is None or ends[0] < at or ends[1] < other_at:
        return None
    return (start, ends[0], _NAMED), ends[1]


def _value_start(text: str, at: int) -> int:
    """Return where the word begins that stands at `at`."""
    start = at
    least = max(0, at - _MAX_ID)
    while start > least and text[start - 1] not in _BEFORE_VALUE:
        start -= 1
    return start


def _next_start(text: str, start: int, at: int) -> int:
    """Return the next place in a word at which a value may begin; behind `at` if there is none."""
    position = start + 1
    while position <= at:
        is_boundary = not text[position - 1].isalnum()
        if is_boundary or (
            text[position : position + 1].isdigit() and not text[position - 1].isdigit()
        ):
            return position
        position += 1
    return position


def _named(one: str, start: int, other: str, other_start: int) -> tuple[int, int] | None:
    """Return where two values end that a word before or behind them makes counters or ids."""
    found, there = _NUMBER.match(one, start), _NUMBER.match(other, other_start)
    if found is not None and there is not None:
        if _OF_TOTAL.match(one, found.end()):
            return None
        if _COUNTED.match(one, found.end()) and _COUNTED.match(other, there.end()):
            return found.end(), there.end()
    found, there = _TOKEN.match(one, start), _TOKEN.match(other, other_start)
    if found is None or there is None:
        return None
    before = one[max(0, start - _BEHIND) : start].rstrip(_BETWEEN)
    name = _NAME.search(before, max(0, len(before) - 24))
    if name is None:
        return None
    is_number = found.group()[0].isdigit() and there.group()[0].isdigit()
    is_named = is_number and _OF_NUMBERS.search(name.group()) is not None
    if is_named or _OF_IDS.search(name.group()):
        return found.end(), there.end()
    if _OF_HANDLES.search(name.group()) and are_ids(found.group(), there.group()):
        return found.end(), there.end()
    return None


def _header_at(one: str, at: int, other: str, other_at: int) -> tuple[Span, int] | None:
    """Return the rest of two lines of HTTP heads, and where that of the other text ends."""
    start, other_start = one.rfind("\n", 0, at) + 1, other.rfind("\n", 0, other_at) + 1
    found, there = _HEADER.match(one, start), _HEADER.match(other, other_start)
    if found is None or there is None or found.group() != there.group() or at < found.end():
        return None
    end, other_end = one.find("\n", at), other.find("\n", other_at)
    span = (at, end if end >= 0 else len(one), _LINE)
    return span, other_end if other_end >= 0 else len(other)


def _numbers_at(one: str, at: int, other: str, other_at: int) -> tuple[Span, int] | None:
    """Return two numbers that do not tell how far something is, and where the other's ends."""
    start = at
    while (
        start > 0
        and other_at - (at - start) > 0
        and (one[start - 1].isdigit() or one[start - 1] in ".,")
    ):
        start -= 1
    found, there = _NUMBER.match(one, start), _NUMBER.match(other, other_at - (at - start))
    if found is None or there is None or _OF_TOTAL.match(one, found.end()):
        return None
    if _THINGS.match(one, found.end()):
        return None
    before = one[max(0, start - _BEHIND) : start].rstrip(_BETWEEN)
    name = _NAME.search(before, max(0, len(before) - 24))
    if name is not None and _OF_PROGRESS.search(name.group()):
        return None
    return (start, found.end(), _ANY_NUMBER), there.end()


def are_ids(one: str, other: str) -> bool:
    """Return whether two values are ids of one kind, as `req_8fk2a9` and `req_91xq3z` are.

    They have one length and one prefix, and differ nearly everywhere; letters and digits are mixed,
    or no word has such letters. `chapter12` and `chapter13` are names.
    """
    size, prefix = len(one), len(_prefix(one))
    if size > _MAX_ID or (
        size != len(other)
        or _prefix(one) != _prefix(other)
        or not (_looks_random(one) and _looks_random(other))
    ):
        return False
    if one.isdigit():
        return True
    num_other = sum([a != b for a, b in zip(one[prefix:], other[prefix:], strict=True)])
    return 2 * num_other >= size - prefix


def _looks_random(text: str) -> bool:
    """Return whether no one would write a value so: `8fk2a9`, `sylnfblpdi`, `heTvNFhl`."""
    return _RANDOM.search(text) is not None


def _prefix(text: str) -> str:
    found = _LETTERS.match(text)
    end = found.end() if found else 0
    return text[:end] if text[end : end + 1] in ("_", "-") else ""
