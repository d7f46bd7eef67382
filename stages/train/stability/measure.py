"""Figures of one step that tell how the inside of the model does: the `stability` object of metrics.jsonl.

    router_cosine       mean cosine similarity of two rows of a layer's router; rising: the balance loss is too strong
    largest_activation  largest absolute value that leaves a layer, over all tokens of the step
    gradient_rms        root mean square by group of parameters, which Adam's eps has to stay far below
    parameter_rms       the same of the parameters themselves

Names: E experts, D hidden, L layers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

Reduce = Callable[[torch.Tensor], torch.Tensor]

# By the first pattern that a parameter's name matches.
GROUPS = (
    (re.compile(r"(^|\.)mtp\."), "mtp"),
    (re.compile(r"(^|\.)embed_tokens\."), "embedding"),
    (re.compile(r"(^|\.)lm_head\."), "head"),
    (re.compile(r"(norm|\.[eh]norm)\b"), "norms"),
    (re.compile(r"\.router\."), "router"),
    (re.compile(r"\.self_attn\."), "attention"),
    (re.compile(r"\.(experts|zero_experts)\."), "experts"),
    (re.compile(r"\.mlps\."), "dense_ffn"),
)
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@contextmanager
def largest_activations(layers: Sequence[nn.Module]) -> Iterator[torch.Tensor]:
    """Watch `layers` during the forward passes of a step; the tensor [L] is complete when the context ends.

    A layer that runs again in a backward pass is seen again, which changes nothing.
    """
    largest_L = torch.zeros(len(layers), device=next(layers[0].parameters()).device)

    def hook(index: int) -> Callable[..., None]:
        def look(_layer: nn.Module, _inputs: Any, outputs: tuple[torch.Tensor, Any]) -> None:
            largest_L[index] = torch.maximum(largest_L[index], outputs[0].detach().abs().amax().float())

        return look

    handles = [layer.register_forward_hook(hook(index)) for index, layer in enumerate(layers)]
    try:
        yield largest_L
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def router_cosine(weight_ED: torch.Tensor) -> float:
    """Mean cosine similarity of two different rows; a sharded matrix is gathered."""
    whole_ED = weight_ED.full_tensor() if isinstance(weight_ED, DTensor) else weight_ED
    unit_ED = nn.functional.normalize(whole_ED.double(), dim=1)
    experts = len(unit_ED)
    # The sum over all pairs of rows is the squared length of the sum of the rows.
    same, every = unit_ED.square().sum(), unit_ED.sum(dim=0).square().sum()
    return float((every - same) / (experts * (experts - 1))) if experts > 1 else 0.0


def group_of(name: str, layers: int, layer_groups: int) -> str:
    """The group of a parameter: `embedding`, `head`, `mtp`, `norms` (the final one) or `layers.0-6.attention` and such.

    The `layers` layers are split into `layer_groups` groups of consecutive ones, as even as they go.
    """
    kind = next((kind for pattern, kind in GROUPS if pattern.search(name)), "other")
    found = LAYER.search(name)
    if found is None or kind == "mtp":
        return kind
    groups = min(layer_groups, layers)
    place = int(found[1]) * groups // layers
    first, last = -(-place * layers // groups), -(-(place + 1) * layers // groups) - 1
    return f"layers.{first}.{kind}" if first == last else f"layers.{first}-{last}.{kind}"


@torch.no_grad()
def rms_by_group(tensors: Iterable[tuple[str, torch.Tensor]], reduce_sum: Reduce | None = None) -> dict[str, float]:
    """Root mean square by group of (group, tensor) pairs, in float64.

    Of a sharded tensor only this device's part is read; `reduce_sum` adds up squares and counts over all devices. A
    group that all devices hold whole comes out the same, as both are counted as often. All devices must give the same
    groups.
    """
    sums: dict[str, torch.Tensor] = {}
    for group, tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        square = torch.linalg.vector_norm(local, dtype=torch.float64).square()
        both = torch.stack((square, square.new_tensor(float(local.numel()))))
        sums[group] = sums[group] + both if group in sums else both
    if not sums:
        return {}
    names = sorted(sums)
    all_G2 = torch.stack([sums[name] for name in names])
    all_G2 = all_G2 if reduce_sum is None else reduce_sum(all_G2)
    rms: list[float] = (all_G2[:, 0] / all_G2[:, 1].clamp(min=1)).sqrt().tolist()
    return dict(zip(names, rms, strict=True))


def parameter_figures(
    model: nn.Module, layers: int, layer_groups: int, reduce_sum: Reduce | None = None
) -> dict[str, dict[str, float]]:
    """`gradient_rms` and `parameter_rms` of a model whose gradients are complete and not yet clipped.

    A parameter without a gradient counts as one of zeros.
    """
    named = [(group_of(name, layers, layer_groups), parameter) for name, parameter in model.named_parameters()]
    gradients = ((group, torch.zeros_like(p) if p.grad is None else p.grad) for group, p in named)
    return {
        "gradient_rms": rms_by_group(gradients, reduce_sum),
        "parameter_rms": rms_by_group(((group, p.detach()) for group, p in named), reduce_sum),
    }


def stability_record(
    model: nn.Module,
    routers: Sequence[nn.Module],
    balance_gradient_ratio: Sequence[float],
    largest_L: torch.Tensor,
    layer_groups: int,
    reduce_sum: Reduce | None = None,
    reduce_max: Reduce | None = None,
) -> dict[str, Any]:
    """The `stability` object of a line of metrics.jsonl, of plain floats; before gradients are clipped.

    `routers` are those of all layers, in order.
    """
    largest_L = largest_L if reduce_max is None else reduce_max(largest_L)
    return {
        "balance_gradient_ratio": list(balance_gradient_ratio),
        "router_cosine": [router_cosine(router.get_parameter("classifier.weight")) for router in routers],
        "largest_activation": largest_L.tolist(),
        **parameter_figures(model, len(routers), layer_groups, reduce_sum),
    }


def due(every: int, done: int) -> bool:
    """Whether the step after `done` steps is one of every `every`; never when that is 0."""
    return every > 0 and done % every == 0
