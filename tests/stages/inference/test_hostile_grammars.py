"""Mutated grammars: each compiles or is refused, its masks are quick, and the process lives on."""

from __future__ import annotations

import random

import pytest
import torch

from longcat.pipeline.errors import InputError
from longcat.stages.inference.grammar_spec import GrammarSpec, Kind, schema_spec
from longcat.stages.inference.logit_terms import unpack_mask
from longcat.stages.inference.structured import GrammarCompiler
from longcat.stages.inference.tokenizer import EngineTokenizer

LARK = [
    'start: "a" start "b" | "c"',
    'start: T+ "."\nT: /[a-z]+/ & ~/abc/',
    "start: <longcat_think> x </longcat_think>\nx: /(.|\\n)*/",
    "start: A B\nA: /a{1,100}/\nB: A{1,100}",
    '%ignore / /\nstart: e\ne: e "+" t | t\nt: "(" e ")" | /[0-9]+/',
    'start[stop="\\n"]: /.*/ "x"',
    'start: f::0x0\nf::_: "a" %if bit_clear(0) f::set_bit(0) | ""',
]
PATTERNS = ["(a|b)*c{2,9}", r"[^\W\d]+?x", "(a*)*b", "((a{1,50}){1,50}){1,50}", r"\p{L}{1,3}\b", "(?s:.*)(?-u:\\xff)"]
SCHEMAS = [
    {"type": "object", "properties": {"a": {"minLength": 2}, "b": {"$ref": "#"}}, "minProperties": 1},
    {"prefixItems": [{"const": 1}, {"format": "date-time"}], "items": {"exclusiveMaximum": 1e30}, "minItems": 3},
    {"allOf": [{"properties": {"a": {}}}, {"required": ["a"]}], "oneOf": [{"type": "string"}, {"not": {}}]},
]
PIECES = [*'()[]{}|*+?.\\/"<>&~:,%-01 ab\n', "start", "%json ", "(?", "{0,99}", "日", "\x00", "9" * 20, ".."]
VALUES = [None, True, -1, 1e308, 10**20, "", "x", [], {}, "#/$defs/x", "(" * 50, ["string", "x"]]


def mutated_text(rng: random.Random, text: str) -> str:
    characters = list(text)
    for _ in range(rng.choice([1, 2, 5])):
        at = rng.randrange(len(characters) + 1)
        if rng.random() < 0.6:
            characters.insert(at, rng.choice(PIECES))
        else:
            characters[at : at + rng.randrange(4)] = rng.choice(LARK + PATTERNS)[: rng.randrange(20)]
    return "".join(characters)


def mutated_value(rng: random.Random, value: object) -> object:
    if rng.random() < 0.15:
        return rng.choice(VALUES)
    if isinstance(value, dict):
        return {key: mutated_value(rng, item) for key, item in value.items()}
    return [mutated_value(rng, item) for item in value] if isinstance(value, list) else value


def use(compiler: GrammarCompiler, spec: GrammarSpec, rng: random.Random, vocabulary: int) -> None:
    matcher = compiler.compile(spec).matcher()
    words_W = torch.zeros(-(-vocabulary // 32), dtype=torch.int32)
    for accepted in range(12):
        matcher.mask(words_W)
        tokens = unpack_mask(words_W.unsqueeze(0), vocabulary)[0].nonzero().flatten().tolist()
        if not tokens or matcher.finished:
            matcher.rollback(min(accepted, 2))
            return
        matcher.accept(rng.choice(tokens))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(4))
def test_mutated_grammars_compile_or_are_refused(tokenizer: EngineTokenizer, seed: int) -> None:
    rng, compiler = random.Random(seed), GrammarCompiler(tokenizer, [2])
    used = 0
    for number in range(240):
        try:
            if number % 3 == 0:
                spec = schema_spec(mutated_value(rng, rng.choice(SCHEMAS)))
            else:
                kind: Kind = "grammar" if number % 3 == 1 else "regex"
                spec = GrammarSpec(kind, mutated_text(rng, rng.choice(LARK if kind == "grammar" else PATTERNS)))
            use(compiler, spec, rng, tokenizer.vocab_size)
            used += 1
        except InputError as error:
            assert len(str(error)) < 500
    assert used > 20
