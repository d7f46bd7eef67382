"""`python -m kill_points kills|meetings NAME ...`: one JSON line per name; the parent folder must be on the path."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from kill_points.shim import Call, start_again_with_shim


def main() -> None:
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    start_again_with_shim(options.folder)
    from kill_points.freezes import meet
    from kill_points.kills import sweep
    from kill_points.meetings import meetings
    from kill_points.scenarios import import_everything, scenarios

    import_everything(options.folder)
    for name in options.names or (scenarios() if options.what == "kills" else meetings()):
        # Not a TemporaryDirectory: forks run exit handlers, and would delete it.
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        if options.what == "kills":
            chosen = Call.ALL if options.every else Call.CHANGE
            report = sweep(scenarios()[name], folder, chosen, tear=options.tear, backwards=options.backwards)
        else:
            chosen = Call.ALL if options.every else Call.CHANGE | Call.LOCK
            report = meet(meetings()[name], folder, chosen)
        shutil.rmtree(folder)
        print(json.dumps(asdict(report)), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("kills", "meetings"))
    parser.add_argument("names", nargs="*", help="names of scenarios or meetings; default: all")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "kill-points")
    parser.add_argument("--every", action="store_true", help="also at calls that only read, lock or flush")
    parser.add_argument("--tear", action="store_true", help="kill after half of every write")
    parser.add_argument("--backwards", action="store_true", help="list and delete folder entries in reverse order")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    main()
