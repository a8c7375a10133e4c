"""Does `find_loop` find the loops of agents, and does it leave work alone? Beside the rules of six agent harnesses.

    python benchmarks/agent_loops.py                       # agent_transcripts.jsonl; under a minute
    python benchmarks/agent_loops.py --misses --files more.jsonl
    python benchmarks/agent_loops.py --kinds               # a table a kind

Recall: loops found in the request that follows the fourth copy, and in the whole transcript. False: legitimate transcripts with
a verdict at some point at which the model would have been asked. Harnesses see a history as `_harnesses.py` says.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from _harnesses import HARNESSES, Called, Rule, Step
from _transcripts.checks import turns
from agent_transcripts import FILE, read

OURS: Final = "dedup"
Verdict = Callable[[dict[str, Any], int], bool]


@dataclass(frozen=True)
class Outcome:
    """Verdicts on one transcript.

    Args:
        line: The transcript.
        fourth: Found by the fourth copy.
        end: Found by the end.
        at: Message before which the first verdict of a legitimate transcript fell.
        early: A verdict fell before the loop had begun.
    """

    line: dict[str, Any]
    fourth: bool = False
    end: bool = False
    at: int | None = None
    early: bool = False

    @property
    def loop(self) -> bool:
        return bool(self.line["label"] == "loop")


def history(line: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages or input items of a transcript."""
    items: list[dict[str, Any]] = line["input" if line["api"] == "responses" else "messages"]
    return items


def points(line: dict[str, Any]) -> list[int]:
    """Return the lengths of history at which the model was asked, and the whole length."""
    asked = {start for start, _ in turns(line)} | {len(history(line))}
    return sorted(length for length in asked if length > line.get("ended", 0))


def judged(line: dict[str, Any], verdict: Verdict) -> Outcome:
    """Judge one transcript."""
    if line["label"] == "loop":
        early = any(verdict(line, end) for end in points(line) if end <= line["from"])
        asked = min(end for end in points(line) if end >= line["fourth"])
        end = verdict(line, len(history(line)))
        return Outcome(line, fourth=verdict(line, asked), end=end, early=early)
    return Outcome(line, at=next((end for end in points(line) if verdict(line, end)), None))


def by_rule(rule: Rule) -> Verdict:
    """Return the verdict of a harness."""
    return lambda line, end: rule(steps(line, end))


def by_find_loop() -> Verdict:
    """Return the verdict of this library."""
    from dedup.answer.agent_loops import find_loop

    def verdict(line: dict[str, Any], end: int) -> bool:
        repeatable = line.get("repeatable", ())
        return find_loop(history(line)[:end], repeatable=repeatable) is not None

    return verdict


def steps(line: dict[str, Any], end: int) -> list[Step]:
    """Return the first messages of a transcript in the form that the harnesses judge.

    A harness acts on a loop while it runs: of one that has ended, it sees what came behind it.
    """
    items = history(line)[:end]
    spans = turns(line)
    inside = {index: span for span in spans for index in range(*span)}
    found: list[Step] = []
    for index, item in enumerate(items):
        if index < line.get("ended", 0):
            continue
        if index in inside:
            start, stop = inside[index]
            if start == index:
                found.append(_step(line["api"], items[start:stop]))
        elif item["role"] == "user":
            found.append(Step(text=_text(item["content"]), user=True))
    return found


def _step(api: str, items: Sequence[dict[str, Any]]) -> Step:
    reader = {"chat": _chat_step, "messages": _messages_step, "responses": _responses_step}[api]
    return reader(items)


def _chat_step(items: Sequence[dict[str, Any]]) -> Step:
    results = {item["tool_call_id"]: _text(item["content"]) for item in items[1:]}
    calls = []
    for call in items[0].get("tool_calls", []):
        function = call["function"]
        result = results.get(call["id"], "")
        calls.append(Called(function["name"], json.loads(function["arguments"]), result))
    return Step(_text(items[0]["content"]), tuple(calls))


