"""Requests of OpenAI's Responses API, as far as they need no stored state, and the chats they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo, WithJsonSchema

from longcat.stages.serve.fields import at_most, limits_of, valid_text, without_nulls
from longcat.stages.serve.protocol import ChatRequest, Effort, Request
from longcat.stages.serve.settings import MAX_INTEGER

TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
ROLES = frozenset({"user", "system", "developer", "assistant"})
CALL = frozenset({"name", "arguments"})


def _text_of(content: Any, what: str) -> str:
    """Text of a string or of parts; anything else is rejected, and nothing is ever fetched."""
    if isinstance(content, str):
        return valid_text(content, what)
    if not isinstance(content, list):
        raise ValueError(f"{what} is a string or a list of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        field = TEXT_PARTS.get(kind) if isinstance(kind, str) else None
        if field is None:
            raise ValueError(f"parts of type {str(kind)[:40]!r} are not supported, this model reads text only")
        if not isinstance(part.get(field), str):
            raise ValueError(f"a part of type {kind} has the field {field}")
        texts.append(part[field])
    return valid_text("".join(texts), what)


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    role = item.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"a message has one of the roles {', '.join(sorted(ROLES))}")
    return {"role": role, "content": _text_of(item.get("content"), "a message")}


def _call(item: Mapping[str, Any]) -> dict[str, Any]:
    if not all(isinstance(item.get(key), str) for key in ("call_id", "name", "arguments")):
        raise ValueError("a function_call has the texts call_id, name and arguments")
    function = {key: item[key] for key in CALL}
    return {"role": "assistant", "tool_calls": [{"id": item["call_id"], "type": "function", "function": function}]}


def _output(item: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(item.get("call_id"), str):
        raise ValueError("a function_call_output has the text call_id")
    return {"role": "tool", "tool_call_id": item["call_id"], "content": _text_of(item.get("output"), "an output")}


def _thought(item: Mapping[str, Any]) -> dict[str, Any]:
    parts = item.get("content") or item.get("summary") or []
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts] if isinstance(parts, list) else []
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a reasoning item has parts with text")
    # Without its text a thought is encrypted, and cannot be read here.
    return {"role": "assistant", "reasoning_content": "".join(map(str, texts))}


_ITEMS = {"message": _message, "function_call": _call, "function_call_output": _output, "reasoning": _thought}


def _parse_input(value: Any, info: ValidationInfo) -> tuple[dict[str, Any], ...]:
    """The messages of a chat: those of one answer are joined to one."""
    if isinstance(value, str):
        return ({"role": "user", "content": valid_text(value, "an input")},)
    limit = limits_of(info).messages
    if not isinstance(value, list) or not 1 <= len(value) <= limit:
        raise ValueError(f"an input is a string or a list of 1 to {limit} items")
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(value):
        message = _parse_item(without_nulls(item), number)
        if messages and _continues(messages[-1], message):
            messages[-1] = _joined(messages[-1], message)
        else:
            messages.append(message)
    return tuple(messages)


def _parse_item(item: Any, number: int) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"item {number} is not an object")
    kind = item.get("type", "message")
    if not isinstance(kind, str) or kind not in _ITEMS:
        raise ValueError(f"item {number}: items of type {str(kind)[:40]!r} are not supported")
    try:
        return _ITEMS[kind](item)
    except ValueError as error:
        raise ValueError(f"item {number}: {error}") from None


def _continues(before: Mapping[str, Any], message: Mapping[str, Any]) -> bool:
    """Whether both are items of one answer: a thought, a text, calls."""
    both = before["role"] == message["role"] == "assistant"
    return both and "reasoning_content" not in message and not ("content" in message and before.keys() & _SAID)


_SAID = {"content", "tool_calls"}


def _joined(before: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    calls = [*before.get("tool_calls", []), *message.get("tool_calls", [])]
    return {**before, **message, **({"tool_calls": calls} if calls else {})}


_STRING = {"type": "string"}


def _object(required: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(required), "required": list(required)}


_PARTS = [_object({"type": {"const": kind}, field: _STRING}) for kind, field in TEXT_PARTS.items()]
_CONTENT = {"anyOf": [_STRING, {"type": "array", "items": {"anyOf": _PARTS}}]}
_MESSAGE = _object({"role": {"enum": sorted(ROLES)}, "content": _CONTENT})
_MESSAGE["properties"]["type"] = {"enum": ["message", None]}
_ITEM_SCHEMAS = [
    _MESSAGE,
    _object({"type": {"const": "function_call"}, "call_id": _STRING, "name": _STRING, "arguments": _STRING}),
    _object({"type": {"const": "function_call_output"}, "call_id": _STRING, "output": _CONTENT}),
]
_INPUT_SCHEMA = {"anyOf": [_STRING, {"type": "array", "minItems": 1, "items": {"anyOf": _ITEM_SCHEMAS}}]}
_TOOL_SCHEMA = _object({"type": {"const": "function"}, "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,64}$"}})
Input = Annotated[tuple[dict[str, Any], ...], PlainValidator(_parse_input), WithJsonSchema(_INPUT_SCHEMA)]


def _parse_tools(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise ValueError("expected a list of tools")
    for tool in value:
        if tool.get("type") != "function":
            raise ValueError(f"tools of type {str(tool.get('type'))[:40]!r} are not supported, functions are")
    return value


class Reasoning(BaseModel):
    """How much the model thinks; a `summary` of a thought is the thought itself here."""

    model_config = ConfigDict(extra="ignore", strict=True)

    effort: Effort | None = None


class TextConfig(BaseModel):
    """Format of the text."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: dict[str, Any] | None = None


class ResponsesRequest(Request):
    """`POST /v1/responses`. Nothing is stored: the whole conversation is the input."""

    input: Input
    n: Literal[1] = 1
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_INTEGER)
    text: TextConfig | None = None
    tools: Annotated[
        list[dict[str, Any]],
        PlainValidator(_parse_tools),
        at_most("tools"),
        WithJsonSchema({"type": "array", "items": _TOOL_SCHEMA}),
    ] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    reasoning: Reasoning | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    metadata: dict[str, Any] = Field(default_factory=dict)

    def chat(self, limits: Any) -> ChatRequest:
        """The chat of this request.

        Raises:
            pydantic.ValidationError: a field of the chat is invalid.
        """
        own = {"model", "stream", "n", "logit_bias", "stop"}
        shared = {name: getattr(self, name) for name in Request.model_fields.keys() - own - {"stream_options"}}
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        fields = {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in shared.items()},
            "model": self.model,
            "stream": self.stream,
            "stop": list(self.stop),
            "logit_bias": {str(token): bias for token, bias in self.logit_bias.items()},
            "messages": [*system, *self.input],
            "max_completion_tokens": self.max_output_tokens,
            "tools": [{"type": "function", "function": _function(tool)} for tool in self.tools],
            "tool_choice": self._chat_choice(),
            "parallel_tool_calls": self.parallel_tool_calls,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
            "chat_template_kwargs": self.chat_template_kwargs,
            "response_format": self._chat_format(),
        }
        return ChatRequest.model_validate(fields, context=limits)

    def _chat_choice(self) -> Any:
        choice = self.tool_choice
        if isinstance(choice, dict) and choice.get("type") == "function":
            return {"type": "function", "function": {"name": choice.get("name")}}
        return choice

    def _chat_format(self) -> dict[str, Any] | None:
        given = self.text.format if self.text else None
        if given is None or given.get("type") != "json_schema":
            return given or self.response_format
        return {"type": "json_schema", "json_schema": {key: item for key, item in given.items() if key != "type"}}


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in tool.items() if key != "type" and item is not None}
