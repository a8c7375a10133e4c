"""The report of a corpus audit as one HTML file.

It contains no script and loads nothing. Texts are escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

from dedup.corpus.report import CHAT_TITLES, Results, facts, share_of, taken_share
from dedup.terminal import printable

_SHOWN: Final = 20
_SHOWN_WORST: Final = 12
_WIDTH, _HEIGHT = 300, 120
_CHARTED: Final = (
    "loop_char_frac",
    "drift_char_frac",
    "dup_sentence_char_frac",
    "gopher_dup_line_char_frac",
    "gopher_top_2_gram",
    "rps_doc_frac_chars_dupe_10grams",
)

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6776; --line: #dfe3e9;
  --paper: #fff; --back: #f4f6f9; --first: #3b78c3; --later: #d9622b; --bad: #c0342b;
  --good: #23804a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #97a1b0; --line: #313945;
  --paper: #1b2129; --back: #12161c; --first: #6ea6ea; --later: #f08a54; --bad: #f0736a;
  --good: #58c286; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; margin: 0; } h2 { font-size: 19px; margin: 34px 0 12px; }
h3 { font-size: 15px; margin: 0 0 6px; }
h1, h2, h3, p, td:first-child, td:last-child { overflow-wrap: anywhere; }
td:first-child, td:last-child { min-width: 8em; }
.top { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; }
.verdict { font-weight: 700; color: #fff; border-radius: 99px; padding: 3px 14px;
  background: var(--good); }
.verdict.failed { background: var(--bad); }
@media (prefers-color-scheme: dark) { .verdict { color: #12161c; } }
.soft { color: var(--soft); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; min-width: 0; margin-bottom: 14px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 10px; }
.axis { stroke: var(--line); } .bar { fill: var(--first); fill-opacity: .75; }
.over { fill: var(--bad); fill-opacity: .75; } .limit { stroke: var(--bad); stroke-dasharray: 3 3; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; max-height: 190px;
  overflow: auto; font-size: 14px; margin-top: 4px; contain: paint; }
"""


def html(results: Results, fail_above: float | None = None) -> str:
    """Return the page.

    Args:
        results: what `audit` returned.
        fail_above: share of characters taken above which the audit failed.
    """
    verdict = ""
    if fail_above is not None:
        failed = taken_share(results) > fail_above
        name, kind = ("failed", " failed") if failed else ("passed", "")
        verdict = f'<span class="verdict{kind}">{name}</span>'
    read = results["read"]
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy"',
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Repetition in a corpus</title><style>{_STYLE}</style></head><body><main>",
        f'<div class="top"><h1>Repetition in a corpus</h1>{verdict}</div>',
        f'<p class="soft">{_text(read["path"])}, {_text(read["format"])}</p>',
        _table(("", ""), facts(results)),
        '<div class="grid">',
        *(_card(name, _histogram(results, name)) for name in _CHARTED),
        "</div>",
        *_taken(results),
        *_sources(results),
        *_repeats(results),
        *_chat(results),
        *_worst(results),
        "</main></body></html>\n",
    ]
    return "\n".join(parts)


def _taken(results: Results) -> Iterator[str]:
    chars = results["totals"].get("chars", 0)
    thresholds = results["read"]["thresholds"]
    rows = [
        (name, f"{most:g}", f"{row.get('documents', 0):,}", share_of(row.get("chars", 0), chars))
        for name, most in thresholds.items()
        for row in (results["taken"].get(name, {}),)
    ]
    yield "<h2>What the filter would take</h2>"
    yield _table(("signal", "threshold", "documents", "characters"), rows)


def _sources(results: Results) -> Iterator[str]:
    rows = results["sources"][:_SHOWN]
    if not rows:
        return
    yield "<h2>Sources, the most repetitive first</h2>"
    yield '<div class="card">' + _bars(rows) + "</div>"
    yield _table(
        ("source", "documents", "taken", "characters taken", "characters in loops"),
        [
            (
                row["source"],
                f"{row['documents']:,}",
                f"{row['taken_documents']:,}",
                share_of(row["taken_chars"], row["chars"]),
                share_of(row["looping_chars"], row["chars"]),
            )
            for row in rows
        ],
    )


