"""Requests of OpenAI's completions and chat completions, the subset supported by this server.

All client input is limited here; limits of the checkpoint (context length, vocabulary) are checked against the engine
later. Unknown fields are rejected instead of silently ignored, except those that `NOT_OURS` lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema, model_validator

from longcat.stages.serve.fields import Bias, Prompts, Stop, StopTokens, TokenIds, at_most, without_nulls
from longcat.stages.serve.messages import Messages
from longcat.stages.serve.settings import MAX_INTEGER


@dataclass(frozen=True)
class NotOurs:
    """A field of OpenAI's platform or of another server.

    A value in `neutral` asks nothing of the answer and is dropped; None stands for every value. Other values are
    refused, because the answer would not be what they ask for.
    """

    neutral: tuple[Any, ...] | None = None
    because: str = ""

    def is_neutral(self, value: Any) -> bool:
        """Whether `value` can be dropped."""
        return self.neutral is None or any(_same(value, item) for item in self.neutral)


def _same(value: Any, other: Any) -> bool:
    # In Python, True equals 1 and False equals 0.
    return isinstance(value, bool) is isinstance(other, bool) and bool(value == other)


def _only(*neutral: Any, because: str) -> NotOurs:
    return NotOurs(neutral, because)


_IGNORED = NotOurs()
_SAMPLER = "this sampler does not exist here"
_TEXT_ONLY = "this model reads and writes text only"
_TEMPLATE = "the chat template is the checkpoint's"
_STORED = "nothing is stored here, send the whole conversation"
_CHAT = "use /v1/chat/completions"
_STRUCTURED = "use structured_outputs"
_RETURNED = "prompts and tokens are returned as text"

# The fields of others that clients send, whether or not their user asked for anything.
NOT_OURS: Mapping[str, NotOurs] = {
    # Notes to the platform, and hints on speed and price.
    "cache_prompt": _IGNORED,
    "keep_alive": _IGNORED,
    "metadata": _IGNORED,
    "prediction": _IGNORED,
    "prompt_cache_key": _IGNORED,
    "prompt_cache_options": _IGNORED,
    "prompt_cache_retention": _IGNORED,
    "request_id": _IGNORED,
    "safety_identifier": _IGNORED,
    "service_tier": _IGNORED,
    "store": _IGNORED,
    "user": _IGNORED,
    "verbosity": _IGNORED,
    # Stored state of OpenAI's platform.
    "background": _only(False, because=_STORED),
    "conversation": _only(because=_STORED),
    "previous_response_id": _only(because=_STORED),
    "truncation": _only("disabled", because="a prompt that is too long is refused"),
    "include": _only([], ["reasoning.encrypted_content"], because="items have everything that they can have"),
    "max_tool_calls": _only(because="the model's calls are run by the client"),
    "context_management": _only([], because=_STORED),
    # Tools.
    "function_call": _only("auto", "none", because="use tool_choice"),
    "functions": _only([], because="use tools"),
    "parallel_tool_calls": _IGNORED,
    "tool_choice": _only("auto", "none", because=_CHAT),
    "tools": _only([], because=_CHAT),
    "web_search_options": _only(because="this server searches nothing"),
    # Answers in other forms.
    "top_logprobs": _only(0, because="use /v1/chat/completions"),
    "audio": _only(because=_TEXT_ONLY),
    "modalities": _only(["text"], because=_TEXT_ONLY),
    "mm_processor_kwargs": _only({}, because=_TEXT_ONLY),
    "suffix": _only("", because="a prompt is continued at its end only"),
    # Prompts.
    "add_generation_prompt": _only(True, because=_TEMPLATE),
    "add_special_tokens": _only(False, because=_TEMPLATE),
    "chat_template": _only(because=_TEMPLATE),
    "continue_final_message": _only(False, because="an answer is a new message"),
    "chat_template_kwargs": _only({}, because=_CHAT),
    "documents": _only([], because=_TEMPLATE),
    "prompt_logprobs": _only(0, because="use echo and logprobs of /v1/completions"),
    "truncate_prompt_tokens": _only(because="a prompt that is too long is refused"),
    # Forms of the text.
    "detokenize": _only(True, because=_RETURNED),
    "include_stop_str_in_output": _only(False, because="a stop string is never part of the answer"),
    "return_token_ids": _only(False, because=_RETURNED),
    "return_tokens_as_token_ids": _only(False, because=_RETURNED),
    "skip_special_tokens": _only(True, because="special tokens have no text in an answer"),
    "spaces_between_special_tokens": _only(True, False, because="special tokens have no text in an answer"),
    # Older names of vLLM.
    "guided_choice": _only(because=_STRUCTURED),
    "guided_grammar": _only(because=_STRUCTURED),
    "guided_json": _only(because=_STRUCTURED),
    "guided_regex": _only(because=_STRUCTURED),
    # Samplers.
    "bad_words": _only([], because="use logit_bias"),
    "dry_multiplier": _only(0, because=_SAMPLER),
    "dynatemp_range": _only(0, because=_SAMPLER),
    "length_penalty": _only(1, because=_SAMPLER),
    "logits_processors": _only([], because="code from a request is never run"),
    "mirostat": _only(0, because=_SAMPLER),
    "tfs_z": _only(1, because=_SAMPLER),
    "top_a": _only(0, because=_SAMPLER),
    "typical_p": _only(1, because=_SAMPLER),
    "use_beam_search": _only(False, because=_SAMPLER),
    "xtc_probability": _only(0, because=_SAMPLER),
    # The order of the queue is by key and request.
    "priority": _only(0, because="requests are served in turn, by key"),
}


def why_refused(field: str) -> str:
    """Reason for which a value of a field in `NOT_OURS` is refused; empty for other fields."""
    known = NOT_OURS.get(field)
    return known.because if known else ""


class Body(BaseModel):
    """A request. A null means that the field is absent, and fields that say nothing here are dropped."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_says_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if item is not None and not cls._says_nothing(key, item)}

    @classmethod
    def _says_nothing(cls, key: str, value: Any) -> bool:
        return key in NOT_OURS and key not in cls.model_fields and NOT_OURS[key].is_neutral(value)


