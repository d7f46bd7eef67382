"""Output of `longcat bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from longcat.stages.bench.serve.options import LoadOptions
    from longcat.stages.bench.serve.summary import Summary

# Milliseconds: above, the client itself could not keep up with the arrivals.
LATE = 50.0


def print_summary(options: LoadOptions, summary: Summary) -> None:
    """Print counts and rates, then times in milliseconds, errors and warnings."""
    from longcat.cli.console import out, say
    from longcat.cli.tables import table

    rates = table("load test", ">value")
    for name, value in _rates(options, summary):
        rates.add_row(name, value)
    out().print(rates)
    times = table("milliseconds", ">mean", ">p50", ">p90", ">p99", ">max", leaves=("max", "mean"))
    spreads = {"TTFT": summary.ttft, "TPOT": summary.tpot, "ITL": summary.itl, "end to end": summary.e2e}
    for name, spread in spreads.items():
        if spread is not None:
            figures = (spread.mean, *spread.percentiles.values(), spread.maximum)
            times.add_row(name, *(f"{figure:.2f}" for figure in figures))
    if times.row_count:
        out().print()
        out().print(times)
    if summary.errors:
        errors = table("error", ">requests", "~first message")
        for name, number in summary.errors.items():
            errors.add_row(name, str(number), summary.details[name])
        out().print()
        out().print(errors)
    for warning in _warnings(options, summary):
        say(f"warning: {warning}")


def _rates(options: LoadOptions, summary: Summary) -> list[tuple[str, str]]:
    load = f"{options.concurrency} clients" if options.rate is None else f"{options.rate:g} requests/s"
    total = summary.total_throughput
    rows = [
        ("model", str(options.model)),
        ("load", load),
        ("completed", f"{summary.completed} of {summary.requests}"),
        ("seconds", f"{summary.seconds:.2f}"),
        ("prompt tokens", "unknown" if summary.prompt_tokens is None else str(summary.prompt_tokens)),
        ("output tokens", str(summary.output_tokens)),
        ("requests/s", f"{summary.request_throughput:.2f}"),
        ("output tokens/s", f"{summary.output_throughput:.2f}"),
        ("tokens/s", "unknown" if total is None else f"{total:.2f}"),
    ]
    if summary.cached_tokens is not None:
        rows.insert(5, ("of these cached", str(summary.cached_tokens)))
    return rows


def _warnings(options: LoadOptions, summary: Summary) -> list[str]:
    warnings = []
    if summary.completed and not summary.counted:
        warnings.append("the server reports no usage in streams: each chunk is counted as one output token")
    if options.rate is not None and summary.lag > LATE:
        warnings.append(f"requests were sent up to {summary.lag:.0f} ms late: this machine cannot offer that rate")
    return warnings
