"""The report of a corpus audit for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dedup.terminal import fit, one_line, shortened

_SHOWN: Final = 8
_EXAMPLE_COLUMNS: Final = 56
_NAME_COLUMNS: Final = 40

Results = Mapping[str, Any]
CHAT_TITLES: Final = {
    "chats": "chats",
    "answers": "answers",
    "looping_answers": "answers that loop",
    "chats_that_loop": "chats with an answer that loops",
    "chats_repeating_within": "chats that repeat a sentence within an answer",
    "chats_repeating_across": "chats that repeat a sentence of an earlier answer",
}


def taken_share(results: Results) -> float:
    """Return the share of characters that the filter would take, from 0 to 1."""
    totals = results["totals"]
    return float(totals.get("taken_chars", 0) / max(1, totals.get("chars", 0)))


def facts(results: Results) -> list[tuple[str, str]]:
    """Return the main figures: a title and a value each."""
    totals, repeats = results["totals"], results["repeats"]
    documents, chars = totals.get("documents", 0), totals.get("chars", 0)
    rows = [("documents", f"{documents:,} ({chars:,} characters)")]
    if (sample := results["read"]["sample"]) < 1:
        rows.append(("sample", f"{sample:.2%} of the documents"))
    if invalid := totals.get("invalid_rows"):
        rows.append(("invalid rows", f"{invalid:,}, passed over"))
    num_loops = sum(results["loops"].values())
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(results["loops"].items()))
    looping = share_of(totals.get("looping_chars", 0), chars)
    rows.append(("documents that loop", f"{num_loops:,} ({kinds or 'none'})"))
    rows.append(("characters in loops", looping))
    copies = repeats["documents"]["totals"]
    rows.append(
        (
            "copies of other documents",
            share_of(copies.get("repeated_bytes", 0), copies.get("bytes", 0)),
        )
    )
    sentences = repeats["sentences"]["totals"]
    across = share_of(sentences.get("across_bytes", 0), sentences.get("bytes", 0))
    rows.append(("sentences of other documents", f"{across} of all sentences"))
    rows.append(("distinct 8-grams", f"{results['distinct_8_gram_frac']:.1%}"))
    taken = totals.get("taken_documents", 0)
    rows.append(
        (
            "the filter would take",
            f"{taken:,} documents, {taken_share(results):.2%} of the characters",
        )
    )
    return rows


def share_of(part: float, whole: float) -> str:
    """Return a share as a percentage."""
    return f"{part / max(1, whole):.2%}"


def lines(results: Results) -> Iterator[str]:
    """Yield the lines of the report."""
    for title, value in facts(results):
        yield f"{fit(title, 29)} {value}"
    chars = results["totals"].get("chars", 0)
    thresholds = results["read"]["thresholds"]
    if results["taken"]:
        yield from _table(
            "What the filter would take",
            ("signal", "documents", "characters"),
            [
                (
                    f"{name} > {thresholds[name]:g}",
                    f"{row['documents']:,}",
                    share_of(row["chars"], chars),
                )
                for name, row in _by_chars(results["taken"])
            ],
        )
    bad = [row for row in results["sources"] if row["taken_documents"]]
    if bad:
        yield from _table(
            "Sources",
            ("source", "documents", "taken", "of its characters"),
            [
                (
                    row["source"],
                    f"{row['documents']:,}",
                    f"{row['taken_documents']:,}",
                    share_of(row["taken_chars"], row["chars"]),
                )
                for row in bad[:_SHOWN]
            ],
        )
    yield from _repeats(results)
    if results["chat"]:
        yield ""
        for name, title in CHAT_TITLES.items():
            yield f"{fit(title, 50)} {results['chat'].get(name, 0):,}"
    if results["worst"]:
        yield from _table(
            "Worst documents",
            ("document", "times its threshold", "loop"),
            [
                (row["id"], f"{row['severity']:.1f}", row["signals"]["loop_kind"] or "-")
                for row in results["worst"][:_SHOWN]
            ],
        )


def _repeats(results: Results) -> Iterator[str]:
    repeats = results["repeats"]
    for title, rows, second in (
        ("Documents", repeats["documents"]["texts"], "documents"),
        ("Sentences", repeats["sentences"]["texts"], "documents"),
        ("Templates", repeats["sentences"]["templates"], "variants"),
        ("One answer to many prompts", repeats["answers"]["templates"], "variants"),
        ("Openings of answers", repeats["openings"]["texts"], "documents"),
    ):
        if rows:
            yield from _table(
                title,
                ("example", "times", "prompts" if "prompts" in title else second),
                [
                    (
                        shortened(one_line(row["example"]), _EXAMPLE_COLUMNS),
                        f"{row['count']:,}",
                        f"{row[second]:,}",
                    )
                    for row in rows[:_SHOWN]
                ],
                _EXAMPLE_COLUMNS,
            )


def _by_chars(rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, Mapping[str, float]]]:
    return sorted(rows.items(), key=lambda item: (-item[1]["chars"], item[0]))


def _table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    columns: int = _NAME_COLUMNS,
) -> Iterator[str]:
    """Yield a title, a header and rows; the first column is text, the others are figures."""
    yield ""
    yield title
    for row in (header, *rows):
        name = fit(one_line(row[0]), columns)
        figures = (
            fit(cell, max(12, len(head)), right=True)
            for cell, head in zip(row[1:], header[1:], strict=True)
        )
        yield f"  {name} {' '.join(figures)}"
