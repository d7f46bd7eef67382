"""Valid degrees of parallelism for processes, model and batch, and which rank reads which rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.presets import load_preset
from longcat.pipeline.errors import ConfigError
from longcat.stages.train.parallel.config import Degrees, ParallelOptions, check_batch, check_fits, degrees
from longcat.stages.train.parallel.mesh import Parallel

BATCH: dict[str, Any] = {"sequence_length": 64, "batch_size": 32, "micro_batch_size": 2}


def test_the_remaining_processes_shard_the_data() -> None:
    sizes = degrees(ParallelOptions(pipeline=2, data_replicate=2, context=2, expert=4), 32)
    assert sizes == Degrees(pipeline=2, data_replicate=2, data_shard=4, context=2, expert=4)
    assert (sizes.shard, sizes.expert_data, sizes.data) == (8, 2, 8)


@pytest.mark.parametrize(
    ("options", "world", "words"),
    [
        ({"pipeline": 3}, 8, ["pipeline = 3", "make 3", "8 processes"]),
        ({"data_shard": 4}, 8, ["data_shard = 4", "make 4 processes", "there are 8", "start 4"]),
        ({"context": 2, "expert": 3}, 8, ["expert = 3", "data_shard * context = 8"]),
    ],
)
def test_invalid_degrees_are_refused(options: dict[str, Any], world: int, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        degrees(ParallelOptions(**options), world)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    ("options", "world", "model", "batch", "words"),
    [
        ({}, 32, {}, {}, ["batch_size = 32", "32 data groups", "micro_batch_size = 2", "multiple of 64"]),
        ({"context": 4}, 4, {}, {"sequence_length": 60}, ["sequence_length = 60", "2 * context = 8"]),
        ({"expert": 16}, 16, {}, {}, ["expert = 16", "n_routed_experts = 8"]),
        ({"expert": 2, "context": 10}, 10, {}, {"sequence_length": 80}, ["the 5 processes", "hidden_size = 96"]),
        ({"pipeline": 4}, 4, {}, {}, ["4 pipeline stages", "num_layers = 2"]),
        ({"pipeline": 2}, 2, {"tie_word_embeddings": True}, {}, ["tie_word_embeddings", "pipeline: 1"]),
        (
            {"pipeline": 2},
            2,
            {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True},
            {},
            ["mtp_share_embeddings", "pipeline = 2"],
        ),
        ({"pipeline": 2}, 2, {}, {"batch_size": 2}, ["1 micro batches", "at least pipeline = 2"]),
        (
            {"pipeline": 2, "pipeline_schedule": "interleaved"},
            2,
            {"num_layers": 4},
            {"batch_size": 6},
            ["3 micro batches", "a multiple of pipeline = 2"],
        ),
    ],
)
def test_model_and_batch_that_do_not_fit_are_refused(
    options: dict[str, Any], world: int, model: dict[str, Any], batch: dict[str, Any], words: list[str]
) -> None:
    chosen = ParallelOptions(**options)
    config = ModelConfig(**{**load_preset("tiny").model_dump(), **model})
    with pytest.raises(ConfigError) as error:
        check_fits(chosen, degrees(chosen, world), config, **{**BATCH, **batch})
    assert all(word in str(error.value) for word in words)


def test_valid_combinations_are_accepted() -> None:
    options = ParallelOptions(pipeline=2, context=2, expert=4, data_shard=2)
    check_fits(options, degrees(options, 8), load_preset("tiny"), **BATCH)


def test_ranks_share_the_batch_in_whole_micro_batches() -> None:
    options = ParallelOptions(pipeline=2, context=2)
    sizes = degrees(options, 8)
    places = [Parallel(options, sizes, rank, torch.device("cpu")) for rank in range(8)]
    assert [(place.pipeline_rank, place.data_rank, place.context_rank) for place in places[:6]] == [
        *((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1))
    ]
    assert [place.batch_share(8, 2) for place in places] == [range(4), range(4), range(4, 8), range(4, 8)] * 2
    with pytest.raises(ConfigError, match=r"batch_size = 6 .* multiple of 4"):
        check_batch(sizes, 6, 2)
