"""AdamW by row: every row as by AdamW over its own steps, for sparse, dense and sharded gradients, and its state."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from longcat.model.layout import NGRAM_TABLES
from longcat.model.presets import load_preset
from longcat.pipeline.errors import IntegrityError
from longcat.stages.train.checkpoints.resumable import RunCheckpoints
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim.adamw import build_optimizer, load_moments, moments, moments_like, set_learning_rate
from longcat.stages.train.optim.row_adamw import GROWTH, rows_with_gradient
from longcat.stages.train.optim.row_state import load_rows, saved_moments
from longcat.stages.train.parallel import control as group
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.norms import gradient_norm, scale_gradients

ROWS, WIDTH, STEPS = 41, 6, 30


class Tables:
    """A model of one table and one matrix."""

    config = load_preset("tiny-ngram")

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(1)
        self.table = nn.Parameter(torch.randn(ROWS, WIDTH, generator=generator, dtype=dtype))
        self.head = nn.Parameter(torch.randn(3, WIDTH, generator=generator, dtype=dtype))

    def named_parameters(self) -> Any:
        return iter({NGRAM_TABLES: self.table, "lm_head.weight": self.head}.items())


def gradients(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Dense gradients of few rows, some rows in no step, row 0 in all."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for _ in range(STEPS):
        rows = torch.cat((torch.zeros(1, dtype=torch.int64), torch.randint(0, ROWS - 9, (5,), generator=generator)))
        dense = torch.zeros(ROWS, WIDTH, dtype=dtype)
        dense[rows] = torch.randn(6, WIDTH, generator=generator, dtype=dtype)
        found.append(dense)
    return found


def rate(step: int) -> float:
    return 0.01 * (1 + step % 7)


def optimizer_of(model: Any, **options: Any) -> torch.optim.Optimizer:
    return build_optimizer(model, OptimizerOptions(eps=1e-8, **options))


def trained(model: Tables, steps: range, optimizer: torch.optim.Optimizer, form: Callable[..., Any]) -> None:
    for step in steps:
        set_learning_rate(optimizer, rate(step))
        model.table.grad = form(gradients(model.table.dtype)[step])
        model.head.grad = torch.ones_like(model.head) * (step - 3)
        optimizer.step()
        optimizer.zero_grad()


def dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient


def sparse(gradient: torch.Tensor) -> torch.Tensor:
    """With every row there twice, as two tokens give it, and a row of zeros."""
    rows = torch.cat((gradient.ne(0).any(dim=1).nonzero().flatten(), torch.tensor([ROWS - 1])))
    values = torch.cat((gradient[rows] * 0.25, gradient[rows] * 0.75))
    return torch.sparse_coo_tensor(torch.cat((rows, rows)).unsqueeze(0), values, gradient.shape, check_invariants=True)


@pytest.mark.parametrize("form", [dense, sparse])
def test_a_row_is_as_by_adamw_over_its_own_steps(form: Callable[..., Any]) -> None:
    model, start = Tables(torch.float64), Tables(torch.float64)
    optimizer = optimizer_of(model)
    trained(model, range(STEPS), optimizer, form)
    for row in range(ROWS):
        alone = nn.Parameter(start.table[row : row + 1].detach().clone())
        single = torch.optim.AdamW([alone], lr=0.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
        for step, gradient in enumerate(gradients(torch.float64)):
            if gradient[row].any():
                single.param_groups[0]["lr"] = rate(step)
                alone.grad = gradient[row : row + 1].clone()
                single.step()
        torch.testing.assert_close(model.table[row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_moments_grow_with_the_rows_that_had_a_gradient() -> None:
    model = Tables()
    optimizer = optimizer_of(model)
    trained(model, range(STEPS), optimizer, sparse)
    had = torch.stack(gradients()).ne(0).any(dim=2)
    found = moments(model, optimizer)
    assert sorted(found[f"{NGRAM_TABLES}.rows"].tolist()) == had.any(dim=0).nonzero().flatten().tolist()
    assert len(found[f"{NGRAM_TABLES}.rows"]) < ROWS - 8
    assert found[f"{NGRAM_TABLES}.exp_avg"].shape == (len(found[f"{NGRAM_TABLES}.rows"]), WIDTH)
    order = found[f"{NGRAM_TABLES}.rows"]
    assert torch.equal(found[f"{NGRAM_TABLES}.step"], had[:, order].sum(dim=0, dtype=torch.int32))


def test_the_memory_of_moments_has_a_quarter_to_spare_at_most() -> None:
    class Large(Tables):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(400_000, 2))

    model = Large()
    optimizer = optimizer_of(model)
    set_learning_rate(optimizer, 0.1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(4):
        rows = torch.randint(0, 400_000, (1, 3000), generator=generator)
        values = torch.ones(3000, 2)
        model.table.grad = torch.sparse_coo_tensor(rows, values, model.table.shape, check_invariants=True)
        optimizer.step()
    state = optimizer.state[model.table]
    assert len(state["rows"]) > 11_500
    assert state["exp_avg"].untyped_storage().nbytes() <= GROWTH * state["exp_avg"].nbytes + 8


@pytest.mark.parametrize("cautious", [False, True])
def test_sparse_and_dense_gradients_give_the_same_bits(cautious: bool) -> None:
    tables = []
    for form in (dense, sparse):
        model = Tables()
        optimizer = optimizer_of(model)
        for own in optimizer.param_groups:
            own["cautious"] = cautious
        trained(model, range(STEPS), optimizer, form)
        tables.append(model.table)
    torch.testing.assert_close(tables[0], tables[1], rtol=0 if not cautious else 1e-6, atol=0)


def test_cautious_decay_spares_values_that_grow() -> None:
    model = Tables()
    before = model.table.detach().clone()
    optimizer = optimizer_of(model, weight_decay=0.5)
    next(group for group in optimizer.param_groups if "by_row" in group)["cautious"] = True
    set_learning_rate(optimizer, 0.1)
    model.table.grad = -before.sign()  # every value moves away from zero
    optimizer.step()
    torch.testing.assert_close(model.table.detach(), before + 0.1 * before.sign(), rtol=1e-5, atol=1e-6)


def test_norm_and_scale_count_every_row_once() -> None:
    gradient = gradients()[4]
    for form in (dense, sparse):
        parameter = nn.Parameter(torch.zeros(ROWS, WIDTH))
        given = form(gradient.clone())
        parameter.grad = given.coalesce() if given.is_sparse else given
        norm = gradient_norm([parameter], Parallel(device=torch.device("cpu")))
        assert norm == pytest.approx(gradient.double().norm().item(), rel=1e-6)
        scale_gradients([parameter], 0.5)
        rows, values = rows_with_gradient(parameter.grad)
        torch.testing.assert_close(values, gradient[rows] * 0.5)


@pytest.mark.parametrize("through", ["moments", "save"])
def test_a_resumed_optimizer_gives_the_same_bits(through: str, tmp_path: Path) -> None:
    whole, first = Tables(), Tables()
    unbroken = optimizer_of(whole)
    trained(whole, range(STEPS), unbroken, sparse)
    before = optimizer_of(first)
    trained(first, range(13), before, sparse)
    second = Tables()
    second.table.data.copy_(first.table)
    optimizer = optimizer_of(second)
    if through == "moments":
        load_moments(second, optimizer, {name: tensor.clone() for name, tensor in moments(first, before).items()})
    else:
        checkpoints = RunCheckpoints(tmp_path, keep=1)
        checkpoints.save(13, {"optimizer": saved_moments(first, before)}, {})
        checkpoints.wait()
        stored = checkpoints.at(13).reader("optimizer")
        stored.load(moments_like(second, optimizer, stored.shapes))
        load_rows(second, optimizer, stored)
    trained(second, range(13, STEPS), optimizer, sparse)
    assert torch.equal(second.table, whole.table)
    assert len(moments(whole, unbroken)) == 7
    for name, tensor in moments(whole, unbroken).items():
        assert torch.equal(tensor, moments(second, optimizer)[name])


WRONG: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "missing": ({}, r"tables\.rows: expected \(0,\), found nothing"),
    "shape": ({"rows": torch.arange(2), "exp_avg": torch.zeros(2, 5)}, r"exp_avg: expected \(2, 6\), found \(2, 5\)"),
    "range": ({"rows": torch.tensor([3, ROWS])}, "row 41 of a table of 41 rows"),
    "twice": ({"rows": torch.tensor([3, 3])}, "a row is there twice"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_state_is_refused(case: str) -> None:
    given, message = WRONG[case]
    count = len(given.get("rows", ()))
    state = {"exp_avg": torch.zeros(count, WIDTH), "exp_avg_sq": torch.zeros(count, WIDTH)}
    state |= {"step": torch.zeros(count, dtype=torch.int32), **given}
    model = Tables()
    with pytest.raises(IntegrityError, match=message):
        load_moments(model, optimizer_of(model), {f"{NGRAM_TABLES}.{key}": value for key, value in state.items()})


def in_processes(count: int, work: Callable[..., None], folder: Path) -> None:
    meeting = folder / f"meeting-{secrets.token_hex(8)}"

    def enter(rank: int) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=count, timeout=timedelta(seconds=60))
        group._groups.forget()
        work(folder)
        dist.barrier()
        group.finalize()

    torch.multiprocessing.start_processes(enter, nprocs=count, start_method="fork")


def sharded() -> tuple[Tables, Callable[..., Any]]:
    """The model with its table in shards, and the form of its gradients."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = Tables()
    model.table = nn.Parameter(distribute_tensor(model.table.detach(), mesh, [Shard(0)]))
    return model, lambda gradient: distribute_tensor(gradient, mesh, [Shard(0)])


