"""Metrics of a classifier on held-out documents."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)
MAX_ROC_POINTS = 101


def at_threshold(scores: Scores, good: Labels, threshold: float) -> dict[str, float]:
    """Precision and recall of positives, and fraction kept, at score `threshold`."""
    kept = scores >= threshold
    hits = int(np.count_nonzero(kept & good))
    return {
        "precision": round(hits / max(1, int(np.count_nonzero(kept))), 6),
        "recall": round(hits / max(1, int(np.count_nonzero(good))), 6),
        "kept": round(float(kept.mean()), 6),
    }


def roc(scores: Scores, good: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """False and true positive rates from (0, 0) to (1, 1), one point per distinct score."""
    order = np.argsort(-scores, kind="stable")
    scores, good = scores[order], good[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = np.cumsum(good)[ends] / max(1, int(good.sum()))
    false = np.cumsum(~good)[ends] / max(1, int((~good).sum()))
    return np.concatenate(([0.0], false)), np.concatenate(([0.0], true))


def measure(scores: Scores, good: Labels) -> dict[str, Any]:
    """Area under the ROC curve, the curve reduced to 101 points, and precision and recall by threshold."""
    false, true = roc(scores, good)
    area = float(np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2))
    picked = np.unique(np.linspace(0, len(false) - 1, MAX_ROC_POINTS).round().astype(np.int64))
    return {
        "roc_auc": round(area, 6),
        "thresholds": {f"{threshold:g}": at_threshold(scores, good, threshold) for threshold in THRESHOLDS},
        "roc": [[round(float(x), 6), round(float(y), 6)] for x, y in zip(false[picked], true[picked], strict=True)],
    }
