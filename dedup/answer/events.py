"""Parsed events of OpenAI's APIs: for hosts that hand over chunks as dicts and keep the connection.

Chunks of chat, events of the Responses API, and whole answers of both.
"""

import copy
import logging
import re
from collections.abc import Container, Iterator
from typing import Any, Final, NamedTuple

from dedup.answer import report
from dedup.answer.answer import Answer
from dedup.answer.channel import Channel, Editing
from dedup.answer.frame import ChannelName, Delta, Finish, Frame

Json = dict[str, Any]

_log: Final = logging.getLogger("dedup.answer")
_SLOTS: Final[dict[str, ChannelName]] = {  # of a chat delta; reasoning comes first
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
    "content": "content",
    "refusal": "content",
}
# By the name in the events' types: the channel, the list or field of the item that the text is in,
# and the field that holds all of it.
_TEXTS: Final[dict[str, tuple[ChannelName, str, str]]] = {
    "output_text": ("content", "content", "text"),
    "refusal": ("content", "content", "refusal"),
    "reasoning_text": ("reasoning", "content", "text"),
    "reasoning_summary_text": ("reasoning", "summary", "text"),
    "function_call_arguments": ("tool_arguments", "arguments", "arguments"),
    "mcp_call_arguments": ("tool_arguments", "arguments", "arguments"),
    "custom_tool_call_input": ("tool_arguments", "input", "input"),
}
_ITEMS: Final = {"content": "message", "reasoning": "reasoning"}  # of an output, by channel
_OPENING: Final = re.compile(r"\s*<(think|thinking|reason|reasoning|thought)>")
_MAX_TAG_CHARS: Final = 12
_IN_TAGS: Final = ":thoughts"  # behind the name of a field, in that of a part
_ENDINGS: Final = ("completed", "incomplete", "failed", "cancelled")


class _Place(NamedTuple):
    """A text of an event: the delta to filter, and the field that holds it."""

    delta: Delta
    holder: Json
    slot: str


