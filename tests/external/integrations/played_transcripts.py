"""The transcripts of benchmarks/agent_transcripts.jsonl, for a scripted model to play in an agent framework.

A transcript becomes users' messages and the agent's turns. A framework plays them one after the other: a user's message, turns with calls
and their results, a turn without calls. What does not follow that order (a user who writes behind results, a turn behind a turn without
calls) is the history that the framework begins with; so is a loop that the agent got out of.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dedup.answer.agent_loops import find_loop

FILE = Path(__file__).parents[3] / "benchmarks" / "agent_transcripts.jsonl"
DONE = "I have no more to say."
Json = dict[str, Any]


@dataclass
class Played:
    """A call, and the result that the tool will give."""

    id: str
    name: str
    arguments: str  # JSON, or a text
    result: str = ""
    is_error: bool = False


@dataclass
class Turn:
    """A turn of the agent."""

    text: str = ""
    calls: list[Played] = field(default_factory=list)


@dataclass
class Script:
    """A transcript to be played.

    Attributes:
        events: Texts of the user, and turns.
        start: Number of events that are there before the framework plays.
        expected: What `find_loop` says of the history that follows.
    """

    id: str
    is_loop: bool
    repeatable: list[str]
    events: list[str | Turn]
    start: int
    expected: bool

    @property
    def turns(self) -> list[Turn]:
        return [event for event in self.events if isinstance(event, Turn)]

    @property
    def calls(self) -> dict[str, Played]:
        return {call.id: call for turn in self.turns for call in turn.calls}

    @property
    def action(self) -> str | None:
        """Return what is to be done about a model that goes on with the loop; None if nothing.

        Turns without calls are measured only, and played only where somebody writes between them.
        """
        if not self.expected:
            return None
        if self.turns[-1].calls:
            return "stopped"
        return "measured" if isinstance(self.events[-2], str) else None

    @property
    def tools(self) -> list[str]:
        return sorted({call.name for turn in self.turns for call in turn.calls})

    def turn(self, number: int) -> Turn:
        """Return the agent's turn of a number; behind the last one, a text."""
        turns = self.turns
        return turns[number] if number < len(turns) else Turn(DONE)

    @property
    def inputs(self) -> list[list[str | Turn]]:
        """Return what each run begins with: the first one with all that is there, the others with a user's message."""
        head, rest = self.events[: self.start], self.events[self.start :]
        prompts = [event for event in rest if isinstance(event, str)]
        runs: list[list[str | Turn]] = [[one] for one in prompts]
        if rest and isinstance(rest[0], Turn):
            return [head, *runs]  # the framework begins with the model's turn
        return [[*head, *runs[0]], *runs[1:]] if runs else [head]


def scripts() -> list[Script]:
    """Return the transcripts. The loops end behind their fourth copy, with the model going on with them."""
    with FILE.open(encoding="utf-8") as file:
        return [_script(json.loads(line)) for line in file]


def _script(line: Json) -> Script:
    items = line["input" if line["api"] == "responses" else "messages"]
    is_loop = line["label"] == "loop"
    if is_loop:
        items = items[: line["fourth"]]
    repeatable = line.get("repeatable", [])
    events = _events(line["api"], items)
    before = len(_events(line["api"], items[: line.get("ended", 0)]))
    start = max(before, _seam(events))
    if is_loop:
        turns = [event for event in events if isinstance(event, Turn)]
        again = turns[-line["cycle"]]
        calls = [
            Played(f"again_{call.id}", call.name, call.arguments, call.result, call.is_error)
            for call in again.calls
        ]
        if not calls and isinstance(events[-2], str):
            events.append(events[-2])  # what a harness says to turns without calls
        events.append(Turn(again.text, calls))
    expected = is_loop and find_loop(items, repeatable=repeatable) is not None
    return Script(line["id"], is_loop, repeatable, events, start, expected)


def _seam(events: list[str | Turn]) -> int:
    """Return the number of events that no framework can play."""
    seam = 0
    for index in range(1, len(events)):
        before, event = events[index - 1], events[index]
        is_open = isinstance(before, str) or bool(before.calls)  # the model is to speak
        if is_open == isinstance(event, str):
            seam = index + 1 if isinstance(event, str) else index
    return seam


def _events(api: str, items: list[Json]) -> list[str | Turn]:
    events: list[str | Turn] = []
    calls: dict[str, Played] = {}
    has_results = True
    for item in items:
        role, kind = item.get("role"), item.get("type")
        content = item.get("content")
        if role == "system" or kind == "reasoning":
            continue
        if kind in ("function_call", "custom_tool_call"):
            if has_results or not events or not isinstance(events[-1], Turn):
                events.append(Turn())
            has_results = False
            arguments = item.get("arguments", item.get("input"))
            _call(events, calls, item["call_id"], item["name"], arguments)
        elif role == "tool" or str(kind).endswith("_call_output"):
            has_results = True
            output = content if role == "tool" else item["output"]
            calls[item.get("tool_call_id") or item["call_id"]].result = _result(output)
        elif role == "assistant":
            events.append(Turn(_text(content)))
            has_results = False
            for call in item.get("tool_calls", ()):
                function = call["function"]
                _call(events, calls, call["id"], function["name"], function["arguments"])
            for block in content if api == "messages" else ():
                if block["type"] == "tool_use":
                    arguments = json.dumps(block["input"], ensure_ascii=False)
                    _call(events, calls, block["id"], block["name"], arguments)
        elif role == "user":
            for block in content if isinstance(content, list) else ():
                if block["type"] == "tool_result":
                    call = calls[block["tool_use_id"]]
                    call.result = _result(block["content"])
                    call.is_error = block.get("is_error", False)
            if text := _text(content):
                events.append(text)
    return events


def _call(
    events: list[str | Turn], calls: dict[str, Played], call_id: str, name: str, arguments: str
) -> None:
    turn = events[-1]
    assert isinstance(turn, Turn)
    calls[call_id] = Played(call_id, name, arguments)
    turn.calls.append(calls[call_id])


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(block["text"] for block in content if "text" in block)
    return content or ""


def _result(content: Any) -> str:
    """Return a result as a text: what is none, an image, as JSON."""
    if isinstance(content, list):
        return "\n".join(block.get("text") or json.dumps(block) for block in content)
    return content or ""
