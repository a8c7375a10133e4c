"""Bytes and text of single tokens.

A token that is decoded alone may lose its leading space, or be a part of a character.
"""

import re
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # SentencePiece's tokens for bytes
# The letters that byte-level tokenizers write bytes as.
_BYTES_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}


class TokenTexts:
    """Bytes and text of a tokenizer's tokens.

    The bytes of the tokens of a text, joined, are the text's, except for a space at its beginning.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        # A token before another one keeps the other's leading space.
        self._before = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
        self._special = set(tokenizer.all_special_ids)
        self._known: dict[int, bytes] = {}

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token."""
        if token not in self._known:
            self._known[token] = self._bytes_of(token)
        return self._known[token]

    def text_of(self, token: int) -> str:
        """Return the text of a token; a part of a character as OpenAI does: `bytes:\\xe4\\xbd`."""
        data = self.bytes_of(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _bytes_of(self, token: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token) or ""
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte.group(1), 16)])
        if token in self._special:
            return str(piece).encode()
        before = self._tokenizer.decode(self._before)
        text = str(self._tokenizer.decode([*self._before, token])).removeprefix(before)
        if "\ufffd" in text and all(letter in _BYTES_OF for letter in piece):
            return bytes(_BYTES_OF[letter] for letter in piece)
        return text.encode("utf-8", "replace")
