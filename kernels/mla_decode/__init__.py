"""Attention of a few new tokens over a cache of latents (DeepSeek-V2, section 2.1.2: absorbed projections).

Names: B batch, T queries, S cached positions, H heads, N width without position, R rotary width, V value width,
C latent width.
"""

import torch

from longcat.kernels.mla_decode import cpu, reference
from longcat.kernels.opaque import opaque
from longcat.kernels.select import KernelError, deferred, select

VERSIONS = {
    "reference": reference.mla_decode,
    "cpu": cpu.mla_decode,
    "triton": deferred("longcat.kernels.mla_decode.triton", "mla_decode"),
}


def mla_decode(
    q_nope_BTHN: torch.Tensor,
    q_rope_BTHR: torch.Tensor,
    latent_BSC: torch.Tensor,
    k_rope_BSR: torch.Tensor,
    w_key_HNC: torch.Tensor,
    w_value_HVC: torch.Tensor,
    scale: float,
    lengths_B: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention with keys `[w_key latent | k_rope]` and values `w_value latent`, causal. Returns o_BTHV.

    The T queries are the last of the S cached positions, or, with `lengths_B` (int32 [B], on the device), of the first
    `lengths_B[b]` of them: later positions are not read, and a query without keys gives zeros. With this, a cache of
    fixed size has the same shape in every step, as required by CUDA graphs. Queries and rotary keys are already
    rotated, latents already normalised and scaled. All floating-point tensors and the result have the same dtype.

    Raises:
        KernelError: more queries than cached positions, or `lengths_B` of another shape or dtype.
    """
    if q_nope_BTHN.shape[1] > latent_BSC.shape[1]:
        raise KernelError(
            f"mla_decode: {q_nope_BTHN.shape[1]} queries cannot be the last of {latent_BSC.shape[1]} positions"
        )
    if lengths_B is not None and (lengths_B.shape != latent_BSC.shape[:1] or lengths_B.dtype != torch.int32):
        raise KernelError(
            f"mla_decode: lengths must be int32 [{latent_BSC.shape[0]}], got {lengths_B.dtype} {list(lengths_B.shape)}"
        )
    inputs = (q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC)
    if torch.compiler.is_compiling():
        return _NODE(*inputs, scale, lengths_B)
    return select("mla_decode", VERSIONS, q_nope_BTHN.device)(*inputs, scale, lengths_B)


_NODE = opaque(
    "mla_decode",
    "(Tensor q_nope, Tensor q_rope, Tensor latent, Tensor k_rope, Tensor w_key, Tensor w_value, float scale, "
    "Tensor? lengths) -> Tensor",
    mla_decode,
    lambda q, q_rope, latent, k_rope, w_key, w_value, scale, lengths: q.new_empty(*q.shape[:3], w_value.shape[1]),
    differentiable=range(6),
)
