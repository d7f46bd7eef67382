"""N-gram embeddings: hashed tables of the last tokens beside the token table (Scaling Embeddings, arXiv 2601.21204).

    H_i = (t_0 + sum_{j=1}^{n-1} t_j V^j) mod V_i                             equation 2; t_j is the id j places before
    e   = 1 / (1 + (N - 1) K) * (E(t_0) + sum_i W_i E_i(H_i))                 equation 3; tables i as in `ngram_tables`

The look-back stops at the start, at a document's bound, and at an end-of-text or an excluded id behind the token: t_j
is 0 there and beyond. A token whose own id is excluded takes row 0 of every table, and no factor is applied to its sum,
as in engines that run LongCat-Flash-Lite.

`word_scale = full` leaves the token's vector out of the mean: E(t_0) + 1 / (1 + (N - 1) K) * sum, as in
LongCat-Flash-Lite-Sparse. Amplification multiplies the result by sqrt(hidden_size), or normalises it; the paper has
LayerNorm there, this is the model's RMSNorm.

Names: B batch, T tokens, D hidden, V vocabulary, N ids before a token, I tables, R rows of all tables, W width of a
row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import Embedding
from longcat.model.embeddings.ngram_tables import NgramTables
from longcat.model.linear import Linear
from longcat.model.norm import RMSNorm
from longcat.model.parameters import unset_parameter


class NgramEmbedding(Embedding):
    """Token table `weight` [V, D], stacked n-gram tables `tables` [R, W], and their `projection` [D, I * W].

    `sparse_gradients`: whether the gradient of `tables` is a sparse tensor of the rows read.
    """

    sparse_gradients = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = config.ngram_tables
        if sizes is None:
            raise ValueError("n-gram embeddings need ngram_vocab_size_ratio")
        self.look_back = sizes.order - 1
        self.weight = unset_parameter(config.vocab_size, config.hidden_size)
        self.tables = unset_parameter(sizes.rows, sizes.width)
        self.projection = Linear(sizes.count * sizes.width, config.hidden_size)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps) if config.ngram_amplification == "norm" else None
        self.scale = config.hidden_size**0.5 if config.ngram_amplification == "sqrt_d" else 1.0
        self.full_word = config.ngram_word_scale == "full"
        self.hashing = NgramHash.of(config, sizes)

    def forward(self, input_ids_BT: torch.Tensor, previous_ids_BTN: torch.Tensor | None = None) -> torch.Tensor:
        assert previous_ids_BTN is not None  # noqa: S101  the model gives them, since `look_back` is not 0
        rows_BTI = self.hashing.rows(input_ids_BT, previous_ids_BTN)
        return self.fuse(input_ids_BT, self.read(rows_BTI))

    def read(self, rows_BTI: torch.Tensor) -> torch.Tensor:
        """Rows of the stacked tables, side by side [B, T, I * W]."""
        return F.embedding(rows_BTI, self.tables, sparse=self.sparse_gradients).flatten(-2)

    def fuse(self, input_ids_BT: torch.Tensor, read_BTX: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, D] from the rows that `read` gave."""
        word_BTD = F.embedding(input_ids_BT, self.weight)
        grams_BTD = self.projection(read_BTX.to(word_BTD.dtype))
        parts = 1 + self.hashing.sizes.count
        e_BTD = word_BTD + grams_BTD / parts if self.full_word else (word_BTD + grams_BTD) / parts
        excluded_BT = self.hashing.excluded(input_ids_BT)
        if excluded_BT is not None:
            e_BTD = torch.where(excluded_BT.unsqueeze(-1), word_BTD + grams_BTD, e_BTD)
        if self.norm is not None:
            return self.norm(e_BTD)
        return e_BTD if self.scale == 1.0 else e_BTD * self.scale

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} x {self.weight.shape[1]}, {self.hashing.sizes.count} tables"


class Constants(NamedTuple):
    """Integers of a hash as tensors: factors of the ids at every distance, rows and first rows of the tables, ids that
    end the look-back, and excluded ids.
    """

    factors_NI: torch.Tensor
    sizes_I: torch.Tensor
    starts_I: torch.Tensor
    ends: torch.Tensor
    excluded: torch.Tensor


@dataclass(frozen=True)
class NgramHash:
    """Rows of the stacked tables for tokens, in exact integers: every product is below 2^62."""

    sizes: NgramTables
    eos: int
    excluded_ids: tuple[int, ...]

    @classmethod
    def of(cls, config: ModelConfig, sizes: NgramTables) -> NgramHash:
        """Hash of a model with tables of these sizes."""
        return cls(sizes, config.eos_token_id, config.ngram_excluded_ids)

    def rows(self, ids_BT: torch.Tensor, previous_BTN: torch.Tensor) -> torch.Tensor:
        """int64 [B, T, I]; `previous_BTN` as of `base.previous_ids`."""
        found = _constants(self, ids_BT.device)
        total_BTI = ids_BT.unsqueeze(-1).expand(*ids_BT.shape, self.sizes.count)
        for back, id_BT in enumerate(self.seen(previous_BTN), start=1):
            total_BTI = total_BTI + id_BT.unsqueeze(-1) * found.factors_NI[back] % found.sizes_I
        rows_BTI = total_BTI % found.sizes_I
        if self.excluded_ids:
            rows_BTI = rows_BTI.masked_fill(torch.isin(ids_BT, found.excluded).unsqueeze(-1), 0)
        return rows_BTI + found.starts_I

    def seen(self, previous_BTN: torch.Tensor) -> Iterator[torch.Tensor]:
        """Ids [B, T] at the distances 1 to N before every token, 0 from where the look-back stops."""
        ends, outside_BT = _constants(self, previous_BTN.device).ends, None
        for back in range(1, self.sizes.order):
            id_BT = previous_BTN[..., -back]
            stops_BT = (id_BT < 0) | torch.isin(id_BT, ends)
            outside_BT = stops_BT if outside_BT is None else outside_BT | stops_BT
            yield id_BT.masked_fill(outside_BT, 0)

    def excluded(self, ids_BT: torch.Tensor) -> torch.Tensor | None:
        """Mask of excluded ids, bool [B, T]; None if no id is excluded."""
        return torch.isin(ids_BT, _constants(self, ids_BT.device).excluded) if self.excluded_ids else None


@lru_cache(maxsize=32)
def _constants(hashing: NgramHash, device: torch.device) -> Constants:
    """Not buffers of a module: a model made on the meta device gets the values of its parameters, and nothing else."""
    factors = [hashing.sizes.factors(table) for table in range(hashing.sizes.count)]
    by_distance = [list(column) for column in zip(*factors, strict=True)]
    lists = (by_distance, hashing.sizes.sizes, hashing.sizes.starts, (hashing.eos, *hashing.excluded_ids))
    return Constants(*(torch.tensor(held, dtype=torch.int64, device=device) for held in (*lists, hashing.excluded_ids)))
