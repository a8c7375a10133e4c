"""CPU that looking for an agent's loop costs a request.

    python benchmarks/agent_cost.py

Histories of 400 messages and 200 KB, in the form of each API: `explores`, other calls with other results; `repeats`, the same
call with the same result; `volatile`, results with another time, id and duration each; `fails`, other arguments and the same
error; `searches`, reworded queries with the same results. *First*: the history has never been seen. *Again*: all but the last two
messages were seen with the request before. The peer is the decoding of the request's JSON (msgspec), in the same run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import msgspec

from dedup.answer.agent_loops import LoopFinder

Json = dict[str, Any]

MESSAGES = 400
CHARS = 200_000
APIS = ("chat", "messages", "responses")
PROSE = "The quick brown fox jumps over the lazy dog, and nobody minds. "
WORDS = "find the cheapest train from Delft to Leiden with one change in the morning".split()


def step(kind: str, number: int, size: int) -> tuple[str, Json, str]:
    """Return the tool, the arguments and the result of a step."""
    body = (PROSE * (size // len(PROSE) + 1))[:size]
    if kind == "explores":
        return "read_file", {"path": f"src/module_{number}.py"}, f"# module {number}\n{body}"
    if kind == "repeats":
        return "get_order", {"id": 7, "fields": ["state", "sum"]}, body
    if kind == "volatile":
        head = f"[2026-11-28T10:{number % 60:02d}:{number % 59:02d}Z] req_{number * 7919:08x}a1 "
        return "get_order", {"id": 7}, f"{head}{body} took {number * 13 + 5} ms"
    if kind == "fails":
        return "query", {"sql": f"select c{number} from t"}, f"Error: permission denied. {body}"
    turned = WORDS[number % len(WORDS) :] + WORDS[: number % len(WORDS)]
    return "search", {"query": " ".join(turned)}, body


def history(api: str, kind: str) -> list[Json]:
    """Return a history of `MESSAGES` messages and about `CHARS` characters."""
    num_steps = (MESSAGES - 2) // 2
    size = CHARS // num_steps - 240
    messages: list[Json] = [
        {"role": "user", "content": "Do it."},
        {"role": "system", "content": "You are an agent."},
    ]
    for number in range(num_steps):
        name, arguments, result = step(kind, number, size)
        key, text = f"call_{number:08d}", json.dumps(arguments)
        if api == "chat":
            function = {"name": name, "arguments": text}
            call = {"id": key, "type": "function", "function": function}
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": key, "content": result})
        elif api == "messages":
            use = {"type": "tool_use", "id": key, "name": name, "input": arguments}
            given = {"type": "tool_result", "tool_use_id": key, "content": result}
            messages.append({"role": "assistant", "content": [use]})
            messages.append({"role": "user", "content": [given]})
        else:
            call = {"type": "function_call", "call_id": key, "name": name, "arguments": text}
            messages += [call, {"type": "function_call_output", "call_id": key, "output": result}]
    return messages


def cpu_ms(run: Callable[[], object]) -> float:
    began = time.process_time_ns()
    run()
    return (time.process_time_ns() - began) / 1e6


def measure(body: bytes, rounds: int) -> tuple[float, float, float, bool]:
    """Return the medians of: decoding, the first look, a look at a history that has grown; and whether there is a loop."""
    decoding: list[float] = []
    first: list[float] = []
    again: list[float] = []
    is_loop = False
    for _ in range(rounds):
        messages = msgspec.json.decode(body)
        decoding.append(cpu_ms(lambda: msgspec.json.decode(body)))
        finder = LoopFinder()
        first.append(cpu_ms(lambda finder=finder, messages=messages: finder.find(messages)))
        finder = LoopFinder()
        finder.find(messages[:-2])
        grown = msgspec.json.decode(body)
        again.append(cpu_ms(lambda finder=finder, grown=grown: finder.find(grown)))
        is_loop = finder.find(grown) is not None
    return statistics.median(decoding), statistics.median(first), statistics.median(again), is_loop


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=41)
    rounds = parser.parse_args().rounds
    print("| history | API | loop | KB | decoding, ms | first, ms | again, ms | first / decoding |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind in ("explores", "repeats", "volatile", "fails", "searches"):
        for api in APIS:
            body = json.dumps(history(api, kind)).encode()
            decoding, first, again, is_loop = measure(body, rounds)
            row = [
                kind,
                api,
                "yes" if is_loop else "no",
                f"{len(body) / 1000:.0f}",
                f"{decoding:.2f}",
            ]
            row += [f"{first:.2f}", f"{again:.2f}", f"{first / decoding:.1f}x"]
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
