"""openai-python, LangChain and LlamaIndex get the upstream's completions through the proxy."""

import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from llama_index.core.base.llms.types import ChatMessage, ThinkingBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from openai import AsyncOpenAI

from tests.external.clients import upstream as script
from tests.external.clients.conftest import LONG, PROMPT, SHORT, Target

scripted = pytest.mark.scripted

MESSAGES: Any = [{"role": "user", "content": PROMPT}]
ASKED: Any = {"messages": MESSAGES, "temperature": 0, "max_tokens": SHORT}
USAGE = (script.USAGE["prompt_tokens"], script.USAGE["completion_tokens"])
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": script.TOOL, "description": "The weather.", "parameters": PARAMETERS},
    }
]
CUT = script.OPENING + script.CIRCLE


@pytest.fixture
def client(target: Target) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=target.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(target: Target) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=target.url, api_key="none", max_retries=0) as client:
        yield client


def text_of(chunks: list[Any], choice: int = 0) -> str:
    parts = [part for chunk in chunks for part in chunk.choices if part.index == choice]
    return "".join(part.delta.content or "" for part in parts)


def ends_of(chunks: list[Any]) -> list[tuple[int, str]]:
    """Return index and finish_reason of the choices that ended, in the order of the stream."""
    return [
        (part.index, part.finish_reason)
        for chunk in chunks
        for part in chunk.choices
        if part.finish_reason
    ]


def collect(seen: list[Any], items: Iterable[Any]) -> None:
    """Append items to `seen` one by one, so that those before an error are kept."""
    for item in items:
        seen.append(item)


def is_estimate(usage: Any) -> bool:
    return bool((usage.model_extra or {}).get("estimated"))


