"""Checks of single fields, and what they take, for the OpenAPI document.

A union of types would be tried one by one, and its error would name the last: these name the field's
own rule.
"""

from types import GenericAlias
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from dedup.config import Boolean, Integer, ListOf, Number, OneOf, Range, Text

Unit = Annotated[float, Field(ge=0, le=1)]


_MAX_STOPS = 16
MAX_MESSAGES = 16_384
MAX_TOOLS = 1024
_MAX_PROMPTS = 2048
MAX_LOGPROBS = 20


def _stop(value: object) -> object:
    if value is not None and not isinstance(value, str):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise PydanticCustomError("stop", "must be a string or a list of strings")
        if len(value) > _MAX_STOPS:
            raise PydanticCustomError(
                "stop", "must be at most {most} strings", {"most": _MAX_STOPS}
            )
    return value


def _prompt(value: object) -> object:
    if isinstance(value, str):
        return value
    kinds = {type(item) for item in value} if isinstance(value, list) else set()
    if kinds == {list}:
        tokens = [token for tokens in value for token in tokens]  # type: ignore[attr-defined]
        kinds = {list} if all(type(token) is int for token in tokens) else {object}
    if kinds not in ({str}, {int}, {list}):
        raise PydanticCustomError(
            "prompt",
            "must be a string, a list of strings, token ids, or a list of lists of token ids",
        )
    if kinds != {int} and len(value) > _MAX_PROMPTS:  # type: ignore[arg-type]
        raise PydanticCustomError(
            "prompt", "must be at most {most} prompts", {"most": _MAX_PROMPTS}
        )
    return value


def _messages(value: object) -> object:
    if isinstance(value, list) and not 1 <= len(value) <= MAX_MESSAGES:
        raise PydanticCustomError(
            "messages",
            "must be 1 to {most} messages, got {size}",
            {"most": MAX_MESSAGES, "size": len(value)},
        )
    return value


def _content(value: object) -> object:
    parts = value if isinstance(value, list) else [{}]
    if not (value is None or isinstance(value, str | list)) or not all(
        isinstance(part, dict) for part in parts
    ):
        raise PydanticCustomError("content", "must be a string or a list of parts")
    return value


def _logit_bias(value: object) -> object:
    if value is None:
        return value
    if not isinstance(value, dict) or not all(key.isdigit() for key in value):
        raise PydanticCustomError("logit_bias", "must be an object of token ids and numbers")
    for bias in value.values():
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise PydanticCustomError("logit_bias", "must have numbers from -100 to 100")
    return value


def _long_input(value: object) -> object:
    if value is True:
        return {}
    return None if value is False else _object(value)


def _integral(value: object) -> object:
    """Return 2 for 2.0, which JSON does not tell apart."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _object(value: object) -> object:
    if value is not None and not isinstance(value, dict | BaseModel):
        raise PydanticCustomError("object", "must be an object")
    return value


def _input(value: object) -> object:
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("input", "must be a string or a list of objects, not empty")
    return value


def _list(value: object) -> object:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise PydanticCustomError("list", "must be a list of objects")
    if not 1 <= len(value) <= MAX_MESSAGES:
        raise PydanticCustomError("list", "must be 1 to {most} objects", {"most": MAX_MESSAGES})
    return value


# What the checks take, for the OpenAPI document.
_STRING = {"type": "string"}
_TOKENS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_PROMPT_SCHEMA = {
    "anyOf": [
        _STRING,
        {"type": "array", "items": _STRING, "minItems": 1, "maxItems": _MAX_PROMPTS},
        _TOKENS,
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "integer"}},
            "minItems": 1,
            "maxItems": _MAX_PROMPTS,
        },
    ]
}
_CONTENT_SCHEMA = {
    "anyOf": [_STRING, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]
}
_OBJECT_SCHEMA = {"type": ["object", "null"]}
_LOGIT_BIAS_SCHEMA = {
    "type": ["object", "null"],
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    "propertyNames": {"pattern": "^[0-9]+$"},
}
_LIST_SCHEMA = {
    "type": "array",
    "items": {"type": "object"},
    "minItems": 1,
    "maxItems": MAX_MESSAGES,
}
_INPUT_SCHEMA = {"anyOf": [_STRING, _LIST_SCHEMA]}

Stop = Annotated[Any, BeforeValidator(_stop)]
Prompt = Annotated[Any, BeforeValidator(_prompt), WithJsonSchema(_PROMPT_SCHEMA)]
Content = Annotated[Any, BeforeValidator(_content), WithJsonSchema(_CONTENT_SCHEMA)]
LogitBias = Annotated[Any, BeforeValidator(_logit_bias), WithJsonSchema(_LOGIT_BIAS_SCHEMA)]
JsonObject = Annotated[Any, BeforeValidator(_object), WithJsonSchema(_OBJECT_SCHEMA)]
Input = Annotated[Any, BeforeValidator(_input), WithJsonSchema(_INPUT_SCHEMA)]
JsonList = Annotated[Any, BeforeValidator(_list), WithJsonSchema(_LIST_SCHEMA)]
IS_OBJECT = BeforeValidator(_object)
IS_LONG_INPUT = BeforeValidator(_long_input)
IS_INTEGRAL = BeforeValidator(_integral)
IS_MESSAGES = BeforeValidator(_messages)


def field_type(allowed: Range | Text) -> Any:
    """Return the type of an optional field with a range of `DecodingConfig`."""
    return _type_of(allowed) | None


def _type_of(allowed: Range | Text) -> Any:
    if isinstance(allowed, Number):
        if allowed.open_low:
            return Annotated[float, Field(gt=allowed.low, le=allowed.high)]
        return Annotated[float, Field(ge=allowed.low, le=allowed.high)]
    if isinstance(allowed, Integer):
        return Annotated[int, Field(ge=allowed.low, le=allowed.high)]
    if isinstance(allowed, Boolean):
        return bool
    if isinstance(allowed, OneOf):
        return Literal[allowed.names]
    if isinstance(allowed, ListOf):
        kind = GenericAlias(list, (_type_of(allowed.item),))
        return Annotated[kind, Field(max_length=allowed.max_items, fail_fast=True)]
    return Annotated[str, Field(min_length=1)]
