"""What the OpenAPI page says of a route: its body, every status, the forms of its answer, and the key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from longcat.stages.serve.fields import ID_FORMAT

BEARER = "bearer"
SCHEMES = {BEARER: {"type": "http", "scheme": "bearer", "description": "One of the server's API keys."}}
REASONS = {
    400: "The request is not valid.",
    401: "A valid key is required.",
    403: "The Host header names another server.",
    404: "There is no such model.",
    408: "The request arrived too slowly.",
    409: "The server cannot do this now.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "The queue is full.",
    500: "The server failed.",
    501: "A library that this needs is not installed.",
    503: "The server is starting or ending, or has too many connections.",
    504: "The request took longer than the time limit.",
}
# Of any request, and of those with a body.
ALWAYS = (400, 403, 408, 500, 503)
WITH_BODY = (404, 413, 415)
GENERATION = (429, 501, 504)
ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
# Of one event; its data are JSON, or [DONE] at the end of completions and chats.
EVENT_SCHEMA = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}


def described(
    *statuses: int, body: type[BaseModel] | None = None, streams: bool = False, keyed: bool = False
) -> dict[str, Any]:
    """Arguments of a FastAPI route: the errors `statuses` besides those of any route, and the rest of its description.

    A route with a body needs a key; bodies are read by `read_request`, which limits their size. `streams` adds
    server-sent events and the errors of a generation.
    """
    keyed = keyed or body is not None
    known = {*ALWAYS, *statuses, *(WITH_BODY if body else ()), *(GENERATION if streams else ())}
    known |= {401} if keyed else set()
    extra: dict[str, Any] = {}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": _schema_of(body)}}}
    if keyed:
        extra["security"] = [{BEARER: []}]
    responses: dict[int, dict[str, Any]] = {status: _error(status) for status in sorted(known)}
    if streams:
        responses[200] = {"content": {"text/event-stream": {"schema": EVENT_SCHEMA}}}
    return {"responses": responses, "openapi_extra": extra}


def _error(status: int) -> dict[str, Any]:
    return {"description": REASONS[status], "content": {"application/json": {"schema": ERROR_SCHEMA}}}


def complete(page: dict[str, Any], *, keyed: bool, vocabulary: int) -> dict[str, Any]:
    """The page that FastAPI has made, with the security scheme and without the 422 that no route answers.

    `keyed`: whether the server has keys. `vocabulary`: number of token ids.
    """
    _limit_ids(page, vocabulary)
    page.setdefault("components", {})["securitySchemes"] = SCHEMES
    for routes in page["paths"].values():
        for route in routes.values():
            route["responses"].pop("422", None)
            if not keyed:
                # Without keys every request is accepted, with or without one.
                route.pop("security", None)
                route["responses"].pop("401", None)
    for name in ("HTTPValidationError", "ValidationError"):
        page["components"].get("schemas", {}).pop(name, None)
    return page


def _limit_ids(node: Any, vocabulary: int) -> None:
    if isinstance(node, dict):
        if node.get("format") == ID_FORMAT:
            del node["format"]
            node["maximum"] = vocabulary - 1
        for value in list(node.values()):
            _limit_ids(value, vocabulary)
    elif isinstance(node, list):
        for value in node:
            _limit_ids(value, vocabulary)


def _schema_of(kind: type[BaseModel]) -> dict[str, Any]:
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    return {key: _inline(value, definitions) for key, value in _with_nulls(schema).items()}


def _with_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    """An object's schema in which a null means that a field is absent, also one that does not exist."""
    if "properties" not in schema:
        return schema
    required = schema.get("required", [])
    properties = {
        name: field if name in required else {"anyOf": [field, {"type": "null"}]}
        for name, field in schema["properties"].items()
    }
    others = schema.get("additionalProperties", True)
    return {**schema, "properties": properties, "additionalProperties": others or {"type": "null"}}


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(_with_nulls(definitions[node["$ref"].rpartition("/")[2]]), definitions)
    return {key: _inline(value, definitions) for key, value in node.items()}
