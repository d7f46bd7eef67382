"""The whole model with fast kernels compared with the float64 reference, and parts whose order is easy to get wrong."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from longcat.model.attention.base import SequenceContext
from longcat.model.layers.shortcut import ShortcutLayer
from longcat.model.moe.mixture import MixtureOfExperts
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]


DOCUMENTS = [0, 5, 17, 30, 34]
MTP = {"num_nextn_predict_layers": 1}
MIXED = {"zero_expert_num": 4, "zero_expert_types": {"constant": 2, "identity": 1, "zero": 1}}
SWITCHES: dict[str, dict[str, Any]] = {
    "published": {},
    "tied": {"tie_word_embeddings": True},
    "mtp": MTP,
    "mtp, tied": MTP | {"tie_word_embeddings": True},
    "mtp, shared table": MTP | {"mtp_share_embeddings": True},
    "mtp, tied, shared table": MTP | {"mtp_share_embeddings": True, "tie_word_embeddings": True},
    "no zero experts": {"zero_expert_num": 0},
    "zero": {"zero_expert_type": "zero"},
    "constant": {"zero_expert_type": "constant"},
    "mixed": MIXED,
    "null": {"zero_expert_type": "null"},
    "gating residual": {"gating_residual": True},
    "interleaved": {"moe_layout": "interleaved"},
    "span, mtp": MTP | {"moe_layout": "span"},
    "post": {"moe_layout": "post"},
    "no scaling": {"mla_scale_q_lora": False, "mla_scale_kv_lora": False},
    "all": MIXED | MTP | {"gating_residual": True, "moe_layout": "interleaved"},
}


def loss_and_gradients(model: LongcatFlash, cu_seqlens: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Loss, plus half of the loss of multi-token prediction if present, and all gradients."""
    generator = torch.Generator().manual_seed(3)
    input_ids_BT = torch.randint(0, model.config.vocab_size, (2, 17), generator=generator)
    targets_BT = input_ids_BT.roll(-1, dims=1)
    targets_BT[:, -1] = -100
    loss, tokens, output = model.loss(input_ids_BT, targets_BT, cu_seqlens)
    assert tokens == 32
    if model.config.num_nextn_predict_layers:
        mtp_loss, mtp_tokens = model.mtp_loss(output.hidden_BTD, input_ids_BT, targets_BT, cu_seqlens)
        assert mtp_tokens == (30 if cu_seqlens is None else 26)
        loss = loss + 0.5 * mtp_loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return {"loss": loss.detach(), "counts": output.expert_counts_LE, **gradients}


