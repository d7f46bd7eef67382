"""Attention of single queries over paged latents on a CPU: the bits of a query depend on its position alone.

A matrix library orders sums by the shapes and the alignment of its operands. So every query has two products of its
own, with exactly the positions that it sees, whose memory begins at a multiple of ALIGNED bytes and has the strides of
the pages. Which pages hold them, other queries and later positions change nothing.

Names: Y queries, H heads, P pages, L positions per page, N positions of all pages, E width of a cached position, C
latent width, S positions that a query sees.
"""

import torch

from longcat.kernels.mla_paged_decode.sequences import Row, SequencePages

ALIGNED = 64  # bytes


def attend_each(
    q_YHE: torch.Tensor, pages_PLE: torch.Tensor, sequences: SequencePages, latent_width: int, scale: float
) -> torch.Tensor:
    """`kernels.mla_paged_decode.mla_paged_decode` of one token per sequence, o_YHC, float32 or float64 on a CPU.

    A sequence is what one query sees: the queries of consecutive tokens have sequences of increasing length in the same
    pages. Its length is at least one.
    """
    positions_NE = pages_PLE.flatten(0, 1)
    scaled_YHE = q_YHE * scale
    outputs = [
        _one(q_HE, positions_NE, row, latent_width) for q_HE, row in zip(scaled_YHE, sequences.rows, strict=True)
    ]
    return torch.stack(outputs)


def _one(q_HE: torch.Tensor, positions_NE: torch.Tensor, row: Row, latent_width: int) -> torch.Tensor:
    seen_SE = _aligned(row.read(positions_NE))
    probabilities_HS = torch.mm(_aligned(q_HE), seen_SE.t()).softmax(dim=-1)
    return torch.mm(probabilities_HS, seen_SE[:, :latent_width])


def _aligned(x: torch.Tensor) -> torch.Tensor:
    return x.clone() if x.data_ptr() % ALIGNED else x
