"""Repetition in chat data: rows of messages.

chat_signals([{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}])
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dedup.corpus.signals import own_signals, sentences_of
from dedup.text.words import sentence_key

_ANSWERS: Final = ("assistant", "gpt", "model", "bot")


def turns_of(row: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    """Return the roles and texts of a row's turns; None if it is no chat.

    Reads `messages` with `role` and `content`, and ShareGPT's `conversations` with `from` and
    `value`. Content in parts counts as their texts.
    """
    for key in ("messages", "conversations"):
        messages = row.get(key)
        if isinstance(messages, list) and messages:
            return [turn for message in messages for turn in _turn(message)]
    return None


def answers_of(turns: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each answer of a chat with the prompt before it; the prompt is empty without one."""
    prompt = ""
    for role, text in turns:
        if role in _ANSWERS:
            yield prompt, text
        elif role in ("user", "human"):
            prompt = text


def chat_signals(messages: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return repetition signals of a chat.

    Args:
        messages: the messages, with `role` and `content`, or `from` and `value`.

    Returns:
        `turns` and `answers`, counts. `looping_answers`, answers that contain a loop.
        `dup_sentence_frac_within`, the share of sentences that repeat one of the same answer, and
        `dup_sentence_frac_across`, one of an earlier answer. `repeated_answer_frac`, the share of
        answers equal to an earlier one. `copied_prompt_frac`, the share of sentences that repeat
        one of the prompts.
    """
    return signals_of_turns([turn for message in messages for turn in _turn(message)])


def signals_of_turns(turns: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Return `chat_signals` of roles and texts."""
    num_answers = looping = sentences = within = across = copied = repeated = 0
    earlier: set[str] = set()
    prompts: set[str] = set()
    answers: set[str] = set()
    for role, text in turns:
        found = sentences_of(text)
        keys = [sentence.key for sentence in found if sentence.in_prose]
        if role not in _ANSWERS:
            prompts.update(keys)
            continue
        num_answers += 1
        looping += own_signals(text, found)["loop_kind"] is not None
        repeated += (answer := sentence_key(text)) in answers
        answers.add(answer)
        sentences += len(keys)
        once = set(keys)
        within += len(keys) - len(once)
        across += len(once & earlier)
        copied += len(once & prompts)
        earlier |= once
    return {
        "turns": len(turns),
        "answers": num_answers,
        "looping_answers": looping,
        "dup_sentence_frac_within": within / max(1, sentences),
        "dup_sentence_frac_across": across / max(1, sentences),
        "repeated_answer_frac": repeated / max(1, num_answers),
        "copied_prompt_frac": copied / max(1, sentences),
    }


def opening_of(answer: str) -> str:
    """Return the first words of an answer, folded: what openings are compared by."""
    key = sentence_key(answer[:200])
    words = key.split()
    if len(words) >= 3:
        return " ".join(words[:3])
    return key[:6]


def _turn(message: Any) -> Iterator[tuple[str, str]]:
    """Yield the role and text of a message, if it has a text."""
    if not isinstance(message, Mapping):
        return
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "\n".join(part for part in parts if isinstance(part, str))
    if isinstance(role, str) and isinstance(content, str) and content:
        yield role, content
