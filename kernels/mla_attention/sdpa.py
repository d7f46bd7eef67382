"""Causal attention with `scaled_dot_product_attention`, which uses FlashAttention on GPUs."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from longcat.kernels.mla_attention.documents import DocumentBounds
from longcat.kernels.mla_attention.reference import causal_mask
from longcat.kernels.mla_attention.window import Window


def mla_attention(
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    documents: DocumentBounds | None,
    window: Window | None = None,
) -> torch.Tensor:
    """See `kernels.mla_attention.mla_attention`; with a window, every score is computed and masked."""
    return by_document(partial(flash, window=window), q_BTHQ, k_BSHQ, v_BSHV, scale, documents)


def by_document(
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor],
    q_BTHQ: torch.Tensor,
    k_BSHQ: torch.Tensor,
    v_BSHV: torch.Tensor,
    scale: float,
    documents: DocumentBounds | None,
) -> torch.Tensor:
    """`attend` over whole rows, or over the documents one by one."""
    if documents is None:
        return attend(q_BTHQ, k_BSHQ, v_BSHV, scale)
    # One split of the flattened tokens: its backward is one concatenation; the backward of slices would be many full
    # copies.
    parts = zip(*(x.flatten(0, 1).split(documents.lengths) for x in (q_BTHQ, k_BSHQ, v_BSHV)), strict=True)
    pieces = [attend(q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), scale).squeeze(0) for q, k, v in parts]
    return torch.cat(pieces).unflatten(0, q_BTHQ.shape[:2])


def flash(
    q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, scale: float, window: Window | None = None
) -> torch.Tensor:
    """Causal attention without documents. Returns o_BTHV."""
    # FlashAttention requires values as wide as keys. Padding with zeros changes neither scores nor values.
    width = max(q_BTHQ.shape[-1], v_BSHV.shape[-1])
    q_BHTW, k_BHSW, v_BHSW = (F.pad(x, (0, width - x.shape[-1])).transpose(1, 2) for x in (q_BTHQ, k_BSHQ, v_BSHV))
    tokens, keys = q_BTHQ.shape[1], k_BSHQ.shape[1]
    if window is not None:
        seen_TS = causal_mask(tokens, keys, q_BTHQ.device, window)
        o_BHTW = F.scaled_dot_product_attention(q_BHTW, k_BHSW, v_BHSW, attn_mask=seen_TS, scale=scale)
    elif tokens == keys:
        o_BHTW = F.scaled_dot_product_attention(q_BHTW, k_BHSW, v_BHSW, is_causal=True, scale=scale)
    else:
        bias = causal_lower_right(tokens, keys)
        o_BHTW = F.scaled_dot_product_attention(q_BHTW, k_BHSW, v_BHSW, attn_mask=bias, scale=scale)
    return o_BHTW[..., : v_BSHV.shape[-1]].transpose(1, 2)
