"""The endpoints at which answers are generated: one row each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dedup.answer.answer import Answer
from dedup_server.errors import ApiError
from dedup_server.requests.base import EndpointName, GenerationRequest
from dedup_server.requests.chat import (
    ChatRequest,
    CompletionRequest,
    SampledChatRequest,
    SampledCompletionRequest,
)
from dedup_server.requests.messages import MessagesRequest, SampledMessagesRequest
from dedup_server.requests.responses import ResponsesRequest, SampledResponsesRequest
from dedup_server.wire import chat, messages
from dedup_server.wire.base import Reader, Writer
from dedup_server.wire.chat import ChatReader, ChatWriter
from dedup_server.wire.messages import MessagesReader, MessagesWriter
from dedup_server.wire.responses import ResponsesWriter
from dedup_server.wire.responses_reader import ResponsesReader


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint.

    Args:
        name: Its name in metrics and in the OpenAPI document.
        path: Below `/v1`, here and at an upstream.
        forwarded, sampled: Its requests: for an upstream, and for an engine in this process.
        reader, writer: The two halves of its codec.
        error_body: The body of an error, in the API's own shape.
        operation: What it does, in OpenTelemetry's words for generative AI.
        summary: What it does, for the OpenAPI document.
        locks_reasoning: Its reasoning is signed, so it is not edited.
    """

    name: EndpointName
    path: str
    forwarded: type[GenerationRequest]
    sampled: type[GenerationRequest]
    reader: type[Reader]
    writer: Callable[[Answer, GenerationRequest], Writer]
    error_body: Callable[[ApiError], dict[str, Any]]
    operation: str
    summary: str
    locks_reasoning: bool = False


def _chat_writer(answer: Answer, request: GenerationRequest) -> Writer:
    return ChatWriter(
        answer,
        is_chat=request.endpoint == "chat",
        wants_usage=request.wants_usage or not request.stream,
    )


def _responses_writer(answer: Answer, request: GenerationRequest) -> Writer:
    return ResponsesWriter(answer)


def _messages_writer(answer: Answer, request: GenerationRequest) -> Writer:
    return MessagesWriter(answer)


CHAT = Endpoint(
    "chat",
    "/chat/completions",
    ChatRequest,
    SampledChatRequest,
    ChatReader,
    _chat_writer,
    chat.error_body,
    "chat",
    "A chat completion, streamed or whole",
)
COMPLETIONS = Endpoint(
    "completions",
    "/completions",
    CompletionRequest,
    SampledCompletionRequest,
    ChatReader,
    _chat_writer,
    chat.error_body,
    "text_completion",
    "A text completion, streamed or whole",
)
RESPONSES = Endpoint(
    "responses",
    "/responses",
    ResponsesRequest,
    SampledResponsesRequest,
    ResponsesReader,
    _responses_writer,
    chat.error_body,
    "chat",
    "A response (OpenAI's Responses API), streamed or whole",
)
MESSAGES = Endpoint(
    "messages",
    "/messages",
    MessagesRequest,
    SampledMessagesRequest,
    MessagesReader,
    _messages_writer,
    messages.error_body,
    "chat",
    "A message (Anthropic's Messages API), streamed or whole",
    locks_reasoning=True,
)
ENDPOINTS = {one.name: one for one in (CHAT, COMPLETIONS, RESPONSES, MESSAGES)}
