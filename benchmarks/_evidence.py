"""The loop detector's constants, and a detector that records what each of them decides on, for `calibrate.py`.

A constant either weighs evidence (bits, letters) or decides at how much of it a text is a loop. One recording of a text, in which nothing
is a loop, serves every value of every deciding constant; each value of a weighing constant takes a recording of its own.
"""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent


def _source_only(path: str) -> Any:
    if not Path(path).is_relative_to(ROOT / "dedup"):
        raise ImportError
    return FileFinder(path, (SourceFileLoader, [".py"]))


# Constants of compiled modules cannot be changed.
sys.path.insert(0, str(ROOT))
sys.path_hooks.insert(0, _source_only)
sys.path_importer_cache.clear()

from dedup import LoopConfig, LoopDetector  # noqa: E402
from dedup.text.form import Form, num_fences  # noqa: E402
from dedup.text.loops import cycle, evidence, flood, measure, scanner, tokens  # noqa: E402

FORMS: Final[tuple[Form, ...]] = (
    "prose",
    "labelled",
    "series",
    "verse",
    "notation",
    "code",
    "data",
)
NEVER: Final = 1 << 40  # offset of a stop that does not come


@dataclass(frozen=True)
class Constant:
    """A constant of the detector and the values tried.

    Args:
        name: how tables call it.
        module, attribute: where it stands.
        grid: values, ascending, the present one among them.
        kind: "bits" if it weighs evidence; else what it decides on, "deficit", "cycle" or "flood".
        key: of a dict, whose value is the constant.
        is_factor: whether the grid holds factors of a tuple's values.
        is_stricter_low: whether less evidence is found with a lower value, not a higher one.
    """

    name: str
    module: ModuleType
    attribute: str
    grid: tuple[Any, ...]
    kind: str
    key: str = ""
    is_factor: bool = False
    is_stricter_low: bool = False

    @property
    def present(self) -> Any:
        """The value in the grid that stands for the one in the code."""
        value = _ORIGINALS[self.module.__name__, self.attribute]
        return 1.0 if self.is_factor else value[self.key] if self.key else value

    @property
    def values(self) -> tuple[Any, ...]:
        """The grid with the present value."""
        return self.grid if self.present in self.grid else tuple(sorted((*self.grid, self.present)))

    @property
    def strictest(self) -> Any:
        return self.values[0 if self.is_stricter_low else -1]

    @property
    def loosest(self) -> Any:
        return self.values[-1 if self.is_stricter_low else 0]

    def changed(self, value: Any) -> Any:
        """Return what the attribute must be for the constant to have `value`."""
        now = getattr(self.module, self.attribute)
        if self.key:
            return {**now, self.key: value}
        return (
            _times(_ORIGINALS[self.module.__name__, self.attribute], value)
            if self.is_factor
            else value
        )


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):
            return tuple((most, factor * needed) for most, needed in value)
        return tuple(factor * part for part in value)
    return factor * value


def _limit(form: str, *grid: float) -> Constant:
    return Constant(f"limit {form}", measure, "_LIMITS", grid, "deficit", key=form)


def _cycle(name: str, attribute: str, *grid: float, is_factor: bool = False) -> Constant:
    return Constant(name, cycle, attribute, grid, "cycle", is_factor=is_factor)


def _bits(
    name: str,
    module: ModuleType,
    attribute: str,
    *grid: Any,
    is_factor: bool = False,
    low: bool = False,
) -> Constant:
    return Constant(name, module, attribute, grid, "bits", is_factor=is_factor, is_stricter_low=low)


