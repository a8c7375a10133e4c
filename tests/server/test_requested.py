"""A response says what its prompt allowed to repeat: at every endpoint, streamed and whole."""

import json
import urllib.request
from typing import Any

import pytest

from tests.server.test_whole_answers import ASKS, PATHS

ASKED = "Write 'round and round in circles' 20 times."
REQUESTED = {"reason": "copies", "copies": 24}


def body_of(api: str, prompt: str, **more: Any) -> dict[str, Any]:
    asks = json.loads(json.dumps(ASKS[api]).replace("Hello", prompt))
    return {"model": "novel", **asks, **more}


def answered(url: str, api: str, **body: Any) -> str:
    request = urllib.request.Request(
        url + PATHS[api], json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return str(response.read().decode())


def reports(text: str) -> list[dict[str, Any]]:
    """Return the `repetition` objects in a body or a stream."""
    found: list[dict[str, Any]] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("repetition"), dict):
                found.append(value["repetition"])
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                walk(one)

    for line in text.splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            walk(json.loads(line))
    return found


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", PATHS)
def test_a_response_says_what_the_prompt_allowed(url: str, api: str, stream: bool) -> None:
    text = answered(url, api, **body_of(api, ASKED, stream=stream))
    (report,) = reports(text)
    assert (report["requested"], report["loop"], report["removed_chars"]) == (REQUESTED, None, 0)
    assert not reports(answered(url, api, **body_of(api, "Hello", stream=stream)))
    ignored = body_of(api, ASKED, stream=stream, repetition={"read_prompt": False})
    assert not reports(answered(url, api, **ignored))
