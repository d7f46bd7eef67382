"""Deterministic steps: a text gets the same logits, to the bit, alone, in a batch, in any chunks and with drafts.

The steps are computed in tiles (`model.tiles`). Tokens are chosen row by row in any mode (`batch_sampler`), so that
equal logits give equal texts. Logits of drafts may differ with the batch: drafts change no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from longcat.model.errors import ModelError
from longcat.model.step import Piece, StepOutput
from longcat.model.tiles import TiledModel, check_places
from longcat.pipeline.errors import ConfigError
from longcat.stages.inference.runner import StepRunner

if TYPE_CHECKING:
    from longcat.model.paged_cache import PagedCache
    from longcat.model.transformer import LongcatFlash


class DeterministicRunner(StepRunner):
    """Runs steps of one model on one cache, in tiles.

    Raises:
        ConfigError: the model or this machine has no such steps; the message names the part.
    """

    def __init__(self, model: LongcatFlash, cache: PagedCache, vocab_size: int) -> None:
        super().__init__(model, cache, vocab_size)
        try:
            self._tiled = TiledModel(model)
            check_places(self._tiled)
        except ModelError as error:
            raise ConfigError(
                f"deterministic = true cannot be used here: {error}", hint="use deterministic = false"
            ) from None

    def forward(self, pieces: Sequence[Piece]) -> StepOutput:
        return self._tiled.step(pieces, self.cache)
