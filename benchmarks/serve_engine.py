"""The engine over a bare loop of model steps, in one process, on the same packed weights and equal rows.

Every round decodes once with each, for every number of rows. The bare loop takes the most likely token of every row;
the engine has a job per row, with an event per token. The table shows medians over the rounds; the last rounds of the
engine also say how many microseconds of a step each of its parts takes.

    python benchmarks/serve_engine.py [--rows 1 8] [--weights auto] [--prompt 128] [--tokens 48] [--rounds 15]
        [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from serve_common import finish, print_table

from longcat.model.init import initialize
from longcat.model.packed.prepare import prepare
from longcat.model.presets import load_preset
from longcat.model.rows import Rows
from longcat.model.step import StepBatch
from longcat.model.transformer import LongcatFlash
from longcat.stages.inference import runner as runner_module
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.jobs import Event, Job, PromptDelta
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams

TARGETS = {1: 0.95, 8: 0.90}
PARTS = ("schedule", "batch", "model", "sampling", "events")


class Bytes:
    """A tokenizer in which every token has one letter; texts of random weights need no other."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size, self.eos_id = vocab_size, 2

    def token_bytes(self, token_id: int) -> bytes:
        return b"a"

    marked_bytes = token_bytes


def build(preset: str, weights: str, **changes: Any) -> LongcatFlash:
    """A model with random weights, packed unless `weights` is plain."""
    model = LongcatFlash(load_preset(preset).model_copy(update=changes))
    initialize(model, seed=0)
    model.eval().requires_grad_(False)
    if weights != "plain":
        prepare(model, weights)  # type: ignore[arg-type]
    return model


def bare(model: LongcatFlash, ids_BT: torch.Tensor, tokens: int) -> float:
    """Seconds per step of the bare loop, after the prompt."""
    with torch.inference_mode():
        rows = Rows(model, ids_BT.shape[0], ids_BT.shape[1] + tokens)
        following = rows.append(ids_BT, logits_to_keep=1).logits.argmax(-1)
        started = time.perf_counter()
        for _ in range(tokens - 1):
            following = rows.append(following).logits.argmax(-1)
        return (time.perf_counter() - started) / (tokens - 1)


class Run(NamedTuple):
    """Decoding of all rows after each had its first token: seconds, and how many steps and tokens they hold."""

    seconds: float
    steps: int
    tokens: int


def engine_run(
    engine: InferenceEngine, ids_BT: torch.Tensor, tokens: int, spent: dict[str, float] | None = None
) -> Run:
    """Decode every row as a job of its own; `spent` is emptied when all have their first token."""
    arrived: list[int] = []

    def emit(event: Event) -> None:
        if isinstance(event, PromptDelta):
            arrived.extend(event.delta.token_ids)

    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    jobs = [Job([ids], params, emit, math.inf) for ids in ids_BT.tolist()]
    for job in jobs:
        engine.submit(job)
    scheduler = engine.core.scheduler
    while scheduler.waiting or any(len(one.ids) == one.prompt_length for one in scheduler.running):
        engine.step()
    if spent is not None:
        spent.clear()
    before, steps, started = len(arrived), engine.stats.steps, time.perf_counter()
    while any(engine.holds(job) for job in jobs):
        engine.step()
    return Run(time.perf_counter() - started, engine.stats.steps - steps, len(arrived) - before)


