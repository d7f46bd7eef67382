"""`longcat quantize`: a checkpoint with weights of fewer bits, and its perplexity before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from longcat.cli.stage_command import add_stage_command
from longcat.cli.stage_spec import Spec

if TYPE_CHECKING:
    from longcat.pipeline.store import Store


def register(root: typer.Typer) -> None:
    """Register the command."""
    spec = Spec(
        "quantize",
        "Write a checkpoint with weights of fewer bits and measure its perplexity.",
        (
            "longcat quantize extended --weights int8 --name extended-int8",
            "longcat quantize extended --weights fp8 --tokens tokens --name extended-fp8",
        ),
        positional="checkpoint",
        complete=tokens_of_lineage,
    )
    add_stage_command(root, "quantize", spec)


def tokens_of_lineage(store: Store, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The given inputs; tokens that were not given are those that the checkpoint was last trained on, if any."""
    from longcat.pipeline.lineage import ancestry

    if "tokens" in inputs or "checkpoint" not in inputs:
        return dict(inputs)
    found = [item for item in ancestry(store, store.resolve(inputs["checkpoint"])) if item.manifest.kind == "tokens"]
    return {**inputs, "tokens": found[-1].id} if found else dict(inputs)
