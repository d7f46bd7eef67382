"""Configuration of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.stages.device import Device, Dtype, resolve_device, resolve_dtype

Depth = Annotated[float, Field(ge=0, le=1)]


class NeedleOptions(StageConfig):
    """Needle-in-a-haystack test: a fact hidden in validation text, queried at the end."""

    lengths: tuple[Annotated[int, Field(ge=64)], ...] = Field(
        default=(256, 512, 1024, 2048),
        max_length=32,
        description="total tokens of haystack, question and answer; lengths beyond a checkpoint's "
        "context are skipped; empty: no needles",
    )
    depths: tuple[Depth, ...] = Field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0),
        min_length=1,
        max_length=101,
        description="position of the needle as a fraction of the haystack: 0 at its start, 1 before the question",
    )
    trials: int = Field(default=4, ge=1, le=1000, description="needles per length and depth")
    candidates: int = Field(
        default=8,
        ge=2,
        le=100,
        description="number of answers that are ranked by log-probability; chance is 1/this",
    )


class SampleOptions(StageConfig):
    """Sample continuations."""

    prompts: tuple[str, ...] = Field(
        default=(
            "The most important thing about",
            "To install the package, run",
            "In this section we describe how",
            "Question: What is the capital of France?\nAnswer:",
        ),
        max_length=100,
        description="prompts, each continued once greedily and once by sampling",
    )
    max_tokens: int = Field(default=64, ge=1, le=4096, description="maximum tokens per continuation")
    temperature: float = Field(default=0.8, gt=0, le=10, description="temperature of the sampled continuation")
    top_p: float = Field(default=0.95, gt=0, le=1, description="probability mass for nucleus sampling")


class EvaluateConfig(StageConfig):
    """Configuration of `evaluate`."""

    sequence_length: int | None = Field(
        default=None,
        ge=2,
        description="tokens per validation window; null: the shortest context among the checkpoints, at most 4096",
    )
    windows: int = Field(default=64, ge=1, le=100_000, description="validation windows, spread evenly over the tokens")
    document_mask: bool = Field(
        default=True, description="a token of a window sees its own document only, as in training"
    )
    loss_across_documents: bool = Field(
        default=True, description="the first token of a document is scored, predicted from the end of the one before"
    )
    needle: NeedleOptions = NeedleOptions()
    samples: SampleOptions = SampleOptions()
    labels: tuple[str, ...] = Field(
        default=(), description="names of the checkpoints in the report, in order; empty: as typed"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of needles and samples")
    device: Device = Field(default="auto", description="auto: cuda if available")
    dtype: Dtype = Field(default="auto", description="dtype of the weights; auto: bfloat16 on cuda, float32 elsewhere")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; null: all cores; affects the last bits of results"
    )

    def resolved(self) -> Self:
        """Resolve device and dtype on this machine, since they affect the bits."""
        device = resolve_device(self.device)
        return self.model_copy(update={"device": device, "dtype": resolve_dtype(self.dtype, device)})

    def with_references(self, references: Mapping[str, Sequence[str]]) -> Self:
        """Label checkpoints as the user typed them, unless there are labels."""
        typed = references.get("checkpoints", ())
        return self.model_copy(update={"labels": tuple(typed)}) if typed and not self.labels else self

    @model_validator(mode="after")
    def _prompts_are_texts(self) -> Self:
        if not all(self.samples.prompts):
            raise ValueError("samples.prompts: an empty prompt gives the model nothing to continue")
        return self
