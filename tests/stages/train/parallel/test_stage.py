"""Stages of a pipeline, losses attached to the graph, and a run of one process."""

from __future__ import annotations

import pytest
import torch

from longcat.model.init import initialize as initialize_whole
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.build import build_model
from longcat.stages.train.parallel.config import ParallelOptions
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.norms import by_mesh, clip_gradients
from longcat.stages.train.parallel.reduce import sum_statistics
from longcat.stages.train.parallel.stage import attach, layers_of_stage, reduce_to_stage
from longcat.stages.train.parallel.state import initialize


@pytest.mark.parametrize(("layers", "stages"), [(4, 4), (7, 3), (28, 8)])
def test_stages_take_every_layer_once(layers: int, stages: int) -> None:
    runs = [layers_of_stage(layers, stage, stages) for stage in range(stages)]
    assert [layer for run in runs for layer in run] == list(range(layers))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_stages_hold_every_parameter_once_under_its_name() -> None:
    config = load_preset("tiny").model_copy(update={"num_layers": 3, "num_nextn_predict_layers": 1})
    names: list[str] = []
    for stage in range(3):
        model = LongcatFlash(config)
        reduce_to_stage(model, stage, 3)
        names += [name for name, _ in model.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in LongcatFlash(config).named_parameters())
    assert len(names) == len(set(names))


def test_attached_loss_has_the_gradient_of_an_added_one() -> None:
    w = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    h = w * 2
    (expected,) = torch.autograd.grad((h * h).sum() + (w**3).sum(), w)
    h = w * 2
    y = attach(h, (w**3).sum())
    assert torch.equal(y, h)
    (found,) = torch.autograd.grad((y * y).sum(), w)
    torch.testing.assert_close(found, expected)
    assert attach(h, None) is h


def test_one_process_has_a_plain_model_and_needs_no_groups() -> None:
    config = load_preset("smoke")
    parallel = Parallel.join(ParallelOptions(), torch.device("cpu"))
    distributed = build_model(config, parallel)
    initialize(distributed, 7)
    whole = LongcatFlash(config)
    initialize_whole(whole, 7)
    state = dict(distributed.named_tensors())
    expected = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())

    ids = torch.arange(32).view(2, 16)
    for model in (distributed.model, whole):
        model.loss(ids, ids)[0].backward()
    norm = clip_gradients(distributed.model.parameters(), parallel, 0.1)
    exact = sum(parameter.grad.double().square().sum() for parameter in whole.parameters()) ** 0.5
    assert norm == pytest.approx(exact.item(), rel=1e-8)
    assert len(by_mesh(distributed.model.parameters())) == 1
    for mine, theirs in zip(distributed.model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad * (0.1 / norm), rtol=1e-5, atol=0)


def test_statistics_keep_large_counts_exactly() -> None:
    counts = {0: torch.tensor([2**40 + 1, 3]), 1: torch.tensor([0, 5])}
    counts_LE, sums = sum_statistics(Parallel(), 3, counts, {"loss": torch.tensor(0.5), "targets": 7})
    assert counts_LE.tolist() == [[2**40 + 1, 3], [0, 5], [0, 0]]
    assert sums == {"loss": 0.5, "targets": 7.0}
