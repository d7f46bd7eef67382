"""Features of the second pass: what the first pass found around each block and in its sections."""

from __future__ import annotations

from typing import Any

import numpy as np

from longcat.stages.data.extract.content.columns import Floats, side_by_side
from longcat.stages.data.extract.content.features import PageFeatures

LIMIT = 8.0  # of a score
NEIGHBOURS = 3
REACHES = (4, 12, 40)
LEVELS = 6


def context_features(page: PageFeatures, scores: Floats) -> Floats:
    """Features from the scores (log-odds) of the first pass; shape [blocks, features]."""
    count = len(scores)
    likely = 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
    weight = np.sqrt(page.characters) + 1
    padded = np.pad(likely, NEIGHBOURS)
    columns: list[Any] = [np.clip(scores, -LIMIT, LIMIT) / 4, likely]
    columns += [padded[at : at + count] for at in range(2 * NEIGHBOURS + 1) if at != NEIGHBOURS]
    kept, all_weights, plain = (
        np.concatenate([[0], np.cumsum(values, dtype=np.float64)]) for values in (likely * weight, weight, likely)
    )
    positions = np.arange(count)
    for reach in REACHES:
        low, high = np.maximum(positions - reach, 0), np.minimum(positions + reach + 1, count)
        columns.append((kept[high] - kept[low]) / (all_weights[high] - all_weights[low]))
    total = max(float(kept[-1]), 1e-6)
    columns += [kept[:-1] / total, 1 - kept[1:] / total]
    columns += [np.full(count, kept[-1] / all_weights[-1]), np.full(count, np.log1p(kept[-1]) / 5)]
    return side_by_side(columns + _sections(page, kept, all_weights, plain, total))


def _sections(page: PageFeatures, kept: Any, weights: Any, plain: Any, total: float) -> list[Any]:
    """For the nearest `LEVELS` elements: mean score by text and by block, share of all kept text, mean of its kind."""
    starts, ends, keys = page.starts, page.ends, page.keys
    inside = kept[ends] - kept[starts]
    weight = np.maximum(weights[ends] - weights[starts], 1e-6)
    of_kind = np.bincount(keys, inside) / np.maximum(np.bincount(keys, weight), 1e-6)
    by_element = (
        inside / weight,
        (plain[ends] - plain[starts]) / np.maximum(ends - starts, 1),
        inside / total,
        of_kind[keys],
    )
    columns, element = [], page.elements
    for _ in range(LEVELS):
        columns += [values[element] for values in by_element]
        element = np.maximum(page.parents[element], 0)
    return columns
