"""State of the generation that a logits processor of transformers is called for."""

from dataclasses import dataclass

import numpy as np

from dedup.logits.history import Ints, TokenHistory


@dataclass(frozen=True, slots=True)
class _Row:
    num_padding: int
    history: TokenHistory


class Generation:
    """Histories of the rows of a batch, which follow the `input_ids` of `generate`.

    A call that is neither a step on from the last one nor a step back in it (beams that change
    rows, assisted decoding) begins a new generation: its tokens are the prompt.
    """

    def __init__(
        self, prompt_length: int | None, pad_id: int | None, encoders: list[TokenHistory]
    ) -> None:
        """Follow generations with the same settings.

        Args:
            prompt_length: Number of tokens of the prompt; None takes the length of the first call.
            pad_id: Id of the padding on the left, if it is known.
            encoders: Histories of the encoder's inputs. Beams and samples of one input stand in
                consecutive rows.
        """
        self._prompt_length = prompt_length
        self._pad_id = pad_id
        self._encoders = encoders
        self._num_prompt = 0
        self._seen: Ints = np.empty((0, 0), np.int64)  # ids of the last call, and room for more
        self._length = -1  # ids in a row of the last call; -1 before the first
        self._rows: list[_Row] = []

    def histories(self, ids: Ints) -> list[TokenHistory]:
        """Return the history of each row, brought up to `ids`, shape (batch, length)."""
        if self._is_step(ids):
            length = ids.shape[1]
            self._seen[:, length - 1] = ids[:, -1]
            self._length = length
            for row, token in zip(self._rows, ids[:, -1].tolist(), strict=True):
                row.history.append(token)
        else:
            self._catch_up(ids)
        return [row.history for row in self._rows]

    def num_prompt(self, length: int) -> int:
        """Return how many of `length` ids are the prompt, by the lengths of the calls alone.

        For ids on a device, since comparing them would wait for it.
        """
        if self._length < 0 or not self._num_prompt <= length <= self._length + 1:
            self._begin(length)
        self._length = length
        return self._num_prompt

    def num_padding(self, tokens: Ints) -> int:
        """Return how many tokens on the left of a row are padding."""
        if self._pad_id is None or not len(tokens) or tokens[0] != self._pad_id:
            return 0
        is_text = tokens != self._pad_id
        return int(is_text.argmax()) if is_text.any() else len(tokens)

    def _is_step(self, ids: Ints) -> bool:
        """Return whether `ids` extend those of the last call by one a row."""
        batch, length = ids.shape
        if length != self._length + 1:
            return False
        if self._seen.shape[0] != batch or self._seen.shape[1] < length:
            return False
        return bool((ids[:, :-1] == self._seen[:, : length - 1]).all())

    def _catch_up(self, ids: Ints) -> None:
        batch, length = ids.shape
        shared = self._num_shared(ids)
        known = min(shared or [0])
        if shared is None or known < self._num_prompt:
            known = 0
            self._begin(length)
            self._rows = [
                self._first_row(tokens, number * len(self._encoders) // batch)
                for number, tokens in enumerate(ids[:, : self._num_prompt])
            ]
            shared = [self._num_prompt] * batch
        for row, tokens, num_shared in zip(self._rows, ids, shared, strict=True):
            extra = row.num_padding + len(row.history) - num_shared
            if extra:
                row.history.rollback(extra)
            row.history.extend(tokens[num_shared:].tolist())
        if self._seen.shape[0] != batch or self._seen.shape[1] < length:
            self._seen = np.empty((batch, max(64, 2 * length)), np.int64)
            known = 0
        self._seen[:, known:length] = ids[:, known:]
        self._length = length

    def _num_shared(self, ids: Ints) -> list[int] | None:
        """Return how many ids of each row are those of the last call.

        None if this call cannot belong to the same generation.
        """
        batch, length = ids.shape
        if self._length < 0 or self._seen.shape[0] != batch or length > self._length + 1:
            return None
        length = min(length, self._length)
        equal = ids[:, :length] == self._seen[:, :length]
        if equal.all():
            return [length] * batch
        shared: list[int] = np.where(equal.all(axis=1), length, equal.argmin(axis=1)).tolist()
        return shared

    def _begin(self, length: int) -> None:
        self._num_prompt = length
        if self._prompt_length is not None:
            self._num_prompt = min(self._prompt_length, length)

    def _first_row(self, prompt: Ints, encoder: int) -> _Row:
        num_padding = self.num_padding(prompt)
        history = TokenHistory(prompt[num_padding:].tolist())
        if self._encoders:
            history.encoder = self._encoders[encoder]
        return _Row(num_padding, history)
