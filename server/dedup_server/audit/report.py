"""The report of an audit on a terminal and as JSON."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click

from dedup.terminal import fit, one_line, shortened, width
from dedup_server.audit.compare import FEW_PROMPTS, METRICS, Audit, Change, Measured

_TITLE_COLUMNS = 28
_NAME_COLUMNS = 24
_SHOWN_WORST = 3
_LINE_COLUMNS = 100


def summary(done: Audit) -> str:
    """Return prompts and parameters in one line."""
    one = done.parameters
    samples = f" × {done.num_samples} samples" if done.num_samples > 1 else ""
    raw = ", no chat template" if one.raw else ""
    tokens = f"temperature {one.temperature:g}, at most {one.max_tokens} tokens"
    return f"{len(done.prompts)} prompts{samples}, {tokens}, seed {done.seed}{raw}"


def worst(done: Audit, model: int) -> list[tuple[int, int]]:
    """Return prompts and samples at which `model` repeats itself, the worst first.

    Worst are those at which the first model repeats itself least.
    """

    def badness(place: tuple[int, int]) -> tuple[float, float]:
        prompt, sample = place
        one, first = (done.measured[index][prompt][sample].score for index in (model, 0))
        rise = (one.loop is not None) - (first.loop is not None) + one.rep_4 - first.rep_4
        return (rise if model else 0.0), one.rep_4 + (one.loop is not None)

    places = [
        (prompt, sample)
        for prompt in range(len(done.prompts))
        for sample in range(done.num_samples)
    ]
    bad = [place for place in places if badness(place)[1] > 0]
    return sorted(bad, key=badness, reverse=True)


def is_bad(change: Change) -> bool:
    """Return whether the whole confidence interval is a deterioration."""
    if change.metric.worse > 0:
        return change.low > 0
    return change.metric.worse < 0 and change.high < 0


def lines(done: Audit) -> Iterator[str]:
    """Yield the report for a terminal, in colour."""
    names = [one_line(name) for name in done.models]
    yield summary(done)
    if len(done.prompts) < FEW_PROMPTS:
        yield click.style(
            f"fewer than {FEW_PROMPTS} prompts: the intervals are too narrow",
            fg="yellow",
        )
    if not done.comparisons:
        yield from _alone(done, names[0])
    for comparison in done.comparisons:
        yield ""
        first, later = names[0], names[comparison.model]
        columns = [min(_NAME_COLUMNS, max(9, width(name))) for name in (first, later)]
        titles = [
            fit(name, size, right=True) for name, size in zip((first, later), columns, strict=True)
        ]
        yield click.style(
            f"{'':{_TITLE_COLUMNS}}  {'  '.join(titles)}    change  95% interval", bold=True
        )
        for change in comparison.changes:
            values = [change.metric.shown(value) for value in (change.before, change.after)]
            cells = [
                fit(value, size, right=True) for value, size in zip(values, columns, strict=True)
            ]
            shown = [
                change.metric.shown(value, "+")
                for value in (change.change, change.low, change.high)
            ]
            title = f"{change.metric.title:{_TITLE_COLUMNS}}"
            line = f"{title}  {'  '.join(cells)}  {shown[0]:>8}  {shown[1]} to {shown[2]}"
            yield click.style(line, fg="red" if is_bad(change) else None)
        yield from _worst(done, comparison.model, later)
    yield ""
    if done.failures:
        for failure in done.failures:
            yield click.style(f"FAILED  {one_line(failure)}", fg="red", bold=True)
    else:
        yield click.style("passed", fg="green", bold=True)


def _alone(done: Audit, name: str) -> Iterator[str]:
    yield ""
    yield click.style(f"{'':{_TITLE_COLUMNS}}  {shortened(name, _LINE_COLUMNS)}", bold=True)
    for metric in METRICS:
        yield f"{metric.title:{_TITLE_COLUMNS}}  {metric.shown(done.mean(0, metric))}"
    yield from _worst(done, 0, name)


def _worst(done: Audit, model: int, name: str) -> Iterator[str]:
    found = worst(done, model)[:_SHOWN_WORST]
    if found:
        yield ""
        yield f"the worst answers of {shortened(name, _NAME_COLUMNS)}:"
    for prompt, sample in found:
        one = done.measured[model][prompt][sample]
        yield click.style(
            f"  {shortened(one_line(done.prompts[prompt]), _LINE_COLUMNS)}", bold=True
        )
        yield f"    {described(one)}"
        yield f"    {shortened(one_line(one.answer.text), _LINE_COLUMNS)}"


def described(one: Measured) -> str:
    """Return the figures of an answer in one line."""
    loop = one.score.loop
    looping = f", loop from character {loop.onset}, period {loop.period}" if loop else ""
    return f"rep-4 {one.score.rep_4:.2f}, {one.score.chars:,} characters{looping}"


def as_json(done: Audit) -> dict[str, Any]:
    """Return all figures, without the texts of answers."""
    return {
        "passed": not done.failures,
        "failures": done.failures,
        "parameters": {**asdict(done.parameters), "seed": done.seed, "samples": done.num_samples},
        "models": [
            {"model": name, **{metric.name: done.mean(index, metric) for metric in METRICS}}
            for index, name in enumerate(done.models)
        ],
        "comparisons": [
            {
                "model": done.models[comparison.model],
                "first": done.models[0],
                "changes": {
                    one.metric.name: {"change": one.change, "low": one.low, "high": one.high}
                    for one in comparison.changes
                },
            }
            for comparison in done.comparisons
        ],
        "answers": [
            {
                "prompt": prompt,
                "seed": done.seed + sample,
                "model": name,
                **{metric.name: metric.of(one) for metric in METRICS},
                "loop": asdict(one.score.loop) if one.score.loop else None,
            }
            for model, name in enumerate(done.models)
            for prompt, samples in zip(done.prompts, done.measured[model], strict=True)
            for sample, one in enumerate(samples)
        ],
    }
