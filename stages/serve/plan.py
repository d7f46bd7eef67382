"""What a request asks of the engine, checked against the checkpoint before it enters the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from longcat.pipeline.errors import InputError
from longcat.stages.serve.engine import InferenceEngine
from longcat.stages.serve.errors import ApiError, invalid
from longcat.stages.serve.protocol import ChatRequest, CompletionRequest, Prompt
from longcat.stages.serve.sampling import SamplingParams
from longcat.stages.serve.settings import ServerSettings

T = TypeVar("T")
# OpenAI's newer name for the same turn.
ROLES = {"developer": "system"}


@dataclass(frozen=True)
class Plan:
    """Token ids of every prompt, and how each is continued."""

    prompts: list[list[int]]
    params: SamplingParams


def plan_completion(engine: InferenceEngine, request: CompletionRequest, settings: ServerSettings) -> Plan:
    """Tokenise and check a completion request.

    Raises:
        ApiError: 400 with the numbers when something does not fit.
    """
    if len(request.prompt) * request.n > settings.max_request_choices:
        raise invalid(
            f"{len(request.prompt)} prompts times n = {request.n} is more than {settings.max_request_choices}", "n"
        )
    prompts = [_ids(engine, prompt) for prompt in request.prompt]
    room = engine.max_length - max(map(len, prompts))
    params = _params(engine, request, _limit(request.max_tokens, settings.completion_tokens, room), request.logprobs)
    for ids in prompts:
        _check(engine, ids, params.max_tokens, "prompt")
    return Plan(prompts, params)


def plan_chat(engine: InferenceEngine, request: ChatRequest, settings: ServerSettings) -> Plan:
    """Render the checkpoint's template and check a chat request.

    Raises:
        ApiError: 400 when the template refuses the messages or something does not fit.
    """
    messages = [
        {"role": ROLES.get(message.role, message.role), "content": message.content} for message in request.messages
    ]
    _check_size(engine, sum(len(message["content"]) for message in messages), "messages")
    ids = _explained(lambda: engine.tokenizer.encode_chat(messages), "messages")
    limit = _limit(request.limit, settings.chat_tokens, engine.max_length - len(ids))
    params = _params(engine, request, limit, (request.top_logprobs or 0) if request.logprobs else None)
    _check(engine, ids, params.max_tokens, "messages")
    return Plan([ids], params)


def _ids(engine: InferenceEngine, prompt: Prompt) -> list[int]:
    if isinstance(prompt, tuple):
        return list(prompt)
    _check_size(engine, len(prompt), "prompt")
    return _explained(lambda: engine.tokenizer.encode(prompt), "prompt")


def _limit(asked: int | None, usual: int, room: int) -> int:
    # At least one, so that a prompt without room for an answer is refused and not answered with nothing.
    return max(1, min(usual, room)) if asked is None else asked


def _params(
    engine: InferenceEngine, request: CompletionRequest | ChatRequest, limit: int, top_logprobs: int | None
) -> SamplingParams:
    for name, ids in (("logit_bias", request.logit_bias), ("stop_token_ids", request.stop_token_ids)):
        if ids and not 0 <= min(ids) <= max(ids) < engine.vocab_size:
            raise invalid(f"{name}: token ids lie from 0 to {engine.vocab_size - 1}", name)
    return SamplingParams(
        max_tokens=limit,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias,
        stop=request.stop,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
        top_logprobs=top_logprobs,
    )


def _check_size(engine: InferenceEngine, characters: int, param: str) -> None:
    """Refuse at once what cannot fit however it is tokenised; a large text would take seconds to encode."""
    least = -(-characters // engine.tokenizer.longest_token)
    if least > engine.max_length:
        raise _too_long(f"the prompt has at least {least} tokens", engine, param)


def _check(engine: InferenceEngine, ids: Sequence[int], new_tokens: int, param: str) -> None:
    if len(ids) + new_tokens > engine.max_length:
        raise _too_long(f"the prompt has {len(ids)} tokens and {new_tokens} are to follow", engine, param)
    _explained(lambda: engine.check_prompt(ids, new_tokens), param)


def _too_long(what: str, engine: InferenceEngine, param: str) -> ApiError:
    return invalid(f"{what}, the context holds {engine.max_length} in all", param, code="context_length_exceeded")


def _explained(function: Callable[[], T], param: str) -> T:
    """Run `function`, its refusal of the user's input as a 400."""
    try:
        return function()
    except InputError as error:
        raise invalid(error.what, param) from None