class StreamOptions(BaseModel):
    """Options of a stream; those of other servers do not change the text and are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False
    continuous_usage_stats: bool = False

    _nulls = model_validator(mode="before")(without_nulls)


def _all_tokens(value: Any) -> Any:
    # Some servers write -1 for no limit.
    return 0 if _same(value, -1) else value


class Request(Body):
    """Fields of every endpoint that generates."""

    model: str = Field(min_length=1, max_length=256)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1), at_most("choices")] = 1
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: Annotated[
        int,
        Field(ge=0, le=MAX_INTEGER),
        BeforeValidator(_all_tokens),
        WithJsonSchema({"type": "integer", "minimum": -1, "maximum": MAX_INTEGER}),
    ] = 0
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    logit_bias: Bias = Field(default_factory=dict)
    stop: Stop = ()
    stop_token_ids: StopTokens = Field(default_factory=list)
    ignore_eos: bool = False
    min_p: float = Field(0.0, ge=0, le=1)
    min_tokens: int = Field(0, ge=0, le=MAX_INTEGER)
    allowed_token_ids: TokenIds | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    return_expert_counts: bool = False

    @property
    def with_usage(self) -> bool:
        """Whether the last chunk of a stream has the usage."""
        return self.usage_always or (self.stream_options is not None and self.stream_options.include_usage)

    @property
    def usage_always(self) -> bool:
        """Whether every chunk of a stream has the usage so far."""
        return self.stream_options is not None and self.stream_options.continuous_usage_stats


class CompletionRequest(Request):
    """`POST /v1/completions`."""

    prompt: Prompts
    parse_special: bool = True
    add_special_tokens: bool = True
    max_tokens: int | None = Field(None, ge=0, le=MAX_INTEGER)
    echo: bool = False
    logprobs: Annotated[int | None, Field(ge=0), at_most("top_logprobs")] = None
    best_of: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.n:
            raise ValueError("best_of other than n is not supported")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 is allowed only with echo")
        return self


# Names that the template gets from other fields.
RESERVED = frozenset({"add_generation_prompt", "messages", "tools"})
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ChatRequest(Request):
    """`POST /v1/chat/completions`. The chat template is always the checkpoint's; a request cannot supply one."""

    messages: Messages
    max_tokens: int | None = Field(None, ge=1, le=MAX_INTEGER)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_INTEGER)
    logprobs: bool = False
    top_logprobs: Annotated[int | None, Field(ge=0), at_most("top_logprobs")] = None
    tools: Annotated[list[dict[str, Any]], FailFast(), at_most("tools")] = Field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: Effort | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs true")
        if len({self.max_tokens, self.max_completion_tokens} - {None}) > 1:
            raise ValueError("max_tokens and max_completion_tokens are two names of one limit, pass one of them")
        return self

    @model_validator(mode="after")
    def _consistent_template(self) -> ChatRequest:
        for name in sorted(RESERVED & self.chat_template_kwargs.keys()):
            raise ValueError(f"chat_template_kwargs cannot set {name}")
        asked = self.chat_template_kwargs.get("enable_thinking")
        if not isinstance(asked, bool | None):
            raise ValueError("chat_template_kwargs.enable_thinking is true or false")
        if None not in (asked, self.reasoning_effort) and asked is not (self.reasoning_effort != "none"):
            raise ValueError("reasoning_effort contradicts chat_template_kwargs.enable_thinking")
        return self

    @property
    def limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def thinking(self) -> bool:
        """Whether the answer begins with a thought. LongCat knows no degrees of effort: any but none is a thought."""
        asked = self.chat_template_kwargs.get("enable_thinking")
        return asked is True if asked is not None else self.reasoning_effort not in (None, "none")
