"""Results of tools: work that is still running, and errors."""

import re
from functools import lru_cache
from typing import Final

from dedup.answer.agent_loops.steps import Call, Step

# Arguments that ask for something, and change nothing.
QUERIES: Final = frozenset(
    "query q search search_query search_term keyword keywords question".split()
)

_SHORT: Final = 300  # characters; what is longer is not the state of a job
_LONG: Final = 2000  # unless it is a record that has a state
_HEAD: Final = 240  # characters within which an error says that it is one
_INFORMATIVE: Final = 12  # letters of an error that says what is wrong

_STATES: Final = (
    r"running|pending|in[ _-]?progress|queued|processing|building|waiting|starting|provisioning"
    r"|deploying|creating|initiali[sz]ing|scheduled|not[ _-]ready|preparing|executing|retrying"
    r"|syncing|uploading|downloading|compiling|training|rendering|in[ _-]?queue|accepted|submitted|working"
    r"|en cours|en attente|en (?:proceso|curso|cola)|pendiente|em andamento|pendente|in (?:bearbeitung|arbeit)"
    r"|läuft|ausstehend|in (?:corso|attesa)"
)
_UNFINISHED: Final = (
    r"pending|queued|in[ _-]?queue|in[ _-]?progress|provisioning|waiting|working|submitted|accepted"
)
_RUNNING: Final = re.compile(
    rf"[\"']?\b(?:\w*status|\w*state|phase|stage|[ée]tat|estado|stato|zustand)[\"']?\s*(?:[:=>]|is)\s*[\"']?(?:\w*_)?"
    rf"(?:{_STATES}|(?!missing|outstanding|staging|wyoming)[a-z]+ing)\b"
    # a field of a table
    rf"|(?:^|\t| {{2,}})(?:{_UNFINISHED})(?=\t| {{2,}}|$)"
    r"|状态[\"']?\s*[:：]\s*[\"']?[\u4e00-\u9fff]{1,6}中(?![\u4e00-\u9fff])"
    rf"|\A\W*(?:{_STATES})\b\W*\Z"
    rf"|\b(?:still|currently)\s+(?:being\s+)?(?:{_STATES}|on (?:its|the) way)\b"
    r"|\bnot\s+(?:yet\s+\w+|ready|finished|completed?|done)\b"
    r"|\b(?:Container|Pod)?Creating\b|\bhealth: starting\b|_IN_PROGRESS\b"
    r"|\b(?:not|no\w*)\b.{0,40}\byet\b|\bin progress\b|\bplease wait\b|\b(?:try|check) again later\b"
    r"|\bretry[- ]after\b|\brate[- ]?limit|\btoo many requests\b|\b429\b"
    r"|\btemporarily unavailable\b|\bprocess (?:is )?running\b|(?:\A|[\n.:;!({\[\"']|\b(?:is|are|still|now))\s*waiting (?:for|on)\b"
    r"|进行中|处理中|排队|等待中|运行中|正在|尚未|稍后|未完成|构建中|部署中|还没|执行中|限流|请求过于频繁"
    r"|処理中|実行中|待機中|準備中|まだ",
    re.IGNORECASE | re.MULTILINE,
)
# The outcome of a job that has none yet.
_NO_OUTCOME: Final = re.compile(
    r"[\"'](?:output|result|results|output_url|url|finished_at|completed_at|ended_at|receipt"
    r"|response)[\"']\s*:\s*(?:null|None)\b"
    r"|[\"'](?:is_?)?(?:done|finished|completed?|ready)[\"']\s*:\s*(?:false|False)\b"
)
_WAITS: Final = re.compile(
    r"(?:\A|[_.-])(?:wait|sleep|poll)(?:[_.-]|\Z)|\A(?:wait|sleep|poll)(?=[A-Z])|(?:Wait|Sleep|Poll)\Z"
)
# Tools that read or write what does not change by itself.
_READS: Final = re.compile(
    r"(?:read|view|open|cat|write|save)_?(?:file|document|page|source)?\Z", re.IGNORECASE
)
# Tools that look whether something has come.
_ARRIVALS: Final = re.compile(
    r"(?:check|get|list|read|poll|fetch)\w*(?:inbox|mail|sms|otp|notification)", re.IGNORECASE
)
_PAUSE: Final = re.compile(r"(?:\A|&&|[;\n])\s*(?:sleep|Start-Sleep|timeout /t)\b", re.IGNORECASE)
# Each call of these moves something on by itself, whatever it returns.
_MOVES: Final = re.compile(
    r"(?:\A|[_.-])(?:scroll|press|keypress|key|hotkey|swipe|zoom|undo|redo|page_?(?:down|up)|tab"
    r"|next|previous|prev|forward|back|advance|step|volume|increment|decrement|increase|decrease"
    r"|louder|quieter|dim|brighten|roll|draw|shuffle|pop|skip|dequeue|receive|rotate|click|tap"
    r"|toggle|(?:move|turn)_?(?:left|right|up|down|forward|backward))"
    r"(?:[_.-]|\Z)|\A(?:move|turn)\Z"
)
_HUMP: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")
_MAX_ACTION: Final = 40  # characters of an argument that says what to do
_STATE: Final = re.compile(r"[{,]\s*\"(?:status|state|phase)\"\s*:\s*\"([\w -]{1,40})\"")
# What a harness puts in the place of a result that it does not send again.
_LEFT_OUT: Final = re.compile(
    r"\s*[\[(<][^\])>\n]{0,60}\b(?:image|screenshot|omitted|truncated|removed|cleared|elided)\b"
    r"[^\])>\n]{0,60}[\])>]\s*\Z",
    re.IGNORECASE,
)
_MAX_COMMAND: Final = 2000  # characters in which a pause is looked for
_NAME: Final = 128  # characters of a tool's name that are read
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
        ("time", r"\btimed? ?out\b"),
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
_EMPTY_HANDED: Final = re.compile(
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
_COMMANDS: Final = (
    "command",
    "cmd",
    "code",
    "script",
    "query",
    "sql",
)  # arguments that errors repeat
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


def are_patient(steps: list[Step]) -> bool:
    """Return whether repeating steps may be meant: one waits, or all move something on unseen.

    Where one of them looks at what the others have moved, and sees the same, it has not moved, and
    to wait for that does not help. Of several calls one has to pause, or all have to say that
    something is still running.
    """
    calls = [call for step in steps for call in step.calls]
    if not calls:
        return False
    if all(_moves(call) for call in calls) or any(_LEFT_OUT.match(call.result) for call in calls):
        return True
    if len(calls) == 1:
        return waits(calls[0])
    if any(error_of(call) or (is_mover(call) and not waits(call)) for call in calls):
        return False
    return any(pauses(call) for call in calls) or all(waits(call) for call in calls)


def looks_up(steps: list[Step]) -> bool:
    """Return whether steps only search, read, write or talk: again that is the same."""
    return all(
        _READS.match(call.name[:_NAME]) is not None
        or (isinstance(call.values, dict) and not QUERIES.isdisjoint(call.values))
        for step in steps
        for call in step.calls
    )


def is_empty_handed(result: str) -> bool:
    """Return whether a search has found nothing."""
    return _is_empty_handed(result[:_HEAD])


def is_trivial(result: str) -> bool:
    """Return whether a result is so short that calls with different effects may have it."""
    if len(result) >= 4 * _TRIVIAL:
        return False
    num_letters = len(_LETTER.findall(result)) + 2 * len(_UNSPACED.findall(result))
    return num_letters < _TRIVIAL


def is_negative(call: Call) -> bool:
    """Return whether a result says that nothing came of the call."""
    return call.is_error or _is_negative(call.result[:_HEAD])


def is_of_place(error: str) -> bool:
    """Return whether an error is that of a site or host, and not of the tool that went there."""
    return _is_of_place(error[:_HEAD])


def error_of(call: Call) -> str:
    """Return what is wrong, of a call that failed and says so; empty of any other.

    The name of the tool is left out, so that unknown tools fail alike, and so is a command that the
    error repeats; of a full disk or the like only that is taken. A search that finds nothing has not failed,
    and a bare exit code says nothing.
    """
    if call.error is None:
        error = _error_in(call.result, call.name, call.is_error)
        if error:
            for name in _COMMANDS:
                value = call.fields.get(name)
                if isinstance(value, str) and len(value) > 3:
                    error = error.replace(value, "")
            error = _of_machine(error[:_HEAD]) or _of_machine(error[-_HEAD:]) or error
        call.error = error
    return call.error


def pauses(call: Call) -> bool:
    """Return whether a call waits by itself, whatever it returns."""
    if _WAITS.search(call.name[:_NAME]):
        return True
    if _ARRIVALS.search(call.name[:_NAME]) and is_trivial(call.result) and not call.is_error:
        return True
    values = call.values
    if not isinstance(values, dict):
        return False
    command = values.get("command", values.get("cmd"))
    if isinstance(command, str) and _PAUSE.search(command[:_MAX_COMMAND]):
        return True
    return "stdin" in call.name and not values.get("chars", "-")


def waits(call: Call) -> bool:
    """Return whether a call waits for work that is still running.

    A search does not, whatever is said in what it finds.
    """
    values = call.values
    if pauses(call):
        return True
    is_search = isinstance(values, dict) and not QUERIES.isdisjoint(values)
    return not is_search and _is_running(call.result)


def is_mover(call: Call) -> bool:
    """Return whether a call, by its name or what it is told to do, moves something on."""
    if _names_move(call.name[:_NAME]):
        return True
    values = call.values
    if not isinstance(values, dict):
        return False
    return any(
        isinstance(one, str) and len(one) <= _MAX_ACTION and _names_move(one)
        for one in values.values()
    )


def _moves(call: Call) -> bool:
    return is_trivial(call.result) and not error_of(call) and is_mover(call)


def _is_running(result: str) -> bool:
    if len(result) <= _SHORT and _RUNNING.search(result):
        return True
    if len(result) > _LONG:
        return False
    if _NO_OUTCOME.search(result):
        return True
    state = _STATE.search(result) if result.startswith("{") else None
    return state is not None and _RUNNING.search(f"status: {state.group(1)}") is not None


def _error_in(result: str, name: str, is_error: bool) -> str:
    head = result[:_HEAD]
    if not is_error and not _has_error(head):
        return ""
    if _is_empty_handed(head) and not (_NO_TOOL.search(head) or _SAYS_ERROR.search(head)):
        return ""
    text = result.replace(name, "") if name else result
    return text if _says_what(text[:_HEAD]) else ""


@lru_cache(512)
def _names_move(name: str) -> bool:
    return _MOVES.search(_HUMP.sub("_", name).lower()) is not None


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
def _is_empty_handed(text: str) -> bool:
    return _EMPTY_HANDED.search(text) is not None


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
