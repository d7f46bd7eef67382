"""The table of token vectors."""

import torch
import torch.nn.functional as F
from torch import nn

from longcat.model.linear import unset_parameter


class TokenEmbedding(nn.Module):
    """One vector of width `hidden_size` for each of `vocab_size` tokens."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = unset_parameter(vocab_size, hidden_size)

    def forward(self, input_ids_BT: torch.Tensor) -> torch.Tensor:
        return F.embedding(input_ids_BT, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} x {self.weight.shape[1]}"
