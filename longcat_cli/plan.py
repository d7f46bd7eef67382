"""`longcat plan`: what a training run needs on many devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from longcat.cli import completion


def register(root: typer.Typer) -> None:
    """Register the command."""
    root.command("plan")(plan)


def plan(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A preset, a checkpoint (name, name@version, id prefix), a folder or its config.json.",
            autocompletion=completion.models,
        ),
    ],
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Training tokens, e.g. 20T, 300B. [default: 20T]")
    ] = None,
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="Number of devices (default: few that hold the state).")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="a100, h100, h800, h200, b200, mi300x, or cpu: this machine. [default: h800]"),
    ] = None,
    sequence_length: Annotated[
        int | None,
        typer.Option("--sequence-length", min=1, help="Tokens per sequence (default: 8192, or the model's)."),
    ] = None,
    batch_tokens: Annotated[
        str | None, typer.Option("--batch-tokens", help="Tokens per step (default: 65,536 a device, at most 2^26).")
    ] = None,
    layout: Annotated[
        list[str] | None,
        typer.Option("--layout", metavar="KEY=VALUE", help="A value that the layout must have; repeatable."),
    ] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="YAML file with options of the plan.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An assumption, nested with dots; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Plan a training run: the layout of processes that fits and is fastest, memory, traffic, time, cost, serving.

    Everything is computed; nothing is started. Every assumption is printed and can be changed with --set.

    Examples:

      [cyan]longcat plan longcat-flash --devices 1024 --device h800[/cyan]

      [cyan]longcat plan longcat-flash --devices 2048 --layout expert=32 --set efficiency=0.35[/cyan]

      [cyan]longcat plan longcat-1b --tokens 300B --device b200 --set device_values.dollars_per_hour=3[/cyan]

      [cyan]longcat plan longcat-6b --sequence-length 32768 --layout context=8 --json[/cyan]
    """
    from longcat.cli.console import print_json
    from longcat.cli.model import find_model
    from longcat.cli.plan_report import print_plan
    from longcat.pipeline.config import build_config, load_mapping, merge, parse_assignments
    from longcat.stages.plan.config import PlanOptions
    from longcat.stages.plan.estimate import make_plan

    given: dict[str, Any] = {
        "tokens": tokens,
        "devices": devices,
        "device": device,
        "sequence_length": sequence_length,
        "batch_tokens": batch_tokens,
    }
    values = merge(load_mapping(config_file) if config_file else {}, parse_assignments(assignments or []))
    values = merge(values, {key: value for key, value in given.items() if value is not None})
    if layout:
        values = merge(values, {"layout": parse_assignments(layout)})
    options = build_config(PlanOptions, values, str(config_file) if config_file else "plan")
    made = make_plan(find_model(ctx, model)[0], options)
    if as_json:
        print_json({"model": model, **made.to_json()})
    else:
        print_plan(model, made)
