"""What changes logits before a token is chosen: penalties, bias, and tokens that are not allowed.

Only the entries concerned are touched; nothing here is a loop over the vocabulary.

Names: R rows, V vocabulary, N entries, M rows with a mask, W words of 32 tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longcat.stages.inference.sampling import SamplingParams
from longcat.stages.inference.token_history import TokenHistory

_Array = npt.NDArray[np.int64] | npt.NDArray[np.float32]


@dataclass(eq=False)
class SampleRow:
    """One row of logits from which a token is chosen.

    `position` is the index of the token in its continuation, `choice` that of the continuation in its request. `seed`
    is resolved once a request (`random_stream.resolve_seed`), `history` is `TokenHistory.of` parameters and prompt.
    `mask` holds the tokens that a grammar allows, one bit each in int32 words [W] on the CPU. The tokens in `banned`
    are not allowed before `min_tokens` tokens.
    """

    params: SamplingParams
    position: int
    seed: int
    choice: int = 0
    history: TokenHistory | None = None
    mask: Tensor | None = None
    banned: Collection[int] = ()

    @property
    def waits(self) -> bool:
        """Whether end tokens are banned."""
        return self.position < self.params.min_tokens and bool(self.banned)

    @property
    def adjusts(self) -> bool:
        """Whether the logits are changed at all."""
        return bool(
            self.history is not None
            or self.mask is not None
            or self.params.logit_bias
            or self.params.allowed_token_ids is not None
            or self.waits
        )


def adjust(scores_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    """Apply penalties, then bias, then bans to float32 scores [R, V], in place."""
    _penalise(scores_RV, rows)
    _bias(scores_RV, rows)
    _keep_allowed(scores_RV, rows)
    _apply_masks(scores_RV, rows)


def _penalise(scores_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    """Repetition penalty (CTRL, arXiv 1909.05858), then presence and frequency penalties (OpenAI API)."""
    found = [(index, row.history, row.params) for index, row in enumerate(rows) if row.history is not None]
    if not found:
        return
    histories = [history for _, history, _ in found]
    sizes = [len(history.ids) for history in histories]
    counts_N = np.concatenate([history.counts for history in histories])

    def spread(value: Callable[[SamplingParams], float]) -> npt.NDArray[np.float64]:
        return np.repeat(np.array([value(params) for *_, params in found], dtype=np.float64), sizes)

    losses_N = spread(lambda params: params.presence_penalty) * (counts_N > 0)
    losses_N += spread(lambda params: params.frequency_penalty) * counts_N
    put = _to(scores_RV.device)
    at = (put(np.repeat([index for index, *_ in found], sizes)), put(np.concatenate([one.ids for one in histories])))
    factor_N = put(spread(lambda params: params.repetition_penalty).astype(np.float32))
    seen_N = scores_RV[at]
    seen_N = torch.where(seen_N > 0, seen_N / factor_N, seen_N * factor_N)
    scores_RV[at] = seen_N - put(losses_N.astype(np.float32))


def _bias(scores_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    """Add biases, and minus infinity to the end tokens of a continuation that is still too short."""
    terms = [(index, token, bias) for index, row in enumerate(rows) for token, bias in row.params.bias_terms]
    terms += [(index, token, -np.inf) for index, row in enumerate(rows) if row.waits for token in set(row.banned)]
    if terms:
        index_N, ids_N, bias_N = map(np.asarray, zip(*terms, strict=True))
        put = _to(scores_RV.device)
        scores_RV.index_put_((put(index_N), put(ids_N)), put(bias_N.astype(np.float32)), accumulate=True)


def _keep_allowed(scores_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    for index, row in enumerate(rows):
        if row.params.allowed_token_ids is not None:
            ids_N = _to(scores_RV.device)(row.params.allowed_array)
            kept_N = scores_RV[index, ids_N]
            scores_RV[index] = -torch.inf
            scores_RV[index, ids_N] = kept_N


def _apply_masks(scores_RV: Tensor, rows: Sequence[SampleRow]) -> None:
    masks = [(index, row.mask) for index, row in enumerate(rows) if row.mask is not None]
    if masks:
        words_MW = torch.stack([mask for _, mask in masks]).to(scores_RV.device)
        allowed_MV = unpack_mask(words_MW, scores_RV.shape[-1])
        index_M = torch.tensor([index for index, _ in masks], device=scores_RV.device)
        scores_RV[index_M] = scores_RV[index_M].masked_fill(~allowed_MV, -torch.inf)


def unpack_mask(words_MW: Tensor, vocab_size: int) -> Tensor:
    """Booleans [M, V] from int32 words [M, W], lowest bit first; tokens beyond the words are not allowed."""
    shifts = torch.arange(32, dtype=torch.int32, device=words_MW.device)
    bits_MV = ((words_MW.unsqueeze(-1) >> shifts) & 1).flatten(1).bool()
    missing = vocab_size - bits_MV.shape[-1]
    return torch.nn.functional.pad(bits_MV, (0, missing)) if missing > 0 else bits_MV[:, :vocab_size]


def _to(device: torch.device) -> Callable[[_Array], Tensor]:
    return lambda array: torch.from_numpy(array).to(device)
