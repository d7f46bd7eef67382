"""The experts one after another, the plain meaning."""

import torch
import torch.nn.functional as F

from longcat.kernels.select import KernelError


def grouped_mlp(
    rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
) -> torch.Tensor:
    """See `kernels.grouped_mlp.grouped_mlp`."""
    ends = ends_N.tolist()
    if ends[-1] != rows_RD.shape[0]:
        raise KernelError(f"grouped_mlp: the last end is {ends[-1]}, but there are {rows_RD.shape[0]} rows")
    lengths = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    pieces = []
    # Unbound weights have gradients of their own size; an index in the loop would make one of the whole stack.
    for piece_XD, gate_up_GD, down_DF in zip(
        rows_RD.split(lengths), gate_up_NGD.unbind(), down_NDF.unbind(), strict=True
    ):
        gate_XF, up_XF = F.linear(piece_XD, gate_up_GD).chunk(2, dim=-1)
        pieces.append(F.linear(F.silu(gate_XF) * up_XF, down_DF))
    return torch.cat(pieces)
