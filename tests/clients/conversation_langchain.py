"""Two turns, streamed and not, a tool and a schema, by LangChain. Arguments: the address of the API."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class City(BaseModel):
    """A city."""

    name: str


@tool
def weather(city: str) -> str:
    """The weather now."""
    return f"rain in {city}"


def main() -> None:
    chat = ChatOpenAI(model="tiny", base_url=sys.argv[1], api_key="unused", max_retries=0)
    messages: list[Any] = [HumanMessage("Hi")]
    turns = []
    for _ in range(2):
        messages.append(chat.invoke(messages))
        turns.append(messages[-1].content)
        messages.append(HumanMessage("More"))
    streamed = []
    for _ in range(2):
        whole: Any = None
        for chunk in chat.stream(messages):
            whole = chunk if whole is None else whole + chunk
        streamed.append(whole.content)
        messages += [whole, HumanMessage("More")]
    asked: list[Any] = [HumanMessage("Weather?")]
    with_tool = chat.bind_tools([weather])
    asked.append(with_tool.invoke(asked))
    (call,) = asked[-1].tool_calls
    asked.append(ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]))
    after = with_tool.invoke(asked).content
    city: Any = chat.with_structured_output(City, method="json_schema").invoke("Which?")
    found = {"turns": turns, "streamed": streamed, "call": [call["name"], call["args"]], "after": after}
    print(json.dumps({**found, "city": city.name, "version": version("langchain-openai")}))


main()
