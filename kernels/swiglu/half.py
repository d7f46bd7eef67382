"""The gated activation in half precision on a CPU: float32 inside, rounded once, in blocks of rows that fit the cache.

The result can be multiplied by a factor per row, which then has a gradient too, without another rounding.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

BLOCK_VALUES = 1 << 17  # values of a block, half a MiB in float32


def activate(gate_NF: torch.Tensor, up_NF: torch.Tensor, factor_N1: torch.Tensor | None = None) -> torch.Tensor:
    """`factor * silu(gate) * up`, contiguous; `factor_N1` is float32."""
    active_NF = gate_NF.new_empty(gate_NF.shape)
    for block in _blocks(gate_NF):
        silu_NF = F.silu(gate_NF[block].float())
        active_NF[block] = _scaled(silu_NF.mul_(up_NF[block]), factor_N1, block)
    return active_NF


def differentiate(
    gate_NF: torch.Tensor,
    up_NF: torch.Tensor,
    grad_NF: torch.Tensor,
    grad_gate_NF: torch.Tensor,
    grad_up_NF: torch.Tensor,
    factor_N1: torch.Tensor | None = None,
) -> torch.Tensor:
    """Write the gradients of gate and up for `grad_NF` of the result, and the result itself to `grad_NF`.

    Returns the gradient of the factor, float32 [N]; empty without a factor.
    """
    grad_factor_N = torch.empty(0 if factor_N1 is None else gate_NF.shape[0])
    for block in _blocks(gate_NF):
        wide_gate_NF, wide_up_NF, wide_grad_NF = (x[block].float() for x in (gate_NF, up_NF, grad_NF))
        silu_NF = F.silu(wide_gate_NF)
        active_NF = silu_NF * wide_up_NF
        if factor_N1 is not None:
            torch.linalg.vecdot(active_NF, wide_grad_NF, out=grad_factor_N[block])
        grad_NF[block] = _scaled(active_NF, factor_N1, block)
        _scaled(wide_grad_NF, factor_N1, block)
        grad_up_NF[block] = silu_NF.mul_(wide_grad_NF)
        grad_gate_NF[block] = torch.ops.aten.silu_backward(wide_grad_NF.mul_(wide_up_NF), wide_gate_NF)
    return grad_factor_N


def _scaled(x_NF: torch.Tensor, factor_N1: torch.Tensor | None, block: slice) -> torch.Tensor:
    """In place."""
    return x_NF if factor_N1 is None else x_NF.mul_(factor_N1[block])


def _blocks(gate_NF: torch.Tensor) -> Iterator[slice]:
    size = max(1, BLOCK_VALUES // max(1, gate_NF.shape[1]))
    return (slice(first, first + size) for first in range(0, gate_NF.shape[0], size))
