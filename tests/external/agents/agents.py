"""Agents as their libraries have them, unmodified, with tools that count their calls."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import agents
import anthropic
import openai
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI

from tests.agents.models import MODELS, PARAMETERS, QUESTION, THANKS, Tools
from tests.agents.upstream import Api
from tests.agents.usage import INTEGERS

KEY = "none"
MAX_ROUNDS = 16  # of a loop that has no limit of its own, or one of thousands
MAX_TOKENS = 2048
BUDGET = 1024

agents.set_tracing_disabled(True)


@dataclass
class Seen:
    """A run as the agent's user sees it.

    Attributes:
        text: The final text; empty if the run ended with an error.
        error: The class of the exception that ended it; empty if there was none.
        stop: The finish reason of the last answer, in the words of the API.
        thanks: What the agent answers to a further message; None if it was not sent.
        input_tokens: Counted by the client over the run.
        output_tokens: The same.
    """

    tools: Tools = field(default_factory=Tools)
    text: str = ""
    error: str = ""
    stop: str = ""
    thanks: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def num_calls(self) -> int:
        return len(self.tools.calls)


class RoundLimitError(Exception):
    """The limit of a loop that is written by hand."""


@dataclass(frozen=True)
class Agent:
    """One agent.

    Attributes:
        api: The endpoint that it speaks to.
        limit: The rounds of calls after which it gives up.
        gives_up: The exception that it then raises; empty if it returns as if it were done.
        run: Fill what is seen of a run; its exceptions are the agent's.
    """

    name: str
    api: Api
    limit: int
    gives_up: str
    run: "Callable[[Seen, str, str, bool], None]"


def play(agent: Agent, url: str, model: str, stream: bool) -> Seen:
    """Run an agent at a base URL (with `/v1`), up to its end or its exception."""
    seen = Seen()
    try:
        agent.run(seen, url, model, stream)
    except Exception as error:
        seen.error = type(error).__name__
    return seen


# OpenAI's Agents SDK


def _sdk_tools(tools: Tools) -> list[Any]:
    return [
        agents.function_tool(tool)
        for tool in (tools.look_up, tools.search, tools.status, tools.edit)
    ]


async def _sdk_turn(agent: Any, given: Any, stream: bool) -> Any:
    if not stream:
        return await agents.Runner.run(agent, given)
    result = agents.Runner.run_streamed(agent, given)
    async for _ in result.stream_events():
        pass
    return result


async def _sdk_run(seen: Seen, url: str, name: str, stream: bool, uses_responses: bool) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        if uses_responses:
            model: Any = agents.OpenAIResponsesModel(model=name, openai_client=client)
        else:
            model = agents.OpenAIChatCompletionsModel(model=name, openai_client=client)
        settings = agents.ModelSettings(include_usage=True)
        agent = agents.Agent(
            name="register",
            instructions="Use the tools.",
            model=model,
            model_settings=settings,
            tools=_sdk_tools(seen.tools),
        )
        result = await _sdk_turn(agent, QUESTION, stream)
        usage = result.context_wrapper.usage
        seen.input_tokens, seen.output_tokens = usage.input_tokens, usage.output_tokens
        seen.text = str(result.final_output)
        history = [*result.to_input_list(), {"role": "user", "content": THANKS}]
        seen.thanks = str((await _sdk_turn(agent, history, stream)).final_output)


def _sdk_chat(seen: Seen, url: str, model: str, stream: bool) -> None:
    asyncio.run(_sdk_run(seen, url, model, stream, uses_responses=False))


def _sdk_responses(seen: Seen, url: str, model: str, stream: bool) -> None:
    asyncio.run(_sdk_run(seen, url, model, stream, uses_responses=True))


# LangChain


def _graph_turn(graph: Any, messages: list[Any], stream: bool) -> list[Any]:
    """Return the history behind a turn."""
    config = {"recursion_limit": 2 * MAX_ROUNDS + 1}  # a model's step and a tool's step a round
    if not stream:
        return list(graph.invoke({"messages": messages}, config)["messages"])
    history: list[Any] = []
    modes = ["messages", "values"]
    for mode, given in graph.stream({"messages": messages}, config, stream_mode=modes):
        if mode == "values":
            history = list(given["messages"])
    return history


def _graph_run(seen: Seen, model: Any, stream: bool) -> None:
    tools = seen.tools
    graph = create_agent(model, tools=[tools.look_up, tools.search, tools.status, tools.edit])
    history = _graph_turn(graph, [{"role": "user", "content": QUESTION}], stream)
    answers = [one for one in history if isinstance(one, AIMessage | AIMessageChunk)]
    for answer in answers:
        usage: Any = answer.usage_metadata or {}
        seen.input_tokens += usage.get("input_tokens", 0)
        seen.output_tokens += usage.get("output_tokens", 0)
    last = answers[-1]
    seen.text = str(last.text)
    reasons = [last.response_metadata.get(name) for name in ("finish_reason", "stop_reason")]
    seen.stop = next((str(reason) for reason in reasons if reason), "")
    if not seen.stop:
        seen.stop = str(last.response_metadata.get("status", ""))
    after = _graph_turn(graph, [*history, {"role": "user", "content": THANKS}], stream)
    seen.thanks = str(after[-1].text)


def _langchain_chat(seen: Seen, url: str, model: str, stream: bool) -> None:
    llm: Any = ChatOpenAI
    _graph_run(
        seen, llm(model=model, base_url=url, api_key=KEY, max_retries=0, stream_usage=True), stream
    )


def _langchain_responses(seen: Seen, url: str, model: str, stream: bool) -> None:
    llm: Any = ChatOpenAI
    options = {"base_url": url, "api_key": KEY, "max_retries": 0, "use_responses_api": True}
    _graph_run(seen, llm(model=model, **options), stream)


def _langchain_anthropic(seen: Seen, url: str, model: str, stream: bool) -> None:
    llm: Any = ChatAnthropic
    options = {"base_url": url.removesuffix("/v1"), "api_key": KEY, "max_retries": 0}
    _graph_run(
        seen, llm(model=model, **options, max_tokens=MAX_TOKENS, thinking=_thinking(model)), stream
    )


# Anthropic's client


def _thinking(model: str) -> dict[str, Any]:
    """Return the parameter of the Messages API that makes a model reason, where it can."""
    if MODELS[model].thinks:
        return {"type": "enabled", "budget_tokens": BUDGET}
    return {"type": "disabled"}


def _client(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key=KEY, max_retries=0)


def _declared() -> list[Any]:
    tools = []
    for name, parameter in PARAMETERS.items():
        kind = "integer" if parameter in INTEGERS else "string"
        schema = {"type": "object", "properties": {parameter: {"type": kind}}}
        tools.append({"name": name, "input_schema": {**schema, "required": [parameter]}})
    return tools


def _say(client: anthropic.Anthropic, stream: bool, **body: Any) -> Any:
    if not stream:
        return client.messages.create(**body)
    with client.messages.stream(**body) as events:
        return events.get_final_message()


def _text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def _note_message(seen: Seen, message: Any) -> None:
    seen.input_tokens += message.usage.input_tokens
    seen.output_tokens += message.usage.output_tokens


def _by_hand(seen: Seen, url: str, model: str, stream: bool) -> None:
    """Run the loop that Anthropic's documentation shows."""
    history: list[Any] = [{"role": "user", "content": QUESTION}]
    body: Any = {"model": model, "max_tokens": MAX_TOKENS, "thinking": _thinking(model)}
    with _client(url) as client:
        body |= {"tools": _declared(), "messages": history}
        for _ in range(MAX_ROUNDS):
            message = _say(client, stream, **body)
            _note_message(seen, message)
            history.append({"role": "assistant", "content": message.content})
            if message.stop_reason != "tool_use":
                break
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": block.id,
                    "content": seen.tools.run(block.name, block.input),
                }
                for block in message.content
                if block.type == "tool_use"
            ]
            history.append({"role": "user", "content": results})
        else:
            raise RoundLimitError
        seen.text, seen.stop = _text_of(message), str(message.stop_reason)
        history.append({"role": "user", "content": THANKS})
        seen.thanks = _text_of(_say(client, stream, **body))


