"""Tools of a chat request: what the prompt offers, and what the answer may look like."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.inference.grammar_spec import GrammarSpec, schema_text

MAX_TOOLS = 128
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
# A function without parameters takes none (OpenAI API).
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ToolPlan:
    """Tools for the chat template, the grammar of the answer, and whether tool calls are looked for in it."""

    offered: list[dict[str, Any]] | None = None
    grammar: GrammarSpec | None = None
    calls: bool = False


def tool_plan(
    tools: Sequence[Any] | None,
    tool_choice: Any = None,
    *,
    parallel: bool = True,
    thinking: bool = False,
    answer: GrammarSpec | None = None,
) -> ToolPlan:
    """The plan for OpenAI's `tools` and `tool_choice`, with `answer` as the grammar of answers in text.

    none: no tool is offered. auto: text or calls, constrained if there is an `answer`, a function is `strict`, or not
    `parallel`. required or a named function: one or more calls, or one if not `parallel`, whose arguments satisfy the
    schemas. `thinking`: the prompt ends inside a thought, after which the grammar begins.

    Raises:
        InputError: names the invalid field.
    """
    functions = [_function(tool, f"tools[{number}]") for number, tool in enumerate(_listed(tools))]
    names = [function["name"] for function in functions]
    if len(set(names)) < len(names):
        raise InputError("two functions have the same name", where="tools")
    mode, name = _choice(tool_choice, names)
    if mode == "none":
        return ToolPlan(None, _after_thought(answer, thinking))
    chosen = [function for function in functions if name in (None, function["name"])]
    grammar: GrammarSpec | None = None
    if mode == "required":
        grammar = _rules(chosen, parallel)
    elif answer is not None:
        grammar = _rules(chosen, parallel, answer=_schema(answer))
    elif any(function["strict"] for function in chosen) or not parallel:
        grammar = _rules(chosen, parallel, free=True)
    return ToolPlan([dict(tool) for tool in _listed(tools)], _after_thought(grammar, thinking), calls=True)


def _rules(
    functions: Sequence[Mapping[str, Any]], parallel: bool, *, free: bool = False, answer: Any = None
) -> GrammarSpec:
    calls = [{"name": function["name"], "parameters": function["parameters"]} for function in functions]
    rules = {"functions": calls, "several": parallel, "free": free, "answer": answer}
    return GrammarSpec("tools", json.dumps(rules, ensure_ascii=False), field="tools")


def _schema(answer: GrammarSpec) -> Any:
    """The schema of an answer that stands beside tool calls."""
    if answer.kind not in ("json_object", "json_schema"):
        raise InputError("cannot be combined with tools unless tool_choice is none", where=answer.field)
    return json.loads(answer.text or '{"type": "object"}')


def _after_thought(grammar: GrammarSpec | None, thinking: bool) -> GrammarSpec | None:
    return replace(grammar, thinking=True) if grammar is not None and thinking else grammar


def _listed(tools: Any) -> Sequence[Any]:
    if tools is None:
        return []
    if not isinstance(tools, (list, tuple)) or len(tools) > MAX_TOOLS:
        raise InputError(f"is not a list of at most {MAX_TOOLS} tools", where="tools")
    return tools


def _function(tool: Any, where: str) -> dict[str, Any]:
    """Name, schema and strictness of a tool."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise InputError('is not {"type": "function", "function": {...}}', where=where)
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError("is not 1 to 64 letters, digits, _ or -", where=f"{where}.function.name")
    parameters = function.get("parameters")
    parameters = NO_PARAMETERS if parameters is None else parameters
    schema_text(parameters, f"{where}.function.parameters")
    return {"name": name, "parameters": parameters, "strict": function.get("strict") is True}


def _choice(choice: Any, names: Sequence[str]) -> tuple[str, str | None]:
    """Mode and name of OpenAI's `tool_choice`."""
    if choice is None:
        return ("auto" if names else "none"), None
    if choice == "none" or (choice == "auto" and not names):
        return "none", None
    if choice in ("auto", "required"):
        if not names:
            raise InputError("needs tools", where="tool_choice")
        return choice, None
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name is None:
        raise InputError("is not none, auto, required or a named function", where="tool_choice")
    if name not in names:
        raise InputError(f"{str(name)[:64]!r} is not among the tools", where="tool_choice.function.name")
    return "required", name
