"""Which blocks of a page are its main content: a page kind, and a small network over block features.

The weights in `weights.npz` were fitted by `fit.py` on pages with known main content, for the
word F1 of a page directly. One set of weights serves pages of every kind; the kind's probabilities are features.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from longcat.stages.data.extract.content.features import KINDS, Floats, PageFeatures

WEIGHTS = Path(__file__).with_name("weights.npz")
LIMIT = 6.0  # of a standardised feature


@cache
def _weights() -> dict[str, Floats]:
    with np.load(WEIGHTS, allow_pickle=False) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


def kind_probabilities(features: PageFeatures) -> Floats:
    """Probability of each of `KINDS`, from page statistics alone; shape [kinds]."""
    weights = _weights()
    scores = weights["kind_weight"] @ features.page + weights["kind_bias"]
    powers = np.exp(scores - scores.max())
    return (powers / powers.sum()).astype(np.float32)


def score(features: PageFeatures) -> tuple[str, Floats]:
    """The page's most likely kind, and for each block the probability that it is main content."""
    weights = _weights()
    kinds = kind_probabilities(features)
    rows = np.concatenate([features.rows, np.repeat(kinds[None], len(features.rows), axis=0)], axis=1)
    values = np.clip((rows - weights["mean"]) / weights["deviation"], -LIMIT, LIMIT)
    for layer in ("0", "1"):
        values = np.maximum(values @ weights["weight" + layer] + weights["bias" + layer], 0)
    scores = (values @ weights["weight2"] + weights["bias2"])[:, 0]
    return KINDS[int(kinds.argmax())], 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