class EventFilter:
    """Filter of the events of one message, which may have several answers: a tool loop's rounds.

    For hosts that cannot stop the model. The rest of a text that loops is dropped; another text
    (the answer behind reasoning that looped, a tool call, the next round) passes.

    Args:
        editing: How the texts are filtered.

    Attributes:
        editing: How the texts are filtered.
        has_failed: The filter raised: events pass unfiltered from there on.
    """

    def __init__(self, editing: Editing) -> None:
        self.editing = editing
        self._answers: dict[int, Answer] = {}  # by choice
        self._given: dict[tuple[int, str], list[str]] = {}  # by choice and part
        self._ended: set[int] = set()
        self._thoughts: dict[int, _Thoughts] = {}  # by choice
        self._past: list[Channel] = []  # of answers that are over
        self.has_failed = False

    @property
    def channels(self) -> list[Channel]:
        """Return every text so far."""
        running = [channel for one in self._answers.values() for channel in one.channels]
        return [*self._past, *running]

    @property
    def is_cut(self) -> bool:
        """Return whether a text has ended at a loop."""
        return any(channel.is_cut for channel in self.channels)

    def feed(self, event: Json) -> Json | None:
        """Return the event that the reader gets; None if nothing is left of it.

        `event` itself is not changed.
        """
        if self.has_failed:
            return event
        edited = copy.deepcopy(event)
        try:
            places, finishes = _read(edited, self._given)
            if not places and not finishes:
                return event
            if "choices" in event:
                places = self._with_thoughts(places)
                for place in places:
                    place.holder[place.slot] = ""
            for place in places:  # one by one: what one text held stands before the next
                self._filter(place, edited)
            for index, reason in finishes.items():
                self._end(index, reason, edited)
        except Exception:
            _log.exception("the filter failed; the events pass unfiltered")
            self.has_failed = True
            edited = copy.deepcopy(event)
            for delta in self.release():
                _put(edited, delta, ahead=True)
            return edited
        return None if _is_empty(edited, places) else edited

    def release(self) -> list[Delta]:
        """End the message; return the text that was held."""
        return [delta for answer in self._answers.values() for delta in answer.release()]

    def given(self, delta: Delta) -> str:
        """Return what the reader got of the text that a delta is of, in the last round."""
        return "".join(self._given.get((delta.choice, delta.part), ()))

    def finish(self, message: Json) -> None:
        """End the message, and repair what the host has of it, in place.

        What was held is appended. A message of which no event came is filtered.

        Args:
            message: `output` holds items of a Responses answer; `content` says the same in one
                string. Each may be missing.
        """
        if not self.channels:
            self._filter_whole(message)
        for delta in self.release():
            before = self.given(delta)
            held = before[len(before.rstrip()) :] + delta.text  # the host strips what it has
            kind = _ITEMS.get(delta.channel)
            items = [one for one in _dicts(message.get("output")) if one.get("type") == kind]
            parts = _dicts(items[-1].get("content")) if items else []
            if parts:
                parts[-1]["text"] = parts[-1].get("text", "").rstrip() + held
            if delta.channel == "content" and (message.get("content") or not parts):
                message["content"] = (message.get("content") or "").rstrip() + held

    def _filter_whole(self, message: Json) -> None:
        content = message.get("content") or ""
        items = _dicts(message.get("output"))
        items = [item for item in items if item.get("type") in _ITEMS.values()]
        items = items or [{"type": "message", "content": [{"text": content}]}]
        given = self.feed({"type": "response.completed", "response": {"output": items}}) or {}
        for item, new in zip(items, given["response"]["output"], strict=True):
            for old, part in zip(
                _dicts(item.get("content")), _dicts(new.get("content")), strict=True
            ):
                content = content.replace(old.get("text", ""), part.get("text", ""))
            item.update(new)
        message["content"] = content

    def summary(self) -> Json:
        """Return the `repetition` object of the message."""
        return report.summary(self.editing.policy, self.channels)

    def _with_thoughts(self, places: list[_Place]) -> list[_Place]:
        """Return the texts of a chunk, with thoughts that stand in tags split from content."""
        split: list[_Place] = []
        for place in places:
            delta, holder, slot = place
            if slot != "content":
                split.append(place)
                continue
            if delta.choice in self._ended:
                self._thoughts.pop(delta.choice, None)
            thoughts = self._thoughts.setdefault(delta.choice, _Thoughts())
            thought, content = thoughts.split(delta.text)
            if thought:
                part = f"content{_IN_TAGS}"
                ends = thoughts.is_over
                one = Delta(delta.choice, "reasoning", part, thought, ends=ends)
                split.append(_Place(one, holder, slot))
            if content:
                split.append(
                    _Place(Delta(delta.choice, delta.channel, slot, content), holder, slot)
                )
        return split

    def _filter(self, place: _Place, event: Json) -> None:
        """Filter one text, and write what the reader gets in its place."""
        delta, holder, slot = place
        answer = self._answer(delta)
        decision = answer.feed(Frame([delta]))
        text = "" if decision.dropped else delta.given
        given = [*decision.before, Delta(delta.choice, delta.channel, delta.part, text)]
        given += [one for one in decision.after if isinstance(one, Delta)]
        self._give(given, event)
        if "choices" in event:
            is_cut = decision.dropped or any(channel.is_cut for channel in answer.channels)
            if is_cut and delta.ends:  # thoughts: the host has to see where they end
                _put(
                    event,
                    Delta(delta.choice, "content", "content", self._thoughts[delta.choice].tag),
                )
        elif delta.ends:
            holder[slot] = self.given(delta)
        else:
            holder[slot] = "".join([one.text for one in given if one.part == delta.part])

    def _end(self, index: int, reason: str, event: Json) -> None:
        """End the answer of a choice; what it held comes with the event."""
        self._ended.add(index)
        answer = self._answers.get(index)
        if answer is None:
            return
        self._give(answer.feed(Frame([], [Finish(index, reason)])).before, event)
        choice = answer.choices[index]
        if "choices" in event and choice.is_cut and choice.is_unusable(reason):
            _choice(event, index)["finish_reason"] = "length"

    def _give(self, given: list[Delta], event: Json) -> None:
        for delta in given:
            self._given.setdefault((delta.choice, delta.part), []).append(delta.text)
            if delta.text:
                _put(event, delta)

    def _answer(self, delta: Delta) -> Answer:
        """Return the answer that a choice goes on with.

        Behind the end of one, and for another text than the one that was cut, it is a new one.
        """
        index = delta.choice
        answer = self._answers.get(index)
        if answer is not None and delta.text:
            choice = answer.choices.get(index)
            cut = {part for part, one in choice.parts.items() if one.is_cut} if choice else set()
            if index in self._ended or (cut and delta.part not in cut):
                self._past += answer.channels
                if index in self._ended:
                    self._ended.discard(index)
                    self._given.clear()
                answer = None
        if answer is None:
            answer = self._answers[index] = Answer(self.editing)
        return answer


