"""Validated types of request fields; manual validators where a union would report every branch of every element."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Any

from pydantic import AfterValidator, FailFast, Field, PlainValidator, ValidationInfo, WithJsonSchema

from longcat.stages.serve.settings import MAX_INTEGER, RequestLimits

# Schemas show the default limits.
_DEFAULTS = RequestLimits.model_validate({})
Prompt = str | tuple[int, ...]

_TEXT_OR_IDS = [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "integer"}, "minItems": 1}]
_PROMPT_SCHEMA = {
    "anyOf": [
        *_TEXT_OR_IDS,
        {"type": "array", "items": {"anyOf": _TEXT_OR_IDS}, "minItems": 1, "maxItems": _DEFAULTS.prompts},
    ]
}
_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": _DEFAULTS.stop_characters}
_STOP_SCHEMA = {"anyOf": [_STOP_TEXT, {"type": "array", "items": _STOP_TEXT, "maxItems": _DEFAULTS.stop_strings}]}


def limits_of(info: ValidationInfo) -> RequestLimits:
    """The limits of the server: the context of a validation."""
    return info.context if isinstance(info.context, RequestLimits) else _DEFAULTS


def at_most(name: str) -> AfterValidator:
    """Validator of a number, or of the length of a list, against the limit `name`."""

    def check(value: Any, info: ValidationInfo) -> Any:
        limit = getattr(limits_of(info), name)
        if isinstance(value, Sized):
            if len(value) > limit:
                raise ValueError(f"at most {limit} are allowed, found {len(value)}")
        elif value is not None and value > limit:
            raise ValueError(f"at most {limit} is allowed, found {value}")
        return value

    return AfterValidator(check)


def without_nulls(value: Any) -> Any:
    """A JSON object without the keys whose value is null; other values unchanged. Nested objects are left alone."""
    if not isinstance(value, dict):
        return value
    return {key: item for key, item in value.items() if item is not None}


def valid_text(value: str, what: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} contains a lone surrogate, which is not valid Unicode") from None
    return value


def _parse_one_prompt(value: Any) -> Prompt:
    if isinstance(value, str):
        if not value:
            raise ValueError("an empty prompt gives the model nothing to continue")
        return valid_text(value, "a prompt")
    if not isinstance(value, list):
        raise ValueError("a prompt is a string or a list of token ids")
    if not value:
        raise ValueError("an empty prompt gives the model nothing to continue")
    if len(value) > MAX_INTEGER or not all(type(item) is int for item in value):
        raise ValueError("a prompt of token ids holds integers only")
    return tuple(value)


def _parse_prompts(value: Any, info: ValidationInfo) -> tuple[Prompt, ...]:
    """One prompt or a list of them; a manual validator, because a union would report every element of every branch."""
    if not isinstance(value, list) or (value and type(value[0]) is int):
        return (_parse_one_prompt(value),)
    limit = limits_of(info).prompts
    if not 1 <= len(value) <= limit:
        raise ValueError(f"1 to {limit} prompts are allowed, found {len(value)}")
    return tuple(_parse_one_prompt(item) for item in value)


def _parse_stop(value: Any, info: ValidationInfo) -> tuple[str, ...]:
    limits = limits_of(info)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > limits.stop_strings:
        raise ValueError(f"expected a string or a list of at most {limits.stop_strings} strings")
    for text in texts:
        if not isinstance(text, str) or not 1 <= len(text) <= limits.stop_characters:
            raise ValueError(f"each stop string has 1 to {limits.stop_characters} characters")
        valid_text(text, "a stop string")
    return tuple(texts)


def _parse_bias(value: Any, info: ValidationInfo) -> dict[int, float]:
    limit = limits_of(info).logit_bias
    if not isinstance(value, dict) or len(value) > limit:
        raise ValueError(f"expected a mapping of at most {limit} token ids")
    result = {}
    for key, bias in value.items():
        if not key.isdecimal() or len(key) > 10:
            raise ValueError(f"{key[:20]!r} is not a token id")
        if isinstance(bias, bool) or not isinstance(bias, (int, float)) or not -100 <= bias <= 100:
            raise ValueError("a bias is a number from -100 to 100")
        result[int(key)] = float(bias)
    return result


Prompts = Annotated[tuple[Prompt, ...], PlainValidator(_parse_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
Stop = Annotated[tuple[str, ...], PlainValidator(_parse_stop), WithJsonSchema(_STOP_SCHEMA)]
Bias = Annotated[
    dict[int, float],
    PlainValidator(_parse_bias),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}),
]
StopTokens = Annotated[list[int], FailFast(), at_most("stop_strings")]


def _parse_ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of at least one token id")
    if not all(type(item) is int and 0 <= item <= MAX_INTEGER for item in value):
        raise ValueError("token ids are integers from 0 on")
    return tuple(value)


# `openapi.complete` puts the size of the vocabulary in place of the format.
ID_FORMAT = "token-id"
_ID_SCHEMA = {"type": "integer", "minimum": 0, "format": ID_FORMAT}
TokenId = Annotated[int, Field(ge=0), WithJsonSchema(_ID_SCHEMA)]
TokenIds = Annotated[
    tuple[int, ...],
    PlainValidator(_parse_ids),
    WithJsonSchema({"type": "array", "items": _ID_SCHEMA, "minItems": 1}),
]
