"""Judge every constant of the loop detector on sources that it was not made with.

    make calibrate CALIBRATE_ARGS="--loops loops/*.jsonl --live live/*_off.jsonl --legit answers/*.jsonl PACKAGES"
    python benchmarks/calibrate.py ... --sample 20 --only deficit      # a quick look: 20 texts a source, the limits alone

Inputs: `--loops` takes rows of {id, text, onset}, `--live` whole answers {prompt, text, finish} (`*_off.jsonl` of
`live.py`; those that ran to their limit and end in a cycle are loops; the others are left out, small models loop for a while in them
too), `--legit` files of rows {text} or folders of unpacked packages (`_legit_texts.py --fetch`).

A source is a package, a model (of rows that name one, also in their id: "aen-gpt4-284"), else a file; live files are grouped by the
letters that their names begin with. A model's loops and its legitimate answers are one source.

Output, in Markdown: the detector as it is, the curve of each constant (the others as they are), and fits in which each fold of
sources is left out in turn: values are chosen on the other folds, for the most loops stopped with at most `--budget` alarms in 1,000
legitimate texts. Alarms count whole texts, of at most 6,000 characters; loops are cut at 12,000. A loop is stopped live if the
detector reports it before its text ends. Recordings are kept in `--cache`; a change of the detector's code makes new ones.
"""

import argparse
import collections
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import pickle
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _evidence as evidence
import numpy as np
from _cycles import onset_of
from _evidence import BY_NAME, CONSTANTS, FORMS, NEVER, Constant, Recording, Setting
from _legit_texts import legit_texts, package_roots
from numpy.typing import NDArray
from tqdm import tqdm

from dedup import LoopConfig
from dedup.text.loops import LoopEvent, scanner
from dedup.text.loops import evidence as bits
from dedup.text.prompt import read_prompt

LOOP_CHARS = 12_000
AFTER_ONSET = 4_000  # at least, of a loop that begins late
LEGIT_CHARS = 6_000
CHUNK = 40  # texts that a process takes at once
NUM_FOLDS = 8
TABLES = {
    "deficit": "Limits",
    "cycle": "Exact cycles",
    "flood": "Floods",
    "bits": "Weights of evidence",
}

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """A text to judge. onset: of its loop, -1 if it is legitimate. kind: of text, or of loop."""

    text: str
    source: str
    kind: str
    name: str
    prompt: str
    onset: int

    @property
    def is_loop(self) -> bool:
        return self.onset >= 0


# ---- inputs


def source_of(row: dict[str, Any], default: str) -> str:
    """Return the model of a row, in small letters and digits, or the default."""
    model = row.get("model")
    if not model and (found := re.fullmatch(r"[a-z]+-(.+)-\d+", str(row.get("id", "")))):
        model = found[1]
    return re.sub(r"[\W_]+", "", str(model).lower()) if model else default


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("text"):
            yield row


def loops_of(path: Path) -> Iterator[Text]:
    for number, row in enumerate(rows_of(path)):
        onset = int(row.get("onset") or 0)
        text = row["text"][: max(LOOP_CHARS, onset + AFTER_ONSET)]
        name = f"{path.name}#{row.get('id', number)}"
        yield Text(text, source_of(row, path.stem), path.stem, name, row.get("prompt") or "", onset)


def live_of(path: Path) -> Iterator[Text]:
    """Yield the answers that end in a loop."""
    found = re.match(r"[a-z]+", path.stem.lower())
    source = found[0] if found else path.stem
    for number, row in enumerate(rows_of(path)):
        if row["finish"] == "length" and (onset := onset_of(row["text"])) is not None:
            name = f"{path.name}#{row.get('id', number)}"
            yield Text(
                row["text"][:LOOP_CHARS],
                source,
                f"live {source}",
                name,
                row.get("prompt") or "",
                onset,
            )


def legit_of(path: Path, sample: int) -> Iterator[Text]:
    if path.is_dir():
        for root in package_roots(path):
            for text in itertools.islice(legit_texts([root]), sample or None):
                yield Text(text.text, text.source, text.kind, text.path, "", -1)
        return
    for number, row in enumerate(rows_of(path)):
        name = f"{path.name}#{row.get('id', number)}"
        yield Text(
            row["text"][:LEGIT_CHARS],
            source_of(row, path.stem),
            path.stem,
            name,
            row.get("prompt") or "",
            -1,
        )