class _Thoughts:
    """Finds the thoughts that models put in tags at the beginning of their content.

    Attributes:
        tag: The tag that ends them; empty before they have begun.
        is_over: Content follows, or there were no thoughts.
    """

    def __init__(self) -> None:
        self.tag = ""
        self.is_over = False
        self._read = ""  # what may be part of a tag

    def split(self, text: str) -> tuple[str, str]:
        """Return the thoughts in a piece of content, and the content behind them."""
        if self.is_over:
            return "", text
        read, self._read = self._read, self._read + text
        if not self.tag:
            found = _OPENING.match(self._read)
            if found is None:
                beginning = self._read.lstrip()
                self.is_over = beginning[:1] not in ("", "<") or len(beginning) > _MAX_TAG_CHARS
                return "", text
            self.tag = f"</{found[1]}>"
        at = self._read.find(self.tag)
        if at < 0:
            self._read = self._read[-len(self.tag) :]
            return text, ""
        self.is_over = True
        end = at + len(self.tag) - len(read)
        return text[:end], text[end:]


def _read(event: Json, known: Container[tuple[int, str]]) -> tuple[list[_Place], dict[int, str]]:
    """Return the texts of an event, and the finish reasons of choices that end with it.

    Args:
        event: The event.
        known: Parts of which something came before: where all of one stands, it is no new text.
    """
    if "choices" in event:
        reasons: dict[int, str] = {}
        for choice in _dicts(event["choices"]):
            if isinstance(choice.get("finish_reason"), str):
                reasons[_index(choice, "index")] = choice["finish_reason"]
        return list(_in_chunk(event)), reasons
    kind = event.get("type")
    if not isinstance(kind, str) or not kind.startswith("response."):
        return [], {}
    name, _, end = kind.removeprefix("response.").rpartition(".")
    if end == "delta":
        return list(_in_delta(event, name)), {}
    places: list[_Place] = []
    for part, channel, holder, slot in _in_done(event, name, end):
        text = "" if (0, part) in known else holder.get(slot)
        if (0, part) in known or text:
            new = text if isinstance(text, str) else ""
            places.append(_Place(Delta(0, channel, part, new, ends=True), holder, slot))
    return places, {0: end} if end in _ENDINGS and not name else {}


def _in_chunk(event: Json) -> Iterator[_Place]:
    """Yield the texts of a chunk of chat, or of a whole completion."""
    for choice in _dicts(event["choices"]):
        index = _index(choice, "index")
        body = choice.get("delta") or choice.get("message")
        if not isinstance(body, dict):
            continue
        for slot, channel in _SLOTS.items():
            if isinstance(body.get(slot), str) and body[slot]:
                yield _Place(Delta(index, channel, slot, body[slot]), body, slot)
        for call in _dicts(body.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict) and isinstance(function.get("arguments"), str):
                part = f"tool_calls.{_index(call, 'index')}"
                delta = Delta(index, "tool_arguments", part, function["arguments"])
                yield _Place(delta, function, "arguments")


