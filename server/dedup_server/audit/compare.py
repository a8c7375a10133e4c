"""Does one model repeat itself more than another? Numbers of answers, their differences, and what a gate says of them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from dedup.scores import Score, score
from dedup_server.audit.answers import Answer, Parameters, Question

_RESAMPLES = 2000
_CONFIDENCE = 0.95
FEW_PROMPTS = 20  # with fewer an interval is too narrow to be trusted


@dataclass(frozen=True, slots=True)
class Metric:
    """A number of an answer. is_share: it lies between 0 and 1. worse: in which direction."""

    name: str
    title: str
    of: Callable[["Measured"], float]
    is_share: bool = True
    worse: int = 1

    @property
    def short(self) -> str:
        return self.title.partition(":")[0]

    def shown(self, value: float, sign: str = "") -> str:
        return f"{value:{sign}.1%}" if self.is_share else f"{value:{sign},.0f}"


@dataclass(frozen=True, slots=True)
class Measured:
    """An answer and its numbers."""

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
    """Of a metric's mean. low, high: its confidence interval."""

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
    """A later model beside the first one; both are indices."""

    model: int
    changes: list[Change]


@dataclass(frozen=True, slots=True)
class Audit:
    """measured: of each model, of each prompt, of each sample. failures: what the gate found, nothing if it is passed."""

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
        return fmean(self.by_prompt(model, metric))

    def by_prompt(self, model: int, metric: Metric) -> list[float]:
        return [fmean(map(metric.of, samples)) for samples in self.measured[model]]


def questions_of(prompts: Sequence[str], num_samples: int, seed: int) -> list[Question]:
    """The samples of a prompt follow each other; the k-th of every prompt has the k-th seed."""
    return [Question(prompt, seed + k) for prompt in prompts for k in range(num_samples)]


def audit(
    models: list[str],
    prompts: list[str],
    parameters: Parameters,
    seed: int,
    answers: Sequence[Sequence[Answer]],
) -> Audit:
    """answers: of each model to `questions_of` the prompts."""
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
    """The percentile bootstrap's interval of each column's mean. Rows, which are prompts, are drawn with replacement, all columns of
    one together."""
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
    """What is wrong with the models after the first; of a model that is alone, with itself.

    max_loop_rate: the share of looping answers must not be higher. max_rise: of the gated metrics; one that has risen fails where its
    whole confidence interval lies above, so that chance alone hardly ever does.
    """
    found = []
    if max_loop_rate is not None:
        for model in range(min(1, len(done.models) - 1), len(done.models)):
            rate = done.mean(model, LOOP_RATE)
            if rate > max_loop_rate:
                found.append(
                    f"{done.models[model]}: {rate:.1%} of the answers loop; at most {max_loop_rate:.1%} may"
                )
    for comparison in done.comparisons:
        for change in comparison.changes:
            if change.metric in GATED and change.low > max_rise:
                found.append(
                    f"{done.models[comparison.model]}: {change.metric.short} rose by {change.change * 100:.1f} points, surely by "
                    f"{change.low * 100:.1f}; {max_rise * 100:.1f} are allowed"
                )
    return found
