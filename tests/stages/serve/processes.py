"""`longcat serve` as a process, and raw connections to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from longcat.pipeline.processes import safe_environment, safe_python

# The beginning of a request whose body is not complete.
HALF = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
)
# Decodes one token of every request in 30 ms, so that a request is still running when a test goes on.
SLOW = """
import sys, time
from longcat.stages.inference.engine import InferenceEngine
from longcat.cli.app import run
step = InferenceEngine.step
def slowly(self):
    time.sleep(0.03)
    step(self)
InferenceEngine.step = slowly
sys.exit(run(sys.argv[1:]))
"""


@dataclass
class Process:
    """A running server; `told` are the lines on stderr after the first."""

    process: subprocess.Popen[str]
    url: str
    told: list[str] = field(default_factory=list)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False, **options)

    def get(self, path: str) -> httpx.Response:
        """A request on a new connection."""
        with self.client() as client:
            return client.get(path)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


def command(checkpoint: Path, options: Sequence[str], *, slow: bool = False) -> list[str]:
    program = [*safe_python(), "-c", SLOW] if slow else [*safe_python(), "-m", "longcat.cli"]
    fixed = ["serve", "--checkpoint", str(checkpoint), "--device", "cpu", "--model-name", "tiny"]
    return [*program, *fixed, *options]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "LONGCAT_API_KEY"}
    return {**kept, **safe_environment(), "OMP_NUM_THREADS": "1", **variables}


@contextmanager
def serving(checkpoint: Path, *options: str, slow: bool = False, **variables: str) -> Iterator[Process]:
    """A server that listens on a free port, or where `options` say."""
    listen = [] if "--port" in options or "--uds" in options else ["--port", "0"]
    with subprocess.Popen(
        command(checkpoint, [*listen, *options], slow=slow),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as process:
        watchdog = threading.Timer(100, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            # Before it listens, the server tells what it has loaded.
            first = next((line for line in process.stderr if line.startswith("serving ")), None)
            assert first is not None, "the server has not started"
            running = Process(process, first.rpartition(" at ")[2].strip().removesuffix("/v1"))
            reader = threading.Thread(target=_read, args=(running,), daemon=True)
            reader.start()
            yield running
            if process.poll() is None:
                process.terminate()
            process.wait(30)
            reader.join(10)
        finally:
            watchdog.cancel()
            process.kill()


def _read(running: Process) -> None:
    assert running.process.stderr is not None
    for line in running.process.stderr:
        running.told.append(line.rstrip("\n"))
        sys.stderr.write(line)


def connect(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data
