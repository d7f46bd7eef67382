"""Requests and responses of OpenAI's completions and chat completions, as far as this server speaks them.

Everything a client sends is bounded here; what depends on the checkpoint (context length, vocabulary) is checked
against the engine later. Fields this server does not know are refused, so that nobody believes they had an effect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_serializer,
    model_validator,
)

from longcat.stages.serve.settings import (
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_MESSAGES,
    MAX_PROMPTS,
    MAX_STOP_LENGTH,
    MAX_STOP_STRINGS,
    MAX_TOKENS,
    MAX_TOP_LOGPROBS,
)

Prompt = str | tuple[int, ...]

_TEXT_OR_IDS = [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "integer"}, "minItems": 1}]
_PROMPT_SCHEMA = {
    "anyOf": [
        *_TEXT_OR_IDS,
        {"type": "array", "items": {"anyOf": _TEXT_OR_IDS}, "minItems": 1, "maxItems": MAX_PROMPTS},
    ]
}
_STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_LENGTH}
_STOP_SCHEMA = {"anyOf": [_STOP_TEXT, {"type": "array", "items": _STOP_TEXT, "maxItems": MAX_STOP_STRINGS}]}


def _text(value: str, what: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which is no Unicode text") from None
    return value


def _parse_one_prompt(value: Any) -> Prompt:
    if isinstance(value, str):
        if not value:
            raise ValueError("an empty prompt gives the model nothing to continue")
        return _text(value, "a prompt")
    if not isinstance(value, list):
        raise ValueError("a prompt is a string or a list of token ids")
    if not value:
        raise ValueError("an empty prompt gives the model nothing to continue")
    if len(value) > MAX_TOKENS or not all(type(item) is int for item in value):
        raise ValueError("a prompt of token ids holds integers only")
    return tuple(value)


def _parse_prompts(value: Any) -> tuple[Prompt, ...]:
    """One prompt or a list of them; written by hand because a union would report every element of every branch."""
    if not isinstance(value, list) or (value and type(value[0]) is int):
        return (_parse_one_prompt(value),)
    if not 1 <= len(value) <= MAX_PROMPTS:
        raise ValueError(f"1 to {MAX_PROMPTS} prompts are taken, found {len(value)}")
    return tuple(_parse_one_prompt(item) for item in value)


def _parse_stop(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > MAX_STOP_STRINGS:
        raise ValueError(f"a string or a list of at most {MAX_STOP_STRINGS} strings is needed")
    for text in texts:
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise ValueError(f"each stop string has 1 to {MAX_STOP_LENGTH} characters")
        _text(text, "a stop string")
    return tuple(texts)


def _parse_bias(value: Any) -> dict[int, float]:
    if not isinstance(value, dict) or len(value) > MAX_LOGIT_BIAS:
        raise ValueError(f"a mapping of at most {MAX_LOGIT_BIAS} token ids is needed")
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
StopTokens = Annotated[list[int], Field(max_length=MAX_STOP_STRINGS), FailFast()]

# Fields of other servers that clients send by themselves, with the values that ask for nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "functions": ([],),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool = False


class _Request(_Strict):
    """What both endpoints share. A null means the default, as OpenAI has it."""

    model: str = Field(min_length=1, max_length=256)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0, le=MAX_TOKENS)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    logit_bias: Bias = Field(default_factory=dict)
    stop: Stop = ()
    stop_token_ids: StopTokens = Field(default_factory=list)
    ignore_eos: bool = False
    user: str | None = Field(None, max_length=1024)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None and item not in NEUTRAL.get(key, ())}

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> _Request:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is allowed only with stream")
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: Prompts
    max_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError("best_of other than n is not supported")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 makes sense only with echo")
        return self


def _parse_content(value: Any) -> str:
    """Text, given as such or as parts to be joined; a clear word about anything else, and nothing is ever fetched."""
    if isinstance(value, str):
        return _text(value, "a message")
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise ValueError(f"a message's content is a string or a list of 1 to {MAX_MESSAGES} text parts")
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise ValueError(f"content parts of type {str(kind)[:40]!r} are not supported, this model reads text only")
        if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError("a text part has the fields type and text, and no others")
    return _text("".join(part["text"] for part in value), "a message")


_PART_SCHEMA = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": _PART_SCHEMA, "minItems": 1, "maxItems": MAX_MESSAGES},
    ]
}
Content = Annotated[str, PlainValidator(_parse_content), WithJsonSchema(_CONTENT_SCHEMA)]


class Message(_Strict):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: str | None = Field(None, max_length=256)


class ChatRequest(_Request):
    """`POST /v1/chat/completions`. The template is always the checkpoint's; a request cannot bring one."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES), FailFast()]
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP_LOGPROBS)

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs true")
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ValueError("give max_tokens or max_completion_tokens, not both")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LegacyLogprobs(BaseModel):
    """Of a completion: four lists of one length; the first token of an echoed prompt has no log-probability."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = Field(default_factory=list)
    text_offset: list[int] = Field(default_factory=list)


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: LegacyLogprobs | None = None
    finish_reason: FinishReason | None = None


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class ChatLogprobs(BaseModel):
    content: list[ChatLogprob] = Field(default_factory=list)
    refusal: None = None


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ChatDelta(BaseModel):
    """What a chunk adds; fields that hold nothing are left out."""

    role: Literal["assistant"] | None = None
    content: str | None = None

    @model_serializer
    def _without_nothing(self) -> dict[str, str]:
        fields = {"role": self.role, "content": self.content}
        return {name: value for name, value in fields.items() if value is not None}


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class ChatChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "longcat"
    max_model_len: int


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
