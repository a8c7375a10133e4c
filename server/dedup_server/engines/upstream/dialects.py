"""Table of servers that continue answers, and how each is asked to: one row a server."""

from dataclasses import dataclass
from typing import Any, Literal

from dedup.answer.continuation import Continuation, Support
from dedup_server.requests.base import GenerationRequest
from dedup_server.requests.chat import ChatRequest, CompletionRequest

Json = dict[str, Any]
GoesOn = Literal["continue_final_message", "assistant_message", "no"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server, and how it is asked to continue an answer.

    Args:
        owner: What its list of models names as their owner (`owned_by`).
        fields: What a chat request carries, beside a last message of the assistant's.
        bans: The field of a request that bans words; empty where there is none.
    """

    owner: str
    fields: tuple[tuple[str, Any], ...] = ()
    bans: str = ""

    @property
    def support(self) -> Support:
        return Support(has_all_methods=False, can_avoid=bool(self.bans))

    def continued(self, request: GenerationRequest, continuation: Continuation) -> Json:
        """Return the fields of the request that change when an answer is continued."""
        changes: Json = dict(continuation.parameters)
        if self.bans and continuation.avoided.strip():
            changes[self.bans] = _openings(continuation.avoided)
        if isinstance(request, CompletionRequest):
            return {**changes, "prompt": request.prompt + continuation.prefix}
        assert isinstance(request, ChatRequest)
        last = {"role": "assistant", "content": continuation.prefix}
        messages = [*request.body["messages"], last]
        return {**changes, "messages": messages, **dict(self.fields)}


_FINAL_MESSAGE = (("add_generation_prompt", False), ("continue_final_message", True))
_DIALECTS = (
    Dialect("vllm", _FINAL_MESSAGE, bans="bad_words"),
    Dialect("sglang", _FINAL_MESSAGE, bans="bad_words"),
    Dialect("llamacpp"),
)
_BY_OWNER = {dialect.owner: dialect for dialect in _DIALECTS}
_BY_SETTING: dict[GoesOn, Dialect] = {
    "continue_final_message": Dialect("", _FINAL_MESSAGE, bans="bad_words"),
    "assistant_message": Dialect(""),
}


def dialect_of(setting: GoesOn | None, owner: object) -> Dialect | None:
    """Return a server's dialect; None if it is not known to continue answers.

    Args:
        setting: What the operator set (`goes_on`), which wins.
        owner: What the server's list of models names as the owner of the model.
    """
    if setting is not None:
        return _BY_SETTING.get(setting)
    return _BY_OWNER.get(str(owner))


def _openings(text: str) -> list[str]:
    """Return with what `text` begins, as vLLM bans it.

    That is the first words; in scripts without spaces the first characters, cut as a tokenizer may.
    """
    words = text.split()
    if len(words) > 1 and len(words[0]) < 24:
        return [" ".join(words[:3])]
    return [words[0][:size] for size in range(2, 6)]
