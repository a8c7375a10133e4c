"""Options of the library: each with its type, default, valid range and meaning, stated once.

Configurations are frozen. A value out of its range raises ValueError at construction.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Policy = Literal["off", "watch", "loops", "balanced", "strict"]
OnLoop = Literal["cut", "skip"]
Exempt = Literal["special", "newlines", "digits", "json", "template"]

POLICIES: tuple[str, ...] = get_args(Policy)
DRY_SEQUENCE_BREAKERS = ("\n", ":", '"', "*")
MAX_TOKENS = 1 << 24  # larger than any vocabulary

# llama.cpp keeps the base of DRY in 32 bits, where this is the smallest number that rounds to 1.
_ONE_IN_32_BITS = 1 - 2**-25


@dataclass(frozen=True, slots=True)
class Number:
    """Numbers from `low` to `high`, without `low` itself if `open_low`."""

    low: float
    high: float
    open_low: bool = False

    def allows(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and not (self.open_low and value == self.low)

    def __str__(self) -> str:
        return f"a number in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class Integer:
    """Integers from `low` to `high`, or from `low` on."""

    low: int
    high: int | None = None

    def allows(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return value >= self.low and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"an integer ≥ {self.low}"
        return f"an integer from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Boolean:
    """True and False, and None if `optional`."""

    optional: bool = False

    def allows(self, value: object) -> bool:
        return isinstance(value, bool) or (self.optional and value is None)

    def __str__(self) -> str:
        return "true, false or null" if self.optional else "true or false"


@dataclass(frozen=True, slots=True)
class Text:
    """Strings that are not empty."""

    def allows(self, value: object) -> bool:
        return isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return "a non-empty string"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of several names."""

    names: tuple[str, ...]

    def allows(self, value: object) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True, slots=True)
class ListOf:
    """Lists and tuples of items in a range; `items` names them in the plural."""

    item: Integer | Text | OneOf
    items: str
    max_items: int | None = None

    def allows(self, value: object) -> bool:
        if not isinstance(value, list | tuple):
            return False
        if self.max_items is not None and len(value) > self.max_items:
            return False
        return all(map(self.item.allows, value))

    def __str__(self) -> str:
        if self.max_items is None:
            return f"a list of {self.items}"
        return f"a list of at most {self.max_items} {self.items}"


Range = Number | Integer | Boolean | OneOf | ListOf


@dataclass(frozen=True, slots=True)
class Api:
    """Range of a field in the HTTP API, where it differs from the library's."""

    range: Range


@dataclass(frozen=True, slots=True)
class Option:
    """A field of a configuration.

    Attributes:
        name: Name of the field.
        type: Its Python type.
        default: Its default.
        range: Values that the library accepts.
        api_range: Values that the HTTP API accepts.
        meaning: What the option does, in a sentence or two.
    """

    name: str
    type: Any
    default: Any
    range: Range
    api_range: Range
    meaning: str


def decoding_options() -> Iterator[Option]:
    """Yield every field of `DecodingConfig`, in order of declaration."""
    yield from _options(DecodingConfig)


@cache
def _options(config: Any) -> tuple[Option, ...]:
    """Return the fields that are annotated with type, range, meaning and, if it differs, `Api`."""
    options = []
    for name, hint in get_type_hints(config, include_extras=True).items():
        if get_origin(hint) is Annotated:
            valid, meaning, *api = hint.__metadata__
            api_range = api[0].range if api else valid
            default = config.__dataclass_fields__[name].default
            options.append(Option(name, hint.__origin__, default, valid, api_range, meaning))
    return tuple(options)


