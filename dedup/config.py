"""Every option of the library with its default and its valid range, in one place. Configurations are frozen and validated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

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
    """The reach of the loop detector.

    max_period: the longest period, in characters (or token ids). Memory grows with it: some 200 bytes a character at most.
    """

    max_period: int = 32_768

    def __post_init__(self) -> None:
        _require(_is_count(self.max_period, 1), "max_period", self.max_period, "an integer ≥ 1")


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
        _require(
            _is_count(self.max_sentences, 1), "max_sentences", self.max_sentences, "an integer ≥ 1"
        )
        _require(
            _is_count(self.max_segment_chars, 64),
            "max_segment_chars",
            self.max_segment_chars,
            "an integer ≥ 64",
        )
        _require(
            _is_number(self.similarity) and 0 < self.similarity <= 1,
            "similarity",
            self.similarity,
            "a number in (0, 1]",
        )


DRY_SEQUENCE_BREAKERS = ("\n", ":", '"', "*")
MAX_TOKENS = 1 << 24  # in any vocabulary
Exempt = Literal["special", "newlines", "digits", "json", "template"]


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """Sampling parameters against repetition, under the field's own names; the defaults switch every one of them off.

    What each method does, and what it was measured to do, stands in docs/logits.md. `*_last_n` and `*_window` count tokens back from
    the end; -1 is all of them.

    temperature: logits are divided by it, > 0 (1 changes nothing; greedy decoding is the caller's choice).
    dynatemp_range, dynatemp_exponent: llama.cpp's dynamic temperature, from temperature - range where the model is certain to
        temperature + range where it is not; range 0 is off.
    repetition_temperature: the temperature while the last `repetition_temperature_length` tokens, at least, stand earlier too; 0 is off.
    repetition_penalty: CTRL's (arXiv 1909.05858), > 0; 1 is off. Prompt and output count.
    presence_penalty, frequency_penalty: OpenAI's, -2 to 2; 0 is off. Only the output counts.
    penalty_last_n: the tokens that these three penalties look at. penalty_decay: what a token counts in the frequency penalty, to the
        power of the tokens after it (RWKV's alpha_decay); 1 is off. penalize_prompt: whether the prompt counts in all three; None is
        each one's own way.
    no_repeat_ngram_size: no n-gram occurs twice; 0 is off. Prompt and output count. no_repeat_ngram_window: n-grams that begin
        further back are free (DeepSeek-OCR's). encoder_no_repeat_ngram_size: no n-gram of an encoder's input occurs in the output.
    dry_*: DRY as llama.cpp has it: multiplier · base^(match - allowed_length); multiplier 0 is off, and so is last_n 0.
    lz_penalty: strength of the LZ penalty (arXiv 2504.20131); 0 is off. Of the output's last `lz_window` tokens, each costs a token
        that would follow the same `lz_buffer` tokens, or fewer of them.
    exempt, exempt_token_ids: tokens that no method but the temperature touches, by kind and by id.
    """

    temperature: float = 1.0
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    repetition_temperature: float = 0.0
    repetition_temperature_length: int = 8
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = -1
    penalty_decay: float = 1.0
    penalize_prompt: bool | None = None
    no_repeat_ngram_size: int = 0
    no_repeat_ngram_window: int = -1
    encoder_no_repeat_ngram_size: int = 0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_sequence_breakers: tuple[str, ...] = DRY_SEQUENCE_BREAKERS
    dry_penalty_last_n: int = -1
    lz_penalty: float = 0.0
    lz_window: int = 512
    lz_buffer: int = 32
    exempt: tuple[Exempt, ...] = ()
    exempt_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        def number(
            name: str, low: float, high: float, expected: str, open_low: bool = False
        ) -> None:
            value = getattr(self, name)
            valid = (
                _is_number(value) and (low < value if open_low else low <= value) and value <= high
            )
            _require(valid, name, value, expected)

        def count(name: str, least: int) -> None:
            _require(
                _is_count(getattr(self, name), least),
                name,
                getattr(self, name),
                f"an integer ≥ {least}",
            )

        def items(name: str, valid: Callable[[Any], bool], expected: str) -> None:
            value = getattr(self, name)
            _require(
                isinstance(value, list | tuple) and all(map(valid, value)), name, value, expected
            )
            object.__setattr__(self, name, tuple(value))

        number("temperature", 0, 100, "a number in (0, 100]", open_low=True)
        number("dynatemp_range", 0, 100, "a number in [0, 100]")
        number("dynatemp_exponent", 0, 100, "a number in [0, 100]")
        number("repetition_temperature", 0, 100, "a number in [0, 100]")
        number("repetition_penalty", 0, 100, "a number in (0, 100]", open_low=True)
        number("presence_penalty", -2, 2, "a number in [-2, 2]")
        number("frequency_penalty", -2, 2, "a number in [-2, 2]")
        number("penalty_decay", 0, 1, "a number in (0, 1]", open_low=True)
        number("dry_multiplier", 0, 100, "a number in [0, 100]")
        number("dry_base", 0, 100, "a number in [0, 100]")
        number("lz_penalty", 0, 100, "a number in [0, 100]")
        for name in ("repetition_temperature_length", "lz_window", "lz_buffer"):
            count(name, 1)
        for name in ("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "dry_allowed_length"):
            count(name, 0)
        for name in ("penalty_last_n", "no_repeat_ngram_window", "dry_penalty_last_n"):
            count(name, -1)
        prompt = self.penalize_prompt
        _require(
            prompt is None or isinstance(prompt, bool),
            "penalize_prompt",
            prompt,
            "true, false or null",
        )
        items(
            "dry_sequence_breakers",
            lambda item: isinstance(item, str) and item != "",
            "a list of non-empty strings",
        )
        items(
            "exempt",
            lambda item: item in get_args(Exempt),
            f"a list of {', '.join(get_args(Exempt))}",
        )
        items(
            "exempt_token_ids",
            lambda item: _is_count(item, 0) and item < MAX_TOKENS,
            f"a list of token ids from 0 to {MAX_TOKENS - 1}",
        )

    @property
    def needs_tokenizer(self) -> bool:
        """Whether what it says in words must be told in tokens."""
        return bool(self.exempt or (self.dry_multiplier and self.dry_sequence_breakers))
