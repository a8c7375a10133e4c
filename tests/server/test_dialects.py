"""The fields with which each kind of server is asked to continue an answer."""

from typing import Any

import pytest

from dedup.answer.continuation import OPENING_TOKENS, Continuation, Opening
from dedup_server.engines.upstream.dialects import DRY_TOKENS, dialect_of
from tests.server.wired import forwarded

WITHIN = Opening(("milk",), stands_open=True, can_stop=False, is_own_call=True)
BEHIND = Opening(("He",), stands_open=False, can_stop=True, is_own_call=True)
HELLO = [{"role": "user", "content": "Hello"}]


def asked(
    owner: str, opening: Opening | None, *, limit: int = OPENING_TOKENS, **sent: Any
) -> dict[str, Any]:
    """Return the fields that change when an opening is asked for."""
    dialect = dialect_of(None, owner)
    assert dialect is not None
    request = forwarded("chat", {"model": "m", "messages": HELLO, **sent})
    return dialect.continued(request, Continuation("It is", opening, {"max_tokens": limit}))


@pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp"])
def test_the_last_message_is_what_is_continued(owner: str) -> None:
    last = {"role": "assistant", "content": "It is"}
    changes = asked(owner, None)
    assert changes["messages"] == [*HELLO, last]
    assert changes.get("continue_final_message", False) is (owner != "llamacpp")
    assert not {"bad_words", "min_tokens", "logit_bias", "ignore_eos"} & set(changes)


def test_a_text_completion_is_continued_in_its_prompt() -> None:
    dialect = dialect_of(None, "vllm")
    assert dialect is not None
    request = forwarded("completions", {"model": "m", "prompt": "Hello. "})
    changes = dialect.continued(request, Continuation("It is", WITHIN, {"max_tokens": 16}))
    assert changes["prompt"] == "Hello. It is"
    assert changes["bad_words"] == ["milk"]
    assert "messages" not in changes


def test_vllm_bans_words_beside_the_client_s_own() -> None:
    assert asked("vllm", WITHIN)["bad_words"] == ["milk"]
    assert asked("vllm", WITHIN, bad_words=["tea"])["bad_words"] == ["tea", "milk"]
    nothing = Opening((), stands_open=True, can_stop=False, is_own_call=True)
    assert "bad_words" not in asked("vllm", nothing)


@pytest.mark.parametrize("owner", ["vllm", "sglang"])
def test_where_the_text_cannot_stop_the_opening_goes_on_as_far_as_it_may(owner: str) -> None:
    assert asked(owner, WITHIN)["min_tokens"] == OPENING_TOKENS
    assert asked(owner, WITHIN, limit=5)["min_tokens"] == 5
    assert "min_tokens" not in asked(owner, BEHIND)


def test_vllm_bans_phrases_behind_the_opening_too() -> None:
    dialect = dialect_of(None, "vllm")
    assert dialect is not None
    request = forwarded("chat", {"model": "m", "messages": HELLO})
    phrases = ("round and round it goes",)
    free = dialect.continued(request, Continuation("It is", None, {}, phrases=phrases))
    assert free["bad_words"] == ["round and round it goes"]
    opening = dialect.continued(request, Continuation("It is", WITHIN, {}, phrases=phrases))
    assert opening["bad_words"] == ["milk", "round and round it goes"]


def test_sglang_cannot_ban_words() -> None:
    assert not {"bad_words", "logit_bias"} & set(asked("sglang", WITHIN))


def test_llama_cpp_bans_words_and_line_ends_beside_the_client_s_biases() -> None:
    changes = asked("llamacpp", WITHIN, logit_bias={"15": -3})
    banned = [["milk", False], [" milk", False], ["\n", False], ["\n\n", False]]
    assert changes["logit_bias"] == [[15, -3], *banned]
    assert asked("llamacpp", BEHIND)["logit_bias"] == [["He", False], [" He", False]]


def test_llama_cpp_does_not_ban_what_follows_an_apostrophe() -> None:
    """It bans each token of a text; without "'s" the model says "What'a it?"."""
    words = ("What's", "What", "’s")
    opening = Opening(words, stands_open=False, can_stop=True, is_own_call=True)
    biases = asked("llamacpp", opening)["logit_bias"]
    assert [text for text, _ in biases] == ["What", " What", "’s", " ’s"]


def test_llama_cpp_may_not_end_only_where_the_text_cannot_stop() -> None:
    assert asked("llamacpp", WITHIN)["ignore_eos"] is True
    assert "ignore_eos" not in asked("llamacpp", BEHIND)
    assert "min_tokens" not in asked("llamacpp", WITHIN)


def test_llama_cpp_s_dry_looks_back_far() -> None:
    """Its own default is 64 tokens, and it refuses -1."""
    assert asked("llamacpp", None)["dry_penalty_last_n"] == DRY_TOKENS > 64
    assert "dry_penalty_last_n" not in asked("vllm", None)


def test_reasoning_goes_along_or_is_switched_off() -> None:
    continuation = Continuation("It is", BEHIND, {}, reasoning="Let me see.")
    request = forwarded("chat", {"model": "m", "messages": HELLO})
    for owner in ("vllm", "sglang", "llamacpp"):
        dialect = dialect_of(None, owner)
        assert dialect is not None
        changes = dialect.continued(request, continuation)
        told = changes["messages"][-1].get("reasoning_content")
        assert told == (None if owner == "llamacpp" else "Let me see.")
    request = forwarded(
        "chat", {"model": "m", "messages": HELLO, "chat_template_kwargs": {"date": "today"}}
    )
    dialect = dialect_of(None, "llamacpp")
    assert dialect is not None
    options = dialect.continued(request, continuation)["chat_template_kwargs"]
    assert options == {"date": "today", "enable_thinking": False}


@pytest.mark.parametrize(
    ("setting", "owner", "is_known"),
    [
        (None, "somebody", False),
        (None, None, False),
        ("no", "vllm", False),
        ("assistant_message", "somebody", True),
        ("continue_final_message", None, True),
    ],
)
def test_the_operator_s_setting_wins(setting: Any, owner: str | None, is_known: bool) -> None:
    assert (dialect_of(setting, owner) is not None) is is_known
