"""Run stage `train` in a separate process for the test that kills it: `killed_run.py STORE TOKENS CONFIG`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import LongcatError
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store


def main(store: str, tokens: str, config: str) -> int:
    stop = StopSignal()
    with stop.installed():
        try:
            session = Session(Store(Path(store)), engine=LocalEngine(workers=1), stop=stop)
            run_stage(session, "train", json.loads(config), {"tokens": tokens})
        except LongcatError as error:
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
