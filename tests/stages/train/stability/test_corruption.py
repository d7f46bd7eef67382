"""Recomputation of a layer: no error on sound hardware, an error for one flipped bit, and no effect on the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.utils.checkpoint
from torch import nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from longcat.model.layers.shortcut import ShortcutLayer
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import LongcatError
from longcat.stages.train.stability.corruption import LayerRecording, differing_bits, layer_to_check

BuildModel = Callable[..., LongcatFlash]


def backward(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    """Backward of a loss that also depends directly on the logits, like the balance loss."""
    loss_sum, _, output = model.loss(ids_BT[:, :-1], ids_BT[:, 1:])
    (loss_sum + sum(routing.logits_TE.softmax(-1).square().sum() for routing in output.routing)).backward()


def recorded(model: LongcatFlash, ids_BT: torch.Tensor, index: int) -> LayerRecording:
    with LayerRecording(model.model.layers[index], index) as recording:
        backward(model, ids_BT)
    return recording


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "changes", [{}, {"gating_residual": True}, {"moe_layout": "interleaved"}, {"moe_layout": "span"}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sound_hardware_passes_and_the_step_keeps_its_bits(
    build_model: BuildModel, ids: torch.Tensor, changes: dict[str, object], dtype: torch.dtype
) -> None:
    plain, checked = build_model(dtype, **changes), build_model(dtype, **changes)
    for rows_BT in ids.split(1):
        backward(plain, rows_BT)
    first, second = ids.split(1)
    backward(checked, first)
    recorded(checked, second, 1).compare(step=7)  # added to the gradients of another micro batch
    for name, gradient in gradients(plain).items():
        assert torch.equal(gradient, gradients(checked)[name]), name
    assert not any(hooks for p in checked.parameters() if (hooks := p._backward_hooks))


def test_the_first_of_several_micro_batches_is_recorded(build_model: BuildModel, ids: torch.Tensor) -> None:
    model = build_model()
    with LayerRecording(model.model.layers[1], 1) as recording:
        for rows_BT in ids.split(1):
            backward(model, rows_BT)
    alone = recorded(build_model(), ids[:1], 1)
    assert all(torch.equal(gradient, recording.gradients[name]) for name, gradient in alone.gradients.items())
    recording.compare(step=0)


def test_compared_tensors(build_model: BuildModel, ids: torch.Tensor) -> None:
    recording = recorded(build_model(gating_residual=True), ids, 1)
    names = {f"gradient of {name}" for name, _ in recording.layer.named_parameters()}
    inputs = {"gradient of the hidden states", "gradient of the router logits of the previous layer"}
    assert set(recording.gradients) == names | inputs
    assert set(recording.outputs) == set(recording.into) == {"output", "router logits"}


class _FlipOneBit(torch.autograd.Function):
    """Returns its input; flips one bit of the gradient (or of the value) on the first call only."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return flipped(gradient)


def flipped(x: torch.Tensor) -> torch.Tensor:
    broken = x.clone()
    broken.view(torch.int32).view(-1)[3] ^= 1 << 20
    return broken


def once(break_it: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor | None]:
    calls: list[int] = []

    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor | None:
        calls.append(1)
        return break_it(output) if len(calls) == 1 else None

    return hook


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (flipped, r"the output of layer 1 differs when recomputed.*: \d+ of \d+ bits differ"),
        (_FlipOneBit.apply, r"the gradient of .* of layer 1 differs when recomputed.*: \d+ of \d+ bits differ"),
    ],
)
def test_one_flipped_bit_is_detected(
    build_model: BuildModel, ids: torch.Tensor, break_it: Callable[[torch.Tensor], torch.Tensor], named: str
) -> None:
    model = build_model()
    model.model.layers[1].mlps[1].register_forward_hook(once(break_it))
    with pytest.raises(LongcatError, match=named) as caught:
        recorded(model, ids, 1).compare(step=7)
    assert caught.value.where == "step 7"
    assert "longcat train verify" in str(caught.value)


def test_a_flipped_gradient_of_a_parameter_is_detected(build_model: BuildModel, ids: torch.Tensor) -> None:
    model = build_model()
    recording = recorded(model, ids, 2)
    name = "gradient of mlp.experts.down_proj"
    recording.gradients[name] = flipped(recording.gradients[name])
    with pytest.raises(LongcatError, match=rf"the {name} of layer 2 .*: 1 of \d+ bits differ"):
        recording.compare(step=1)


def test_a_layer_that_activation_checkpointing_recomputes(
    build_model: BuildModel, ids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = build_model()
    backward(expected, ids)
    call = ShortcutLayer.__call__

    def recomputed(self: ShortcutLayer, *arguments: object) -> object:
        return torch.utils.checkpoint.checkpoint(call, self, *arguments, use_reentrant=False)

    monkeypatch.setattr(ShortcutLayer, "__call__", recomputed)
    model = build_model()
    recorded(model, ids, 1).compare(step=0)
    for name, gradient in gradients(expected).items():
        assert torch.equal(gradient, gradients(model)[name]), name


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_a_sharded_layer(build_model: BuildModel, ids: torch.Tensor) -> None:
    plain, model = build_model(), build_model()
    backward(plain, ids)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    for layer in model.model.layers:
        for part in (layer.mlp.experts, layer.mlp.router, layer):
            fully_shard(part, mesh=mesh)
        register_fsdp_forward_method(layer.mlp.experts, "compute")
    recording = recorded(model, ids, 1)
    assert {f"gradient of {name}" for name, _ in recording.layer.named_parameters()} < set(recording.gradients)
    recording.compare(step=0)
    for name, gradient in gradients(plain).items():
        held = gradients(model)[name]
        assert torch.equal(gradient, held.full_tensor() if isinstance(held, DTensor) else held), name


def test_without_a_backward_pass(build_model: BuildModel, ids: torch.Tensor) -> None:
    model = build_model()
    with LayerRecording(model.model.layers[0], 0) as recording:
        model.loss(ids, ids)
    with pytest.raises(LongcatError, match="no forward and backward pass of layer 0"):
        recording.compare(step=3)


def test_bits_are_counted_one_by_one() -> None:
    one = torch.tensor([1.0, float("nan"), -0.0])
    assert differing_bits(one, one.clone()) == 0
    assert differing_bits(one, torch.tensor([1.0, float("nan"), 0.0])) == 1
    assert differing_bits(torch.tensor([1, 7], dtype=torch.int64), torch.tensor([2, 0], dtype=torch.int64)) == 5
    assert differing_bits(torch.tensor([0.0]).bfloat16(), torch.tensor([-0.0]).bfloat16()) == 1


def test_layers_alternate() -> None:
    assert [layer_to_check(5, done, 3) for done in (0, 1, 5, 10, 15)] == [0, None, 1, 2, 0]
    assert layer_to_check(0, 0, 3) is None
