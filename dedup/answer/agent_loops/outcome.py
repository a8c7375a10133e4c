"""Outcome of a call: what its result says came of it."""

import re
from functools import lru_cache
from typing import Any, Final

_HEAD: Final = 240  # characters within which an error says that it is one
_INFORMATIVE: Final = 12  # letters of an error that says what is wrong

_QUOTES: Final = "'\"`“”‘’「」"
_TRIVIAL: Final = 40  # letters of a result that many calls have

# Signs of an error in lower case: a text that every match contains, and the pattern.
_ERRORS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = tuple(
    (key, re.compile(pattern))
    for key, pattern in (
        ("err", r"error\b|\berr!|\berreur\b|\berro\b|\berrore\b"),
        ("exception", r"exception\b"),
        ("traceback", r"\btraceback\b"),
        ("fatal", r"\bfatal\b"),
        ("fail", r"\bfail(?:ed|ure)\b"),
        ("denied", r"\bdenied\b"),
        ("must", r"\bmust (?:have|be|not|contain|include|specify|provide)\b"),
        ("should", r"\bshould (?:have|be|contain|include)\b"),
        ("missing", r"\bmissing\b"),
        ("require", r"\brequired?\b"),
        ("blocked", r"\bblocked\b"),
        ("read-only", r"\bread-only\b"),
        ("locked", r"\blocked\b"),
        ("can", r"\bcan(?:not|'t)\b"),
        ("could", r"\bcould(?: not|n't)\b"),
        ("unable", r"\bunable to\b"),
        ("unsupported", r"\bunsupported\b"),
        ("unexpected", r"\bunexpected\b"),
        ("malformed", r"\bmalformed\b"),
        ("exceed", r"\bexceed(?:ed|s)\b"),
        ("unavailable", r"\bunavailable\b"),
        ("maintenance", r"\b(?:under|in) maintenance\b"),
        ("contact", r"\bcontact (?:your |the )?(?:support|admin\w*)\b"),
        ("false", r"[\"'](?:success|ok)[\"']\s*:\s*false"),
        ("code", r"[\"'](?:error_?)?code[\"']\s*:\s*(?!0\b|2\d\d\b)\d+"),
        ("exit", r"\bexit(?:ed)?(?: with)?(?: code)?:? [1-9]"),
        ("forbidden", r"\bforbidden\b"),
        ("unauthori", r"\bunauthori[sz]ed\b"),
        ("not ", r"\bnot (?:permitted|allowed|supported|authori[sz]ed)\b"),
        ("unknown", r"\bunknown (?:tool|function|command|method|parameter|argument)\b"),
        ("not ", r"\b(?:tool|function|command)\b.{0,60}\b(?:not found|does not exist)\b"),
        ("no such", r"\bno such (?:tool|function|command)\b"),
        ("invalid", r"\binvalid\b"),
        ("refused", r"\brefused\b"),
        ("time", r"\btimed? ?out\b(?![\"']?\s*[:=])"),
        ("rejected", r"\brejected\b"),
        ("fehler", r"fehler\b"),
        ("fallo", r"\bfallo\b"),
        *(
            (one, one)
            for one in "错误 失败 异常 无效 拒绝 超时 无权限 没有权限 不允许 未授权".split()
        ),
        *(
            (one, one)
            for one in "必须 缺少 不能 无法 只读 被阻止 被拦截 超出 超过 维护中 请联系 不可用".split()
        ),
        ("未知", "未知(?:的)?(?:工具|函数)"),
        *((one, one) for one in "エラー 失敗 無効".split()),
    )
)
_ERRNO: Final = re.compile(r"\bE[A-Z]{4,}\b")
_NO_ERROR: Final = re.compile(
    r"\b(?:no|0|without|zero)\s+(?:errors?|failures?|failed|exceptions?)\b"
    r"|\b(?:errors?|failures?|failed)[\"']?\s*[:=]\s*(?:0|null|none|false|\[\]|\"\")"
    r"|没有(?:错误|失败)|无错误|0\s*(?:个)?(?:错误|失败)",
    re.IGNORECASE,
)
_EMPTY: Final = re.compile(
    r"\bno (?:\w+ ){0,2}(?:match(?:es)?|results?|files?|records?|rows?|entries|items?|output)\b"
    r"|\bno such (?:file|directory|key|column|table|host|user|element|container)\b|\bdoes not exist\b"
    r"|\bnot found\b(?! in the tool)|\b404\b|\bunreachable\b|\bnot available\b"
    r"|\b(?:0|zero) (?:match(?:es)?|results?|files?|rows?|records?|hits)\b|没有找到|未找到|无结果|无匹配",
    re.IGNORECASE,
)
# Words by which a result says that nothing came of a call.
_NEGATIVE: Final = re.compile(
    r"\b(?:no|not|never|nothing|neither|without|cannot|unable|unchanged|unhealthy|failed"
    r"|failure|error)\b"
    r"|n['’]t\b|\b(?:keine?n?|nicht|nichts|aucune?|pas|rien|ning[uú]na?|nada|não|nenhuma?|nessuna?|non)\b"
    r"|未|没|无|不|なし|ません|ない|없|않|못",
    re.IGNORECASE,
)
_OF_PLACE: Final = re.compile(
    r"\b(?:HTTP|status)(?: code)?\W{0,3}[45]\d\d\b|\b(?:403|404|410|429|50[0-4])\b|\btimed? ?out\b"
    r"|\bcould not resolve\b|\bcertificate\b",
    re.IGNORECASE,
)
# Errors of the machine, which no other file or argument mends.
_OF_MACHINE: Final = re.compile(
    r"\bno space left\b|\bdisk (?:is )?full\b|\bquota exceeded\b|\bread-only file ?system\b"
    r"|\bout of memory\b|\bcannot allocate memory\b|\btoo many open files\b"
    r"|\bfailure in name resolution\b|\bcould not resolve host\b|\bnetwork is unreachable\b"
    r"|\bEACCES\b|\boutside (?:of )?(?:the )?(?:allowed |permitted )?(?:workspace|sandbox|project)\b"
    r"|磁盘(?:空间)?(?:已满|不足)|内存不足|空间不足|网络不可达",
    re.IGNORECASE,
)
# One of these is in each of them: a look ahead of the search.
_MACHINE_WORDS: Final = (
    "no space left|disk|quota|read-only|memory|open files|name resolution|resolve host"
    "|unreachable|eacces|outside|磁盘|不足|不可达"
).split("|")
# Signs that no search has that finds nothing.
_SAYS_ERROR: Final = re.compile(
    r"\bTraceback\b|\b\w{0,40}Error\b|\berror:|\bERROR\b|\b[Dd]enied\b|\bnot have permission\b"
)
_NO_TOOL: Final = re.compile(
    r"\b(?:tool|function|command)\b.{0,60}\b(?:not found|does not exist|unavailable)\b",
    re.IGNORECASE,
)
_EXIT_CODE: Final = re.compile(
    r"\b(?:command |process )?(?:exit(?:ed)?|return(?:ed)?)\b[^\n]{0,24}?-?\d+"
)
# A line with a label and one value, such as "Wall time: 0.05 seconds" or "Output:".
_LABELLED: Final = re.compile(
    r"^(?![^:\n]*error)[A-Za-z][\w ]{1,30}:[ \t]*\S{0,24}(?: (?:ms|s|secs?|seconds))?$",
    re.IGNORECASE | re.MULTILINE,
)
_BARE_ERROR: Final = re.compile(r"\b(?:error|err|failed|failure|fatal|exception)\b", re.IGNORECASE)
_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # each says as much as three letters
_LETTER: Final = re.compile(r"[^\W\d_]")
_WORDS: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]+|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


