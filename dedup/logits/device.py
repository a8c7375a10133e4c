"""All methods of a configuration over a batch of scores, on any device."""

from torch import Tensor

from dedup.config import DecodingConfig
from dedup.logits.batch import Batch, DeviceTokenSets
from dedup.logits.methods import methods_on
from dedup.logits.tokens import TokenSets


class DeviceMethods:
    """Methods of a configuration, with their token sets on the device."""

    def __init__(self, config: DecodingConfig, sets: TokenSets) -> None:
        self._config = config
        self._methods = methods_on(config)
        self._sets = DeviceTokenSets(sets)
        self._longest: dict[str, int] = {}
        for method in self._methods:
            self._longest |= method.match_lengths(config)

    def apply(
        self,
        ids: Tensor,
        scores: Tensor,
        num_prompt: int,
        pad_id: int | None = None,
        encoder_ids: Tensor | None = None,
    ) -> None:
        """Apply every method that is on, without waiting for the device.

        Args:
            ids: Token ids, shape (batch, length).
            scores: Scores of the next token, shape (batch, vocabulary), changed in place.
            num_prompt: Number of ids in a row that are the prompt.
            pad_id: Id of the padding on the left, which counts for nothing.
            encoder_ids: Token ids of the encoder's input, shape (inputs, length).
        """
        self._sets.move_to(scores.device)
        batch = Batch(ids, scores, num_prompt, self._sets, self._longest, pad_id, encoder_ids)
        for method in self._methods:
            method.apply_batch(batch, self._config)
