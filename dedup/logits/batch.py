"""The methods of `processors` for a whole batch on any device: from nothing but the tokens, in vectorised operations, without a
synchronisation with the host. Each function does what the one of its name does row by row; its docstring stands there.

Shapes: ids (batch, length), scores (batch, vocabulary), changed in place; text (batch, length): which ids are no padding.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dedup.config import DecodingConfig
from dedup.logits.dry import max_exponent
from dedup.logits.temperature import LEAST
from dedup.logits.tokens import TokenSets

_FAR = 1 << 20  # tokens; beyond any window and any match that matters


class DeviceMethods:
    """A configuration's methods; what they need of it is put on the device once."""

    def __init__(self, config: DecodingConfig, sets: TokenSets) -> None:
        self._config = config
        # DRY: from which exponent on a penalty grows no more, and so which matches are long enough to be told apart.
        self._max_exponent = int(min(max_exponent(config.dry_base), _FAR))
        self._longest_match = config.dry_allowed_length + (
            0 if config.dry_base == 1 else self._max_exponent
        )
        self._exempt = None if sets.exempt is None else torch.from_numpy(sets.exempt)
        tails: dict[tuple[int, ...], list[int]] = {}
        for head, its_tails in sets.breakers.items():
            for tail in its_tails:
                tails.setdefault(tail, []).append(head)
        self._breakers = [(_mask(heads), tail) for tail, heads in tails.items()]
        self._on: torch.device | None = None

    def apply(
        self,
        ids: Tensor,
        scores: Tensor,
        num_prompt: int,
        pad_id: int | None = None,
        encoder_ids: Tensor | None = None,
    ) -> None:
        """All of them, in the order of `processors.apply`. num_prompt: how many of a row's ids are the prompt."""
        config = self._config
        self._move_to(scores.device)
        text = (
            torch.ones_like(ids, dtype=torch.bool)
            if pad_id is None
            else (ids != pad_id).cumsum(-1) > 0
        )
        if config.repetition_penalty != 1:
            self._repetition_penalty(ids, scores, text, num_prompt)
        if config.frequency_penalty or config.presence_penalty:
            self._openai_penalties(ids, scores, text, num_prompt)
        if config.dry_multiplier and np.float32(config.dry_base) >= 1 and config.dry_penalty_last_n:
            self._dry(ids, scores, text)
        if config.lz_penalty:
            self._lz_penalty(ids, scores, text, num_prompt)
        if size := config.no_repeat_ngram_size:
            window = config.no_repeat_ngram_window
            first = 0 if window < 0 else max(0, ids.shape[1] - window)
            self._ban_ngrams(ids[:, first:], ids, scores, text[:, first:], size)
        if encoder_ids is not None:
            encoder = encoder_ids.to(ids).repeat_interleave(len(ids) // len(encoder_ids), 0)
            self._ban_ngrams(
                encoder,
                ids,
                scores,
                torch.ones_like(encoder, dtype=torch.bool),
                config.encoder_no_repeat_ngram_size,
            )
        if config.temperature != 1 or config.repetition_temperature or config.dynatemp_range:
            scores.div_(self._temperature(ids, scores, text))

    def _move_to(self, device: torch.device) -> None:
        if self._on != device:
            self._exempt = None if self._exempt is None else self._exempt.to(device)
            self._breakers = [(heads.to(device), tail) for heads, tail in self._breakers]
            self._on = device

    def _repetition_penalty(
        self, ids: Tensor, scores: Tensor, text: Tensor, num_prompt: int
    ) -> None:
        seen = self._counts(ids, scores, text, num_prompt, counts_prompt=True) > 0
        penalty = self._config.repetition_penalty
        scores.copy_(
            torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        )

    def _openai_penalties(self, ids: Tensor, scores: Tensor, text: Tensor, num_prompt: int) -> None:
        counts = self._counts(ids, scores, text, num_prompt, counts_prompt=False)
        scores.sub_((self._config.frequency_penalty * counts).to(scores.dtype))
        scores.sub_(self._config.presence_penalty * (counts > 0))

    def _counts(
        self, ids: Tensor, scores: Tensor, text: Tensor, num_prompt: int, counts_prompt: bool
    ) -> Tensor:
        config, length = self._config, ids.shape[1]
        counts_prompt = counts_prompt if config.penalize_prompt is None else config.penalize_prompt
        start = max(
            0 if counts_prompt else num_prompt,
            length - config.penalty_last_n if config.penalty_last_n >= 0 else 0,
        )
        age = torch.arange(length - start - 1, -1, -1, device=ids.device, dtype=torch.float32)
        weights = torch.pow(config.penalty_decay, age) * text[:, start:]
        empty = torch.zeros(len(ids), scores.shape[1] + 1, device=ids.device)
        counts = empty.scatter_add_(1, self._targets(ids[:, start:], scores), weights)[:, :-1]
        return self._spared(counts, 0)

    def _dry(self, ids: Tensor, scores: Tensor, text: Tensor) -> None:
        config, length = self._config, ids.shape[1]
        allowed, last_n = config.dry_allowed_length, config.dry_penalty_last_n
        start = 0 if last_n < 0 else max(0, length - last_n)
        if length - start <= max(1, allowed):
            return
        lengths = _match_lengths(ids[:, start:], text[:, start:], self._longest_match)
        lengths = torch.minimum(lengths, self._num_since_breaker(ids[:, start:])[:, None])
        wanted = (lengths >= allowed) & text[:, start:-1]
        best = self._best(ids[:, start + 1 :], scores, lengths, wanted)
        exponents = (best - allowed).clamp(max=self._max_exponent)
        largest = torch.finfo(scores.dtype).max / 4 * min(1, config.temperature)
        penalties = (config.dry_multiplier * torch.pow(config.dry_base, exponents.double())).clamp(
            max=largest
        )
        penalties = penalties.where(best >= allowed, 0)
        for heads, tail in self._breakers:
            if not tail:
                penalties = penalties.where(
                    ~_lookup(heads, torch.arange(scores.shape[1], device=ids.device)), 0
                )
        scores.sub_(penalties.to(scores.dtype))

    def _num_since_breaker(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        last = torch.full(
            (len(ids),), -1, device=ids.device
        )  # place and size of the last breaker, as one number
        places = torch.arange(length, device=ids.device)
        for heads, tail in self._breakers:
            size = len(tail)
            if length <= size:
                continue
            begins = _lookup(heads, ids[:, : length - size])
            for offset, token in enumerate(tail, 1):
                begins &= ids[:, offset : length - size + offset] == token
            last = torch.maximum(
                last, (places[: length - size] * 64 + size).where(begins, -1).amax(-1)
            )
        after = length - (last // 64 + last % 64 + 1)
        return after.where(last >= 0, length)

    def _lz_penalty(self, ids: Tensor, scores: Tensor, text: Tensor, num_prompt: int) -> None:
        config, length = self._config, ids.shape[1]
        start, buffer = max(num_prompt, length - config.lz_window), config.lz_buffer
        if length - start <= buffer:
            return
        lengths = _match_lengths(ids[:, start:], text[:, start:], buffer)[:, buffer - 1 :]
        distances = torch.arange(length - start - buffer, 0, -1, device=ids.device)
        best = self._best(
            ids[:, start + buffer :], scores, lengths * _FAR + _FAR - distances, lengths >= 0
        )
        saved = (math.log2(scores.shape[1]) - torch.log2(_FAR - (best % _FAR).double())).clamp(
            min=0
        )
        scores.sub_((config.lz_penalty * saved.where(best >= 0, 0)).to(scores.dtype))

    def _ban_ngrams(
        self, read: Tensor, ids: Tensor, scores: Tensor, text: Tensor, size: int
    ) -> None:
        """Bans what would complete an n-gram of `read`."""
        length = ids.shape[1]
        if read.shape[1] < size or length < size - 1:
            return
        windows = read.unfold(1, size, 1)
        same = (windows[..., :-1] == ids[:, None, length - size + 1 :]).all(-1) & text[
            :, : windows.shape[1]
        ]
        targets = self._targets(windows[..., -1], scores).where(same, scores.shape[1])
        empty = torch.zeros(len(ids), scores.shape[1] + 1, device=ids.device, dtype=torch.bool)
        banned = self._spared(empty.scatter_(1, targets, True)[:, :-1], False)
        left = scores.masked_fill(banned, -torch.inf).amax(-1, keepdim=True) > -torch.inf
        scores.masked_fill_(banned & left, -torch.inf)

    def _temperature(self, ids: Tensor, scores: Tensor, text: Tensor) -> Tensor:
        config = self._config
        value = torch.full(
            (len(ids), 1), config.temperature, device=ids.device, dtype=torch.float64
        )
        if config.dynatemp_range:
            low, high = (
                max(0.0, config.temperature - config.dynatemp_range),
                config.temperature + config.dynatemp_range,
            )
            logs = scores.double().log_softmax(-1)
            entropy = -(logs.exp() * logs.where(logs > -torch.inf, 0)).sum(-1, keepdim=True)
            share = entropy / math.log(scores.shape[1])
            value = (low + (high - low) * share.clamp(min=0) ** config.dynatemp_exponent).clamp(
                min=LEAST
            )
        if config.repetition_temperature and ids.shape[1] > 1:
            least = config.repetition_temperature_length
            repeats = (_match_lengths(ids, text, least) >= least).any(-1, keepdim=True)
            value = torch.where(repeats, config.repetition_temperature, value)
        return value.to(scores.dtype)

    def _best(self, tokens: Tensor, scores: Tensor, values: Tensor, wanted: Tensor) -> Tensor:
        """For each token of the vocabulary its largest value, -1 if it has none or is exempt."""
        empty = torch.full((len(tokens), scores.shape[1] + 1), -1, device=tokens.device)
        targets = self._targets(tokens, scores).where(wanted, scores.shape[1])
        return self._spared(empty.scatter_reduce_(1, targets, values, "amax")[:, :-1], -1)

    def _targets(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """The columns of the tokens; of those outside the vocabulary the one behind it."""
        size = scores.shape[1]
        return tokens.long().where((tokens >= 0) & (tokens < size), size)

    def _spared(self, values: Tensor, nothing: float) -> Tensor:
        """`values`, (batch, vocabulary), with `nothing` for exempt tokens."""
        if self._exempt is None:
            return values
        size = values.shape[1]
        exempt = self._exempt[:size]
        return values.masked_fill(pad(exempt, (0, size - len(exempt))), nothing)


def _match_lengths(ids: Tensor, text: Tensor, most: int) -> Tensor:
    """(batch, length - 1): for each position but the last, how many tokens up to there equal as many at the end, up to `most`."""
    length = ids.shape[1]
    most = max(1, min(most, length - 1))
    earlier = pad(ids.where(text, -1)[:, :-1], (most - 1, 0), value=-1).unfold(1, most, 1)
    end = ids.where(text, -2)[:, length - most :]
    same: Tensor = (
        (earlier == end[:, None]).flip(-1).to(torch.uint8).cumprod(-1, dtype=torch.uint8).sum(-1)
    )
    return same


def _mask(tokens: list[int]) -> Tensor:
    mask = torch.zeros(max(tokens) + 1, dtype=torch.bool)
    mask[tokens] = True
    return mask


def _lookup(mask: Tensor, tokens: Tensor) -> Tensor:
    inside = (tokens >= 0) & (tokens < len(mask))
    return mask[tokens.where(inside, 0)] & inside
