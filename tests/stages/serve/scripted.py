"""A server whose model says what a test wrote down, token by token."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from longcat.stages.inference.continuation import Delta
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.jobs import Finished, Job, PromptDelta, PromptStarted
from longcat.stages.inference.snapshot import EngineSnapshot
from longcat.stages.inference.tokenizer import TAG_MARK
from tests.stages.serve.conftest import Running, running

CALL, CALL_END = f"{TAG_MARK}<longcat_tool_call>", f"{TAG_MARK}</longcat_tool_call>"
THINK, THINK_END = f"{TAG_MARK}<longcat_think>", f"{TAG_MARK}</longcat_think>"


def call_text(name: str, arguments: str) -> str:
    """A tool call as the model writes it."""
    return f'{CALL}\n{{"name": "{name}", "arguments": {arguments}}}\n{CALL_END}'


class ScriptedWorker:
    """Answers the next job with the next texts, a piece per token; keeps the jobs."""

    def __init__(self) -> None:
        self.answers: list[Sequence[str]] = []
        self.jobs: list[Job] = []
        self.cached = 0
        self.alive = True

    def start(self) -> None:
        """Nothing has to be started."""

    def close(self) -> None:
        self.alive = False

    def check_room(self) -> None:
        """There is always room."""

    def snapshot(self) -> EngineSnapshot:
        return EngineSnapshot()

    def cancel(self, job: Job) -> None:
        job.cancelled.set()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        pieces = self.answers.pop(0) if self.answers else ["ok"]
        threading.Thread(target=self._answer, args=(job, pieces), daemon=True).start()

    def _answer(self, job: Job, pieces: Sequence[str]) -> None:
        job.emit(PromptStarted(0, self.cached))
        for choice in range(job.choices):
            for number, piece in enumerate(pieces):
                reason = "stop" if number == len(pieces) - 1 else None
                job.emit(PromptDelta(0, Delta(choice, piece, (number,), (), reason, ((1, 2),), 2, 1)))
        job.emit(Finished())


@contextmanager
def scripted(engine: InferenceEngine) -> Iterator[tuple[Running, ScriptedWorker]]:
    """A server with a scripted worker."""
    worker = ScriptedWorker()
    with running(engine, worker=worker) as server:
        yield server, worker
