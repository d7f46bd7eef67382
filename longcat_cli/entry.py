"""Process entry point: keeps children from importing the user's folder, reports a broken installation in one line."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

from longcat.cli.installation import broken_installation


def main() -> None:
    """Run the command line and exit the process with its exit code."""
    os.environ["PYTHONSAFEPATH"] = "1"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        from longcat.cli.app import main as run
    except ImportError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        sys.exit(f"longcat: {broken_installation(error)}")
    run()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Exit while the program is still loading; raising in the middle of an import is not safe."""
    os.write(2, b"longcat: interrupted\n")
    os._exit(130)
