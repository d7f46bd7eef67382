"""Causal attention by `scaled_dot_product_attention`, which on graphics processors is FlashAttention."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right


def mla_attention(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, lengths: list[int] | None
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`; `lengths` are those of `document_lengths`."""
    return by_document(flash, q_BTHQ, k_BSHQ, v_BSHV, scale, lengths)


def by_document(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor],
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    lengths: list[int] | None,
) -> torch.Tensor:
    """`attend` over the whole rows, or over one document of `lengths` after another."""
    if lengths is None:
        return attend(q_BTHQ, k_BSHQ, v_BSHV, scale)
    # One split of the flattened tokens: its backward is one concatenation, that of slices would be as many full copies.
    documents = zip(*(x.flatten(0, 1).split(lengths) for x in (q_BTHQ, k_BSHQ, v_BSHV)), strict=True)
    pieces = [attend(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), scale).squeeze(0) for q, k, v in documents]
    return torch.cat(pieces).unflatten(0, q_BTHQ.shape[:2])


def flash(q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float) -> torch.Tensor:
    """Causal attention without documents. Returns o_BTHV."""
    # FlashAttention refuses values of another width than keys. Zeros at the end change no score, and no value either.
    width = max(q_BTHQ.shape[-1], v_BSHV.shape[-1])
    q_BHTW, k_BHSW, v_BHSW = (F.pad(x, (0, width - x.shape[-1])).transpose(1, 2) for x in (q_BTHQ, k_BSHQ, v_BSHV))
    tokens, keys = q_BTHQ.shape[1], k_BSHQ.shape[1]
    if tokens == keys:
        o_BHTW = F.scaled_dot_product_attention(q_BHTW, k_BHSW, v_BHSW, is_causal=True, scale=scale)
    else:
        bias = causal_lower_right(tokens, keys)
        o_BHTW = F.scaled_dot_product_attention(q_BHTW, k_BHSW, v_BHSW, attn_mask=bias, scale=scale)
    return o_BHTW[..., : v_BSHV.shape[-1]].transpose(1, 2)
