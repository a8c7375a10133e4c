"""Results of tools: work that is still running, and errors."""

import re
from typing import Final

from dedup.answer.agent_loops.steps import Call, Step

_SHORT: Final = 300  # characters; what is longer is not the state of a job
_HEAD: Final = 240  # characters within which an error says that it is one
_INFORMATIVE: Final = 12  # letters of an error that says what is wrong

_STATES: Final = (
    r"running|pending|in[ _-]?progress|queued|processing|building|waiting|starting|provisioning"
    r"|deploying|creating|initiali[sz]ing|scheduled|not[ _-]ready|preparing|executing|retrying"
    r"|syncing|uploading|downloading|compiling|training|rendering"
)
_RUNNING: Final = re.compile(
    rf"[\"']?\b(?:\w*status|\w*state|phase|stage)[\"']?\s*(?:[:=]|is)\s*[\"']?(?:{_STATES})\b"
    rf"|\A\W*(?:{_STATES})\b\W*\Z"
    rf"|\b(?:still|currently)\s+(?:being\s+)?(?:{_STATES}|on (?:its|the) way)\b"
    r"|\bnot\s+(?:yet\s+\w+|ready|finished|completed?|done)\b"
    r"|\b(?:not|no\w*)\b.{0,40}\byet\b|\bin progress\b|\bplease wait\b|\b(?:try|check) again later\b"
    r"|\bretry[- ]after\b|\brate[- ]?limit|\btoo many requests\b|\b429\b"
    r"|\btemporarily unavailable\b|\bprocess (?:is )?running\b|\bwaiting (?:for|on)\b"
    r"|进行中|处理中|排队|等待中|运行中|正在|尚未|稍后|未完成|构建中|部署中|还没|执行中|限流|请求过于频繁"
    r"|処理中|実行中|待機中|準備中|まだ",
    re.IGNORECASE,
)
_WAITS: Final = re.compile(
    r"(?:\A|[_.-])(?:wait|sleep|poll)(?:[_.-]|\Z)|\A(?:wait|sleep|poll)(?=[A-Z])|(?:Wait|Sleep|Poll)\Z"
)
_PAUSE: Final = re.compile(r"\A\s*(?:sleep|Start-Sleep|timeout)\b[^;&|\n]*\Z", re.IGNORECASE)
# Each call of these moves something on by itself, whatever it returns.
_MOVES: Final = re.compile(
    r"(?:\A|[_.-])(?:scroll|press|keypress|key|hotkey|swipe|zoom|undo|redo|page_?(?:down|up)|tab"
    r"|next|previous|prev|forward|back|advance|step|volume|increment|decrement|increase|decrease"
    r"|louder|quieter|dim|brighten|roll|draw|shuffle|pop|skip|dequeue|receive|rotate|turn|move|tap)"
    r"(?:[_.-]|\Z)|\A(?:scroll|press|swipe|zoom|next|prev)(?=[A-Z])"
)
_MOVING_ARGUMENTS: Final = ("action", "key", "keys", "command", "direction", "method")
_TRIVIAL: Final = 40  # letters of a result that many calls have

