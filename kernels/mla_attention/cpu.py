"""Causal attention on a processor: plain matrix products for short sequences, flash attention for long ones."""

import torch
import torch.nn.functional as F

from kernels.mla_attention.reference import causal_mask
from kernels.precision import accumulation_dtype

# Below this number of keys the full matrix of scores is cheaper than the copies that flash attention needs; measured
# at width 48 on one core, forward and backward: 75 against 83 ms at 256 keys, 199 against 161 ms at 512.
FLASH_FROM = 512


def mla_attention(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, lengths: list[int] | None
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`; `lengths` are those of `document_lengths`."""
    if lengths is None:
        return _attend(q_BTHQ, k_BSHQ, v_BSHV, scale)
    # One split of the flattened tokens: its backward is one concatenation, that of slices would be as many full copies.
    documents = zip(*(x.flatten(0, 1).split(lengths) for x in (q_BTHQ, k_BSHQ, v_BSHV)), strict=True)
    pieces = [_attend(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), scale).squeeze(0) for q, k, v in documents]
    return torch.cat(pieces).unflatten(0, q_BTHQ.shape[:2])


def _attend(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float) -> torch.Tensor:
    exact = q_BTHQ.dtype == accumulation_dtype(q_BTHQ.dtype)
    if exact and k_BSHQ.shape[1] < FLASH_FROM:
        return _full(q_BTHQ, k_BSHQ, v_BSHV, scale)
    return _flash(q_BTHQ, k_BSHQ, v_BSHV, scale)


def _full(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float) -> torch.Tensor:
    q_XTQ, k_XSQ, v_XSV = (x.transpose(1, 2).flatten(0, 1) for x in (q_BTHQ, k_BSHQ, v_BSHV))
    scores_XTS = torch.baddbmm(_causal_bias(q_BTHQ, k_BSHQ), q_XTQ, k_XSQ.transpose(1, 2), alpha=scale)
    o_XTV = torch.bmm(scores_XTS.softmax(dim=-1), v_XSV)
    return o_XTV.unflatten(0, (q_BTHQ.shape[0], q_BTHQ.shape[2])).transpose(1, 2)


def _flash(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float) -> torch.Tensor:
    # Flash attention refuses values of another width than keys. Zeros at the end change no score, and no value either.
    width = max(q_BTHQ.shape[-1], v_BSHV.shape[-1])
    q_BHTW, k_BHSW, v_BHSW = (F.pad(x, (0, width - x.shape[-1])).transpose(1, 2) for x in (q_BTHQ, k_BSHQ, v_BSHV))
    square = q_BTHQ.shape[1] == k_BSHQ.shape[1]
    bias_TS = None if square else _causal_bias(q_BTHQ, k_BSHQ)
    o_BHTW = F.scaled_dot_product_attention(q_BHTW, k_BHSW, v_BHSW, attn_mask=bias_TS, is_causal=square, scale=scale)
    return o_BHTW[..., : v_BSHV.shape[-1]].transpose(1, 2)


def _causal_bias(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor) -> torch.Tensor:
    visible_TS = causal_mask(q_BTHQ.shape[1], k_BSHQ.shape[1], q_BTHQ.device)
    return torch.zeros(visible_TS.shape, dtype=q_BTHQ.dtype).masked_fill_(~visible_TS, float("-inf"))
