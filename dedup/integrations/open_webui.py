"""
title: Repetition filter
author: dedup-llm
version: 1.0.0
license: Apache-2.0
description: Removes repeated sentences from answers, and hides the rest of a text that loops.
requirements: dedup-llm
"""

import copy
import logging
from typing import Any, Final, Literal

from pydantic import BaseModel

from dedup.answer.agent_loops import find_loop
from dedup.answer.agent_loops.notices import NUDGE, NUDGE_ZH, in_language_of
from dedup.answer.agent_loops.nudging import nudged
from dedup.answer.channel import Editing
from dedup.answer.conversation import editing_of, last_prompt
from dedup.answer.events import EventFilter
from dedup.config import Policy

Json = dict[str, Any]

_log: Final = logging.getLogger("dedup.open_webui")
_CUT: Final = "The text repeats itself: the rest is hidden. Stop the answer to save its tokens."
_CUT_ZH: Final = "文本开始重复：其余部分已隐藏。停止生成可节省令牌。"
_REMOVED: Final = "Repetition was removed: {} characters."
_REMOVED_ZH: Final = "已移除重复内容：{} 个字符。"


class Filter:
    """Filter function of Open WebUI. One instance serves all chats."""

    class Valves(BaseModel):
        """Settings of the administrator. `nudge`: tell a model that repeats a tool call."""

        priority: int = 0
        policy: Policy = "balanced"
        notice: bool = True
        nudge: bool = False

    class UserValves(BaseModel):
        """Settings of a user."""

        policy: Policy | Literal["default"] = "default"

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def inlet(
        self, body: Json, __request__: Any, __metadata__: Any = None, __user__: Any = None
    ) -> Json:
        """Set up the filter of an answer; the request passes as it is."""
        try:
            one = EventFilter(self._editing(body, __user__))
            _filters(__request__)[_key(__metadata__)] = one
        except Exception:
            _log.exception("the filter could not be set up; the answer passes unfiltered")
        return body

    async def request(self, body: Json, __event_emitter__: Any = None) -> Json:
        """Put a notice behind a tool result where the model makes the same calls again and again."""
        messages = body.get("messages") or []
        try:
            loop = find_loop(messages) if self.valves.nudge else None
            notice = in_language_of(last_prompt(messages), NUDGE, NUDGE_ZH)
            changed = nudged(messages, notice) if loop else None
        except Exception:
            _log.exception("the tool calls could not be compared")
            return body
        if changed is None:
            return body
        await self._tell(__event_emitter__, "The model repeats a tool call, and was told so.")
        return {**body, "messages": changed}

    async def stream(
        self, event: Json, __request__: Any, __metadata__: Any = None, __event_emitter__: Any = None
    ) -> Json:
        """Return an event without repetition; an empty one, where nothing is left, is dropped."""
        one = _filters(__request__).get(_key(__metadata__))
        if one is None:
            return event
        was_cut = one.is_cut
        given = one.feed(event)
        if one.is_cut and not was_cut:
            text = in_language_of(one.editing.prompt, _CUT, _CUT_ZH)
            await self._tell(__event_emitter__, text)
        return given or {}

    async def outlet(
        self,
        body: Json,
        __request__: Any,
        __metadata__: Any = None,
        __user__: Any = None,
        __event_emitter__: Any = None,
    ) -> Json:
        """Filter an answer that was not streamed; add what was held of a stream without an end."""
        try:
            *earlier, message = copy.deepcopy(body["messages"])
            one = _filters(__request__).pop(_key(__metadata__), None)
            one = one or EventFilter(self._editing({"messages": earlier}, __user__))
            one.finish(message)
            report = one.summary()
        except Exception:
            _log.exception("the answer could not be filtered; it stays as it is")
            return body
        if report["removed_chars"]:
            message["repetition"] = report
            text = in_language_of(one.editing.prompt, _REMOVED, _REMOVED_ZH)
            text = text.format(report["removed_chars"])
            await self._tell(__event_emitter__, text, repetition=report)
        return {**body, "messages": [*earlier, message]}

    def _editing(self, body: Json, user: Json | None) -> Editing:
        chosen: Policy | Literal["default"] = "default"
        chosen = getattr((user or {}).get("valves"), "policy", chosen)
        return editing_of(body, self.valves.policy if chosen == "default" else chosen)

    async def _tell(self, emit: Any, text: str, **more: Any) -> None:
        """Show a status line above the answer; Open WebUI stores it with the message."""
        if emit is None or not self.valves.notice:
            return
        try:
            await emit({"type": "status", "data": {"description": text, "done": True, **more}})
        except Exception:
            _log.exception("the notice could not be shown")


def _filters(request: Any) -> dict[Any, EventFilter]:
    """Return a request's filters, by message: they end with it, and no two chats share one."""
    if not hasattr(request.state, "dedup_filters"):
        request.state.dedup_filters = {}
    filters: dict[Any, EventFilter] = request.state.dedup_filters
    return filters


def _key(metadata: Json | None) -> Any:
    return (metadata or {}).get("message_id")
