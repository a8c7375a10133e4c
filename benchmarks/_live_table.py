"""The tables of `live.py`: answers of the same request in several modes, compared.

A *case* is a prompt at a temperature at a server: its answers by mode. It *loops* if the answer without
a filter ran to its limit and ends in a cycle, to the letter or but for its numbers; it is *clean* if the
model ended that answer. The rest ran to their limit without a cycle.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from _cycles import onset_of, tail_cycle

from dedup.text.segmenter import is_terminated

Row = dict[str, Any]
FILTERED = ("cut", "whole", "healed")
_MARKER = re.compile(r"\s*(?:[-*+•#>]|\d+[.)、．]|[（(]?\w[)）])\s*")
_BRACKETS = ("()", "[]", "{}", "（）", "「」", "《》", "“”")


@dataclass(frozen=True)
class Case:
    """The answers to one prompt at one temperature at one server, by mode."""

    answers: dict[str, Row]

    @property
    def off(self) -> Row:
        return self.answers["off"]

    @property
    def onset(self) -> int | None:
        """Return where the loop of the unfiltered answer begins, in characters."""
        return onset_of(self.off["text"]) if self.off["finish"] == "length" else None

    @property
    def kind(self) -> str:
        if self.onset is not None:
            return "loop"
        return "clean" if self.off["finish"] == "stop" else "unended"


def cases_of(rows: Iterable[Row]) -> list[Case]:
    """Return the cases of which all modes that any case has are at hand."""
    cases: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        key = row["server"], row["language"], row["temperature"], row["id"]
        cases.setdefault(key, {})[row["mode"]] = row
    modes = {mode for answers in cases.values() for mode in answers}
    return [Case(answers) for answers in cases.values() if answers.keys() == modes]


def is_stopped(answer: Row) -> bool:
    """Return whether an answer ended at a loop, healed or not."""
    return bool(answer["stop_reason"] == "repetition_detected")


def is_healed(answer: Row) -> bool:
    return bool((answer["repetition"] or {}).get("healed"))


def removed_chars(answer: Row) -> int:
    return int((answer["repetition"] or {}).get("removed_chars", 0))


def is_changed(answer: Row) -> bool:
    """Return whether the filter reports that it changed an answer."""
    return is_stopped(answer) or is_healed(answer) or removed_chars(answer) > 0


def saving(case: Case, mode: str) -> tuple[float, float]:
    """Return the looping tokens that were not generated, and those of the unfiltered answer.

    The onset in tokens is taken in proportion to the onset in characters.
    """
    assert case.onset is not None
    off, answer = case.off, case.answers[mode]
    onset = off["generated"] * case.onset / len(off["text"])
    looping = off["generated"] - onset
    if not is_stopped(answer):
        return 0.0, looping
    return off["generated"] - max(onset, min(answer["generated"], off["generated"])), looping


def ends_well(text: str) -> bool:
    """Return whether a text ends as a sentence, a fenced block, or an item like the one before it does."""
    lines = [line for line in text.rstrip().splitlines() if line.strip()]
    if not lines:
        return False
    last = lines[-1].rstrip(" *_")
    if sum(line.lstrip().startswith("```") for line in lines) % 2:
        return False
    if any(last.count(pair[0]) > last.count(pair[1]) for pair in _BRACKETS):
        return False
    if is_terminated(last) or last.lstrip().startswith("```") or last.endswith("|"):
        return True
    items = [line.rstrip() for line in lines if _MARKER.match(line)]
    is_item = bool(items) and items[-1] == lines[-1].rstrip()
    return is_item and len(items) > 1 and not is_terminated(items[-2])


# ---- tables


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def of(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})" if whole else "-"


def loop_cells(cases: list[Case]) -> list[str]:
    loops = [case for case in cases if case.kind == "loop"]
    counters = sum(tail_cycle(case.off["text"]) is None for case in loops)
    cells = [str(len(cases)), f"{len(loops)} ({counters})"]
    cells.append(of(sum(is_stopped(case.answers["cut"]) for case in loops), len(loops)))
    for mode in ("cut", "whole"):
        pairs = [saving(case, mode) for case in loops]
        mark = "~" if any(case.answers[mode]["is_estimated"] for case in loops) else ""
        cells.append(mark + share(sum(part for part, _ in pairs), sum(all_ for _, all_ in pairs)))
    equal = [
        case.answers["cut"]["generated"] == case.answers["whole"]["generated"] for case in cases
    ]
    return [*cells, of(sum(equal), len(equal))]


def healing_cells(cases: list[Case]) -> list[str]:
    loops = [case for case in cases if case.kind == "loop"]
    healed = [case.answers["healed"] for case in loops if is_changed(case.answers["healed"])]
    ended = [answer for answer in healed if answer["finish"] != "length"]
    cells = [
        of(sum(is_healed(answer) and not is_stopped(answer) for answer in healed), len(loops)),
        str(sum(map(is_stopped, healed))),
        str(sum(onset_of(case.answers["healed"]["text"]) is not None for case in loops)),
        of(sum(ends_well(answer["text"]) for answer in ended), len(ended)),
    ]
    if not loops:
        return [*cells, "-"]
    return [
        *cells,
        " / ".join(
            f"{fmean(case.answers[mode]['generated'] for case in loops):.0f}"
            for mode in ("off", "cut", "healed")
        ),
    ]


def clean_cells(cases: list[Case]) -> list[str]:
    clean = [case for case in cases if case.kind == "clean"]
    cells = [str(len(clean))]
    chars = sum(len(case.off["text"]) for case in clean)
    for mode in ("cut", "healed"):
        answers = [case.answers[mode] for case in clean]
        stopped = sum(is_stopped(answer) or is_healed(answer) for answer in answers)
        removed = sum(map(removed_chars, answers))
        cells += [
            of(sum(map(is_changed, answers)), len(answers)),
            str(stopped),
            share(removed, chars),
        ]
    differ = [
        case
        for case in clean
        if not is_changed(case.answers["cut"]) and case.answers["cut"]["text"] != case.off["text"]
    ]
    unended = [case for case in cases if case.kind == "unended"]
    stopped = sum(is_stopped(case.answers["cut"]) for case in unended)
    return [*cells, str(len(differ)), of(stopped, len(unended))]


Cells = Callable[[list[Case]], list[str]]
TABLES: dict[str, tuple[list[str], Cells]] = {
    "Loops, and the share of their tokens that was not generated": (
        [
            "answers",
            "loops (only numbers change)",
            "stopped live",
            "not generated, streamed",
            "not generated, whole",
            "as many tokens whole as streamed",
        ],
        loop_cells,
    ),
    "The same loops, healed": (
        [
            "healed",
            "cut in the end",
            "loops left",
            "end well, of those not at their limit",
            "tokens: off / cut / healed",
        ],
        healing_cells,
    ),
    "Answers that the model ended itself": (
        [
            "answers",
            "changed by cut",
            "stopped",
            "characters removed",
            "changed by healed",
            "stopped or healed",
            "characters removed",
            "differ without a change",
            "others at their limit: stopped",
        ],
        clean_cells,
    ),
}


def tables(cases: list[Case]) -> str:
    """Return all tables as Markdown: a row per server and language, per server, per temperature, and in all."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        server, language = case.off["server"], case.off["language"]
        groups.setdefault(f"{server} | {language}", []).append(case)
    by_temperature: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: float(case.off["temperature"])):
        by_temperature.setdefault(f"all | T = {case.off['temperature']:g}", []).append(case)
    groups = dict(sorted(groups.items())) | by_temperature | {"all | all": cases}
    written = []
    for title, (names, cells) in TABLES.items():
        written.append(f"**{title}**\n\n| server | prompts | {' | '.join(names)} |")
        written.append("| --- |" + " --- |" * (len(names) + 1))
        written += [f"| {name} | {' | '.join(cells(group))} |" for name, group in groups.items()]
        written.append("")
    return "\n".join(written)


def changed_clean(cases: list[Case]) -> str:
    """Return a list of the clean answers that the filter changed, to be read."""
    lines = [
        f"- {case.off['server']} {case.off['id']} T={case.off['temperature']:g} {mode}: "
        + ("stopped" if is_stopped(answer) else "healed" if is_healed(answer) else "edited")
        + f", {removed_chars(answer)} of {len(case.off['text'])} characters"
        for case in cases
        if case.kind == "clean"
        for mode in FILTERED
        if mode != "whole" and is_changed(answer := case.answers[mode])
    ]
    return "\n".join(lines)
