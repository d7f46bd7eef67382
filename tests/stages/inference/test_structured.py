"""Grammars: random walks satisfy them, and a bad one harms nothing."""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from longcat.pipeline.errors import InputError, MachineError, UsageError
from longcat.stages.inference.grammar_spec import (
    MAX_BYTES,
    GrammarSpec,
    choice_spec,
    response_format_spec,
    schema_spec,
    structured_outputs_spec,
)
from longcat.stages.inference.logit_terms import unpack_mask
from longcat.stages.inference.structured import CompileLimits, GrammarCompiler, GrammarMatcher
from longcat.stages.inference.tokenizer import EngineTokenizer

END, OTHER_END = 2, 8
# Rows of the embedding beyond the tokenizer.
PADDED = 448


@pytest.fixture(scope="module")
def compiler(tokenizer: EngineTokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, [END, OTHER_END])


def allowed(matcher: GrammarMatcher) -> list[int]:
    words_W = torch.full((PADDED // 32,), -1, dtype=torch.int32)
    matcher.mask(words_W)
    return [int(token) for token in unpack_mask(words_W.unsqueeze(0), PADDED)[0].nonzero()]


def walk(matcher: GrammarMatcher, rng: random.Random, most: int = 4000) -> list[int]:
    """Random allowed tokens until an end token; ends as soon as it may in one of three cases."""
    ids: list[int] = []
    for _ in range(most):
        tokens = allowed(matcher)
        ends = [token for token in tokens if token in (END, OTHER_END)]
        token = rng.choice(ends if ends and rng.random() < 0.3 else tokens)
        matcher.accept(token)
        if token in (END, OTHER_END):
            return ids
        ids.append(token)
    raise AssertionError("the walk does not end")


def satisfies(value: Any, schema: Any) -> bool:
    """JSON schema, the keywords used here."""
    if "enum" in schema:
        return value in schema["enum"]
    if "anyOf" in schema:
        return any(satisfies(value, option) for option in schema["anyOf"])
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        extra = set(value) - set(properties)
        return (
            isinstance(value, dict)
            and set(schema.get("required", ())) <= set(value)
            and not (extra and schema.get("additionalProperties") is False)
            and all(satisfies(item, properties[name]) for name, item in value.items() if name in properties)
        )
    if kind == "array":
        few, many = schema.get("minItems", 0), schema.get("maxItems", sys.maxsize)
        return (
            isinstance(value, list) and few <= len(value) <= many and all(satisfies(v, schema["items"]) for v in value)
        )
    if kind == "string":
        return isinstance(value, str) and re.search(schema.get("pattern", ""), value) is not None
    if kind == "integer":
        low, high = schema.get("minimum", -(10**30)), schema.get("maximum", 10**30)
        return type(value) is int and low <= value <= high
    kinds = {"number": (int, float), "boolean": bool, "null": type(None), None: object}
    return isinstance(value, kinds[kind])


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z日ü][a-z]{1,5}$"},
        "größe": {"type": "integer", "minimum": 3, "maximum": 250},
        "tags": {"type": "array", "items": {"enum": ['a"b', "日本", "🙂", 1, None, "</longcat_s>"]}, "maxItems": 4},
    },
    "required": ["name", "größe", "tags"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "person": PERSON,
    "nested arrays": {
        "type": "array",
        "minItems": 1,
        "maxItems": 3,
        "items": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
            "maxItems": 3,
        },
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": PERSON},
        "additionalProperties": False,
    },
    "union": {"anyOf": [{"type": "string"}, {"type": "null"}, PERSON]},
    "numbers": {"type": "array", "items": {"type": "number"}, "maxItems": 5},
    "anything": {},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_fifty_of_fifty_random_walks_satisfy_the_schema(
    compiler: GrammarCompiler, tokenizer: EngineTokenizer, name: str
) -> None:
    grammar = compiler.compile(schema_spec(SCHEMAS[name]))
    for seed in range(50):
        text = tokenizer.literal_text(walk(grammar.matcher(), random.Random(seed)))
        assert satisfies(json.loads(text), SCHEMAS[name]), text


