"""A fast stage that works like the data stages: in shards, with files in `work` that are joined at the end."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.documents import Document, document_shards, read_documents, shard_name, write_documents
from longcat.pipeline.files import atomic_write
from longcat.pipeline.stage import Context, Result, stage


class ShardsConfig(StageConfig):
    """Configuration of `test.shards`."""

    shards: int = Field(3, ge=0, description="Number of shards without input.")
    text: str = Field("", description="Text appended to every document.")


Task = tuple[int, Path | None, Path, Path, str]


def write_shard(task: Task) -> dict[str, int]:
    number, given, output, work, text = task
    made = [Document(f"{number}-{i}", f"text {i}", "toy") for i in range(2)]
    documents = list(read_documents(given)) if given else made
    for document in documents:
        document.text += text
    atomic_write(work / f"note-{number}", f"shard {number}\n".encode())
    return {"documents": write_documents(output / shard_name(number), documents)}


@stage("test.shards", revision=1, inputs={"documents": "documents?"}, output="documents")
def make_shards(context: Context[ShardsConfig]) -> Result:
    """Write or copy documents in shards."""
    config, documents = context.config, context.optional("documents")
    given: list[Path | None] = list(document_shards(documents)) if documents else [None] * config.shards
    tasks = [(number, path, context.output, context.work, config.text) for number, path in enumerate(given)]
    results = context.map_shards(write_shard, tasks, description="writing")
    notes = b"".join((context.work / f"note-{number}").read_bytes() for number in range(len(tasks)))
    atomic_write(context.output / "notes" / "all.txt", notes)
    return Result(counts={"documents_out": sum(result["documents"] for result in results)})


@stage("test.careless", revision=1, inputs={}, output="documents")
def record_early(context: Context[ShardsConfig]) -> Result:
    """Record a shard as finished before it is written: a fault that the harness must detect."""
    for number in range(context.config.shards):
        done = context.work / f"done-{number}"
        if not done.exists():
            done.touch()
            write_documents(context.output / shard_name(number), [Document(str(number), "text", "toy")])
    return Result(counts={"documents_out": context.config.shards})
