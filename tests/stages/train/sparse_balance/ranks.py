"""Runs of stage `train` in forked gloo processes, with the attention kind of `budgeted.py`: `ranks.py FOLDER`.

FOLDER/runs.json has the tokens artifact and the runs: name, number of processes, configuration. Every run leaves
FOLDER/NAME/output. The processes are forked, because importing torch takes longer than the runs.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from longcat.model import mixers
from longcat.pipeline.artifact import load_artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.progress import SilentProgress
from longcat.pipeline.stage import Context
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.parallel import control
from longcat.stages.train.run import train_checkpoint

ROOT = Path(__file__).parents[4]
SECONDS = 200


def work(rank: int, world: int, folder: Path, tokens: str, config: dict[str, Any]) -> None:
    if world > 1:
        store, timeout = dist.FileStore(str(folder / "store"), world), timedelta(seconds=SECONDS)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timeout)
    for part in ("output", "work"):
        (folder / part).mkdir(exist_ok=True)
    context = Context(
        config=TrainConfig.model_validate(config | {"nproc_per_node": world}),
        inputs={"tokens": (load_artifact(Path(tokens)),)},
        output=folder / "output",
        work=folder / "work",
        log_path=folder / "log.jsonl",
        engine=LocalEngine(1),
        progress=SilentProgress(),
        logger=logging.getLogger("longcat"),
        stop=StopSignal(),
    )
    train_checkpoint(context)
    control.finalize()


def main(folder: Path) -> int:
    """Return 0 if all processes of all runs succeeded."""
    sys.path.append(str(ROOT))
    torch.set_num_threads(1)
    mixers.KINDS["test_budgeted"] = "tests.stages.train.sparse_balance.budgeted:BudgetedAttention"
    asked = json.loads((folder / "runs.json").read_text())
    fork = multiprocessing.get_context("fork")
    for run in asked["runs"]:
        place = folder / run["name"]
        place.mkdir()
        given = run["world"], place, asked["tokens"], run["config"]
        processes = [fork.Process(target=work, args=(rank, *given)) for rank in range(run["world"])]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
