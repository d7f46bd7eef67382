"""`Watch`: the object that receives each step from the trainer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import torch

from longcat.model.config import ModelConfig
from longcat.pipeline.files import append_jsonl
from longcat.stages.train.watch.config import WatchOptions
from longcat.stages.train.watch.figures import scalars
from longcat.stages.train.watch.profiler import ProfileWindow
from longcat.stages.train.watch.throughput import Throughput, Timing, peak_flops
from longcat.stages.train.watch.trackers import Tracker, load_tracker, start_trackio, start_wandb

NAME_DIGITS = 8


@dataclass(frozen=True)
class Watched:
    """The monitored run. `devices` share the `tokens_per_step`; `config` is the configuration shown by trackers."""

    model: ModelConfig
    device: torch.device
    dtype: torch.dtype
    sequence_length: int
    tokens_per_step: int
    target_active_experts: float
    devices: int = 1
    config: Mapping[str, Any] = field(default_factory=dict)


class Watch:
    """Records the steps of a run next to its run log: `<log>.jsonl`, and files in the folder `<log>/`.

    Raises:
        ConfigError: a tracker is requested but not installed.
    """

    def __init__(self, options: WatchOptions, watched: Watched, log_path: Path, logger: logging.Logger) -> None:
        self.watched, self.log_path = watched, log_path
        self._validation: float | None = None
        folder = log_path.with_suffix("")
        peak = peak_flops(watched.device, watched.dtype)
        self.throughput = Throughput(
            watched.model,
            sequence_length=watched.sequence_length,
            peak=peak,
            devices=watched.devices,
            device=watched.device,
        )
        self.trackers = _open_trackers(options, watched, log_path, logger)
        self.event_files: Any = None
        if options.tensorboard:
            from longcat.stages.train.watch.tensorboard import EventFiles

            self.event_files = EventFiles(folder / "tensorboard")
        self.profiler: ProfileWindow | None = None
        if options.profile_steps is not None:
            self.profiler = ProfileWindow(
                folder / "profile",
                options.profile_steps,
                snapshot=options.memory_snapshot,
                cuda=watched.device.type == "cuda",
                warn=logger.warning,
            )
        append_jsonl(log_path, _opening(options, watched, peak))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def resume(self, step: int) -> None:
        """The run continues after `step`; data of later steps in viewers is invalidated."""
        if self.event_files is not None:
            self.event_files.resume(step)
        if self.profiler is not None:
            self.profiler.after(step)

    def step(
        self,
        record: Mapping[str, Any],
        seconds: float,
        attention: float | None = None,
        imbalance: float | None = None,
    ) -> dict[str, str]:
        """Record a finished step: its line of metrics.jsonl and duration in seconds. Returns figures for the bar.

        `attention`: forward FLOPs of attention per token; None: of whole rows. `imbalance`: measured time of the
        slowest process in attention relative to the mean; None: not measured.
        """
        timing = self.throughput.timing(
            seconds,
            self.watched.tokens_per_step,
            record["active_experts"],
            mtp="mtp_loss" in record,
            attention=attention,
        )
        line = _log_line(record["step"], timing)
        append_jsonl(self.log_path, line if imbalance is None else line | {"imbalance": imbalance})
        if self.event_files is not None or self.trackers:
            self._tell(record, timing)
        if self.profiler is not None:
            self.profiler.after(record["step"])
        self._validation = record.get("validation_loss", self._validation)
        return _bar_fields(record, timing, self._validation)

    def _tell(self, record: Mapping[str, Any], timing: Timing) -> None:
        values = scalars(record, timing)
        if self.event_files is not None:
            self.event_files.write(record["step"], time.time(), values)
        for tracker in self.trackers:
            tracker.write(record["step"], values)

    def close(self) -> None:
        """Flush buffered data."""
        if self.profiler is not None:
            self.profiler.close()
        if self.event_files is not None:
            self.event_files.close()
        for tracker in self.trackers:
            tracker.close()


def _opening(options: WatchOptions, watched: Watched, peak: float) -> dict[str, Any]:
    """Line of the run log with the reference values of its figures."""
    return {
        "event": "watch",
        "device": str(watched.device),
        "dtype": str(watched.dtype).removeprefix("torch."),
        "devices": watched.devices,
        "peak_flops": peak,
        "experts": watched.model.n_routed_experts,
        "zero_experts": watched.model.zero_expert_num,
        "target_active_experts": watched.target_active_experts,
        "trackers": list(options.trackers),
    }


def _log_line(step: int, timing: Timing) -> dict[str, Any]:
    line = {
        "event": "step",
        "step": step,
        "seconds": timing.seconds,
        "tokens_per_second": timing.tokens_per_second,
        "memory_bytes": timing.memory_bytes,
    }
    return line if timing.mfu is None else line | {"mfu": timing.mfu}


def _bar_fields(record: Mapping[str, Any], timing: Timing, validation: float | None) -> dict[str, str]:
    loss = math.nan if record["loss"] is None else record["loss"]  # null in a skipped step
    fields = {"loss": f"{loss:.4f}"}
    if validation is not None:
        fields["validation"] = f"{validation:.4f}"
    fields["lr"] = f"{record['learning_rate']:.3g}"
    if "epoch" in record:
        fields["epoch"] = f"{record['epoch']:.2f}"
    fields["tokens/s"] = f"{timing.tokens_per_second:,.0f}"
    if timing.mfu is not None:
        fields["MFU"] = f"{timing.mfu:.1%}"
    return fields | {"memory": f"{timing.memory_bytes / 1e9:.2f} GB"}


def _open_trackers(options: WatchOptions, watched: Watched, log_path: Path, logger: logging.Logger) -> list[Tracker]:
    identifier = log_path.stem
    name = options.run_name or identifier[:NAME_DIGITS]
    modules = {tracker: load_tracker(tracker) for tracker in options.trackers}
    opened = []
    for kind, module in modules.items():
        tracker = Tracker(kind, steps_told(log_path, kind), logger)

        def start(kind: str = kind, module: Any = module) -> Any:
            if kind == "trackio":
                return start_trackio(module, project=options.project, name=name, config=watched.config)
            return start_wandb(
                module,
                project=options.project,
                name=name,
                identifier=identifier,
                config=dict(watched.config),
                folder=log_path.with_suffix(""),
            )

        tracker.open(start)
        opened.append(tracker)
    return opened


def steps_told(log_path: Path, tracker: str) -> int:
    """Last step in the run log that was also sent to `tracker`; -1 for none."""
    told, listening = -1, False
    if not log_path.exists():
        return told
    with log_path.open("rb") as stream:
        for line in stream:
            with suppress(ValueError):  # the last line of a killed run may be truncated
                event = orjson.loads(line)
                if event.get("event") == "watch":
                    listening = tracker in event["trackers"]
                elif event.get("event") == "step" and listening:
                    told = max(told, event["step"])
    return told
