"""One process of a run in several, started by torchrun: `python -m longcat.stages.train.launch.worker LAUNCH_FILE`.

Runs the same stage body as a single-process run, together with the other ranks, and writes errors to a file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import longcat.stages  # noqa: F401  declares the stages
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InterruptedRunError
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.processes import end_with_parent, import_root
from longcat.pipeline.progress import Progress, SilentProgress
from longcat.pipeline.stage import registry
from longcat.stages.train.launch.files import Launch, LaunchFolder, describe
from longcat.stages.train.launch.rank_events import RelayedProgress, RelayHandler

PACKAGES = ("cli", "pipeline", "stages", "model", "kernels")


def main(path: Path) -> NoReturn:
    """Run one rank and exit the process."""
    end_with_parent()
    rank, stop = int(os.environ["RANK"]), StopSignal()
    launch = Launch.read(path)
    folder = LaunchFolder(Path(launch.work))
    with stop.installed():
        try:
            _run(launch, folder, path.read_bytes(), rank, stop)
        except BaseException as error:
            # Waiting for a dead rank may never return, so the process exits without unwinding.
            folder.write_ending(rank, launch.attempt, describe(error))
            stopped = isinstance(error, InterruptedRunError)
            if not stopped:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(error.exit_code if isinstance(error, InterruptedRunError) else 1)
    # Everything is written. Interpreter shutdown can abort in threads left by process groups.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _run(launch: Launch, folder: LaunchFolder, content: bytes, rank: int, stop: StopSignal) -> None:
    from longcat.stages.device import choose_device
    from longcat.stages.train.parallel import control as group

    progress, logger = _voices(folder, rank)
    context = launch.context(LocalEngine(1), progress, logger, stop)
    config: Any = context.config
    everyone = group.initialize(choose_device(config.device).type, timedelta(seconds=config.collective_timeout))
    check_agreement(everyone.gather(_facts(content)), config.world_size, everyone.size)
    result = registry.get(launch.stage).load_body()(context)
    if everyone.leads:
        folder.write_result(result)
    everyone.barrier()
    group.finalize()


def _voices(folder: LaunchFolder, rank: int) -> tuple[Progress, logging.Logger]:
    """Rank 0 logs for all; of other ranks only warnings go to the agent's log."""
    logger = logging.getLogger("longcat")
    if rank != 0:
        return SilentProgress(), logger
    progress = RelayedProgress(folder.events)
    logger.setLevel(logging.INFO)
    logger.addHandler(RelayHandler(progress))
    logger.propagate = False
    return progress, logger


def _facts(content: bytes) -> dict[str, str]:
    import torch

    return {"code": source_digest(), "launch file": hashlib.sha256(content).hexdigest(), "torch": torch.__version__}


def check_agreement(facts: list[dict[str, str]], announced: int, found: int) -> None:
    """Raise ConfigError unless the expected number of ranks run the same code with the same launch file."""
    if announced != found:
        raise ConfigError(f"{found} processes joined, nproc_per_node * nnodes = {announced}")
    for rank, theirs in enumerate(facts):
        for name, value in theirs.items():
            if value != facts[0][name]:
                raise ConfigError(
                    f"rank {rank} has another {name} than rank 0 ({value[:12]} and {facts[0][name][:12]})",
                    hint="use the same installation and command on every node",
                )


def source_digest() -> str:
    """SHA-256 of all source files of the project."""
    root, digest = import_root() / "longcat", hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
