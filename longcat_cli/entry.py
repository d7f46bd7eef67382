"""Where the process starts: children run nothing of the user's folder, and a broken installation is one line."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn


def main() -> None:
    """Run the command line and end the process with its exit code."""
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
    """End while the program is still being loaded; in the midst of an import nothing can be raised safely."""
    os.write(2, b"longcat: interrupted\n")
    os._exit(130)


def broken_installation(error: Exception) -> str:
    """One line for a module that should be there and is not, or is another's."""
    what = " ".join(str(error).split())
    return f"the installation is broken: {what} (`longcat doctor` tells more; or reinstall longcat-cli)"
