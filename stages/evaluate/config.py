"""What an evaluation can be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.stages.device import resolve_device, resolve_dtype

Depth = Annotated[float, Field(ge=0, le=1)]


class NeedleOptions(StageConfig):
    """A fact hidden in validation text, asked for at the end."""

    lengths: tuple[Annotated[int, Field(ge=64)], ...] = Field(
        default=(256, 512, 1024, 2048),
        max_length=32,
        description="tokens from the first of the haystack to the last of the answer; lengths beyond a checkpoint's "
        "context are skipped for it; none: no needles",
    )
    depths: tuple[Depth, ...] = Field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0),
        min_length=1,
        max_length=101,
        description="where the needle stands, as a share of the haystack: 0 at its start, 1 before the question",
    )
    trials: int = Field(default=4, ge=1, le=1000, description="needles for every length and depth")
    candidates: int = Field(
        default=8,
        ge=2,
        le=100,
        description="answers whose log-probabilities are ranked; the share a guess gets right is 1/this",
    )


class SampleOptions(StageConfig):
    """Continuations to read."""

    prompts: tuple[str, ...] = Field(
        default=(
            "The most important thing about",
            "To install the package, run",
            "In this section we describe how",
            "Question: What is the capital of France?\nAnswer:",
        ),
        max_length=100,
        description="texts to continue, each once greedily and once by sampling",
    )
    max_tokens: int = Field(default=64, ge=1, le=4096, description="tokens of a continuation")
    temperature: float = Field(default=0.8, gt=0, le=10, description="temperature of the sampled continuation")
    top_p: float = Field(default=0.95, gt=0, le=1, description="probability mass that is sampled from")


class EvaluateConfig(StageConfig):
    """Configuration of `evaluate`."""

    sequence_length: int | None = Field(
        default=None,
        ge=2,
        description="tokens of a validation window; null: the shortest context among the checkpoints, at most 4096",
    )
    windows: int = Field(default=64, ge=1, le=100_000, description="validation windows, spread evenly over the tokens")
    needle: NeedleOptions = NeedleOptions()
    samples: SampleOptions = SampleOptions()
    labels: tuple[str, ...] = Field(
        default=(), description="name of each checkpoint in the report, in their order; none: as they were typed"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of needles and samples")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: cuda where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of the weights; auto: bfloat16 on cuda, float32 elsewhere"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; null: all cores; the last bits depend on it"
    )

    def resolved(self) -> Self:
        """Device and dtype as they are on this machine: they change the bits."""
        device = resolve_device(self.device)
        return self.model_copy(update={"device": device, "dtype": resolve_dtype(self.dtype, device)})

    def with_references(self, references: Mapping[str, Sequence[str]]) -> Self:
        """Checkpoints are called what the user called them, unless there are labels."""
        typed = references.get("checkpoints", ())
        return self.model_copy(update={"labels": tuple(typed)}) if typed and not self.labels else self

    @model_validator(mode="after")
    def _prompts_are_texts(self) -> Self:
        if not all(self.samples.prompts):
            raise ValueError("samples.prompts: an empty prompt gives the model nothing to continue")
        return self