def _messages_step(items: Sequence[dict[str, Any]]) -> Step:
    results = {
        block["tool_use_id"]: block
        for item in items[1:]
        for block in item["content"]
        if block["type"] == "tool_result"
    }
    calls = []
    for block in items[0]["content"]:
        if block["type"] == "tool_use":
            result = results.get(block["id"], {"content": ""})
            text = _text(result["content"])
            error = result.get("is_error", False)
            calls.append(Called(block["name"], block["input"], text, error))
    return Step(_text(items[0]["content"]), tuple(calls))


def _responses_step(items: Sequence[dict[str, Any]]) -> Step:
    results = {item["call_id"]: item["output"] for item in items if "output" in item}
    text = "".join(_text(item["content"]) for item in items if item["type"] == "message")
    calls = []
    for item in items:
        if item["type"] == "function_call":
            arguments = json.loads(item["arguments"])
        elif item["type"] == "custom_tool_call":
            arguments = item["input"]
        else:
            continue
        calls.append(Called(item["name"], arguments, results.get(item["call_id"], "")))
    return Step(text, tuple(calls))


def _text(content: Any) -> str:
    if not isinstance(content, list):
        return content or ""
    return "".join(block["text"] for block in content if "text" in block)


def row(name: str, outcomes: Sequence[Outcome]) -> str:
    """Return a row of the table."""
    loops = [outcome for outcome in outcomes if outcome.loop]
    work = [outcome for outcome in outcomes if not outcome.loop]
    cells = [
        share([outcome.fourth for outcome in loops]),
        share([outcome.end for outcome in loops]),
        share([outcome.at is not None for outcome in work]),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def share(found: Sequence[bool]) -> str:
    """Return how many are true, of how many."""
    return f"{sum(found)}/{len(found)}" if found else "-"


def by_kind(table: dict[str, list[Outcome]]) -> str:
    """Return one table: of each kind, loops found by the fourth copy or false verdicts."""
    names = list(table)
    lines = [f"| kind | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    for label in ("loop", "legitimate"):
        some = [outcome.line for outcome in table[names[0]] if outcome.line["label"] == label]
        for kind in sorted({line["kind"] for line in some}):
            cells = []
            for name in names:
                mine = [
                    o for o in table[name] if (o.line["label"], o.line["kind"]) == (label, kind)
                ]
                cells.append(share([o.fourth if o.loop else o.at is not None for o in mine]))
            lines.append(f"| {label}: {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def misses(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Return what a rule got wrong."""
    lines = []
    for outcome in outcomes:
        what = []
        if outcome.loop and not outcome.fourth:
            what.append("found late" if outcome.end else "not found")
        if outcome.early:
            what.append("verdict before the loop")
        if outcome.at is not None:
            what.append(f"false verdict before message {outcome.at}")
        if what:
            lines.append(
                f"{name}: {outcome.line['id']} ({outcome.line['kind']}): {', '.join(what)}"
            )
    return lines


def verdicts() -> dict[str, Verdict]:
    """Return our detector, if it is there, and the harnesses."""
    found: dict[str, Verdict] = {}
    try:
        found[OURS] = by_find_loop()
    except ImportError as error:
        print(f"{OURS}: {error}")
    return found | {name: by_rule(rule) for name, rule in HARNESSES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--files", type=Path, nargs="+", default=[FILE])
    parser.add_argument("--misses", action="store_true", help="list what each rule got wrong")
    parser.add_argument("--kinds", action="store_true", help="print a table of kinds")
    parser.add_argument("--only", help="judge with this rule alone")
    args = parser.parse_args()
    lines = read(args.files)
    table = {
        name: [judged(line, verdict) for line in lines]
        for name, verdict in verdicts().items()
        if args.only in (None, name)
    }
    print("| rule | recall, 4 copies | recall, end | false verdicts |\n| --- | --- | --- | --- |")
    for name, outcomes in table.items():
        print(row(name, outcomes))
    if args.kinds:
        print("\n" + by_kind(table))
    if args.misses:
        print()
        for name, outcomes in table.items():
            print("\n".join(misses(name, outcomes)))


if __name__ == "__main__":
    main()
