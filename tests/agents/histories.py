"""Requests of an agent that has made a model's rounds of calls some times, for each API."""

from collections.abc import Callable
from typing import Any

from tests.agents.models import MODELS, PARAMETERS, QUESTION, Call, Tools
from tests.agents.strict import Json
from tests.agents.upstream import Api
from tests.agents.usage import INTEGERS, arguments_of, input_of

MAX_TOKENS = 2048


def request(api: Api, model: str, num_rounds: int, **fields: Any) -> Json:
    """Return the body of a request whose history holds this many rounds."""
    every = MODELS[model].rounds
    tools = Tools()
    rounds = []
    for number in range(num_rounds):
        calls = every[number % len(every)]
        rounds.append([(call, tools.run(call[0], input_of(call))) for call in calls])
    build: dict[Api, Callable[[list[Round]], Json]] = {
        "chat": _chat,
        "responses": _responses,
        "messages": _messages,
    }
    return {"model": model, **build[api](rounds), **fields}


Round = list[tuple[Call, str]]  # calls with their results


def _ids(rounds: list[Round]) -> list[list[tuple[str, Call, str]]]:
    return [
        [(f"call_h{number}_{at}", call, result) for at, (call, result) in enumerate(one)]
        for number, one in enumerate(rounds)
    ]


def schema_of(parameter: str) -> Json:
    kind = "integer" if parameter in INTEGERS else "string"
    return {
        "type": "object",
        "properties": {parameter: {"type": kind}},
        "required": [parameter],
        "additionalProperties": False,
    }


def _chat(rounds: list[Round]) -> Json:
    messages: list[Json] = [{"role": "user", "content": QUESTION}]
    for one in _ids(rounds):
        calls = [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": call[0], "arguments": arguments_of(call)},
            }
            for call_id, call, _ in one
        ]
        messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        messages += [
            {"role": "tool", "tool_call_id": call_id, "content": result}
            for call_id, _, result in one
        ]
    tools = [
        {"type": "function", "function": {"name": name, "parameters": schema_of(parameter)}}
        for name, parameter in PARAMETERS.items()
    ]
    return {"messages": messages, "tools": tools}


def _responses(rounds: list[Round]) -> Json:
    items: list[Json] = [{"type": "message", "role": "user", "content": QUESTION}]
    for one in _ids(rounds):
        items += [
            {
                "type": "function_call",
                "call_id": call_id,
                "name": call[0],
                "arguments": arguments_of(call),
            }
            for call_id, call, _ in one
        ]
        items += [
            {"type": "function_call_output", "call_id": call_id, "output": result}
            for call_id, _, result in one
        ]
    tools = [
        {"type": "function", "name": name, "parameters": schema_of(parameter), "strict": True}
        for name, parameter in PARAMETERS.items()
    ]
    return {"input": items, "tools": tools}


def _messages(rounds: list[Round]) -> Json:
    messages: list[Json] = [{"role": "user", "content": QUESTION}]
    for one in _ids(rounds):
        calls = [
            {"type": "tool_use", "id": call_id, "name": call[0], "input": input_of(call)}
            for call_id, call, _ in one
        ]
        results = [
            {"type": "tool_result", "tool_use_id": call_id, "content": result}
            for call_id, _, result in one
        ]
        messages += [{"role": "assistant", "content": calls}, {"role": "user", "content": results}]
    tools = [
        {"name": name, "input_schema": schema_of(parameter)}
        for name, parameter in PARAMETERS.items()
    ]
    return {"messages": messages, "tools": tools, "max_tokens": MAX_TOKENS}
