"""LiteLLM's generic guardrail API: the text so far comes again and again, and goes back edited.

    POST /beta/litellm_basic_guardrail_api

What was given back for a text is never taken back: with each call it grows, or stays. The last call
of a stream does not say that it is the last one. So what is held goes back behind the text, with
`stream_holdback_chars` to withhold it for now.
"""

from collections import OrderedDict
from typing import Any, Final, Literal

import msgspec

from dedup.answer.agent_loops import find_loop
from dedup.answer.agent_loops.notices import NUDGE, NUDGE_ZH, in_language_of
from dedup.answer.agent_loops.nudging import nudged
from dedup.answer.channel import Clock, Editing, no_clock
from dedup.answer.conversation import last_prompt
from dedup.config import Policy
from dedup_server.errors import ApiError, invalid
from dedup_server.telemetry import Telemetry

PATH: Final = "/beta/litellm_basic_guardrail_api"
IDLE_SECONDS: Final = 60.0  # after which an answer is taken to be over
_MAX_ANSWERS: Final = 1000
_MAX_REHEARSALS: Final = 4  # of a text; each costs as much as filtering it
_MAX_TEXTS: Final = 128  # of a call: choices of an answer
_MAX_CHARS: Final = 1_000_000  # of a call's texts together
_BLOCKED: Final = "repetition_detected: the answer was ended at a loop"

