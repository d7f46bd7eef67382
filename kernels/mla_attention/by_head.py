"""Causal attention without gradient, one head at a time, with products of oneDNN.

On AMD cores with AVX-512, oneDNN computes these products at two to four times the rate of torch's batched product,
which is MKL's (`kernels.linear.cpu`). oneDNN has no batched product of float32 in torch, so there is a call for each
head.
"""

import torch

from longcat.kernels.linear import cpu as linear
from longcat.kernels.mla_attention.pieces import Group, pieces_of
from longcat.kernels.mla_attention.tiles import Products, attend, prepare, write
from longcat.kernels.mla_attention.window import Window

# Below these, calls take longer than products.
FEW_QUERIES, FEW_PAIRS = 64, 1 << 16


def takes(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor) -> bool:
    """Whether this form is the faster one for these inputs."""
    plain = q_BTHQ.dtype == torch.float32 and not torch.is_grad_enabled()
    tokens, positions = q_BTHQ.shape[1], k_BSHQ.shape[1]
    return plain and tokens >= FEW_QUERIES and tokens * positions >= FEW_PAIRS and linear.is_amd()


def mla_attention(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, window: Window | None = None
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`, for rows of one document each."""
    batch, tokens, heads, _ = q_BTHQ.shape
    o_BTHV = q_BTHQ.new_empty(batch, tokens, heads, v_BSHV.shape[-1])
    (piece,), products = pieces_of(tokens, k_BSHQ.shape[1], window), _HeadProducts()
    for row in range(batch):
        for head in range(heads):
            group = Group(slice(row, row + 1), slice(head, head + 1))
            inputs = prepare(group.of(q_BTHQ), group.of(k_BSHQ), group.of(v_BSHV), scale)
            for block in piece.blocks():
                write(attend(inputs, piece, block, products), group.of(o_BTHV)[:, :, block.queries])
    return o_BTHV


class _HeadProducts(Products):
    """Products of one head. Rows must be without gaps, for which oneDNN would take a reference path."""

    def __init__(self) -> None:
        super().__init__(0, torch.float32)

    def scores(self, a_1UW: torch.Tensor, b_1EW: torch.Tensor) -> torch.Tensor:
        return _product(a_1UW, b_1EW)

    def add(self, sum_1UV: torch.Tensor, a_1UE: torch.Tensor, b_1EV: torch.Tensor) -> None:
        sum_1UV.add_(_product(a_1UE, b_1EV.transpose(1, 2)))


def _product(a_1UW: torch.Tensor, b_1EW: torch.Tensor) -> torch.Tensor:
    product_UE: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a_1UW[0], b_1EW[0], None, "none", [], "")
    return product_UE.unsqueeze(0)