def sampled(texts: Iterable[Text], sample: int) -> Iterator[Text]:
    """Yield each text once, at most `sample` legitimate ones of a source; 0 for all."""
    seen: set[bytes] = set()
    taken: collections.Counter[str] = collections.Counter()
    for text in texts:
        digest = hashlib.sha1(text.text.encode(errors="replace")).digest()
        if digest in seen or (sample and not text.is_loop and taken[text.source] >= sample):
            continue
        seen.add(digest)
        taken[text.source] += not text.is_loop
        yield text


# ---- recordings

Settings = tuple[Setting, ...]
PRESENT: Settings = ()
# Screens out quiet texts: more is missing than at most values that are tried later.
SCREEN: Settings = (
    ("bits expected of a letter", BY_NAME["bits expected of a letter"].loosest),
    ("what early copies count", (0.35, 0.8, 1.0)),
    ("near, characters", 800),
)


@dataclass(frozen=True)
class Pass:
    """One reading of the texts. is_recorded: whether all that deciding constants look at is recorded, not only where a text is stopped."""

    settings: Settings
    is_recorded: bool


_texts: list[Text] = []  # inherited by the processes


def _read(task: tuple[Pass, list[int]]) -> tuple[Pass, list[int], Sequence[Recording | int]]:
    once, numbers = task
    texts = []
    for number in numbers:
        requested = read_prompt(_texts[number].prompt) if _texts[number].prompt else None
        texts.append(
            (
                _texts[number].text,
                requested.allowed_copies if requested and requested.copies else None,
            )
        )
    if once.is_recorded:
        return once, numbers, evidence.record_all(texts, once.settings)
    return once, numbers, evidence.stop_all(texts, once.settings)


class Passes:
    """The findings of each pass in each text, read anew only if the cache lacks it."""

    def __init__(self, texts: list[Text], cache: Path, jobs: int) -> None:
        _texts[:] = texts
        self.texts = texts
        self._jobs = jobs
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ".gitignore").write_text("*\n")
        code = hashlib.sha1()
        for path in sorted(
            [*(evidence.ROOT / "dedup" / "text").rglob("*.py"), Path(evidence.__file__)]
        ):
            code.update(path.read_bytes())
        self._code = code.hexdigest()
        self._digests = [
            hashlib.sha1(f"{text.prompt}\0{text.text}".encode(errors="replace")).digest()
            for text in texts
        ]
        self._found: dict[Pass, dict[int, Any]] = {}

    def make(self, passes: Iterable[Pass], numbers: Sequence[int], label: str) -> None:
        """Read the texts with these numbers in each pass."""
        tasks, left = [], collections.Counter[Pass]()
        for once in passes:
            known = self._load(once)
            found = self._found.setdefault(once, {})
            found.update(
                {
                    number: known[self._digests[number]]
                    for number in numbers
                    if self._digests[number] in known
                }
            )
            missing = [number for number in numbers if number not in found]
            left[once] = len(missing)
            tasks += [(once, missing[at : at + CHUNK]) for at in range(0, len(missing), CHUNK)]
        if not tasks:
            return
        with (
            multiprocessing.get_context("fork").Pool(self._jobs) as pool,
            tqdm(total=left.total(), desc=label, unit=" texts", mininterval=2) as bar,
        ):
            for once, chunk, results in pool.imap_unordered(_read, tasks):
                self._found[once].update(zip(chunk, results, strict=True))
                bar.update(len(chunk))
                left[once] -= len(chunk)
                if not left[once]:  # an interrupted run goes on behind it
                    known = self._load(once)
                    known.update(
                        {
                            self._digests[number]: result
                            for number, result in self._found[once].items()
                        }
                    )
                    self._path(once).write_bytes(pickle.dumps(known))

    def recordings(self, settings: Settings) -> list[Recording]:
        found, quiet = self._found[Pass(settings, True)], Recording()
        return [found.get(number, quiet) for number in range(len(self.texts))]

    def stops(self, settings: Settings) -> Offsets:
        found = self._found[Pass(settings, False)]
        return np.array([found.get(number, NEVER) for number in range(len(self.texts))])

    def active(self) -> list[int]:
        """Return the numbers of the loops, and of the texts that some value of a constant may stop."""
        loosest = tuple(
            (constant.name, constant.loosest) for constant in CONSTANTS if constant.kind == "cycle"
        )
        screened = self._found[Pass(SCREEN, True)]
        active = [number for number, text in enumerate(self.texts) if text.is_loop]
        with evidence.patched(evidence.changes_of(loosest)):
            for number, recording in screened.items():
                if (
                    recording.floods
                    or _may_be_loop(recording.deficits)
                    or evidence.first_cycle(recording) < NEVER
                ):
                    active.append(number)
        return sorted(active)

    def _path(self, once: Pass) -> Path:
        return self._cache / f"{hashlib.sha1(f'{self._code} {once!r}'.encode()).hexdigest()}.pickle"

    def _load(self, once: Pass) -> dict[bytes, Any]:
        path = self._path(once)
        known: dict[bytes, Any] = pickle.loads(path.read_bytes()) if path.exists() else {}
        return known


