"""Generation requests for the engine, checked against the checkpoint before they enter the queue."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from longcat.pipeline.errors import InputError
from longcat.pipeline.validation import problems_of
from longcat.stages.formats.special_tokens import MARKUP
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.grammar_spec import GrammarSpec, response_format_spec, structured_outputs_spec
from longcat.stages.inference.sampling import SamplingParams
from longcat.stages.inference.tools import ToolPlan, tool_plan
from longcat.stages.serve.errors import ApiError, invalid
from longcat.stages.serve.fields import Prompt
from longcat.stages.serve.messages import Message
from longcat.stages.serve.protocol import ChatRequest, CompletionRequest
from longcat.stages.serve.responses_protocol import ResponsesRequest
from longcat.stages.serve.settings import ServerSettings

T = TypeVar("T")
THINK = MARKUP[2]
# The end of a prompt in which the beginning of a thought is looked for, tokens.
TAIL = 8
MAX_REASON = 300


@dataclass(frozen=True)
class GenerationRequest:
    """Token ids of every prompt, sampling parameters, and the number of continuations of each prompt.

    `score_top`, if given, asks for the log-probabilities of the prompts, with that many most likely tokens. `grammar`
    is to be compiled into the parameters. `thinking`: the prompt ends inside a thought. `calls`: tool calls are looked
    for in the answer.
    """

    prompts: list[list[int]]
    params: SamplingParams
    choices: int = 1
    score_top: int | None = None
    grammar: GrammarSpec | None = None
    thinking: bool = False
    calls: bool = False


def plan_completion(engine: InferenceEngine, request: CompletionRequest, settings: ServerSettings) -> GenerationRequest:
    """Tokenise and check a completion request.

    Raises:
        ApiError: 400 with the numbers if a limit is exceeded.
    """
    limit = settings.limits.prompt_choices
    if len(request.prompt) * request.n > limit:
        raise invalid(f"{len(request.prompt)} prompts times n = {request.n} is more than {limit}", "n")
    prompts = [_ids(engine, prompt, request) for prompt in request.prompt]
    room = engine.max_length - max(map(len, prompts))
    params = _params(engine, request, _limit(request.max_tokens, settings.completion_tokens, room), request.logprobs)
    for ids in prompts:
        _check(engine, ids, params.max_tokens, "prompt")
    top = request.logprobs if request.echo else None
    return GenerationRequest(prompts, params, request.n, top, _explained(lambda: _answer_spec(request)))


def plan_chat(engine: InferenceEngine, request: ChatRequest, settings: ServerSettings) -> GenerationRequest:
    """Render the checkpoint's template and check a chat request.

    Raises:
        ApiError: 400 if the template rejects the messages or a limit is exceeded.
    """
    answer = _explained(lambda: _answer_spec(request))
    tools, ids, thinking = _explained(lambda: _chat_prompt(engine, request, answer), "messages")
    limit = _limit(request.limit, settings.chat_tokens, engine.max_length - len(ids))
    params = _params(engine, request, limit, (request.top_logprobs or 0) if request.logprobs else None)
    _check(engine, ids, params.max_tokens, "messages")
    params = replace(params, marked_tags=True)
    return GenerationRequest([ids], params, request.n, None, tools.grammar, thinking, tools.calls)


def plan_response(engine: InferenceEngine, request: ResponsesRequest, settings: ServerSettings) -> GenerationRequest:
    """Plan the chat of a request of the Responses API.

    Raises:
        ApiError: see `plan_chat`.
    """
    try:
        chat = request.chat(settings.limits)
    except ValidationError as error:
        raise invalid(str(problems_of(error)[0])[:MAX_REASON]) from None
    return plan_chat(engine, chat, settings)


def _chat_prompt(
    engine: InferenceEngine, request: ChatRequest, answer: GrammarSpec | None
) -> tuple[ToolPlan, list[int], bool]:
    """The plan for the tools, the ids of the prompt, and whether it ends inside a thought."""

    def plan(thinking: bool) -> ToolPlan:
        parallel = request.parallel_tool_calls
        return tool_plan(request.tools, request.tool_choice, parallel=parallel, thinking=thinking, answer=answer)

    tools = plan(request.thinking)
    variables = {**request.chat_template_kwargs, "enable_thinking": request.thinking}
    ids = chat_ids(engine, request.messages, tools.offered, **variables)
    if request.thinking and not engine.tokenizer.literal_text(ids[-TAIL:]).rstrip().endswith(THINK):
        # The checkpoint's template does not know the variable.
        return plan(False), ids, False
    return tools, ids, request.thinking


def _answer_spec(request: ChatRequest | CompletionRequest) -> GrammarSpec | None:
    spec = response_format_spec(request.response_format) if request.response_format is not None else None
    if request.structured_outputs is None:
        return spec
    if spec is not None:
        raise InputError("cannot be combined with response_format", where="structured_outputs")
    return structured_outputs_spec(request.structured_outputs)


def chat_ids(
    engine: InferenceEngine,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    **variables: Any,
) -> list[int]:
    """Ids of a chat's prompt, by the checkpoint's template, with `tools` and `variables`.

    Raises:
        ApiError: 400 if the template rejects the messages, or they cannot fit.
    """
    _check_size(engine, sum(len(message.text) for message in messages), "messages")
    rendered = [message.for_template() for message in messages]
    encode = engine.tokenizer.encode_chat
    return _explained(lambda: encode(rendered, tools, **variables), "messages")


def text_ids(engine: InferenceEngine, text: str, *, parse_special: bool, add_special: bool) -> list[int]:
    """Ids of a text; with `parse_special` the names of special tokens in it are these tokens.

    With `add_special` it begins with the tokens that the tokenizer adds before a text, if any.

    Raises:
        ApiError: 400 if it cannot fit.
    """
    _check_size(engine, len(text), "prompt")
    encode = engine.tokenizer.encode_prompt if add_special else engine.tokenizer.encode
    return _explained(lambda: encode(text, parse_special=parse_special), "prompt")


def _ids(engine: InferenceEngine, prompt: Prompt, request: CompletionRequest) -> list[int]:
    if isinstance(prompt, tuple):
        return list(prompt)
    return text_ids(engine, prompt, parse_special=request.parse_special, add_special=request.add_special_tokens)


def _limit(asked: int | None, usual: int, room: int) -> int:
    # At least one, so that a prompt without room for an answer is rejected instead of getting an empty answer.
    return max(1, min(usual, room)) if asked is None else asked


def _params(
    engine: InferenceEngine, request: CompletionRequest | ChatRequest, limit: int, top_logprobs: int | None
) -> SamplingParams:
    named: dict[str, Collection[int]] = {"logit_bias": request.logit_bias, "stop_token_ids": request.stop_token_ids}
    named["allowed_token_ids"] = request.allowed_token_ids or ()
    for name, ids in named.items():
        if ids and not 0 <= min(ids) <= max(ids) < engine.vocab_size:
            raise invalid(f"{name}: token ids must be from 0 to {engine.vocab_size - 1}", name)
    build = partial(
        SamplingParams,
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
        min_p=request.min_p,
        min_tokens=request.min_tokens,
        allowed_token_ids=request.allowed_token_ids,
        expert_counts=request.return_expert_counts,
    )
    return _explained(build)


def _check_size(engine: InferenceEngine, characters: int, param: str) -> None:
    """Reject texts that cannot fit under any tokenisation; encoding a large text would take seconds."""
    least = -(-characters // engine.tokenizer.longest_token)
    if least > engine.max_length:
        raise _too_long(f"the prompt has at least {least} tokens", engine, param)


def _check(engine: InferenceEngine, ids: Sequence[int], new_tokens: int, param: str) -> None:
    if len(ids) + new_tokens > engine.max_length:
        raise _too_long(f"the prompt has {len(ids)} tokens and {new_tokens} were requested", engine, param)
    _explained(lambda: engine.check_prompt(ids, new_tokens), param)


def _too_long(what: str, engine: InferenceEngine, param: str) -> ApiError:
    return invalid(f"{what}, the context holds {engine.max_length} in all", param, code="context_length_exceeded")


def _explained(function: Callable[[], T], param: str | None = None) -> T:
    """Run `function` and convert its InputError to a 400 about the field that the error names, otherwise `param`."""
    try:
        return function()
    except InputError as error:
        field = error.where or param
        raise invalid(f"{field}: {error.what}" if error.where else error.what, field) from None
