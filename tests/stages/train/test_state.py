"""Checkpoints of a run: sharded over any number of processes, written in the background, complete or absent."""

from __future__ import annotations

import errno
import secrets
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import nn

from longcat.model.presets import load_preset
from longcat.pipeline.errors import IntegrityError, LongcatError, MachineError
from longcat.pipeline.files import sha256_file
from longcat.stages.formats.checkpoint import _read_tensors
from longcat.stages.train.checkpoints.resumable import RunCheckpoints, Saved, model_tensors
from longcat.stages.train.checkpoints.shards import ShardReader, Slice, Snapshot, piece_of
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim.adamw import build_optimizer, moments, moments_like, set_learning_rate
from longcat.stages.train.parallel import control as group

EXPERTS, WIDTH = 6, 4


def quiet(message: str) -> None:
    """Ignore a warning."""


def newest(checkpoints: RunCheckpoints, warn: Callable[[str], None] = quiet) -> Saved:
    found = checkpoints.latest(lambda saved: True, warn)
    assert found is not None
    return found


def in_processes(count: int, work: Callable[..., None], folder: Path, *arguments: Any) -> None:
    """Run `work(folder, *arguments)` in `count` forked processes of one gloo group."""
    meeting = folder / f"meeting-{secrets.token_hex(8)}"

    def enter(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=count, timeout=timedelta(seconds=60))
        group._groups.forget()
        work(folder, *arguments)
        dist.barrier()
        group.finalize()

    torch.multiprocessing.start_processes(enter, nprocs=count, start_method="fork")


def small_model() -> nn.Module:
    """Rows of 7 and 3, not divisible by 2 or 4, and one of them fewer than four processes."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3, bias=False), nn.Linear(3, 8))
    model.config = load_preset("tiny")  # used by the optimizer for parameter kinds
    return model


def trained(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = build_optimizer(model, OptimizerOptions())
    set_learning_rate(optimizer, 0.01)
    for step in range(3):
        model(torch.full((2, 5), 0.5 + step)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def sharded(model: nn.Module, replicas: int) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    world = dist.get_world_size()
    shape = (replicas, world // replicas) if replicas > 1 else (world,)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    fully_shard(model, mesh=mesh)
    return model


def expert_rows(values: torch.Tensor) -> Slice:
    """Rows of this process of a tensor that is stored as plain slices."""
    rank, size = group.control().rank, group.control().size
    start, end = rank * EXPERTS // size, (rank + 1) * EXPERTS // size
    return Slice(values[start:end].clone(), tuple(values.shape), (start, 0))


EXPERT_VALUES = torch.arange(EXPERTS * WIDTH, dtype=torch.float32).reshape(EXPERTS, WIDTH)


def save_sharded(folder: Path, replicas: int) -> None:
    model = sharded(small_model(), replicas)
    optimizer = trained(model)
    checkpoints = RunCheckpoints(folder / "checkpoints", keep=2)
    first_only = {"only": torch.tensor(7.0)} if group.control().leads else {}  # like on a stage of a pipeline
    parts = {**model_tensors(model), "experts": expert_rows(EXPERT_VALUES), **first_only}
    checkpoints.save(3, {"model": parts, "optimizer": moments(model, optimizer)}, {"rank": dist.get_rank()})
    checkpoints.wait()
    write_expected(folder, {**model_tensors(model), **moments(model, optimizer)})


def write_expected(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write whole tensors for comparison by readers of the checkpoint."""
    whole = {name: whole_tensor(tensor) for name, tensor in tensors.items()}
    if group.control().leads:
        save_file(whole, folder / "expected.safetensors")


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()


def check_sharded(folder: Path, replicas: int) -> None:
    """Load into a model of another layout; every gathered tensor must equal the saved one."""
    expected, other = load_file(folder / "expected.safetensors"), small_model()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    if dist.is_initialized():
        other = sharded(other, replicas)
    saved = newest(RunCheckpoints(folder / "checkpoints", keep=2))
    assert (saved.step, saved.state) == (3, {"rank": 0})
    stored = saved.reader("optimizer")
    optimizer = build_optimizer(other, OptimizerOptions())
    stored.load(moments_like(other, optimizer, stored.shapes.keys()))
    experts = expert_rows(torch.zeros(EXPERTS, WIDTH))
    only = torch.tensor(0.0)
    saved.reader("model").load({**model_tensors(other), "experts": experts, "only": only})
    assert torch.equal(experts.tensor, expert_rows(EXPERT_VALUES).tensor)
    assert only.item() == 7
    found = {**model_tensors(other), **moments(other, optimizer)}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(whole_tensor(found[name]), tensor), name


