"""Configuration of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from longcat.pipeline.config import StageConfig
from longcat.stages.device import Device, Dtype, resolve_device, resolve_dtype
from longcat.stages.formats.key_values import DEFAULT_STATEMENT, MOST_WORDS, Statement

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


class RecallOptions(StageConfig):
    """Recall among many facts: made-up keys and values hidden in validation text, each queried at its end."""

    lengths: tuple[Annotated[int, Field(ge=64)], ...] = Field(
        default=(),
        max_length=32,
        description="total tokens of text, facts, question and answer; lengths beyond a checkpoint's context are "
        "skipped; empty: none",
    )
    depths: tuple[Depth, ...] = Field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0),
        min_length=1,
        max_length=101,
        description="positions of the facts as fractions of the text: 0 at its start, 1 before the question",
    )
    keys: int = Field(default=8, ge=1, le=200, description="facts per depth; those of all depths are in one text")
    trials: int = Field(default=1, ge=1, le=1000, description="texts per length; every fact of a text is queried")
    statement: str = Field(
        default=DEFAULT_STATEMENT,
        max_length=200,
        description="sentence of a fact with {key} and, after a space, {value}; the question is the part before it",
    )
    words: int = Field(default=512, ge=1, le=MOST_WORDS, description="number of keys, and of values, to draw from")

    @model_validator(mode="after")
    def _facts_can_be_drawn(self) -> Self:
        Statement.of(self.statement)
        if len(set(self.depths)) < len(self.depths):
            raise ValueError("depths: a depth is given twice")
        if (facts := self.keys * len(self.depths)) > self.words:
            raise ValueError(f"keys: {facts} facts need as many words, but words = {self.words}")
        return self


class PositionOptions(StageConfig):
    """Loss by position, on the beginnings of long validation documents."""

    length: int | None = Field(
        default=None, ge=2, description="tokens read of each document, which has at least as many; null: none"
    )
    documents: int = Field(
        default=8, ge=1, le=10_000, description="documents, spread evenly over those that are long enough"
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
    recall: RecallOptions = RecallOptions()
    positions: PositionOptions = PositionOptions()
    beyond_context: bool = Field(
        default=False,
        description="measure needles, recall and positions beyond a checkpoint's context too, with its rotary angles "
        "as they are: what a model does without an extension",
    )
    samples: SampleOptions = SampleOptions()
    labels: tuple[str, ...] = Field(
        default=(), description="names of the checkpoints in the report, in order; empty: as typed"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="seed of needles, facts and samples")
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

    @property
    def longest(self) -> int:
        """Tokens of the longest text that needles, recall and positions ask for; 0 without them."""
        return max([*self.needle.lengths, *self.recall.lengths, self.positions.length or 0], default=0)

    @model_validator(mode="after")
    def _prompts_are_texts(self) -> Self:
        if not all(self.samples.prompts):
            raise ValueError("samples.prompts: an empty prompt gives the model nothing to continue")
        return self
