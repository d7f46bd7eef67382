"""Internal statistics of the model in one step: the `stability` object of metrics.jsonl.

* `router_cosine`: mean cosine similarity of two rows of a layer's router; it rises where the balance loss is too strong
* `largest_activation`: largest absolute output of a layer, over all tokens of the step
* `gradient_rms`: root mean square by parameter group; Adam's eps must be far below
* `parameter_rms`: the same for parameter values

Names: E experts, D hidden, L layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from longcat.stages.train.optim.adamw import NamedParameters

Reduce = Callable[[torch.Tensor], torch.Tensor]

# The first pattern that matches a parameter's name.
KINDS = (
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
def largest_activations(layers: Mapping[int, nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """Record the largest absolute output of layers (by index) during the forward passes of a step.

    Recomputation in backward does not change the result.
    """
    largest: dict[int, torch.Tensor] = {}

    def hook(number: int) -> Callable[..., None]:
        def look(_layer: nn.Module, _inputs: Any, outputs: tuple[torch.Tensor, Any]) -> None:
            value = outputs[0].detach().abs().amax().float()
            largest[number] = torch.maximum(largest[number], value) if number in largest else value

        return look

    handles = [layer.register_forward_hook(hook(number)) for number, layer in layers.items()]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def router_cosine(weight_ED: torch.Tensor) -> float:
    """Mean cosine similarity of pairs of rows; a sharded matrix is gathered."""
    whole_ED = weight_ED.full_tensor() if isinstance(weight_ED, DTensor) else weight_ED
    unit_ED = nn.functional.normalize(whole_ED.double(), dim=1)
    experts = len(unit_ED)
    # The sum over all pairs of rows is the squared length of the sum of the rows.
    same, every = unit_ED.square().sum(), unit_ED.sum(dim=0).square().sum()
    return float((every - same) / (experts * (experts - 1))) if experts > 1 else 0.0


def group_of(name: str, layers: int, layer_groups: int) -> str:
    """Group of a parameter: `embedding`, `head`, `mtp`, `norms` (the final one) or `layers.0-6.attention` and such.

    The `layers` layers are split evenly into `layer_groups` groups of consecutive layers.
    """
    kind = next((kind for pattern, kind in KINDS if pattern.search(name)), "other")
    found = LAYER.search(name)
    if found is None or kind == "mtp":
        return kind
    groups = min(layer_groups, layers)
    return f"{_run(int(found[1]) * groups // layers, layers, groups)}.{kind}"


def _run(place: int, layers: int, groups: int) -> str:
    first, last = -(-place * layers // groups), -(-(place + 1) * layers // groups) - 1
    return f"layers.{first}" if first == last else f"layers.{first}-{last}"


def all_groups(layers: int, layer_groups: int) -> list[str]:
    """All names that `group_of` can return, sorted: the same on every device."""
    kinds = {kind for _, kind in KINDS} | {"other"}
    groups = min(layer_groups, layers)
    runs = [_run(place, layers, groups) for place in range(groups)]
    return sorted(kinds | {f"{run}.{kind}" for run in runs for kind in kinds - {"mtp"}})


@torch.no_grad()
def rms_by_group(
    tensors: Iterable[tuple[str, torch.Tensor]], groups: Sequence[str], reduce_sum: Reduce | None = None
) -> dict[str, float]:
    """Root mean square by group of (group, tensor) pairs, in float64; empty groups are omitted.

    Only the local part of a sharded tensor is read; `reduce_sum` sums squares and counts over all devices. Replicated
    groups are not affected, as both are counted equally often.
    """
    places = {group: place for place, group in enumerate(groups)}
    sums: dict[int, torch.Tensor] = {}
    for group, tensor in tensors:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        values = local.values() if local.is_sparse else local  # the other rows are zeros
        square = torch.linalg.vector_norm(values, dtype=torch.float64).square()
        both_2 = torch.stack((square, square.new_tensor(float(local.numel()))))
        place = places[group]
        sums[place] = sums[place] + both_2 if place in sums else both_2
    if not sums:
        return {}
    nothing_2 = torch.zeros_like(next(iter(sums.values())))
    all_G2 = torch.stack([sums.get(place, nothing_2) for place in range(len(groups))])
    all_G2 = all_G2 if reduce_sum is None else reduce_sum(all_G2)
    rms = (all_G2[:, 0] / all_G2[:, 1].clamp(min=1)).sqrt().tolist()
    counts = all_G2[:, 1].tolist()
    return {group: value for group, value, count in zip(groups, rms, counts, strict=True) if count}


def parameter_figures(
    model: NamedParameters, layers: int, layer_groups: int, reduce_sum: Reduce | None = None
) -> dict[str, dict[str, float]]:
    """`gradient_rms` and `parameter_rms` of a model with complete, unclipped gradients.

    A missing gradient counts as zeros. `layers` is the number of layers of the whole model.
    """
    groups = all_groups(layers, layer_groups)
    named = [(group_of(name, layers, layer_groups), parameter) for name, parameter in model.named_parameters()]
    gradients = ((group, torch.zeros_like(p) if p.grad is None else p.grad) for group, p in named)
    return {
        "gradient_rms": rms_by_group(gradients, groups, reduce_sum),
        "parameter_rms": rms_by_group(((group, p.detach()) for group, p in named), groups, reduce_sum),
    }


def layer_figures(
    routers: Mapping[int, nn.Module],
    largest: Mapping[int, torch.Tensor],
    layers: int,
    reduce_max: Reduce | None = None,
) -> dict[str, list[float]]:
    """`router_cosine` and `largest_activation` of all `layers` layers, from local ones by index.

    `reduce_max` takes the maximum over all devices; every layer must be on at least one.
    """
    device = next(iter(largest.values())).device
    both_2L = torch.full((2, layers), -math.inf, dtype=torch.float64, device=device)
    for layer, router in routers.items():
        both_2L[0, layer] = router_cosine(router.get_parameter("classifier.weight"))
        both_2L[1, layer] = largest[layer]
    both_2L = both_2L if reduce_max is None else reduce_max(both_2L)
    cosine, activation = both_2L.tolist()
    return {"router_cosine": cosine, "largest_activation": activation}


def due(every: int, done: int, since_start: int | None = None) -> bool:
    """Whether the step after `done` steps is measured: at multiples of `every`; never if that is 0.

    With `since_start`, the steps done since a run began or joined another one, also steps 1, 2, 4, 8, ... of it.
    """
    if every <= 0:
        return False
    number = 0 if since_start is None else since_start + 1
    return done % every == 0 or (0 < number < every and number & (number - 1) == 0)
