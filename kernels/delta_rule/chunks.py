"""Gated delta rule in chunks of tokens, with matrix products, forward and backward.

Within a chunk that begins with the state S, with G the sums of log decays and A, L the products of `decays`,

    v = (I + L)^-1 (u - (e * exp(G)) S)            L_ij = sum_c e_ic k_jc exp(G_ic - G_jc), j < i
    o = (q * exp(G)) S + A v                       A_ij = sum_c q_ic k_jc exp(G_ic - G_jc), j <= i
    S' = exp(G_C) S + (k * exp(G_C - G))^T v

(the WY form of Yang et al. 2024, arXiv 2406.06484 and 2412.06464, with a decay per channel as in 2510.26692). The
gradient of a log decay follows from those of q, e and k: each G_i multiplies what q_i and e_i read, and divides what
k_i writes.

Names: N chunks, P heads of all rows, C tokens of a chunk, X = N P, K key width, V value width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from longcat.kernels.delta_rule.decays import Products, Sums
from longcat.kernels.delta_rule.segments import Inputs
from longcat.kernels.precision import accumulation_dtype

CHUNK = 32  # the fastest of 16 to 128 on a CPU, with widths of 64
CHUNKS_A_SEGMENT = 16


class _Chunks(NamedTuple):
    """Operands of all chunks of a segment, of one dtype. W = (I + L)^-1 (e * exp(G)), U = (I + L)^-1 u."""

    x_XC2K: torch.Tensor
    k_XCK: torch.Tensor
    since_XCK: torch.Tensor
    until_XCK: torch.Tensor
    products: Products
    inverse_XCC: torch.Tensor
    x_decayed_XC2K: torch.Tensor
    k_decayed_NPCK: torch.Tensor
    w_NPCK: torch.Tensor
    u_NPCV: torch.Tensor

    @property
    def of_queries_XCC(self) -> torch.Tensor:  # noqa: N802
        """A."""
        return self.products.values_XC2C[:, :, 0]

    @property
    def q_decayed_XCK(self) -> torch.Tensor:  # noqa: N802
        """q * exp(G)."""
        return self.x_decayed_XC2K[:, :, 0]

    @property
    def decay_NPK1(self) -> torch.Tensor:  # noqa: N802
        """exp(G_C)."""
        return self.since_XCK[:, -1].view(*self.w_NPCK.shape[:2], -1, 1)


class ChunkRule:
    """The rule of one segment, see `segments.SegmentRule`."""

    segment = CHUNK * CHUNKS_A_SEGMENT

    @staticmethod
    def forward(inputs: Inputs, state_BHKV: torch.Tensor, o_BTHV: torch.Tensor) -> torch.Tensor:
        chunks = _prepare(inputs)
        states_NPKV, v_NPCV, last_PKV = _scan(chunks, state_BHKV.flatten(0, 1))
        states_XKV, v_XCV = states_NPKV.flatten(0, 1), v_NPCV.flatten(0, 1)
        o_XCV = torch.bmm(chunks.q_decayed_XCK, states_XKV).baddbmm_(chunks.of_queries_XCC, v_XCV)
        _write(o_XCV, o_BTHV)
        return last_PKV.view(state_BHKV.shape)

    @staticmethod
    def backward(
        inputs: Inputs,
        state_BHKV: torch.Tensor,
        grad_BTHV: torch.Tensor,
        grad_state_BHKV: torch.Tensor,
        gradients: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        chunks = _prepare(inputs)
        states_NPKV, v_NPCV, _ = _scan(chunks, state_BHKV.flatten(0, 1))
        grad_o_XCV = _chunked(grad_BTHV, v_NPCV.dtype, v_NPCV.shape[2])
        grad_states_NPKV, grad_v_NPCV, first_PKV = _scan_back(chunks, grad_o_XCV, grad_state_BHKV.flatten(0, 1))
        states_XKV, v_XCV, after_XKV, grad_v_XCV = (
            x.flatten(0, 1) for x in (states_NPKV, v_NPCV, grad_states_NPKV, grad_v_NPCV)
        )
        grad_u_XCV = torch.bmm(chunks.inverse_XCC.mT, grad_v_XCV)
        grad_products = torch.stack((grad_o_XCV @ v_XCV.mT, (grad_u_XCV @ v_XCV.mT).neg_()), dim=2)
        grad_x, grad_k = chunks.products.gradients(grad_products)

        read = torch.stack((grad_o_XCV @ states_XKV.mT, (grad_u_XCV @ states_XKV.mT).neg_()), dim=2)
        grad_x.addcmul_(read, chunks.since_XCK.unsqueeze(2))
        to_end_XCK = torch.bmm(v_XCV, after_XKV.mT).mul_(chunks.until_XCK)
        at_end_XK = (to_end_XCK * chunks.k_XCK).sum(1)
        at_end_XK += (states_XKV * after_XKV).sum(-1) * chunks.since_XCK[:, -1]
        grad_k += to_end_XCK

        grad_sums_XCK = (grad_x * chunks.x_XC2K).sum(2).sub_(grad_k * chunks.k_XCK)
        grad_sums_XCK[:, -1] += at_end_XK
        grad_g_XCK = grad_sums_XCK.flip(1).cumsum(1).flip(1)
        # The pair of a token with itself does not decay.
        diagonal_XC1 = grad_products[:, :, 0].diagonal(dim1=1, dim2=2).unsqueeze(-1)
        grad_x[:, :, 0].addcmul_(diagonal_XC1, chunks.k_XCK)
        grad_k.addcmul_(diagonal_XC1, chunks.x_XC2K[:, :, 0])
        found = (grad_x[:, :, 0], grad_k, grad_x[:, :, 1], grad_u_XCV, grad_g_XCK)
        for gradient, target in zip(found, gradients, strict=True):
            _write(gradient, target)
        if inputs.starts is not None:
            gradients[-1].masked_fill_(inputs.starts[:, :, None, None], 0)
        return first_PKV.view(state_BHKV.shape)


def _prepare(inputs: Inputs) -> _Chunks:
    batch, tokens, heads, _ = inputs.q.shape
    wide = accumulation_dtype(inputs.u.dtype)
    chunk = min(CHUNK, 1 << (tokens - 1).bit_length()) if tokens > 1 else 2
    q, k, e, u, g = (_chunked(x, wide, chunk) for x in inputs[:5])
    sums = Sums.of(g, None if inputs.starts is None else _starts(inputs.starts, heads, chunk))
    x_XC2K = torch.stack((q, e), dim=2)
    products = Products(x_XC2K, k, sums)
    inverse_XCC = _inverse(products.values_XC2C[:, :, 1])
    products.values_XC2C[:, :, 0].diagonal(dim1=1, dim2=2).copy_((q * k).sum(-1))
    since, until = sums.since_start(), sums.until_end()
    decayed = x_XC2K * since.unsqueeze(2)
    by_chunk = (-1, batch * heads)
    return _Chunks(
        x_XC2K,
        k,
        since,
        until,
        products,
        inverse_XCC,
        decayed,
        (k * until).unflatten(0, by_chunk),
        torch.bmm(inverse_XCC, decayed[:, :, 1]).unflatten(0, by_chunk),
        torch.bmm(inverse_XCC, u).unflatten(0, by_chunk),
    )


def _inverse(below_XCC: torch.Tensor) -> torch.Tensor:
    """(I + L)^-1 for L below the diagonal."""
    unit = torch.eye(below_XCC.shape[-1], dtype=below_XCC.dtype, device=below_XCC.device)
    return torch.linalg.solve_triangular(below_XCC, unit.expand(below_XCC.shape), upper=False, unitriangular=True)


def _scan(chunks: _Chunks, state_PKV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States before every chunk [N, P, K, V], v [N, P, C, V], and the last state [P, K, V]."""
    states_NPKV = state_PKV.new_empty(chunks.w_NPCK.shape[0], *state_PKV.shape)
    v_NPCV = torch.empty_like(chunks.u_NPCV)
    k_NPKC = chunks.k_decayed_NPCK.mT
    for index, decay_PK1 in enumerate(chunks.decay_NPK1):
        states_NPKV[index] = state_PKV
        torch.baddbmm(chunks.u_NPCV[index], chunks.w_NPCK[index], state_PKV, alpha=-1, out=v_NPCV[index])
        state_PKV = torch.baddbmm(state_PKV * decay_PK1, k_NPKC[index], v_NPCV[index])
    return states_NPKV, v_NPCV, state_PKV


