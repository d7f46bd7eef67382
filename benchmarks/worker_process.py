"""A tool of a benchmark in a process of its own: the script itself with `--worker NAME`, one JSON line per task."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


class Worker:
    """Process that measures one tool; it waits while others compute."""

    def __init__(self, script: str, name: str, threads: int) -> None:
        command = [sys.executable, script, "--worker", name, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, task: str) -> dict[str, Any]:
        """The answer to a task."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