@contextmanager
def timed(engine: InferenceEngine) -> Iterator[dict[str, float]]:
    """Context in which the time of the engine's parts is measured, in seconds."""
    spent: dict[str, float] = defaultdict(float)
    core = engine.core

    def watch(owner: Any, name: str, part: str) -> Callable[[], None]:
        original = getattr(owner, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                spent[part] += time.perf_counter() - started

        setattr(owner, name, watched)
        return lambda: setattr(owner, name, original)

    class Batches:
        of = staticmethod(StepBatch.of)

    undo = [
        watch(core.scheduler, "schedule", "schedule"),
        watch(core.runner, "_piece", "batch"),
        watch(Batches, "of", "batch"),
        watch(core.runner.model, "step", "model"),
        watch(core.runner, "_rows", "sampling"),
        watch(core.runner._sampler, "sample", "sampling"),
        watch(engine, "_take", "events"),
    ]
    runner_module.StepBatch, kept = Batches, runner_module.StepBatch  # type: ignore[misc, assignment]
    try:
        yield spent
    finally:
        runner_module.StepBatch = kept  # type: ignore[misc]
        for restore in undo:
            restore()


def profile(engine: InferenceEngine, ids_BT: torch.Tensor, tokens: int) -> dict[str, float]:
    """Microseconds of a step by part; `other` is the rest."""
    with timed(engine) as spent:
        run = engine_run(engine, ids_BT, tokens, spent)
        found = {part: 1e6 * spent[part] / run.steps for part in PARTS}
    return {**found, "other": 1e6 * run.seconds / run.steps - sum(found.values())}


def measure(given: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    model = build(given.preset, given.weights)
    vocab_size = model.config.vocab_size
    cache = max(given.rows) * (given.prompt + given.tokens + 16)
    options = EngineOptions(cache_tokens=cache, prefix_cache=False, drafts="off", max_sequences=max(given.rows))
    engine = InferenceEngine(model, Bytes(vocab_size), (), options)  # type: ignore[arg-type]
    seconds: dict[str, dict[str, list[float]]] = {str(rows): {"bare": [], "engine": []} for rows in given.rows}
    generator = torch.Generator().manual_seed(1)
    batches = {rows: torch.randint(vocab_size, (rows, given.prompt), generator=generator) for rows in given.rows}
    for number in range(given.rounds + 1):
        for rows, ids_BT in batches.items():
            pair = {"bare": lambda: bare(model, ids_BT, given.tokens)}  # noqa: B023
            pair["engine"] = lambda: per_step(engine_run(engine, ids_BT, given.tokens), rows)  # noqa: B023
            for name in list(pair) if number % 2 else reversed(list(pair)):
                value = pair[name]()
                if number:  # the first round warms up
                    seconds[str(rows)][name].append(value)
    table = [compared(int(rows), both) for rows, both in seconds.items()]
    profiles = [
        medians([profile(engine, ids_BT, given.tokens) for _ in range(3)], rows) for rows, ids_BT in batches.items()
    ]
    return table, profiles, seconds


def per_step(run: Run, rows: int) -> float:
    """Seconds for one token of every row; rows that began earlier end earlier, so steps would not do."""
    return run.seconds * rows / run.tokens


def compared(rows: int, seconds: dict[str, list[float]]) -> dict[str, Any]:
    """One row of the table; `engine/bare` is the median of the ratios of neighbouring runs."""
    ratio = statistics.median(b / e for b, e in zip(seconds["bare"], seconds["engine"], strict=True))
    rates = {name: rows / statistics.median(values) for name, values in seconds.items()}
    best = min(seconds["bare"]) / min(seconds["engine"])
    target = TARGETS.get(rows)
    return {
        "rows": rows,
        "bare tok/s": rates["bare"],
        "engine tok/s": rates["engine"],
        "engine/bare": ratio,
        "of best rounds": best,
        "target": target,
        "met": None if target is None else ratio >= target,
    }


def medians(profiles: list[dict[str, float]], rows: int) -> dict[str, Any]:
    return {"rows": rows, **{part: statistics.median(one[part] for one in profiles) for part in profiles[0]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--weights", default="auto", help="auto, plain, fp32, fp16, bf16, int8 or int4")
    parser.add_argument("--prompt", type=int, default=128, help="tokens")
    parser.add_argument("--tokens", type=int, default=48, help="generated tokens of a row")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    table, profiles, seconds = measure(given)
    print_table(table)
    print("\nMicroseconds of a step of the engine:")
    print_table(profiles)
    settings = {name: value for name, value in vars(given).items() if name not in ("output", "threads")}
    finish(given.output, given.threads, settings=settings, rows=table, microseconds=profiles, seconds=seconds)


if __name__ == "__main__":
    main()
