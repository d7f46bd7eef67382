"""Cost of the training step compared with the bare step, and speed of the loader, on `lc-100m` in float32.

The bare step is that of `model_speed.py`: loss, backward, AdamW, on fixed tokens. The trainer's step is that of
`longcat train`, with its loader, document bounds, clipping, auxiliary losses, bias controller and metrics.jsonl.
Both alternate in one process, and the table shows medians. `without auxiliary` omits what the bare step does not
compute (hidden z-loss, balance loss, document mask), so that the rest is the cost of loading, clipping, bias control,
monitoring and writing. Steps with stability measurements, one in fifty, are not timed.

The loader is timed on a token file of 1 B tokens: opening it, the first batch, and a batch in the middle.

    python benchmarks/train_step.py [--rounds 7] [--threads 2] [--tokens 1000000000] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

PRESET, BATCH, LENGTH = "lc-100m", 4, 512


def write_tokens(prefix: Path, total: int, vocabulary: int, filled: bool) -> None:
    """Write a token file of documents of 200 to 2,000 tokens; random ids if `filled`, else a sparse file of zeros."""
    import numpy as np

    from longcat.pipeline.tokens import TokenWriter

    generator = np.random.default_rng(0)
    lengths = generator.integers(200, 2000, size=total // 1100)
    with TokenWriter(prefix, vocabulary) as writer:
        if filled:
            for length in lengths:
                writer.add_document(generator.integers(vocabulary, size=int(length)))
            return
        # The writer stores lengths separately from bytes, so a hole in the file can represent the tokens.
        writer._lengths.extend(int(length) for length in lengths)
        writer._stream.truncate(int(lengths.sum()) * 2)


def time_loader(folder: Path, tokens: int) -> dict[str, float]:
    """Seconds to open a token file and read its first batch, and to read a later one."""
    from longcat.pipeline.tokens import TokenFile
    from longcat.stages.formats.windows import TokenWindows, batch

    write_tokens(folder / "large", tokens, 16384, filled=False)
    began = time.perf_counter()
    windows = TokenWindows(TokenFile(folder / "large"), sequence_length=LENGTH, seed=0)
    batch(windows, 0, BATCH)
    start = time.perf_counter() - began
    later = []
    for number in range(50):
        began = time.perf_counter()
        batch(windows, 1000 + number * 977, BATCH).cu_seqlens()
        later.append(time.perf_counter() - began)
    return {"start": start, "batch": statistics.median(later)}


class Bare:
    """The step of `model_speed.py`."""

    def __init__(self) -> None:
        import torch

        from longcat.stages.train.config import OptimizerOptions
        from longcat.stages.train.optim.adamw import build_optimizer

        self.model = new_model()
        self.optimizer = build_optimizer(self.model, OptimizerOptions())
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(self.model.config.vocab_size, (BATCH, LENGTH + 1), generator=generator)

    def step(self) -> None:
        loss, count, _ = self.model.loss(self.tokens[:, :-1], self.tokens[:, 1:])
        (loss / count).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Trainer:
    """The step of `longcat train`, including everything between two steps."""

    def __init__(self, folder: Path, objective: dict[str, Any]) -> None:
        import torch

        from longcat.pipeline.engine import LocalEngine
        from longcat.pipeline.interrupt import StopSignal
        from longcat.pipeline.progress import SilentProgress
        from longcat.pipeline.stage import Context
        from longcat.pipeline.tokens import TokenFile
        from longcat.stages.formats.checkpoint import Start
        from longcat.stages.formats.validation_windows import validation_windows
        from longcat.stages.formats.windows import TokenWindows
        from longcat.stages.train.config import TrainConfig
        from longcat.stages.train.optim.schedule import Schedule
        from longcat.stages.train.parallel.build import whole
        from longcat.stages.train.trainer import TrainingRun
        from longcat.stages.train.training_plan import Counters, TrainingPlan

        held = whole(new_model(), torch.device("cpu"), torch.float32)
        # Weights must stay constant, as in the bare step: a router that learns sends tokens to more experts.
        still = {"learning_rate": 1e-30, "balance": {"mu": 0}}
        shape = {"steps": 10_000, "batch_size": BATCH, "sequence_length": LENGTH}
        options = TrainConfig(preset=PRESET, **shape, **still, **objective)
        tokens = TokenFile(folder / "small")
        plan = TrainingPlan(
            label="training",
            work=folder / f"work-{len(list(folder.iterdir()))}",
            steps=10_000,
            sequence_length=LENGTH,
            batch_size=BATCH,
            micro_batch_size=BATCH,
            schedule=Schedule.of(options.schedule, options.learning_rate, 10_000),
            schedule_start=0,
            data_start=0,
            before=Counters(),
        )
        windows = TokenWindows(tokens, sequence_length=LENGTH, seed=0)
        validation = validation_windows(tokens, LENGTH, 1)
        context = Context(
            config=options,
            inputs={},
            output=folder,
            work=folder,
            log_path=plan.work / "log.jsonl",
            engine=LocalEngine(1),
            progress=SilentProgress(),
            logger=logging.getLogger("longcat"),
            stop=StopSignal(),
        )
        self.run = TrainingRun(plan, options, held, Start({}, {}), windows, validation, context)
        self.done = 0

    def step(self) -> None:
        self.run.step(self.done)
        self.done += 1


def new_model() -> Any:
    from longcat.model.init import initialize
    from longcat.model.presets import load_preset
    from longcat.model.transformer import LongcatFlash

    model = LongcatFlash(load_preset(PRESET))
    initialize(model, seed=0)
    return model


def timed(step: Any) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1_000_000_000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    from longcat.stages.train.determinism import reproducible

    with tempfile.TemporaryDirectory() as name, reproducible(options.threads):
        folder = Path(name)
        loader = time_loader(folder, options.tokens)
        write_tokens(folder / "small", 2_000_000, 16384, filled=True)
        plain = {"objective": {"hidden_z_loss": 0, "document_mask": False}, "balance_loss": {"enabled": False}}
        steps = {
            "bare step": Bare().step,
            "trainer without auxiliary": Trainer(folder, plain).step,
            "trainer": Trainer(folder, {}).step,
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(options.rounds + 1):
            for label, step in steps.items():
                took = timed(step)
                if number:  # the first round starts threads and fills caches
                    seconds[label].append(took)
    medians = {label: statistics.median(values) for label, values in seconds.items()}
    print(f"{'':28}{'seconds':>10}{'to bare':>10}")
    for label, value in medians.items():
        print(f"{label:28}{value:10.3f}{value / medians['bare step']:10.3f}")
    share = loader["batch"] / medians["trainer"]
    print(f"loader: {options.tokens:,} tokens opened and first batch made in {loader['start']:.3f} s; a batch takes")
    print(f"{loader['batch'] * 1000:.2f} ms, {share:.3%} of a step")
    if options.output:
        options.output.write_text(json.dumps({"seconds": medians, "loader": loader, "rounds": seconds}, indent=2))


if __name__ == "__main__":
    main()
