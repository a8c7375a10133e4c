"""The report of an audit as one HTML file.

It contains no script and loads nothing. Prompts and answers are escaped.
"""

from collections.abc import Iterator, Sequence
from html import escape

from dedup.terminal import printable
from dedup_server.audit.compare import (
    FEW_PROMPTS,
    LOOP_RATE,
    METRICS,
    Audit,
    Change,
    Comparison,
    Measured,
    Metric,
)
from dedup_server.audit.report import described, is_bad, summary, worst

_SHOWN_WORST = 8
_SHOWN_CHARS = 1200
_BINS = 12
_WIDTH, _HEIGHT, _MARGIN = 300, 200, 30

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6776; --line: #dfe3e9;
  --paper: #fff; --back: #f4f6f9;
  --first: #3b78c3; --later: #d9622b; --bad: #c0342b; --good: #23804a; --mark: #ffe3c9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #97a1b0; --line: #313945;
  --paper: #1b2129; --back: #12161c;
  --first: #6ea6ea; --later: #f08a54; --bad: #f0736a; --good: #58c286; --mark: #5a3a22; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; margin: 0; } h2 { font-size: 19px; margin: 34px 0 12px; }
h3 { font-size: 15px; margin: 0 0 6px; }
h1, h2, h3, p, td, th, li { overflow-wrap: anywhere; }
.top { display: flex; gap: 14px; align-items: center; flex-wrap: wrap; }
.verdict { font-weight: 700; color: #fff; border-radius: 99px; padding: 3px 14px;
  background: var(--good); }
