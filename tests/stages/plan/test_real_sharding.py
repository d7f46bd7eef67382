"""Planned bytes by rank are those that the parallel code gives each of 1,024 processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore  # torch has no public equivalent

from longcat.model.config import ModelConfig
from longcat.model.presets import load_preset
from longcat.stages.plan.inventory import held_values, take_inventory
from longcat.stages.train.parallel.build import Distributed, build_model
from longcat.stages.train.parallel.config import ParallelOptions, degrees
from longcat.stages.train.parallel.mesh import Parallel

WORLD = 1024
# Sizes that most numbers of processes do not divide, so that last chunks are short and some are empty.
SMALL = {"hidden_size": 96, "expert_ffn_hidden_size": 48, "n_routed_experts": 64, "vocab_size": 1009, "num_layers": 5}
# Degrees, and ranks that are first or last of a group, hold a whole, a short or an empty chunk.
LAYOUTS: dict[str, tuple[dict[str, object], tuple[int, ...]]] = {
    "shards": ({}, (95,)),
    "replicas": ({"data_replicate": 32}, (0, 777)),
    "experts": ({"data_replicate": 8, "data_shard": 128, "expert": 32}, (63, WORLD - 1)),
    "all": ({"pipeline": 4, "data_replicate": 2, "context": 4, "expert": 16}, (0, 100, 511, WORLD - 1)),
    "interleaved": (
        {"pipeline": 2, "pipeline_schedule": "interleaved", "data_replicate": 16, "expert": 32},
        (0, 511, 512, WORLD - 1),
    ),
}


def small(**changes: object) -> ModelConfig:
    return ModelConfig.from_dict({**load_preset("tiny").to_dict(), **SMALL, **changes})


@pytest.fixture
def fake_group() -> Iterator[object]:
    def start(rank: int) -> None:
        dist.init_process_group("fake", rank=rank, world_size=WORLD, store=FakeStore())

    yield start
    if dist.is_initialized():
        dist.destroy_process_group()


def built(config: ModelConfig, options: ParallelOptions) -> Distributed:
    return build_model(config, Parallel.join(options, torch.device("cpu")), torch.bfloat16)


def bytes_held(model: Distributed) -> tuple[int, int]:
    """Of parameters, and of buffers."""
    weights = 0
    for _, value in model.named_parameters():
        assert isinstance(value, DTensor)
        weights += value.to_local().numel() * value.element_size()
    return weights, sum(b.numel() * b.element_size() for root in model.roots for b in root.buffers())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_by_rank_are_exact(layout: str, fake_group: object) -> None:
    given, ranks = LAYOUTS[layout]
    options = ParallelOptions.model_validate(given)
    # Cutting every matrix of a layer into 1,024 chunks takes seconds.
    config = small(num_nextn_predict_layers=1, num_layers=1 if layout == "shards" else 5)
    sizes = degrees(options, WORLD)
    inventory = take_inventory(config)
    for rank in ranks:
        fake_group(rank)  # type: ignore[operator]
        weights, buffers = bytes_held(built(config, options))
        dist.destroy_process_group()
        pipeline_rank = rank // (WORLD // sizes.pipeline)
        stages = range(pipeline_rank, options.pipeline_stages, sizes.pipeline)
        units = [unit for stage in stages for unit in inventory.stage(stage, options.pipeline_stages)]
        assert (rank, 4 * held_values(units, sizes, rank)) == (rank, weights)
        assert (rank, sum(unit.buffers for unit in units)) == (rank, buffers)


@pytest.mark.parametrize(
    "shared", [{}, {"tie_word_embeddings": True}, {"mtp_share_embeddings": True}], ids=["none", "output", "mtp"]
)
def test_the_inventory_is_complete(shared: dict[str, bool]) -> None:
    config = small(num_nextn_predict_layers=1, **shared)
    with torch.device("meta"):
        from longcat.model.transformer import LongcatFlash

        total = sum(value.numel() for value in LongcatFlash(config).parameters())
    units = take_inventory(config).stage(0, 1)
    assert sum(unit.values(kind) for unit in units for kind in ("dense", "routers", "experts")) == total