def save_in_shards(folder: Path) -> None:
    model, form = sharded()
    optimizer = optimizer_of(model)
    trained(model, range(13), optimizer, form)
    checkpoints = RunCheckpoints(folder / "saves", keep=1)
    parts = {"model": {"table": model.table}, "optimizer": saved_moments(model, optimizer)}
    checkpoints.save(13, parts, {})
    checkpoints.wait()


def go_on(folder: Path) -> None:
    """Go on from the save in any number of processes; the end equals that of one process without a stop."""
    model, form = sharded() if dist.is_initialized() else (Tables(), dense)
    optimizer = optimizer_of(model)
    saved = RunCheckpoints(folder / "saves", keep=1).at(13)
    saved.reader("model").load({"table": model.table})
    stored = saved.reader("optimizer")
    assert stored.dtypes[f"{NGRAM_TABLES}.rows"] == torch.int64
    stored.load(moments_like(model, optimizer, stored.shapes))
    load_rows(model, optimizer, stored)
    trained(model, range(13, STEPS), optimizer, form)
    whole = Tables()
    trained(whole, range(STEPS), optimizer_of(whole), dense)
    table = model.table.full_tensor() if dist.is_initialized() else model.table
    torch.testing.assert_close(table, whole.table, rtol=1e-6, atol=1e-7)
    held = sum(group.control().gather(len(optimizer.state[model.table]["rows"])))
    assert held == torch.stack(gradients()).ne(0).any(dim=2).any(dim=0).sum()


def test_any_number_of_processes_goes_on_from_the_state_of_another_number(tmp_path: Path) -> None:
    in_processes(3, save_in_shards, tmp_path)
    go_on(tmp_path)
    in_processes(2, go_on, tmp_path)
