"""`longcat serve`: an OpenAI-compatible server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from longcat.cli.inference_options import (
    Checkpoint,
    Deterministic,
    Device,
    Drafts,
    Dtype,
    Threads,
    Weights,
    checkpoint_folder,
    configured_sections,
    engine_values,
)
from longcat.cli.settings import settings_of

# The parts of a configuration.
SECTIONS = ("serve", "engine")
LISTEN, KEYS, LIMITS, ENGINES = "Address", "Access", "Limits", "Another engine"


def register(root: typer.Typer) -> None:
    """Register the command."""
    root.command("serve")(serve)


def serve(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    host: Annotated[str, typer.Option("--host", help="Address to bind.", rich_help_panel=LISTEN)] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to bind; 0 picks a free one.", rich_help_panel=LISTEN)
    ] = 8000,
    uds: Annotated[
        Path | None, typer.Option("--uds", help="Unix socket to bind instead of host and port.", rich_help_panel=LISTEN)
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM file of the certificate chain.", rich_help_panel=LISTEN)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="PEM file of the certificate's key.", rich_help_panel=LISTEN)
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Model name for clients (default: the reference).")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            metavar="KEY",
            help="Key that clients must send (repeatable; default: the environment variable LONGCAT_API_KEY).",
            rich_help_panel=KEYS,
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option("--api-key-file", help="File with one key per line.", rich_help_panel=KEYS)
    ] = None,
    admin_key: Annotated[
        list[str] | None,
        typer.Option(
            "--admin-key",
            metavar="KEY",
            envvar="LONGCAT_ADMIN_KEY",
            show_envvar=True,
            help="Key for POST /admin/model, which serves another checkpoint (default: there is no such route).",
            rich_help_panel=KEYS,
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Let web pages of this origin call the server (repeatable; * for any).",
            rich_help_panel=KEYS,
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="HOST",
            help="Also answer requests for this host name (repeatable; *.example.com for all subdomains, * for any).",
            rich_help_panel=KEYS,
        ),
    ] = None,
    page: Annotated[
        bool | None, typer.Option("--page/--no-page", help="Serve a chat page at /. [default: page]")
    ] = None,
    max_queue: Annotated[
        int | None,
        typer.Option(
            "--max-queue",
            min=1,
            help="Maximum number of waiting requests; more get 429. [default: 32]",
            rich_help_panel=LIMITS,
        ),
    ] = None,
    log_requests: Annotated[
        bool | None,
        typer.Option(
            "--log-requests", help="Write a line of JSON for each request, without texts.", show_default=False
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file with settings, such as serve: {request_seconds: 60}."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as serve.request_seconds=60. Repeatable."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    weights: Weights = None,
    drafts: Drafts = None,
    deterministic: Deterministic = False,
    engine: Annotated[
        Literal["longcat", "vllm", "sglang"],
        typer.Option("--engine", help="Let an installed vLLM or SGLang serve.", rich_help_panel=ENGINES),
    ] = "longcat",
    export_dir: Annotated[
        Path | None,
        typer.Option("--export-dir", help="Folder for weights that the engine can load.", rich_help_panel=ENGINES),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the engine's command.", rich_help_panel=ENGINES)
    ] = False,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- ARGUMENTS", help="Arguments of the engine.", rich_help_panel=ENGINES),
    ] = None,
) -> None:
    """Serve a checkpoint with OpenAI's API at /v1 until SIGTERM or Ctrl-C.

    Examples:

      [cyan]longcat serve --checkpoint extended --port 8000[/cyan]

      [cyan]longcat serve --checkpoint extended --set serve.request_seconds=60[/cyan]

      [cyan]curl http://127.0.0.1:8000/v1/models[/cyan]

    The settings that matter most, for --set and --config:

      serve.request_seconds=600           time limit of a request, including waiting

      serve.chat_tokens=1024              default max_tokens of a chat

      serve.completion_tokens=16          default max_tokens of a completion

      serve.max_body_bytes=4194304        maximum size of a request

      serve.limits.choices=16             maximum of n

      serve.limits.prompt_choices=128     maximum of prompts times n

      serve.connections.total=1024        connections in all

      serve.connections.per_address=256   connections of one address, 0 behind a proxy

      serve.drain.announce_seconds=5      time in which a stopping server still answers, with 503

      serve.drain.seconds=60              time for running requests to finish after that

      engine.cache_tokens=65536           tokens that the cache holds, of all requests and known prefixes

      engine.step_tokens=256              maximum number of tokens in a step

      engine.max_sequences=32             maximum number of sequences that are computed at once

      engine.offload.tier=memory          keep the cache in a slow tier (memory or disk), a few blocks in a fast one

    """
    # oneDNN keeps a compiled product of every shape of a step, by default up to 1,024: hundreds of MiB of a long run.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    from longcat.cli import hand_over
    from longcat.cli.console import make_logger, make_progress, say
    from longcat.stages.serve.server import Door
    from longcat.stages.serve.server import serve as run_server

    settings = settings_of(ctx)
    make_logger(quiet=settings.quiet, debug=settings.debug or settings.verbose)
    choices: dict[str, Any] = {"device": device, "dtype": dtype}
    door = Door(
        host=host,
        port=port,
        uds=uds,
        tls_cert=tls_cert,
        tls_key=tls_key,
        api_keys=tuple(api_key or ()),
        key_file=api_key_file,
        admin_keys=tuple(admin_key or ()),
        allowed_hosts=tuple(allowed_host or ()),
    )
    options: dict[str, Any] = {
        "model_name": model_name,
        "page": page,
        "max_queue": max_queue,
        "log_requests": log_requests,
    }
    configured = configured_sections(SECTIONS, config_file, assignments or ())
    values = {"model_name": checkpoint, **configured["serve"]}
    of_engine = {**configured["engine"], **engine_values(weights, drafts, deterministic=deterministic)}
    if allow_origin:
        options["cors_origins"] = tuple(allow_origin)
    values |= {name: value for name, value in options.items() if value is not None}
    progress = make_progress(quiet=settings.quiet)
    if engine != "longcat":
        hand_over.refuse_ours({"--device cpu": device == "cpu" or None, "--threads": threads}, engine)
        hand_over.start(
            engine,
            checkpoint_folder(ctx, checkpoint),
            door,
            hand_over.flat_settings("serve", values) | hand_over.flat_settings("engine", of_engine),
            dtype=dtype,
            export_dir=export_dir,
            arguments=tuple(arguments or ()),
            dry_run=dry_run,
            progress=progress,
        )
        return
    hand_over.refuse_alone(export_dir=export_dir, dry_run=dry_run, arguments=arguments)
    run_server(
        checkpoint_folder(ctx, checkpoint),
        door,
        values=values,
        engine_values=of_engine,
        threads=threads,
        progress=progress,
        resolve=lambda reference: checkpoint_folder(ctx, reference),
        on_ready=lambda address: say(f"serving {values['model_name']} at {address}/v1"),
        **choices,
    )
