"""Loop detection: the detector, the scanner behind it, and its evidence; one concept a file."""

from dedup.text.loops.detector import LoopDetector
from dedup.text.loops.events import LoopEnd, LoopEvent, LoopKind
from dedup.text.loops.scanner import LoopScanner

__all__ = ["LoopDetector", "LoopEnd", "LoopEvent", "LoopKind", "LoopScanner"]