class Outcome:
    """Outcome of a call. Each property is read when it is first asked for.

    Args:
        result: The result's text.
        tool: Name of the tool.
        is_marked: The result is marked as an error.
    """

    def __init__(self, result: str, tool: str, *, is_marked: bool) -> None:
        self._result = result
        self._tool = tool
        self._is_marked = is_marked
        self._error: str | None = None
        self._said: str | None = None

    @property
    def error(self) -> str:
        """Return what is wrong, of a call that failed and says so; empty of any other.

        The name of the tool is left out, so that unknown tools fail alike. A search that finds
        nothing has not failed, and a bare exit code says nothing.
        """
        if self._error is None:
            self._error = self._read_error()
        return self._error

    @property
    def is_empty(self) -> bool:
        """Return whether a search has found nothing."""
        return _is_empty(self._result[:_HEAD])

    @property
    def is_negative(self) -> bool:
        """Return whether the result says that nothing came of the call."""
        return self._is_marked or _is_negative(self._result[:_HEAD])

    @property
    def is_trivial(self) -> bool:
        """Return whether the result is so short that calls with different effects may have it."""
        return has_few_letters(self._result, _TRIVIAL)

    @property
    def is_telling(self) -> bool:
        """Return whether the call has succeeded, and its result is no coincidence."""
        return not (self.is_trivial or self.is_negative or self.error)

    @property
    def is_of_place(self) -> bool:
        """Return whether the error is that of a site or host, and not of the tool that went there."""
        return _is_of_place(self.error[:_HEAD])

    def said(self, given: dict[str, Any]) -> str:
        """Return what the error says by itself; of a full disk or the like, only that.

        Args:
            given: The arguments of the call. One of several words, such as a command, that the
                error repeats is left out.
        """
        if self._said is None:
            said = self.error
            for value in given.values():
                if isinstance(value, str) and " " in value:
                    said = said.replace(value, "")
            self._said = _of_machine(said[:_HEAD]) or _of_machine(said[-_HEAD:]) or said
        return self._said

    def _quotes_tool(self, text: str) -> bool:
        """Return whether a text has the tool's name in quotes."""
        at = text.find(self._tool) if self._tool else -1
        end = at + len(self._tool)
        return at > 0 and end < len(text) and text[at - 1] in _QUOTES and text[end] in _QUOTES

    def _read_error(self) -> str:
        head = self._result[:_HEAD]
        is_about_tool = self._quotes_tool(head) and self.is_negative
        if not (self._is_marked or is_about_tool or _has_error(head)):
            return ""
        if _is_empty(head) and not (
            is_about_tool or _NO_TOOL.search(head) or _SAYS_ERROR.search(head)
        ):
            return ""
        text = self._result.replace(self._tool, "") if self._tool else self._result
        return text if _says_what(text[:_HEAD]) else ""


