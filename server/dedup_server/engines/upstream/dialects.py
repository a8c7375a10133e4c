"""Table of servers that continue answers, and how each is asked to: one row a server."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from dedup.answer.continuation import OPENING_TOKENS, Continuation, Opening, Support
from dedup_server.requests.base import GenerationRequest
from dedup_server.requests.chat import ChatRequest, CompletionRequest

Json = dict[str, Any]
DRY_TOKENS = 4096  # that llama.cpp's DRY looks back
_APOSTROPHE = re.compile("['’]")
GoesOn = Literal["vllm", "sglang", "llamacpp", "continue_final_message", "assistant_message", "no"]


def no_bans(opening: Opening, sent: Json) -> Json:
    return {}


def _bad_words(continuation: Continuation, sent: Json) -> Json:
    """Ban words and phrases as vLLM does, with a space before them and without."""
    words = continuation.opening.banned if continuation.opening is not None else ()
    banned = [*words, *continuation.phrases]
    return {"bad_words": [*(sent.get("bad_words") or ()), *banned]} if banned else {}


def _biases(opening: Opening, sent: Json) -> Json:
    """Ban words as llama.cpp does: it splits a text into tokens and bans each of them."""
    # Without "What" there is no "What's"; with both, "'s" is banned as well: "What'a".
    words = dict.fromkeys(_APOSTROPHE.split(word)[0] or word for word in opening.banned)
    banned = [text for word in words for text in (word, " " + word)]
    if opening.stands_open:
        banned += ["\n", "\n\n"]
    given = [[int(token), bias] for token, bias in (sent.get("logit_bias") or {}).items()]
    return {"logit_bias": given + [[text, False] for text in banned]}


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server, and how it is asked to continue an answer.

    Args:
        owner: What its list of models names as their owner (`owned_by`).
        name: What the log calls it.
        fields: What a chat request carries, beside a last message of the assistant's.
        methods: The parameters against repetition that it obeys; see `Support`.
        defaults: Parameters that those need in addition.
        bans: How it bans an opening's words.
        bad_words: It bans the words and phrases in a field of this name.
        may_not_end: The fields that keep it from ending within an opening.
        template_options: Options of its chat template without which a model that reasons does not
            continue a message; it is not told its reasoning then.
    """

    owner: str
    name: str
    fields: tuple[tuple[str, Any], ...] = ()
    methods: frozenset[str] = frozenset({"frequency_penalty"})
    defaults: tuple[tuple[str, Any], ...] = ()
    bans: Callable[[Opening, Json], Json] = no_bans
    bad_words: bool = False
    may_not_end: tuple[tuple[str, Any], ...] = ()
    template_options: tuple[tuple[str, Any], ...] | None = None

    @property
    def support(self) -> Support:
        return Support(self.methods, bans_phrases=self.bad_words)

    def continued(self, request: GenerationRequest, continuation: Continuation) -> Json:
        """Return the fields of the request that change when an answer is continued."""
        changes: Json = {**dict(self.defaults), **continuation.parameters}
        if continuation.opening is not None:
            changes.update(self.bans(continuation.opening, request.sent))
            if not continuation.opening.can_stop:
                changes.update(self.may_not_end)
        if self.bad_words:
            changes.update(_bad_words(continuation, request.sent))
        if "min_tokens" in changes:
            limits = [changes[name] for name in _LIMITS if changes.get(name) is not None]
            changes["min_tokens"] = min([changes["min_tokens"], *limits])
        if isinstance(request, CompletionRequest):
            return {**changes, "prompt": request.prompt + continuation.prefix}
        assert isinstance(request, ChatRequest)
        last = {"role": "assistant", "content": continuation.prefix}
        if continuation.reasoning and self.template_options is None:
            last["reasoning_content"] = continuation.reasoning
        changes.update(messages=[*request.body["messages"], last], **dict(self.fields))
        if self.template_options is not None:
            given = request.sent.get("chat_template_kwargs") or {}
            changes["chat_template_kwargs"] = {**given, **dict(self.template_options)}
        return changes


_FINAL_MESSAGE = (("add_generation_prompt", False), ("continue_final_message", True))
_LIMITS = ("max_tokens", "max_completion_tokens")
_MIN_TOKENS = (("min_tokens", OPENING_TOKENS),)
_DIALECTS = (
    Dialect("vllm", "vLLM", _FINAL_MESSAGE, bad_words=True, may_not_end=_MIN_TOKENS),
    Dialect("sglang", "SGLang", _FINAL_MESSAGE, may_not_end=_MIN_TOKENS),
    Dialect(
        "llamacpp",
        "llama.cpp",
        methods=frozenset({"dry_multiplier", "frequency_penalty"}),
        defaults=(("dry_penalty_last_n", DRY_TOKENS),),  # it takes no -1, and its default is 64
        bans=_biases,
        may_not_end=(("ignore_eos", True),),
        template_options=(("enable_thinking", False),),
    ),
)
_BY_OWNER = {dialect.owner: dialect for dialect in _DIALECTS}
_BY_SETTING: dict[str, Dialect] = {
    **_BY_OWNER,
    "continue_final_message": Dialect("", "continue_final_message", _FINAL_MESSAGE),
    "assistant_message": Dialect("", "assistant_message"),
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
