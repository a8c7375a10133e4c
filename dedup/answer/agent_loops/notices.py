"""Notices that are put before an agent, and how they are recognised: they are never counted.

Constants: the same notice each time keeps requests alike, and lets any reader of a history know one.
"""

import re
from typing import Final

MARK: Final = "[repetition notice]"
_MARK_ZH: Final = "[重复提示]"

NUDGE: Final = (
    f"{MARK} This result is the same as the results before it. The same calls with the same"
    " arguments have been made several times in a row, and nothing has changed. Do not make them"
    " again: try something different, or answer with what is known and name what is missing."
)
NUDGE_ZH: Final = (
    f"{_MARK_ZH} 这个结果与之前的结果相同。同样的调用、同样的参数已经连续进行了多次，没有任何变化。"
    "请不要再重复：换一种做法，或者用已知的信息作答，并说明还缺什么。"
)
ANSWER: Final = (
    f"{MARK} The same calls have been made several times in a row, and nothing has changed. Make no"
    " further call now: answer with what is known, and name what is missing."
)
ANSWER_ZH: Final = (
    f"{_MARK_ZH} 同样的调用已经连续进行了多次，没有任何变化。现在不要再调用工具："
    "请用已知的信息作答，并说明还缺什么。"
)
STOP: Final = (
    f"{MARK} The turn was ended: the agent was about to make the same tool calls once more, after"
    " several calls in a row that had the same arguments and the same results. The calls were not"
    " made. To go on, change the task, the tools or what they return."
)
STOP_ZH: Final = (
    f"{_MARK_ZH} 本轮已结束：智能体连续多次以相同的参数调用工具并得到相同的结果之后，又要进行同样的调用。"
    "这些调用没有执行。要继续，请更改任务、工具或工具的返回内容。"
)

_ALL: Final = (NUDGE, NUDGE_ZH, ANSWER, ANSWER_ZH, STOP, STOP_ZH)
# Of other harnesses, at the end of a result: "[note: the 3rd identical call ...]".
_OF_OTHERS: Final = re.compile(
    r"(?:\[(?P<note>[^\[\]]{1,600})\]|<(?P<tag>[a-z][\w-]*)[^>]{0,200}>[^<]{1,1000}</(?P=tag)>)\s*\Z"
)
_ABOUT_REPETITION: Final = re.compile(
    r"identical|repeat|same (?:call|argument|result|tool|input)|loop|in a row|consecutive|duplicate"
    r"|重复|相同|连续|循环",
    re.IGNORECASE,
)
_MAX_NOTE: Final = 1300  # characters at the end of a result in which it stands
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")
_KANA: Final = re.compile(r"[\u3040-\u30ff]")


def in_language_of(text: str, english: str, chinese: str) -> str:
    """Return the notice in the language of a text: Chinese, or else English."""
    is_chinese = _CHINESE.search(text) and not _KANA.search(text)
    return chinese if is_chinese else english


def without_notices(text: str) -> str:
    """Return a text without the notices in it, and without the space before them.

    Those of other harnesses are left out where they stand at the end, in brackets or a tag.
    """
    if MARK in text or _MARK_ZH in text:
        for notice in _ALL:
            text = text.replace(notice, "")
        text = text.rstrip()
    if text.endswith(("]", ">")):
        tail = max(0, len(text) - _MAX_NOTE)
        found = _OF_OTHERS.search(text, tail)
        if found is not None and found.start() > 0:
            is_reminder = "remind" in (found["tag"] or "")
            if is_reminder or _ABOUT_REPETITION.search(found.group()):
                return text[: found.start()].rstrip()
    return text


def is_notice(text: str) -> bool:
    """Return whether a text is nothing but notices."""
    return bool(text) and not without_notices(text)
