"""`longcat serve`: an OpenAI-compatible server."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from longcat.cli.inference_options import Checkpoint, Device, Dtype, Threads, checkpoint_folder
from longcat.cli.settings import settings_of


def register(root: typer.Typer) -> None:
    """Add the command."""
    root.command("serve")(serve)


def serve(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    host: Annotated[str, typer.Option("--host", help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to bind; 0 takes a free one.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Name that clients use (default: the reference).")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="LONGCAT_API_KEY", show_envvar=True, help="Key that clients must send."),
    ] = None,
    max_queue: Annotated[int, typer.Option("--max-queue", min=1, help="Requests that may wait; more get 429.")] = 32,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="HOST",
            help="Also answer requests for this host name (repeatable; *.example.com for all below, * for any).",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Serve /v1/models, /v1/completions and /v1/chat/completions until SIGTERM or Ctrl-C.

    Examples:

      [cyan]longcat serve --checkpoint extended --port 8000[/cyan]

      [cyan]curl http://127.0.0.1:8000/v1/models[/cyan]
    """
    from longcat.cli.console import make_logger, make_progress, say
    from longcat.stages.serve.server import serve as run_server

    settings = settings_of(ctx)
    make_logger(quiet=settings.quiet, debug=settings.debug or settings.verbose)
    choices: dict[str, Any] = {"device": device, "dtype": dtype}
    run_server(
        checkpoint_folder(ctx, checkpoint),
        host=host,
        port=port,
        model_name=model_name or checkpoint,
        api_key=api_key,
        max_queue=max_queue,
        allowed_hosts=tuple(allowed_host or ()),
        threads=threads,
        progress=make_progress(quiet=settings.quiet),
        on_ready=lambda address: say(f"serving {model_name or checkpoint} at {address}/v1"),
        **choices,
    )
