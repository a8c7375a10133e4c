"""Patience: calls that wait for something, or move something on unseen."""

import re
from functools import lru_cache
from typing import Final

from dedup.answer.agent_loops.outcome import has_few_letters
from dedup.answer.agent_loops.steps import Call, Step

# Arguments that ask for something, and change nothing.
QUERIES: Final = frozenset(
    "query q search search_query search_term keyword keywords question".split()
)

_BRIEF: Final = 60  # letters of a text in which words of waiting count
_SHORT: Final = 300  # characters; what is longer is not the state of a job
_LONG: Final = 2000  # unless it is a record that has a state

# States of work that has not ended.
_STATES: Final = (
    r"running|pending|in[ _-]?progress|queued|processing|building|waiting|starting|provisioning"
    r"|deploying|creating|initiali[sz]ing|scheduled|not[ _-]ready|preparing|executing|retrying"
    r"|syncing|uploading|downloading|compiling|training|rendering|in[ _-]?queue|accepted|submitted|working"
    r"|en cours|en attente|en (?:proceso|curso|cola)|pendiente|em andamento|pendente|in (?:bearbeitung|arbeit)"
    r"|läuft|ausstehend|in (?:corso|attesa)"
)
_RUNNING: Final = re.compile(
    # a field with the state
    r"[\"']?\b(?:\w*status|\w*state|phase|stage|[ée]tat|estado|stato|zustand)[\"']?\s*(?:[:=>]|is)\s*[\"']?(?:\w*_)?"
    rf"(?:{_STATES}|(?!missing|outstanding|staging|wyoming)[a-z]+ing)\b"
    r"|状态[\"']?\s*[:：]\s*[\"']?[\u4e00-\u9fff]{1,6}中(?![\u4e00-\u9fff])"
    # a field of a table
    r"|(?:^|\t| {2,})(?:pending|queued|in[ _-]?(?:queue|progress)|provisioning|waiting|working"
    r"|submitted|accepted)(?=\t| {2,}|$)"
    r"|\b(?:Container|Pod)?Creating\b|\bhealth: starting\b|_IN_PROGRESS\b|\bprocess (?:is )?running\b"
    # nothing but the state
    rf"|\A\W*(?:{_STATES})\b\W*\Z",
    re.IGNORECASE | re.MULTILINE,
)
# What a short text says of work that has not ended.
_UNFINISHED: Final = re.compile(
    rf"\b(?:still|currently)\s+(?:being\s+)?(?:{_STATES}|on (?:its|the) way)\b"
    r"|\bnot\s+(?:yet\s+\w+|ready|finished|completed?|done)\b|\b(?:not|no\w*)\b.{0,40}\byet\b"
    r"|\bin progress\b|\bplease wait\b|\b(?:try|check) again later\b|\btemporarily unavailable\b"
    r"|\bretry[- ]after\b|\brate[- ]?limit|\btoo many requests\b|\b429\b"
    r"|(?:\A|[\n.:;!({\[\"']|\b(?:is|are|still|now))\s*waiting (?:for|on)\b"
    r"|[:：]\s*[\"'][\u4e00-\u9fff]{1,6}中[\"']|进行中|处理中|排队|等待中|运行中|正在|尚未|稍后|未完成|构建中|部署中|还没|执行中|限流|请求过于频繁"
    r"|処理中|実行中|待機中|準備中|まだ",
    re.IGNORECASE,
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
    if any(call.outcome.error or (is_mover(call) and not waits(call)) for call in calls):
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


def pauses(call: Call) -> bool:
    """Return whether a call waits by itself, whatever it returns."""
    if _WAITS.search(call.name[:_NAME]):
        return True
    if _ARRIVALS.search(call.name[:_NAME]) and call.outcome.is_trivial and not call.is_error:
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
    return call.outcome.is_trivial and not call.outcome.error and is_mover(call)


def _is_running(result: str) -> bool:
    if len(result) <= _SHORT and _RUNNING.search(result):
        return True
    if has_few_letters(result, _BRIEF) and _UNFINISHED.search(result):
        return True
    if len(result) > _LONG:
        return False
    if _NO_OUTCOME.search(result):
        return True
    state = _STATE.search(result) if result.startswith("{") else None
    return state is not None and _RUNNING.search(f"status: {state.group(1)}") is not None


@lru_cache(512)
def _names_move(name: str) -> bool:
    return _MOVES.search(_HUMP.sub("_", name).lower()) is not None
