"""SwiGLU experts one at a time, the reference implementation."""

import torch
import torch.nn.functional as F

from longcat.kernels.select import KernelError


def grouped_mlp(
    rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
) -> torch.Tensor:
    """See `kernels.grouped_mlp.grouped_mlp`."""
    ends = ends_N.tolist()
    if ends[-1] > rows_RD.shape[0]:
        raise KernelError(f"grouped_mlp: the last end is {ends[-1]}, but there are {rows_RD.shape[0]} rows")
    lengths = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    pieces = []
    # Gradients of unbound weights have the size of one expert; indexing in the loop would create gradients of the whole
    # stack.
    for piece_XD, gate_up_GD, down_DF in zip(
        rows_RD[: ends[-1]].split(lengths), gate_up_NGD.unbind(), down_NDF.unbind(), strict=True
    ):
        gate_XF, up_XF = F.linear(piece_XD, gate_up_GD).chunk(2, dim=-1)
        pieces.append(F.linear(F.silu(gate_XF) * up_XF, down_DF))
    y_XD = torch.cat(pieces)
    return y_XD if ends[-1] == rows_RD.shape[0] else F.pad(y_XD, (0, 0, 0, rows_RD.shape[0] - ends[-1]))
