"""Attention of a few new tokens over a cache of latents (DeepSeek-V2, section 2.1.2: absorbed projections).

Names: B batch, T queries, S cached positions, H heads, N width without position, R rotary width, V value width,
C latent width.
"""

import torch

from longcat.kernels.mla_decode import cpu, reference
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
) -> torch.Tensor:
    """Attention with keys `[w_key latent | k_rope]` and values `w_value latent`, causal. Returns o_BTHV.

    The T queries are the last of the S cached positions. Queries and rotary keys are rotated already; the latents are
    normalised and scaled already.

    Raises:
        KernelError: more queries than cached positions.
    """
    if q_nope_BTHN.shape[1] > latent_BSC.shape[1]:
        raise KernelError(
            f"mla_decode: {q_nope_BTHN.shape[1]} queries cannot be the last of {latent_BSC.shape[1]} positions"
        )
    version = select("mla_decode", VERSIONS, q_nope_BTHN.device)
    return version(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC, scale)
