"""Loop detection: the detector and its kinds of evidence, one concept a file."""

from dedup.text.loops.detector import LoopDetector, LoopEnd, LoopEvent, LoopKind

__all__ = ["LoopDetector", "LoopEnd", "LoopEvent", "LoopKind"]
