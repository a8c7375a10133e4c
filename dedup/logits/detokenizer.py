"""Streaming detokenizer: tokens in, text out, never half a character."""

from typing import Any

REPLACEMENT = "\ufffd"  # how tokenizers decode an incomplete character
MAX_HELD_TOKENS = 3  # a character of UTF-8 has at most four bytes: three may wait for the last
MAX_CONTEXT_TOKENS = 32


class Detokenizer:
    """Decoder of one token at a time that joins words as the tokenizer does.

    A step decodes at most `MAX_CONTEXT_TOKENS` tokens. Bytes that are not UTF-8 come out as U+FFFD,
    at most `MAX_HELD_TOKENS` tokens late.
    """

    def __init__(self, tokenizer: Any, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._tokens: list[int] = []  # context that is decoded already, then the held tokens
        self._context = ""  # text of the former
        self._num_held = 0

    def feed(self, token: int) -> str:
        """Return the text that `token` completes."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        if text == self._context and not self._num_held:
            self._tokens.pop()  # a special token, useless as context
            return ""
        if not text.endswith(REPLACEMENT):
            return self._release(text)
        if self._num_held < MAX_HELD_TOKENS:
            self._num_held += 1
            return ""
        return self._release_invalid(text)

    def flush(self) -> str:
        """Return the held text, an incomplete character as U+FFFD."""
        text = ""
        if self._num_held:
            text = self._release(self._decode(self._tokens))
        self._tokens, self._context = [], ""
        return text

    def _release(self, text: str) -> str:
        if text.startswith(self._context):
            new = text[len(self._context) :]
        else:
            # Byte tokens decode as a group: an invalid byte changes the text of the valid ones
            # before it, which was released already.
            self._tokens = self._tokens[-self._num_held - 1 :]
            new = text = self._decode(self._tokens)
        self._context, self._num_held = text, 0
        if len(self._tokens) >= MAX_CONTEXT_TOKENS // 2:
            self._shorten_context()
        return new

    def _release_invalid(self, text: str) -> str:
        """Release what cannot be the beginning of a character: more tokens are held than fit."""
        for size in range(MAX_HELD_TOKENS, 0, -1):
            before = self._decode(self._tokens[:-size])
            if before + REPLACEMENT == text and before.startswith(self._context):
                new = before[len(self._context) :]
                self._context, self._num_held = before, size
                return new
        return self._release(text)

    def _shorten_context(self) -> None:
        """Keep a few tokens, which the next word's space depends on, from a character's start."""
        for size in range(MAX_HELD_TOKENS + 1, 2 * MAX_HELD_TOKENS + 2):
            text = self._decode(self._tokens[-size:])
            is_too_long = len(self._tokens) >= MAX_CONTEXT_TOKENS - MAX_HELD_TOKENS
            if self._context.endswith(text) or is_too_long:
                self._tokens, self._context = self._tokens[-size:], text
                return

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=self._skip_special_tokens))
