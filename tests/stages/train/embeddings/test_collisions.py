"""Collisions in n-gram tables, counted by hand and on tokens that follow Zipf's law, and the share of n-gram tables."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longcat.cli.app import run
from longcat.model.config import ModelConfig
from longcat.model.presets import load_preset
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.tokens import TokenFile, TokenWriter
from longcat.stages.train.embeddings.collisions import count_collisions, told_collisions
from longcat.stages.train.embeddings.share import check_share

VOCABULARY = 512


def config_of(ratio: float, **others: Any) -> ModelConfig:
    sizes = {"vocab_size": VOCABULARY, "ngram_vocab_size_ratio": ratio, "emb_neighbor_num": 3, "emb_split_num": 2}
    return load_preset("tiny").model_copy(update=sizes | others)


def write(folder: Path, documents: Sequence[Sequence[int]]) -> TokenFile:
    with TokenWriter(folder / "train", VOCABULARY) as writer:
        for document in documents:
            writer.add_document(np.asarray(document))
    return TokenFile(folder / "train")


@pytest.fixture
def zipf(tmp_path: Path) -> TokenFile:
    """40 documents of 250 tokens, the more frequent the smaller their id."""
    generator = np.random.default_rng(1)
    frequency = 1 / np.arange(4, VOCABULARY + 4)
    return write(tmp_path, generator.choice(VOCABULARY, (40, 250), p=frequency / frequency.sum()).tolist())


def test_collisions_are_counted_as_by_hand(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    documents = [generator.integers(0, 40, length).tolist() for length in (1, 300, 50, 7)]
    config = config_of(0.3, ngram_excluded_ids=(5,))
    found = count_collisions(config, write(tmp_path, documents))
    for table, each in enumerate(found):
        size, ngrams = int(0.3 * VOCABULARY) + 2 * table + 1, set()
        for document in documents:
            for place, token in enumerate(document):
                terms = [token]
                for back in range(1, 2 + table // 2):
                    if place < back or document[place - back] in (2, 5):
                        break
                    terms.append(document[place - back])
                if token != 5:
                    ngrams.add(tuple(terms + [0] * (2 + table // 2 - len(terms))))
        rows = {sum(term * VOCABULARY**back for back, term in enumerate(terms)) % size for terms in ngrams}
        assert (each.table, each.order, each.rows) == (table, 2 + table // 2, size)
        assert (each.ngrams, each.collisions) == (len(ngrams), len(ngrams) - len(rows))
        assert each.expected == pytest.approx(len(ngrams) - size * (1 - (1 - 1 / size) ** len(ngrams)))


def test_only_ratios_near_simple_fractions_are_warned_of(zipf: TokenFile) -> None:
    """Of 2-grams: an integer, one half, and the fraction of LongCat-2.0."""
    ratios = {ratio: count_collisions(config_of(ratio), zipf)[0] for ratio in (30.0, 30.5, 30.57)}
    assert ratios[30.0].ratio > 1.5 and ratios[30.0].warned
    assert ratios[30.5].ratio > 1.2 * ratios[30.57].ratio
    assert ratios[30.57].ratio < 1 and not ratios[30.57].warned
    (told,) = told_collisions(config_of(30.0), zipf)
    assert told.startswith("ngram_vocab_size_ratio = 30: ")
    assert told.endswith("try 30.57")
    assert told_collisions(config_of(30.57), zipf) == []
    assert told_collisions(load_preset("tiny"), zipf) == []


def test_few_ngrams_are_no_reason_for_a_warning(tmp_path: Path) -> None:
    tokens = write(tmp_path, [[5, 6, 7, 8]])
    found = count_collisions(config_of(0.01), tokens)
    assert [each.warned for each in found] == [False] * 4


def test_a_sample_is_spread_over_the_file(tmp_path: Path) -> None:
    tokens = write(tmp_path, [[number % VOCABULARY] * 10 for number in range(300)])
    whole = count_collisions(config_of(30.57), tokens)[0]
    part = count_collisions(config_of(30.57), tokens, sample=100)[0]
    assert whole.ngrams == 600 - 2  # with token 0 both n-grams are (0, 0), with the end of a text (2, 0)
    assert 10 <= part.ngrams <= 22
    for first, second in pairwise(count_collisions(config_of(30.57), tokens, sample=100)):
        assert second.table == first.table + 1


def test_more_than_the_allowed_share_is_refused() -> None:
    config = config_of(20.0)
    assert config.ngram_parameters > 0.5 * sum(p for p in (config.ngram_parameters, 400_000))
    with pytest.raises(
        ConfigError, match=r"are 5\d\.\d % of the parameters with ngram_vocab_size_ratio = 20, more than"
    ):
        check_share(0.5, config)
    check_share(0.6, config)
    check_share(0.5, load_preset("longcat-flash-lite"))
    check_share(0.01, load_preset("tiny"))


def test_training_warns_refuses_and_can_be_told_otherwise(
    run_stage: Any, tiny: dict[str, Any], tokens: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"vocab_size": 2048, "ngram_vocab_size_ratio": 1.0, "emb_neighbor_num": 2, "emb_split_num": 1}
    config = tiny | {"steps": 1, "model": sizes}
    with caplog.at_level(logging.INFO):
        run_stage("train", config, {"tokens": tokens})
    assert "ngram_vocab_size_ratio = 1: 1 of 1 n-gram tables" in caplog.text
    large = config | {"model": sizes | {"ngram_vocab_size_ratio": 5.57}}
    with pytest.raises(ConfigError, match="more than ngram_share") as caught:
        run_stage("train", large, {"tokens": tokens})
    assert "ngram_share: 0." in str(caught.value.hint)
    run_stage("train", large | {"ngram_share": 1.0}, {"tokens": tokens})


def test_a_dry_run_warns(tokens: Artifact, store: Any, capfd: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "model.ngram_vocab_size_ratio=3", "--set", "model.emb_neighbor_num=2"]
    options += ["--set", "model.emb_split_num=1", "--steps", "2", "--preset", "smoke"]
    call = ["--store", str(store.root), "train", "--tokens", tokens.id, *options, "--dry-run"]
    assert run(call) == 0
    assert "1 of 1 n-gram tables have more than 1.2 times" in capfd.readouterr().out.replace("\n", " ")
    assert run([*call, "--json"]) == 0
    (warning,) = json.loads(capfd.readouterr().out)["steps"][0]["warnings"]
    assert warning.startswith("ngram_vocab_size_ratio = 3: ")
