"""LiteLLM's proxy with each of the two configurations of the page, between openai-python and a model that loops."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.demo_server import serving
from tests.external.integrations.litellm import proxy
from tests.external.integrations.litellm.upstream import (
    ARGUMENTS,
    CIRCLE,
    CLEAN,
    OPENING,
    REASONING,
    TEXTS,
    deltas,
)

Blocks = Callable[[str, str], list[str]]

BEFORE_LOOP = (OPENING + CIRCLE).rstrip()
WITHOUT_REPEATS = OPENING + "Nobody had heard it fall. So they built another one."
ASKED = f"Write '{CIRCLE.strip()}' 20 times."
LOGGER = """
import json
from litellm.integrations.custom_logger import CustomLogger

class Logger(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        logged = kwargs.get("standard_logging_object") or {}
        line = {name: logged.get(name) for name in ("guardrail_information", "completion_tokens")}
        line["model"] = kwargs.get("model")
        with open("logged.jsonl", "a") as file:
            file.write(json.dumps(line, default=str) + "\\n")

logger = Logger()
"""


class Seat:
    """LiteLLM in one of its configurations, and what the upstream has seen."""

    def __init__(self, url: str, upstream_url: str, folder: Path) -> None:
        self.client = openai.OpenAI(base_url=f"{url}/v1", api_key=proxy.KEY, max_retries=0)
        self.folder = folder
        self._upstream_url = upstream_url

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self._upstream_url}/stats", timeout=20) as response:
            return dict(json.load(response))

    def stream(self, model: str, prompt: str = "Go on.", **options: Any) -> list[Any]:
        messages: Any = [{"role": "user", "content": prompt}]
        return list(
            self.client.chat.completions.create(
                model=model, messages=messages, stream=True, **options
            )
        )

    def whole(self, model: str, **options: Any) -> Any:
        messages: Any = [{"role": "user", "content": "Go on."}]
        return self.client.chat.completions.create(model=model, messages=messages, **options)

    def hang_ups(self, model: str) -> int:
        """Return how often the upstream was hung up on; a hang-up may take a moment to be seen."""
        for _ in range(40):
            if number := self.stats().get(model, {}).get("hang_ups", 0):
                return int(number)
            time.sleep(0.25)
        return 0

    def logged(self, model: str) -> list[dict[str, Any]]:
        """Return what LiteLLM gave its loggers for a model."""
        for _ in range(40):
            path = self.folder / "logged.jsonl"
            lines = path.read_text().splitlines() if path.exists() else []
            found = [line for line in map(json.loads, lines) if line["model"].endswith(model)]
            if found:
                return found
            time.sleep(0.25)
        return []


def joined(chunks: list[Any], name: str = "content", choice: int = 0) -> str:
    found = ""
    for chunk in chunks:
        for one in chunk.choices:
            if one.index == choice:
                found += getattr(one.delta, name, None) or ""
    return found


def arguments_of(chunks: list[Any]) -> str:
    calls = [
        call for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or ()
    ]
    return "".join(call.function.arguments or "" for call in calls)


def last(chunks: list[Any]) -> Any:
    return next(one for chunk in chunks for one in chunk.choices if one.finish_reason)


@pytest.fixture(scope="module")
def in_process(blocks: Blocks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seat]:
    folder = tmp_path_factory.mktemp("in_process")
    (folder / "logged.py").write_text(LOGGER)
    config, _ = blocks("litellm", "yaml")
    with proxy.upstream(folder) as upstream_url:
        config = config.replace("http://127.0.0.1:8001", upstream_url)
        config += "litellm_settings:\n  callbacks: logged.logger\n"
        with proxy.litellm(config, folder) as (url, _):
            yield Seat(url, upstream_url, folder)


@pytest.fixture(scope="module")
def over_http(blocks: Blocks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seat]:
    folder = tmp_path_factory.mktemp("over_http")
    _, config = blocks("litellm", "yaml")
    with (
        proxy.upstream(folder) as upstream_url,
        serving("--upstream", f"{upstream_url}/v1", api_keys="KEY") as server_url,
    ):
        config = config.replace("http://127.0.0.1:8001", upstream_url)
        config = config.replace("http://127.0.0.1:8000", server_url)
        with proxy.litellm(config, folder) as (url, _):
            yield Seat(url, upstream_url, folder)


# In LiteLLM's process


@pytest.mark.shows("streamed", "loop cut", "source closed")
def test_a_stream_ends_at_the_loop_and_the_model_is_hung_up_on(in_process: Seat) -> None:
    chunks = in_process.stream("loop")
    assert joined(chunks) == BEFORE_LOOP
    end = last(chunks)
    assert (end.finish_reason, end.stop_reason) == ("stop", "repetition_detected")
    assert end.repetition["loop"]["channel"] == "content"
    assert in_process.hang_ups("loop") == 1
    assert in_process.stats()["loop"]["chunks"] < len(deltas("loop"))


@pytest.mark.shows("metrics")
def test_a_stream_that_was_cut_is_logged_and_billed(in_process: Seat) -> None:
    [line, *_] = in_process.logged("loop")
    [entry] = line["guardrail_information"]
    assert entry["guardrail_status"] == "guardrail_intervened"
    assert entry["guardrail_response"]["loop"]["channel"] == "content"
    assert line["completion_tokens"] > 0


@pytest.mark.shows("reasoning")
def test_reasoning_that_loops_is_no_answer(in_process: Seat) -> None:
    chunks = in_process.stream("reasoning-loop")
    assert joined(chunks, "reasoning_content") == BEFORE_LOOP
    assert last(chunks).finish_reason == "length"
    assert in_process.hang_ups("reasoning-loop") == 1


@pytest.mark.shows("tool arguments")
def test_arguments_that_loop_are_no_call(in_process: Seat) -> None:
    chunks = in_process.stream("tools-loop")
    assert ARGUMENTS["tools-loop"].startswith(arguments_of(chunks))
    assert len(arguments_of(chunks)) < 1000
    assert last(chunks).finish_reason == "length"
    assert in_process.hang_ups("tools-loop") == 1


@pytest.mark.shows("repeats removed")
def test_repeated_sentences_are_removed(in_process: Seat) -> None:
    chunks = in_process.stream("repeats")
    assert joined(chunks) == WITHOUT_REPEATS
    assert last(chunks).finish_reason == "stop"
    assert last(chunks).repetition["removed_sentences"] == 1


@pytest.mark.parametrize("model", [*CLEAN, "reasoning", "tools"])
def test_text_without_repetition_comes_byte_for_byte(in_process: Seat, model: str) -> None:
    chunks = in_process.stream(model)
    assert joined(chunks) == TEXTS[model]
    assert joined(chunks, "reasoning_content") == REASONING.get(model, "")
    assert arguments_of(chunks) == ARGUMENTS.get(model, "")
    assert "repetition" not in last(chunks).model_extra


@pytest.mark.shows("whole")
def test_a_whole_answer(in_process: Seat) -> None:
    [choice] = in_process.whole("loop").choices
    assert choice.message.content == BEFORE_LOOP
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "repetition_detected")
    assert in_process.whole("repeats").choices[0].message.content == WITHOUT_REPEATS
    assert in_process.whole("reasoning-loop").choices[0].finish_reason == "length"
    assert in_process.whole("tools-loop").choices[0].finish_reason == "length"
    for model in CLEAN:
        assert in_process.whole(model).choices[0].message.content == TEXTS[model]
    whole = in_process.whole("reasoning").choices[0].message
    assert whole.reasoning_content == REASONING["reasoning"]


def test_choices_end_each_for_itself(in_process: Seat) -> None:
    chunks = in_process.stream("loop", n=2)
    assert joined(chunks) == BEFORE_LOOP
    assert joined(chunks, choice=1) == TEXTS["english"]


def test_a_request_may_have_its_own_policy(in_process: Seat) -> None:
    off = {"metadata": {"repetition": {"policy": "off"}}}
    assert joined(in_process.stream("short-loop", extra_body=off)) == TEXTS["short-loop"]
    wrong = {"metadata": {"repetition": {"policy": "of"}}}
    with pytest.raises(openai.BadRequestError, match="policy must be one of"):
        in_process.stream("loop", extra_body=wrong)


def test_what_the_prompt_asks_for_may_repeat(in_process: Seat) -> None:
    assert joined(in_process.stream("short-loop", ASKED)) == TEXTS["short-loop"]


@pytest.mark.shows("agent loop")
def test_an_agent_in_a_loop_is_nudged(in_process: Seat) -> None:
    messages: Any = [{"role": "user", "content": "How long do we keep invoices?"}]
    for number in range(6):
        function = {"name": "search", "arguments": '{"query": "invoices"}'}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        messages.append({"role": "assistant", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "Nothing."})
    tools: Any = [{"type": "function", "function": {"name": "search"}}]
    in_process.client.chat.completions.create(model="english", messages=messages, tools=tools)
    *_, result = in_process.stats()["last"]["messages"]
    assert result["content"].startswith("Nothing.\n\n[repetition notice]")


# Over HTTP


def test_over_http_a_stream_ends_at_the_loop(over_http: Seat) -> None:
    chunks = []
    messages: Any = [{"role": "user", "content": "Go on."}]
    with pytest.raises(openai.APIError, match="repetition_detected"):
        for chunk in over_http.client.chat.completions.create(
            model="loop", messages=messages, stream=True
        ):
            chunks.append(chunk)
    assert joined(chunks) == BEFORE_LOOP
    assert over_http.hang_ups("loop") == 1
    assert over_http.stats()["loop"]["chunks"] < len(deltas("loop"))


@pytest.mark.parametrize("model", [*CLEAN, "tools"])
def test_over_http_text_without_repetition_comes_byte_for_byte(over_http: Seat, model: str) -> None:
    chunks = over_http.stream(model)
    assert joined(chunks) == TEXTS[model]
    assert arguments_of(chunks) == ARGUMENTS.get(model, "")


def test_over_http_repeated_sentences_are_removed(over_http: Seat) -> None:
    assert joined(over_http.stream("repeats")) == WITHOUT_REPEATS


def test_over_http_whole_answers(over_http: Seat) -> None:
    assert over_http.whole("loop").choices[0].message.content == BEFORE_LOOP
    assert over_http.whole("repeats").choices[0].message.content == WITHOUT_REPEATS
    for model in CLEAN:
        assert over_http.whole(model).choices[0].message.content == TEXTS[model]


def test_over_http_what_the_prompt_asks_for_may_repeat(over_http: Seat) -> None:
    assert joined(over_http.stream("short-loop", ASKED)) == TEXTS["short-loop"]


def test_over_http_choices(over_http: Seat) -> None:
    chunks = over_http.stream("repeats", n=2)
    assert joined(chunks) == WITHOUT_REPEATS
    assert joined(chunks, choice=1) == TEXTS["english"]
