"""Run stage `train` in a separate process for tests that kill it: `killed_run.py STORE TOKENS CONFIG [STEPS]`.

With STEPS the process kills itself (SIGKILL) as soon as that many steps are done and their saves are written.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import Told
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.train import trainer


def kill_after(steps: int) -> None:
    original = trainer.TrainingRun.step

    def step(self: Any, done: int) -> Any:
        if done == steps:
            self.saves.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, done)

    trainer.TrainingRun.step = step  # type: ignore[method-assign]


def main(store: str, tokens: str, config: str, steps: str | None = None) -> int:
    if steps is not None:
        kill_after(int(steps))
    stop = StopSignal()
    with stop.installed():
        try:
            session = Session(Store(Path(store)), engine=LocalEngine(workers=1), stop=stop)
            run_stage(session, "train", json.loads(config), {"tokens": tokens})
        except Told as error:
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
