"""Adapter for mlx-lm: all sampling methods as one logits processor.

stream_generate(model, tokenizer, prompt, logits_processors=[logits_processor(config, tokenizer)])

`dedup.filter_stream` filters the text of `stream_generate` and stops it at a loop.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from dedup.config import DecodingConfig
from dedup.logits.sequence import SequenceProcessor


def logits_processor(
    config: DecodingConfig, tokenizer: Any = None, prompt_length: int | None = None
) -> Callable[[mx.array, mx.array], mx.array]:
    """Return the methods of `config` for `logits_processors=[...]`, as one processor.

    It serves one generation after another, but not several at the same time.

    Args:
        config: Configuration of the methods.
        tokenizer: The tokenizer that `mlx_lm.load` returned, or one of transformers. Needed by
            `exempt` and DRY's sequence breakers.
        prompt_length: Number of tokens of the prompt; None takes the length of the first call.

    Raises:
        ValueError: The tokenizer is needed and missing, or a method needs an encoder.
    """
    # mlx-lm wraps the tokenizer of transformers.
    sequence = SequenceProcessor(config, getattr(tokenizer, "_tokenizer", tokenizer), prompt_length)

    def process(tokens: mx.array, logits: mx.array) -> mx.array:
        """Return the changed logits, shape (1, vocabulary), of any float type."""
        row = np.array(logits.astype(mx.float32)).reshape(-1)
        sequence.apply(np.array(tokens).astype(np.int64), row)
        return mx.array(row).reshape(logits.shape).astype(logits.dtype)

    return process
