"""R_g: the hook on the routing weights compared with the gradient with respect to the scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.utils.checkpoint

from longcat.model.layers.shortcut import ShortcutLayer
from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.train.load_balance.device_loss import ExpertGroups, balance_loss
from longcat.stages.train.stability.router_gradients import RouterGradients

BuildModel = Callable[..., LongcatFlash]
GROUPS = ExpertGroups(experts=6, zero_experts=3, topk=3, target=2.0, groups=3)


def gradients_of(
    model: LongcatFlash, ids_BT: torch.Tensor, micro_batches: int = 1, coefficient: float = 0.0
) -> RouterGradients:
    """Measurements of a step with the gradients of the mean loss."""
    total = ids_BT.shape[0] * (ids_BT.shape[1] - 1)
    measured = RouterGradients(model.config, ids_BT.device)
    for rows_BT in ids_BT.chunk(micro_batches):
        loss_sum, _, output = model.loss(rows_BT[:, :-1], rows_BT[:, 1:])
        loss = loss_sum / total + coefficient * watched_balance_loss(measured, output, total)
        loss.backward()
    return measured


def watched_balance_loss(measured: RouterGradients, output: BackboneOutput, total: int) -> torch.Tensor:
    losses = []
    for layer, routing in enumerate(output.routing):
        tokens = len(routing.logits_TE)
        frequencies_E = GROUPS.frequencies(routing.counts_E, tokens)
        measured.watch(layer, routing, frequencies_E, tokens / total)
        losses.append(balance_loss(routing.logits_TE, frequencies_E, tokens) * tokens / total)
    return torch.stack(losses).sum()


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.fixture
def with_reachable_scores(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Route with the plain softmax and record the scores of every layer with their gradients."""
    scores: list[torch.Tensor] = []

    def softmax_route(logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float) -> object:
        from longcat.kernels.router.reference import Routing, count, top_experts

        scores_TE = logits_TE.softmax(dim=-1)
        scores_TE.retain_grad()
        scores.append(scores_TE)
        experts_TK = top_experts(scores_TE.detach() + bias_E, topk)
        return Routing(scores_TE.gather(1, experts_TK) * scaling, experts_TK, count(experts_TK, logits_TE.shape[-1]))

    monkeypatch.setattr("longcat.model.moe.router.route", softmax_route)
    return scores


@pytest.mark.parametrize("kind", ["identity", "zero", "constant", "null"])
def test_the_hook_gives_the_gradient_of_the_scores(
    build_model: BuildModel, ids: torch.Tensor, with_reachable_scores: list[torch.Tensor], kind: str
) -> None:
    measured = gradients_of(build_model(torch.float64, zero_expert_type=kind), ids)
    expected_LE = torch.stack([scores_TE.grad.sum(dim=0) for scores_TE in with_reachable_scores])
    assert expected_LE.abs().max() > 0
    torch.testing.assert_close(measured.gradients_LE, expected_LE, rtol=1e-9, atol=1e-14)


def test_the_ratio_is_that_of_the_norms(build_model: BuildModel, ids: torch.Tensor) -> None:
    measured = gradients_of(build_model(), ids)
    expected = [
        float(torch.linalg.vector_norm(f_E) / torch.linalg.vector_norm(g_E))
        for f_E, g_E in zip(measured.frequencies_LE, measured.gradients_LE, strict=True)
    ]
    assert measured.unit_ratios() == pytest.approx(expected)
    assert measured.unit_ratios(lambda both: both * torch.tensor([2.0, 1.0]).view(2, 1, 1)) == pytest.approx(
        [2 * ratio for ratio in expected]
    )


def test_a_layer_that_no_gradient_reached(build_model: BuildModel) -> None:
    assert RouterGradients(build_model().config, torch.device("cpu")).unit_ratios() == [0.0] * 3


def test_micro_batches_add_up(build_model: BuildModel, ids: torch.Tensor) -> None:
    whole, halves = (gradients_of(build_model(torch.float64), ids, count) for count in (1, 2))
    torch.testing.assert_close(halves.gradients_LE, whole.gradients_LE)
    # The frequency of a group is linear in the counts, so its mean over micro batches equals that of the batch.
    torch.testing.assert_close(halves.frequencies_LE, whole.frequencies_LE)


def test_recomputed_layers_count_once(
    build_model: BuildModel, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = gradients_of(build_model(), ids, 2)
    forward, calls = ShortcutLayer.forward, []

    def recomputed(self: ShortcutLayer, *arguments: object) -> object:
        def counted(*inner: object) -> object:
            calls.append(1)
            return forward(self, *inner)

        return torch.utils.checkpoint.checkpoint(counted, *arguments, use_reentrant=False)

    monkeypatch.setattr(ShortcutLayer, "forward", recomputed)
    again = gradients_of(build_model(), ids, 2)
    assert len(calls) == 2 * 2 * 3
    assert torch.equal(again.gradients_LE, plain.gradients_LE)


def test_the_balance_loss_has_almost_no_effect(build_model: BuildModel, ids: torch.Tensor) -> None:
    """It affects only routing weights of earlier layers, and only slightly."""
    without = gradients_of(build_model(torch.float64), ids)
    coefficient = 0.1 / max(without.unit_ratios())
    with_it = gradients_of(build_model(torch.float64), ids, coefficient=coefficient)
    assert torch.equal(with_it.gradients_LE[-1], without.gradients_LE[-1])
    changes = [relative_difference(with_it.gradients_LE[layer], without.gradients_LE[layer]) for layer in range(2)]
    assert min(changes) > 0
    assert max(changes) < 1e-3