def _scan_back(
    chunks: _Chunks, grad_o_XCV: torch.Tensor, grad_PKV: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of the states after every chunk [N, P, K, V], of v [N, P, C, V], and of the first state [P, K, V]."""
    by_chunk = chunks.w_NPCK.shape[:2]
    of_outputs_NPCV = torch.bmm(chunks.of_queries_XCC.mT, grad_o_XCV).unflatten(0, by_chunk)
    of_states_NPKV = torch.bmm(chunks.q_decayed_XCK.mT, grad_o_XCV).unflatten(0, by_chunk)
    grads_NPKV, grad_v_NPCV = torch.empty_like(of_states_NPKV), torch.empty_like(of_outputs_NPCV)
    w_NPKC, decay_NPK1 = chunks.w_NPCK.mT, chunks.decay_NPK1
    for index in reversed(range(by_chunk[0])):
        grads_NPKV[index] = grad_PKV
        k_PCK = chunks.k_decayed_NPCK[index]
        torch.baddbmm(of_outputs_NPCV[index], k_PCK, grad_PKV, out=grad_v_NPCV[index])
        grad_PKV = torch.addcmul(of_states_NPKV[index], grad_PKV, decay_NPK1[index])
        grad_PKV.baddbmm_(w_NPKC[index], grad_v_NPCV[index], alpha=-1)
    return grads_NPKV, grad_v_NPCV, grad_PKV


def _chunked(x_BTHW: torch.Tensor, dtype: torch.dtype, chunk: int) -> torch.Tensor:
    """[X, C, W], chunk by chunk; tokens of zeros, which change nothing, complete the last one."""
    x_BTHW = F.pad(x_BTHW.to(dtype), (0, 0, 0, 0, 0, -x_BTHW.shape[1] % chunk))
    return x_BTHW.unflatten(1, (-1, chunk)).permute(1, 0, 3, 2, 4).reshape(-1, chunk, x_BTHW.shape[-1])


def _starts(starts_BT: torch.Tensor, heads: int, chunk: int) -> torch.Tensor:
    """Starts of documents [X, C]."""
    return _chunked(starts_BT[..., None, None].expand(-1, -1, heads, -1), torch.int64, chunk).squeeze(-1)


def _write(x_XCW: torch.Tensor, target_BTHW: torch.Tensor) -> None:
    """Write values of chunks to the tokens of `target_BTHW`."""
    batch, tokens, heads, _ = target_BTHW.shape
    x_BNCHW = x_XCW.unflatten(0, (-1, batch, heads)).permute(1, 0, 3, 2, 4)
    target_BTHW.copy_(x_BNCHW.flatten(1, 2)[:, :tokens])
