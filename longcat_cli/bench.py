"""`longcat bench ...`: load tests of servers."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from longcat.cli.settings import settings_of

app = typer.Typer(
    no_args_is_help=True,
    help="Measure servers.\n\nExample: [cyan]longcat bench serve http://127.0.0.1:8000[/cyan]",
)


class Api(StrEnum):
    """API of the requests."""

    COMPLETIONS = "completions"
    CHAT = "chat"


def register(root: typer.Typer) -> None:
    """Register the command group."""
    root.add_typer(app, name="bench")


@app.command()
def serve(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Address of the server, with or without /v1.")],
    api: Annotated[Api, typer.Option("--api", help="API of the requests.")] = Api.COMPLETIONS,
    model: Annotated[
        str | None, typer.Option("--model", help="Model name (default: the first one of the server).")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="LONGCAT_API_KEY", show_envvar=True, help="API key to send."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="Requests per second, at random times (open loop).")
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency", min=1, max=4096, help="Clients that each wait for their answer (closed loop; default: 8)."
        ),
    ] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", min=1, max=100_000, help="Number of requests (default: 100).")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", min=0.001, help="Seconds after which no request is sent.")
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", min=1, max=1_000_000, help="Tokens of a random prompt.")
    ] = 128,
    output_tokens: Annotated[
        int, typer.Option("--output-tokens", min=1, max=1_000_000, help="Maximum tokens of an answer.")
    ] = 128,
    vocabulary: Annotated[
        int | None,
        typer.Option("--vocabulary", min=1, help="Send random token ids below this number instead of words."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="JSON Lines file of prompts or messages to send.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Ask for answers of full length (not every server knows this).")
    ] = False,
    body: Annotated[str | None, typer.Option("--body", metavar="JSON", help="Further fields of every request.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of prompts and arrivals.")] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds per request.")] = 600.0,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Also write the results to a JSON file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Measure an OpenAI-compatible server under load: latency, throughput, errors.

    Example: [cyan]longcat bench serve http://127.0.0.1:8000 --rate 2 --ignore-eos[/cyan]
    """
    from longcat.cli.bench_report import print_summary
    from longcat.cli.console import make_progress, print_json
    from longcat.pipeline.errors import LongcatError, UsageError
    from longcat.stages.bench.serve.options import LoadOptions
    from longcat.stages.bench.serve.run import run_load

    if rate is not None and concurrency is not None:
        raise UsageError("--rate and --concurrency cannot be combined: an open loop waits for no answer")
    options = LoadOptions(
        url,
        api=api.value,
        model=model,
        api_key=api_key,
        rate=rate,
        concurrency=concurrency or 8,
        requests=requests,
        duration=duration,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        vocabulary=vocabulary,
        prompts=prompts,
        body={**_fields(body), **({"ignore_eos": True} if ignore_eos else {})},
        seed=seed,
        timeout=timeout,
    )
    options, summary = run_load(options, make_progress(quiet=settings_of(ctx).quiet))
    results = {"settings": options.to_json(), **summary.to_json()}
    if output is not None:
        output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(results)
    else:
        print_summary(options, summary)
    if not summary.completed:
        raise LongcatError("no request was completed", where=options.path)


def _fields(body: str | None) -> dict[str, Any]:
    """The fields of `--body`."""
    from longcat.pipeline.errors import UsageError

    try:
        fields = json.loads(body or "{}")
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise UsageError("--body is not a JSON object", hint="""for example --body '{"temperature": 0}'""")
    return fields
