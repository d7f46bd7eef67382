"""`POST /tokenize` and `POST /detokenize`, in the form that vLLM gave them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, model_validator

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve.auth import key_check
from longcat.stages.serve.body import read_request
from longcat.stages.serve.errors import invalid
from longcat.stages.serve.fields import TokenId, valid_text
from longcat.stages.serve.generation_request import chat_ids, text_ids
from longcat.stages.serve.messages import Messages
from longcat.stages.serve.openapi import described
from longcat.stages.serve.protocol import Body
from longcat.stages.serve.service import Service


def _one_of_two(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [
        {"required": [name], "properties": {name: {"not": {"type": "null"}}, other: {"type": "null"}}}
        for name, other in (("prompt", "messages"), ("messages", "prompt"))
    ]


class TokenizeRequest(Body):
    """A text, or the messages of a chat."""

    model_config = ConfigDict(json_schema_extra=_one_of_two)

    model: str | None = Field(None, max_length=256)
    prompt: Annotated[str, AfterValidator(lambda text: valid_text(text, "a prompt"))] | None = None
    messages: Messages = Field(default_factory=list)
    parse_special: bool = True
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> TokenizeRequest:
        if (self.prompt is None) == (not self.messages):
            raise ValueError("pass a prompt or messages, and not both")
        return self


class DetokenizeRequest(Body):
    """Ids of tokens."""

    model: str | None = Field(None, max_length=256)
    tokens: Annotated[list[TokenId], FailFast()]


class Tokens(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Text(BaseModel):
    prompt: str


def token_routes(service: Service) -> APIRouter:
    """The routes; they need a key like those below `/v1`."""
    router = APIRouter(dependencies=[Depends(key_check(service.settings.api_keys))])

    @router.post("/tokenize", **described(body=TokenizeRequest))
    async def tokenize(request: Request) -> Tokens:
        """Ids of a text or of a chat's prompt."""
        service.check_ready()
        body = await read_request(request, TokenizeRequest, service.settings, service.check_model)
        engine = service.engine
        ids = await service.off_loop(_ids, engine, body, template=bool(body.messages))
        names = [engine.tokenizer.token_name(token) for token in ids] if body.return_token_strs else None
        return Tokens(count=len(ids), max_model_len=engine.max_length, tokens=ids, token_strs=names)

    @router.post("/detokenize", **described(body=DetokenizeRequest))
    async def detokenize(request: Request) -> Text:
        """Text of ids, with special tokens as text."""
        service.check_ready()
        body = await read_request(request, DetokenizeRequest, service.settings, service.check_model)
        engine = service.engine
        if body.tokens and max(body.tokens) >= engine.vocab_size:
            raise invalid(f"token ids must be from 0 to {engine.vocab_size - 1}", "tokens")
        text = await service.off_loop(engine.tokenizer.literal_text, body.tokens, template=False)
        return Text(prompt=text)

    return router


def _ids(engine: InferenceEngine, body: TokenizeRequest) -> list[int]:
    if body.messages:
        return chat_ids(engine, body.messages, add_generation_prompt=body.add_generation_prompt)
    return text_ids(engine, body.prompt or "", parse_special=body.parse_special, add_special=body.add_special_tokens)
