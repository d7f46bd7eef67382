"""Messages of a conversation: what clients write, and what they send back of earlier answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from longcat.stages.serve.fields import at_most, limits_of, valid_text, without_nulls

# Fields of a content part that ask nothing of the answer.
PART_NOTES = frozenset({"annotations", "cache_control", "prompt_cache_breakpoint"})
# Older or other names of the same role.
ROLES = {"developer": "system", "function": "tool"}
MAX_NAME = 256


def _parse_content(value: Any, info: ValidationInfo) -> str:
    """Text as a string or as parts to be joined; anything else is rejected, and nothing is ever fetched."""
    if isinstance(value, str):
        return valid_text(value, "a message")
    limit = limits_of(info).messages
    if not isinstance(value, list) or len(value) > limit:
        raise ValueError(f"a message's content is a string or a list of at most {limit} text parts")
    return valid_text("".join(map(_text_of, value)), "a message")


def _text_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal"):
        raise ValueError(f"content parts of type {str(kind)[:40]!r} are not supported, this model reads text only")
    known = {"type", kind}
    fields = {key: item for key, item in without_nulls(part).items() if key not in PART_NOTES}
    if fields.keys() != known or not isinstance(fields[kind], str):
        raise ValueError(f"a {kind} part has only the fields type and {kind}")
    return str(fields[kind])


_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}, **{key: {} for key in sorted(PART_NOTES)}},
    "required": ["type", "text"],
    "additionalProperties": {"type": "null"},
}
_CONTENT_SCHEMA = {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART_SCHEMA}]}
Content = Annotated[str, PlainValidator(_parse_content), WithJsonSchema(_CONTENT_SCHEMA)]


def _parse_arguments(value: Any) -> str | dict[str, Any]:
    """Arguments as the text of a JSON object, as OpenAI has them, or as the object itself."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise ValueError("arguments are the text of a JSON object")
    return valid_text(value, "an argument") if value.strip() else "{}"


Arguments = Annotated[
    str | dict[str, Any],
    PlainValidator(_parse_arguments),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object"}]}),
]


class _FromAnAnswer(BaseModel):
    """Part of an earlier answer: fields that this server does not know came with the answer and are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    _nulls = model_validator(mode="before")(without_nulls)


class FunctionCall(_FromAnAnswer):
    """A call that the model made."""

    name: str = Field(min_length=1, max_length=MAX_NAME)
    arguments: Arguments = "{}"


class ToolCall(_FromAnAnswer):
    """A call in an earlier answer."""

    id: str | None = Field(None, max_length=MAX_NAME)
    type: Literal["function"] = "function"
    function: FunctionCall


_NULL = {"type": "null"}
# What says nothing in a field that is not known.
_NOTHING = {"anyOf": [_NULL, {"type": "array", "maxItems": 0}]}


def _by_role(schema: dict[str, Any]) -> None:
    """Only an assistant's message may have no content, and unknown fields that say something."""
    answer = {"properties": {"role": {"const": "assistant"}, "audio": _NULL}}
    answered = {"refusal": _NULL, "reasoning_content": _NULL, "function_call": _NULL, "tool_calls": _NOTHING}
    said = {"role": {"not": {"const": "assistant"}}, "content": {"not": _NULL}}
    known: dict[str, Any] = {key: {} for key in [*schema["properties"], *sorted(PART_NOTES)]}
    other = {"properties": {**known, **answered, **said}, "required": ["content"], "additionalProperties": _NOTHING}
    schema["anyOf"] = [answer, other]
    schema["additionalProperties"] = True


class Message(BaseModel):
    """One message. A null in it means that the field is absent.

    An assistant's message comes back as a client's library keeps it; what is not known of it is ignored. In a message
    of another role, an unknown field may hold what the model should read, and is refused.
    """

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra=_by_role)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = Field(None, max_length=MAX_NAME)
    tool_call_id: str | None = Field(None, max_length=MAX_NAME)
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: Annotated[list[ToolCall], FailFast(), at_most("tools")] = Field(default_factory=list)
    function_call: FunctionCall | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, value: Any) -> Any:
        fields = without_nulls(value)
        if not isinstance(fields, dict):
            return value
        if fields.get("role") != "assistant":
            return {key: item for key, item in fields.items() if not cls._says_nothing(key, item)}
        if "audio" in fields:
            raise ValueError("the audio of an earlier answer is not stored here, send its transcript as content")
        fields.setdefault("reasoning_content", fields.get("reasoning"))
        return {key: item for key, item in fields.items() if key in cls.model_fields}

    @staticmethod
    def _says_nothing(key: str, value: Any) -> bool:
        return key in PART_NOTES or (key != "content" and value == [])

    @model_validator(mode="after")
    def _consistent(self) -> Message:
        answered = self.role == "assistant"
        if not answered and self.content is None:
            raise ValueError(f"a message of role {self.role} needs content")
        only: dict[str, Any] = {"refusal": self.refusal, "reasoning_content": self.reasoning_content}
        only |= {"tool_calls": self.tool_calls or None, "function_call": self.function_call}
        for name, value in only.items():
            if not answered and value is not None:
                raise ValueError(f"{name} belongs to messages of role assistant")
        return self

    @property
    def text(self) -> str:
        """What was said: the content, otherwise the refusal."""
        return self.content or self.refusal or ""

    def for_template(self) -> Mapping[str, Any]:
        """The message as chat templates read it."""
        message: dict[str, Any] = {"role": ROLES.get(self.role, self.role), "content": self.text}
        calls = [call.model_dump(exclude_none=True) for call in self.tool_calls]
        if self.function_call is not None:
            calls.append({"type": "function", "function": self.function_call.model_dump()})
        optional = {
            "tool_calls": calls,
            "tool_call_id": self.tool_call_id,
            "name": self.name,
            "reasoning_content": self.reasoning_content,
        }
        return message | {name: value for name, value in optional.items() if value}


Messages = Annotated[list[Message], Field(min_length=1), FailFast(), at_most("messages")]