_ERROR: Final = re.compile(
    r"\berror\b|\berr!|exception\b|\btraceback\b|\bfatal\b|\bfail(?:ed|ure)\b|\bdenied\b"
    r"|\bforbidden\b|\bunauthori[sz]ed\b|\bnot (?:permitted|allowed|supported|authori[sz]ed)\b"
    r"|\bunknown (?:tool|function|command|method|parameter|argument)\b"
    r"|\b(?:tool|function|command)\b.{0,60}\b(?:not found|does(?: not|n't) exist|unavailable)\b"
    r"|\bno such (?:tool|function|command)\b|\binvalid\b|\brefused\b|\btimed? ?out\b|\brejected\b"
    r"|错误|失败|异常|无效|拒绝|未知(?:的)?(?:工具|函数)|超时|无权限|不允许|未授权|エラー|失敗|無効"
    r"|\b(?:erreur|fehler|fallo|errore|erro)\b",
    re.IGNORECASE,
)
# What every text that `_ERROR` finds something in has one of: cheap to look for.
_ERROR_WORDS: Final = (
    "err",
    "exception",
    "traceback",
    "fatal",
    "fail",
    "denied",
    "forbidden",
    "unauthori",
    "not ",
    "unknown",
    "unavailable",
    "no such",
    "invalid",
    "refused",
    "time",
    "rejected",
    *"错误 失败 异常 无效 拒绝 未知 超时 无权限 不允许 未授权 エラー 失敗 無効 fehler fallo".split(),
)
_NO_ERROR: Final = re.compile(
    r"\b(?:no|0|without|zero)\s+(?:errors?|failures?|failed|exceptions?)\b"
    r"|\b(?:errors?|failures?|failed)[\"']?\s*[:=]\s*(?:0|null|none|false|\[\]|\"\")"
    r"|没有(?:错误|失败)|无错误|0\s*(?:个)?(?:错误|失败)",
    re.IGNORECASE,
)
_EMPTY_HANDED: Final = re.compile(
    r"\bno (?:\w+ ){0,2}(?:match(?:es)?|results?|files?|records?|rows?|entries|items?|output)\b"
    r"|\b(?:0|zero) (?:match(?:es)?|results?|files?|rows?|records?|hits)\b|没有找到|未找到|无结果|无匹配",
    re.IGNORECASE,
)
_EXIT_CODE: Final = re.compile(
    r"\b(?:command |process )?(?:exit(?:ed)?|return(?:ed)?)\b[^\n]{0,24}?-?\d+"
)
_LETTER: Final = re.compile(r"[^\W\d_]")


def is_patient(step: Step) -> bool:
    """Return whether repeating a step may be meant: it waits, or moves something on unseen."""
    return any(_waits(call) or _moves(call) for call in step.calls)


def is_trivial(result: str) -> bool:
    """Return whether a result is so short that calls with different effects may have it."""
    return len(result) < 4 * _TRIVIAL and len(_LETTER.findall(result)) < _TRIVIAL


def error_of(call: Call) -> str:
    """Return what is wrong, of a call that failed and says so; empty of any other.

    The name of the tool is left out, so that unknown tools fail alike. A search that finds nothing
    has not failed, and a bare exit code says nothing.
    """
    if call.error is None:
        call.error = _error_in(call.result, call.name, call.is_error)
    return call.error


def _waits(call: Call) -> bool:
    if len(call.result) <= _SHORT and _RUNNING.search(call.result):
        return True
    if _WAITS.search(call.name):
        return True
    values = call.values
    if not isinstance(values, dict):
        return False
    command = values.get("command", values.get("cmd"))
    if isinstance(command, str) and _PAUSE.match(command):
        return True
    return "stdin" in call.name and not values.get("chars", "-")


def _moves(call: Call) -> bool:
    if not is_trivial(call.result):
        return False
    if _MOVES.search(call.name):
        return True
    values = call.values
    if not isinstance(values, dict):
        return False
    given = [values.get(name) for name in _MOVING_ARGUMENTS]
    return any(isinstance(one, str) and _MOVES.search(one.lower()) is not None for one in given)


def _error_in(result: str, name: str, is_error: bool) -> str:
    head = result[:_HEAD]
    lowered = head.lower()
    if not is_error and not any(word in lowered for word in _ERROR_WORDS):
        return ""
    if not is_error and (not _ERROR.search(head) or _NO_ERROR.search(head)):
        return ""
    if _EMPTY_HANDED.search(head):
        return ""
    text = result.replace(name, "") if name else result
    said = _ERROR.sub("", _EXIT_CODE.sub("", text[:_HEAD]))
    return text if len(_LETTER.findall(said)) >= _INFORMATIVE else ""
