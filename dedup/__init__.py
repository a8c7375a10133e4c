"""Stops language models from repeating themselves: an output filter, a loop detector, metrics and logits processors."""

from dedup.config import DecodingConfig, FilterConfig, LoopConfig
from dedup.text.filter import Removal, RepetitionFilter
from dedup.text.loops.detector import LoopDetector, LoopEvent
from dedup.text.metrics import repetition_metrics

__all__ = [
    "DecodingConfig",
    "FilterConfig",
    "LoopConfig",
    "LoopDetector",
    "LoopEvent",
    "Removal",
    "RepetitionFilter",
    "repetition_metrics",
]