def words_of(text: str) -> frozenset[str]:
    """Return the words and numbers in a text; of unspaced scripts, whole phrases."""
    return frozenset(_WORDS.findall(text.lower()))


def has_few_letters(text: str, number: int) -> bool:
    """Return whether a text has fewer letters than a number; those of unspaced scripts are three."""
    if len(text) >= 4 * number:
        return False
    return len(_LETTER.findall(text)) + 2 * len(_UNSPACED.findall(text)) < number


@lru_cache(512)
def _says_what(error: str) -> bool:
    """Return whether an error says what is wrong, beside that something is."""
    said = _BARE_ERROR.sub("", _EXIT_CODE.sub("", _LABELLED.sub("", error)))
    return len(_LETTER.findall(said)) >= _INFORMATIVE


@lru_cache(512)
def _has_error(text: str) -> bool:
    """Return whether a text says that something has failed."""
    lowered = text.lower()
    is_error = _ERRNO.search(text) is not None
    for key, pattern in _ERRORS:
        if key in lowered and pattern.search(lowered):
            is_error = True
            break
    return is_error and _NO_ERROR.search(text) is None


@lru_cache(512)
def _is_negative(text: str) -> bool:
    return _NEGATIVE.search(text) is not None


@lru_cache(512)
def _is_empty(text: str) -> bool:
    return _EMPTY.search(text) is not None


@lru_cache(512)
def _of_machine(error: str) -> str:
    lowered = error.lower()
    if not any(word in lowered for word in _MACHINE_WORDS):
        return ""
    found = _OF_MACHINE.search(error)
    return found.group() if found is not None else ""


@lru_cache(512)
def _is_of_place(error: str) -> bool:
    return _OF_PLACE.search(error) is not None
