"""Hooks called after each optimizer step, in a fixed order: averages, router biases, and additional ones.

A hook is one class in one file and one line in `optim.hooks.hooks_of`. Its state is saved and restored with the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from longcat.stages.formats.checkpoint import Tensors
from longcat.stages.train.load_balance.expert_load import Load


@dataclass(frozen=True)
class StepDone:
    """A finished optimizer step: its number since initialisation, from 1, and its data.

    `load`: expert load over all processes; `tokens`: tokens of the step; `gain`: controller gain.
    """

    step: int
    learning_rate: float
    gain: float
    load: Load
    tokens: int


class AfterStep(Protocol):
    """Hook called in every process; `group` names its tensors in checkpoints."""

    group: str

    def after_step(self, done: StepDone) -> None:
        """Change the model in place, without gradients."""

    def tensors(self) -> Tensors:
        """State for resuming, by name, loaded in place; empty if stateless."""
