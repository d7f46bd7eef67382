"""training/state.json of a checkpoint: what its model was trained on so far; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import read_json
from longcat.pipeline.validation import reason_of

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput

STATE_FILE = "training/state.json"
# How documents fill sequences: joined to one stream, or by best fit.
Packing = Literal["joined", "best_fit"]


class DataPosition(BaseModel):
    """Data order and number of samples read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: str
    seed: int
    sequence_length: int
    min_document_tokens: int
    long_document_fraction: float = 0.0
    packing: Packing = "joined"
    position: int = 0

    def start_for(self, wanted: DataPosition) -> int:
        """Start position for reading `wanted`: where this stopped if order and data are the same, else 0."""
        return self.position if self.model_copy(update={"position": wanted.position}) == wanted else 0


class TrainingState(BaseModel):
    """training/state.json: training history of a checkpoint.

    Counts are totals since initialisation, across growth and continued training. `learning_rate` is that of the last
    step (None: not recorded), at `schedule_position` - 1 of a schedule that was warmed up from `warmup_from`. `config`
    is the configuration of the last run, `growth` the list of layer stackings. `width_scale` is the s of
    `stages.train.optim.kinds`, which scales learning rates, `kinds` the values by kind of parameter that it scales;
    `balance_coefficient` is that of the balance loss.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    samples: int = Field(default=0, ge=0)
    schedule_position: int = Field(default=0, ge=0)
    learning_rate: float | None = Field(default=None, ge=0)
    warmup_from: float = Field(default=0.0, ge=0)
    data: DataPosition | None = None
    config: dict[str, Any] = {}
    growth: list[dict[str, Any]] = []
    width_scale: float = Field(default=1.0, gt=0)
    kinds: dict[str, dict[str, float]] = {}
    balance_coefficient: float | None = None


def read_state(checkpoint: Artifact | None) -> TrainingState:
    """Read the training history of a checkpoint; all zero without a checkpoint, or for imported weights.

    Raises:
        IntegrityError: training/state.json cannot be read.
    """
    if checkpoint is None or not (path := checkpoint.path / STATE_FILE).exists():
        return TrainingState()
    try:
        return TrainingState.model_validate(read_json(path))
    except ValueError as error:
        raise IntegrityError(f"cannot be read: {reason_of(error)}", where=str(path)) from None


def foreseen_state(given: PlannedInput) -> TrainingState | None:
    """Training state of a checkpoint that exists, or as foreseen by the plan that will make it; None: unknown."""
    if given.artifact is not None:
        return read_state(given.artifact)
    foreseen: TrainingState | None = given.forecast.get("state")
    return foreseen
