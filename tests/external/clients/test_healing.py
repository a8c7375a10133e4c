"""The table of dialects, held to the real server behind the proxy: what a heal asks for, it gets."""

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dedup.answer.continuation import OPENING_TOKENS, Healing, next_words
from dedup_server.endpoints import CHAT
from dedup_server.engines.upstream.dialects import Dialect, dialect_of
from dedup_server.requests.base import parse
from tests.demo_server import serving
from tests.external.clients.conftest import PROMPT, Target

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from _seams import faults_of

GIVEN = "The outer door would not open to our"
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.fixture(scope="module")
def dialect(target: Target) -> Dialect:
    if target.scripted:
        pytest.skip("needs a real server")
    with urllib.request.urlopen(f"{target.upstream_url}/models", timeout=10) as response:
        owner = json.load(response)["data"][0]["owned_by"]
    found = dialect_of(None, owner)
    if found is None:
        pytest.skip(f"servers of {owner} do not continue answers")
    return found


def continued(target: Target, dialect: Dialect, given: str, looped: str) -> dict[str, Any]:
    """Return the first choice of an opening behind `given`, asked for without the proxy."""
    asked = {"model": target.loop, "messages": MESSAGES, "max_tokens": 100, "temperature": 0}
    request = parse(CHAT.forwarded, asked)
    continuation = Healing(asked, PROMPT, dialect.support).next(given, looped, "", 0)
    assert continuation is not None
    body = {**asked, **dialect.continued(request, continuation), "temperature": 0}
    answer = target.ask_upstream("chat/completions", **body)
    choice: dict[str, Any] = answer["choices"][0]
    text = str(choice["message"]["content"])
    # llama.cpp returns a whole answer with the text that it continued, and streams it without.
    return {**choice, "text": text.removeprefix(continuation.prefix)}


def test_an_opening_goes_on_and_is_short(target: Target, dialect: Dialect) -> None:
    choice = continued(target, dialect, GIVEN, " zzz")
    assert choice["text"].strip()
    assert choice["finish_reason"] == "length"
    assert len(choice["text"].split()) <= OPENING_TOKENS


def test_the_loops_next_word_does_not_come(target: Target, dialect: Dialect) -> None:
    usual = continued(target, dialect, GIVEN, " zzz")["text"]
    [word] = next_words(usual)
    other = continued(target, dialect, GIVEN, f" {word} and so on")["text"]
    if dialect.bans.__name__ == "no_bans":
        pytest.skip("the server cannot be kept from a word")
    assert next_words(other) != (word,)


def test_it_does_not_end_within_a_sentence(target: Target, dialect: Dialect) -> None:
    whole = target.upstream_chat(target.novel, 8)
    choice = continued(target, dialect, whole.rstrip(" .") + ",", " zzz")
    assert choice["finish_reason"] == "length"


@pytest.fixture(scope="module")
def healing(target: Target, dialect: Dialect) -> Iterator[str]:
    with serving("--upstream", target.upstream_url) as url:
        yield url


@pytest.mark.parametrize("stream", [True, False])
def test_a_real_loop_is_healed_and_reads_well(target: Target, healing: str, stream: bool) -> None:
    looped = target.upstream_chat(target.loop, 256)
    body = {
        "model": target.loop,
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 600,
        "repetition": {"heal": False},
    }

    def ask(**more: Any) -> dict[str, Any]:
        data = json.dumps({**body, **more}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{healing}/v1/chat/completions", data, headers)
        with urllib.request.urlopen(request, timeout=300) as response:
            received = response.read()
        if "stream" not in more:
            return dict(json.loads(received)["choices"][0])
        text, last = "", {}
        for line in received.decode().splitlines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
                    last = choice
        return {**last, "message": {"content": text}}

    given = ask()["message"]["content"]
    choice = ask(repetition={"heal": True}, **({"stream": True} if stream else {}))
    text = choice["message"]["content"]
    assert choice["repetition"].get("healed") or choice["stop_reason"] == "repetition_detected"
    assert text.startswith(given)
    assert faults_of(given, text[len(given) :], looped[len(given) :]) == []
