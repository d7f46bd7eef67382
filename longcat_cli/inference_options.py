"""Options shared by generate, chat and serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from longcat.cli import completion
from longcat.cli.settings import settings_of

Checkpoint = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="REF",
        help="A checkpoint: name, name@version, id prefix or folder.",
        autocompletion=completion.references("checkpoint"),
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="auto: cuda if available.")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option("--dtype", help="Dtype of the weights; auto: bfloat16 on cuda."),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: all cores).")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Maximum length of an answer, in tokens.")]
Weights = Annotated[
    Literal["auto", "plain", "fp32", "fp16", "bf16", "int8", "int4"] | None,
    typer.Option("--weights", help="Form of the weights on a CPU; int8 is the fastest. [default: auto, lossless]"),
]
Drafts = Annotated[
    Literal["auto", "off", "mtp", "ngram"] | None,
    typer.Option("--drafts", help="Source of draft tokens, verified in one step. [default: auto: mtp if any]"),
]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="The same bits whatever else is computed; slower.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as engine.offload.tier=memory. Repeatable."),
]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 always picks the most likely token.")]
TopP = Annotated[float, typer.Option("--top-p", min=0.0, max=1.0, help="Nucleus sampling: keep this probability mass.")]
TopK = Annotated[int | None, typer.Option("--top-k", min=1, help="Sample from this many most likely tokens.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Sampling seed.")]


def checkpoint_folder(ctx: typer.Context, reference: str) -> Path:
    """Resolve a reference to the folder of a checkpoint.

    Raises:
        MissingArtifactError: it matches no artifact.
        UsageError: it is an artifact of another kind.
    """
    from longcat.pipeline.errors import UsageError

    folder = Path(reference).expanduser()
    # A folder written by another tool has weights but no manifest.
    if (folder / "config.json").is_file() and not (folder / "manifest.json").is_file():
        return folder
    artifact = settings_of(ctx).open_store().take(reference)
    if artifact.kind != "checkpoint":
        raise UsageError(f"{reference} is a {artifact.kind} artifact, expected a checkpoint")
    return artifact.path


def engine_values(weights: str | None, drafts: str | None, *, deterministic: bool) -> dict[str, Any]:
    """Values of `EngineOptions` that were given as options."""
    given = {"weights": weights, "drafts": drafts, "deterministic": deterministic or None}
    return {name: value for name, value in given.items() if value is not None}


def configured_sections(
    sections: Sequence[str], file: Path | None, assignments: Sequence[str]
) -> dict[str, Mapping[str, Any]]:
    """Settings by section, those of `assignments` over those in `file`.

    Raises:
        ConfigError: an unknown section, or one that is not a mapping.
    """
    from longcat.pipeline.config import load_mapping, merge, parse_assignments
    from longcat.pipeline.errors import ConfigError

    given = merge(load_mapping(file) if file is not None else {}, parse_assignments(assignments))
    for name, section in given.items():
        if name not in sections:
            hint = f"settings begin with {' or '.join(sections)}, such as engine.step_tokens"
            raise ConfigError(f"unknown key {name!r}", where="--set or --config", hint=hint)
        if not isinstance(section, Mapping):
            raise ConfigError(f"{name!r} is not a mapping (found {section!r})", where="--set or --config")
    return {name: given.get(name) or {} for name in sections}
