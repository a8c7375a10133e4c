"""A wrong value raises at construction and names parameter, value and range."""

from typing import Any

import pytest

from dedup import DecodingConfig
from dedup.config import Number, decoding_options

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", 0, r"temperature must be a number in \(0, 100\], got 0"),
        ("temperature", NAN, "temperature must be a number"),
        ("dynatemp_range", -1, r"dynatemp_range must be a number in \[0, 100\], got -1"),
        ("repetition_temperature", "hot", "repetition_temperature must be a number"),
        (
            "repetition_temperature_length",
            0,
            "repetition_temperature_length must be an integer ≥ 1",
        ),
        ("repetition_penalty", 0, "repetition_penalty must be"),
        ("presence_penalty", 2.5, r"presence_penalty must be a number in \[-2, 2\], got 2.5"),
        ("penalty_last_n", -2, "penalty_last_n must be an integer ≥ -1"),
        ("penalty_decay", 1.5, r"penalty_decay must be a number in \(0, 1\]"),
        ("penalize_prompt", 1, "penalize_prompt must be true, false or null, got 1"),
        ("no_repeat_ngram_size", True, "no_repeat_ngram_size must be an integer ≥ 0, got True"),
        ("no_repeat_ngram_window", 1.5, "no_repeat_ngram_window must be"),
        ("encoder_no_repeat_ngram_size", -1, "encoder_no_repeat_ngram_size must be"),
        ("dry_multiplier", float("inf"), "dry_multiplier must be"),
        (
            "dry_sequence_breakers",
            "\n",
            "dry_sequence_breakers must be a list of non-empty strings",
        ),
        (
            "dry_sequence_breakers",
            [""],
            "dry_sequence_breakers must be a list of non-empty strings",
        ),
        ("lz_penalty", -0.1, "lz_penalty must be"),
        ("lz_buffer", 0, "lz_buffer must be an integer ≥ 1"),
        (
            "exempt",
            ["vowels"],
            "exempt must be a list of special, newlines, digits, json, template",
        ),
        (
            "exempt_token_ids",
            [10**12],
            "exempt_token_ids must be a list of token ids from 0 to 16777215",
        ),
    ],
)
def test_a_wrong_value_raises_with_name_and_range(name: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        DecodingConfig(**{name: value})  # type: ignore[arg-type]


def test_options_are_the_fields_with_their_ranges() -> None:
    options = {option.name: option for option in decoding_options()}
    assert list(options) == list(DecodingConfig.__dataclass_fields__)
    config = DecodingConfig()
    for option in options.values():
        assert option.default == getattr(config, option.name)
        assert option.range.allows(option.default)
        assert option.api_range.allows(option.default)
        assert option.meaning.endswith(".")
    assert options["no_repeat_ngram_size"].type is int
    assert options["penalize_prompt"].type == bool | None
    assert options["repetition_penalty"].range == Number(0, 100, open_low=True)


def test_the_api_range_differs_from_the_librarys_where_openais_does() -> None:
    options = {option.name: option for option in decoding_options()}
    differing = [name for name, one in options.items() if one.api_range != one.range]
    assert differing == ["temperature", "dry_sequence_breakers"]
    assert options["temperature"].api_range == Number(0, 2)
    breakers = options["dry_sequence_breakers"].api_range
    assert breakers.allows(["\n"] * 128)
    assert not breakers.allows(["\n"] * 129)


@pytest.mark.parametrize(
    "off", [{}, {"dry_multiplier": 0}, {"dry_base": 0.99}, {"dry_penalty_last_n": 0}], ids=str
)
def test_dry_is_off_under_llama_cpps_conditions(off: dict[str, Any]) -> None:
    config = DecodingConfig(**{"dry_multiplier": 1.0} | off)
    assert config.uses_dry is not bool(off)


def test_only_options_stated_in_text_need_a_tokenizer() -> None:
    assert not DecodingConfig().needs_tokenizer
    assert DecodingConfig(dry_multiplier=1).needs_tokenizer
    assert not DecodingConfig(dry_multiplier=1, dry_sequence_breakers=()).needs_tokenizer
    assert not DecodingConfig(dry_multiplier=1, dry_base=0.5).needs_tokenizer
    assert DecodingConfig(exempt=("digits",)).needs_tokenizer