def _repeats(results: Results) -> Iterator[str]:
    repeats = results["repeats"]
    for title, rows, second, heading in (
        ("Documents that occur again", repeats["documents"]["texts"], "documents", "documents"),
        ("Sentences in many documents", repeats["sentences"]["texts"], "documents", "documents"),
        (
            "Templates: sentences that differ in numbers only",
            repeats["sentences"]["templates"],
            "variants",
            "variants",
        ),
        ("One answer to many prompts", repeats["answers"]["templates"], "variants", "prompts"),
        ("Openings of answers", repeats["openings"]["texts"], "documents", "answers"),
    ):
        if not rows:
            continue
        yield f"<h2>{title}</h2>"
        yield _table(
            ("example", "times", heading, "bytes repeated", "found in"),
            [
                (
                    row["example"][:200],
                    f"{row['count']:,}",
                    f"{row[second]:,}",
                    f"{row['bytes']:,}",
                    row["id"],
                )
                for row in rows[:_SHOWN]
            ],
        )


def _chat(results: Results) -> Iterator[str]:
    if results["chat"]:
        yield "<h2>Chats</h2>"
        rows = [(title, f"{results['chat'].get(k, 0):,}") for k, title in CHAT_TITLES.items()]
        yield _table(("", ""), rows)


def _worst(results: Results) -> Iterator[str]:
    if not results["worst"]:
        return
    yield "<h2>The worst documents</h2>"
    for row in results["worst"][:_SHOWN_WORST]:
        found = row["signals"]
        figures = ", ".join(f"{name} {found[name]:.2f}" for name in row["exceeded"])
        if found["loop_kind"]:
            figures += f"; {found['loop_kind']} loop from character {found['loop_onset']:,}"
        yield f'<div class="card"><h3>{_text(row["id"])}</h3>'
        yield f'<span class="soft">{_text(figures)}</span>'
        yield f'<div class="text" dir="auto">{_text(row["text"])}</div></div>'


def _card(title: str, chart: str) -> str:
    return f'<div class="card"><h3>{title}</h3>{chart}</div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = ""
    if any(header):
        head = "<tr>" + "".join(f"<th>{_text(cell)}</th>" for cell in header) + "</tr>"
    body = "".join(
        "<tr>" + "".join(f'<td dir="auto">{_text(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="card scroll"><table>{head}{body}</table></div>'


def _histogram(results: Results, name: str) -> str:
    """Draw the distribution of a signal over documents, square roots of counts, and its limit."""
    signal = results["signals"][name]
    limit = results["read"]["thresholds"].get(name)
    counts = signal["histogram"]
    most = max(1, *counts) ** 0.5
    step = _WIDTH / len(counts)
    bottom = _HEIGHT - 16
    shapes = []
    for at, count in enumerate(counts):
        height = round(count**0.5 / most * (bottom - 14), 1)
        kind = "over" if limit is not None and at / len(counts) >= limit else "bar"
        place = f'x="{at * step + 1:.1f}" y="{bottom - height:.1f}"'
        size = f'width="{step - 2:.1f}" height="{height}"'
        shapes.append(f'<rect class="{kind}" {place} {size}><title>{count:,}</title></rect>')
    if limit is not None:
        x = f"{limit * _WIDTH:.1f}"
        shapes.append(f'<line class="limit" x1="{x}" x2="{x}" y1="4" y2="{bottom}"/>')
    shapes.append(f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{bottom}" y2="{bottom}"/>')
    shapes.append(f'<text x="0" y="{_HEIGHT - 4}">0</text>')
    shapes.append(f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">100%</text>')
    middle = f'x="{_WIDTH / 2}" y="{_HEIGHT - 4}" text-anchor="middle"'
    shapes.append(f"<text {middle}>mean {signal['mean']:.1%}, √ of documents</text>")
    return _svg(_WIDTH, _HEIGHT, f"distribution of {name}", shapes)


def _bars(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw the share of characters taken from each source."""
    rows = rows[:8]
    shapes = []
    for number, row in enumerate(rows):
        y = number * 30
        length = round(row["taken_chars"] / max(1, row["chars"]) * 560, 1)
        share = share_of(row["taken_chars"], row["chars"])
        shapes.append(f'<text x="0" y="{y + 10}">{_text(row["source"][-90:])}</text>')
        shapes.append(f'<rect class="over" x="0" y="{y + 13}" width="{length}" height="9"/>')
        shapes.append(f'<text x="{length + 6}" y="{y + 22}">{share}</text>')
    return _svg(640, len(rows) * 30, "share of characters taken, by source", shapes)


def _svg(width: int, height: int, label: str, shapes: Sequence[str]) -> str:
    begin = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return f"{begin}{''.join(shapes)}</svg>"


def _text(text: object) -> str:
    """Escape a text for HTML, with control characters as escapes."""
    return escape(printable(str(text), keep="\n\t"))
