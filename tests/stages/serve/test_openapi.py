"""The OpenAPI page says what happens; schemathesis compares them in tests/clients."""

from __future__ import annotations

from typing import Any

import httpx

from longcat.stages.inference.engine import InferenceEngine


def test_every_status_is_listed(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    chat = paths["/v1/chat/completions"]["post"]
    known = {"200", "400", "403", "404", "408", "413", "415", "429", "500", "501", "503", "504"}
    assert chat["responses"].keys() == known
    assert chat["responses"]["200"]["content"].keys() == {"application/json", "text/event-stream"}
    for routes in paths.values():
        for route in routes.values():
            assert "422" not in route["responses"]
            assert {"400", "403", "408", "500", "503"} <= route["responses"].keys()


def test_a_key_is_described_where_it_is_needed(client: httpx.Client, serve: Any, engine: InferenceEngine) -> None:
    page = serve(engine, api_keys=("k",)).client().get("/openapi.json").json()
    assert page["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    keyed = {path for path, routes in page["paths"].items() for route in routes.values() if "security" in route}
    assert keyed == {path for path in page["paths"] if path.startswith("/v1") or path.endswith("tokenize")}
    assert all("401" in route["responses"] for path in keyed for route in page["paths"][path].values())
    assert "401" not in client.get("/openapi.json").text


def test_ids_end_with_the_vocabulary(client: httpx.Client) -> None:
    text = client.get("/openapi.json").text
    assert '"maximum":319' in text
    assert "token-id" not in text