@pytest.mark.parametrize(("writers", "replicas"), [(2, 1), (4, 2)])
def test_any_number_of_processes_reads_a_checkpoint_of_another_number(
    tmp_path: Path, writers: int, replicas: int
) -> None:
    in_processes(writers, save_sharded, tmp_path, replicas)
    names = sorted(path.name for path in (tmp_path / "checkpoints/step-000000003").iterdir())
    files = [f"{kind}-{rank:05d}.safetensors" for kind in ("model", "optimizer") for rank in range(writers)]
    assert names == sorted([*files, "state.json"])
    written = sum(len(load_file(path)) for path in tmp_path.glob("checkpoints/*/optimizer-*"))
    pieces = {key for path in tmp_path.glob("checkpoints/*/optimizer-*") for key in load_file(path)}
    assert written == len(pieces)  # replicated tensors are written once
    check_sharded(tmp_path, 1)
    for readers, copies in ((2, 1), (4, 2)):
        in_processes(readers, check_sharded, tmp_path, copies)


def test_several_processes_read_a_checkpoint_of_one(tmp_path: Path) -> None:
    save_plain(tmp_path)
    in_processes(4, check_sharded, tmp_path, 1)


def save_plain(folder: Path) -> None:
    model = small_model()
    optimizer = trained(model)
    parts = {**model_tensors(model), "experts": EXPERT_VALUES, "only": torch.tensor(7.0)}
    checkpoints = RunCheckpoints(folder / "checkpoints", keep=2)
    checkpoints.save(3, {"model": parts, "optimizer": moments(model, optimizer)}, {"rank": 0})
    checkpoints.wait()
    write_expected(folder, {**model_tensors(model), **moments(model, optimizer)})


def test_the_files_are_safetensors_of_every_dtype_and_shape(tmp_path: Path) -> None:
    values = torch.arange(24).reshape(4, 6)
    tensors = {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "turned": values.float().T,
        "half": values.bfloat16(),
        "flags": values > 5,
        "whole": values,
    }
    snapshot = Snapshot()
    snapshot.copy([piece_of(name, tensor) for name, tensor in tensors.items()])
    digest = snapshot.write(tmp_path / "a.safetensors")
    assert digest == sha256_file(tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    ShardReader([tmp_path / "a.safetensors"]).load(targets)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert torch.equal(targets[name], tensor)
    with pytest.raises(IntegrityError, match=r"whole: expected \(2, 2\), found \(4, 6\)"):
        ShardReader([tmp_path / "a.safetensors"]).load({"whole": torch.zeros(2, 2)})


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to open file </x> in read-only mode: Too many open files (24)"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError("Input/output error (os error 5)"),
    ],
)
def test_a_shard_that_cannot_be_opened_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    path = tmp_path / "a.safetensors"
    monkeypatch.setattr("safetensors.safe_open", failing)
    monkeypatch.setattr("longcat.stages.formats.checkpoint.load_file", failing)
    path.touch()
    for read in (lambda: ShardReader([path]), lambda: _read_tensors(path)):
        with pytest.raises(OSError, match="safetensors") as caught:
            read()
        assert (caught.value.errno, caught.value.filename) in [(n, str(path)) for n in (5, 13, 24)]


def test_training_continues_during_writing_and_the_copy_is_consistent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying, writing = threading.Event(), threading.Event()
    copy, write = Snapshot.copy, Snapshot.write

    def late_copy(self: Snapshot, pieces: Any) -> None:
        assert copying.wait(20)
        copy(self, pieces)

    def late_write(self: Snapshot, path: Path) -> str:
        assert writing.wait(20)
        return write(self, path)

    monkeypatch.setattr(Snapshot, "copy", late_copy)
    monkeypatch.setattr(Snapshot, "write", late_write)
    told: list[dict[str, Any]] = []
    checkpoints = RunCheckpoints(tmp_path, keep=2, log=told.append)
    weight = torch.ones(1000)
    checkpoints.save(1, {"model": {"weight": weight}}, {})
    threading.Timer(0.2, copying.set).start()
    checkpoints.before_update()
    assert copying.is_set()  # it waited for the copy, and did not wait for the file
    assert not list(tmp_path.glob("step-000000001"))
    weight.zero_()
    writing.set()
    checkpoints.save(2, {"model": {"weight": weight}}, {})  # waits for the first
    assert (tmp_path / "step-000000001").is_dir()
    checkpoints.wait()
    for step, value in ((1, 1.0), (2, 0.0)):
        stored = load_file(tmp_path / f"step-{step:09d}/model-00000.safetensors")["weight"]
        assert stored.unique().tolist() == [value]
    assert [(line["event"], line["step"]) for line in told] == [("checkpoint", 1), ("checkpoint", 2)]
    assert told[0]["stall_seconds"] > 0.1


