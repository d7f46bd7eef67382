"""Steps of a model in tiles: every step of the modules has the same shapes.

Names: T rows of the tile, Y tokens among them, K slots per token, R rows whose logits are wanted, E experts of both
kinds, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from longcat.model.attention.base import SequenceMixer
from longcat.model.errors import ModelError
from longcat.model.moe.mixture import Experts, LayerRouting, MixtureOfExperts
from longcat.model.packed.experts import PackedExperts
from longcat.model.step import Piece, StepBatch, StepOutput, check_pieces
from longcat.model.tiles.attention import tile_attention
from longcat.model.tiles.experts import Tile, tile_experts
from longcat.model.tiles.pieces import tiles

if TYPE_CHECKING:
    from longcat.model.paged_cache import PagedCache
    from longcat.model.transformer import LongcatFlash

ROWS = 8


class TiledModel:
    """Steps of a model, packed or not, in tiles of ROWS tokens; parameters and matrices are shared with it.

    Multi-token prediction is not part of it. One thread at a time may use it.

    Raises:
        ModelError: the model is not float32 on a CPU, or an attention or a mixture has no form for tiles.
    """

    def __init__(self, model: LongcatFlash) -> None:
        weight = model.model.embed_tokens.weight
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            kind = str(weight.dtype).removeprefix("torch.")
            raise ModelError(f"tiles need a model in float32 on a CPU, this one is {kind} on {weight.device}")
        self._tile = Tile()
        self.module = copy.copy(model)
        backbone = copy.copy(model.model)
        backbone._modules = model.model._modules | {"layers": _twin(model.model.layers, self._tile)}
        self.module._modules = model._modules | {"model": backbone}

    def step(self, pieces: Sequence[Piece], cache: PagedCache) -> StepOutput:
        """`LongcatFlash.step` of the pieces, with bits that do not depend on how tokens are divided into steps.

        Raises:
            ModelError: as `StepBatch.of` and `LongcatFlash.step`.
        """
        look_back = self.module.model.embed_tokens.look_back
        check_pieces(pieces, cache.page_size, look_back)
        found = [
            self._compute(StepBatch.of(tile, cache.page_size, look_back=look_back), cache)
            for tile in tiles(pieces, ROWS)
        ]
        return found[0] if len(found) == 1 else _joined(found)

    def _compute(self, batch: StepBatch, cache: PagedCache) -> StepOutput:
        """A step of at most ROWS tokens."""
        self._tile.tokens = tokens = batch.ids_1T.shape[1]
        logits_RV, hidden_TD, routing = self.module.step(_filled(batch), cache)
        if batch.rows:
            logits_RV = logits_RV[:tokens] if batch.wanted_R is None else logits_RV.index_select(0, batch.wanted_R)
        return StepOutput(logits_RV, hidden_TD[:tokens], tuple(_of_tokens(layer, tokens) for layer in routing))


def _twin(module: nn.Module, tile: Tile) -> nn.Module:
    """A copy of `module` for tiles, with its parameters."""
    if isinstance(module, SequenceMixer):
        return tile_attention(module)
    if type(module) in (Experts, PackedExperts):
        return tile_experts(module, tile)
    if isinstance(module, MixtureOfExperts) and type(module.experts) not in (Experts, PackedExperts):
        raise ModelError(f"experts of the kind {type(module.experts).__name__} have no form for tiles")
    twin = copy.copy(module)
    twin._modules = {name: child if child is None else _twin(child, tile) for name, child in module._modules.items()}
    return twin


def _filled(batch: StepBatch) -> StepBatch:
    """The batch with ROWS rows, filled up with its first token; logits of all rows, or of none."""
    missing = ROWS - batch.ids_1T.shape[1]
    ids_1T, previous_1TN, positions_T = batch.ids_1T, batch.previous_1TN, batch.positions_T
    return batch._replace(
        ids_1T=torch.cat((ids_1T, ids_1T[:, :1].expand(-1, missing)), dim=1),
        previous_1TN=None
        if previous_1TN is None
        else torch.cat((previous_1TN, previous_1TN[:, :1].expand(-1, missing, -1)), dim=1),
        positions_T=torch.cat((positions_T, positions_T[:1].expand(missing))),
        wanted_R=None if batch.rows else batch.wanted_R,
    )


def _of_tokens(layer: LayerRouting, tokens: int) -> LayerRouting:
    experts_YK = layer.experts_TK[:tokens]
    counts_E = torch.bincount(experts_YK.flatten(), minlength=layer.logits_TE.shape[1])
    return LayerRouting(layer.weights_TK[:tokens], experts_YK, counts_E, layer.logits_TE[:tokens])


def _joined(parts: Sequence[StepOutput]) -> StepOutput:
    logits_RV = torch.cat([part.logits_RV for part in parts])
    hidden_TD = torch.cat([part.hidden_TD for part in parts])
    layers = zip(*(part.routing for part in parts), strict=True)
    return StepOutput(logits_RV, hidden_TD, tuple(_joined_routing(layer) for layer in layers))


def _joined_routing(parts: Sequence[LayerRouting]) -> LayerRouting:
    weights, experts, counts, logits = zip(*parts, strict=True)
    return LayerRouting(torch.cat(weights), torch.cat(experts), torch.stack(counts).sum(0), torch.cat(logits))
