"""Hooks of a run after each optimizer step."""

from __future__ import annotations

from longcat.stages.formats.checkpoint import Tensors
from longcat.stages.train.load_balance.controller import BiasController
from longcat.stages.train.optim.after_step import AfterStep, StepDone
from longcat.stages.train.optim.average import WeightAverage
from longcat.stages.train.optim.weight_rescaling import WeightRescaling
from longcat.stages.train.parallel.build import Distributed


class BalanceBiases:
    """Updates the selection biases of this process's routers (`load_balance.controller`)."""

    group = "balance_biases"

    def __init__(self, controller: BiasController, held: Distributed) -> None:
        self._controller, self._held = controller, held

    def after_step(self, done: StepDone) -> None:
        counts_LE = done.load.counts_LE[self._held.layers]
        self._controller.update(self._held.router_biases(), counts_LE, done.tokens, done.gain)

    def tensors(self) -> Tensors:
        return {}


def hooks_of(
    held: Distributed,
    controller: BiasController,
    average: WeightAverage | None,
    rescaling: WeightRescaling | None,
) -> list[AfterStep]:
    """Hooks of a run, in call order."""
    hooks: list[AfterStep] = [hook for hook in (average, rescaling) if hook is not None]
    return [*hooks, BalanceBiases(controller, held)]
