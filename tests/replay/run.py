"""Check that this tree computes the same bits as another commit: `python tests/replay/run.py --against COMMIT`.

Compares logits, losses and gradients of the presets and of every option of the architecture, contents of caches, and
all files of a short chain of artifacts: training in one and several processes, growth, extension, evaluation. Both
trees are measured by `measure.py` of this tree, in one process each. Exits with 1 if a digest differs.

`--write` saves one digest per group in `digests.json`, with the CPU and the version of torch, on which bits depend:
`git diff tests/replay/digests.json` then shows which groups are affected by a change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KEPT = HERE / "digests.json"
SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD~1", help="commit to compare with")
    parser.add_argument("--model-only", action="store_true", help="without the chain of artifacts")
    parser.add_argument("--write", action="store_true", help="write the digests of this tree by group to digests.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longcat-replay-") as name:
        other = Path(name) / "other"
        _git("worktree", "add", "--detach", str(other), options.against)
        try:
            # One folder for both trees: ids of documents, and so their order, depend on their paths.
            before = _measured(other, Path(name) / "work", options.model_only)
            now = _measured(ROOT, Path(name) / "work", options.model_only)
        finally:
            _git("worktree", "remove", "--force", str(other))
    if options.write:
        KEPT.write_text(json.dumps(_kept(now), indent=1) + "\n", encoding="utf-8")
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    for key in differing[:SHOWN]:
        print(f"differs: {key}: {before.get(key, 'absent')}, now {now.get(key, 'absent')}")
    print(f"{len(now)} digests, {len(differing)} differ from {options.against}")
    return bool(differing)


def _measured(tree: Path, folder: Path, model_only: bool) -> dict[str, str]:
    command = [sys.executable, str(HERE / "measure.py"), str(folder), *(["--model-only"] if model_only else [])]
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{tree}: {done.stderr}")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _kept(found: dict[str, str]) -> dict[str, Any]:
    """One digest per group, with the environment on which bits depend."""
    groups: dict[str, Any] = {}
    for name in sorted(found):
        group = groups.setdefault(name.partition(":")[0], hashlib.sha256())
        group.update(f"{name} {found[name]}\n".encode())
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "processor": cpu.partition(":")[2].strip(),
        "torch": version("torch"),
        "digests": len(found),
        "groups": {name: group.hexdigest()[:16] for name, group in groups.items()},
    }


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
