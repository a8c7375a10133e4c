"""Text that grows by small pieces."""

from typing import Final

_JOINED: Final = 64  # pieces are joined at a time: a short string takes ten times its length


class Pieces:
    """A text in pieces. Appending is O(1) amortised, and the memory is that of the text. size: its characters."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[str] = []

    def append(self, piece: str) -> None:
        self.size += len(piece)
        pieces = self._pieces
        pieces.append(piece)
        if len(pieces) % _JOINED == 0:
            pieces[-_JOINED:] = ["".join(pieces[-_JOINED:])]

    def text(self) -> str:
        return "".join(self._pieces)

    def take(self) -> str:
        """Return the text, and begin anew."""
        text = self.text()
        self.size = 0
        self._pieces = []
        return text

    def shorten(self, size: int) -> None:
        """Keep the last `size` characters."""
        text = self.text()[-size:]
        self.size = len(text)
        self._pieces = [text]
