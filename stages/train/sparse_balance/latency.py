"""Latency model: seconds that attention takes, forward and backward, for documents with a budget of keys per token.

For one document of n tokens of which each attends to at most b keys:

    seconds = c0 + c1 * n + c2 * (keys attended to) + c3 * n (n + 1) / 2

with b' = min(b, n) and b' n - b' (b' - 1) / 2 keys attended to: this is length times budget without what lies before
the document. The last term is the pairs of tokens, which a kind scores to select keys. The coefficients are fitted by
non-negative least squares, so a longer document or a larger budget never seems faster.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from longcat.model.config import ModelConfig

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
TERMS = 4


def pairs(lengths: Ids) -> Ids:
    """Pairs of a token and one that it sees, in causal attention over documents of these lengths."""
    return lengths * (lengths + 1) // 2


def terms(lengths: Ids, budget: int | None) -> Floats:
    """The four terms, summed over documents; `budget`: None for no limit."""
    kept = lengths if budget is None else np.minimum(lengths, budget)
    attended = kept * lengths - kept * (kept - 1) // 2
    return np.array([len(lengths), lengths.sum(), attended.sum(), pairs(lengths).sum()], dtype=np.float64)


@dataclass(frozen=True)
class LatencyModel:
    """coefficients: [different layers, 4], seconds, for both attention modules; layers repeat in this order.

    budgets: those of the modules of every layer.
    """

    coefficients: Floats
    budgets: tuple[tuple[int | None, int | None], ...]

    @classmethod
    def of(cls, config: ModelConfig, coefficients: npt.ArrayLike) -> Self:
        """The model for the layers of an architecture."""
        budgets = tuple(budgets_of(config, layer) for layer in range(config.num_layers))
        return cls(np.asarray(coefficients, dtype=np.float64), budgets)

    def of_layer(self, layer: int) -> Floats:
        """Coefficients [4] of a layer."""
        found: Floats = self.coefficients[layer % len(self.coefficients)]
        return found

    def seconds(self, lengths: Ids, budget: int | None = None) -> float:
        """Predicted seconds of all layers for the documents of a window; `budget` instead of those of the model."""
        total = 0.0
        for layer, own in enumerate(self.budgets):
            total += float(self.of_layer(layer) @ layer_terms(lengths, own, budget))
        return total


def budgets_of(config: ModelConfig, layer: int) -> tuple[int | None, int | None]:
    """Budgets of both attention modules of a layer."""
    first, second = (config.mixer(slot).mixer.budget_in(config, slot) for slot in (2 * layer, 2 * layer + 1))
    return first, second


def layer_terms(lengths: Ids, own: tuple[int | None, int | None], budget: int | None = None) -> Floats:
    """`terms` of both modules of a layer; `budget` instead of that of modules with one."""
    first, second = (terms(lengths, None if of_module is None else budget or of_module) for of_module in own)
    return first + second


def fit(points: Sequence[tuple[Floats, float]]) -> Floats:
    """Coefficients [4] from (terms of a window, its seconds), by non-negative least squares of relative errors.

    The solution of the constrained problem is the unconstrained one on the terms that it uses, so that with four terms
    all subsets are tried.
    """
    scaled_XN = np.array([row / seconds for row, seconds in points])
    best, least = np.zeros(TERMS), np.inf
    subsets = itertools.chain.from_iterable(itertools.combinations(range(TERMS), n) for n in range(1, TERMS + 1))
    for subset in map(list, subsets):
        # Columns differ by many orders of magnitude.
        widths = np.linalg.norm(scaled_XN[:, subset], axis=0)
        solution = np.linalg.lstsq(scaled_XN[:, subset] / widths, np.ones(len(points)), rcond=None)[0] / widths
        error = float(np.square(scaled_XN[:, subset] @ solution - 1).sum())
        if (solution >= 0).all() and error < least - 1e-12:
            best, least = np.zeros(TERMS), error
            best[subset] = solution
    return best


def relative_error(points: Sequence[tuple[Floats, float]], coefficients: Floats) -> float:
    """Root mean square of the relative errors of the predicted seconds."""
    errors = [float(row @ coefficients) / seconds - 1 for row, seconds in points]
    return float(np.sqrt(np.mean(np.square(errors))))
