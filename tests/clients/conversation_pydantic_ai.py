"""Two turns, streamed and not, a tool and a schema, by pydantic-ai. Arguments: the address of the API."""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

called: list[Any] = []


class City(BaseModel):
    """A city."""

    name: str


def weather(city: str) -> str:
    """The weather now."""
    called.append(["weather", {"city": city}])
    return f"rain in {city}"


async def main() -> None:
    model = OpenAIChatModel("tiny", provider=OpenAIProvider(base_url=sys.argv[1], api_key="unused"))
    agent = Agent(model)
    history: list[Any] = []
    turns, streamed = [], []
    for _ in range(2):
        result = await agent.run("Hi", message_history=history)
        turns.append(result.output)
        history = result.all_messages()
    for _ in range(2):
        async with agent.run_stream("More", message_history=history) as stream:
            streamed.append(await stream.get_output())
            history = stream.all_messages()
    after = (await Agent(model, tools=[weather]).run("Weather?")).output
    city = (await Agent(model, output_type=NativeOutput(City)).run("Which?")).output
    found = {"turns": turns, "streamed": streamed, "call": called[0], "after": after}
    print(json.dumps({**found, "city": city.name, "version": version("pydantic-ai-slim")}))


asyncio.run(main())
