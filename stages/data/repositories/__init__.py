"""Stage `data.repositories`: the files of a repository joined to one document, what is imported first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import InputError, UsageError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.repositories.config import RepositoriesConfig

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput
    from longcat.stages.data.repositories.shard import AssembleTask

PARTITION_BYTES = 64 << 20
PATHS_A_SHARD = 64


def _sources(config: RepositoriesConfig) -> dict[str, str]:
    from longcat.pipeline.sources import fingerprint_paths
    from longcat.stages.data.repositories.read import module_files, repository_files

    found: dict[str, str] = {}
    for given in config.input:
        path = Path(given)
        if not path.exists():
            raise InputError("no such folder or archive", where=given)
        found |= fingerprint_paths([file for _, file in repository_files(path)] if path.is_dir() else [path])
    for name in config.modules:
        found |= fingerprint_paths([file for _, file in module_files(name)])
    return found


def _check(config: RepositoriesConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    if not inputs.get("documents") and not config.input and not config.modules:
        raise UsageError("no input", hint="pass a PATH, --modules NAME or --documents NAME")
    return {}


@stage(
    "data.repositories",
    revision=1,
    inputs={"documents": "documents*"},
    output="documents",
    sources=_sources,
    check=_check,
)
def join_repositories(context: Context[RepositoriesConfig]) -> Result:
    """Join the files of each repository to one document, in dependency order.

    Repositories are folders, tar archives, installed Python packages, or documents whose metadata name repository and
    path. Documents are partitioned by repository on disk, so that a process holds only one partition.

    Raises:
        UsageError: neither documents nor an input was given.
        InputError: an input is missing or damaged, or no repository has a file.
    """
    from longcat.stages.data.repositories.shard import assemble_shard

    tasks, first = _partitions(context)
    paths = [Path(given) for given in context.config.input]
    for at in range(0, len(paths), PATHS_A_SHARD):
        tasks.append(_task(context, len(tasks), paths=tuple(paths[at : at + PATHS_A_SHARD])))
    if context.config.modules:
        tasks.append(_task(context, len(tasks), modules=context.config.modules))
    results = [*first, *context.map_shards(assemble_shard, tasks, description="joining repositories")]
    total = {
        key: sum(result.get(key, 0) for result in results) for key in ("documents", "files", "kept", "repositories")
    }
    if not total["documents"]:
        raise InputError(f"no repository among {total['files']} files has one to train on")
    dropped: Counter[str] = Counter({"joined": total["kept"] - total["documents"]})
    for result in results:
        dropped.update(result["dropped"])
    return Result(
        counts={
            "documents_in": total["files"],
            "documents_out": total["documents"],
            "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
        },
        metrics={
            "repositories": total["repositories"],
            "circular_imports": sum(result.get("circles", 0) for result in results),
        },
    )


def _partitions(context: Context[RepositoriesConfig]) -> tuple[list[AssembleTask], list[dict[str, Any]]]:
    """Tasks for the documents given, after they were partitioned, and the results of that."""
    from longcat.pipeline.document_inputs import plain_inputs
    from longcat.stages.data.repositories.shard import PartitionTask, partition_shard

    shards = plain_inputs(context.many("documents")).shards
    if not shards:
        return [], []
    count = -(-sum(shard.path.stat().st_size for shard in shards) // PARTITION_BYTES)
    parts = [
        [context.work / f"part-{number:05d}-{partition:05d}.jsonl.zst" for partition in range(count)]
        for number in range(len(shards))
    ]
    tasks = [PartitionTask(shard, tuple(own), context.config) for shard, own in zip(shards, parts, strict=True)]
    first = list(context.map_shards(partition_shard, tasks, description="partitioning"))
    return [_task(context, at, parts=tuple(own)) for at, own in enumerate(zip(*parts, strict=True))], first


def _task(context: Context[RepositoriesConfig], number: int, **sources: Any) -> AssembleTask:
    from longcat.pipeline.documents import shard_name
    from longcat.stages.data.repositories.shard import AssembleTask

    return AssembleTask(target=context.output / shard_name(number), config=context.config, **sources)