def test_fifty_random_walks_are_json_objects(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    grammar = compiler.compile(GrammarSpec("json_object"))
    for seed in range(50):
        ids = walk(grammar.matcher(), random.Random(seed))
        assert not tokenizer.added_ids & set(ids)
        assert isinstance(json.loads(tokenizer.literal_text(ids)), dict)


def test_blanks_are_at_most_one_after_a_separator(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    matcher = compiler.compile(GrammarSpec("json_object")).matcher()
    for text, valid in [('{"a": 1, "b":2}', True), ('{ "a":1}', False), ('{"a":  1}', False), ('{\n"a":1}', False)]:
        assert (matcher.valid_prefix(tokenizer.encode(text)) == len(tokenizer.encode(text))) == valid


@pytest.mark.parametrize("choices", [["a b\n/c", "日本", r"a|b\n", "a", "</longcat_s>", '"', "[x]{2}"]])
def test_choices_are_texts_not_patterns(
    compiler: GrammarCompiler, tokenizer: EngineTokenizer, choices: list[str]
) -> None:
    grammar = compiler.compile(choice_spec(choices))
    found = {tokenizer.literal_text(walk(grammar.matcher(), random.Random(seed))) for seed in range(200)}
    assert found == set(choices)


@pytest.mark.parametrize("pattern", ["[a-c/]{2,4}[0-9]/\\/x", "(yes|no)\n?", "日+", r"\\/", "x*"])
def test_regular_expressions(compiler: GrammarCompiler, tokenizer: EngineTokenizer, pattern: str) -> None:
    grammar = compiler.compile(structured_outputs_spec({"regex": pattern}))
    for seed in range(20):
        text = tokenizer.literal_text(walk(grammar.matcher(), random.Random(seed)))
        assert re.fullmatch(pattern, text), text


def test_lark_grammars(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    grammar = compiler.compile(structured_outputs_spec({"grammar": 'start: "a" start "b" | "c"'}))
    for seed in range(20):
        text = tokenizer.literal_text(walk(grammar.matcher(), random.Random(seed)))
        assert text == "a" * (len(text) // 2) + "c" + "b" * (len(text) // 2)


def test_a_thought_comes_before_the_answer(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    matcher = compiler.compile(GrammarSpec("regex", "yes", thinking=True)).matcher()
    for token in tokenizer.encode('so {"x": ]] hm\n'):
        matcher.accept(token)
    assert not {END, *tokenizer.special_ids} & set(allowed(matcher))
    matcher.accept(7)  # </longcat_think>
    for token in tokenizer.encode("\nyes"):
        matcher.accept(token)
    assert allowed(matcher) == [END, OTHER_END]


def test_accept_prefix_rollback_and_end(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    matcher = compiler.compile(GrammarSpec("regex", "ab?")).matcher()
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    tries = [[a, b, END], [a, END], [a, END, END], [b], []]
    assert [matcher.valid_prefix(tokens) for tokens in tries] == [3, 2, 2, 0, 0]
    matcher.accept(a)
    assert not matcher.finished
    matcher.accept(END)
    assert matcher.finished
    assert matcher.valid_prefix([END]) == 0
    matcher.rollback(1)
    assert not matcher.finished
    matcher.accept(b)
    assert matcher.finished
    assert allowed(matcher) == [END, OTHER_END]
    matcher.accept(OTHER_END)
    assert matcher.valid_prefix([END]) == 0
    matcher.rollback(3)
    assert matcher.valid_prefix([a, b, END]) == 3
    with pytest.raises(ValueError, match="only 0"):
        matcher.rollback(1)


def test_a_token_that_is_not_allowed_changes_nothing(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    matcher = compiler.compile(GrammarSpec("regex", "ab")).matcher()
    before = allowed(matcher)
    for token in (END, *tokenizer.encode("b"), 4, PADDED - 1):
        with pytest.raises(InputError, match="does not allow"):
            matcher.accept(token)
    assert allowed(matcher) == before


def test_matchers_of_a_grammar_are_independent(compiler: GrammarCompiler, tokenizer: EngineTokenizer) -> None:
    grammar = compiler.compile(GrammarSpec("regex", "ab"))
    first, second = grammar.matcher(), grammar.matcher()
    first.accept(tokenizer.encode("a")[0])
    assert allowed(first) != allowed(second)


BAD: dict[str, Callable[[], GrammarSpec]] = {
    "response_format.type": lambda: response_format_spec({"type": "xml"}) or GrammarSpec("json_object"),
    "response_format.json_schema": lambda: response_format_spec({"type": "json_schema"}) or GrammarSpec("json_object"),
    "response_format.json_schema.schema.*JSON object": lambda: schema_spec([1]),
    "x-guidance": lambda: schema_spec({"x-guidance": {"lenient": True}}),
    "nested more than 64": lambda: schema_spec(json.loads('{"items":' * 100 + "{}" + "}" * 100)),
    "at most 131072": lambda: schema_spec({"enum": ["x" * MAX_BYTES]}),
    "Invalid type": lambda: schema_spec({"type": "strin"}),
    "uniqueItems": lambda: schema_spec({"type": "array", "uniqueItems": True}),
    "Resource": lambda: schema_spec({"$ref": "file:///etc/passwd"}),
    "structured_outputs.choice": lambda: structured_outputs_spec({"choice": []}),
    "structured_outputs.choice.*none of them empty": lambda: structured_outputs_spec({"choice": [""]}),
    "structured_outputs.regex": lambda: structured_outputs_spec({"regex": "(["}),
    "structured_outputs.regex.*empty": lambda: structured_outputs_spec({"regex": ""}),
    "structured_outputs.regex.*surrogate": lambda: structured_outputs_spec({"regex": "\ud800"}),
    "structured_outputs.grammar": lambda: structured_outputs_spec({"grammar": "start: <nothing>"}),
    "structured_outputs.json.*not JSON": lambda: structured_outputs_spec({"json": "{"}),
    "exactly one": lambda: structured_outputs_spec({"regex": "a", "choice": ["a"]}),
    "exactly one of": lambda: structured_outputs_spec({"structural_tag": "a"}),
    "%llguidance is not supported": lambda: structured_outputs_spec({"grammar": 'start: "a"\n%llguidance {}'}),
    "regex.*more than 4096": lambda: structured_outputs_spec({"regex": "(a|b){4097}"}),
    "schema.*more than 4096": lambda: schema_spec({"type": "string", "pattern": f"a{{1,{'9' * 5000}}}"}),
    "grammar.*more than 4096": lambda: structured_outputs_spec({"grammar": 'start: "a" ~ 1 .. 5000'}),
    # Chains of rules and references overflow an ordinary stack, and pathological patterns take long.
    "too deeply nested": lambda: GrammarSpec("grammar", "start: " + "(" * 20000 + '"a"' + ")" * 20000),
    "empty": lambda: schema_spec({"allOf": [{"type": "string", "pattern": f".*{c}.*"} for c in "abcdefghijklm"]}),
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_grammar_is_named_and_harms_no_later_one(
    compiler: GrammarCompiler, tokenizer: EngineTokenizer, message: str
) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        compiler.compile(BAD[message]())
    matcher = compiler.compile(GrammarSpec("json_object")).matcher()
    assert tokenizer.literal_text(walk(matcher, random.Random(1))).startswith("{")


def long_chain_of_references(levels: int) -> dict[str, Any]:
    chain = {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": {**chain, f"d{levels}": {}}}


@pytest.mark.parametrize(
    "spec",
    [
        schema_spec(long_chain_of_references(2500)),
        GrammarSpec("grammar", "start: r0\n" + "\n".join(f"r{n}: r{n + 1}?" for n in range(7000)) + '\nr7000: "a"'),
    ],
    ids=["references", "rules"],
)
def test_chains_that_overflow_an_ordinary_stack_compile(compiler: GrammarCompiler, spec: GrammarSpec) -> None:
    assert allowed(compiler.compile(spec).matcher())


@pytest.mark.timeout(60)
def test_a_grammar_that_forces_a_byte_without_end_has_masks(
    compiler: GrammarCompiler, tokenizer: EngineTokenizer
) -> None:
    matcher = compiler.compile(GrammarSpec("grammar", "start: A B\nA: /a+/\nB: /a+/")).matcher()
    (a,) = tokenizer.encode("a")
    for _ in range(5):
        assert allowed(matcher) == [a]
        matcher.accept(a)


def test_a_text_beyond_the_budgets_allows_nothing_more_and_the_grammar_is_compiled_anew(
    compiler: GrammarCompiler, tokenizer: EngineTokenizer
) -> None:
    spec = GrammarSpec("regex", "((a|bc){0,4000}|.{3,4000}){2,4000}b")
    grammar = compiler.compile(spec)
    matcher = grammar.matcher()
    rng = random.Random(0)
    for _ in range(300):
        tokens = [token for token in allowed(matcher) if token != OTHER_END]
        if not tokens:
            break
        matcher.accept(rng.choice(tokens))
    assert grammar.exhausted
    assert not matcher.finished
    assert matcher.valid_prefix(tokenizer.encode("a")) == 0
    matcher.accept(5)  # changes nothing any more
    matcher.rollback(1)
    assert not allowed(matcher)
    assert compiler.compile(spec) is not grammar
    assert allowed(compiler.compile(spec).matcher())


def test_the_cache_is_bounded_by_count_and_bytes(tokenizer: EngineTokenizer) -> None:
    def spec(number: int) -> GrammarSpec:
        return schema_spec({"type": "object", "properties": {f"p{number}": {"type": "integer"}}})

    compiler = GrammarCompiler(tokenizer, [END], CompileLimits(grammars=8))
    first = compiler.compile(spec(0))
    assert compiler.compile(spec(0)) is first
    for number in range(1000):
        compiler.compile(spec(number))
        compiler.compile(spec(999_999))
        assert len(compiler) <= 8
    assert compiler.compile(spec(0)) is not first
    small = GrammarCompiler(tokenizer, [END], CompileLimits(cache_bytes=250_000))
    for number in range(10):
        small.compile(spec(number))
        assert small.cache_bytes <= 250_000
    assert 1 < len(small) < 5


def test_compilation_has_a_time_limit(tokenizer: EngineTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(tokenizer, [END], CompileLimits(seconds=0.2, at_once=1))
    original = compiler._start
    release = threading.Event()
    monkeypatch.setattr(compiler, "_start", lambda source: (release.wait(30), original(source))[1])
    with pytest.raises(InputError, match="takes more than"):
        compiler.compile(GrammarSpec("json_object"))
    with pytest.raises(InputError, match="others are being compiled"):
        compiler.compile(GrammarSpec("regex", "a"))
    release.set()
    for _ in range(100):
        if compiler._slots.acquire(blocking=False):
            compiler._slots.release()
            break
        time.sleep(0.05)
    compiler.compile(GrammarSpec("regex", "a"))


def test_a_thread_that_cannot_start_gives_its_slot_back(
    tokenizer: EngineTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    compiler = GrammarCompiler(tokenizer, [END], CompileLimits(at_once=1))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(MachineError, match="stack"):
            compiler.compile(GrammarSpec("json_object"))
    compiler.compile(GrammarSpec("json_object"))


def test_stacks_of_other_threads_stay(compiler: GrammarCompiler) -> None:
    before = threading.stack_size()
    compiler.compile(GrammarSpec("regex", "stack"))
    assert threading.stack_size() == before


def test_without_llguidance_only_a_grammar_is_refused(
    tokenizer: EngineTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    compiler = GrammarCompiler(tokenizer, [END])
    with pytest.raises(UsageError, match=r"llguidance.*longcat-cli\[serve\]"):
        compiler.compile(GrammarSpec("json_object"))
    assert response_format_spec({"type": "text"}) is None
