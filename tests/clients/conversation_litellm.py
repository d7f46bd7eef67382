"""Two turns, streamed and not, a tool and a schema, by litellm. Arguments: the address of the API."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

import litellm
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class City(BaseModel):
    """A city."""

    name: str


def ask(messages: list[Any], **fields: Any) -> Any:
    return litellm.completion(
        model="openai/tiny", api_base=sys.argv[1], api_key="unused", messages=messages, num_retries=0, **fields
    )


def main() -> None:
    messages: list[Any] = [{"role": "user", "content": "Hi"}]
    turns = []
    for _ in range(2):
        messages.append(ask(messages).choices[0].message)
        turns.append(messages[-1].content)
        messages.append({"role": "user", "content": "More"})
    streamed = []
    for _ in range(2):
        chunks = list(ask(messages, stream=True, stream_options={"include_usage": True}))
        message = litellm.stream_chunk_builder(chunks, messages=messages).choices[0].message
        streamed.append(message.content)
        messages += [message.model_dump(), {"role": "user", "content": "More"}]
    asked: list[Any] = [{"role": "user", "content": "Weather?"}]
    asked.append(ask(asked, tools=[TOOL]).choices[0].message)
    (call,) = asked[-1].tool_calls
    asked.append({"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "rain"})
    after = ask(asked, tools=[TOOL]).choices[0].message.content
    city = City.model_validate_json(ask([messages[0]], response_format=City).choices[0].message.content)
    arguments = json.loads(call.function.arguments)
    found = {"turns": turns, "streamed": streamed, "call": [call.function.name, arguments], "after": after}
    print(json.dumps({**found, "city": city.name, "version": version("litellm")}))


main()
