"""Checks of an evaluation before any checkpoint is made or read; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longcat.pipeline.errors import ConfigError
from longcat.stages.evaluate.config import EvaluateConfig
from longcat.stages.formats.architecture import architecture_of

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def check_evaluation(config: EvaluateConfig, checkpoints: Sequence[PlannedInput]) -> dict[str, int]:
    """Check labels and lengths against the known checkpoints; returns `needle_lengths_skipped` and
    `recall_lengths_skipped`, if any are.

    Raises:
        ConfigError: labels are missing or too many, a window is longer than a checkpoint's context, or all requested
            needle or recall lengths exceed the context of every checkpoint.
    """
    check_labels(config, len(checkpoints))
    contexts = {}
    for checkpoint in checkpoints:
        model = architecture_of(checkpoint)
        if model is not None:
            contexts[checkpoint.name or checkpoint.id] = model.max_position_embeddings
    if contexts:
        name = min(contexts, key=lambda name: contexts[name])
        check_window(config.sequence_length, name, contexts[name])
    if len(contexts) < len(checkpoints) or config.beyond_context:
        return {}
    name = max(contexts, key=lambda name: contexts[name])
    skipped = {}
    for part, options in (("needle", config.needle), ("recall", config.recall)):
        beyond = [length for length in options.lengths if length > contexts[name]]
        if beyond and beyond == list(options.lengths) and "lengths" in options.model_fields_set:
            raise ConfigError(
                f"{part}.lengths: {min(beyond)} exceeds every checkpoint's context, the longest is {name}: "
                f"{contexts[name]}",
                hint="use a shorter one, evaluate a checkpoint with a longer context, or set beyond_context",
            )
        if beyond:
            skipped[f"{part}_lengths_skipped"] = len(beyond)
    return skipped


def check_labels(config: EvaluateConfig, checkpoints: int) -> None:
    """Raise ConfigError unless there are no labels, or one per checkpoint."""
    if config.labels and len(config.labels) != checkpoints:
        raise ConfigError(
            f"labels: {len(config.labels)} names for {checkpoints} checkpoints", hint="pass one per checkpoint"
        )


def check_window(length: int | None, shortest: str, context: int) -> None:
    """Raise ConfigError if windows of this length exceed the shortest context."""
    if length is not None and length > context:
        raise ConfigError(
            f"sequence_length = {length}, but {shortest} has a context of {context} tokens",
            hint="lower it: all checkpoints are measured on the same windows",
        )