CONSTANTS: Final = [
    _limit("prose", 45, 60, 75, 90, 110, 130, 160, 200),
    _limit("labelled", 110, 200, 300, 400, 500, 700),
    _limit("series", 200, 300, 400, 500, 700),
    _limit("verse", 80, 120, 160, 200, 250, 320),
    _limit("notation", 80, 120, 160, 200, 250, 320),
    _limit("code", 200, 300, 400, 520, 700, 900),
    _limit("data", 400, 600, 900, 1200, 1600, 2000),
    Constant(
        "limit in fences", measure, "_LIMIT_IN_FENCE", (90, 150, 250, 350, 500, 700), "deficit"
    ),
    Constant(
        "limit of fenced code",
        measure,
        "_LIMIT_OF_FENCED_CODE",
        (200, 280, 400, 560, 900),
        "deficit",
    ),
    _cycle("letters needed, x", "_NEEDED", 0.5, 0.7, 0.85, 1.0, 1.25, 1.6, 2.0, is_factor=True),
    _cycle("letters, many copies", "_NEEDED_OF_MANY", 20, 26, 33, 40, 50, 65),
    _cycle("symbols", "_NEEDED_OF_SYMBOLS", 20, 30, 45, 60, 90),
    _cycle("copies of symbols", "_SYMBOL_COPIES", 5, 6, 8, 10, 14),
    _cycle("copies of an emoji", "_BANNER_COPIES", 8, 32, 64, 100),
    _cycle("letters in structure", "_LETTERS_IN_STRUCTURE", 200, 300, 450, 600, 900),
    _cycle("letters of words in a line", "_LETTERS_OF_WORDS", 120, 200, 300, 450),
    _cycle("copies of words in a line", "_WORD_COPIES", 12, 24, 48),
    _cycle("letters of nucleotides", "_LETTERS_OF_SEQUENCE", 75, 150, 300, 450),
    _cycle("counters in structure", "_COUNTERS_IN_STRUCTURE", 800, 1200, 1600, 2600, 4000),
    _cycle("one letter in structure", "_ONE_LETTER_IN_STRUCTURE", 500, 1000, 2000),
    _cycle("rows of digits", "_ROWS_OF_DIGITS", 75, 110, 150, 200, 300),
    _cycle("digits in structure", "_DIGITS_IN_STRUCTURE", 110, 180, 250, 350, 500),
    _cycle("symbols in fences", "_SYMBOLS_IN_FENCE", 45, 75, 110, 150),
    _cycle("factor of notation", "_NOTATION_FACTOR", 1.0, 1.5, 2.0, 3.0),
    _cycle("copies of an equation", "_STATEMENT_COPIES", 4, 6, 8, 12, 20),
    _cycle("factor of counters", "_COUNTER_FACTOR", 1.0, 1.5, 2.0, 3.0),
    _cycle("next copy begun, share", "_NEXT_BEGUN", 0.0, 0.08, 0.15, 0.3, 0.5),
    _cycle("next copy begun, characters", "_MAX_NEXT_BEGUN", 30, 60, 120, 240),
    Constant("flood, x", flood, "_NEEDED", (0.5, 0.7, 1.0, 1.4, 2.0), "flood", is_factor=True),
    Constant("flood of blanks", flood, "_NEEDED_BLANK", (160, 240, 320, 480), "flood"),
    Constant("flood in fences, factor", flood, "_FENCED_FACTOR", (1, 2, 3), "flood"),
    _bits(
        "bits expected of a letter",
        evidence,
        "EXPECTED_BITS",
        0.3,
        0.4,
        0.45,
        0.5,
        0.55,
        0.6,
        0.7,
        low=True,
    ),
    _bits(
        "bits of a copied token, x", evidence, "_COPIED_BITS", 0.5, 1.0, 1.5, 2.0, is_factor=True
    ),
    _bits("bits of a switch", evidence, "SWITCH_BITS", 2.0, 3.0, 4.0, 5.0, 7.0),
    _bits("bits of a word in a known gap", evidence, "FRAME_BITS", 2.0, 3.0, 4.0, 7.0),
    _bits("bits of a counter", evidence, "ADVANCE_BITS", 0.0, 0.1, 0.5, 1.0, 2.0),
    _bits("bits of a known word", evidence, "_KNOWN_BITS", 0.0, 1.0, 2.0),
    _bits("bits a doubling of the vocabulary", evidence, "_KNOWN_SLOPE", 0.6, 0.9, 1.2),
    _bits("least vocabulary", evidence, "_VOCABULARY", 8, 16, 32),
    _bits("bits of a new word", evidence, "_NEW_BITS", 2.0, 5.0, 8.0),
    _bits("bits of its letters", evidence, "_NEW_LETTER_BITS", 1.0, 2.0, 3.0),
    _bits("bits of its ideographs", evidence, "_NEW_IDEOGRAPH_BITS", 4.0, 6.0, 8.0),
    _bits("bits of symbols", evidence, "_SYMBOL_BITS", 1.5, 3.0, 5.0),
    _bits("bits of blanks", evidence, "_BLANK_BITS", 0.1, 0.5, 1.5, 3.0),
    _bits("bits of a digit", evidence, "_DIGIT_BITS", 1.1, 2.2, 3.3),
    _bits(
        "what early copies count",
        evidence,
        "_COPY_COUNTS",
        *(
            (0.0, 0.0, 0.0),
            (0.0, 0.35, 0.7),
            (0.0, 0.7, 0.9),
            (0.0, 0.85, 1.0),
            (0.35, 0.9, 1.0),
            (1.0, 1.0, 1.0),
        ),
        low=True,
    ),
    _bits("near, characters", evidence, "_NEAR", 200, 300, 400, 800, 4096, low=True),
    _bits("letters of an ideograph", tokens, "_IDEOGRAPH_WEIGHT", 2.0, 2.6, 3.2, low=True),
    _bits("letters of a digit", tokens, "_DIGIT_WEIGHT", 0.2, 0.4, 0.8, low=True),
    _bits("letters of a symbol", tokens, "_SYMBOL_WEIGHT", 0.0, 0.12, 0.3, low=True),
    _bits("letters of a monotone word, x", tokens, "_MONOTONE", 0.2, 0.35, 0.7, low=True),
    _bits("tokens missed", scanner, "_MAX_MISSED", 1, 3, 6, low=True),
]
_ORIGINALS: Final = {
    (c.module.__name__, c.attribute): getattr(c.module, c.attribute) for c in CONSTANTS
}
Setting = tuple[str, Any]  # a constant's name and a value
BY_NAME: Final = {constant.name: constant for constant in CONSTANTS}