def _may_be_loop(deficits: list[evidence.Deficit]) -> bool:
    loosest = {name: BY_NAME[name].loosest for name in LIMITS}
    return any(
        missing > evidence.limit_of(form, is_fenced, loosest)
        for _, form, is_fenced, missing in deficits
    )


class Judge:
    """Offsets at which texts are stopped. Decisions of one kind of evidence are separate, the earliest counts.

    Args:
        recordings: of all texts, under one setting of the weighing constants.
    """

    def __init__(self, recordings: list[Recording]) -> None:
        self._recordings = recordings
        self._known: dict[Any, Offsets] = {}

    def stops(self, settings: tuple[Setting, ...] = ()) -> Offsets:
        """Return the offset at which each text is stopped with deciding constants changed as `settings` say."""
        values = dict(settings)
        limits = {name: values.pop(name, BY_NAME[name].present) for name in LIMITS}
        stops = [
            self._stops_of(
                first,
                tuple(sorted(item for item in values.items() if BY_NAME[item[0]].kind == kind)),
            )
            for kind, first in (("cycle", evidence.first_cycle), ("flood", evidence.first_flood))
        ]
        for form in FORMS:
            stops += [
                self._stops_at(form, is_fenced, evidence.limit_of(form, is_fenced, limits))
                for is_fenced in (False, True)
            ]
        earliest: Offsets = np.minimum.reduce(stops)
        return earliest

    def _stops_of(
        self, first: Callable[[Recording], int], settings: tuple[Setting, ...]
    ) -> Offsets:
        key = first.__name__, settings
        if key not in self._known:
            with evidence.patched(evidence.changes_of(settings)):
                self._known[key] = np.array(list(map(first, self._recordings)))
        return self._known[key]

    def _stops_at(self, form: str, is_fenced: bool, limit: float) -> Offsets:
        key = form, is_fenced, limit
        if key not in self._known:
            self._known[key] = np.array(
                [evidence.first_deficit(seen, form, is_fenced, limit) for seen in self._recordings]
            )
        return self._known[key]


EXPECTED = BY_NAME["bits expected of a letter"]
LIMITS = [constant.name for constant in CONSTANTS if constant.kind == "deficit"]


# ---- figures


