"""Guardrail for the LiteLLM proxy: removes repetition from answers, and ends them at a loop."""

import logging
import time
from collections.abc import AsyncIterator, Collection
from copy import deepcopy
from typing import Any, Final, Literal, get_args

import litellm
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.types.guardrails import GuardrailEventHooks
from litellm.types.utils import Delta as MessageDelta
from litellm.types.utils import StreamingChoices, TextChoices

from dedup.answer.agent_loops import find_loop
from dedup.answer.agent_loops.notices import NUDGE, NUDGE_ZH, in_language_of
from dedup.answer.agent_loops.nudging import nudged
from dedup.answer.answer import Answer
from dedup.answer.channel import Editing
from dedup.answer.chat_objects import ChunkFilter, filter_whole
from dedup.answer.conversation import answers, last_prompt
from dedup.answer.frame import Delta, Finish
from dedup.config import POLICIES, Policy

AgentLoops = Literal["measure", "nudge"]
Json = dict[str, Any]

_log: Final = logging.getLogger("dedup.litellm")


class RepetitionGuardrail(CustomGuardrail):  # type: ignore[misc]
    """Guardrail of chat and text completions, streamed or whole.

    Args:
        policy: The filter's; see `FilterConfig`. A request's `metadata.repetition.policy` goes first.
        agent_loops: `nudge` appends a notice to the last tool result where the agent is in a loop.
        repeatable_tools: Tools that are meant to be called again and again.
        options: LiteLLM's own: `guardrail_name`, `event_hook`, `default_on`, ...

    Raises:
        ValueError: An option has a value that does not exist.
    """

    def __init__(
        self,
        *,
        policy: Policy = "balanced",
        agent_loops: AgentLoops = "measure",
        repeatable_tools: Collection[str] = (),
        **options: Any,
    ) -> None:
        _check("agent_loops", agent_loops, get_args(AgentLoops))
        if isinstance(repeatable_tools, str):
            raise ValueError("repeatable_tools must be a list of names, got a string")
        self._policy: Policy = _check("policy", policy, POLICIES)
        self._nudges = agent_loops == "nudge"
        self._repeatable = frozenset(repeatable_tools)
        super().__init__(**options)

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: Json, call_type: str
    ) -> Json:
        """Report the loop of tool calls that the request's history ends in."""
        if (policy := _requested(data)) not in (None, *POLICIES):
            reason = f"metadata.repetition.policy must be one of {', '.join(POLICIES)}"
            raise HTTPException(400, f"{reason}, got {policy!r}")
        messages = data.get("messages")
        try:
            if not data.get("tools") or not isinstance(messages, list):
                return data
            loop = find_loop(messages, repeatable=self._repeatable)
            if loop is None:
                return data
            notice = in_language_of(last_prompt(messages), NUDGE, NUDGE_ZH)
            changed = nudged(messages, notice) if self._nudges else None
            action = "measured"
            if changed is not None:
                action, data["messages"] = "nudged", changed
            self._record(data, {"agent_loop": {**loop.report(), "action": action}}, "pre_call")
        except Exception:
            _log.exception("the history was not searched for a loop")
        return data

    async def async_post_call_success_hook(
        self, data: Json, user_api_key_dict: Any, response: Any
    ) -> Any:
        """Return a whole answer without its repetition."""
        try:
            answer = self._answer(data)
            filter_whole(answer, response)
            self._report(data, answer)
        except Exception:
            _log.exception("the filter failed; the answer passes unfiltered")
        return response

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Json
    ) -> AsyncIterator[Any]:
        """Yield the chunks of a stream without their repetition, up to a loop.

        LiteLLM closes its connection to the model where this ends.
        """
        stream = ChunkFilter(self._answer(request_data), deepcopy, _chunk)
        try:
            async for chunk in response:
                for given in stream.feed(chunk):
                    yield given
                if stream.is_over:
                    break
            for given in stream.release():
                yield given
        except Exception:
            for given in stream.release():
                yield given
            raise
        finally:
            self._report(request_data, stream.answer)
            if stream.is_over:
                await _log_cut(request_data, stream.chunks)
                await response.aclose()

    def _answer(self, data: Json) -> Answer:
        messages = data.get("messages")
        prompt = last_prompt(messages) or str(data.get("prompt") or "")
        form = data.get("response_format")
        wants_json = str(form.get("type") if isinstance(form, dict) else form).startswith("json")
        policy = _requested(data)
        if policy not in POLICIES:
            policy = self._policy
        history = answers(messages) if policy == "strict" else ()
        editing = Editing(policy, prompt, history, wants_json)
        return Answer(editing, num_choices=data.get("n") or 1, clock=time.perf_counter)

    def _report(self, data: Json, answer: Answer) -> None:
        """Put the `repetition` object where LiteLLM's loggers look for it."""
        try:
            self._record(data, answer.summary(), "post_call", has_edited=answer.has_report())
        except Exception:
            _log.exception("the report was not logged")

    def _record(self, data: Json, report: Json, hook: str, *, has_edited: bool = True) -> None:
        self.add_standard_logging_guardrail_information_to_request_data(
            guardrail_json_response=report,
            request_data=data,
            guardrail_status="guardrail_intervened" if has_edited else "success",
            guardrail_provider="dedup",
            event_type=GuardrailEventHooks(hook),
        )


async def _log_cut(data: Json, chunks: list[Any]) -> None:
    """Log and bill what was generated; LiteLLM does that only where the model ends the stream."""
    try:
        logging_obj, messages = data["litellm_logging_obj"], data.get("messages")
        whole = litellm.stream_chunk_builder(chunks, messages, logging_obj=logging_obj)
        await logging_obj.dispatch_success_handlers(
            whole, cache_hit=False, start_time=None, end_time=None, prefer_async_handlers=True
        )
    except Exception:
        _log.exception("a stream that was cut was not logged")


def _chunk(like: Any, piece: Delta | Finish, fields: Json) -> Any:
    """Return a chunk for held text, or for the end of a choice, with the head of another chunk."""
    index, part, text = piece.choice, "content", ""
    if isinstance(piece, Delta):
        part, text = piece.part, piece.text
    body: Json = {part: text} if text else {}
    if part.startswith("tool_calls"):
        call = {"index": int(part.rpartition(".")[2]), "function": {"arguments": text}}
        body = {"tool_calls": [call]}
    if isinstance(like.choices[0], TextChoices):
        choice = TextChoices(index=index, text=text, **fields)
    else:
        choice = StreamingChoices(index=index, delta=MessageDelta(**body), **fields)
    return like.model_copy(update={"choices": [choice]})


def _requested(data: Json) -> Any:
    """Return the policy that a request asks for, in `metadata.repetition`; None if it does not."""
    options = (data.get("metadata") or {}).get("repetition")
    return options.get("policy") if isinstance(options, dict) else None


def _check(name: str, value: Any, allowed: Collection[str]) -> Any:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value
