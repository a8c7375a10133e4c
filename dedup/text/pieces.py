"""A text that grows by small pieces."""

from typing import Final

_JOINED: Final = 64  # pieces joined at once: the memory of a short string is ten times its length


class Pieces:
    """A text in pieces. Appending costs O(1) amortised, and the memory is that of the text.

    size: its characters.
    """

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[str] = []

    def append(self, piece: str) -> None:
        """Append a piece."""
        self.size += len(piece)
        pieces = self._pieces
        pieces.append(piece)
        if len(pieces) % _JOINED == 0:
            pieces[-_JOINED:] = ["".join(pieces[-_JOINED:])]

    def text(self) -> str:
        """Return the text."""
        return "".join(self._pieces)

    def pop(self) -> str:
        """Remove the text and return it."""
        text = self.text()
        self.size = 0
        self._pieces = []
        return text

    def shorten(self, size: int) -> None:
        """Drop all but the last `size` characters."""
        text = self.text()[-size:]
        self.size = len(text)
        self._pieces = [text]