class Figures:
    """Shares of loops stopped and of legitimate texts in alarm, among some of the texts."""

    def __init__(self, texts: list[Text]) -> None:
        self.texts = texts
        self.is_loop = np.array([text.is_loop for text in texts])
        self.onsets = np.array([text.onset for text in texts])
        self.sizes = np.array([len(text.text) for text in texts])
        self.sources = np.array([text.source for text in texts])
        self.kinds = np.array([text.kind for text in texts])
        self.legit_kinds = sorted({text.kind for text in texts if not text.is_loop})

    def stopped(self, stops: Offsets) -> NDArray[np.bool_]:
        return stops < self.sizes

    def live(self, stops: Offsets, among: Any = True) -> float:
        """Return the percentage of loops stopped before their texts end."""
        chosen = self.is_loop & among
        return 100 * float(np.mean(self.stopped(stops)[chosen])) if chosen.any() else math.nan

    def alarms(self, stops: Offsets, among: Any = True) -> float:
        """Return the alarms in 1,000 legitimate texts."""
        chosen = ~self.is_loop & among
        return 1000 * float(np.mean((stops < NEVER)[chosen])) if chosen.any() else math.nan

    def delay(self, stops: Offsets, share: float) -> float:
        """Return the percentile of the characters from onset to stop."""
        chosen = self.is_loop & self.stopped(stops)
        return (
            float(np.percentile(np.maximum(0, stops - self.onsets)[chosen], 100 * share))
            if chosen.any()
            else math.nan
        )

    def cells(self, stops: Offsets) -> list[str]:
        by_kind = [f"{self.alarms(stops, self.kinds == kind):.1f}" for kind in self.legit_kinds]
        delays = [f"{self.delay(stops, share):.0f}" for share in (0.5, 0.9)]
        return [f"{self.live(stops):.1f}%", *delays, f"{self.alarms(stops):.1f}", *by_kind]

    @property
    def heads(self) -> list[str]:
        return ["stopped live", "median", "p90", "alarms", *self.legit_kinds]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(heads), ["---"] * len(heads), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def shown(value: Any) -> str:
    return ", ".join(map(shown, value)) if isinstance(value, tuple) else f"{value:g}"


def folds_of(figures: Figures) -> NDArray[np.int64]:
    """Return the fold of each text: sources are dealt out, the largest first, each to the fold that has least of its texts."""
    sizes: dict[str, NDArray[np.float64]] = {}
    weight = np.where(
        figures.is_loop, 1 / max(1, figures.is_loop.sum()), 1 / max(1, (~figures.is_loop).sum())
    )
    for source, is_loop, share in zip(figures.sources, figures.is_loop, weight, strict=True):
        sizes.setdefault(str(source), np.zeros(2))[int(is_loop)] += share
    loads = np.zeros((NUM_FOLDS, 2))
    fold_of = {}
    for source, size in sorted(sizes.items(), key=lambda item: (-max(item[1]), item[0])):
        fold = int(np.argmin(((loads + size) ** 2).sum(axis=1) - (loads**2).sum(axis=1)))
        loads[fold] += size
        fold_of[source] = fold
    return np.array([fold_of[str(source)] for source in figures.sources])


# ---- fits

Outcome = tuple[Offsets, str]


@dataclass
class Fit:
    """Values chosen on all folds but one, and how they do on both sides."""

    chosen: list[str]
    fitted: list[tuple[float, float]]  # a fold: loops stopped live in per cent, alarms in 1,000
    left_out: list[tuple[float, float]]
    in_sum: tuple[float, float]  # all texts, each judged by values chosen without its source

    def means(self) -> tuple[float, float]:
        return float(np.mean([live for live, _ in self.fitted])), float(
            np.mean([alarms for _, alarms in self.fitted])
        )


def fit(
    figures: Figures, folds: NDArray[np.int64], choose: Callable[[NDArray[np.bool_]], Outcome]
) -> Fit:
    """Leave each fold out in turn. `choose` returns all stops at the values that are best among the texts it is given, and their names."""
    result = Fit([], [], [], (0, 0))
    joined = np.full(len(folds), NEVER)
    for fold in range(NUM_FOLDS):
        held = folds == fold
        stops, chosen = choose(~held)
        joined[held] = stops[held]
        result.chosen.append(chosen)
        result.fitted.append((figures.live(stops, ~held), figures.alarms(stops, ~held)))
        result.left_out.append((figures.live(stops, held), figures.alarms(stops, held)))
    result.in_sum = figures.live(joined), figures.alarms(joined)
    return result


