"""Embeddings that depend on earlier ids: whole rows, documents, a cache in pieces and after a rewind, parts of rows."""

from __future__ import annotations

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import Embedding, previous_ids
from longcat.model.embeddings.token import TokenEmbedding
from longcat.model.errors import ModelError
from longcat.model.init import initialize
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.rows import local_rows


class Trigram(Embedding):
    """Vector of the token plus weighted vectors of the two previous ids; a missing id contributes nothing."""

    look_back = 2

    def __init__(self, table: TokenEmbedding) -> None:
        super().__init__()
        self.weight = table.weight

    def forward(self, input_ids_BT: torch.Tensor, previous_ids_BTN: torch.Tensor | None = None) -> torch.Tensor:
        assert previous_ids_BTN is not None
        known_BTN1 = (previous_ids_BTN >= 0).unsqueeze(-1)
        previous_BTND = self.weight[previous_ids_BTN.clamp(min=0)] * known_BTN1
        weights_N1 = torch.tensor([[0.3], [0.7]], dtype=self.weight.dtype)
        return self.weight[input_ids_BT] + (previous_BTND * weights_N1).sum(dim=2)


@pytest.fixture
def model(config: ModelConfig) -> LongcatFlash:
    built = LongcatFlash(config)
    initialize(built, 2)
    built = built.double()
    built.model.embed_tokens = Trigram(built.model.embed_tokens)
    return built


@pytest.fixture(name="ids_BT")
def token_ids() -> torch.Tensor:
    return torch.randint(4, 97, (2, 12), generator=torch.Generator().manual_seed(4))


def test_previous_ids() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
    expected = [[[-1, -1], [-1, 5], [5, 6], [6, 7]], [[-1, -1], [-1, 1], [1, 2], [2, 3]]]
    assert previous_ids(ids, 2).tolist() == expected
    assert previous_ids(ids, 2, first=3).tolist() == [[[6, 7]], [[2, 3]]]
    bounds = torch.tensor([0, 1, 4, 6, 8], dtype=torch.int32)
    expected = [[[-1, -1], [-1, -1], [-1, 6], [6, 7]], [[-1, -1], [-1, 1], [-1, -1], [-1, 3]]]
    assert previous_ids(ids, 2, bounds).tolist() == expected
    assert previous_ids(ids, 0, bounds).shape == (2, 4, 0)


@torch.no_grad()
def test_decoding_knows_previous_ids(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    whole = model(ids_BT).logits
    rows = Rows(model, 2, 12)
    pieces = [rows.append(piece).logits for piece in ids_BT.split([5, 1, 1, 5], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    assert rows.rewind(6) == 6
    torch.testing.assert_close(rows.append(ids_BT[:, 6:]).logits, whole[:, 6:])


@torch.no_grad()
def test_a_document_starts_without_previous_ids(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    together = model(ids_BT, torch.tensor([0, 5, 12, 24])).logits.flatten(0, 1)
    for begin, end in ((0, 5), (5, 12), (12, 24)):
        torch.testing.assert_close(together[begin:end], model(ids_BT.flatten()[None, begin:end]).logits[0])


@torch.no_grad()
def test_parts_of_rows_need_previous_ids(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    whole = model.embed(ids_BT)
    for rank in range(3):
        rows = local_rows(ids_BT, ids_BT, context_rank=rank, context_size=3, look_back=2)
        part = model.embed(rows.ids_BT, None, rows.positions_T, rows.previous_ids_BTN)
        assert rows.positions_T is not None
        torch.testing.assert_close(part, whole[:, rows.positions_T])
    with pytest.raises(ModelError, match="needs previous_ids_BTN for parts of rows"):
        model.embed(rows.ids_BT, None, rows.positions_T)


def test_multi_token_prediction_cannot_share_it(config: ModelConfig, ids_BT: torch.Tensor) -> None:
    changes = {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True}
    built = LongcatFlash(ModelConfig(**(config.model_dump() | changes)))
    initialize(built, 2)
    built.model.embed_tokens = Trigram(built.model.embed_tokens)
    hidden = built(ids_BT).hidden_BTD
    with pytest.raises(ModelError, match="cannot share an embedding of earlier ids"):
        built.mtp_forward(hidden, ids_BT)