def without_trivial_residuals(model: LongcatFlash) -> LongcatFlash:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("residual.weight"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["whole", "documents"])
@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES.keys())
def test_every_gradient_agrees_with_the_float64_reference(
    documents: list[int] | None, changes: dict[str, Any], build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cu_seqlens = None if documents is None else torch.tensor(documents)
    model = without_trivial_residuals(build_model(**changes))
    monkeypatch.setenv("LONGCAT_KERNELS", "cpu")
    results = loss_and_gradients(model, cu_seqlens)
    monkeypatch.setenv("LONGCAT_KERNELS", "reference")
    expected = loss_and_gradients(without_trivial_residuals(build_model(**changes)).double(), cu_seqlens)
    assert torch.equal(results.pop("counts"), expected.pop("counts"))
    for name, result in results.items():
        assert result.dtype == torch.float32
        error = torch.linalg.vector_norm(result.double() - expected[name])
        # The error of the plain version in float32 is up to 1.4e-5 itself, in the interleaved model.
        assert error <= 4e-5 * torch.linalg.vector_norm(expected[name]), name


@pytest.mark.parametrize("changes", [{}, MTP | MIXED | {"gating_residual": True}, {"zero_expert_type": "null"}])
def test_gradients_equal_finite_differences(changes: dict[str, Any], build_model: BuildModel) -> None:
    """Independent of our backward: a step in a random direction changes the loss as predicted by the gradients."""
    model = without_trivial_residuals(build_model(**changes)).double()
    cu_seqlens = torch.tensor(DOCUMENTS)
    results = loss_and_gradients(model, cu_seqlens)
    directions = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    slope = sum((results[name] * direction).sum() for name, direction in directions.items())
    losses = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(directions[name], alpha=step).grad = None
        moved = loss_and_gradients(model, cu_seqlens)
        assert torch.equal(moved["counts"], results["counts"])
        losses.append(moved["loss"])
    torch.testing.assert_close((losses[0] - losses[1]) / 2e-6, slope, rtol=1e-5, atol=0)


def test_documents_do_not_see_each_other(build_model: BuildModel) -> None:
    model = build_model()
    input_ids_BT = torch.randint(0, 97, (1, 12))
    together = model(input_ids_BT, torch.tensor([0, 5, 12])).logits
    torch.testing.assert_close(together[:, :5], model(input_ids_BT[:, :5]).logits)
    torch.testing.assert_close(together[:, 5:], model(input_ids_BT[:, 5:]).logits)
    assert not torch.allclose(together[:, 5:], model(input_ids_BT).logits[:, 5:])


def test_the_layer_adds_the_moe_output_at_its_end(build_model: BuildModel) -> None:
    """The MoE and the first dense FFN have the same input, and neither attention module sees the MoE output."""
    layer: ShortcutLayer = build_model().model.layers[0]
    h_BTD = torch.randn(1, 7, 32)
    where = SequenceContext.at(torch.arange(7), [6], 1e7)
    read: dict[str, torch.Tensor] = {}
    layer.mlp.router.register_forward_hook(lambda _, inputs, __: read.update(mixture=inputs[0]))
    layer.mlps[0].register_forward_hook(lambda _, inputs, __: read.update(dense=inputs[0]))
    with torch.no_grad():
        out_BTD = layer(h_BTD, where).hidden_BTD
        assert torch.equal(read["mixture"], read["dense"].flatten(0, 1))
        shortcut, _ = layer.mlp(read["dense"])
        for parameter in layer.mlp.router.parameters():
            parameter.zero_()
        layer.mlp.experts.down_proj.zero_()
        layer.mlp.router.e_score_correction_bias.zero_()  # all tokens now go to the first experts, which return zeros
        without_BTD = layer(h_BTD, where).hidden_BTD
    torch.testing.assert_close(out_BTD, without_BTD + shortcut)


def test_variance_alignment_can_be_switched_off(build_model: BuildModel) -> None:
    """Without it, matrices after the latents scaled by the same factors give the same logits."""
    aligned, plain = build_model(), build_model(mla_scale_q_lora=False, mla_scale_kv_lora=False)
    input_ids_BT = torch.arange(9).view(1, 9)
    assert not torch.allclose(aligned(input_ids_BT).logits, plain(input_ids_BT).logits, rtol=1e-2)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name.endswith("q_b_proj.weight"):
                parameter.mul_((32 / 20) ** 0.5)
            if name.endswith("kv_b_proj.weight"):
                parameter.mul_((32 / 16) ** 0.5)
    torch.testing.assert_close(aligned(input_ids_BT).logits, plain(input_ids_BT).logits, rtol=1e-4, atol=1e-4)


def test_zero_experts_return_the_normed_input_times_their_weight(build_model: BuildModel) -> None:
    model = build_model()
    mixture = model.model.layers[0].mlp
    with torch.no_grad():
        mixture.router.e_score_correction_bias[5:] = 10.0
        x_BTD = torch.randn(2, 3, 32)
        y_BTD, routing = mixture(x_BTD)
        scores = (x_BTD @ mixture.router.classifier.weight.T).softmax(-1)
        torch.testing.assert_close(y_BTD, x_BTD * 6.0 * scores[..., 5:].sum(-1, keepdim=True))
    assert routing.counts_E.tolist() == [0, 0, 0, 0, 0, 6, 6, 6]


def test_unselected_experts_have_zero_gradients(build_model: BuildModel) -> None:
    model = build_model()
    for bias in model.router_biases():
        bias[:5] = -10.0
        bias[5:] = 10.0
    results = loss_and_gradients(model, None)
    assert results["counts"][:, :5].sum() == 0
    assert results["model.layers.0.mlp.experts.gate_up_proj"].abs().sum() == 0
    assert results["model.layers.0.mlp.router.classifier.weight"].abs().sum() > 0


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
@pytest.mark.parametrize("changes", [{}, {"zero_expert_type": "constant"}, {"zero_expert_type": "null"}])
@pytest.mark.parametrize("chosen", [[2], [5], [0, 1, 2], [5, 6, 7], []])
def test_routers_at_their_extremes(
    chosen: list[int],
    changes: dict[str, Any],
    kernels: str,
    build_model: BuildModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All tokens to one expert, to one zero expert, to three of a kind; and no tokens at all."""
    monkeypatch.setenv("LONGCAT_KERNELS", kernels)
    model = build_model(moe_topk=max(len(chosen), 1), **changes)
    for bias_E in model.router_biases():
        bias_E[chosen] = 10.0
    mixture = model.model.layers[0].mlp
    x_BTD = torch.randn(2, 9 if chosen else 0, 32, requires_grad=True)
    y_BTD, routing = mixture(x_BTD)
    assert routing.counts_E.tolist() == [18 if expert in chosen else 0 for expert in range(8)]
    y_BTD.square().sum().backward()
    results = [y_BTD.detach(), x_BTD.grad, *(parameter.grad for parameter in mixture.parameters())]
    assert all(result is not None and result.isfinite().all() for result in results)
    idle = [expert for expert in range(5) if expert not in chosen]
    assert (mixture.experts.gate_up_proj.grad[idle] == 0).all()
    for expert in set(chosen) & set(range(5)):
        assert mixture.experts.gate_up_proj.grad[expert].abs().sum() > 0
    expected_BTD = torch.zeros_like(y_BTD)
    weights_BTE = 6.0 * (x_BTD @ mixture.router.classifier.weight.T).softmax(-1)
    if changes == {"zero_expert_type": "null"}:
        total_BT1 = weights_BTE[..., [expert for expert in chosen if expert < 5]].sum(-1, keepdim=True)
        weights_BTE = 6.0 * weights_BTE / total_BT1.where(total_BT1 > 0, 1.0)
    for expert in chosen:
        expected_BTD = expected_BTD + weights_BTE[..., expert : expert + 1] * expert_output(mixture, expert, x_BTD)
    torch.testing.assert_close(y_BTD, expected_BTD)


def expert_output(mixture: MixtureOfExperts, expert: int, x_BTD: torch.Tensor) -> torch.Tensor:
    if expert < 5:
        gate_BTF, up_BTF = (x_BTD @ mixture.experts.gate_up_proj[expert].T).chunk(2, dim=-1)
        return (F.silu(gate_BTF) * up_BTF) @ mixture.experts.down_proj[expert].T
    if "identity" in mixture.zero_experts:
        return x_BTD
    if "constant" not in mixture.zero_experts:
        return torch.zeros_like(x_BTD)
    constant, m = mixture.zero_experts["constant"], expert - 5
    shares_BT2 = (x_BTD @ constant.mixing.weight[2 * m : 2 * m + 2].T).softmax(-1)
    return shares_BT2[..., :1] * x_BTD + shares_BT2[..., 1:] * constant.vectors[m]


def test_two_runs_give_the_same_bits(build_model: BuildModel) -> None:
    first, second = (loss_and_gradients(build_model(), torch.tensor([0, 5, 17, 30, 34])) for _ in range(2))
    for name, result in first.items():
        assert torch.equal(result, second[name]), name


class Operations(TorchDispatchMode):
    """Record the names of all operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_no_scatter_add(build_model: BuildModel) -> None:
    """Scatter-add is the usual cause of run-to-run differences of MoE on parallel hardware."""
    mixture = build_model().model.layers[0].mlp
    x_BTD = torch.randn(2, 9, 32, requires_grad=True)
    with Operations() as operations:
        y_BTD, _ = mixture(x_BTD)
        y_BTD.backward(torch.ones_like(y_BTD))
    assert "aten::grouped_mm" in operations.names or "aten::_grouped_mm" in operations.names
    unsafe = ("scatter_add", "index_add", "scatter_reduce", "_unsafe_index_put", "index_put", "embedding_dense")
    assert not [name for name in operations.names if any(part in name for part in unsafe)]


def test_a_recomputed_layer_counts_its_tokens_once(build_model: BuildModel) -> None:
    model = build_model()
    layer = model.model.layers[0]
    h_BTD = torch.randn(2, 9, 32, requires_grad=True)
    where = SequenceContext.at(torch.arange(9), [6], 1e7)
    out_BTD, routing, _ = layer(h_BTD, where)
    again_BTD, again, _ = checkpoint(layer, h_BTD, where, use_reentrant=False)
    gradient = torch.autograd.grad(out_BTD.sum(), h_BTD)[0]
    assert torch.equal(torch.autograd.grad(again_BTD.sum(), h_BTD)[0], gradient)
    assert torch.equal(routing.counts_E, again.counts_E)
    assert routing.counts_E.sum() == 2 * 9 * 3


def test_half_precision_keeps_the_router_in_float32(build_model: BuildModel) -> None:
    model = build_model()
    exact = model(torch.arange(20).view(1, 20))
    model.bfloat16()
    for router in model.routers():
        router.float()
    half = model(torch.arange(20).view(1, 20))
    assert half.logits.dtype == torch.float32
    assert half.expert_counts_LE.dtype == torch.int64
    assert torch.linalg.vector_norm(half.logits - exact.logits) < 0.2 * torch.linalg.vector_norm(exact.logits)