class TestOpenAI:
    def test_models_are_the_upstreams(self, client: openai.OpenAI, target: Target) -> None:
        assert target.novel in [model.id for model in client.models.list()]
        assert client.models.retrieve(target.novel).id == target.novel

    def test_an_answer_is_the_upstreams(self, client: openai.OpenAI, target: Target) -> None:
        done = client.chat.completions.create(model=target.novel, **ASKED)
        assert done.choices[0].message.content == target.upstream_chat(target.novel, SHORT)
        assert done.choices[0].finish_reason in ("stop", "length")
        assert done.usage
        assert (
            done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 0
        )
        assert not is_estimate(done.usage)

    def test_a_stream_says_what_the_upstream_says(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        chunks = list(client.chat.completions.create(model=target.novel, stream=True, **ASKED))
        assert text_of(chunks) == target.upstream_chat(target.novel, SHORT)
        assert len(ends_of(chunks)) == 1
        assert all(chunk.choices for chunk in chunks)  # usage was not requested
        assert chunks[0].choices[0].delta.role == "assistant"

    def test_a_stream_ends_with_usage_that_was_asked_for(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        stream_options: Any = {"include_usage": True}
        chunks = list(
            client.chat.completions.create(
                model=target.novel, stream=True, stream_options=stream_options, **ASKED
            )
        )
        if not target.gives_stream_usage:
            pytest.skip("the upstream gives no usage in a stream")
        assert not chunks[-1].choices
        usage = chunks[-1].usage
        assert usage
        assert usage.prompt_tokens > 0
        assert usage.completion_tokens > 0
        assert not is_estimate(usage)
        if target.scripted:
            assert (usage.prompt_tokens, usage.completion_tokens) == USAGE

    @scripted  # the helper raises at max_tokens, which a real server reaches here
    def test_the_stream_helper_puts_the_answer_together(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(model="novel", **ASKED) as stream:
            deltas = [event.delta for event in stream if event.type == "content.delta"]
            done = stream.get_final_completion()
        assert done.choices[0].message.content == "".join(deltas) == script.NOVEL

    @scripted
    def test_the_stream_helper_takes_usage(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(
            model="novel", messages=MESSAGES, stream_options={"include_usage": True}
        ) as stream:
            done = stream.get_final_completion()
        assert done.choices[0].message.content == script.NOVEL
        assert done.usage
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == USAGE

    async def test_the_async_client_is_served_too(
        self, async_client: AsyncOpenAI, target: Target
    ) -> None:
        done = await async_client.chat.completions.create(model=target.novel, **ASKED)
        chunks = [
            chunk
            async for chunk in await async_client.chat.completions.create(
                model=target.novel, stream=True, **ASKED
            )
        ]
        assert (
            done.choices[0].message.content
            == text_of(chunks)
            == target.upstream_chat(target.novel, SHORT)
        )

    def test_two_choices_come_whole_and_interleaved(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        target.require_several_choices()
        done = client.chat.completions.create(
            model=target.novel, n=2, **{**ASKED, "temperature": 0.9}
        )
        assert [choice.index for choice in done.choices] == [0, 1]
        assert all(choice.message.content for choice in done.choices)
        chunks = list(
            client.chat.completions.create(
                model=target.novel, n=2, stream=True, **{**ASKED, "temperature": 0.9}
            )
        )
        assert sorted(index for index, _ in ends_of(chunks)) == [0, 1]
        assert text_of(chunks, 0)
        assert text_of(chunks, 1)
        if target.scripted:
            assert [choice.message.content for choice in done.choices] == [script.NOVEL] * 2
            assert (text_of(chunks, 0), text_of(chunks, 1)) == (script.NOVEL, script.NOVEL)

    def test_a_text_completion_is_the_upstreams(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        asked: Any = {
            "model": target.novel,
            "prompt": PROMPT,
            "temperature": 0,
            "max_tokens": SHORT,
        }
        done = client.completions.create(**asked)
        chunks = list(client.completions.create(stream=True, **asked))
        streamed = "".join(chunk.choices[0].text for chunk in chunks)
        assert done.choices[0].text == streamed == target.upstream_text(target.novel, SHORT)
        assert done.choices[0].finish_reason in ("stop", "length")
        assert [
            chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason
        ] == [done.choices[0].finish_reason]

    @scripted
    def test_text_completions_have_choices_usage_and_errors_too(
        self, client: openai.OpenAI
    ) -> None:
        done = client.completions.create(model="novel", prompt=PROMPT, n=2)
        assert [choice.text for choice in done.choices] == [script.NOVEL] * 2
        chunks = list(
            client.completions.create(
                model="novel", prompt=PROMPT, stream=True, stream_options={"include_usage": True}
            )
        )
        for usage in (done.usage, chunks[-1].usage):
            assert usage
            assert (usage.prompt_tokens, usage.completion_tokens) == USAGE
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.completions.create(model="unknown", prompt=PROMPT)
        seen: list[Any] = []
        with pytest.raises(openai.APIError):
            collect(seen, client.completions.create(model="broken", prompt=PROMPT, stream=True))
        assert "".join(chunk.choices[0].text for chunk in seen)
        assert not any(chunk.choices[0].finish_reason for chunk in seen)

    @scripted
    def test_a_tool_call_is_whole(self, client: openai.OpenAI) -> None:
        done = client.chat.completions.create(model="tools", messages=MESSAGES, tools=TOOLS)
        assert done.choices[0].finish_reason == "tool_calls"
        assert done.choices[0].message.content is None
        call: Any = (done.choices[0].message.tool_calls or [])[0]
        assert (call.id, call.function.name, call.function.arguments) == (
            "call_1",
            script.TOOL,
            script.ARGUMENTS,
        )

    @scripted
    def test_a_tool_call_comes_in_pieces(self, client: openai.OpenAI) -> None:
        chunks = list(
            client.chat.completions.create(
                model="tools", messages=MESSAGES, tools=TOOLS, stream=True
            )
        )
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert [(call.id, call.function.name) for call in calls if call.function and call.id] == [
            ("call_1", script.TOOL)
        ]
        assert (
            "".join(call.function.arguments or "" for call in calls if call.function)
            == script.ARGUMENTS
        )
        assert ends_of(chunks) == [(0, "tool_calls")]

    @scripted
    def test_the_stream_helper_puts_a_tool_call_together(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(
            model="tools", messages=MESSAGES, tools=TOOLS
        ) as stream:
            done = stream.get_final_completion()
        call: Any = (done.choices[0].message.tool_calls or [])[0]
        assert (call.function.name, json.loads(call.function.arguments)) == (
            script.TOOL,
            json.loads(script.ARGUMENTS),
        )

    @scripted
    def test_the_stream_helper_takes_choices_and_reasoning(self, client: openai.OpenAI) -> None:
        with client.chat.completions.stream(model="reasoning", messages=MESSAGES, n=2) as stream:
            done = stream.get_final_completion()
        assert [choice.message.content for choice in done.choices] == [script.NOVEL] * 2
        assert [
            (choice.message.model_extra or {})["reasoning_content"] for choice in done.choices
        ] == [script.THOUGHTS] * 2

    @scripted
    def test_reasoning_stands_beside_the_answer(self, client: openai.OpenAI) -> None:
        done = client.chat.completions.create(model="reasoning", messages=MESSAGES)
        assert (done.choices[0].message.model_extra or {})["reasoning_content"] == script.THOUGHTS
        assert done.choices[0].message.content == script.NOVEL
        chunks = list(
            client.chat.completions.create(model="reasoning", messages=MESSAGES, stream=True)
        )
        deltas = [chunk.choices[0].delta for chunk in chunks]
        assert (
            "".join((delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas)
            == script.THOUGHTS
        )
        assert text_of(chunks) == script.NOVEL
        answering = [position for position, delta in enumerate(deltas) if delta.content]
        thinking = [
            position
            for position, delta in enumerate(deltas)
            if (delta.model_extra or {}).get("reasoning_content")
        ]
        assert max(thinking) < min(answering)

    @scripted
    @pytest.mark.parametrize("stream", [False, True])
    def test_an_unknown_model_is_a_not_found_error(
        self, client: openai.OpenAI, stream: bool
    ) -> None:
        with pytest.raises(openai.NotFoundError, match="does not exist") as caught:
            client.chat.completions.create(model="unknown", messages=MESSAGES, stream=stream)
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"

    @scripted
    @pytest.mark.parametrize("stream", [False, True])
    def test_a_busy_upstream_is_a_rate_limit_error_that_says_when_to_come_again(
        self, client: openai.OpenAI, stream: bool
    ) -> None:
        with pytest.raises(openai.RateLimitError, match="Rate limit") as caught:
            client.chat.completions.create(model="busy", messages=MESSAGES, stream=stream)
        assert caught.value.response.headers["Retry-After"] == str(script.RETRY_AFTER)
        assert caught.value.code == "rate_limit_exceeded"

    @scripted
    def test_a_client_that_retries_waits_as_it_is_told(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        before, began = target.stats("busy")["requests"], time.monotonic()
        with pytest.raises(openai.RateLimitError):
            client.with_options(max_retries=1).chat.completions.create(
                model="busy", messages=MESSAGES
            )
        assert time.monotonic() - began >= script.RETRY_AFTER
        assert target.stats("busy")["requests"] == before + 2

    @scripted
    def test_a_stream_that_breaks_raises_and_never_stops(self, client: openai.OpenAI) -> None:
        chunks: list[Any] = []
        stream = client.chat.completions.create(model="broken", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError) as caught:
            collect(chunks, stream)
        assert "upstream" in caught.value.message
        assert text_of(chunks)
        assert script.NOVEL.startswith(text_of(chunks))
        assert ends_of(chunks) == []

    @scripted
    async def test_a_stream_that_breaks_raises_in_the_async_client(
        self, async_client: AsyncOpenAI
    ) -> None:
        chunks = []
        stream = await async_client.chat.completions.create(
            model="broken", messages=MESSAGES, stream=True
        )
        with pytest.raises(openai.APIError):
            async for chunk in stream:
                chunks.append(chunk)
        assert text_of(chunks)
        assert ends_of(chunks) == []

    @scripted
    def test_an_answer_that_breaks_is_a_server_error(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="broken", messages=MESSAGES)
        assert caught.value.status_code == 502

    def test_a_loop_is_cut_out_of_a_whole_answer(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        done = client.chat.completions.create(model=target.loop, **{**ASKED, "max_tokens": LONG})
        target.assert_cut(done.choices[0].message.content, target.upstream_chat(target.loop, LONG))
        assert done.choices[0].finish_reason == "stop"
        extra = done.choices[0].model_extra or {}
        assert extra["stop_reason"] == "repetition_detected"
        assert extra["repetition"]["removed_chars"] > 0

    def test_a_cut_ends_a_stream_as_any_answer_ends(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        stream_options: Any = {"include_usage": True}
        with target.hangs_up(target.loop):
            chunks = list(
                client.chat.completions.create(
                    model=target.loop,
                    stream=True,
                    stream_options=stream_options,
                    **{**ASKED, "max_tokens": LONG},
                )
            )
        target.assert_cut(text_of(chunks), target.upstream_chat(target.loop, LONG))
        assert ends_of(chunks) == [(0, "stop")]
        ending = next(
            chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason
        )
        extra = ending.model_extra or {}
        assert extra["stop_reason"] == "repetition_detected"
        assert extra["repetition"]["loop"]["kind"] == "exact"
        assert not chunks[-1].choices
        assert chunks[-1].usage
        assert chunks[-1].usage.completion_tokens > 0
        assert is_estimate(chunks[-1].usage)

    def test_the_stream_helper_takes_a_cut_for_an_answer(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        with (
            target.hangs_up(target.loop),
            client.chat.completions.stream(
                model=target.loop,
                messages=MESSAGES,
                temperature=0,
                max_tokens=LONG,
                stream_options={"include_usage": True},
            ) as stream,
        ):
            chunks = [event.chunk for event in stream if event.type == "chunk"]
            done = stream.get_final_completion()
        target.assert_cut(done.choices[0].message.content, target.upstream_chat(target.loop, LONG))
        assert done.choices[0].finish_reason == "stop"
        ending = next(
            chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason
        )
        assert (ending.model_extra or {})[
            "stop_reason"
        ] == "repetition_detected"  # the chunk contains it; the helper's result does not

    async def test_the_async_client_takes_a_cut(
        self, async_client: AsyncOpenAI, target: Target
    ) -> None:
        with target.hangs_up(target.loop):
            stream = await async_client.chat.completions.create(
                model=target.loop, stream=True, **{**ASKED, "max_tokens": LONG}
            )
            chunks = [chunk async for chunk in stream]
        target.assert_cut(text_of(chunks), target.upstream_chat(target.loop, LONG))
        assert ends_of(chunks) == [(0, "stop")]

    def test_a_cut_ends_a_text_completion(self, client: openai.OpenAI, target: Target) -> None:
        asked: Any = {"model": target.loop, "prompt": PROMPT, "temperature": 0, "max_tokens": LONG}
        full = target.upstream_text(target.loop, LONG)
        done = client.completions.create(**asked)
        target.assert_cut(done.choices[0].text, full)
        assert done.choices[0].finish_reason == "stop"
        with target.hangs_up(target.loop):
            chunks = list(client.completions.create(stream=True, **asked))
        assert "".join(chunk.choices[0].text for chunk in chunks) == done.choices[0].text
        ending = chunks[-1].choices[0]
        assert (ending.finish_reason, (ending.model_extra or {})["stop_reason"]) == (
            "stop",
            "repetition_detected",
        )

    @scripted
    def test_each_of_two_choices_is_cut_for_itself(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        with target.hangs_up("loop"):
            chunks = list(
                client.chat.completions.create(model="loop", messages=MESSAGES, n=2, stream=True)
            )
        assert sorted(ends_of(chunks)) == [(0, "stop"), (1, "stop")]
        assert text_of(chunks, 0).rstrip() == text_of(chunks, 1).rstrip() == CUT.rstrip()

    @scripted
    def test_policy_off_passes_the_loop_on(self, client: openai.OpenAI) -> None:
        done = client.chat.completions.create(
            model="loop", messages=MESSAGES, extra_body={"repetition": {"policy": "off"}}
        )
        assert done.choices[0].message.content == script.text_of("loop")

    @scripted
    def test_arguments_that_loop_are_not_taken_for_complete(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        with target.hangs_up("tools-loop"):
            chunks = list(
                client.chat.completions.create(
                    model="tools-loop", messages=MESSAGES, tools=TOOLS, stream=True
                )
            )
        assert ends_of(chunks) == [(0, "length")]
        with (
            pytest.raises(openai.LengthFinishReasonError),
            client.chat.completions.stream(
                model="tools-loop", messages=MESSAGES, tools=TOOLS
            ) as stream,
        ):
            stream.get_final_completion()

    @scripted
    def test_thoughts_that_loop_are_not_taken_for_an_answer(
        self, client: openai.OpenAI, target: Target
    ) -> None:
        with target.hangs_up("reasoning-loop"):
            chunks = list(
                client.chat.completions.create(
                    model="reasoning-loop", messages=MESSAGES, stream=True
                )
            )
        deltas = [chunk.choices[0].delta for chunk in chunks]
        thoughts = "".join(
            (delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas
        )
        assert thoughts.rstrip() == CUT.rstrip()
        assert text_of(chunks) == ""
        assert ends_of(chunks) == [(0, "length")]

    @scripted
    def test_embeddings_pass_through(self, client: openai.OpenAI) -> None:
        assert (
            client.embeddings.create(model="novel", input="A river.").data[0].embedding
            == script.VECTOR
        )


@scripted
class TestOpenAIResponses:
    def test_a_response_is_the_upstreams(self, client: openai.OpenAI) -> None:
        done = client.responses.create(model="novel", input=PROMPT)
        assert (done.status, done.output_text) == ("completed", script.NOVEL)
        assert done.usage
        assert (done.usage.input_tokens, done.usage.output_tokens) == USAGE

    def test_a_streamed_response_says_what_the_upstream_says(self, client: openai.OpenAI) -> None:
        events = list(client.responses.create(model="novel", input=PROMPT, stream=True))
        kinds = [event.type for event in events]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert (
            "".join(event.delta for event in events if event.type == "response.output_text.delta")
            == script.NOVEL
        )

    def test_the_stream_helper_puts_a_response_together(self, client: openai.OpenAI) -> None:
        with client.responses.stream(model="novel", input=PROMPT) as stream:
            done = stream.get_final_response()
        assert done.output_text == script.NOVEL

    def test_a_loop_is_cut_out_of_a_response(self, client: openai.OpenAI) -> None:
        done = client.responses.create(model="loop", input=PROMPT)
        assert done.output_text.rstrip() == CUT.rstrip()
        assert done.status == "completed"
        assert done.error is None
        assert (done.model_extra or {})["stop_reason"] == "repetition_detected"

    def test_a_cut_ends_a_streamed_response(self, client: openai.OpenAI, target: Target) -> None:
        with target.hangs_up("loop"):
            events = list(client.responses.create(model="loop", input=PROMPT, stream=True))
        text = "".join(
            event.delta for event in events if event.type == "response.output_text.delta"
        )
        assert text.rstrip() == CUT.rstrip()
        ending = events[-1]
        assert ending.type == "response.completed"
        assert ending.response.output_text == text
        assert (ending.response.model_extra or {})["stop_reason"] == "repetition_detected"
        assert [event.text for event in events if event.type == "response.output_text.done"] == [
            text
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))

    def test_the_stream_helper_takes_a_cut(self, client: openai.OpenAI, target: Target) -> None:
        with target.hangs_up("loop"), client.responses.stream(model="loop", input=PROMPT) as stream:
            last = list(stream)[-1]
        assert last.type == "response.completed"
        assert last.response.output_text.rstrip() == CUT.rstrip()

    def test_an_unknown_model_is_a_not_found_error(self, client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError, match=r"model .*does not exist"):
            client.responses.create(model="unknown", input=PROMPT)

    def test_a_stream_that_breaks_never_completes(self, client: openai.OpenAI) -> None:
        events: list[Any] = []
        try:
            collect(events, client.responses.create(model="broken", input=PROMPT, stream=True))
        except openai.APIError:
            failed = True
        else:
            failed = events[-1].type in ("error", "response.failed")
        assert failed
        text = "".join(
            event.delta for event in events if event.type == "response.output_text.delta"
        )
        assert text
        assert script.NOVEL.startswith(text)
        assert "response.completed" not in [event.type for event in events]


@tool
def get_weather(city: str, days: int) -> str:
    """Get the weather."""
    return f"{days} days of rain in {city}"


class TestLangChain:
    @staticmethod
    def llm(target: Target, model: str, **options: Any) -> ChatOpenAI:
        options = {"temperature": 0, "max_tokens": SHORT, "max_retries": 0, **options}
        if not target.takes_max_completion_tokens:  # this client renames max_tokens
            options["extra_body"] = {"max_tokens": options["max_tokens"]}
        return ChatOpenAI(model=model, base_url=target.url, api_key="none", **options)

    def test_invoke_gives_the_upstreams_answer_and_usage(self, target: Target) -> None:
        answer = self.llm(target, target.novel).invoke(PROMPT)
        assert answer.content == target.upstream_chat(target.novel, SHORT)
        assert answer.usage_metadata
        assert answer.usage_metadata["total_tokens"] > 0
        assert answer.response_metadata["finish_reason"] in ("stop", "length")

    def test_stream_gives_the_upstreams_answer_and_usage(self, target: Target) -> None:
        chunks = list(self.llm(target, target.novel, stream_usage=True).stream(PROMPT))
        assert len(chunks) > 3
        answer = joined(chunks)
        assert answer.content == target.upstream_chat(target.novel, SHORT)
        if target.gives_stream_usage:
            assert answer.usage_metadata
            assert answer.usage_metadata["total_tokens"] > 0
        if target.scripted:
            assert answer.usage_metadata
            assert (
                answer.usage_metadata["input_tokens"],
                answer.usage_metadata["output_tokens"],
            ) == USAGE

    async def test_ainvoke_and_astream_give_the_same(self, target: Target) -> None:
        llm = self.llm(target, target.novel)
        answer = await llm.ainvoke(PROMPT)
        streamed = joined([chunk async for chunk in llm.astream(PROMPT)])
        assert answer.content == streamed.content == target.upstream_chat(target.novel, SHORT)

    def test_generate_gives_two_choices(self, target: Target) -> None:
        target.require_several_choices()
        generations = (
            self.llm(target, target.novel, n=2, temperature=0.9)
            .generate([[HumanMessage(PROMPT)]])
            .generations[0]
        )
        assert len(generations) == 2
        assert all(generation.text for generation in generations)

    def test_a_text_completion_is_the_upstreams(self, target: Target) -> None:
        llm = OpenAI(
            model=target.novel,
            base_url=target.url,
            api_key="none",
            temperature=0,
            max_tokens=SHORT,
            max_retries=0,
        )
        full = target.upstream_text(target.novel, SHORT)
        assert llm.invoke(PROMPT) == full
        assert "".join(llm.stream(PROMPT)) == full

    @scripted
    def test_bound_tools_are_called(self, target: Target) -> None:
        llm = self.llm(target, "tools").bind_tools([get_weather])
        answer = llm.invoke(PROMPT)
        assert isinstance(answer, AIMessage)
        streamed = joined(list(llm.stream(PROMPT)))
        expected = {
            "name": script.TOOL,
            "args": json.loads(script.ARGUMENTS),
            "id": "call_1",
            "type": "tool_call",
        }
        assert answer.tool_calls == streamed.tool_calls == [expected]
        assert (
            answer.response_metadata["finish_reason"]
            == streamed.response_metadata["finish_reason"]
            == "tool_calls"
        )

    @scripted
    def test_reasoning_is_dropped_by_the_client_and_the_answer_stays(self, target: Target) -> None:
        llm = self.llm(target, "reasoning")
        answer, streamed = llm.invoke(PROMPT), joined(list(llm.stream(PROMPT)))
        assert answer.content == streamed.content == script.NOVEL
        assert script.THOUGHTS not in repr(answer) + repr(streamed)

    @scripted
    def test_refusals_are_raised(self, target: Target) -> None:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            self.llm(target, "unknown").invoke(PROMPT)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            list(self.llm(target, "unknown").stream(PROMPT))
        with pytest.raises(openai.RateLimitError):
            self.llm(target, "busy").invoke(PROMPT)

    @scripted
    def test_a_stream_that_breaks_raises_and_never_stops(self, target: Target) -> None:
        chunks: list[AIMessageChunk] = []
        with pytest.raises(openai.APIError):
            collect(chunks, self.llm(target, "broken").stream(PROMPT))
        assert script.NOVEL.startswith(str(joined(chunks).content))
        assert joined(chunks).content
        assert "finish_reason" not in joined(chunks).response_metadata

    def test_a_cut_is_a_normal_end(self, target: Target) -> None:
        llm = self.llm(target, target.loop, max_tokens=LONG, stream_usage=True)
        full = target.upstream_chat(target.loop, LONG)
        answer = llm.invoke(PROMPT)
        target.assert_cut(str(answer.content), full)
        assert answer.response_metadata["finish_reason"] == "stop"
        with target.hangs_up(target.loop):
            streamed = joined(list(llm.stream(PROMPT)))
        assert streamed.content == answer.content
        assert streamed.response_metadata["finish_reason"] == "stop"
        assert "repetition_detected" not in repr(answer) + repr(
            streamed
        )  # the client drops unknown fields
        assert streamed.usage_metadata
        assert streamed.usage_metadata["output_tokens"] > 0

    @scripted
    def test_a_cut_is_seen_in_the_header_and_in_a_response_s_metadata(self, target: Target) -> None:
        chat = self.llm(target, "loop", include_response_headers=True)
        headers = chat.invoke(PROMPT).response_metadata["headers"]
        assert headers["x-dedup-loop"] == "content/exact; cut"
        responses = self.llm(target, "loop", use_responses_api=True)
        for answer in (responses.invoke(PROMPT), joined(list(responses.stream(PROMPT)))):
            assert answer.response_metadata["metadata"] == {"repetition": "content/exact; cut"}

    @scripted
    def test_arguments_that_loop_are_not_taken_for_complete(self, target: Target) -> None:
        answer = self.llm(target, "tools-loop").bind_tools([get_weather]).invoke(PROMPT)
        assert answer.response_metadata["finish_reason"] == "length"
        assert answer.tool_calls == []
        assert len(answer.invalid_tool_calls) == 1

    @scripted
    def test_embeddings_pass_through(self, target: Target) -> None:
        embeddings = OpenAIEmbeddings(
            model="novel", base_url=target.url, api_key="none", check_embedding_ctx_length=False
        )
        assert embeddings.embed_query("A river.") == script.VECTOR

    @scripted
    def test_the_responses_api_is_served_too(self, target: Target) -> None:
        llm = self.llm(target, "novel", use_responses_api=True)
        assert llm.invoke(PROMPT).text == joined(list(llm.stream(PROMPT))).text == script.NOVEL
        looping = self.llm(target, "loop", use_responses_api=True)
        assert looping.invoke(PROMPT).text.rstrip() == CUT.rstrip()
        with target.hangs_up("loop"):
            assert joined(list(looping.stream(PROMPT))).text.rstrip() == CUT.rstrip()


def joined(chunks: list[Any]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert isinstance(whole, AIMessageChunk)
    return whole


class TestLlamaIndex:
    @staticmethod
    def llm(target: Target, model: str, **options: Any) -> OpenAILike:
        chat = {
            "is_chat_model": True,
            "is_function_calling_model": True,
            "temperature": 0,
            "max_tokens": SHORT,
        }
        return OpenAILike(
            model=model, api_base=target.url, api_key="none", max_retries=0, **{**chat, **options}
        )

    messages = (ChatMessage(role="user", content=PROMPT),)

    def test_chat_gives_the_upstreams_answer_and_usage(self, target: Target) -> None:
        answer = self.llm(target, target.novel).chat(self.messages)
        assert answer.message.content == target.upstream_chat(target.novel, SHORT)
        assert answer.additional_kwargs["total_tokens"] > 0

    def test_stream_chat_gives_the_upstreams_answer(self, target: Target) -> None:
        parts = list(self.llm(target, target.novel).stream_chat(self.messages))
        full = target.upstream_chat(target.novel, SHORT)
        assert "".join(part.delta or "" for part in parts) == parts[-1].message.content == full
        assert len(parts) > 3

    def test_stream_chat_gives_usage_that_was_asked_for(self, target: Target) -> None:
        llm = self.llm(
            target, target.novel, additional_kwargs={"stream_options": {"include_usage": True}}
        )
        parts = list(llm.stream_chat(self.messages))
        assert parts[-1].message.content == target.upstream_chat(target.novel, SHORT)
        assert not target.gives_stream_usage or parts[-1].raw.usage.total_tokens > 0

    async def test_achat_and_astream_chat_give_the_same(self, target: Target) -> None:
        llm = self.llm(target, target.novel)
        answer = await llm.achat(self.messages)
        parts = [part async for part in await llm.astream_chat(self.messages)]
        assert (
            answer.message.content
            == parts[-1].message.content
            == target.upstream_chat(target.novel, SHORT)
        )

    def test_a_text_completion_is_the_upstreams(self, target: Target) -> None:
        llm = self.llm(target, target.novel, is_chat_model=False)
        full = target.upstream_text(target.novel, SHORT)
        assert llm.complete(PROMPT).text == full
        assert list(llm.stream_complete(PROMPT))[-1].text == full

    def test_of_two_choices_the_client_shows_the_first(self, target: Target) -> None:
        target.require_several_choices()
        answer = self.llm(target, target.novel, temperature=0.9, additional_kwargs={"n": 2}).chat(
            self.messages
        )
        assert len(answer.raw.choices) == 2
        assert answer.message.content == answer.raw.choices[0].message.content

    @scripted
    def test_tools_are_called(self, target: Target) -> None:
        llm = self.llm(target, "tools")
        tools = [FunctionTool.from_defaults(get_weather.func)]
        expected = (script.TOOL, json.loads(script.ARGUMENTS))
        called = llm.get_tool_calls_from_response(llm.chat_with_tools(tools, user_msg=PROMPT))
        assert [(call.tool_name, call.tool_kwargs) for call in called] == [expected]
        *_, last = llm.stream_chat_with_tools(tools, user_msg=PROMPT)
        assert [
            (call.tool_name, call.tool_kwargs) for call in llm.get_tool_calls_from_response(last)
        ] == [expected]
        assert str(llm.predict_and_call(tools, PROMPT)) == "3 days of rain in Delft"

    @scripted
    def test_reasoning_is_a_thinking_block_beside_the_answer(self, target: Target) -> None:
        llm = self.llm(target, "reasoning")
        answer = llm.chat(self.messages)
        *_, last = llm.stream_chat(self.messages)
        for message in (answer.message, last.message):
            assert message.content == script.NOVEL
            assert [
                block.content for block in message.blocks if isinstance(block, ThinkingBlock)
            ] == [script.THOUGHTS]

    @scripted
    def test_refusals_are_raised(self, target: Target) -> None:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            self.llm(target, "unknown").chat(self.messages)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            list(self.llm(target, "unknown").stream_chat(self.messages))
        with pytest.raises(openai.RateLimitError):
            self.llm(target, "busy").chat(self.messages)

    @scripted
    def test_a_stream_that_breaks_raises(self, target: Target) -> None:
        parts: list[Any] = []
        with pytest.raises(openai.APIError):
            collect(parts, self.llm(target, "broken").stream_chat(self.messages))
        assert parts[-1].message.content
        assert script.NOVEL.startswith(parts[-1].message.content)
        assert not any(choice.finish_reason for part in parts for choice in part.raw.choices)

    def test_a_cut_is_a_normal_end(self, target: Target) -> None:
        llm = self.llm(target, target.loop, max_tokens=LONG)
        answer = llm.chat(self.messages)
        target.assert_cut(answer.message.content, target.upstream_chat(target.loop, LONG))
        assert (answer.raw.choices[0].finish_reason, answer.raw.choices[0].stop_reason) == (
            "stop",
            "repetition_detected",
        )
        with target.hangs_up(target.loop):
            *_, last = llm.stream_chat(self.messages)
        assert last.message.content == answer.message.content
        assert (last.raw.choices[0].finish_reason, last.raw.choices[0].stop_reason) == (
            "stop",
            "repetition_detected",
        )
