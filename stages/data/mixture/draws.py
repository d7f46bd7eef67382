"""Draws of a mixture from each source, by stage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.mixture import samplemix
from longcat.stages.data.mixture.config import MixConfig, Resolved, spread
from longcat.stages.data.mixture.document_order import Draw, Numbers, Pool, draw, largest_budget
from longcat.stages.data.mixture.lengths import longest, merged, needs_bytes
from longcat.stages.data.mixture.text_bytes import text_bytes
from longcat.stages.formats.scores import token_scores

# Tolerance for rounding errors of summed shares.
_SLACK = 1 + 1e-9


def open_pools(sources: Sequence[Artifact], stages: Sequence[Resolved], config: MixConfig) -> list[Pool]:
    """Training documents of every source, with weights if sampling by scores, and bytes if by bytes.

    Raises:
        InputError: the scores are missing, or the tokenizer does not tell bytes.
    """
    epochs = spread(config.max_epochs, len(sources))
    pools = []
    for number, source in enumerate(sources):
        pool = Pool(number, np.diff(TokenFile(source.path / "train").document_offsets), epochs[number])
        if config.sampling == "samplemix":
            scores = token_scores(source, len(pool.lengths))
            pool.weights = samplemix.weights_of(scores, config.alpha, config.temperature)
        if any(needs_bytes(stage.lengths) for stage in stages):
            pool.text_bytes = text_bytes(source)
        pools.append(pool)
    return pools


def draw_training(
    sources: Sequence[Artifact], pools: Sequence[Pool], stages: Sequence[Resolved], config: MixConfig
) -> list[list[Draw]]:
    """Draws of every stage from every source.

    Raises:
        InputError: a source has no document long enough, or too few tokens for its share.
    """
    budget = config.token_budget
    drawn = []
    for number, stage in enumerate(stages):
        chosen = [pool.at_least(least) for pool, least in zip(pools, stage.min_tokens, strict=True)]
        _check_any(sources, chosen, stage, config)
        if budget is None:
            lefts = [pool.left(own) for pool, own in zip(pools, chosen, strict=True)]
            budget = int(largest_budget(lefts, stage.shares or ())[0])
        target = budget * stage.share
        if stage.shares is None:
            _check_together(sources, pools, chosen, target, stage)
            drawn.append(samplemix.sample_together(pools, chosen, target, config.seed, number))
            continue
        targets = [share * target for share in stage.shares]
        _check_enough(sources, pools, chosen, targets, stage, config)
        if config.sampling == "samplemix":
            drawn.append(samplemix.sample(pools, chosen, targets, config.seed, number))
        else:
            parts = zip(pools, chosen, targets, strict=True)
            drawn.append([_draw(sources[pool.number], pool, own, wanted, stage, config) for pool, own, wanted in parts])
    return drawn


def _draw(source: Artifact, pool: Pool, chosen: Numbers, target: float, stage: Resolved, config: MixConfig) -> Draw:
    if stage.lengths is None or not target:
        return draw(pool, chosen, target, config.seed)
    buckets = stage.lengths.buckets(pool, chosen)
    where = f"source {config.label(pool.number)!r}" + (f" in stage {stage.name!r}" if config.stages else "")
    if not buckets:
        raise InputError(
            f"{where} has only documents of weight zero", where=str(source.path), hint="change the weights"
        )
    drawn = []
    for bucket in buckets:
        own, wanted = bucket.chosen(pool, chosen), bucket.share * target
        if not len(own):
            raise InputError(
                f"{where} has no document {bucket.name}, the longest has {longest(pool, chosen, bucket.unit)} "
                f"{bucket.unit}",
                where=str(source.path),
                hint=stage.lengths.remedy,
            )
        if wanted > (left := pool.left(own)) * _SLACK:
            raise InputError(
                f"{where} has {pool.size(own)} tokens in documents {bucket.name}; {round(wanted)} are due and "
                f"max_epochs = {pool.max_epochs:g} leaves {int(left)}",
                where=str(source.path),
                hint="lower token_budget or the share of these documents, or raise max_epochs",
            )
        drawn.append(draw(pool, own, wanted, config.seed))
    return merged(pool, buckets, drawn)


def draw_validation(sources: Sequence[Artifact], shares: Sequence[float], config: MixConfig) -> list[Draw]:
    """Largest mixture of validation documents in these shares without repetition."""
    lengths = [np.diff(TokenFile(source.path / "validation").document_offsets) for source in sources]
    pools = [Pool(number, own, 1.0) for number, own in enumerate(lengths)]
    for pool, share in zip(pools, shares, strict=True):
        if share and not pool.lengths.sum():
            source = sources[pool.number]
            raise InputError(f"source {config.label(pool.number)!r} has no validation tokens", where=str(source.path))
    budget, _ = largest_budget([int(own.sum()) for own in lengths], shares)
    return [
        draw(pool, pool.at_least(1), share * budget, config.seed) for pool, share in zip(pools, shares, strict=True)
    ]


def _check_any(sources: Sequence[Artifact], chosen: Sequence[Numbers], stage: Resolved, config: MixConfig) -> None:
    for number, own in enumerate(chosen):
        if len(own) or (stage.shares and not stage.shares[number]):
            continue
        raise InputError(
            f"source {config.label(number)!r} has no document of {stage.min_tokens[number]} tokens or more",
            where=str(sources[number].path),
            hint="lower min_document_tokens",
        )


def _check_together(
    sources: Sequence[Artifact], pools: Sequence[Pool], chosen: Sequence[Numbers], target: float, stage: Resolved
) -> None:
    left = sum(pool.left(own) for pool, own in zip(pools, chosen, strict=True))
    if target > left * _SLACK:
        raise InputError(
            f"stage {stage.name!r} takes {round(target)} tokens; max_epochs leaves {int(left)}",
            where=str(sources[0].path),
            hint="lower token_budget or raise max_epochs",
        )


def _check_enough(
    sources: Sequence[Artifact],
    pools: Sequence[Pool],
    chosen: Sequence[Numbers],
    targets: Sequence[float],
    stage: Resolved,
    config: MixConfig,
) -> None:
    for pool, own, target in zip(pools, chosen, targets, strict=True):
        left = pool.left(own)
        if target <= left * _SLACK:
            continue
        size = pool.size(own)
        epochs = (pool.max_epochs * size - left + target) / size
        most = largest_budget([pool.left(own) for pool, own in zip(pools, chosen, strict=True)], stage.shares or ())[0]
        what, hint = f"its share of {round(sum(targets))}", f"lower token_budget to {int(most)} or its weight"
        if config.stages:
            what, hint = f"all up to the end of stage {stage.name!r}", "lower token_budget, the stage's share or weight"
        raise InputError(
            f"source {config.label(pool.number)!r} has {size} tokens; {what} takes {epochs:.2f} epochs, "
            f"{pool.max_epochs:g} are allowed",
            where=str(sources[pool.number].path),
            hint=f"{hint}, or raise max_epochs",
        )