def fail_writing(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """Make the disk of one rank full after some bytes."""
    write = Snapshot.write

    def full(self: Snapshot, path: Path) -> str:
        if group.control().rank != rank:
            return write(self, path)
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Snapshot, "write", full)


def test_a_full_disk_is_raised_by_the_next_call_and_the_previous_checkpoint_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = RunCheckpoints(tmp_path, keep=2)
    groups = {"model": {"weight": torch.ones(10)}}
    checkpoints.save(1, groups, {})
    checkpoints.wait()
    with monkeypatch.context() as patch:
        fail_writing(patch, 0)
        checkpoints.save(2, groups, {})
        checkpoints.before_update()
        with pytest.raises(LongcatError, match="the checkpoint of step 2 could not be written: the disk is full"):
            checkpoints.save(3, groups, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    checkpoints.save(3, groups, {})
    checkpoints.wait()
    assert newest(checkpoints).step == 3


def full_on_rank_1(folder: Path) -> None:
    monkeypatch = pytest.MonkeyPatch()
    fail_writing(monkeypatch, 1)
    checkpoints = RunCheckpoints(folder / "checkpoints", keep=2)
    checkpoints.save(1, {"model": {"experts": expert_rows(EXPERT_VALUES)}}, {})
    with pytest.raises(LongcatError, match="the disk is full") as caught:
        checkpoints.wait()
    assert ("rank 1: " in str(caught.value)) == (dist.get_rank() == 0)
    dist.barrier()
    assert not list((folder / "checkpoints").iterdir())


def test_a_full_disk_of_one_process_is_an_error_in_all(tmp_path: Path) -> None:
    in_processes(2, full_on_rank_1, tmp_path)


def fall_back(folder: Path) -> None:
    checkpoints = RunCheckpoints(folder / "checkpoints", keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, {"model": {"experts": expert_rows(EXPERT_VALUES + step)}}, {})
    checkpoints.wait()
    if dist.get_rank() == 0:
        victim = folder / "checkpoints/step-000000003/model-00001.safetensors"
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
    dist.barrier()
    told: list[str] = []
    saved = checkpoints.latest(lambda found: found.step != 2, told.append)
    assert saved is not None
    assert saved.step == 1
    assert len(told) == (2 if dist.get_rank() == 0 else 0)
    experts = expert_rows(torch.zeros(EXPERTS, WIDTH))
    saved.reader("model").load({"experts": experts})
    assert torch.equal(experts.tensor, expert_rows(EXPERT_VALUES + 1).tensor)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000000001"]


def test_a_damaged_file_of_one_process_falls_back_in_all(tmp_path: Path) -> None:
    in_processes(2, fall_back, tmp_path)


def half_of_the_rows(folder: Path) -> None:
    rows = Slice(EXPERT_VALUES[:2].clone(), tuple(EXPERT_VALUES.shape), (2 * dist.get_rank(), 0))
    checkpoints = RunCheckpoints(folder / "checkpoints", keep=1)
    checkpoints.save(1, {"model": {"experts": rows}}, {})
    with pytest.raises(ValueError, match="experts: the processes hold 16 of its 24 elements"):
        checkpoints.wait()


def test_incomplete_pieces_are_refused(tmp_path: Path) -> None:
    in_processes(2, half_of_the_rows, tmp_path)


def flags(folder: Path) -> None:
    rank = dist.get_rank()
    assert [group.stop_everywhere(rank == step) for step in range(4)] == [True, True, True, False]
    assert group.control().gather({"rank": rank, "text": "x" * rank}) == [
        {"rank": other, "text": "x" * other} for other in range(3)
    ]
    assert group.control().broadcast(rank + 5) == 5


def test_processes_agree_on_flags_and_values(tmp_path: Path) -> None:
    in_processes(3, flags, tmp_path)
    assert [group.stop_everywhere(flag) for flag in (True, False)] == [True, False]


def test_a_checkpoint_that_cannot_be_read_now_is_not_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk error does not mean damaged bytes, so the run ends instead of using an older checkpoint."""
    states = RunCheckpoints(tmp_path, keep=2)
    states.save(1, {"model": {"weight": torch.zeros(3)}}, {})
    states.wait()

    def fail(path: Path) -> str:
        raise MachineError("Input/output error", where=str(path))

    monkeypatch.setattr("longcat.stages.train.checkpoints.resumable.sha256_file", fail)
    with pytest.raises(MachineError, match="Input/output error"):
        newest(states)
    monkeypatch.undo()
    assert newest(states).step == 1
