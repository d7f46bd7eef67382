"""Cost of the deterministic setting: forward passes inside `batch_invariant()` compared with passes outside it.

For each case the two are interleaved on one model; the table shows medians and their ratio. It also shows the fraction
of logits whose bits change outside when the text is batched or padded; if any change inside, the script fails.

    python benchmarks/model_batch_invariance.py [--preset lc-100m] [--runs 7] [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from longcat.model.batch_invariance import batch_invariant
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

SETTINGS = {"default": nullcontext, "batch_invariant": batch_invariant}


def forward(model: LongcatFlash, batch: int, length: int) -> Callable[[], object]:
    input_ids_BT = torch.randint(0, model.config.vocab_size, (batch, length))
    return lambda: model(input_ids_BT)


def decode(model: LongcatFlash, batch: int, context: int) -> Callable[[], object]:
    rows = Rows(model, batch, context + 1)
    input_ids_BT = torch.randint(0, model.config.vocab_size, (batch, context + 1))
    rows.append(input_ids_BT[:, :context], logits_to_keep=1)

    def step() -> None:
        rows.append(input_ids_BT[:, context:])
        rows.rewind(context)

    return step


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def changed_bits(model: LongcatFlash, length: int) -> dict[str, float]:
    """Fraction of a text's logits that differ from those of the text alone, in a batch of 8 and with padding."""
    ids_BT = torch.randint(0, model.config.vocab_size, (8, length))
    alone = model(ids_BT[7:]).logits[0]
    padded_BT = torch.cat((ids_BT[7:], torch.full((1, 27), model.config.pad_token_id)), dim=1)
    found = {"in a batch of 8": model(ids_BT).logits[7], "padded": model(padded_BT).logits[0, :length]}
    return {name: float((logits.numpy() != alone.numpy()).mean()) for name, logits in found.items()}


@torch.no_grad()
def measure(options: argparse.Namespace) -> dict[str, Any]:
    model = LongcatFlash(load_preset(options.preset))
    initialize(model, seed=0)
    changed: dict[str, dict[str, float]] = {}
    for name, setting in SETTINGS.items():
        with setting():
            changed[name] = changed_bits(model, 37)
    assert not any(changed["batch_invariant"].values()), changed
    cases = {"forward 1 x 128": forward(model, 1, 128), "forward 8 x 128": forward(model, 8, 128)}
    cases |= {"decode 1 at 128": decode(model, 1, 128), "decode 8 at 128": decode(model, 8, 128)}
    times: dict[str, dict[str, list[float]]] = {case: {name: [] for name in SETTINGS} for case in cases}
    for run in range(options.runs + 1):
        for case, action in cases.items():
            for name, setting in SETTINGS.items():
                with setting():
                    elapsed = seconds(action)
                if run:  # the first round warms caches
                    times[case][name].append(elapsed)
    return {"preset": options.preset, "threads": options.threads, "changed": changed, "seconds": times}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    found = measure(options)
    for setting, parts in found["changed"].items():
        print(f"{setting}: " + ", ".join(f"{part:.1%} of the logits change {name}" for name, part in parts.items()))
    print(f"{'':18} {'default ms':>11} {'invariant ms':>13} {'ratio':>6}")
    found["ratios"] = {}
    for case, times in found["seconds"].items():
        default, invariant = (statistics.median(times[name]) for name in SETTINGS)
        found["ratios"][case] = invariant / default
        print(f"{case:18} {default * 1e3:11.1f} {invariant * 1e3:13.1f} {invariant / default:6.2f}")
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
