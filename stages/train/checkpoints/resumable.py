"""Checkpoints for resuming a killed run: one folder per step, published atomically, verified by hash when read.

    step-000000300/  model-00000.safetensors  model-00001.safetensors ...  one file per tensor group and process
                     optimizer-00000.safetensors ...
                     state.json  written last: step, state, the sha256 of each file

The same for one or many processes; see `stages.train.checkpoints.shards` for the file content. Saving runs concurrently
with training:

    checkpoints.save(step, groups, state)     returns at once; a thread copies the tensors, then writes the copy
    ... forward and backward of the next step ...
    checkpoints.before_update()               waits until the copy is complete: now the tensors may change
    optimizer.step()

At most one checkpoint is in flight. Errors in the thread are raised by the next `save` or `wait`, in every process. All
processes make the same calls in the same order.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from longcat.pipeline.errors import IntegrityError, LongcatError
from longcat.pipeline.files import fsync_file, fsync_folder, remove_tree, sha256_file
from longcat.stages.train.checkpoints.save_files import (
    STATE_FILE,
    folder_name,
    read_save_state,
    save_folders,
    step_of,
    write_save_state,
)
from longcat.stages.train.checkpoints.shards import Part, Piece, ShardPlan, ShardReader, Snapshot, piece_of
from longcat.stages.train.parallel import control as processes
from longcat.stages.train.parallel.control import Group

Tensors = dict[str, torch.Tensor]
Groups = Mapping[str, Mapping[str, Part]]


@dataclass(frozen=True)
class Saved:
    """An intact checkpoint: steps done, folder, stored state, and files."""

    step: int
    folder: Path
    state: dict[str, Any]
    files: tuple[str, ...]

    def reader(self, group: str) -> ShardReader:
        """Read the tensors stored as `group`."""
        return ShardReader([self.folder / name for name in self.files if name.rpartition("-")[0] == group])


class RunCheckpoints:
    """Checkpoints of one run inside its work folder.

    The newest `keep` are kept, and those of multiples of `keep_every` steps, unless that is 0. `log` is called in the
    leading process for each checkpoint, with its duration.
    """

    def __init__(
        self, folder: Path, keep: int, log: Callable[[dict[str, Any]], None] | None = None, *, keep_every: int = 0
    ) -> None:
        self.folder = folder
        self.keep, self.keep_every = keep, keep_every
        self._log = log
        self._group, self._control = processes.background(), processes.control()
        self._plans: dict[str, ShardPlan] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._flight: _Flight | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, groups: Groups, state: Mapping[str, Any]) -> None:
        """Start writing a checkpoint, unless the step already has one. `state` is that of rank 0.

        A kill at any moment leaves the existing checkpoints, with or without the new one.

        Raises:
            LongcatError: the previous checkpoint could not be written.
        """
        began = time.perf_counter()
        self.wait()
        pieces = {group: [piece_of(name, part) for name, part in parts.items()] for group, parts in groups.items()}
        devices = {piece.tensor.device for held in pieces.values() for piece in held}
        kept = dict(state)
        self._flight = _Flight(step, devices, lambda flight: self._write(flight, pieces, kept))
        self._flight.stall = time.perf_counter() - began

    def before_update(self) -> None:
        """Wait until the tensors given to `save` may change; before every optimizer step."""
        if self._flight is not None:
            began = time.perf_counter()
            self._flight.copied.wait()
            self._flight.stall += time.perf_counter() - began

    def wait(self) -> None:
        """Wait until the checkpoint in flight has been written.

        Raises:
            LongcatError: it could not be written; the previous checkpoint is kept.
        """
        flight = self._flight
        if flight is None:
            return
        flight.thread.join()
        self._flight = None
        if flight.error is not None:
            raise flight.error
        if self._log is not None and self._control.leads:
            figures = {"seconds": flight.seconds, "stall_seconds": flight.stall}
            self._log({"event": "checkpoint", "step": flight.step, **figures})

    def close(self) -> None:
        """Wait for the checkpoint in flight and ignore its failure; for cleanup after another error."""
        with suppress(Exception):
            self.wait()

    def _write(self, flight: _Flight, pieces: Mapping[str, list[Piece]], state: Mapping[str, Any]) -> None:
        """Write to a temporary folder, flush, rename, then delete the oldest; runs in the thread."""
        group = self._group
        target = self.folder / folder_name(flight.step)
        aside = self.folder / f"{target.name}.tmp"
        with _together(group, flight.step) as prepared:
            prepared.value = group.leads and _prepare(target, aside)
        if prepared.values[0]:  # already written
            return
        try:
            chosen = {
                name: self._plans.setdefault(name, ShardPlan()).choose(held, group) for name, held in pieces.items()
            }
            with _together(group, flight.step) as stored:
                stored.value = self._store(flight, chosen, aside)
            with _together(group, flight.step):
                if group.leads:
                    files = {name: digest for files in stored.values for name, digest in files.items()}
                    _publish(aside, target, {"step": flight.step, "state": state, "files": files})
                    for old in self._folders()[self.keep :]:
                        if not self.keep_every or step_of(old) % self.keep_every:
                            remove_tree(old)
        except BaseException:
            if group.leads:
                shutil.rmtree(aside, ignore_errors=True)
            raise

    def _store(self, flight: _Flight, chosen: Mapping[str, list[Piece]], aside: Path) -> dict[str, str]:
        """Copy this process's tensors, release training, write; returns the SHA-256 of each file."""
        snapshots = {}
        with flight.copying():
            for name, pieces in chosen.items():
                snapshots[name] = self._snapshots.setdefault(name, Snapshot())
                snapshots[name].copy(pieces)
        digests = {}
        for name, snapshot in snapshots.items():
            path = aside / f"{name}-{self._group.rank:05d}.safetensors"
            digests[path.name] = snapshot.write(path)
            fsync_file(path)
        fsync_folder(aside)
        return digests

    def latest(self, usable: Callable[[Saved], bool], warn: Callable[[str], None]) -> Saved | None:
        """Newest checkpoint that is intact and `usable`; others are reported to `warn` and removed.

        The processes share the work of hashing the files; `usable` and `warn` are called in the leading one.
        """
        group = self._control
        if group.leads:
            for leftover in [path for path in self.folder.iterdir() if path.suffix == ".tmp"]:
                shutil.rmtree(leftover, ignore_errors=True)
        for name in group.broadcast([folder.name for folder in self._folders()]):
            folder = self.folder / name
            saved = read_save(folder, group)
            good = group.broadcast(saved is not None and group.leads and usable(saved))
            if saved is not None and good:
                return saved
            if group.leads:
                warn(f"the checkpoint {folder.name} is damaged and skipped, resuming from the previous one")
                remove_tree(folder)
            group.barrier()
        return None

    def steps(self) -> list[int]:
        """Steps of the written checkpoints, newest first."""
        return [step_of(folder) for folder in self._folders()]

    def at(self, step: int) -> Saved:
        """The existing checkpoint of a step.

        Raises:
            IntegrityError: it is damaged.
        """
        folder = self.folder / folder_name(step)
        saved = read_save(folder, self._control)
        if saved is None:
            raise IntegrityError("the checkpoint is damaged", where=str(folder))
        return saved

    def drop_after(self, step: int) -> None:
        """Remove the checkpoints of later steps."""
        if self._control.leads:
            for folder in self._folders():
                if step_of(folder) > step:
                    remove_tree(folder)
        self._control.barrier()

    def _folders(self) -> list[Path]:
        """Checkpoint folders, newest first."""
        return save_folders(self.folder)[::-1]


