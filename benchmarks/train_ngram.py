"""Cost of n-gram tables in training: a step with tables of half the parameters against the same step without them.

Both steps are those of the trainer (sparse gradients, clipping, AdamW with moments of the rows read) on the same
changing tokens, which follow Zipf's law, and alternate in one process; the table shows medians and their ratio, whose
target is 1.15. Then the moments of the tables: bytes, and bytes of the rows that had a gradient.

    python benchmarks/train_ngram.py [--preset lc-100m] [--rounds 15] [--threads 1] [--dtype float32] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

BATCH, LENGTH = 4, 512
SHAPE = {"emb_neighbor_num": 3, "emb_split_num": 2}
FRACTION = 0.57
TARGET = 1.15


def configuration(preset: str, share: float) -> Any:
    """The preset, with tables of this share of all parameters."""
    from longcat.model.accounting import count
    from longcat.model.presets import load_preset

    plain = load_preset(preset)
    if not share:
        return plain
    rows = count(plain).total * share / (1 - share) / plain.hidden_size
    ratio = max(1, round(rows / plain.vocab_size - FRACTION)) + FRACTION
    return plain.model_copy(update={"ngram_vocab_size_ratio": ratio, **SHAPE})


class Step:
    """A model and its training step."""

    def __init__(self, config: Any, dtype: str) -> None:
        import torch

        from longcat.model.init import initialize
        from longcat.model.transformer import LongcatFlash
        from longcat.stages.train.config import OptimizerOptions
        from longcat.stages.train.optim.adamw import build_optimizer
        from longcat.stages.train.optim.precision import ComputeModel
        from longcat.stages.train.parallel.build import whole

        model = LongcatFlash(config)
        initialize(model, seed=0)
        self.held = whole(model, torch.device("cpu"), getattr(torch, dtype))
        self.optimizer = build_optimizer(self.held, OptimizerOptions())
        self.compute = ComputeModel(self.held)
        # Weights stay as they are, so that routers send both models' tokens to as many experts.
        for group in self.optimizer.param_groups:
            group["lr"] = 1e-30

    def run(self, tokens: Any) -> float:
        """Seconds of one step on these tokens."""
        from longcat.stages.train.parallel.norms import clip_factor, gradient_norm

        began = time.perf_counter()
        loss, counted, _ = self.compute.model.loss(tokens[:, :-1], tokens[:, 1:])
        (loss / counted).backward()
        self.compute.collect_gradients()
        parameters = [parameter for _, parameter in self.held.named_parameters()]
        self.compute.update(self.optimizer, clip_factor(gradient_norm(parameters, self.held.parallel), 1.0))
        self.compute.refresh()
        return time.perf_counter() - began

    def moments(self) -> dict[str, int]:
        """Rows with moments, bytes of these, and bytes of the memory behind them and of the index of rows."""
        from longcat.stages.train.optim.row_adamw import ROW_KEYS
        from longcat.stages.train.optim.row_state import tables_by_row

        _, table = next(tables_by_row(self.held, self.optimizer))
        state = self.optimizer.state[table]
        return {
            "table_rows": len(table),
            "rows": len(state["rows"]),
            "bytes": sum(state[key].nbytes for key in ROW_KEYS),
            "allocated": sum(state[key].untyped_storage().nbytes() for key in ROW_KEYS) + state["slot_of"].nbytes,
            "dense": 2 * table.nbytes,
        }


def measure(preset: str, rounds: int, dtype: str) -> dict[str, Any]:
    import torch

    from longcat.model.accounting import count

    configs = {"plain": configuration(preset, 0), "tables": configuration(preset, 0.5)}
    steps = {name: Step(config, dtype) for name, config in configs.items()}
    vocabulary, generator = configs["plain"].vocab_size, torch.Generator().manual_seed(0)
    frequency = 1 / torch.arange(8, vocabulary + 8, dtype=torch.float64)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        drawn = torch.multinomial(frequency, BATCH * (LENGTH + 1), replacement=True, generator=generator)
        for name, step in steps.items():
            took = step.run(drawn.view(BATCH, LENGTH + 1))
            if number:  # the first step makes the moments
                seconds[name].append(took)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    sizes = count(configs["tables"])
    return {
        "preset": preset,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "share_of_tables": sizes.parameters["ngram"] / sizes.total,
        "seconds": medians,
        "ratio": medians["tables"] / medians["plain"],
        "target": TARGET,
        "moments": steps["tables"].moments(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    found = measure(given.preset, given.rounds, given.dtype)
    moments = found["moments"]
    print(f"tables: {100 * found['share_of_tables']:.1f} % of the parameters")
    for name, value in found["seconds"].items():
        print(f"{name:8} {1000 * value:9.1f} ms a step")
    print(f"ratio    {found['ratio']:9.3f}   (target: at most {TARGET})")
    print(f"moments of {moments['rows']:,} of {moments['table_rows']:,} rows: {moments['bytes'] / 1e6:.1f} MB")
    print(f"with room and index {moments['allocated'] / 1e6:.1f} MB; of all rows {moments['dense'] / 1e6:.1f} MB")
    if given.output:
        given.output.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
