"""Stage `data.score`: quality of each document, and diversity of its cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.documents import document_shards
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.score.config import ScoreConfig

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from longcat.stages.data.score.shard import ScoreTask

HASH_RANGE = 1 << 64
MOST_CLUSTERS = 1024


@stage("data.score", revision=2, inputs={"documents": "documents+", "classifier": "report?"}, output="report")
def score_documents(context: Context[ScoreConfig]) -> Result:
    """Score every document for `data mix`: a quality and a diversity, both from 0 to 1 (SampleMix, Xi et al. 2025).

    Quality is the classifier's score if given, else a mean of filter measurements. Diversity is that of the document's
    cluster, over all sources. `data pack --scores` copies both to the tokens.

    Raises:
        InputError: there are no documents, or the classifier is of another kind.
        IntegrityError: a shard or the classifier is damaged.
    """
    from longcat.pipeline.document_inputs import plain_inputs
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.score.shard import ScoreTask, score_shard
    from longcat.stages.data.text.quality_classifier import QualityClassifier, classifier_path
    from longcat.stages.formats.scores import scores_name

    classifier = None
    if (given := context.optional("classifier")) is not None:
        classifier = classifier_path(given)
        QualityClassifier(classifier)
    inputs = plain_inputs(context.many("documents"))
    places = [
        (source.id, number, path) for source in inputs.artifacts for number, path in enumerate(document_shards(source))
    ]
    rarities, centres = _find_groups(context, [path for _, _, path in places])
    tasks = [
        ScoreTask(path, context.work / f"scored-{number:05d}.parquet", rarities, centres, classifier, context.config)
        for number, (_, _, path) in enumerate(places)
    ]
    results = context.map_shards(score_shard, tasks, description="scoring")
    total = sum(part["documents"] for part in results)
    if not total:
        raise InputError("there are no documents to score", where=inputs.places)
    diversity = _write_groups(context, tasks, centres)
    names = [scores_name(source, number) for source, number, _ in places]
    averages = [_write_scores(task, context.output / name, diversity) for task, name in zip(tasks, names, strict=True)]
    quality, diverse = (sum(part[column] for part in averages) for column in range(2))
    return Result(
        counts={
            "documents_in": total,
            "documents_out": total,
            "dropped": {},
            **inputs.counts(results, ("documents",)),
        },
        metrics={
            "clusters": len(diversity),
            "mean_quality": round(quality / total, 6),
            "mean_diversity": round(diverse / total, 6),
        },
    )


def _find_groups(context: Context[ScoreConfig], shards: Sequence[Path]) -> tuple[Path, Path]:
    """Compute files with word rarity and cluster centres from a sample."""
    import numpy as np

    from longcat.pipeline.files import atomic_path
    from longcat.stages.data.score.cluster import find_centres
    from longcat.stages.data.score.embed import Bag, embed, rarity
    from longcat.stages.data.score.shard import SampleTask, sample_shard

    config = context.config
    documents = sum(source.manifest.counts["documents_out"] for source in context.many("documents"))
    limit = HASH_RANGE * config.sample_documents // max(config.sample_documents, documents)
    tasks = [
        SampleTask(shard, context.work / f"words-{number:05d}.npy", limit, config)
        for number, shard in enumerate(shards)
    ]
    context.map_shards(sample_shard, tasks, description="sampling")
    rows = np.concatenate([np.zeros((0, 2)), *(np.load(task.words) for task in tasks)])
    buckets = rows[:, 0].astype(np.int64)
    starts = np.flatnonzero(buckets < 0)
    parts = np.split(rows, starts)[1:]
    bags = [Bag(part[1:, 0].astype(np.int64), part[1:, 1]) for part in parts]
    rarities = rarity(buckets[buckets >= 0], len(bags))
    clusters = config.clusters or min(MOST_CLUSTERS, max(1, round((documents / 2) ** 0.5)))
    centres = np.zeros((1, config.dimensions), dtype=np.int16)
    if bags:
        centres = find_centres(embed(bags, rarities, config.dimensions), clusters, config.iterations, config.seed)
    paths = context.work / "rarities.npy", context.work / "centres.npy"
    with atomic_path(paths[0]) as aside, aside.open("wb") as stream:
        np.save(stream, rarities)
    with atomic_path(paths[1]) as aside, aside.open("wb") as stream:
        np.save(stream, centres)
    return paths


def _write_groups(context: Context[Any], tasks: Sequence[ScoreTask], centres: Path) -> npt.NDArray[np.float64]:
    """Write `clusters.parquet`, one row per cluster, and return the diversity of each."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from longcat.pipeline.files import atomic_path
    from longcat.stages.data.score.cluster import diversities, separation
    from longcat.stages.formats.scores import read_table

    vectors = np.load(centres)
    members, distances = np.zeros(len(vectors), dtype=np.int64), np.zeros(len(vectors))
    for task in tasks:
        table = read_table(task.scored, ("cluster", "distance"))
        groups, values = table.column("cluster").to_numpy(), table.column("distance").to_numpy()
        inside = groups >= 0
        members += np.bincount(groups[inside], minlength=len(vectors))
        distances += np.bincount(groups[inside], weights=values[inside], minlength=len(vectors))
    compactness = distances / np.maximum(1, members)
    diversity = diversities(compactness, members, vectors)
    columns = {
        "cluster": np.arange(len(vectors)),
        "documents": members,
        "compactness": compactness.round(6),
        "separation": separation(vectors).round(6),
        "diversity": diversity.round(6),
    }
    with atomic_path(context.output / "clusters.parquet") as aside:
        pq.write_table(pa.table(columns), aside)
    return diversity.round(6)


def _write_scores(task: ScoreTask, path: Path, diversity: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Write the scores of one shard; returns both sums."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from longcat.pipeline.files import atomic_path
    from longcat.stages.formats.scores import read_table

    table = read_table(task.scored, ("id", "quality", "cluster"))
    groups = table.column("cluster").to_numpy()
    values = np.where(groups >= 0, diversity[groups], 0.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as aside:
        pq.write_table(table.append_column("diversity", pa.array(values)), aside, compression="zstd")
    return float(table.column("quality").to_numpy().sum()), float(values.sum())
