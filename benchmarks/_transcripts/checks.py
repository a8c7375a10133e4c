"""Check that a transcript is a legal request of its API and that its marks are right."""

import json
from collections.abc import Iterator
from typing import Any, Final

from .story import COPIES_THAT_COUNT, Item

CALLS: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
}
KEYS: Final = {"id", "api", "label", "kind", "source"}


def problems(line: Item) -> list[str]:
    """Return what is wrong with a line of a transcript file."""
    missing = KEYS - line.keys()
    if missing:
        return [f"no {key}" for key in sorted(missing)]
    check = {"chat": _chat, "messages": _messages, "responses": _responses}[line["api"]]
    items = line["input" if line["api"] == "responses" else "messages"]
    return [*check(items), *_marks(line, items)]


def turns(line: Item) -> list[tuple[int, int]]:
    """Return the assistant turns of a transcript as (start, end behind its results)."""
    items = line["input" if line["api"] == "responses" else "messages"]
    found: list[tuple[int, int]] = []
    for index, item in enumerate(items):
        role = _role(line["api"], item)
        if role == "assistant" and (index == 0 or not _continues(line["api"], items, index)):
            found.append((index, index + 1))
        elif found and found[-1][1] == index and (role == "result" or role == "assistant"):
            found[-1] = (found[-1][0], index + 1)
    return found


def _continues(api: str, items: list[Item], index: int) -> bool:
    """Return whether an assistant item belongs to the turn of the item before it."""
    if api != "responses":
        return False
    before = items[index - 1].get("type")
    if before == "message":
        text_then_call = items[index].get("type") in CALLS
        return items[index - 1]["role"] == "assistant" and text_then_call
    return before == "reasoning" or (before in CALLS and items[index].get("type") in CALLS)


def _role(api: str, item: Item) -> str:
    if api == "responses":
        kind = item["type"]
        if kind == "message":
            return str(item["role"])
        return "result" if kind.endswith("_output") else "assistant"
    if api == "messages" and item["role"] == "user":
        results = any(block["type"] == "tool_result" for block in item["content"])
        return "result" if results else "user"
    return "result" if item["role"] == "tool" else str(item["role"])


def _chat(items: list[Item]) -> Iterator[str]:
    waiting: list[str] = []
    for index, item in enumerate(items):
        role = item["role"]
        if role == "tool":
            if item["tool_call_id"] not in waiting:
                yield f"{index}: result of no call"
            else:
                waiting.remove(item["tool_call_id"])
            parts = item["content"]
            if isinstance(parts, list) and any(part["type"] != "text" for part in parts):
                yield f"{index}: a result that is no text"
            continue
        if waiting:
            yield f"{index}: {role} before the results of {len(waiting)} calls"
            waiting = []
        if role == "system" and index:
            yield f"{index}: system message inside the history"
        elif role not in ("system", "user", "assistant"):
            yield f"{index}: role {role}"
        calls = item.get("tool_calls", [])
        waiting = [call["id"] for call in calls]
        for call in calls:
            if not isinstance(json.loads(call["function"]["arguments"]), dict):
                yield f"{index}: arguments are no object"
        if role == "assistant" and not calls and not item["content"]:
            yield f"{index}: empty assistant message"
    if waiting:
        yield "ends before the results"


def _messages(items: list[Item]) -> Iterator[str]:
    waiting: list[str] = []
    previous = ""
    for index, item in enumerate(items):
        role, blocks = item["role"], item["content"]
        if role not in ("user", "assistant"):
            yield f"{index}: role {role}"
        if index == 0 and role != "user":
            yield "begins with no user message"
        if role == previous == "user":
            yield f"{index}: two user messages in a row"
        previous = role
        if not blocks:
            yield f"{index}: no content"
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(waiting):
            yield f"{index}: {len(waiting)} calls, {len(results)} results"
        kinds = [block["type"] for block in blocks]
        if "tool_result" in kinds and kinds[: len(results)] != ["tool_result"] * len(results):
            yield f"{index}: text before results"
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for block in blocks:
            if block["type"] == "text" and not block["text"]:
                yield f"{index}: empty text"
            if block["type"] == "tool_use" and not isinstance(block["input"], dict):
                yield f"{index}: input is no object"
    if waiting:
        yield "ends before the results"


def _responses(items: list[Item]) -> Iterator[str]:
    waiting: dict[str, str] = {}
    answering = False
    for index, item in enumerate(items):
        kind = item["type"]
        if kind in CALLS:
            if answering and waiting:
                yield f"{index}: call before the results of the last calls"
            answering = False
            waiting[item["call_id"]] = CALLS[kind]
            if kind == "function_call" and not isinstance(json.loads(item["arguments"]), dict):
                yield f"{index}: arguments are no object"
            continue
        if kind.endswith("_output"):
            answering = True
            if waiting.pop(item["call_id"], None) != kind:
                yield f"{index}: result of no call"
            continue
        if waiting:
            yield f"{index}: {kind} before the results of {len(waiting)} calls"
            waiting = {}
        if kind == "message":
            part = "output_text" if item["role"] == "assistant" else "input_text"
            if any(block["type"] != part for block in item["content"]):
                yield f"{index}: content of the other side"
        elif kind != "reasoning":
            yield f"{index}: item {kind}"
    if waiting:
        yield "ends before the results"


def _marks(line: Item, items: list[Item]) -> Iterator[str]:
    if line["label"] not in ("loop", "legitimate"):
        yield f"label {line['label']}"
    marks = [line.get(key) for key in ("cycle", "from", "fourth")]
    if line["label"] == "legitimate":
        if any(mark is not None for mark in marks):
            yield "marks of a loop"
        return
    if any(not isinstance(mark, int) for mark in marks):
        yield "a mark is missing"
        return
    spans = turns(line)
    start, fourth, cycle = line["from"], line["fourth"], line["cycle"]
    inside = [span for span in spans if start <= span[0] and span[1] <= fourth]
    if start not in {span[0] for span in spans}:
        yield "`from` is not where a turn begins"
    if fourth not in {span[1] for span in spans}:
        yield "`fourth` is not behind a turn"
    if len(inside) != COPIES_THAT_COUNT * cycle:
        yield f"{len(inside)} turns up to `fourth`, not {COPIES_THAT_COUNT} x {cycle}"
    if fourth > len(items):
        yield "`fourth` lies behind the end"
    if line["kind"].startswith(("exact", "cycle", "batch")):
        yield from _same(items, inside, cycle)


def _same(items: list[Any], inside: list[tuple[int, int]], cycle: int) -> Iterator[str]:
    for number, (start, end) in enumerate(inside[cycle:]):
        first, last = inside[number]
        if _bare(items[start:end]) != _bare(items[first:last]):
            yield f"turn at {start} differs from the one a copy before"


def _bare(items: list[Item]) -> list[str]:
    """Return calls and results without ids, texts, thoughts and their order."""
    return sorted(json.dumps(part, sort_keys=True) for part in _parts(items))


def _parts(items: list[Item]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if "tool_calls" in item:
            calls = [call["function"] for call in item["tool_calls"]]
            found += [(call["name"], json.loads(call["arguments"])) for call in calls]
        elif item.get("role") == "tool":
            found.append(item["content"])
        elif isinstance(item.get("content"), list) and "type" not in item:
            found += [
                (block.get("name"), block.get("input"), block.get("content"))
                for block in item["content"]
                if block["type"].startswith("tool_")
            ]
        elif item.get("type", "").startswith(("function_call", "custom_tool_call")):
            arguments = json.loads(item.get("arguments", "null"))
            found.append([item.get("name"), item.get("input"), item.get("output"), arguments])
    return found
