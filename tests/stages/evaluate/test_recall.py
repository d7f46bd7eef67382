"""Facts in a text: places, questions, and the score of a model that reads them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.files import read_json
from longcat.stages.evaluate.config import RecallOptions
from longcat.stages.evaluate.needle import TooShortError
from longcat.stages.evaluate.recall import draw_facts, run_recall
from longcat.stages.formats.key_values import MOST_WORDS, Statement, key_words, value_words
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.tokenizer import EngineTokenizer
from tests.stages.evaluate.reader import Reader

OPTIONS = RecallOptions(lengths=(400,), depths=(0.0, 0.5, 1.0), keys=2)


def test_words_are_distinct_and_never_change() -> None:
    assert len({*key_words(MOST_WORDS), *value_words(MOST_WORDS)}) == 2 * MOST_WORDS == 48 * 48
    assert key_words(3) == key_words(900)[:3]
    assert all(re.fullmatch("([bdfgkmnprtvz][aiou]){2}", word) for word in key_words(MOST_WORDS))
    assert (key_words(2), value_words(2)) == (("zanu", "vori"), ("pafu", "muro"))


def test_facts_lie_at_their_depths_and_fill_the_length(haystack: Any, tokenizer: EngineTokenizer) -> None:
    facts = draw_facts(haystack, tokenizer, OPTIONS, 400, "0")
    asking = max(len(each.question) + len(each.answer) for each in facts.questions)
    assert len(facts.text) + asking == 400
    said = [re.findall(r"The code of (\w+) is (\w+)[.]", tokenizer.literal_text(facts.text))]
    asked = [
        (tokenizer.literal_text(each.question).split()[-2], tokenizer.literal_text(each.answer).strip())
        for each in facts.questions
    ]
    assert said == [asked]
    assert [each.depth for each in facts.questions] == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    for each in facts.questions:
        stop = each.position + len(each.question)
        assert facts.text[each.position : stop] == each.question
        assert facts.text[stop : stop + len(each.answer)] == each.answer
    # What is left without the facts is a piece of the haystack: they are inserted and replace nothing.
    size = sum(len(tokenizer.encode(Statement.of(OPTIONS.statement).text(*pair))) for pair in asked)
    room = len(facts.text) - size
    assert facts.questions[0].position == 0
    last = facts.questions[-1]
    assert last.position + len(last.question) + len(last.answer) + len(tokenizer.encode(".")) == len(facts.text)
    kept = np.ones(len(facts.text), dtype=bool)
    for each in facts.questions:
        kept[each.position : each.position + len(each.question) + len(each.answer) + 1] = False
    around = np.array(facts.text)[kept]
    assert len(around) == room
    assert any((haystack[at : at + room] == around).all() for at in range(len(haystack) - room + 1))


def test_a_fact_may_repeat_its_key_after_the_value(haystack: Any, tokenizer: EngineTokenizer) -> None:
    options = RecallOptions(depths=(0.5,), keys=3, statement="({key}: {value}, {key})")
    facts = draw_facts(haystack, tokenizer, options, 300, "0")
    said = re.findall(r"[(](\w+): (\w+), (\w+)[)]", tokenizer.literal_text(facts.text))
    asked = [tokenizer.literal_text(each.question + each.answer) for each in facts.questions]
    assert asked == [f"({key}: {value}" for key, value, _ in said]
    assert [key for key, _, _ in said] == [again for _, _, again in said]


def test_facts_depend_on_seed_length_and_trial_alone(haystack: Any, tokenizer: EngineTokenizer) -> None:
    first = draw_facts(haystack, tokenizer, OPTIONS, 400, "0:400:0")
    assert draw_facts(haystack, tokenizer, OPTIONS, 400, "0:400:0") == first
    assert draw_facts(haystack, tokenizer, OPTIONS, 400, "1:400:0") != first


def test_a_text_with_the_keys_is_no_haystack(tokenizer: EngineTokenizer) -> None:
    ids = tokenizer.encode(" ".join(f"The code of {key} is unknown." for key in key_words(4)) * 30)
    few = RecallOptions(depths=(0.0, 1.0), keys=2, words=4)
    with pytest.raises(TooShortError, match="contains the keys"):
        draw_facts(np.array(ids), tokenizer, few, 300, "0")
    with pytest.raises(TooShortError, match="4 facts and a question alone take"):
        draw_facts(np.array(ids), tokenizer, few, 64, "0")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"statement": "{value} is {key}"}, "must have {value} after {key}"),
        ({"statement": "{key}{value}"}, "must have {value} after {key}, with a space before it"),
        ({"statement": "{key} {key} {value}"}, "must have {value} once, and {key} once before it"),
        ({"statement": "{key} {value} {value}"}, "must have {value} once, and {key} once before it"),
        ({"keys": 8, "words": 39}, "40 facts need as many words, but words = 39"),
        ({"depths": [0.5, 0.5]}, "a depth is given twice"),
    ],
)
def test_bad_options(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        RecallOptions(**values)


def test_a_model_that_reads_recalls_everything_and_another_nothing(long: Artifact, haystack: Any) -> None:
    reader = Reader(load_engine(long.path, device="cpu"))
    options = RecallOptions(lengths=(150, 300), depths=(0.0, 1.0), keys=1, trials=2)
    read: list[int] = []
    found = run_recall(reader, haystack, options, 0, read.append)
    assert [(cell["depth"], cell["trials"], cell["recalled"]) for cell in found["cells"]] == [(0.0, 2, 1), (1.0, 2, 1)]
    assert (read, found["recalled"]) == ([150, 150], 1)
    assert found["skipped"] == [
        {"length": 300, "reason": "the checkpoint's context (max_position_embeddings) holds 192 tokens"}
    ]
    untrained = run_recall(load_engine(long.path, device="cpu"), haystack, options, 0, read.append)
    assert [cell["recalled"] for cell in untrained["cells"]] == [0, 0]


def test_the_score_is_the_log_probability_of_the_answer(long: Artifact, haystack: Any) -> None:
    engine = load_engine(long.path, device="cpu")
    options = RecallOptions(lengths=(150,), depths=(0.3,), keys=2)
    (cell,) = run_recall(engine, haystack, options, 5, lambda _: None)["cells"]
    facts = draw_facts(haystack, engine.tokenizer, options, 150, "5:150:0")
    scores = []
    for each in facts.questions:
        ids = [*facts.text, *each.question, *each.answer]
        with torch.no_grad():
            logits = engine.model(torch.tensor([ids])).logits[0, :, : engine.vocab_size]
        logprobs = logits.double().log_softmax(-1)[len(ids) - len(each.answer) - 1 :]
        scores.append(sum(logprobs[place, token].item() for place, token in enumerate(each.answer)))
    assert cell["answer_logprob"] == pytest.approx(sum(scores) / 2, abs=1e-4)


def test_beyond_the_context_on_demand(run_stage: Any, tokens: Artifact, short: Artifact) -> None:
    config = {
        "windows": 1,
        "needle": {"lengths": []},
        "samples": {"prompts": []},
        "recall": {"lengths": [150], "depths": [0.0, 1.0], "keys": 1},
        "device": "cpu",
        "threads": 1,
    }
    inputs = {"checkpoints": [short], "tokens": tokens}
    with pytest.raises(ConfigError, match=r"recall\.lengths: 150 exceeds every checkpoint's context"):
        run_stage("evaluate", config, inputs)
    made = run_stage("evaluate", config | {"beyond_context": True}, inputs)
    (result,) = read_json(made.file("evaluation.json"))["checkpoints"]
    assert (result["context"], len(result["recall"]["cells"])) == (96, 2)
    assert "## Recall among many facts" in made.file("report.md").read_text()
    assert made.file("recall.svg").read_text().count(">0.00<") == 2
    assert made.manifest.metrics["checkpoints"][0]["recalled"] == 0