@contextmanager
def patched(changes: list[tuple[ModuleType, str, Any]]) -> Iterator[None]:
    """Set attributes of modules, wherever they were imported to."""
    done: list[tuple[ModuleType, str, Any]] = []

    def put(module: ModuleType, attribute: str, value: Any) -> None:
        done.append((module, attribute, getattr(module, attribute)))
        setattr(module, attribute, value)

    try:
        for module, attribute, value in changes:
            put(module, attribute, value)
            for importer in (measure, scanner):
                is_imported = module is not importer and hasattr(importer, attribute)
                if is_imported and not attribute.startswith("_"):
                    put(importer, attribute, value)
        least = evidence._KNOWN_BITS + evidence._KNOWN_SLOPE * math.log2(evidence._VOCABULARY)
        put(evidence, "LEAST_SURPRISE", least)
        put(scanner, "LEAST_SURPRISE", least)
        tokens._TOKENS.clear()
        yield
    finally:
        for module, attribute, value in reversed(done):
            setattr(module, attribute, value)
        tokens._TOKENS.clear()


def changes_of(settings: tuple[Setting, ...]) -> list[tuple[ModuleType, str, Any]]:
    """Return the changes of attributes that give constants these values."""
    changes: dict[tuple[str, str], tuple[ModuleType, str, Any]] = {}
    for name, value in settings:
        constant = BY_NAME[name]
        place = constant.module.__name__, constant.attribute
        if constant.key:
            before = (
                changes[place][2]
                if place in changes
                else getattr(constant.module, constant.attribute)
            )
            changes[place] = constant.module, constant.attribute, {**before, constant.key: value}
        else:
            changes[place] = constant.module, constant.attribute, constant.changed(value)
    return list(changes.values())


# ---- recordings

Deficit = tuple[int, str, bool, float]  # offset, form, whether fenced, bits missing
CycleSeen = tuple[int, Any, str, bool]  # offset, cycle, form, whether fenced
FloodSeen = tuple[int, str, bool, int]  # offset, "few", "several" or "blank", whether fenced, size


@dataclass
class Recording:
    """The evidence that the detector saw in a text: each new record of each kind of evidence."""

    deficits: list[Deficit] = field(default_factory=list)
    cycles: list[CycleSeen] = field(default_factory=list)
    floods: list[FloodSeen] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.deficits or self.cycles or self.floods)


_CYCLE: Final = cycle.Cycle


class _SeenCycle(cycle.Cycle):
    """A cycle that is a loop whatever its weight, and can be asked whether it is one at the strictest values."""

    last: "tuple[_SeenCycle, Form, bool] | None" = None

    @property
    def could_be_loop(self) -> bool:
        return True

    def is_loop(self, form: Form, is_fenced: bool) -> bool:
        _SeenCycle.last = self, form, is_fenced
        return True

    def condensed(self) -> Any:
        """Return the cycle without its text."""
        if self.has_letters:
            if self.is_block:
                unit = "a\nb\nc"
            elif cycle.WORDS.fullmatch(self.unit):
                unit = "a "
            else:
                unit = "GA" if cycle.SEQUENCE.fullmatch(self.unit) else "a"
        elif any(map(str.isalnum, self.unit)):
            unit = "0" if self.unit.isdigit() else "0 "
        elif num_fences(self.unit):
            unit = "```"
        else:
            unit = "-" if self.unit.isascii() else "—"
            if cycle.QUOTES.search(self.unit):
                unit = '"'
        if "=" in self.unit and unit not in "-—":
            unit += "="
        return _CYCLE(self.start, self.end, self.period, unit, self.weight, self.is_exact)


def limit_of(form: str, is_fenced: bool, values: dict[str, Any]) -> float:
    """Return the bits that may be missing from text of a form, with the values of the constants by name."""
    limit: float = values[f"limit {form}"]
    if not is_fenced:
        return limit
    return (
        float(values["limit of fenced code"])
        if form == "code"
        else max(limit, values["limit in fences"])
    )


class _Limits(dict[Form, float]):
    """Limits of 0 that know which form was asked for."""

    last = "prose"

    def __missing__(self, form: Form) -> float:
        _Limits.last = form
        return 0.0


