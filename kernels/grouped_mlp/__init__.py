"""SwiGLU feed-forward networks of many experts over rows sorted by expert.

Names: R rows, N experts, D model width, F expert width.
"""

import torch

from longcat.kernels.grouped_mlp import cpu, reference
from longcat.kernels.opaque import opaque
from longcat.kernels.select import KernelError, deferred, select

VERSIONS = {
    "reference": reference.grouped_mlp,
    "cpu": cpu.grouped_mlp,
    "triton": deferred("longcat.kernels.grouped_mlp.triton", "grouped_mlp"),
    "torch": cpu.grouped_mlp,  # torch.nn.functional.grouped_mm, which also runs on GPUs
}


def grouped_mlp(
    rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
) -> torch.Tensor:
    """`y[r] = down_e (silu(gate_e x[r]) * up_e x[r])` for the expert e whose range of rows contains r.

    `gate_up_NGD` is [N, 2F, D] with the gate in its first F rows, `down_NDF` is [N, D, F]; `ends_N` int32 holds the
    end (exclusive) of every expert's rows, so an empty expert repeats the previous end, and `ends_N[-1] <= R`. Experts
    without rows cost nothing and get gradients of zero. Rows from `ends_N[-1]` on, the padding of `expert_order`, have
    no expert and are not read: the `triton` version leaves their results and gradients unset, others set them to zero.

    Raises:
        KernelError: shapes that do not match, or `ends_N` that ends beyond R; on a GPU this is not checked,
            because the host would have to wait for the device.
    """
    experts, model_width, expert_width = down_NDF.shape
    if gate_up_NGD.shape != (experts, 2 * expert_width, model_width) or ends_N.shape != (experts,):
        raise KernelError(
            f"grouped_mlp: down {tuple(down_NDF.shape)} needs gate_up {(experts, 2 * expert_width, model_width)} and "
            f"{experts} ends, got {tuple(gate_up_NGD.shape)} and {tuple(ends_N.shape)}"
        )
    if torch.compiler.is_compiling():
        return _NODE(rows_RD, gate_up_NGD, down_NDF, ends_N)
    return select("grouped_mlp", VERSIONS, rows_RD.device)(rows_RD, gate_up_NGD, down_NDF, ends_N)


_NODE = opaque(
    "grouped_mlp",
    "(Tensor rows, Tensor gate_up, Tensor down, Tensor ends) -> Tensor",
    grouped_mlp,
    lambda rows, gate_up, down, ends: rows.new_empty(rows.shape),
    differentiable=(0, 1, 2),
)
