"""Report of a mixture: requested and realised shares, in total and by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from longcat.pipeline.artifact import Artifact
from longcat.stages.data.mixture.config import MixConfig, Resolved
from longcat.stages.data.mixture.document_order import Draw, Pool
from longcat.stages.data.mixture.lengths import part_rows
from longcat.stages.formats.scores import COLUMNS, Scores, token_scores


def overall_shares(stages: Sequence[Resolved], drawn: Sequence[Sequence[Draw]]) -> list[float]:
    """Share of each source in all stages together: as requested, or, with samplemix, as realised."""
    shares = np.zeros(len(drawn[0]))
    for stage, draws in zip(stages, drawn, strict=True):
        taken = np.array([part.total for part in draws])
        shares += stage.share * (taken / taken.sum() if stage.shares is None else np.array(stage.shares))
    found: list[float] = shares.tolist()
    return found


def source_rows(
    config: MixConfig,
    stages: Sequence[Resolved],
    pools: Sequence[Pool],
    drawn: Sequence[Sequence[Draw]],
    held_out: Sequence[Draw],
) -> list[dict[str, Any]]:
    """One row per source: tokens and documents over all stages, shares, epochs, validation tokens."""
    tokens = [sum(draws[pool.number].total for draws in drawn) for pool in pools]
    rows = []
    for pool, taken, share in zip(pools, tokens, overall_shares(stages, drawn), strict=True):
        number = pool.number
        size = pool.size(pool.at_least(min(stage.min_tokens[number] for stage in stages)))
        wanted = {} if any(stage.shares is None for stage in stages) else {"share_wanted": round(share, 6)}
        rows.append(
            {
                "source": config.label(number),
                "tokens": taken,
                "documents": sum(len(draws[number].documents) for draws in drawn),
                "different_documents": int((pool.used > 0).sum()),
                **wanted,
                "share": round(taken / sum(tokens), 6),
                "epochs": round(taken / size, 4) if size else 0.0,
                "validation_tokens": held_out[number].total,
            }
        )
    return rows


def stage_rows(
    config: MixConfig, stages: Sequence[Resolved], drawn: Sequence[Sequence[Draw]], sources: Sequence[Artifact]
) -> list[dict[str, Any]]:
    """One row per stage and source: tokens, documents, shares; with samplemix also mean scores."""
    scores: list[Scores | None] = [None] * len(sources)
    rows = []
    for stage, draws in zip(stages, drawn, strict=True):
        total = sum(part.total for part in draws)
        for number, part in enumerate(draws):
            row: dict[str, Any] = {"stage": stage.name, "source": config.label(number)}
            row |= {"tokens": part.total, "documents": len(part.documents)}
            if stage.shares is not None:
                row["share_wanted"] = round(stage.shares[number], 6)
            row["share"] = round(part.total / total, 6)
            if config.sampling == "samplemix" and len(part.documents):
                scores[number] = own = _scores(scores[number], sources[number])
                means = own[part.documents].mean(axis=0, dtype=np.float64).tolist()
                row |= {name: round(mean, 4) for name, mean in zip(COLUMNS, means, strict=True)}
            rows.append(row)
    return rows


def bucket_rows(config: MixConfig, stages: Sequence[Resolved], drawn: Sequence[Sequence[Draw]]) -> list[dict[str, Any]]:
    """One row per stage, source and bucket of lengths; empty without sampling by length."""
    return [
        row
        for stage, draws in zip(stages, drawn, strict=True)
        for number, part in enumerate(draws)
        for row in part_rows({**({"stage": stage.name} if config.stages else {}), "source": config.label(number)}, part)
    ]


def _scores(known: Scores | None, source: Artifact) -> Scores:
    if known is not None:
        return known
    import pyarrow.parquet as pq

    from longcat.stages.formats.scores import SCORES_FILE

    return token_scores(source, pq.read_metadata(source.path / SCORES_FILE).num_rows)
