"""Memory of a run: the estimate before the first step, and the peak at the end."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from longcat.model.training_memory import training_memory
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.training_plan import TrainingPlan

GIB = 1 << 30


class RunMemory:
    """Peak of this process during a run; created before the copy of the weights and the moments exist.

    The estimate adds `model.training_memory` to what the process had before the run, and is None with several
    processes, whose shards it does not know.
    """

    def __init__(self, plan: TrainingPlan, options: TrainingOptions, held: Distributed) -> None:
        self.device, self.estimate, self.line = held.parallel.device, None, ""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _reset_peak()
        if held.parallel.is_distributed:
            return
        parts = training_memory(
            held.config,
            "bfloat16" if held.dtype == torch.bfloat16 else "float32",
            plan.micro_batch_size * plan.sequence_length,
            parts=-(-plan.batch_size // plan.micro_batch_size),
            checkpointing=options.activation_checkpointing,
            optimizer=options.optimizer.kind,
            averaged=options.optimizer.average_decay is not None,
        )
        process, peak = 0, parts.peak
        if self.device.type != "cuda":
            process, peak = max(0, int(psutil.Process().memory_info().rss) - parts.weights), parts.host_peak
        self.estimate = process + peak
        self.line = (
            f"memory: about {self.estimate / GIB:.2f} GiB: process {process / GIB:.2f}, weights "
            f"{(parts.weights + parts.copy) / GIB:.2f}, moments {parts.moments / GIB:.2f}, and the larger of gradients "
            f"{parts.gradients / GIB:.2f} and activations {(parts.activations + parts.loss) / GIB:.2f}; "
            "the rest is held by libraries, allocator and checkpoints in writing"
        )

    def figures(self) -> dict[str, float]:
        """Bytes: the peak since the start of the run, if the system tells, and the estimate."""
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else _peak()
        found = {"peak_memory_bytes": peak, "estimated_memory_bytes": self.estimate}
        return {name: float(value) for name, value in found.items() if value is not None}


def _reset_peak() -> None:
    """Let Linux count the peak from now; elsewhere it counts from the start of the process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak() -> int | None:
    """Largest resident memory of this process in bytes; None where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), None)