.verdict.failed { background: var(--bad); }
@media (prefers-color-scheme: dark) { .verdict { color: #12161c; } }
.soft { color: var(--soft); } .bad { color: var(--bad); font-weight: 600; }
.first { color: var(--first); } .later { color: var(--later); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; min-width: 0; }
.failures { border-left: 4px solid var(--bad); margin: 16px 0; }
.failures ul { margin: 0; padding-left: 18px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); } tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:last-child { width: 250px; padding-right: 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px;
  margin-top: 14px; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 10px; }
.axis { stroke: var(--line); } .even { stroke: var(--soft); stroke-dasharray: 3 3; }
.dot { fill: var(--later); fill-opacity: .5; } .dot.same { fill: var(--soft); }
.bar1 { fill: var(--first); fill-opacity: .75; } .bar2 { fill: var(--later); fill-opacity: .75; }
.none { fill: var(--line); }
.range { stroke: var(--soft); stroke-width: 3; stroke-linecap: round; } .mean { fill: var(--soft); }
.range.worse { stroke: var(--bad); } .mean.worse { fill: var(--bad); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.pair.one { grid-template-columns: 1fr; }
@media (max-width: 680px) { .pair { grid-template-columns: 1fr; } }
.answers .card { margin-bottom: 14px; } .pair > div { min-width: 0; }
.answer { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate;
  max-height: 190px; overflow: auto; font-size: 14px; margin-top: 4px; contain: paint; }
mark { background: var(--mark); color: inherit; border-radius: 3px; }
"""


def html(done: Audit) -> str:
    """Return the page."""
    failed = bool(done.failures)
    verdict = '<span class="verdict">passed</span>'
    if failed:
        verdict = '<span class="verdict failed">failed</span>'
    line = summary(done)
    if len(done.prompts) < FEW_PROMPTS:
        line += f"; fewer than {FEW_PROMPTS} prompts: the intervals are too narrow"
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy"',
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>Repetition audit</title><style>{_STYLE}</style></head><body><main>",
        f'<div class="top"><h1>Repetition audit</h1>{verdict}</div>',
        f'<p class="soft">{_text(line)}</p>',
    ]
    if failed:
        items = "".join(f"<li>{_text(one)}</li>" for one in done.failures)
        parts.append(f'<div class="card failures"><ul>{items}</ul></div>')
    if not done.comparisons:
        parts += _alone(done)
    for comparison in done.comparisons:
        parts += _compared(done, comparison)
    return "\n".join([*parts, "</main></body></html>\n"])


def _compared(done: Audit, comparison: Comparison) -> Iterator[str]:
    first, later = _text(done.models[0]), _text(done.models[comparison.model])
    yield f'<h2><span class="later">{later}</span> vs. <span class="first">{first}</span></h2>'
    yield '<div class="card scroll"><table><tr><th></th>'
    yield f'<th class="first">{first}</th><th class="later">{later}</th><th>change</th>'
    yield "<th>95% interval</th><th></th></tr>"
    for change in comparison.changes:
        show = change.metric.shown
        bad = ' class="bad"' if is_bad(change) else ""
        yield f"<tr><td>{change.metric.title}</td>"
        yield f"<td>{show(change.before)}</td><td>{show(change.after)}</td>"
        yield f"<td{bad}>{show(change.change, '+')}</td>"
        yield f"<td>{show(change.low, '+')} to {show(change.high, '+')}</td>"
        yield f"<td>{_interval(change)}</td></tr>"
    yield "</table></div>"
    yield '<div class="grid">'
    yield _card(LOOP_RATE.title, _loops(done, comparison.model))
    for metric in METRICS:
        if metric.name in ("rep_4", "duplicate_sentences", "distinct_2", "chars"):
            yield _card(f"{metric.short}, by answer", _histogram(done, metric, comparison.model))
            if metric.name == "rep_4":
                yield _card(f"{metric.short}, by prompt", _paired(done, metric, comparison.model))
    yield "</div>"
    yield from _worst(done, comparison.model)


def _alone(done: Audit) -> Iterator[str]:
    yield f'<h2 class="first">{_text(done.models[0])}</h2><div class="card"><table>'
    for metric in METRICS:
        yield f"<tr><td>{metric.title}</td><td>{metric.shown(done.mean(0, metric))}</td></tr>"
    yield '</table></div><div class="grid">'
    for metric in METRICS[1:4]:
        yield _card(f"{metric.short}, by answer", _histogram(done, metric, 0))
    yield "</div>"
    yield from _worst(done, 0)


def _worst(done: Audit, model: int) -> Iterator[str]:
    found = worst(done, model)[:_SHOWN_WORST]
    if not found:
        return
    yield '<h2>The worst answers</h2><div class="answers">'
    for prompt, sample in found:
        yield f'<div class="card"><h3><bdi>{_text(done.prompts[prompt][:_SHOWN_CHARS])}</bdi></h3>'
        yield f'<div class="pair{"" if model else " one"}">'
        for index in dict.fromkeys((0, model)):
            one = done.measured[index][prompt][sample]
            kind = "later" if index else "first"
            yield f'<div><b class="{kind}">{_text(done.models[index])}</b>'
            yield f' <span class="soft">{_text(described(one))}</span>'
            yield f'<div class="answer" dir="auto">{_answer(one)}</div></div>'
        yield "</div></div>"
    yield "</div>"


def _card(title: str, chart: str) -> str:
    return f'<div class="card"><h3>{title}</h3>{chart}</div>'


def _answer(one: Measured) -> str:
    """Return the beginning of an answer, with its loop marked."""
    text, loop = one.answer.text, one.score.loop
    end = min(len(text), _SHOWN_CHARS)
    onset = min(loop.onset, end) if loop else end
    more = ""
    if end < len(text):
        more = f'<span class="soft"> … and {len(text) - end:,} characters more</span>'
    marked = f"<mark>{_text(text[onset:end])}</mark>" if onset < end else ""
    return _text(text[:onset]) + marked + more


def _text(text: str) -> str:
    """Escape a text for HTML, with control characters as escapes."""
    return escape(printable(text, keep="\n\t"))


def _svg(width: int, height: int, label: str, *shapes: str) -> str:
    begin = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return f"{begin}{''.join(shapes)}</svg>"


def _interval(change: Change) -> str:
    """Draw a mean and its interval around zero. The scale of shares is from -1 to 1."""
    width, height = 240, 20
    most = 1.0 if change.metric.is_share else max(abs(change.low), abs(change.high), 1e-9) * 1.1

    def x(value: float) -> float:
        return round(width / 2 + value / most * (width / 2 - 6), 1)

    kind = " worse" if is_bad(change) else ""
    return _svg(
        width,
        height,
        f"{change.metric.title}: the interval of the change",
        f'<line class="axis" x1="0" x2="{width}" y1="10" y2="10"/>',
        f'<line class="even" x1="{width / 2}" x2="{width / 2}" y1="1" y2="19"/>',
        f'<line class="range{kind}" x1="{x(change.low)}" x2="{x(change.high)}" y1="10" y2="10"/>',
        f'<circle class="mean{kind}" cx="{x(change.change)}" cy="10" r="5"/>',
    )


def _loops(done: Audit, model: int) -> str:
    """Draw how many answers loop in both models, in one of them and in neither."""
    pairs = [
        (before.score.loop is not None, after.score.loop is not None)
        for befores, afters in zip(done.measured[0], done.measured[model], strict=True)
        for before, after in zip(befores, afters, strict=True)
    ]
    first, later = _text(_brief(done.models[0])), _text(_brief(done.models[model]))
    rows = [
        ("loop in neither", pairs.count((False, False)), "none"),
        (f"only in {first}", pairs.count((True, False)), "bar1"),
        (f"only in {later}", pairs.count((False, True)), "bar2"),
        ("in both", pairs.count((True, True)), "mean"),
    ]
    shapes = []
    for number, (name, count, kind) in enumerate(rows):
        y = 8 + number * 46
        length = round(count / len(pairs) * (_WIDTH - 40), 1)
        shapes.append(f'<text x="0" y="{y + 10}">{name}</text>')
        bar = f'x="0" y="{y + 16}" width="{length}" height="16" rx="2"'
        shapes.append(f'<rect class="{kind}" {bar}/>')
        shapes.append(f'<text x="{length + 6}" y="{y + 28}">{count}</text>')
    return _svg(_WIDTH, _HEIGHT, "answers that loop, by model", *shapes)


def _histogram(done: Audit, metric: Metric, model: int) -> str:
    """Draw the distribution of a metric: the first model above the axis, the later one below."""
    values = [
        [metric.of(one) for samples in done.measured[index] for one in samples]
        for index in (0, model)
    ]
    top = 1.0 if metric.is_share else max(max(map(max, values)), 1.0)
    counts = [_counts(row, top) for row in values]
    most = max(map(max, counts))
    middle, room = (_HEIGHT - 14) / 2, (_HEIGHT - 14) / 2 - 14
    step = _WIDTH / _BINS
    shapes = []
    for series, (row, kind) in enumerate(
        zip(counts[: 2 if model else 1], ("bar1", "bar2"), strict=False)
    ):
        for at, count in enumerate(row):
            height = round(count / most * room, 1)
            y = middle + 1 if series else middle - 1 - height
            place = f'x="{at * step + 1:.1f}" y="{y:.1f}"'
            size = f'width="{step - 2:.1f}" height="{height}"'
            shapes.append(f'<rect class="{kind}" {place} {size} rx="1.5"/>')
        x = _peak(row) * step + step / 2
        label_y = (
            middle + 11 + max(row) / most * room if series else middle - 5 - max(row) / most * room
        )
        shapes.append(f'<text x="{x:.1f}" y="{label_y:.1f}" text-anchor="middle">{max(row)}</text>')
    shapes.append(f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{middle}" y2="{middle}"/>')
    shapes.append(f'<text x="0" y="{_HEIGHT - 2}">0</text>')
    end = "100%" if metric.is_share else f"{top:,.0f}"
    shapes.append(f'<text x="{_WIDTH}" y="{_HEIGHT - 2}" text-anchor="end">{end}</text>')
    return _svg(_WIDTH, _HEIGHT, f"distribution of {metric.title}", *shapes)


def _counts(values: Sequence[float], top: float) -> list[int]:
    counts = [0] * _BINS
    for value in values:
        counts[min(_BINS - 1, int(value / top * _BINS))] += 1
    return counts


def _peak(counts: Sequence[int]) -> int:
    return counts.index(max(counts))


def _paired(done: Audit, metric: Metric, model: int) -> str:
    """Draw a dot per prompt: x is the first model's value, y the later one's."""
    size = _HEIGHT - _MARGIN
    left = _MARGIN + 4

    def place(before: float, after: float) -> tuple[float, float]:
        return round(left + before * (_WIDTH - left - 16), 1), round(
            6 + (1 - after) * (size - 6), 1
        )

    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    shapes = [
        f'<path class="axis" fill="none" d="M{x0} {y1}V{y0}H{x1}"/>',
        f'<path class="even" d="M{x0} {y0}L{x1} {y1}"/>',
    ]
    for before, after in zip(done.by_prompt(0, metric), done.by_prompt(model, metric), strict=True):
        x, y = place(before, after)
        shapes.append(
            f'<circle class="dot{" same" if after <= before else ""}" cx="{x}" cy="{y}" r="4"/>'
        )
    for value in (0.0, 0.5, 1.0):
        x, y = place(value, value)
        shapes.append(f'<text x="{x}" y="{y0 + 12}" text-anchor="middle">{value:.0%}</text>')
        shapes.append(f'<text x="{x0 - 4}" y="{y + 3}" text-anchor="end">{value:.0%}</text>')
    first, later = _text(_brief(done.models[0])), _text(_brief(done.models[model]))
    end = f'x="{x1}" y="{_HEIGHT - 4}" text-anchor="end"'
    shapes.append(f'<text {end} class="first">{first} →</text>')
    shapes.append(f'<text x="{x0 - 4}" y="{_HEIGHT - 4}">{later} ↑</text>')
    return _svg(_WIDTH, _HEIGHT, f"{metric.title} of both models, a dot per prompt", *shapes)


def _brief(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"
