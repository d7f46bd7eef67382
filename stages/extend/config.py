"""Configuration of `extend`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from longcat.model.rope_scaling import RopeScaling
from longcat.pipeline.config import RUNTIME, StageConfig, identity_values, merge
from longcat.stages.extend.schedules import load_schedule
from longcat.stages.formats.training_state import Packing
from longcat.stages.train.config import RunSoFar, TrainingOptions, check_one_length, step_count


class Phase(StageConfig):
    """One phase with a sequence length."""

    sequence_length: int = Field(
        ge=1, description="tokens per sequence; the model's context becomes at least this long"
    )
    rope_theta: float | None = Field(
        default=None, gt=1, description="base of the rotary frequencies; null: as before the phase"
    )
    rope_scaling: RopeScaling | None = Field(
        default=None, description="YaRN from this phase on, see `rope_scaling` of a model; null: as before the phase"
    )
    attention: str | dict[str, Any] | None = Field(
        default=None,
        description="convert the model to this attention, as `attention` of a model; null: as before the phase",
    )
    steps: int | None = Field(default=None, ge=1, description="optimizer steps")
    token_budget: int | None = Field(
        default=None, ge=1, description="training tokens, instead of steps; rounded up to whole steps"
    )
    batch_size: int = Field(default=8, ge=1, description="sequences per optimizer step")
    micro_batch_size: int | None = Field(
        default=1,
        ge=1,
        description="sequences per forward pass; smaller needs less memory; null: the batch",
        json_schema_extra=RUNTIME,
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


class PhasesSoFar(RunSoFar):
    """The part of an extension that was done before the save it goes on from; set by `--resume-from`."""

    phase: int = Field(default=0, ge=0, description="number of the phase in which the save lies, from 0")
    phase_steps: int = Field(default=0, ge=0, description="steps of this phase before the save")
    phase_tokens: int = Field(default=0, ge=0, description="tokens of this phase before the save")


class ExtendConfig(TrainingOptions):
    """Configuration of `extend`. The learning rate schedule spans all phases."""

    length_schedule: str | None = Field(
        default=None,
        description="bundled schedule with the phases and what belongs to them, see `longcat extend schedules list`; "
        "values given beside it win",
        json_schema_extra=RUNTIME,
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate")
    long_document_fraction: float = Field(
        default=0.25, ge=0, le=1, description="fraction of sequences taken only from long documents"
    )
    packing: Packing = Field(
        default="best_fit",
        description="best_fit: a long document begins at the start of a sequence, and none that fits is cut; what "
        "stays empty is padded. joined: sequences are cut from the joined documents",
    )
    long_document_reading: Literal["of_all", "added"] = Field(
        default="of_all",
        description="what the fraction refers to: all sequences, or the others, to which long ones are added "
        "(0.25 added: a fifth of all)",
    )
    phases: tuple[Phase, ...] = Field(
        default=(
            Phase(sequence_length=32_768, rope_theta=5e6, token_budget=80_000_000_000, batch_size=32),
            Phase(sequence_length=131_072, rope_theta=1e7, token_budget=20_000_000_000, batch_size=8),
        ),
        min_length=1,
        description="phases in order; the default is the published one (80 B tokens at 32k, 20 B at 128k)",
    )
    resumed: PhasesSoFar = PhasesSoFar()

    @model_validator(mode="before")
    @classmethod
    def _of_schedule(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(name := values.get("length_schedule"), str):
            return values
        config = load_schedule(name).config
        phases = TypeAdapter(tuple[Phase, ...])
        if "phases" in values:  # as in the configuration of a finished run
            own, given = (phases.validate_python(each["phases"]) for each in (config, values))
            if [*map(identity_values, own)] != [*map(identity_values, given)]:
                raise ValueError(f"length_schedule = {name!r} and phases exclude each other; remove one")
        return merge(config, dict(values))

    @model_validator(mode="after")
    def _lengths_and_bases_grow(self) -> Self:
        for key in ("sequence_length", "rope_theta"):
            given = [(number, getattr(phase, key)) for number, phase in enumerate(self.phases)]
            for (_, low), (number, high) in pairwise([item for item in given if item[1] is not None]):
                if high < low:
                    raise ValueError(
                        f"phases.{number}.{key} = {high:g} is below the {low:g} of the phase before; "
                        "an extension never shortens sequences nor lowers the base"
                    )
        return self

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if not self.phases_left:
            raise ValueError(
                f"phases have {sum(phase.step_count for phase in self.phases)} steps, of which the run has done "
                f"{self.resumed.steps}; give the last phase more steps, or another phase after it"
            )
        return self

    @property
    def phases_left(self) -> tuple[Phase, ...]:
        """Phases that this run trains, with the steps that they have left."""
        left = ((phase, self._steps_left(number)) for number, phase in enumerate(self.phases))
        return tuple(phase.model_copy(update={"steps": steps, "token_budget": None}) for phase, steps in left if steps)

    @property
    def first_phase(self) -> int:
        """Number of the first of `phases_left`."""
        return len(self.phases) - len(self.phases_left)

    @property
    def steps_of_first(self) -> int:
        """Steps of the first of `phases_left` before this run."""
        return self.resumed.phase_steps if self.first_phase == self.resumed.phase else 0

    def _steps_left(self, number: int) -> int:
        done, phase = self.resumed, self.phases[number]
        if number != done.phase:
            return phase.step_count if number > done.phase else 0
        if phase.steps is not None:
            return max(0, phase.steps - done.phase_steps)
        tokens = max(0, (phase.token_budget or 0) - done.phase_tokens)
        return step_count(None, tokens, phase.batch_size * phase.sequence_length)

    @property
    def long_document_share(self) -> float:
        """Fraction of all sequences that are taken from long documents only."""
        fraction = self.long_document_fraction
        return fraction / (1 + fraction) if self.long_document_reading == "added" else fraction

    @property
    def all_steps(self) -> int:
        return sum(phase.step_count for phase in self.phases_left)

    @property
    def last_step(self) -> int:
        return self.resumed.steps + self.all_steps

    def first_steps(self, steps: int) -> dict[str, Any]:
        done, left = self.resumed, steps
        phases = list(self.phases[: done.phase])
        for number, phase in enumerate(self.phases[done.phase :], start=done.phase):
            before, own = (done.phase_steps if number == done.phase else 0), self._steps_left(number)
            if left > 0:
                kept = {"steps": before + min(left, own), "token_budget": None}
                phases.append(phase.model_copy(update=kept))
                left -= own
        return {"phases": tuple(phases), "length_schedule": None}
