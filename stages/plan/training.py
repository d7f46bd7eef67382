"""Memory of a training that is about to run in several processes."""

from __future__ import annotations

from longcat.model.config import ModelConfig
from longcat.stages.plan.config import PlanOptions
from longcat.stages.plan.layout import Layout
from longcat.stages.plan.memory import memory_of
from longcat.stages.plan.work import Work
from longcat.stages.train.check import micro_batch
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.parallel.config import degrees


def process_memory(
    model: ModelConfig,
    options: TrainingOptions,
    sequence_length: int,
    batch_size: int,
    micro_batch_size: int | None,
) -> int:
    """Bytes of the process that needs most, with the degrees, processes, dtype and recomputation of `options`.

    Counted for AdamW; Muon keeps fewer moments.

    Raises:
        ConfigError: the degrees do not fit the number of processes.
    """
    sizes = degrees(options.parallel, options.world_size)
    size = micro_batch(batch_size, micro_batch_size, sizes)
    dtype = "bfloat16" if options.resolved().dtype == "bfloat16" else "float32"
    work = Work.of(model, PlanOptions.model_validate({"dtype": dtype}), sequence_length)
    layout = Layout(options.parallel, sizes, size, batch_size // sizes.data // size, options.activation_checkpointing)
    return max(rank.total for rank in memory_of(work, layout))
