"""Stage `extend`: longer context, by training on in phases of longer sequences and a larger rotary base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.config import TrainingOptions, check_one_length, step_count
from longcat.stages.train.launch import follows, is_launched, launch

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput


class Phase(StageConfig):
    """One length of sequences."""

    sequence_length: int = Field(ge=1, description="tokens a sequence; the model's context becomes at least this long")
    rope_theta: float = Field(gt=1, description="base of the rotary frequencies")
    steps: int | None = Field(default=None, ge=1, description="optimizer steps")
    token_budget: int | None = Field(
        default=None, ge=1, description="training tokens, in place of steps; rounded up to whole steps"
    )
    batch_size: int = Field(default=8, ge=1, description="sequences an optimizer step")
    micro_batch_size: int | None = Field(
        default=1, ge=1, description="sequences a forward pass; smaller needs less memory; null: the batch"
    )
    min_document_tokens: int | None = Field(
        default=None, ge=1, description="a document of at least this many tokens is long; null: the sequence length"
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        check_one_length(self.steps, self.token_budget)
        return self

    @property
    def step_count(self) -> int:
        return step_count(self.steps, self.token_budget, self.batch_size * self.sequence_length)


class ExtendConfig(TrainingOptions):
    """Configuration of `extend`. The schedule spans all phases together."""

    learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate")
    long_document_fraction: float = Field(
        default=0.25, ge=0, le=1, description="share of the sequences that are cut from long documents only"
    )
    phases: tuple[Phase, ...] = Field(
        default=(
            Phase(sequence_length=32_768, rope_theta=5e6, token_budget=80_000_000_000, batch_size=32),
            Phase(sequence_length=131_072, rope_theta=1e7, token_budget=20_000_000_000, batch_size=8),
        ),
        min_length=1,
        description="phases in their order; the default is the published one (80 B tokens at 32k, 20 B at 128k)",
    )


def _check(config: ExtendConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.stages.train.check import foresee_extension

    return foresee_extension(config, inputs)


@stage(
    "extend",
    revision=2,
    inputs={"checkpoint": "checkpoint", "tokens": "tokens"},
    output="checkpoint",
    follows=follows,
    check=_check,
)
def extend(context: Context[ExtendConfig]) -> Result:
    """Extend the context of a checkpoint in phases (LongCat-Flash report, section 3.4).

    Each phase sets the rotary base and the context length, then trains on with a share of long documents.
    """
    if is_launched(context.config):
        return launch(context, "extend")
    from longcat.stages.train.phases import extend_checkpoint

    return extend_checkpoint(context)
