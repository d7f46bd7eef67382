"""`longcat model ...`: size and cost of an architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from longcat.cli import completion

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig

app = typer.Typer(
    no_args_is_help=True,
    help="List the bundled architectures, and describe any architecture.\n\n"
    "Example: [cyan]longcat model describe longcat-flash[/cyan]",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def register(root: typer.Typer) -> None:
    """Register the command group."""
    root.add_typer(app, name="model")


@app.command("list")
def list_presets(as_json: Json = False) -> None:
    """List the bundled architectures.

    Example: [cyan]longcat model list[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.model_report import print_presets
    from longcat.model.accounting import count
    from longcat.model.presets import load_preset, preset_description, preset_names

    found = [(name, preset_description(name), count(load_preset(name))) for name in preset_names()]
    if as_json:
        print_json(
            [
                {"name": name, "description": text, "total": sizes.total, "activated": sizes.activated_mean}
                for name, text, sizes in found
            ]
        )
        return
    print_presets(found)


@app.command()
def describe(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A preset, a checkpoint (name, name@version, id prefix) or a folder.",
            autocompletion=completion.models,
        ),
    ],
    context: Annotated[
        int | None,
        typer.Option(
            "--context", min=1, help="Context length in tokens for FLOPs and KV cache (default: 8192, or the model's)."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Describe a model: parameters by part, active parameters, FLOPs, KV cache and memory, from the configuration
    alone.

    Examples:

      [cyan]longcat model describe longcat-flash[/cyan]

      [cyan]longcat model describe longcat-flash --context 131072 --json[/cyan]

      [cyan]longcat model describe base@2[/cyan]
    """
    from dataclasses import asdict

    from longcat.cli.console import print_json
    from longcat.cli.model_report import print_accounting
    from longcat.model.accounting import count

    config, description = find_model(ctx, model)
    sizes = count(config, context)
    if as_json:
        print_json({"model": model, "description": description, "config": config.to_dict(), **asdict(sizes)})
    else:
        print_accounting(model, description, config, sizes)


@app.command("attention-importance")
def attention_importance(
    ctx: typer.Context,
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="A checkpoint: name, name@version, id prefix or folder.",
            autocompletion=completion.references("checkpoint"),
        ),
    ],
    tokens: Annotated[
        str,
        typer.Option(
            "--tokens",
            metavar="REF",
            help="Tokens, of which the validation part is read.",
            autocompletion=completion.references("tokens"),
        ),
    ],
    sequence_length: Annotated[
        int | None, typer.Option("--sequence-length", min=2, help="Tokens of a window (default: the model's context).")
    ] = None,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Windows, spread evenly over the tokens.")] = 16,
    size: Annotated[int, typer.Option("--size", min=1, help="Local positions, with the token's own.")] = 896,
    sinks: Annotated[int, typer.Option("--sinks", min=0, help="First positions, which all tokens see.")] = 128,
    block: Annotated[int, typer.Option("--block", min=1, help="Positions by which the local ones move.")] = 128,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads (default: all cores).")] = None,
    as_json: Json = False,
) -> None:
    """Measure which attention modules may become streaming: the change of the loss if one of them sees only the first
    and the last positions, and a pattern of the least important half.

    Example: [cyan]longcat model attention-importance base --tokens tokens --size 96 --sinks 32 --block 32[/cyan]
    """
    from pydantic import ValidationError

    from longcat.cli.console import print_json
    from longcat.cli.importance_report import print_importance
    from longcat.cli.settings import settings_of
    from longcat.model.attention.window import WindowOptions
    from longcat.model.errors import first_problem
    from longcat.pipeline.errors import ConfigError
    from longcat.stages.evaluate.importance import importance_of_checkpoint

    try:
        options = WindowOptions(size=size, sinks=sinks, block=block)
    except ValidationError as error:
        raise ConfigError(first_problem(error)) from None
    store = settings_of(ctx).open_store()
    found = importance_of_checkpoint(
        store.resolve(checkpoint), store.resolve(tokens), options, sequence_length, windows, threads
    )
    if as_json:
        print_json(found.to_json())
    else:
        print_importance(found)


def find_model(ctx: typer.Context, model: str) -> tuple[ModelConfig, str]:
    """Resolve a word to a configuration and its description: a preset, else a folder or its config.json, else an
    artifact.

    Raises:
        MissingArtifactError: it means nothing.
        ConfigError: config.json is missing, damaged or of another architecture.
    """
    from longcat.cli.inference_options import checkpoint_folder
    from longcat.model.checkpoint import load_config
    from longcat.model.errors import ModelError
    from longcat.model.presets import load_preset, preset_description, preset_names
    from longcat.pipeline.errors import ConfigError, MissingArtifactError

    if model in preset_names():
        return load_preset(model), preset_description(model)
    try:
        folder = checkpoint_folder(ctx, model.removesuffix("/config.json"))
    except MissingArtifactError as error:
        hint = f"presets: {', '.join(preset_names())}; checkpoints: `longcat artifacts list`"
        raise MissingArtifactError(error.what, hint=hint) from None
    try:
        return load_config(folder, quantized="read"), ""
    except ModelError as error:
        raise ConfigError(str(error)) from None
