"""Metrics of the answers of several models, their differences, and a gate."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from dedup.scores import Score, score
from dedup_server.audit.questions import Answer, Parameters, Question

_RESAMPLES = 2000
_CONFIDENCE = 0.95
FEW_PROMPTS = 20  # with fewer, intervals are too narrow


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of an answer.

    Args:
        of: returns the metric of an answer.
        is_share: whether values lie between 0 and 1.
        worse: the direction of a deterioration, 1 or -1; 0 is neither.
    """

    name: str
    title: str
    of: Callable[["Measured"], float]
    is_share: bool = True
    worse: int = 1

    @property
    def short(self) -> str:
        """The title without its explanation."""
        return self.title.partition(":")[0]

    def shown(self, value: float, sign: str = "") -> str:
        """Format a value. sign: "+" shows the sign of a difference."""
        return f"{value:{sign}.1%}" if self.is_share else f"{value:{sign},.0f}"


@dataclass(frozen=True, slots=True)
class Measured:
    """An answer and its score."""

    answer: Answer
    score: Score


METRICS = (
    Metric("loop_rate", "answers that loop", lambda one: float(one.score.loop is not None)),
    Metric("rep_4", "rep-4: repeated 4-grams", lambda one: one.score.rep_4),
    Metric("duplicate_sentences", "duplicate sentences", lambda one: one.score.duplicate_sentences),
    Metric("distinct_2", "distinct-2: different pairs", lambda one: one.score.distinct_2, worse=-1),
    Metric(
        "hit_max_tokens",
        "ran into --max-tokens",
        lambda one: float(one.answer.finish_reason == "length"),
    ),
    Metric("chars", "characters", lambda one: float(one.score.chars), is_share=False, worse=0),
)
LOOP_RATE = METRICS[0]
GATED = METRICS[:2]


@dataclass(frozen=True, slots=True)
class Change:
    """Change of a metric's mean, with its confidence interval from `low` to `high`."""

    metric: Metric
    before: float
    after: float
    low: float
    high: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True, slots=True)
class Comparison:
    """Changes from the first model to a later one, which `model` is the index of."""

    model: int
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit.

    Args:
        measured: answers by model, prompt and sample.
        failures: of the gate, one line each; empty if it passed.
    """

    models: list[str]
    prompts: list[str]
    parameters: Parameters
    seed: int
    measured: list[list[list[Measured]]]
    comparisons: list[Comparison]
    failures: list[str] = field(default_factory=list)

    @property
    def num_samples(self) -> int:
        return len(self.measured[0][0])

    def mean(self, model: int, metric: Metric) -> float:
        """Return the mean of the prompts' means."""
        return fmean(self.by_prompt(model, metric))

    def by_prompt(self, model: int, metric: Metric) -> list[float]:
        """Return the mean of the samples of each prompt."""
        return [fmean(map(metric.of, samples)) for samples in self.measured[model]]


def questions_of(prompts: Sequence[str], num_samples: int, seed: int) -> list[Question]:
    """Return all samples of the first prompt, then of the next. The k-th sample of every prompt has
    the same seed.
    """
    return [Question(prompt, seed + k) for prompt in prompts for k in range(num_samples)]


def audit(
    models: list[str],
    prompts: list[str],
    parameters: Parameters,
    seed: int,
    answers: Sequence[Sequence[Answer]],
) -> Audit:
    """Measure and compare answers.

    Args:
        answers: of each model to `questions_of` the prompts.
    """
    num_samples = len(answers[0]) // len(prompts)
    measured = [
        [
            [Measured(answer, score(answer.text)) for answer in row[at : at + num_samples]]
            for at in range(0, len(row), num_samples)
        ]
        for row in answers
    ]
    done = Audit(models, prompts, parameters, seed, measured, [])
    for model in range(1, len(models)):
        befores = [done.by_prompt(0, metric) for metric in METRICS]
        afters = [done.by_prompt(model, metric) for metric in METRICS]
        differences = [
            [after - before for before, after in zip(*pair, strict=True)]
            for pair in zip(befores, afters, strict=True)
        ]
        changes = [
            Change(metric, fmean(before), fmean(after), *interval)
            for metric, before, after, interval in zip(
                METRICS, befores, afters, intervals(differences, seed), strict=True
            )
        ]
        done.comparisons.append(Comparison(model, changes))
    return done


def intervals(columns: Sequence[Sequence[float]], seed: int) -> list[tuple[float, float]]:
    """Return the confidence interval of each column's mean by the percentile bootstrap.

    Rows are prompts. They are resampled as a whole, so that columns stay paired.
    """
    rng = random.Random(seed)  # noqa: S311 - statistics, not secrets
    rows = range(len(columns[0]))
    means: list[list[float]] = [[] for _ in columns]
    for _ in range(_RESAMPLES):
        drawn = rng.choices(rows, k=len(rows))
        for column, found in zip(columns, means, strict=True):
            found.append(sum(map(column.__getitem__, drawn)) / len(drawn))
    outside = round(_RESAMPLES * (1 - _CONFIDENCE) / 2)
    return [(found[outside], found[-1 - outside]) for found in map(sorted, means)]


def failures(done: Audit, max_loop_rate: float | None, max_rise: float) -> list[str]:
    """Return what the gate rejects, one line each.

    Args:
        max_loop_rate: allowed share of looping answers of the models after the first, or of the
            only one; None allows any.
        max_rise: allowed increase of a gated metric from the first model. Only an increase whose
            whole confidence interval is higher is rejected, so that chance is unlikely to be.
    """
    found = []
    if max_loop_rate is not None:
        for model in range(min(1, len(done.models) - 1), len(done.models)):
            rate = done.mean(model, LOOP_RATE)
            if rate > max_loop_rate:
                found.append(
                    f"{done.models[model]}: {rate:.1%} of the answers loop;"
                    f" {max_loop_rate:.1%} are allowed"
                )
    for comparison in done.comparisons:
        for change in comparison.changes:
            if change.metric in GATED and change.low > max_rise:
                found.append(
                    f"{done.models[comparison.model]}: {change.metric.short} rose by"
                    f" {change.change * 100:.1f} points (95% interval from"
                    f" {change.low * 100:.1f}); {max_rise * 100:.1f} are allowed"
                )
    return found
