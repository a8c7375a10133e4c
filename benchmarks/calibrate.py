"""Judge every constant of the loop detector on sources that it was not made with.

    make calibrate CALIBRATE_ARGS="--loops loops/*.jsonl --live live/*.jsonl --legit answers/*.jsonl PACKAGES"
    python benchmarks/calibrate.py ... --sample 20 --only deficit      # a quick look: 20 texts a source, the limits alone

Inputs: `--loops` takes rows of {id, text, onset}, `--live` whole answers {prompt, text, finish} (`live_texts.py`; those that ran to
their limit and end in a cycle are loops, those that ended by themselves are legitimate), `--legit` files of rows {text} or folders
of unpacked packages (`_legit_texts.py --fetch`).

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
from _evidence import BY_NAME, CONSTANTS, FORMS, NEVER, Constant, Recording, Setting
from _legit_texts import legit_texts, package_roots
from numpy.typing import NDArray
from tqdm import tqdm

from dedup.text.prompt import read_prompt

LOOP_CHARS = 12_000
AFTER_ONSET = 4_000  # at least, of a loop that begins late
LEGIT_CHARS = 6_000
CHUNK = 40  # texts that a process takes at once
NUM_FOLDS = 8
TABLES = {"deficit": "Limits", "cycle": "Exact cycles", "flood": "Floods", "bits": "Weights of evidence"}

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
    """Yield the answers that end in a loop, and those that ended by themselves."""
    found = re.match(r"[a-z]+", path.stem.lower())
    source = found[0] if found else path.stem
    for number, row in enumerate(rows_of(path)):
        name, prompt = f"{path.name}#{row.get('id', number)}", row.get("prompt") or ""
        if row["finish"] == "stop":
            yield Text(row["text"][:LEGIT_CHARS], source, "live answers", name, prompt, -1)
        elif (onset := onset_of(row["text"])) is not None:
            yield Text(row["text"][:LOOP_CHARS], source, f"live {source}", name, prompt, onset)


def legit_of(path: Path, sample: int) -> Iterator[Text]:
    if path.is_dir():
        for root in package_roots(path):
            for text in itertools.islice(legit_texts([root]), sample or None):
                yield Text(text.text, text.source, text.kind, text.path, "", -1)
        return
    for number, row in enumerate(rows_of(path)):
        name = f"{path.name}#{row.get('id', number)}"
        yield Text(row["text"][:LEGIT_CHARS], source_of(row, path.stem), path.stem, name, row.get("prompt") or "", -1)


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


def onset_of(text: str) -> int | None:
    """Return where the cycle begins in which a text ends, to the letter or with its numbers folded; None without one."""
    folded, offsets = [], []
    for found in re.finditer(r"\d+|[\s\S]", text):
        folded.append("0" if found[0][0].isdigit() else found[0].lower())
        offsets.append(found.start())
    onsets = [tail_cycle(text)]
    if (start := tail_cycle("".join(folded))) is not None:
        onsets.append(offsets[start])
    return min((onset for onset in onsets if onset is not None), default=None)


def tail_cycle(text: str, copies: int = 3, span: int = 60) -> int | None:
    """Return the beginning of the shortest cycle in which a text ends, of at least so many copies and characters; None without one."""
    back = text.rstrip()[::-1]
    size = len(back)
    reach = [0] * size  # Z function: how far `back` repeats itself at each distance
    left = right = 0
    for at in range(1, size):
        if at < right:
            reach[at] = min(right - at, reach[at - left])
        while at + reach[at] < size and back[reach[at]] == back[at + reach[at]]:
            reach[at] += 1
        if at + reach[at] > right:
            left, right = at, at + reach[at]
    for period in range(1, size // copies + 1):
        cover = reach[period] + period
        if cover >= max(copies * period, span):
            return size - cover
    return None


# ---- recordings

_texts: list[Text] = []  # inherited by the processes


def _record(task: tuple[tuple[Setting, ...], list[int]]) -> tuple[tuple[Setting, ...], list[int], list[Recording]]:
    settings, numbers = task
    texts = []
    for number in numbers:
        requested = read_prompt(_texts[number].prompt) if _texts[number].prompt else None
        texts.append((_texts[number].text, requested.allowed_copies if requested and requested.copies else None))
    return settings, numbers, evidence.record_all(texts, settings)


class Recordings:
    """The recordings of all texts under each setting of the weighing constants, made when they are missing in the cache."""

    def __init__(self, texts: list[Text], cache: Path, jobs: int) -> None:
        _texts[:] = texts
        self.texts = texts
        self._jobs = jobs
        self._cache = cache
        cache.mkdir(parents=True, exist_ok=True)
        (cache / ".gitignore").write_text("*\n")
        code = hashlib.sha1()
        for path in sorted([*(evidence.ROOT / "dedup").rglob("*.py"), Path(evidence.__file__)]):
            if "logits" not in path.parts:
                code.update(path.read_bytes())
        self._code = code.hexdigest()
        self._digests = [hashlib.sha1(f"{text.prompt}\0{text.text}".encode(errors="replace")).digest() for text in texts]
        self._made: dict[tuple[Setting, ...], dict[int, Recording]] = {}

    def make(self, passes: Sequence[tuple[Setting, ...]], numbers: Sequence[int], label: str) -> None:
        """Record the texts with these numbers under each setting. What is not recorded counts as quiet."""
        tasks = []
        for settings in passes:
            known = self._load(settings)
            made = self._made.setdefault(settings, {})
            made.update({number: known[self._digests[number]] for number in numbers if self._digests[number] in known})
            missing = [number for number in numbers if number not in made]
            tasks += [(settings, missing[at : at + CHUNK]) for at in range(0, len(missing), CHUNK)]
        if not tasks:
            return
        with (
            multiprocessing.get_context("fork").Pool(self._jobs) as pool,
            tqdm(total=sum(len(chunk) for _, chunk in tasks), desc=label, unit=" texts", mininterval=2) as bar,
        ):
            for settings, chunk, recordings in pool.imap_unordered(_record, tasks):
                self._made[settings].update(zip(chunk, recordings, strict=True))
                bar.update(len(chunk))
        for settings in passes:
            known = self._load(settings)
            known.update({self._digests[number]: recording for number, recording in self._made[settings].items()})
            self._path(settings).write_bytes(pickle.dumps(known))

    def of(self, settings: tuple[Setting, ...]) -> list[Recording]:
        made, quiet = self._made[settings], Recording()
        return [made.get(number, quiet) for number in range(len(self.texts))]

    def active(self) -> list[int]:
        """Return the numbers of the texts that some value of a constant may stop."""
        loosest = tuple((constant.name, constant.loosest) for constant in CONSTANTS if constant.kind == "cycle")
        with evidence.patched(evidence.changes_of(loosest)):
            return [
                number
                for number, recording in sorted(self._made[SCREEN].items())
                if recording.deficits or recording.floods or evidence.first_cycle(recording) < NEVER
            ]

    def _path(self, settings: tuple[Setting, ...]) -> Path:
        return self._cache / f"{hashlib.sha1(f'{self._code} {settings!r}'.encode()).hexdigest()}.pickle"

    def _load(self, settings: tuple[Setting, ...]) -> dict[bytes, Recording]:
        path = self._path(settings)
        known: dict[bytes, Recording] = pickle.loads(path.read_bytes()) if path.exists() else {}
        return known


PRESENT: tuple[Setting, ...] = ()
# Screens out quiet texts: more is missing than at any value that is tried later.
SCREEN: tuple[Setting, ...] = (
    ("bits expected of a letter", BY_NAME["bits expected of a letter"].loosest),
    ("what early copies count", (0.35, 0.8, 1.0)),
    ("near, characters", 800),
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
        stops = [self._stops_of(evidence.first_cycle, tuple(sorted(item for item in values.items() if BY_NAME[item[0]].kind == "cycle")))]
        stops.append(self._stops_of(evidence.first_flood, tuple(sorted(i for i in values.items() if BY_NAME[i[0]].kind == "flood"))))
        for form in FORMS:
            limit = limits[f"limit {form}"]
            stops.append(self._stops_at(form, False, limit))
            stops.append(self._stops_at(form, True, max(limit, limits["limit in fences"])))
        return np.minimum.reduce(stops)

    def _stops_of(self, first: Callable[[Recording], int], settings: tuple[Setting, ...]) -> Offsets:
        key = first.__name__, settings
        if key not in self._known:
            with evidence.patched(evidence.changes_of(settings)):
                self._known[key] = np.array(list(map(first, self._recordings)))
        return self._known[key]

    def _stops_at(self, form: str, is_fenced: bool, limit: float) -> Offsets:
        key = form, is_fenced, limit
        if key not in self._known:
            self._known[key] = np.array([evidence.first_deficit(seen, form, is_fenced, limit) for seen in self._recordings])
        return self._known[key]


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
        return float(np.percentile(np.maximum(0, stops - self.onsets)[chosen], 100 * share)) if chosen.any() else math.nan

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
    weight = np.where(figures.is_loop, 1 / max(1, figures.is_loop.sum()), 1 / max(1, (~figures.is_loop).sum()))
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
        return float(np.mean([live for live, _ in self.fitted])), float(np.mean([alarms for _, alarms in self.fitted]))


def fit(figures: Figures, folds: NDArray[np.int64], choose: Callable[[NDArray[np.bool_]], Outcome]) -> Fit:
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


def choose_value(figures: Figures, outcomes: list[Outcome], budget: float, among: NDArray[np.bool_]) -> Outcome:
    """Return the outcome that stops the most loops within the budget; without one, that with the fewest alarms."""
    within = [outcome for outcome in outcomes if figures.alarms(outcome[0], among) <= budget]
    if not within:
        return min(outcomes, key=lambda outcome: figures.alarms(outcome[0], among))
    return max(within, key=lambda outcome: (figures.live(outcome[0], among), -figures.alarms(outcome[0], among)))


FITTED = [*LIMITS, "letters needed, x", "letters, many copies", "letters in structure", "symbols", "flood, x"]


def choose_together(figures: Figures, judges: dict[str, Judge], budget: float, among: NDArray[np.bool_]) -> Outcome:
    """Choose the values of several constants, from the strictest on: lower next what stops most loops an alarm, while the budget lasts."""
    best: tuple[float, Offsets, str] = (-1.0, np.array([]), "")
    for name, judge in judges.items():
        at = {constant: len(BY_NAME[constant].values) - 1 for constant in FITTED}

        def stops_at(at: dict[str, int], judge: Judge = judge) -> Offsets:
            return judge.stops(tuple((constant, BY_NAME[constant].values[index]) for constant, index in at.items()))

        live, alarms = figures.live(stops_at(at), among), figures.alarms(stops_at(at), among)
        while True:
            moves = []
            for constant, index in at.items():
                for step in range(1, index + 1):  # a step alone may bring nothing
                    moved = {**at, constant: index - step}
                    stops = stops_at(moved)
                    gain, cost = figures.live(stops, among) - live, figures.alarms(stops, among) - alarms
                    if gain > 0 and alarms + cost <= budget:
                        moves.append((gain / (cost + 0.01), gain, cost, moved))
            if not moves:
                break
            _, gain, cost, at = max(moves, key=lambda move: move[:3])
            live, alarms = live + gain, alarms + cost
        if live > best[0]:
            values = ", ".join(f"{constant.removeprefix('limit ')} {shown(BY_NAME[constant].values[i])}" for constant, i in at.items())
            best = live, stops_at(at), f"{name}: {values}"
    return best[1], best[2]


# ---- output


def print_present(figures: Figures, stops: Offsets) -> None:
    print("## The detector as it is\n")
    rows = []
    for kind in sorted({text.kind for text in figures.texts if text.is_loop}):
        among = figures.is_loop & (figures.kinds == kind)
        part = Figures([text for text, chosen in zip(figures.texts, among, strict=True) if chosen])
        rows.append([kind, str(among.sum()), *part.cells(stops[among])[:3]])
    rows.append(["all", str(figures.is_loop.sum()), *figures.cells(stops)[:3]])
    print(table(["loops", "texts", "stopped live", "median characters to the stop", "p90"], rows))
    rows = []
    for kind in [*figures.legit_kinds, "all"]:
        among = ~figures.is_loop & ((figures.kinds == kind) | (kind == "all"))
        num_sources = len(set(figures.sources[among]))
        rows.append([kind, str(among.sum()), str(num_sources), str((stops[among] < NEVER).sum()), f"{figures.alarms(stops, among):.1f}"])
    print(table(["legitimate", "texts", "sources", "alarms", "in 1,000"], rows))
    early = figures.is_loop & (stops < figures.onsets)
    print(f"{early.sum()} loops are stopped before the onset that their labels state: there are others before.\n")


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


def print_fits(fits: dict[str, Fit]) -> None:
    print("## Values chosen without the sources they are judged on\n")
    rows = []
    for name, result in fits.items():
        live, alarms = result.means()
        counts = collections.Counter(result.chosen).most_common()
        chosen = "; ".join(f"{value} ({count})" for value, count in counts) if name != "together" else "below"
        left_live, left_alarms = result.in_sum
        rows.append(
            [name, chosen, f"{live:.1f}%", f"{left_live:.1f}%", f"{left_live - live:+.1f}"]
            + [f"{alarms:.2f}", f"{left_alarms:.2f}", f"{left_alarms - alarms:+.2f}"]
        )
    heads = ["constant", "chosen (folds)", "live, fitted", "live, left out", "gap, points", "alarms, fitted", "left out", "gap"]
    print(table(heads, rows))
    if together := fits.get("together"):
        print("Together, fold by fold:\n")
        rows = [
            [str(fold), f"{live:.1f}%", f"{out_live:.1f}%", f"{alarms:.2f}", f"{out_alarms:.2f}", chosen]
            for fold, ((live, alarms), (out_live, out_alarms), chosen) in enumerate(
                zip(together.fitted, together.left_out, together.chosen, strict=True)
            )
        ]
        print(table(["fold left out", "live, fitted", "live, left out", "alarms, fitted", "left out", "chosen"], rows))


def draw(path: Path, figures: Figures, curves: dict[str, list[tuple[Any, Offsets]]]) -> None:
    """Draw loops stopped against alarms, a line for each constant."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "dedup"
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(7, 4.2))
    for name, points in curves.items():
        if name in ("limit prose", "limit code", "letters needed, x", "bits expected of a letter", "what early copies count"):
            places = [(figures.alarms(stops), figures.live(stops)) for _, stops in points]
            axes.plot(*zip(*places, strict=True), marker="o", markersize=3, label=name)
            if name in ("limit prose", "bits expected of a letter"):
                for (value, _), place in zip(points, places, strict=True):
                    axes.annotate(shown(value), place, fontsize=6, xytext=(2, -7), textcoords="offset points")
    axes.set(xlabel="alarms in 1,000 legitimate texts", ylabel="loops stopped live, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    fig.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={"Date": None})


def read(args: argparse.Namespace) -> list[Text]:
    excluded = set(args.exclude)

    def texts() -> Iterator[Text]:
        for paths, texts_of in ((args.loops, loops_of), (args.live, live_of), (args.legit, lambda p: legit_of(p, args.sample))):
            for path in paths:
                if path.stem not in excluded:
                    yield from texts_of(path)

    return list(tqdm(sampled(texts(), args.sample), desc="reading", unit=" texts", mininterval=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loops", type=Path, nargs="+", default=[], metavar="FILE", help="rows of {id, text, onset}")
    parser.add_argument("--live", type=Path, nargs="+", default=[], metavar="FILE", help="rows of {prompt, text, finish}")
    parser.add_argument("--legit", type=Path, nargs="+", default=[], metavar="PATH", help="rows of {text}, or folders of packages")
    parser.add_argument("--exclude", nargs="+", default=[], metavar="NAME", help="files left out, by their names without .jsonl")
    parser.add_argument("--sample", type=int, default=0, help="legitimate texts a source (default all)")
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="constants: those of these tables")
    parser.add_argument("--budget", type=float, default=3.0, help="alarms in 1,000 legitimate texts that a fit may cause (default 3)")
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print the N worst sources and N alarms and misses of each")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the main curves (needs the extra `plots`)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--cache", type=Path, default=evidence.ROOT / ".calibrate", help="folder for recordings (default .calibrate)")
    args = parser.parse_args()
    begun = time.monotonic()
    texts = read(args)
    figures = Figures(texts)
    if not figures.is_loop.any() or figures.is_loop.all():
        parser.error("needs loops and legitimate texts")
    recordings = Recordings(texts, args.cache, args.jobs)
    recordings.make([SCREEN], range(len(texts)), "screening")
    active = recordings.active()
    chosen = [constant for constant in CONSTANTS if constant.kind in args.only]
    settings = {
        (constant.name, value): PRESENT if value == constant.present else ((constant.name, value),)
        for constant in chosen
        if constant.kind == "bits"
        for value in constant.values
    }
    recordings.make(list(dict.fromkeys([PRESENT, *settings.values()])), active, "recording")
    judge_of = functools.cache(lambda changed: Judge(recordings.of(changed)))
    present = judge_of(PRESENT)
    stops = present.stops()

    num_legit = int((~figures.is_loop).sum())
    print("# Calibration of the loop detector\n")
    print(f"{figures.is_loop.sum():,} loops, {num_legit:,} legitimate texts, {len(set(figures.sources)):,} sources; {len(active):,} texts are not quiet.\n")
    print_present(figures, stops)
    curves: dict[str, list[tuple[Any, Offsets]]] = {}
    for constant in tqdm(chosen, desc="deciding", unit=" constants"):
        curves[constant.name] = [
            (value, judge_of(settings[constant.name, value]).stops() if constant.kind == "bits" else present.stops(((constant.name, value),)))
            for value in constant.values
        ]
    folds = folds_of(figures)
    fits = {}
    if set(args.only) >= {"deficit", "cycle", "flood"}:
        judges = {"bits 0.5": present} if "bits" not in args.only else _judges(BY_NAME["bits expected of a letter"], settings, judge_of)
        bar = tqdm(total=NUM_FOLDS, desc="fitting", unit=" folds")

        def choose(among: NDArray[np.bool_]) -> Outcome:
            outcome = choose_together(figures, judges, args.budget, among)
            bar.update()
            return outcome

        fits["together"] = fit(figures, folds, choose)
        bar.close()
    for name, points in curves.items():
        outcomes = [(offsets, shown(value)) for value, offsets in points]
        fits[name] = fit(figures, folds, functools.partial(choose_value, figures, outcomes, args.budget))
    print_fits(fits)
    print("## Curves\n\nCharacters are those from a loop's onset to its stop, alarms those in 1,000 legitimate texts.\n")
    for kind, title in TABLES.items():
        if kind in args.only:
            print(f"### {title}\n")
            rows = []
            for constant in chosen:
                if constant.kind == kind:
                    for value, offsets in curves[constant.name]:
                        mark = "**" if value == constant.present else ""
                        rows.append([constant.name, f"{mark}{shown(value)}{mark}", *figures.cells(offsets)])
            print(table(["constant", "value", *figures.heads], rows))
    if args.show:
        print_alarms(figures, stops, args.show)
    if args.plot:
        draw(args.plot, figures, curves)
    print(f"{time.monotonic() - begun:.0f} s", file=sys.stderr)


def _judges(constant: Constant, settings: dict[Setting, tuple[Setting, ...]], judge_of: Callable[[Any], Judge]) -> dict[str, Judge]:
    return {f"bits {shown(value)}": judge_of(settings[constant.name, value]) for value in constant.values}


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        os._exit(130)  # do not wait for the pool