def choose_value(
    figures: Figures, outcomes: list[Outcome], budget: float, among: NDArray[np.bool_]
) -> Outcome:
    """Return the outcome that stops the most loops within the budget; without one, that with the fewest alarms."""
    within = [outcome for outcome in outcomes if figures.alarms(outcome[0], among) <= budget]
    if not within:
        return min(outcomes, key=lambda outcome: figures.alarms(outcome[0], among))
    return max(
        within,
        key=lambda outcome: (figures.live(outcome[0], among), -figures.alarms(outcome[0], among)),
    )


FITTED = [
    *LIMITS,
    "letters needed, x",
    "letters, many copies",
    "letters in structure",
    "symbols",
    "flood, x",
]


def choose_together(
    figures: Figures, judges: dict[str, Judge], budget: float, among: NDArray[np.bool_]
) -> Outcome:
    """Choose the values of several constants, from the strictest on: lower next what stops most loops an alarm, while the budget lasts."""
    best: tuple[float, Offsets, str] = (-1.0, np.array([]), "")
    for name, judge in judges.items():
        at = {constant: len(BY_NAME[constant].values) - 1 for constant in FITTED}

        def stops_at(at: dict[str, int], judge: Judge = judge) -> Offsets:
            return judge.stops(
                tuple((constant, BY_NAME[constant].values[index]) for constant, index in at.items())
            )

        live, alarms = figures.live(stops_at(at), among), figures.alarms(stops_at(at), among)
        while True:
            moves = []
            for constant, index in at.items():
                for step in range(1, index + 1):  # a step alone may bring nothing
                    moved = {**at, constant: index - step}
                    stops = stops_at(moved)
                    gain, cost = (
                        figures.live(stops, among) - live,
                        figures.alarms(stops, among) - alarms,
                    )
                    if gain > 0 and alarms + cost <= budget:
                        moves.append((gain / (cost + 0.01), gain, cost, moved))
            if not moves:
                break
            _, gain, cost, at = max(moves, key=lambda move: move[:3])
            live, alarms = live + gain, alarms + cost
        if live > best[0]:
            values = ", ".join(
                f"{constant.removeprefix('limit ')} {shown(BY_NAME[constant].values[i])}"
                for constant, i in at.items()
            )
            best = live, stops_at(at), f"{name}: {values}"
    return best[1], best[2]


# ---- output

Curves = dict[str, list[tuple[Any, Offsets]]]
TOGETHER = "all limits together"
MAIN = [
    *(
        "limit prose",
        "limit labelled",
        "limit code",
        "limit data",
        "letters needed, x",
        "letters, many copies",
        "letters in structure",
    ),
    *(
        "bits expected of a letter",
        "what early copies count",
        "near, characters",
        "bits of a switch",
        "bits of a counter",
    ),
]


def present_tables(figures: Figures, stops: Offsets) -> str:
    rows = []
    for kind in sorted({text.kind for text in figures.texts if text.is_loop}):
        among = figures.is_loop & (figures.kinds == kind)
        part = Figures([text for text, chosen in zip(figures.texts, among, strict=True) if chosen])
        rows.append([kind, str(among.sum()), *part.cells(stops[among])[:3]])
    rows.append(["all", str(figures.is_loop.sum()), *figures.cells(stops)[:3]])
    loops = table(["loops", "texts", "stopped live", "median characters to the stop", "p90"], rows)
    rows = []
    for kind in [*figures.legit_kinds, "all"]:
        among = ~figures.is_loop & ((figures.kinds == kind) | (kind == "all"))
        num_sources = len(set(figures.sources[among]))
        rows.append(
            [
                kind,
                str(among.sum()),
                str(num_sources),
                str((stops[among] < NEVER).sum()),
                f"{figures.alarms(stops, among):.1f}",
            ]
        )
    legit = table(["legitimate", "texts", "sources", "alarms", "in 1,000"], rows)
    early = figures.is_loop & (stops < figures.onsets)
    return f"{loops}\n{legit}\n{early.sum()} loops are stopped before the onset that their labels state: there are others before.\n"


def curve_table(
    figures: Figures, curves: Curves, constants: Iterable[Constant], by_kind: bool
) -> str:
    heads = figures.heads if by_kind else figures.heads[:4]
    rows = []
    for constant in constants:
        for value, stops in curves[constant.name]:
            mark = "**" if value == constant.present else ""
            rows.append(
                [constant.name, f"{mark}{shown(value)}{mark}", *figures.cells(stops)[: len(heads)]]
            )
    return table(["constant", "value", *heads], rows)


