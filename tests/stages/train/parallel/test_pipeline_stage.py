"""Stages of a pipeline, auxiliary losses attached to the graph, and a run of one process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from longcat.model import mixers
from longcat.model.config import ModelConfig
from longcat.model.init import initialize as initialize_whole
from longcat.model.layers.base import LayerOutput
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.build import build_model
from longcat.stages.train.parallel.config import ParallelOptions
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.norms import by_mesh, clip_factor, gradient_norm, scale_gradients
from longcat.stages.train.parallel.pipeline_stage import PipelineStageModule, attach, layers_of_stage, reduce_to_stage
from longcat.stages.train.parallel.reduce import sum_statistics
from longcat.stages.train.parallel.rows import local_rows
from longcat.stages.train.parallel.state import initialize


@pytest.mark.parametrize(("layers", "stages"), [(4, 4), (7, 3), (28, 8)])
def test_stages_have_every_layer_once(layers: int, stages: int) -> None:
    runs = [layers_of_stage(layers, stage, stages) for stage in range(stages)]
    assert [layer for run in runs for layer in run] == list(range(layers))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_stages_have_every_parameter_once_under_its_name() -> None:
    config = load_preset("tiny").model_copy(update={"num_layers": 3, "num_nextn_predict_layers": 1})
    names: list[str] = []
    for stage in range(3):
        model = LongcatFlash(config)
        reduce_to_stage(model, stage, 3)
        names += [name for name, _ in model.named_parameters()]
    assert sorted(names) == sorted(name for name, _ in LongcatFlash(config).named_parameters())
    assert len(names) == len(set(names))


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")
    budgeted = "tests.stages.train.sparse_balance.budgeted:BudgetedAttention"
    monkeypatch.setitem(mixers.KINDS, "test_budgeted", budgeted)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gating_residual": True},
        {"gating_residual": True, "zero_expert_type": "null", "moe_layout": "interleaved"},
        {"attention": {"pattern": ["test_linear", "mla"]}},
        {"attention": "test_budgeted"},
        {"moe_layout": "span", "num_nextn_predict_layers": 1},
    ],
)
def test_stages_in_sequence_equal_the_whole_model(changes: dict[str, Any], kinds: None) -> None:
    """Hidden states, router logits, losses of mixers and budgets by layer: gradients equal those of the whole model."""
    config = ModelConfig(**{**load_preset("tiny").model_dump(), "num_layers": 3, **changes})
    whole = LongcatFlash(config)
    initialize_whole(whole, 1, {"hidden": 0.1, "router": 0.1})
    with torch.no_grad():
        for router in whole.routers():
            if config.gating_residual:
                router.residual.weight.normal_(generator=torch.Generator().manual_seed(2))
    whole = whole.double()
    ids = torch.randint(4, 2000, (2, 16), generator=torch.Generator().manual_seed(3))
    rows = local_rows(ids, ids.roll(-1, 1), torch.tensor([0, 9, 16, 32]))
    rows = rows._replace(budgets_B=torch.tensor([[2, 3], [9, 5], [1, 6]]))

    def auxiliary(layer: int, output: LayerOutput) -> torch.Tensor:
        return (layer + 1) * output.routing.logits_TE.square().sum() + sum(output.losses.values())

    loss, _, output = whole.loss(rows.ids_BT, rows.targets_BT, rows.cu_seqlens, budgets_B=rows.budgets_B)
    (loss + sum(auxiliary(*item) for item in enumerate(output.layers))).backward()

    parts, handed_on = [], (rows.ids_BT,)
    for stage in range(3):
        model = copy.deepcopy(whole)
        model.zero_grad()
        reduce_to_stage(model, stage, 3)
        module = PipelineStageModule(model, stage, 3)
        module.begin([rows], lambda part, out, _: part.loss_of(out.hidden_BTD, rows.targets_BT)[0], auxiliary)
        out = module(*handed_on, number=torch.tensor([0]))
        handed_on = out if isinstance(out, tuple) else (out,)
        parts.append(model)
    torch.testing.assert_close(handed_on[0][0], loss)
    handed_on[0].sum().backward()
    found = {name: parameter.grad for part in parts for name, parameter in part.named_parameters()}
    assert found.keys() == dict(whole.named_parameters()).keys()
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_attached_loss_has_the_gradient_of_an_added_loss() -> None:
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
    norm = gradient_norm(distributed.model.parameters(), parallel)
    scale_gradients(distributed.model.parameters(), clip_factor(norm, 0.1))
    exact = sum(parameter.grad.double().square().sum() for parameter in whole.parameters()) ** 0.5
    assert norm == pytest.approx(exact.item(), rel=1e-7)
    assert len(by_mesh(distributed.model.parameters())) == 1
    for mine, theirs in zip(distributed.model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad * (0.1 / norm), rtol=1e-5, atol=0)


def test_statistics_keep_large_counts_exactly() -> None:
    counts = {0: torch.tensor([2**40 + 1, 3]), 1: torch.tensor([0, 5])}
    counts_LE, sums = sum_statistics(Parallel(), 3, counts, {"loss": torch.tensor(0.5), "targets": 7})
    assert counts_LE.tolist() == [[2**40 + 1, 3], [0, 5], [0, 0]]
    assert sums == {"loss": 0.5, "targets": 7.0}
