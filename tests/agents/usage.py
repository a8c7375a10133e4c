"""Checks that the three APIs of the scripted upstream share."""

import json
from typing import Any

from tests.agents.models import PARAMETERS, Call

INPUT_TOKENS = 100
OUTPUT_TOKENS = 20
CHAT_USAGE: dict[str, Any] = {
    "prompt_tokens": INPUT_TOKENS,
    "completion_tokens": OUTPUT_TOKENS,
    "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
}
PIECE_CHARS = 7
INTEGERS = {"line"}


def pieces(text: str) -> list[str]:
    return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]


def input_of(call: Call) -> dict[str, str | int]:
    name, argument = call
    return {PARAMETERS[name]: argument}


def arguments_of(call: Call) -> str:
    return json.dumps(input_of(call))