def _tool_runner(seen: Seen, url: str, model: str, stream: bool) -> None:
    tools = [
        anthropic.beta_tool(tool)
        for tool in (seen.tools.look_up, seen.tools.search, seen.tools.status, seen.tools.edit)
    ]
    body: Any = {
        "model": model,
        "max_tokens": MAX_TOKENS,
        "thinking": _thinking(model),
        "tools": tools,
        "thread": False,  # the client holds the history, not the server
    }
    question: Any = {"role": "user", "content": QUESTION}
    with _client(url) as client:
        runner = client.beta.messages.tool_runner(
            **body, messages=[question], max_iterations=MAX_ROUNDS, stream=stream
        )
        message: Any = None
        for message in _messages_of(runner, stream):
            _note_message(seen, message)
        seen.text, seen.stop = _text_of(message), str(message.stop_reason)


def _messages_of(runner: Any, stream: bool) -> Iterable[Any]:
    for one in runner:
        yield one.get_final_message() if stream else one


SDK = (agents.run.DEFAULT_MAX_TURNS, "MaxTurnsExceeded")
GRAPH = (MAX_ROUNDS, "GraphRecursionError")
AGENTS = (
    Agent("OpenAI Agents SDK, chat", "chat", *SDK, _sdk_chat),
    Agent("OpenAI Agents SDK, Responses", "responses", *SDK, _sdk_responses),
    Agent("LangChain `ChatOpenAI`", "chat", *GRAPH, _langchain_chat),
    Agent("LangChain `ChatOpenAI`, Responses", "responses", *GRAPH, _langchain_responses),
    Agent("LangChain `ChatAnthropic`", "messages", *GRAPH, _langchain_anthropic),
    Agent("`anthropic`, loop by hand", "messages", MAX_ROUNDS, "RoundLimitError", _by_hand),
    Agent("`anthropic`, `tool_runner`", "messages", MAX_ROUNDS, "", _tool_runner),
)