class Recorder(scanner.LoopScanner):
    """A scanner that takes nothing for a loop, until it is one at the strictest value of every constant."""

    def __init__(self, allowed_copies: Callable[[str], int] | None) -> None:
        super().__init__(LoopConfig(), allowed_copies)
        self.recording = Recording()
        self._best: dict[tuple[str, bool], float] = {}

    def _judge_deficit(self) -> None:
        event = super()._judge_deficit()
        history = self._history
        is_fenced = event is None and history.in_fence(len(history.tokens) - 1)
        if event is None and not is_fenced:
            return  # the prompt asks for it
        form, bits = _Limits.last, self._deficit.total
        if bits > self._best.get((form, is_fenced), 0.0):
            self._best[form, is_fenced] = bits
            self.recording.deficits.append((history.end, form, is_fenced, bits))
            if bits > limit_of(
                form, is_fenced, {constant.name: constant.strictest for constant in CONSTANTS}
            ):
                raise StopIteration

    def _judge_cycle(self) -> None:
        if super()._judge_cycle() is None:
            return
        assert _SeenCycle.last
        seen, form, is_fenced = _SeenCycle.last
        condensed = seen.condensed()
        self.recording.cycles.append((self._history.end, condensed, form, is_fenced))
        if condensed.is_loop(form, is_fenced):  # the constants are the strictest
            raise StopIteration

    def _find_flood(self) -> None:
        event = super()._find_flood()
        if event is None:
            return
        chars, history = self._flood.chars, self._history
        kind = (
            "blank"
            if "".join(chars).isspace()
            else "few"
            if len(chars) <= flood._NEEDED[0][0]
            else "several"
        )
        size = history.end - event.onset
        self.recording.floods.append(
            (history.end, kind, history.in_fence(len(history.tokens) - 1), size)
        )
        self._flood.end()
        if size > 6 * flood._NEEDED[-1][1]:
            raise StopIteration


def stop_all(texts: list[tuple[str, Any]], settings: tuple[Setting, ...]) -> list[int]:
    """Return the offsets at which texts are stopped with constants changed as `settings` say."""
    stops = []
    with patched(changes_of(settings)):
        for text, allowed_copies in texts:
            event = LoopDetector(None, allowed_copies).feed(text)
            stops.append(event.detected_at if event else NEVER)
    return stops


def record_all(texts: list[tuple[str, Any]], settings: tuple[Setting, ...]) -> list[Recording]:
    """Return the recordings of texts, each with what its prompt allows, with weighing constants changed as `settings` say."""
    deciding = [constant for constant in CONSTANTS if constant.kind == "cycle"]
    floods = [
        (constant.name, constant.loosest) for constant in CONSTANTS if constant.kind == "flood"
    ]
    recordings = []
    with (
        patched(
            changes_of(
                (
                    *settings,
                    *((constant.name, constant.strictest) for constant in deciding),
                    *floods,
                )
            )
        ),
        patched(
            [
                (measure, "_LIMITS", _Limits()),
                (measure, "_LIMIT_IN_FENCE", math.inf),
                (measure, "_LIMIT_OF_FENCED_CODE", math.inf),
                (evidence, "LEAST_LIMIT", min(BY_NAME[f"limit {form}"].loosest for form in FORMS)),
                (evidence, "_LOOK_AGAIN", 1.03),
                (scanner, "_JUDGE_AGAIN", 1.08),
                (measure, "Cycle", _SeenCycle),
                (measure, "LEAST_WEIGHT", BY_NAME["letters, many copies"].loosest),
                (measure, "least_begun", lambda period: 0.0),
            ]
        ),
    ):
        for text, allowed_copies in texts:
            recorder = Recorder(allowed_copies)
            with suppress(StopIteration):
                recorder.feed(text)
                recorder.next_change()
            recordings.append(recorder.recording)
    return recordings


# ---- what constants decide on a recording


def first_deficit(recording: Recording, form: str, is_fenced: bool, limit: float) -> int:
    """Return the offset at which more bits than `limit` are missing in text of that form."""
    return next(
        (
            end
            for end, of, fenced, bits in recording.deficits
            if bits > limit and of == form and fenced == is_fenced
        ),
        NEVER,
    )


def first_cycle(recording: Recording) -> int:
    """Return the offset of the first cycle that is a loop, with the constants as they are."""
    return next(
        (end for end, seen, form, fenced in recording.cycles if seen.is_loop(form, fenced)), NEVER
    )


def first_flood(recording: Recording) -> int:
    """Return the offset of the first flood that is a loop, with the constants as they are."""
    for end, kind, fenced, size in recording.floods:
        if kind == "blank":
            needed = flood._NEEDED_BLANK
        else:
            needed = flood._NEEDED[0 if kind == "few" else 1][1] * (
                flood._FENCED_FACTOR if fenced else 1
            )
        if size >= needed:
            return end
    return NEVER
