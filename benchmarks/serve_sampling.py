"""Choosing tokens: ours against a float64 sort of every row, milliseconds a row, medians of alternating runs.

Logits of two kinds: `peaked`, as of a trained model (30 words hold nearly all of the mass), and `wide` (normal logits:
a nucleus of tens of thousands of words). Before timing, both must choose the same tokens where there is no chance.

    python benchmarks/serve_sampling.py [--vocab 131072] [--rows 1 8] [--runs 20] [--threads 1] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longcat.stages.inference.batch_sampler import BatchSampler
from longcat.stages.inference.logit_terms import SampleRow
from longcat.stages.inference.sampling import SamplingParams
from longcat.stages.inference.token_history import TokenHistory

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature 0.7": {"temperature": 0.7},
    "top-k 50": {"top_k": 50},
    "top-p 0.95": {"top_p": 0.95},
    "top-k 50, top-p 0.95": {"top_k": 50, "top_p": 0.95},
    "min-p 0.05": {"min_p": 0.05},
    "repetition penalty": {"repetition_penalty": 1.2},
    "5 log-probabilities": {"top_logprobs": 5},
}


def by_sorting(logits_V: Tensor, params: SamplingParams, draw: float) -> int:
    """One token by a sort in float64, without penalties and log-probabilities."""
    if params.greedy:
        return int(logits_V.argmax())
    if params.top_k == 0 and params.top_p == 1 and params.min_p == 0:
        cumulative = (logits_V.double() / params.temperature).softmax(-1).cumsum(-1)
        return int(torch.searchsorted(cumulative, draw * cumulative[-1]).clamp(max=len(cumulative) - 1))
    kept, order = (logits_V.double() / params.temperature).sort(descending=True, stable=True)
    probabilities = (kept[: params.top_k] if params.top_k else kept).softmax(-1)
    if params.top_p < 1:
        count = int((probabilities.cumsum(-1) - probabilities < params.top_p).sum())
        probabilities = probabilities[: max(1, count)]
    probabilities = probabilities[probabilities >= params.min_p * probabilities[0]]
    cumulative = probabilities.cumsum(-1)
    return int(order[int(torch.searchsorted(cumulative, draw * cumulative[-1]).clamp(max=len(cumulative) - 1))])


def logits_of(kind: str, rows: int, vocab: int) -> Tensor:
    logits_RV = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(1)) * 2
    if kind == "peaked":
        logits_RV[:, : min(30, vocab)] += 14
    return logits_RV


def gate(vocab: int) -> None:
    """Exit if the two disagree where one token only can be chosen."""
    logits_RV = logits_of("wide", 4, vocab)
    for values in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}):
        params = SamplingParams(**values)  # type: ignore[arg-type]
        found = BatchSampler(vocab, "cpu").sample(logits_RV, [SampleRow(params, 0, row) for row in range(4)])
        if [one.token for one in found] != [by_sorting(row_V, params, 0.5) for row_V in logits_RV]:
            raise SystemExit(f"wrong tokens with {values}")


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def measure(kind: str, name: str, rows: int, vocab: int, runs: int) -> dict[str, Any]:
    params = SamplingParams(**SETTINGS[name])
    logits_RV, sampler = logits_of(kind, rows, vocab), BatchSampler(vocab, "cpu")
    history = TokenHistory.of(params, range(0, vocab, 64))
    batch = [SampleRow(params, 0, row, history=history) for row in range(rows)]
    ours, theirs = [], []
    for _ in range(runs + 1):
        ours.append(timed(lambda: sampler.sample(logits_RV, batch)) / rows)
        theirs.append(timed(lambda: [by_sorting(row_V, params, 0.5) for row_V in logits_RV]) / rows)
    medians = {"ours": statistics.median(ours[1:]), "sort": statistics.median(theirs[1:])}
    return {"logits": kind, "setting": name, "rows": rows, **medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, default=131072)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gate(options.vocab)
    print("| logits | setting | rows | ours, ms a row | sort, ms a row |\n|---|---|---|---|---|")
    found = []
    for kind in ("peaked", "wide"):
        for name in SETTINGS:
            for rows in options.rows:
                found.append(measure(kind, name, rows, options.vocab, options.runs))
                line = found[-1]
                print(f"| {kind} | {name} | {rows} | {line['ours']:.2f} | {line['sort']:.2f} |", flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