def _validate(config: Any) -> None:
    """Raise ValueError for the first field whose value is out of range; make tuples of lists."""
    for option in _options(config.__class__):
        value = getattr(config, option.name)
        if not option.range.allows(value):
            raise ValueError(f"{option.name} must be {option.range}, got {value!r}")
        if isinstance(option.range, ListOf):
            object.__setattr__(config, option.name, tuple(value))


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """Reach of the loop detector."""

    max_period: Annotated[
        int,
        Integer(1),
        "Longest period that is detected, in characters (or token ids). "
        "Memory grows with it, by at most 200 bytes a character.",
    ] = 32_768

    def __post_init__(self) -> None:
        _validate(self)


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """Options of `RepetitionFilter`."""

    policy: Annotated[
        Policy,
        OneOf(POLICIES),
        "`off` and `watch` change nothing (`watch` measures and flags), `loops` only cuts loops, "
        "`balanced` also removes verbatim repeats, `strict` also near-duplicates and what earlier "
        "turns of the conversation contain.",
    ] = "balanced"
    on_loop: Annotated[
        OnLoop,
        OneOf(get_args(OnLoop)),
        "`cut` ends the text at a loop; `skip` drops the looping stretch and goes on "
        "(for files, not for live streams).",
    ] = "cut"
    edit: Annotated[
        bool,
        Boolean(),
        "False cuts loops but removes nothing else (for tool arguments and JSON mode).",
    ] = True
    max_sentences: Annotated[
        int, Integer(1), "Sentences remembered; the oldest are forgotten first."
    ] = 4096
    max_segment_chars: Annotated[
        int,
        Integer(64),
        "Longest segment that is held, in characters. A longer one is split, and its parts pass "
        "without being compared.",
    ] = 2000
    similarity: Annotated[
        float,
        Number(0, 1, open_low=True),
        "Least share of common words at which `strict` takes two sentences for near-duplicates.",
    ] = 0.85
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        _validate(self)


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """Sampling parameters against repetition, under the names that other engines use.

    The defaults switch every method off. docs/evidence/logits.md describes the methods and measures their
    effect. Names that end in `_last_n` or `_window` count tokens back from the end; -1 is all.
    """

    temperature: Annotated[
        float,
        Number(0, 100, open_low=True),
        "Divisor of the logits; 1 changes nothing. Greedy decoding is the caller's choice.",
        Api(Number(0, 2)),  # OpenAI's; 0 is greedy decoding
    ] = 1.0
    dynatemp_range: Annotated[
        float,
        Number(0, 100),
        "Dynamic temperature (llama.cpp): from temperature - range where the model is certain to "
        "temperature + range where it is not; 0 is off.",
    ] = 0.0
    dynatemp_exponent: Annotated[
        float, Number(0, 100), "Exponent of the normalised entropy in the dynamic temperature."
    ] = 1.0
    repetition_temperature: Annotated[
        float,
        Number(0, 100),
        "Temperature while the last `repetition_temperature_length` tokens occurred before; "
        "0 is off.",
    ] = 0.0
    repetition_temperature_length: Annotated[
        int, Integer(1), "Least number of repeated tokens for `repetition_temperature`."
    ] = 8
    repetition_penalty: Annotated[
        float,
        Number(0, 100, open_low=True),
        "CTRL's penalty (arXiv 1909.05858) on every token of prompt and output; 1 is off.",
    ] = 1.0
    presence_penalty: Annotated[
        float, Number(-2, 2), "OpenAI's penalty on every token of the output; 0 is off."
    ] = 0.0
    frequency_penalty: Annotated[
        float,
        Number(-2, 2),
        "OpenAI's penalty on every token of the output, times its count; 0 is off.",
    ] = 0.0
    penalty_last_n: Annotated[
        int,
        Integer(-1),
        "Tokens that the repetition, presence and frequency penalties look at; -1 is all.",
    ] = -1
    penalty_decay: Annotated[
        float,
        Number(0, 1, open_low=True),
        "Factor by which an occurrence counts less in the frequency penalty for each later token "
        "(RWKV's alpha_decay); 1 is off.",
    ] = 1.0
    penalize_prompt: Annotated[
        bool | None,
        Boolean(optional=True),
        "Whether the repetition, presence and frequency penalties count the prompt; null leaves "
        "each its own default.",
    ] = None
    no_repeat_ngram_size: Annotated[
        int, Integer(0), "Size of n-grams that may not occur twice in prompt and output; 0 is off."
    ] = 0
    no_repeat_ngram_window: Annotated[
        int,
        Integer(-1),
        "Tokens among which an n-gram must begin to be banned (DeepSeek-OCR's window); -1 is all.",
    ] = -1
    encoder_no_repeat_ngram_size: Annotated[
        int,
        Integer(0),
        "Size of n-grams of the encoder's input that may not occur in the output; 0 is off.",
    ] = 0
    dry_multiplier: Annotated[
        float,
        Number(0, 100),
        "Strength of DRY (llama.cpp): multiplier · base^(match length - allowed length); 0 is off.",
    ] = 0.0
    dry_base: Annotated[
        float, Number(0, 100), "Base of DRY's penalty; below 1 switches DRY off."
    ] = 1.75
    dry_allowed_length: Annotated[
        int, Integer(0), "Least length of a repeat, in tokens, whose continuation DRY penalises."
    ] = 2
    dry_sequence_breakers: Annotated[
        tuple[str, ...],
        ListOf(Text(), "non-empty strings"),
        "Strings that no match of DRY reaches across.",
        Api(ListOf(Text(), "non-empty strings", max_items=128)),  # each costs a vocabulary's scan
    ] = DRY_SEQUENCE_BREAKERS
    dry_penalty_last_n: Annotated[
        int, Integer(-1), "Tokens among which DRY looks for repeats; -1 is all, 0 switches DRY off."
    ] = -1
    lz_penalty: Annotated[
        float, Number(0, 100), "Strength of the LZ penalty (arXiv 2504.20131); 0 is off."
    ] = 0.0
    lz_window: Annotated[
        int, Integer(1), "Last tokens of the output that the LZ penalty looks at."
    ] = 512
    lz_buffer: Annotated[
        int, Integer(1), "Longest match, in tokens, that the LZ penalty looks for."
    ] = 32
    exempt: Annotated[
        tuple[Exempt, ...],
        ListOf(OneOf(get_args(Exempt)), ", ".join(get_args(Exempt))),
        "Kinds of tokens that no method but the temperature changes.",
    ] = ()
    exempt_token_ids: Annotated[
        tuple[int, ...],
        ListOf(Integer(0, MAX_TOKENS - 1), f"token ids from 0 to {MAX_TOKENS - 1}"),
        "Ids of tokens that no method but the temperature changes.",
    ] = ()

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def uses_dry(self) -> bool:
        """Return whether DRY is on, by llama.cpp's conditions."""
        return (
            self.dry_multiplier > 0
            and self.dry_base >= _ONE_IN_32_BITS
            and self.dry_penalty_last_n != 0
        )

    @property
    def needs_tokenizer(self) -> bool:
        """Return whether any option that is stated in text needs a tokenizer."""
        return bool(self.exempt or (self.uses_dry and self.dry_sequence_breakers))