def _in_delta(event: Json, name: str) -> Iterator[_Place]:
    """Yield the text of a delta of the Responses API."""
    if name in _TEXTS and isinstance(event.get("delta"), str):
        channel, field, _ = _TEXTS[name]
        part = f"{_index(event, 'output_index')}/{field}/{_index(event, f'{field}_index')}"
        yield _Place(Delta(0, channel, part, event["delta"]), event, "delta")


def _in_done(event: Json, name: str, end: str) -> Iterator[tuple[str, ChannelName, Json, str]]:
    """Yield where an event of the Responses API holds all of a text: part, channel, place."""
    item = _index(event, "output_index")
    response = event.get("response")
    if end in _ENDINGS and isinstance(response, dict):
        for index, one in enumerate(_dicts(response.get("output"))):
            yield from _in_item(index, one)
    elif end == "done" and isinstance(event.get("item"), dict):
        yield from _in_item(item, event["item"])
    elif end == "done" and isinstance(event.get("part"), dict):
        field = "summary" if "summary_index" in event else "content"
        is_text = name == "content_part"
        for slot in ("text", "refusal"):
            if isinstance(event["part"].get(slot), str):
                part = f"{item}/{field}/{_index(event, f'{field}_index')}"
                yield part, "content" if is_text else "reasoning", event["part"], slot
    elif end == "done" and name in _TEXTS:
        channel, field, slot = _TEXTS[name]
        yield f"{item}/{field}/{_index(event, f'{field}_index')}", channel, event, slot


def _in_item(item: int, holder: Json) -> Iterator[tuple[str, ChannelName, Json, str]]:
    channel: ChannelName = "reasoning" if holder.get("type") == "reasoning" else "content"
    for field in ("summary", "content"):
        for index, part in enumerate(_dicts(holder.get(field))):
            for slot in ("text", "refusal"):
                if isinstance(part.get(slot), str):
                    yield f"{item}/{field}/{index}", channel, part, slot
    for field in ("arguments", "input"):
        if isinstance(holder.get(field), str):
            yield f"{item}/{field}/0", "tool_arguments", holder, field


def _put(event: Json, delta: Delta, *, ahead: bool = False) -> None:
    """Add a text to a chunk of chat; where there is none, nothing is added."""
    if "choices" not in event:
        return
    choice = _choice(event, delta.choice)
    body = choice.get("message") or choice.get("delta")
    if not isinstance(body, dict):
        body = choice["delta"] = {}
    holder, slot = body, delta.part.removesuffix(_IN_TAGS)
    if delta.channel == "tool_arguments":
        number = int(delta.part.rpartition(".")[2])
        calls = body["tool_calls"] = body.get("tool_calls") or []
        call = next((one for one in _dicts(calls) if _index(one, "index") == number), None)
        if call is None:
            call = {"index": number, "function": {}}
            calls.append(call)
        holder, slot = call["function"], "arguments"
    there = holder.get(slot) or ""
    holder[slot] = delta.text + there if ahead else there + delta.text


def _choice(event: Json, index: int) -> Json:
    for choice in _dicts(event["choices"]):
        if _index(choice, "index") == index:
            return choice
    choice = {"index": index, "delta": {}}
    event["choices"].append(choice)
    return choice


def _is_empty(event: Json, places: list[_Place]) -> bool:
    """Return whether nothing is left of an event that had nothing but text."""
    if "choices" not in event:
        texts = [place.delta.ends or place.holder[place.slot] for place in places]
        return bool(texts) and not any(texts)
    if event.get("usage"):
        return False
    for choice in _dicts(event["choices"]):
        body = choice.get("delta") or choice.get("message") or {}
        if choice.get("finish_reason") or any(body[key] for key in body if key != "role"):
            return False
    return True


def _dicts(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _index(holder: Json, name: str) -> int:
    index = holder.get(name)
    return index if type(index) is int else 0
