"""Guardrail for the LiteLLM proxy: removes repetition from answers, and ends them at a loop."""

import logging
from collections.abc import AsyncIterator
from copy import deepcopy
from typing import Any, Final, Literal

import litellm
from fastapi import HTTPException
from litellm.integrations.custom_guardrail import CustomGuardrail
from litellm.types.guardrails import GuardrailEventHooks
from litellm.types.utils import StreamingChoices, TextChoices

from dedup.answer.agent_loops import find_loop
from dedup.answer.agent_loops.notices import NUDGE, NUDGE_ZH, in_language_of
from dedup.answer.agent_loops.nudging import nudged
from dedup.answer.answer import Answer
from dedup.answer.chat_objects import ChunkFilter, filter_whole
from dedup.answer.conversation import editing_of, last_prompt
from dedup.answer.frame import Delta, Finish
from dedup.config import POLICIES, Policy

Json = dict[str, Any]

_log: Final = logging.getLogger("dedup.litellm")


class RepetitionGuardrail(CustomGuardrail):  # type: ignore[misc]
    """Guardrail of chat and text completions, streamed or whole.

    Args:
        policy: Of the filter; a request's own, in `metadata.repetition.policy`, goes first.
        agent_loops: `nudge` appends a notice to the last tool result where the agent is in a loop.
        options: LiteLLM's own: `guardrail_name`, `event_hook`, `default_on`, ...

    Raises:
        ValueError: There is no such policy, or no such way to treat agents' loops.
    """

    def __init__(
        self,
        *,
        policy: Policy = "balanced",
        agent_loops: Literal["measure", "nudge"] = "measure",
        **options: Any,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
        if agent_loops not in ("measure", "nudge"):
            raise ValueError(f"agent_loops must be measure or nudge, got {agent_loops!r}")
        self._policy, self._nudges = policy, agent_loops == "nudge"
        super().__init__(**options)

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: Json, call_type: str
    ) -> Json:
        """Report the loop of tool calls that the request's history ends in; nudge, if asked to."""
        if (policy := _policy_in(data)) not in (None, *POLICIES):
            reason = f"metadata.repetition.policy must be one of {', '.join(POLICIES)}"
            raise HTTPException(400, f"{reason}, got {policy!r}")
        try:
            messages = data.get("messages") or []
            loop = find_loop(messages) if data.get("tools") else None
            if loop is not None:
                notice = in_language_of(last_prompt(messages), NUDGE, NUDGE_ZH)
                changed = nudged(messages, notice) if self._nudges else None
                data["messages"] = changed or messages
                action = "nudged" if changed else "measured"
                self._record(data, {"agent_loop": {**loop.report(), "action": action}}, "pre_call")
        except Exception:
            _log.exception("the search for an agent's loop failed")
        return data

    async def async_post_call_success_hook(
        self, data: Json, user_api_key_dict: Any, response: Any
    ) -> Any:
        """Return a whole answer without its repetition."""
        try:
            answer = self._answer(data)
            filter_whole(answer, response)
            self._record_answer(data, answer)
        except Exception:
            _log.exception("the filter failed; the answer passes unfiltered")
        return response

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Json
    ) -> AsyncIterator[Any]:
        """Yield the chunks of a stream, up to a loop: there LiteLLM hangs up on the model."""
        answer, num_choices = self._answer(request_data), request_data.get("n") or 1
        stream = ChunkFilter(answer, num_choices, deepcopy, _chunk)
        try:
            async for chunk in response:
                for given in stream.feed(chunk):
                    yield given
                if stream.is_over:
                    break
        except Exception:
            for given in stream.release():
                yield given
            raise
        finally:
            self._record_answer(request_data, answer)
            if stream.is_over:
                await _log_cut(request_data, stream.chunks)
        for given in stream.release():
            yield given

    def _answer(self, data: Json) -> Answer:
        policy = _policy_in(data)
        editing = editing_of(data, policy if policy in POLICIES else self._policy)
        return Answer(editing, num_choices=data.get("n") or 1)

    def _record_answer(self, data: Json, answer: Answer) -> None:
        report = answer.summary()
        self._record(data, report, "post_call", report["removed_chars"] > 0)

    def _record(self, data: Json, report: Json, hook: str, has_edited: bool = True) -> None:
        """Put a report where LiteLLM's loggers look for it."""
        self.add_standard_logging_guardrail_information_to_request_data(
            report,
            data,
            guardrail_status="guardrail_intervened" if has_edited else "success",
            guardrail_provider="dedup",
            event_type=GuardrailEventHooks(hook),
        )


async def _log_cut(data: Json, chunks: list[Any]) -> None:
    """Log and bill what was generated; LiteLLM does that only where the model ends the stream."""
    try:
        log, whole = data["litellm_logging_obj"], litellm.stream_chunk_builder(chunks)
        await log.dispatch_success_handlers(whole, None, None, False, prefer_async_handlers=True)
    except Exception:
        _log.exception("a stream that was cut was not logged")


def _chunk(like: Any, piece: Delta | Finish, fields: Json) -> Any:
    """Return a chunk for held text, or for the end of a choice, with the head of another chunk."""
    part, text = (piece.part, piece.text) if isinstance(piece, Delta) else ("content", None)
    body: Json = {part: text}
    if part.startswith("tool_calls"):
        call = {"index": int(part.rpartition(".")[2]), "function": {"arguments": text}}
        body = {"tool_calls": [call]}
    if isinstance(like.choices[0], TextChoices):
        choice = TextChoices(index=piece.choice, text=text or "", **fields)
    else:
        choice = StreamingChoices(index=piece.choice, delta=body, **fields)
    return like.model_copy(update={"choices": [choice]})


def _policy_in(data: Json) -> Any:
    metadata = data.get("metadata") or {}
    return (metadata.get("repetition") or {}).get("policy")