class _Flight:
    """A checkpoint in flight, and the thread that writes it."""

    def __init__(self, step: int, devices: Set[torch.device], work: Callable[[_Flight], None]) -> None:
        self.step = step
        self.stall = self.seconds = 0.0
        self.error: BaseException | None = None
        self.copied = threading.Event()
        self._device = next((device for device in devices if device.type == "cuda"), None)
        # GPU work queued before `save` must finish before the copy starts.
        self._ready = torch.cuda.current_stream(self._device).record_event() if self._device else None
        self.thread = threading.Thread(target=self._run, args=(work,), name=f"checkpoint-{step}", daemon=True)
        self.thread.start()

    def _run(self, work: Callable[[_Flight], None]) -> None:
        began = time.perf_counter()
        try:
            work(self)
        except BaseException as error:  # raised again by `wait`, in the thread that trains
            self.error = error
        finally:
            self.seconds = time.perf_counter() - began
            self.copied.set()

    @contextmanager
    def copying(self) -> Iterator[None]:
        """Context for the copy, on a separate stream if the tensors are on a GPU."""
        if self._device is None or self._ready is None:
            yield
        else:
            stream = torch.cuda.Stream(self._device)
            with torch.cuda.stream(stream):
                stream.wait_event(self._ready)
                yield
            stream.synchronize()
        self.copied.set()


@dataclass
class _Answer:
    """Result of one process, and results of all."""

    value: Any = None
    values: list[Any] = field(default_factory=list)


@contextmanager
def _together(group: Group, step: int) -> Iterator[_Answer]:
    """Run a function in every process and exchange the results; a failure in one is raised in all.

    Raises:
        LongcatError: it failed in some process, for example because the disk is full.
    """
    answer, failure = _Answer(), None
    try:
        yield answer
    except Exception as error:
        failure = _explained(error, step)
    told = str(failure) if failure is not None else None
    answers = group.gather({"value": answer.value, "error": told})
    if failure is not None:
        raise failure
    for rank, other in enumerate(answers):
        if other["error"] is not None:
            raise LongcatError(f"rank {rank}: {other['error']}")
    answer.values = [other["value"] for other in answers]


def _explained(error: Exception, step: int) -> Exception:
    if not isinstance(error, OSError):
        return error
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return LongcatError(
        f"the checkpoint of step {step} could not be written: {'the disk is full' if full else error.strerror}",
        where=str(error.filename) if error.filename else None,
        hint="free some space and run again; the run resumes from the previous checkpoint" if full else None,
    )


def _prepare(target: Path, aside: Path) -> bool:
    """Create the folder to write to; true if there is nothing to write."""
    if target.exists():
        return True
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    return False


def _publish(aside: Path, target: Path, content: dict[str, Any]) -> None:
    write_save_state(aside, content)
    fsync_file(aside / STATE_FILE)
    fsync_folder(aside)
    aside.rename(target)
    fsync_folder(target.parent)


def read_save(folder: Path, group: Group) -> Saved | None:
    """Checkpoint in `folder`, or None if any byte has changed."""
    content = group.broadcast(read_save_state(folder) if group.leads else None)
    if content is None:
        return None
    names = sorted(content["files"])
    mine = names[group.rank :: group.size]
    damaged = [name for name in mine if not _has_digest(folder / name, content["files"][name])]
    if any(group.gather(damaged)):
        return None
    return Saved(content["step"], folder, content["state"], tuple(names))


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return sha256_file(path) == digest
    except (FileNotFoundError, NotADirectoryError):
        return False


def model_tensors(model: nn.Module) -> Tensors:
    """Parameters and buffers by name; a tensor shared by two modules appears once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())
