"""A model that answers from its prompt."""

from __future__ import annotations

from typing import Any

import torch

from longcat.model.step import StepOutput
from longcat.stages.inference.engine import InferenceEngine


class Reader(InferenceEngine):
    """A model that looks up the answer: it predicts the token after the previous occurrence of the last tokens."""

    def __init__(self, engine: InferenceEngine) -> None:
        super().__init__(engine.model, engine.tokenizer)
        self.held: dict[int, int] = {}
        self.core.runner.forward = self.look_up  # type: ignore[method-assign]

    def look_up(self, pieces: Any) -> StepOutput:
        rows = []
        for piece in pieces:
            size, end = self.options.page_size, piece.start + len(piece.ids)
            places = [piece.pages[position // size] * size + position % size for position in range(end)]
            self.held |= zip(places[piece.start :], piece.ids, strict=True)
            ids = [self.held[place] for place in places]
            rows += [self.predict(ids[: end - back]) for back in range(piece.logits - 1, -1, -1)]
        hidden = torch.zeros(1, 1)
        return StepOutput(torch.stack(rows) if rows else torch.zeros(0, self.vocab_size), hidden, ())

    def predict(self, ids: list[int]) -> torch.Tensor:
        row = torch.zeros(self.vocab_size)
        for back in range(len(ids) - 2, 4, -1):
            if ids[back - 4 : back + 1] == ids[-5:]:
                row[ids[back + 1]] = 20.0
                break
        return row
