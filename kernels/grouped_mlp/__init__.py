"""SwiGLU feed-forward networks of many experts over rows sorted by expert.

Names: R rows, N experts, D model width, F expert width.
"""

import torch

from longcat.kernels.grouped_mlp import cpu, reference
from longcat.kernels.select import KernelError, deferred, select

VERSIONS = {
    "reference": reference.grouped_mlp,
    "cpu": cpu.grouped_mlp,
    "triton": deferred("longcat.kernels.grouped_mlp.triton", "grouped_mlp"),
    "torch": cpu.grouped_mlp,  # torch.nn.functional.grouped_mm, which is not for processors alone
}


def grouped_mlp(
    rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
) -> torch.Tensor:
    """`y[r] = down_e (silu(gate_e x[r]) * up_e x[r])` for the expert e whose range of rows holds r.

    `gate_up_NGD` is [N, 2F, D] with the gate in its first F rows, `down_NDF` is [N, D, F]; `ends_N` int32 holds one
    past the last row of every expert, so an empty expert repeats the end before it and `ends_N[-1] == R`. Experts
    without rows cost nothing and get gradients of zero.

    Raises:
        KernelError: shapes that do not belong together, or `ends_N` that does not end at R; the `triton` version does
            not check this, since it would have to wait for the device.
    """
    experts, model_width, expert_width = down_NDF.shape
    if gate_up_NGD.shape != (experts, 2 * expert_width, model_width) or ends_N.shape != (experts,):
        raise KernelError(
            f"grouped_mlp: down {tuple(down_NDF.shape)} needs gate_up {(experts, 2 * expert_width, model_width)} and "
            f"{experts} ends, got {tuple(gate_up_NGD.shape)} and {tuple(ends_N.shape)}"
        )
    return select("grouped_mlp", VERSIONS, rows_RD.device)(rows_RD, gate_up_NGD, down_NDF, ends_N)
