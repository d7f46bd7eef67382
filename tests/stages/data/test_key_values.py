"""The stage data.key-values: facts, where they are mentioned, and documents of a number of tokens."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.key_values.compose import composed, drawn_facts, places
from longcat.stages.data.key_values.config import KeyValuesConfig
from longcat.stages.formats.key_values import key_words, value_words
from longcat.stages.formats.tokenizer import load_tokenizer

LINES = [f"line {number} of text, {number * number} in all\n" for number in range(600)]


def documents_of(artifact: Artifact) -> list[Document]:
    return [document for shard in document_shards(artifact) for document in read_documents(shard)]


def facts_in(text: str) -> list[tuple[str, str]]:
    keys, values = set(key_words(64)), set(value_words(64))
    pairs = re.findall(r"^ (\w{4}) (\w{4}) \1$", text, re.MULTILINE)
    return [(key, value) for key, value in pairs if key in keys and value in values]


@pytest.fixture
def tokens(run_stage: Any, make_documents: Callable[..., Artifact]) -> Artifact:
    """Tokens of 200 texts with a tokenizer of 280 tokens."""
    texts = {f"d{number}": "".join(LINES[3 * number : 3 * number + 3]) for number in range(200)}
    made = make_documents(texts)
    tokenizer = run_stage("data.tokenizer", {"vocab_size": 280}, {"documents": made})
    packed = {"documents": made, "tokenizer": tokenizer}
    artifact: Artifact = run_stage("data.pack", {"validation_fraction": 0.2, "encoder": "tokenizers"}, packed)
    return artifact


def test_every_fact_is_mentioned_as_often_and_the_last_ones_at_the_end() -> None:
    config = KeyValuesConfig(facts=20, mentions=5, at_end=0.25)
    found = places(20, config, random.Random(0))
    assert Counter(fact for _, fact in found) == dict.fromkeys(range(20), 5)
    spread = [place for place, _ in found if place < 1]
    assert spread == sorted(spread)
    assert [place for place, _ in found][len(spread) :] == [1.0] * (100 - len(spread))
    assert 10 <= 100 - len(spread) <= 30  # a quarter of the 80 later mentions
    assert all(place == 1 for place, _ in places(3, KeyValuesConfig(mentions=2, at_end=1), random.Random(0))[3:])
    assert all(place < 1 for place, _ in places(3, KeyValuesConfig(mentions=9, at_end=0), random.Random(0)))


def test_mentions_are_uniform_over_the_document() -> None:
    found = places(50, KeyValuesConfig(facts=50, mentions=40, at_end=0), random.Random(0))
    # Of 2,000 places the standard deviation of a quarter's share is 0.01.
    for quarter in range(4):
        assert sum(quarter / 4 <= place < (quarter + 1) / 4 for place, _ in found) / 2000 == pytest.approx(
            0.25, abs=0.04
        )


def test_mentions_stand_between_whole_lines() -> None:
    facts = ["a b\n", "c d\n"]
    assert composed(["1\n", "2\n"], facts, [(0.0, 0), (0.4, 1), (0.9, 0), (1.0, 1)]) == "a b\n1\nc d\n2\na b\nc d\n"
    assert composed([], facts, [(0.3, 1), (0.7, 0)]) == "c d\na b\n"


def test_keys_and_values_of_a_document_differ() -> None:
    config = KeyValuesConfig(facts=40, least_facts=2, words=40)
    sizes = set()
    for seed in range(30):
        facts = [fact.split() for fact in drawn_facts(config, random.Random(seed))]
        assert all(key == again for key, _, again in facts)
        assert len({key for key, _, _ in facts}) == len({value for _, value, _ in facts}) == len(facts)
        sizes.add(len(facts))
    assert min(sizes) >= 2 and max(sizes) <= 40 and len(sizes) > 15


def test_documents_of_facts_alone(run_stage: Any) -> None:
    config = {"documents": 25, "facts": 4, "mentions": 3, "words": 64, "documents_per_shard": 10}
    made = run_stage("data.key-values", config)
    documents = documents_of(made)
    assert [document.id for document in documents] == [f"key-values-0-0-{number}" for number in range(25)]
    assert made.manifest.counts == {"documents_out": 25, "mentions": 25 * 12}
    for document in documents:
        found = facts_in(document.text)
        assert len(found) == len(document.text.splitlines()) == 12
        assert set(Counter(found).values()) == {3}
    assert len({document.text for document in documents}) == 25
    # The division into files changes no document.
    assert documents_of(run_stage("data.key-values", config | {"documents_per_shard": 7})) == documents
    assert documents_of(run_stage("data.key-values", config | {"seed": 1}))[0].text != documents[0].text


def test_documents_have_the_length_in_tokens_and_no_validation_text(run_stage: Any, tokens: Artifact) -> None:
    config = {"documents": 12, "facts": 6, "mentions": 2, "words": 64, "length": 300}
    made = run_stage("data.key-values", config, {"tokens": tokens})
    tokenizer = load_tokenizer(tokens.path)
    validation = TokenFile(tokens.path / "validation")
    unseen = {
        line
        for number in range(validation.n_documents)
        for line in tokenizer.decode(validation.document(number), skip_special=True).splitlines(keepends=True)
    }
    assert len(unseen) > 50
    for document in documents_of(made):
        assert 240 <= len(tokenizer.encode(document.text)) + 1 <= 300
        found = facts_in(document.text)
        assert len(found) == 12 and set(Counter(found).values()) == {2}
        text = [line for line in document.text.splitlines(keepends=True) if not facts_in(line)]
        assert set(text) <= set(LINES) - unseen


def test_a_word_is_a_token_for_a_tokenizer_of_such_documents(run_stage: Any) -> None:
    made = run_stage("data.key-values", {"documents": 400, "words": 32})
    tokenizer = run_stage("data.tokenizer", {"vocab_size": 410}, {"documents": made})
    loaded = load_tokenizer(tokenizer.path)
    key, value = key_words(32)[5], value_words(32)[7]
    pieces = [loaded.decode([token]) for token in loaded.encode(f" {key} {value} {key}\n")]
    assert pieces == [f" {key}", f" {value}", f" {key}", "\n"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"facts": 41, "words": 40}, "facts = 41 need as many words, but words = 40"),
        ({"facts": 4, "least_facts": 5}, "least_facts = 5 exceeds facts = 4"),
        ({"statement": "{value} {key}"}, "must have {value} after {key}"),
    ],
)
def test_bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        KeyValuesConfig(**values)


def test_what_does_not_fit_is_refused(run_stage: Any, tokens: Artifact) -> None:
    with pytest.raises(ConfigError, match="length: 300 needs tokens"):
        run_stage("data.key-values", {"length": 300})
    with pytest.raises(ConfigError, match="length: missing, and tokens are given"):
        run_stage("data.key-values", {}, {"tokens": tokens})
    with pytest.raises(InputError, match="mentions of facts alone take"):
        run_stage("data.key-values", {"length": 64, "facts": 40}, {"tokens": tokens})
    with pytest.raises(InputError, match=r"the training text has [\d,]+ tokens, a document needs"):
        run_stage("data.key-values", {"length": 1_000_000}, {"tokens": tokens})
