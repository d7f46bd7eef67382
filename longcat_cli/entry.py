"""Where the process starts: children run nothing of the user's folder, and a broken installation is one line."""

from __future__ import annotations

import os
import sys
import traceback


def main() -> None:
    """Run the command line and end the process with its exit code."""
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        from longcat.cli.app import main as run
    except ImportError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        sys.exit(f"longcat: {broken_installation(error)}")
    run()


def broken_installation(error: Exception) -> str:
    """One line for a module that should be there and is not, or is another's."""
    what = " ".join(str(error).split())
    return f"the installation is broken: {what} (`longcat doctor` tells more; or reinstall longcat-cli)"
