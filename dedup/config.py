"""Every option of the library with its default and its valid range, in one place. Configurations are frozen and validated."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Policy = Literal["off", "watch", "loops", "balanced", "strict"]
OnLoop = Literal["cut", "skip"]

POLICIES: tuple[str, ...] = get_args(Policy)


def _require(valid: bool, name: str, value: object, expected: str) -> None:
    if not valid:
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """When a repetition counts as a loop.

    max_period: longest cycle looked for, in symbols of the sequence (characters of text, or tokens).
    window: tokens (words, about) looked back on when judging whether a text still says anything new (drift loops).
    """

    max_period: int = 4096
    window: int = 512

    def __post_init__(self) -> None:
        _require(_is_count(self.max_period, 1), "max_period", self.max_period, "an integer ≥ 1")
        _require(_is_count(self.window, 16), "window", self.window, "an integer ≥ 16")


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """How a `RepetitionFilter` treats a text.

    policy: `off` and `watch` change nothing (`watch` measures and flags), `loops` only cuts loops, `balanced` also removes
        what is said again word for word, `strict` also near-duplicates and what earlier turns said.
    on_loop: `cut` ends the text at a loop; `skip` drops the looping stretch and goes on (for files, not for live streams).
    edit: False leaves the text alone but still cuts loops (tool arguments, JSON mode).
    max_sentences: sentences remembered; the oldest are forgotten first.
    max_segment_chars: characters of one segment held at most; a longer one is cut into pieces that pass unjudged.
    similarity: share of words (0 to 1) from which `strict` takes two sentences for one.
    """

    policy: Policy = "balanced"
    on_loop: OnLoop = "cut"
    edit: bool = True
    max_sentences: int = 4096
    max_segment_chars: int = 2000
    similarity: float = 0.85
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        _require(self.policy in POLICIES, "policy", self.policy, f"one of {', '.join(POLICIES)}")
        _require(self.on_loop in get_args(OnLoop), "on_loop", self.on_loop, "cut or skip")
        _require(_is_count(self.max_sentences, 1), "max_sentences", self.max_sentences, "an integer ≥ 1")
        _require(_is_count(self.max_segment_chars, 64), "max_segment_chars", self.max_segment_chars, "an integer ≥ 64")
        _require(_is_number(self.similarity) and 0 < self.similarity <= 1, "similarity", self.similarity, "a number in (0, 1]")


DRY_SEQUENCE_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """Sampling parameters against repetition, under the field's own names; the defaults switch every one of them off.

    temperature: logits are divided by it, > 0 (1 changes nothing; greedy decoding is the caller's choice).
    repetition_penalty: CTRL's (arXiv 1909.05858), > 0; 1 is off. Prompt and output count.
    presence_penalty, frequency_penalty: OpenAI's, -2 to 2; 0 is off. Only the output counts.
    no_repeat_ngram_size: no n-gram occurs twice; 0 is off. Prompt and output count.
    dry_*: DRY as llama.cpp has it: multiplier · base^(match - allowed_length); multiplier 0 is off. `dry_penalty_last_n` is the
        number of last tokens looked at, -1 for all, 0 for off.
    """

    temperature: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: tuple[str, ...] = DRY_SEQUENCE_BREAKERS
    dry_penalty_last_n: int = -1

    def __post_init__(self) -> None:
        def number(name: str, low: float, high: float, expected: str, open_low: bool = False) -> None:
            value = getattr(self, name)
            valid = _is_number(value) and (low < value if open_low else low <= value) and value <= high
            _require(valid, name, value, expected)

        number("temperature", 0, 100, "a number in (0, 100]", open_low=True)
        number("repetition_penalty", 0, 100, "a number in (0, 100]", open_low=True)
        number("presence_penalty", -2, 2, "a number in [-2, 2]")
        number("frequency_penalty", -2, 2, "a number in [-2, 2]")
        number("dry_multiplier", 0, 100, "a number in [0, 100]")
        number("dry_base", 0, 100, "a number in [0, 100]")
        _require(_is_count(self.no_repeat_ngram_size, 0), "no_repeat_ngram_size", self.no_repeat_ngram_size, "an integer ≥ 0")
        _require(_is_count(self.dry_allowed_length, 0), "dry_allowed_length", self.dry_allowed_length, "an integer ≥ 0")
        _require(_is_count(self.dry_penalty_last_n, -1), "dry_penalty_last_n", self.dry_penalty_last_n, "an integer ≥ -1")
        breakers = self.dry_sequence_breakers
        valid = isinstance(breakers, list | tuple) and all(isinstance(b, str) and b for b in breakers)
        _require(valid, "dry_sequence_breakers", breakers, "a list of non-empty strings")
        object.__setattr__(self, "dry_sequence_breakers", tuple(breakers))
