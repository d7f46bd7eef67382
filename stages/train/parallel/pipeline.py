"""Pipeline parallelism with torch.distributed.pipelining: each process holds a range of layers.

Every micro batch passes the stages forward and backward, in the order of the schedule. Losses are sums already divided
by the step's divisor, so gradients are summed over micro batches, not averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from longcat.kernels.precision import accumulation_dtype
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.pipeline_stage import Auxiliary, Objective, PipelineStageModule
from longcat.stages.train.parallel.rows import Rows

SCHEDULES: Mapping[str, Any] = {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe, "interleaved": ScheduleInterleaved1F1B}


class Pipeline:
    """Stages of this process and the schedule for micro batches of one shape.

    Create one per number and shape of micro batches; `shape` is that of the rows given to `step` [B, T].
    """

    def __init__(self, distributed: Distributed, micro_batches: int, shape: tuple[int, int]) -> None:
        options, parallel = distributed.parallel.options, distributed.parallel
        self._modules = [root for root in distributed.roots if isinstance(root, PipelineStageModule)]
        self._device = parallel.device
        self._micro_batches = micro_batches
        hidden = torch.empty(*shape, distributed.config.hidden_size, dtype=distributed.dtype, device="meta")
        handed_on: Any = hidden.requires_grad_()
        if distributed.config.gating_residual:
            wide = accumulation_dtype(distributed.dtype)
            logits = torch.empty(*shape, distributed.config.num_experts, dtype=wide, device="meta")
            handed_on = (handed_on, logits.requires_grad_())
        ids, loss = torch.empty(shape, dtype=torch.int64, device="meta"), torch.empty(1, device="meta")
        stages = [
            PipelineStage(
                module,
                stage,
                options.pipeline_stages,
                parallel.device,
                input_args=ids if module.is_first else handed_on,
                output_args=loss.requires_grad_() if module.is_last else handed_on,
                group=parallel.rows_group("pipeline"),
            )
            for module, stage in zip(self._modules, distributed.pipeline_stages, strict=True)
        ]
        held: Any = stages if options.pipeline_schedule == "interleaved" else stages[0]
        self._schedule = SCHEDULES[options.pipeline_schedule](
            held, micro_batches, loss_fn=lambda output, _: output.sum(), scale_grads=False
        )

    def step(
        self, micro_batches: Sequence[Rows], objective: Objective, auxiliary: Auxiliary | None = None
    ) -> list[torch.Tensor]:
        """Accumulate gradients of all micro batches; returns their objectives on the last stage, else nothing."""
        return self._run(self._schedule.step, micro_batches, objective, auxiliary)

    def evaluate(self, micro_batches: Sequence[Rows], objective: Objective) -> list[torch.Tensor]:
        """Objectives as in `step`, without gradients."""
        parameters = [parameter for module in self._modules for parameter in module.parameters()]
        gradients = [parameter.grad for parameter in parameters]
        with torch.no_grad():
            losses = self._run(self._schedule.eval, micro_batches, objective, None)
        for module in self._modules:
            _reshard(module)
        # The schedule clears all gradients when it switches from training to evaluation.
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return losses

    def counts(self) -> dict[int, torch.Tensor]:
        """Slots per expert in the last step, int64 [E] by layer index."""
        return {layer: counts_E for module in self._modules for layer, counts_E in module.counts.items()}

    def _run(
        self, run: Any, micro_batches: Sequence[Rows], objective: Objective, auxiliary: Auxiliary | None
    ) -> list[torch.Tensor]:
        for module in self._modules:
            module.begin(micro_batches, objective, auxiliary)
        has_first = any(module.is_first for module in self._modules)
        has_last = any(module.is_last for module in self._modules)
        ids = (torch.cat([rows.ids_BT for rows in micro_batches]),) if has_first else ()
        losses: list[torch.Tensor] = []
        target = torch.zeros(self._micro_batches) if has_last else None
        run(*ids, number=torch.arange(self._micro_batches), target=target, losses=losses if has_last else None)
        return [loss.detach() for loss in losses]


def _reshard(module: nn.Module) -> None:
    """Free parameters gathered without a following backward pass; they would be stale after an optimizer step."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
