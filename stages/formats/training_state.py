"""training/state.json of a checkpoint: what its model was trained on so far; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import read_json
from longcat.pipeline.validation import reason_of

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput

STATE_FILE = "training/state.json"
# How documents fill sequences: joined to one stream, or by best fit.
Packing = Literal["joined", "best_fit"]


class Reading(BaseModel):
    """Samples read of an epoch, from its beginning or after other readings of it, in sequences of one kind.

    `whole`: what was left of the epoch was read in whole documents.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence_length: int
    packing: Packing
    whole: bool = False
    samples: int


class DataPosition(BaseModel):
    """How far a stream of documents was read: those of a tokens artifact with `min_document_tokens` or more.

    `position` samples were read in sequences of this length and packing. They began with what was left of `epoch` after
    the readings `read`, with `whole` in whole documents, and went on with the epochs after it. `tokens_before` were
    read before these samples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: str
    seed: int
    sequence_length: int
    min_document_tokens: int
    packing: Packing = "joined"
    whole: bool = False
    epoch: int = 0
    read: tuple[Reading, ...] = ()
    position: int = 0
    tokens_before: int = 0

    @model_validator(mode="before")
    @classmethod
    def _of_a_mixture(cls, values: Any) -> Any:
        """Read a position in a mixture with long documents, which older checkpoints have: that in all documents."""
        if not isinstance(values, dict) or "long_document_fraction" not in values:
            return values
        values = dict(values)
        if fraction := values.pop("long_document_fraction"):
            position = values["position"]
            values |= {"min_document_tokens": 0, "position": position - position * round(fraction * 10**6) // 10**6}
        return values

    @property
    def tokens_read(self) -> int:
        return self.tokens_before + self.position * self.sequence_length

    def same_stream(self, other: DataPosition) -> bool:
        """Whether both read the same documents in the same order."""
        return (self.tokens, self.seed, self.min_document_tokens) == (
            other.tokens,
            other.seed,
            other.min_document_tokens,
        )


class TrainingState(BaseModel):
    """training/state.json: training history of a checkpoint.

    Counts are totals since initialisation, across growth and continued training. `learning_rate` is that of the last
    step (None: not recorded), at `schedule_position` - 1 of a schedule that was warmed up from `warmup_from`. `config`
    is the configuration of the last run, `data` the stream of documents that it read, `other_data` those of long
    documents and of runs before it, `growth` the list of layer stackings. `width_scale` is the s of
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
    other_data: tuple[DataPosition, ...] = ()
    config: dict[str, Any] = {}
    growth: list[dict[str, Any]] = []
    width_scale: float = Field(default=1.0, gt=0)
    kinds: dict[str, dict[str, float]] = {}
    balance_coefficient: float | None = None

    @property
    def streams(self) -> tuple[DataPosition, ...]:
        """All streams of documents that were read, the last one first."""
        return self.other_data if self.data is None else (self.data, *self.other_data)

    def after_reading(self, first: DataPosition, *others: DataPosition) -> dict[str, Any]:
        """Fields of the state after a run that read these streams."""
        read = (first, *others)
        before = tuple(one for one in self.streams if not any(one.same_stream(new) for new in read))
        return {"data": first, "other_data": (*others, *before)}


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
