"""Stops language models from repeating themselves.

The public API: an output filter, a loop detector, metrics, and the configuration of all parts.
Logits processors are in `dedup.logits`.
"""

from dedup.config import DecodingConfig, FilterConfig, LoopConfig
from dedup.stream import filter_stream, filter_stream_async
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
    "filter_stream",
    "filter_stream_async",
    "repetition_metrics",
]