def print_alarms(figures: Figures, stops: Offsets, most: int) -> None:
    """Print the sources with the most alarms, with what stands before each."""
    alarms = ~figures.is_loop & (stops < NEVER)
    print("## Alarms by source\n")
    for source, count in collections.Counter(map(str, figures.sources[alarms])).most_common(most):
        of = int((~figures.is_loop & (figures.sources == source)).sum())
        print(f"- {source}: {count} of {of}")
        for number in np.flatnonzero(alarms & (figures.sources == source))[:most]:
            text = figures.texts[number]
            end = int(stops[number])
            print(f"    - {text.kind} {text.name} at {end}: {text.text[max(0, end - 150) : end]!r}")
    print("\n## Loops that are not stopped\n")
    missed = figures.is_loop & ~figures.stopped(stops)
    for kind, count in collections.Counter(map(str, figures.kinds[missed])).most_common():
        print(f"- {kind}: {count} of {int((figures.is_loop & (figures.kinds == kind)).sum())}")
        for number in np.flatnonzero(missed & (figures.kinds == kind))[:most]:
            text = figures.texts[number]
            rest = text.text[text.onset :]
            print(f"    - {text.name}, {len(rest)} characters from the onset on: {rest[:150]!r}")
    print()


def fit_tables(fits: dict[str, Fit]) -> str:
    rows = []
    for name, result in fits.items():
        live, alarms = result.means()
        counts = collections.Counter(result.chosen).most_common()
        chosen = (
            "; ".join(f"{value} ({count})" for value, count in counts)
            if name != TOGETHER
            else "see below"
        )
        left_live, left_alarms = result.in_sum
        rows.append(
            [
                *(name, chosen, f"{live:.1f}%", f"{left_live:.1f}%", f"{left_live - live:+.1f}"),
                *(f"{alarms:.2f}", f"{left_alarms:.2f}", f"{left_alarms - alarms:+.2f}"),
            ]
        )
    heads = [
        "constant",
        "chosen (folds)",
        "live, fitted",
        "live, left out",
        "gap, points",
        "alarms, fitted",
        "left out",
        "gap",
    ]
    return table(heads, rows)


def fold_table(result: Fit) -> str:
    rows = [
        [
            str(fold),
            f"{live:.1f}%",
            f"{out_live:.1f}%",
            f"{alarms:.2f}",
            f"{out_alarms:.2f}",
            chosen,
        ]
        for fold, ((live, alarms), (out_live, out_alarms), chosen) in enumerate(
            zip(result.fitted, result.left_out, result.chosen, strict=True)
        )
    ]
    live, alarms = result.means()
    rows.append(
        [
            "all",
            f"{live:.1f}%",
            f"{result.in_sum[0]:.1f}%",
            f"{alarms:.2f}",
            f"{result.in_sum[1]:.2f}",
            "",
        ]
    )
    return table(
        ["fold left out", "live, fitted", "live, left out", "alarms, fitted", "left out", "chosen"],
        rows,
    )


def write_into(path: Path, sections: dict[str, str]) -> None:
    """Replace what stands between `<!-- calibrate: NAME -->` and `<!-- end -->` in a page."""
    page = path.read_text(encoding="utf-8")
    for name, section in sections.items():
        head, mark, rest = page.partition(f"<!-- calibrate: {name} -->\n")
        if mark:
            page = f"{head}{mark}{section}<!-- end -->{rest.partition('<!-- end -->')[2]}"
    path.write_text(page, encoding="utf-8")


