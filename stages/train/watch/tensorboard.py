"""TensorBoard event files: one event per step, written by the writer's thread."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

QUEUED_EVENTS = 1000
FLUSH_SECONDS = 10


class EventFiles:
    """Event files of one run, one file per process. `step` is numbered as in metrics.jsonl."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(folder), max_queue_size=QUEUED_EVENTS, flush_secs=FLUSH_SECONDS)

    def resume(self, step: int) -> None:
        """Make viewers discard data of earlier files for steps after `step`."""
        self._writer.add_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, seconds_since_epoch: float, values: Mapping[str, float]) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._writer.add_event(Event(wall_time=seconds_since_epoch, step=step, summary=summary))

    def close(self) -> None:
        self._writer.close()
