"""Tools: what is offered, and that constrained answers are calls that satisfy the schemas."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
import torch

from longcat.pipeline.errors import InputError
from longcat.stages.inference.answers import AnswerParser
from longcat.stages.inference.detokenize import TextStream
from longcat.stages.inference.grammar_spec import GrammarSpec, schema_spec
from longcat.stages.inference.logit_terms import unpack_mask
from longcat.stages.inference.structured import GrammarCompiler
from longcat.stages.inference.tokenizer import EngineTokenizer
from longcat.stages.inference.tools import ToolPlan, tool_plan

END = 2


def tool(name: str, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, **fields}}


WEATHER = tool(
    "weather",
    {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "days"],
        "additionalProperties": False,
        "$defs": {"city": {"enum": ["Zürich", "日本", 'a"b']}},
    },
)
NOW = tool("now")


@pytest.fixture(scope="module")
def compiler(tokenizer: EngineTokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, [END])


def answers(compiler: GrammarCompiler, tokenizer: EngineTokenizer, plan: ToolPlan, count: int = 50) -> list[list[Any]]:
    """Parts of random answers, as (kind, name or text); thoughts and texts end early."""
    assert plan.grammar is not None
    grammar = compiler.compile(plan.grammar)
    result = []
    words_W = torch.zeros(-(-tokenizer.vocab_size // 32), dtype=torch.int32)
    for seed in range(count):
        rng, matcher = random.Random(seed), grammar.matcher()
        parser = AnswerParser(thinking=plan.grammar.thinking, calls=plan.calls, stream=False)
        stream = TextStream(tokenizer.marked_bytes)
        parts = []
        while True:
            matcher.mask(words_W)
            tokens = [int(token) for token in unpack_mask(words_W.unsqueeze(0), tokenizer.vocab_size)[0].nonzero()]
            tags = [token for token in tokens if token in tokenizer.added_ids]
            token = rng.choice(tags if tags and rng.random() < 0.4 else tokens)
            matcher.accept(token)
            if token == END:
                break
            parts += parser.push(stream.push(token))
        parts += parser.push(stream.finish()) + parser.finish()
        result.append([(part.kind, part.name or part.text) for part in parts if part.kind != "tag"])
    return result


def check(name: str, arguments: str) -> None:
    value = json.loads(arguments)
    if name == "now":
        assert value == {}
    else:
        assert name == "weather"
        assert value.keys() == {"city", "days"}
        assert value["city"] in ("Zürich", "日本", 'a"b')
        assert 1 <= value["days"] <= 9


@pytest.mark.parametrize("parallel", [True, False])
def test_fifty_of_fifty_required_answers_are_valid_calls(
    compiler: GrammarCompiler, tokenizer: EngineTokenizer, parallel: bool
) -> None:
    found = answers(compiler, tokenizer, tool_plan([WEATHER, NOW], "required", parallel=parallel))
    assert {name for parts in found for kind, name in parts if kind == "call"} == {"weather", "now"}
    assert {len(parts) > 2 for parts in found} == ({True, False} if parallel else {False})
    for parts in found:
        assert [kind for kind, _ in parts] == ["call", "arguments"] * (len(parts) // 2)
        for (_, name), (_, arguments) in zip(parts[::2], parts[1::2], strict=True):
            check(name, arguments)


def test_a_named_function_is_the_only_one_called(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    choice = {"type": "function", "function": {"name": "weather"}}
    plan = tool_plan([WEATHER, NOW], choice)
    assert plan.offered == [WEATHER, NOW]
    found = answers(compiler, tokenizer, plan, 20)
    assert {name for parts in found for kind, name in parts if kind == "call"} == {"weather"}


def test_a_thought_may_come_before_required_calls(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    for parts in answers(compiler, tokenizer, tool_plan([NOW], "required", thinking=True), 20):
        kinds = [kind for kind, text in parts if text.strip()]
        assert kinds[-2:] == ["call", "arguments"]
        assert set(kinds) <= {"reasoning", "call", "arguments"}


def test_auto_constrains_strict_functions_only(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    assert tool_plan([WEATHER, NOW]) == tool_plan([WEATHER, NOW], "auto") == ToolPlan([WEATHER, NOW], None, True)
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    found = answers(compiler, tokenizer, tool_plan([strict, NOW], "auto"))
    kinds = {kind for parts in found for kind, _ in parts}
    assert kinds == {"content", "call", "arguments"}
    for parts in found:
        for (kind, name), (_, arguments) in pairwise(parts):
            if kind == "call":
                check(name, arguments)


def test_auto_without_parallel_calls_makes_at_most_one(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    found = answers(compiler, tokenizer, tool_plan([WEATHER, NOW], "auto", parallel=False))
    assert {sum(kind == "call" for kind, _ in parts) for parts in found} == {0, 1}


def test_calls_or_an_answer_that_satisfies_the_response_format(
    compiler: GrammarCompiler, tokenizer: EngineTokenizer
) -> None:
    answer = schema_spec(
        {"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"], "additionalProperties": False}
    )
    found = answers(compiler, tokenizer, tool_plan([WEATHER], answer=answer))
    assert {parts[0][0] for parts in found} == {"content", "call"}
    for parts in found:
        if parts[0][0] == "content":
            assert json.loads("".join(text for _, text in parts)) == {"x": 1}


def test_none_offers_nothing_and_keeps_the_response_format() -> None:
    answer = GrammarSpec("json_object")
    assert tool_plan([WEATHER], "none") == tool_plan(None) == tool_plan([], "auto") == ToolPlan()
    assert tool_plan([WEATHER], "none", answer=answer).grammar == answer
    assert tool_plan(None, thinking=True, answer=answer).grammar == GrammarSpec("json_object", thinking=True)


BAD: list[tuple[Any, Any, str]] = [
    ("x", None, "tools: is not a list"),
    ([NOW] * 129, None, "tools: is not a list of at most 128"),
    ([{"type": "web_search"}], None, r"tools\[0\]: is not"),
    ([NOW, tool("a b")], None, r"tools\[1\].function.name: is not 1 to 64"),
    ([tool("a", [1])], None, r"tools\[0\].function.parameters: is not a JSON object"),
    ([NOW, NOW], None, "the same name"),
    ([], "required", "tool_choice: needs tools"),
    ([NOW], "any", "tool_choice: is not none"),
    ([NOW], {"type": "function", "function": {"name": "then"}}, "tool_choice.function.name: 'then'"),
    ([NOW], {"type": "allowed_tools"}, "tool_choice: is not none"),
]


@pytest.mark.parametrize(("tools", "choice", "message"), BAD)
def test_what_is_not_valid_is_named(tools: Any, choice: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tool_plan(tools, choice)


def test_a_schema_that_is_not_supported_names_the_tools(compiler: GrammarCompiler) -> None:
    plan = tool_plan([tool("f", {"type": "nothing"})], "required")
    assert plan.grammar is not None
    with pytest.raises(InputError, match=r"tools: not a supported grammar.*Invalid type"):
        compiler.compile(plan.grammar)


def test_other_grammars_beside_tools_are_refused() -> None:
    with pytest.raises(InputError, match=r"structured_outputs.regex: cannot be combined with tools"):
        tool_plan([NOW], answer=GrammarSpec("regex", "a", field="structured_outputs.regex"))


def test_the_template_puts_calls_back_as_they_were_written(tokenizer: EngineTokenizer) -> None:
    question = [{"role": "user", "content": "a"}]
    prompt = tokenizer.encode_chat(question, [NOW])
    written = 'So:<longcat_tool_call>\n{"name": "now", "arguments": {"x":[1, "ü"]}}\n</longcat_tool_call>'
    ids = tokenizer.encode(written, parse_special=True)
    stream, parser = TextStream(tokenizer.marked_bytes), AnswerParser()
    parts = [part for token in ids for part in parser.push(stream.push(token))] + parser.finish()
    content = "".join(part.text for part in parts if part.kind == "content")
    arguments = "".join(part.text for part in parts if part.kind == "arguments")
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": arguments}}
    turns = [
        *question,
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12:00"},
    ]
    after = tokenizer.encode_chat(turns, [NOW])
    assert after[: len(prompt) + len(ids)] == prompt + ids
    assert tokenizer.literal_text(after[len(prompt) + len(ids) :]) == "</longcat_s> TOOL:12:00 ASSISTANT:"
