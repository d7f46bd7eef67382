"""Token embedding table."""

import torch
import torch.nn.functional as F

from longcat.model.embeddings.base import Embedding
from longcat.model.parameters import unset_parameter


class TokenEmbedding(Embedding):
    """One vector of width `hidden_size` for each of `vocab_size` tokens."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = unset_parameter(vocab_size, hidden_size)

    def forward(self, input_ids_BT: torch.Tensor, previous_ids_BTN: torch.Tensor | None = None) -> torch.Tensor:
        return F.embedding(input_ids_BT, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} x {self.weight.shape[1]}"
