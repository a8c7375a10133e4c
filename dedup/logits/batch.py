"""Operations on a batch that several methods share: vectorised, on any device.

None of them waits for the device. torch is imported here and in the adapters only: the methods use
what a `Batch` and its tensors offer, so the library's core runs without torch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from dedup.config import DecodingConfig
from dedup.logits.tokens import TokenSets


class DeviceTokenSets:
    """`TokenSets` as tensors.

    Attributes:
        exempt: Mask over token ids, or None; ids beyond its end are not exempt.
        breakers: Pairs of a mask over first tokens and the tokens that must follow them.
    """

    def __init__(self, sets: TokenSets) -> None:
        self.exempt = None if sets.exempt is None else torch.from_numpy(sets.exempt)
        heads_of: dict[tuple[int, ...], list[int]] = {}
        for head, tails in sets.breakers.items():
            for tail in tails:
                heads_of.setdefault(tail, []).append(head)
        self.breakers = [(_mask(heads), tail) for tail, heads in heads_of.items()]
        self._device: torch.device | None = None

    def move_to(self, device: torch.device) -> None:
        if self._device != device:
            self.exempt = None if self.exempt is None else self.exempt.to(device)
            self.breakers = [(heads.to(device), tail) for heads, tail in self.breakers]
            self._device = device


class Batch:
    """Token ids and scores of a batch at one step.

    Attributes:
        ids: Token ids, shape (batch, length).
        scores: Scores of the next token, shape (batch, vocabulary), changed in place.
        is_text: Which ids are not padding, shape (batch, length).
        num_prompt: Number of ids in a row that are the prompt.
        sets: Token sets, on the device of the scores.
        longest: Longest match that a method looks for, under the name of the field that sets it:
            `Method.match_lengths`, computed before torch.compile traces the methods.
        encoder_ids: Token ids of the encoder's input, shape (inputs, length), or None. Beams and
            samples of one input stand in consecutive rows of the batch.
    """

    def __init__(
        self,
        ids: Tensor,
        scores: Tensor,
        num_prompt: int,
        sets: DeviceTokenSets,
        longest: Mapping[str, int],
        pad_id: int | None = None,
        encoder_ids: Tensor | None = None,
    ) -> None:
        self.ids = ids
        self.scores = scores
        self.num_prompt = num_prompt
        self.sets = sets
        self.longest = longest
        self.encoder_ids = encoder_ids
        if pad_id is None:
            self.is_text = torch.ones_like(ids, dtype=torch.bool)
        else:
            self.is_text = (ids != pad_id).cumsum(-1) > 0

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    @property
    def vocabulary_size(self) -> int:
        return self.scores.shape[1]

    @property
    def largest_score(self) -> float:
        """Largest finite number of the scores' type."""
        return torch.finfo(self.scores.dtype).max

    def range(self, start: int, stop: int, step: int = 1) -> Tensor:
        """Return the integers of `range(start, stop, step)` on the device."""
        return torch.arange(start, stop, step, device=self.ids.device)

    def counts(self, config: DecodingConfig, counts_prompt: bool) -> Tensor:
        """Return how often each token occurs, shape (batch, vocabulary); 0 for exempt tokens.

        Looks at the last `penalty_last_n` tokens, without the prompt's unless `counts_prompt`. An
        occurrence counts `penalty_decay` to the power of the tokens after it.
        """
        start = 0 if counts_prompt else self.num_prompt
        if config.penalty_last_n >= 0:
            start = max(start, self.length - config.penalty_last_n)
        ids = self.ids[:, start:]
        num_later = self.range(self.length - start - 1, -1, -1).float()
        weights = torch.pow(config.penalty_decay, num_later) * self.is_text[:, start:]
        counts = torch.zeros(len(ids), self.vocabulary_size + 1, device=ids.device)
        counts.scatter_add_(1, self._columns(ids), weights)
        return self._without_exempt(counts[:, :-1], 0)

    def largest(self, tokens: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
        """Return the largest value of each token, shape (batch, vocabulary).

        `tokens`, `values` and `wanted` have the shape (batch, n). Tokens without a wanted value and
        exempt tokens get -1.
        """
        largest = torch.full((len(tokens), self.vocabulary_size + 1), -1, device=tokens.device)
        columns = self._columns(tokens).where(wanted, self.vocabulary_size)
        largest.scatter_reduce_(1, columns, values, "amax")
        return self._without_exempt(largest[:, :-1], -1)

    def match_lengths(self, longest: int, start: int = 0) -> Tensor:
        """Return how many tokens before each position equal those at the end of the row.

        Counts up to `longest`, from position `start` on. Shape (batch, length - start - 1): the
        end itself is left out.
        """
        ids, is_text = self.ids[:, start:], self.is_text[:, start:]
        length = ids.shape[1]
        longest = max(1, min(longest, length - 1))
        # Padding equals nothing: it is -1 on one side and -2 on the other.
        earlier = ids.where(is_text, -1)[:, :-1]
        windows = pad(earlier, (longest - 1, 0), value=-1).unfold(1, longest, 1)
        end = ids.where(is_text, -2)[:, length - longest :]
        equal = (windows == end[:, None]).flip(-1).to(torch.uint8)
        lengths: Tensor = equal.cumprod(-1, dtype=torch.uint8).sum(-1)
        return lengths

    def ban_followers(self, ids: Tensor, size: int, is_text: Tensor | None = None) -> None:
        """Ban the tokens that complete in `ids` an n-gram of which `size` - 1 tokens end the row.

        A row that would lose every token keeps all.
        """
        if ids.shape[1] < size or self.length < size - 1:
            return
        ngrams = ids.unfold(1, size, 1)
        end = self.ids[:, None, self.length - size + 1 :]
        equal = (ngrams[..., :-1] == end).all(-1)
        if is_text is not None:
            equal &= is_text[:, : ngrams.shape[1]]
        columns = self._columns(ngrams[..., -1]).where(equal, self.vocabulary_size)
        empty = torch.zeros(
            len(self.ids), self.vocabulary_size + 1, device=ids.device, dtype=torch.bool
        )
        banned = self._without_exempt(empty.scatter_(1, columns, True)[:, :-1], False)
        rest = self.scores.masked_fill(banned, -torch.inf)
        has_token = rest.amax(-1, keepdim=True) > -torch.inf
        self.scores.masked_fill_(banned & has_token, -torch.inf)

    @staticmethod
    def contains(mask: Tensor, tokens: Tensor) -> Tensor:
        """Return which tokens are in the set that `mask` holds; ids beyond its end are not."""
        inside = (tokens >= 0) & (tokens < len(mask))
        return mask[tokens.where(inside, 0)] & inside

    def _columns(self, tokens: Tensor) -> Tensor:
        """Return the columns of tokens; one behind the last for those outside the vocabulary."""
        size = self.vocabulary_size
        return tokens.long().where((tokens >= 0) & (tokens < size), size)

    def _without_exempt(self, values: Tensor, nothing: float) -> Tensor:
        """Replace the values of exempt tokens by `nothing`; shape (batch, vocabulary)."""
        if self.sets.exempt is None:
            return values
        size = values.shape[1]
        exempt = self.sets.exempt[:size]
        return values.masked_fill(pad(exempt, (0, size - len(exempt))), nothing)


def _mask(tokens: list[int]) -> Tensor:
    mask = torch.zeros(max(tokens) + 1, dtype=torch.bool)
    mask[tokens] = True
    return mask
