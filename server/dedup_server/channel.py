"""One text of an answer on its way to the reader: its filter and its clock."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Final

from dedup.config import FilterConfig, Policy
from dedup.lenient_json import read_json
from dedup.text.filter import RepetitionFilter
from dedup.text.loops.detector import LoopEvent
from dedup.text.prompt import asks_again
from dedup_server.telemetry import ChannelName, Telemetry

_now: Final = perf_counter  # asked twice a piece, and compiled code would look `time` and its function up each time
_log: Final = logging.getLogger("dedup.server")
_MAX_JSON_CHARS: Final = (
    4_000_000  # kept to tell at a cut whether it is complete; longer JSON counts as incomplete
)


@dataclass(frozen=True, slots=True)
class Editing:
    """How the texts of an answer are to be edited.

    prompt: what the reader asked last. history: earlier answers, for `strict`, unless the prompt asks for one again.
    wants_json: the answer must be JSON, so it is not edited.
    """

    policy: Policy
    prompt: str = ""
    history: Sequence[str] = ()
    wants_json: bool = False

    def channel(self, name: ChannelName) -> "Channel":
        edit = name != "tool_arguments" and not (name == "content" and self.wants_json)
        history = (
            self.history
            if self.policy == "strict" and not (self.history and asks_again(self.prompt))
            else ()
        )
        text_filter = RepetitionFilter(
            _config(self.policy, edit), history=history, prompt=self.prompt
        )
        return Channel(name, text_filter, is_json=not edit)


@lru_cache
def _config(policy: Policy, edit: bool) -> FilterConfig:
    return FilterConfig(policy=policy, edit=edit)


class Channel:
    """Text that may turn out to be a repeat is held and comes with later text; none is lost, not even where the filter fails."""

    def __init__(
        self, name: ChannelName, text_filter: RepetitionFilter, *, is_json: bool = False
    ) -> None:
        """is_json: it has to be JSON, and may be asked whether it is."""
        self.name = name
        self.filter = text_filter
        self.overhead = 0.0  # seconds spent in the filter
        self.longest_hold = 0.0
        self.bytes_in = 0
        self.chars_out = 0
        self.flushed = False
        self.failed = False  # the filter raised: from there on text passes as it is
        self.given: list[str] | None = (
            None  # what the reader got; kept where somebody wants to know, else None
        )
        self.fed: list[str] = []  # what came; kept likewise
        self.healed: list[LoopEvent] = []  # loops that ended, and the text went on
        self.discarded_chars = 0  # generated in them, and given to nobody
        self._held: deque[tuple[int, float, str]] = (
            deque()
        )  # (characters fed until then, when, text), of what is not let go yet
        self._let_go = 0  # characters fed that were given out or removed
        self._json: list[str] | None = [] if is_json else None  # what the reader got

    def feed(self, text: str) -> str:
        """What the reader gets now."""
        self.bytes_in += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if self.failed:
            self.chars_out += len(text)
            return text
        text_filter = self.filter
        began = _now()
        try:
            given = text_filter.feed(text)
            held = text_filter.held_chars if self._held or given != text else 0
        except Exception:
            return self._give_up(text)
        ended = _now()
        self.overhead += ended - began
        if held or self._held:
            self._held.append((text_filter.chars_in, began, text))
            self._release(text_filter.chars_in - held, ended)
        else:
            self._let_go = text_filter.chars_in
        self.chars_out += len(given)
        if self.given is not None:
            self.given.append(given)
            self.fed.append(text)
        if self._json is not None:
            self._keep_json(given)
        return given

    @property
    def looped(self) -> str:
        """What came of the loop at which the text was cut, and was given to nobody."""
        last = self.filter.removed[-1] if self.filter.removed else None
        return "".join(self.fed)[last.start : last.end] if last and last.kind == "loop" else ""

    def resume(self) -> None:
        """Goes on behind a cut, with what is said in the loop's stead."""
        if self.filter.loop:
            self.healed.append(self.filter.loop)
            self.discarded_chars += self.filter.removed[-1].end - self.filter.removed[-1].start
        self.filter.resume()

    def flush(self) -> str:
        """The rest, at the text's end; nothing when called again."""
        if self.flushed or self.failed:
            self.flushed = True
            return ""
        self.flushed = True
        began = _now()
        try:
            given = self.filter.flush()
        except Exception:
            return self._give_up("")
        ended = _now()
        self.overhead += ended - began
        self._release(self.filter.chars_in, ended)
        self.chars_out += len(given)
        if self.given is not None:
            self.given.append(given)
        if self._json is not None:
            self._keep_json(given)
        return given

    @property
    def cut(self) -> bool:
        """Whether the text has ended at a loop."""
        return self.filter.ended

    @property
    def is_whole_json(self) -> bool:
        """Return whether the reader got a complete JSON object, array or string. A number may be half of one."""
        text = "".join(self._json or ()).lstrip()
        if not text.startswith(("{", "[", '"')):
            return False
        try:
            read_json(text.encode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return False
        return True

    def push(self, telemetry: Telemetry, model: str, *, delivered: bool = True) -> None:
        """Counts what became of the text. delivered: a reader got it."""
        if delivered:
            telemetry.count("output_chars", self.chars_out, model, self.name)
        if self.failed:
            telemetry.count("filter_failures", 1, model)
            return
        numbers = self.filter.metrics()
        for verdict in ("kept", "removed", "flagged"):
            telemetry.count("sentences", numbers[f"sentences_{verdict}"], model, self.name, verdict)
        telemetry.count("removed_chars", numbers["removed_chars"], model, self.name)
        if self.filter.config.policy != "off" and self.filter.chars_in:
            telemetry.observe("repetition_ratio", numbers["rep_4"], model, self.name)
        for healed in self.healed:
            telemetry.count("loops", 1, model, self.name, healed.kind, "healed")
            telemetry.observe("loop_detection_chars", healed.detected_at - healed.onset, model)
        if loop := self.filter.loop:
            telemetry.count(
                "loops", 1, model, self.name, loop.kind, "cut" if self.cut else "flagged"
            )
            telemetry.observe("loop_detection_chars", loop.detected_at - loop.onset, model)

    def _give_up(self, text: str) -> str:
        """What was held, and `text`: a fault of ours must not cost the reader a word."""
        _log.exception("the filter failed; the text passes unfiltered")
        self.failed = True
        rest = "".join(held for _, _, held in self._held)
        start = self._held[0][0] - len(self._held[0][2]) if self._held else self._let_go
        self._held.clear()
        given = rest[self._let_go - start :] + text
        self.chars_out += len(given)
        return given

    def _keep_json(self, given: str) -> None:
        if self.chars_out <= _MAX_JSON_CHARS:
            assert self._json is not None
            self._json.append(given)
        else:
            self._json = None

    def _release(self, num_chars: int, now: float) -> None:
        self._let_go = num_chars
        while self._held and self._held[0][0] <= num_chars:
            self.longest_hold = max(self.longest_hold, now - self._held.popleft()[1])