Json = dict[str, Any]


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The operator's options: `additional_provider_specific_params` in LiteLLM's configuration.

    Args:
        policy: None is the server's.
        at_loop: `block`: once the reader has the text up to the loop, end the stream with an error:
            LiteLLM then hangs up on the model. `drain`: let the model go on, to an ordinary end.
        agent_loops: `nudge` appends a notice to the last tool result where an agent is in a loop.
    """

    policy: Policy | None = None
    at_loop: Literal["block", "drain"] = "block"
    agent_loops: Literal["measure", "nudge"] = "measure"


class GuardrailRequest(msgspec.Struct, frozen=True):
    """A call of LiteLLM's, as far as it matters here.

    Args:
        input_type: Whether the texts are those of a prompt, or of an answer.
        texts: Of an answer: the texts so far of the choices that have one, in order.
        litellm_call_id: Names the answer.
        structured_messages: The prompt, in the form of chat.
    """

    input_type: Literal["request", "response"]
    texts: list[str] | None = None
    litellm_call_id: str | None = None
    structured_messages: list[Any] | None = None
    model: str | None = None
    additional_provider_specific_params: Params | None = None


_decode = msgspec.json.Decoder(GuardrailRequest).decode


def read(body: bytes) -> GuardrailRequest:
    """Return the request in a body. Raises `ApiError` (400, 413)."""
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {error}", code="invalid_json") from None
    if request.input_type == "response" and request.texts is not None:
        if len(request.texts) > _MAX_TEXTS:
            raise invalid(f"texts: must be at most {_MAX_TEXTS}", "texts")
        if sum(map(len, request.texts)) > _MAX_CHARS:
            message = f"the texts are longer than {_MAX_CHARS} characters"
            raise ApiError(413, message, param="texts", code="text_too_long")
    return request


class _Text:
    """A text that grows from call to call. The text itself is not kept, only what was made of it."""

    def __init__(self, editing: Editing, clock: Clock) -> None:
        self.channel = editing.channel("content", clock)
        self._editing = editing
        self._num_read = 0
        self._hash = hash("")
        self._removed: list[tuple[int, int]] = []
        self._num_rehearsals = 0
        self._ending: str | None = None  # of what was read, if it was asked for
        self._length = 0  # when it was last given back

    def begins(self, text: str) -> bool:
        """Return whether `text` goes on with what was read."""
        return len(text) >= self._num_read and hash(text[: self._num_read]) == self._hash

    def goes_on(self, text: str) -> bool:
        """Return whether the model went on after the reader was given all up to a loop."""
        return self.channel.is_cut and 0 < self._length < len(text)

    def read(self, text: str) -> tuple[str, int]:
        """Return the edited text, and how many characters at its end are held.

        Only what is new is filtered.
        """
        channel, is_first, new = self.channel, not self._num_read, text[self._num_read :]
        if new and not channel.is_cut:
            channel.feed(new)
            self._num_read, self._hash = len(text), hash(text)
            self._ending = None
        self._length = len(text)
        if channel.has_failed:
            return _without(text, self._removed), 0
        self._removed = [(removal.start, removal.end) for removal in channel.filter.removed]
        kept = _without(text[: self._num_read], self._removed)
        given, held = kept[: channel.filter.chars_out], kept[channel.filter.chars_out :]
        # A whole answer comes once; the last call of a stream often brings nothing new.
        if held and (is_first or not new):
            self._rehearse(text, given)
            held = held if self._ending is None else self._ending
        return given + held, len(held)

    def _rehearse(self, text: str, given: str) -> None:
        """Find out what comes behind `given` if the text ends here."""
        if self._ending is None and self._num_rehearsals < _MAX_REHEARSALS:
            self._num_rehearsals += 1
            rehearsal = self._editing.channel("content", no_clock)
            self._ending = (rehearsal.feed(text) + rehearsal.flush())[len(given) :]


class _Answer:
    """The texts of an answer, and the prompt, where LiteLLM has sent it."""

    def __init__(self) -> None:
        self.prompt = ""
        self.model: str | None = None
        self.used_at = 0.0
        self.texts: list[_Text] = []

    def text(
        self, text: str, position: int, taken: list[_Text], editing: Editing, clock: Clock
    ) -> _Text:
        """Return the text that goes on with `text`: at its place, or behind others that are new."""
        for one in [*self.texts[position : position + 1], *self.texts]:
            if one not in taken and one.begins(text):
                return one
        self.texts.append(_Text(editing, clock))
        return self.texts[-1]


class Guardrail:
    """The answers in progress, bounded in number and time. What is forgotten is read again.

    Args:
        telemetry: Counts an answer when it is over.
        clock: Returns seconds.
        max_answers: Answers in progress; the one that was not asked for longest is forgotten.
        idle_seconds: Time after the last call at which an answer is over.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        clock: Clock,
        *,
        max_answers: int = _MAX_ANSWERS,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._telemetry = telemetry
        self._clock = clock
        self._max_answers = max_answers
        self._idle_seconds = idle_seconds
        self._answers: OrderedDict[str, _Answer] = OrderedDict()  # last used last

    @property
    def num_answers(self) -> int:
        """Return the number of answers in progress."""
        return len(self._answers)

    def answer(self, request: GuardrailRequest, policy: Policy) -> Json:
        """Return the answer to a call.

        Args:
            request: The call.
            policy: The policy where it names none.
        """
        self.expire()
        params = request.additional_provider_specific_params or Params()
        if request.input_type == "request":
            return self._prompt(request, params)
        return self._texts(request, params, params.policy or policy)

    def expire(self) -> None:
        """Count and forget the answers that are over, and those beyond the limit."""
        until = self._clock() - self._idle_seconds
        while self._answers:
            oldest = next(iter(self._answers.values()))
            if len(self._answers) < self._max_answers and oldest.used_at > until:
                break
            self._count(self._answers.popitem(last=False)[1])

    def close(self) -> None:
        """Count and forget all answers."""
        while self._answers:
            self._count(self._answers.popitem(last=False)[1])

    def _prompt(self, request: GuardrailRequest, params: Params) -> Json:
        """Remember the prompt: what it asks for may repeat. Nudge an agent that is in a loop."""
        messages = request.structured_messages or []
        prompt = last_prompt(messages)
        if prompt and request.litellm_call_id:
            self._use(request.litellm_call_id, request.model).prompt = prompt
        if params.agent_loops == "nudge" and find_loop(messages) is not None:
            changed = nudged(messages, in_language_of(prompt, NUDGE, NUDGE_ZH))
            if changed is not None:
                return {"action": "GUARDRAIL_INTERVENED", "structured_messages": changed}
        return {"action": "NONE"}

    def _texts(self, request: GuardrailRequest, params: Params, policy: Policy) -> Json:
        """Edit the texts of an answer, or end it where all of them loop and the model goes on."""
        texts = request.texts or []
        answer = self._use(request.litellm_call_id, request.model)
        editing = Editing(policy, answer.prompt)
        own: list[_Text] = []
        for position, text in enumerate(texts):
            own.append(answer.text(text, position, own, editing, self._clock))
        goes_on = any(one.goes_on(text) for one, text in zip(own, texts, strict=True))
        if goes_on and params.at_loop == "block" and all(one.channel.is_cut for one in own):
            return {"action": "BLOCKED", "blocked_reason": _BLOCKED}
        read = [one.read(text) for one, text in zip(own, texts, strict=True)]
        given, held = [text for text, _ in read], [size for _, size in read]
        reply: Json = {"action": "NONE"}
        if given != texts:
            reply = {"action": "GUARDRAIL_INTERVENED", "texts": given}
        if any(held):
            reply["stream_holdback_chars"] = held
        return reply

    def _use(self, name: str | None, model: str | None) -> _Answer:
        """Return the answer of a call; a new one if it is not known, or has no name."""
        answer = self._answers.pop(name, None) if name else None
        if answer is None:
            answer = _Answer()
        answer.model = model or answer.model
        answer.used_at = self._clock()
        if name:
            self._answers[name] = answer
        return answer

    def _count(self, answer: _Answer) -> None:
        channels = [text.channel for text in answer.texts]
        if not channels:
            return
        telemetry = self._telemetry
        if answer.model:
            telemetry.learn_called(answer.model)  # LiteLLM has other models than this server
        label = telemetry.model_label(answer.model)
        outcome = "cut" if any(channel.is_cut for channel in channels) else "ok"
        telemetry.count("requests", 1, label, "guardrail", outcome)
        for channel in channels:
            channel.flush()
            telemetry.count_channel(channel, label, is_delivered=True)
        telemetry.observe("overhead_seconds", sum(one.overhead_seconds for one in channels), label)


def _without(text: str, removed: list[tuple[int, int]]) -> str:
    """Return a text without some spans of it."""
    kept, at = [], 0
    for start, end in removed:
        kept.append(text[at:start])
        at = end
    return "".join([*kept, text[at:]])