def draw(path: Path, figures: Figures, curves: Curves) -> None:
    """Draw loops stopped against alarms, a line for each constant."""
    import matplotlib as mpl  # type: ignore[import-not-found, unused-ignore]

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "dedup"
    import matplotlib.pyplot as plt  # type: ignore[import-not-found, unused-ignore]

    fig, axes = plt.subplots(figsize=(7, 4.2))
    for name, points in curves.items():
        if name in (
            "limit prose",
            "limit code",
            "letters needed, x",
            "bits expected of a letter",
            "what early copies count",
        ):
            places = [(figures.alarms(stops), figures.live(stops)) for _, stops in points]
            axes.plot(*zip(*places, strict=True), marker="o", markersize=3, label=name)
            if name in ("limit prose", "bits expected of a letter"):
                for (value, _), place in zip(points, places, strict=True):
                    axes.annotate(
                        shown(value), place, fontsize=6, xytext=(2, -7), textcoords="offset points"
                    )
    axes.set(xlabel="alarms in 1,000 legitimate texts", ylabel="loops stopped live, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={"Date": None})


class _Told(scanner.LoopScanner):
    """A scanner that tells what it takes each token for."""

    def __init__(self) -> None:
        super().__init__(LoopConfig())
        self.rows: list[list[str]] = []
        self._told_to = 0

    def _compare(self, text: str) -> LoopEvent | None:
        history = self._history
        idle = (
            "".join(history.tokens)[-history.end + self._told_to :]
            if history.end > self._told_to
            else ""
        )
        if idle:
            self.rows.append(
                [repr(idle), "new, or the first three tokens of a copy", "", "", "0.0"]
            )
        expected: list[float] = []
        was = bits.expected_bits

        def heard(weight: float, num_copies: int, distance: int) -> float:
            expected.append(was(weight, num_copies, distance))
            return expected[-1]

        before = self._deficit.total
        with evidence.patched([(bits, "expected_bits", heard)]):
            event = super()._compare(text)
        self._told_to = history.end
        added = self._deficit.total - before
        said = (
            f"{expected[-1] - added:.2f}"
            if self._deficit.total
            else f"at least {expected[-1] + before:.2f}"
        )
        times = history.copies_at(len(history.tokens) - 1)
        self.rows.append(
            [
                repr(text),
                f"copy {times}" if times else "not expected",
                f"{expected[-1]:.2f}",
                said,
                f"{self._deficit.total:.1f}",
            ]
        )
        return event


def explain(path: Path) -> None:
    """Print the tokens of a text up to its first loop, with their bits."""
    told = _Told()
    told.feed(path.read_text(encoding="utf-8"))
    event = told.next_change()
    print(table(["token", "is", "bits expected", "bits said", "missing in all"], told.rows))
    print(f"{event}\n" if event else "No loop.\n")


def read(args: argparse.Namespace) -> list[Text]:
    excluded = set(args.exclude)

    def texts() -> Iterator[Text]:
        for paths, texts_of in (
            (args.loops, loops_of),
            (args.live, live_of),
            (args.legit, lambda p: legit_of(p, args.sample)),
        ):
            for path in paths:
                if path.stem not in excluded:
                    yield from texts_of(path)

    return list(tqdm(sampled(texts(), args.sample), desc="reading", unit=" texts", mininterval=2))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--loops",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="rows of {id, text, onset}",
    )
    parser.add_argument(
        "--live",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="rows of {prompt, text, finish}",
    )
    parser.add_argument(
        "--legit",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="rows of {text}, or folders of packages",
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="NAME",
        help="files left out, by their names without .jsonl",
    )
    parser.add_argument(
        "--sample", type=int, default=0, help="legitimate texts a source (default all)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=list(TABLES),
        metavar="NAME",
        help=f"constants, or all of {', '.join(TABLES)}",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=3.0,
        help="alarms in 1,000 legitimate texts that a fit may cause (default 3)",
    )
    parser.add_argument(
        "--show",
        type=int,
        default=0,
        metavar="N",
        help="print the N worst sources and N alarms and misses of each",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.svg",
        help="draw the main curves (needs the extra `plots`)",
    )
    parser.add_argument(
        "--into",
        type=Path,
        metavar="PAGE.md",
        help="write the main tables into a page, between its marks",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=evidence.ROOT / ".calibrate",
        help="folder for recordings (default .calibrate)",
    )
    parser.add_argument(
        "--explain",
        type=Path,
        metavar="FILE.txt",
        help="print what the detector makes of each token of a text, no more",
    )
    args = parser.parse_args()
    if args.explain:
        explain(args.explain)
        return
    if unknown := set(args.only) - set(TABLES) - set(BY_NAME):
        parser.error(
            f"--only: no constant is called {', '.join(sorted(unknown))}; there are {', '.join((*TABLES, *BY_NAME))}"
        )
    begun = time.monotonic()
    texts = read(args)
    figures = Figures(texts)
    if not figures.is_loop.any() or figures.is_loop.all():
        parser.error("needs loops and legitimate texts")
    passes = Passes(texts, args.cache, args.jobs)
    passes.make([Pass(SCREEN, True)], np.flatnonzero(~figures.is_loop).tolist(), "screening")
    active = passes.active()
    chosen = [
        constant
        for constant in CONSTANTS
        if not {constant.kind, constant.name}.isdisjoint(args.only)
    ]
    weighing = [
        constant for constant in chosen if constant.kind == "bits" and constant is not EXPECTED
    ]
    expected = {
        value: _settings(EXPECTED, value)
        for value in (EXPECTED.values if EXPECTED in chosen else [EXPECTED.present])
    }
    passes.make([Pass(settings, True) for settings in expected.values()], active, "recording")
    changed = dict.fromkeys(
        _settings(constant, value) for constant in weighing for value in constant.values
    )
    passes.make([Pass(settings, False) for settings in changed], active, "stopping")
    judges = {
        f"bits {shown(value)}": Judge(passes.recordings(settings))
        for value, settings in expected.items()
    }
    present = judges[f"bits {shown(EXPECTED.present)}"]
    stops = present.stops()

    curves: Curves = {}
    for constant in tqdm(chosen, desc="deciding", unit=" constants"):
        curves[constant.name] = []
        for value in constant.values:
            if constant is EXPECTED:
                stops_at = judges[f"bits {shown(value)}"].stops()
            elif constant.kind == "bits":
                stops_at = passes.stops(_settings(constant, value))
            else:
                stops_at = present.stops(((constant.name, value),))
            curves[constant.name].append((value, stops_at))
    folds = folds_of(figures)
    fits = {}
    bar = tqdm(total=NUM_FOLDS, desc="fitting", unit=" folds")

    def choose(among: NDArray[np.bool_]) -> Outcome:
        outcome = choose_together(figures, judges, args.budget, among)
        bar.update()
        return outcome

    fits[TOGETHER] = fit(figures, folds, choose)
    bar.close()
    for name, points in curves.items():
        outcomes = [(offsets, shown(value)) for value, offsets in points]
        fits[name] = fit(
            figures, folds, functools.partial(choose_value, figures, outcomes, args.budget)
        )
    num_legit, num_sources = int((~figures.is_loop).sum()), len(set(figures.sources))
    sections = {
        "texts": f"{figures.is_loop.sum():,} loops and {num_legit:,} legitimate texts of {num_sources:,} sources.\n",
        "left out": fold_table(fits[TOGETHER]),
        "present": present_tables(figures, stops),
        "main curves": curve_table(
            figures,
            curves,
            [constant for constant in chosen if constant.name in MAIN],
            by_kind=False,
        ),
    }
    print(f"# Calibration of the loop detector\n\n{sections['texts']}")
    print(
        f"## Values chosen without the sources they are judged on\n\n{sections['left out']}\n{fit_tables(fits)}"
    )
    print(f"## The detector as it is\n\n{sections['present']}")
    print(
        "## Curves\n\nCharacters are those from a loop's onset to its stop, alarms those in 1,000 legitimate texts.\n"
    )
    for kind, title in TABLES.items():
        if any(constant.kind == kind for constant in chosen):
            print(
                f"### {title}\n\n{curve_table(figures, curves, [c for c in chosen if c.kind == kind], by_kind=True)}"
            )
    if args.into:
        write_into(args.into, sections)
    if args.show:
        print_alarms(figures, stops, args.show)
    if args.plot:
        draw(args.plot, figures, curves)
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)


def _settings(constant: Constant, value: Any) -> Settings:
    return PRESENT if value == constant.present else ((constant.name, value),)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)  # do not wait for the pool
