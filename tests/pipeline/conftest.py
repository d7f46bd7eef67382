"""Toy stages for tests of the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.documents import Document, document_shards, read_documents, shard_name, write_documents
from longcat.pipeline.sources import fingerprint_paths
from longcat.pipeline.stage import Context, Result, registry, stage


class Bounds(StageConfig):
    low: int = Field(0, description="lowest number", ge=0)
    high: int = Field(10, description="highest number")


class WriteConfig(StageConfig):
    count: int = Field(3, description="documents per shard", ge=0)
    shards: int = Field(2, description="shards", ge=1)
    fail_at: int | None = Field(None, description="shard that fails once")
    bounds: Bounds = Field(Bounds(), description="a nested model")
    paths: list[str] = Field(default_factory=list, description="outside files")
    seed: int = Field(0, description="seed")


def write_shard(task: dict[str, str | int]) -> dict[str, int]:
    path = Path(str(task["path"]))
    if task["fail"] and not (flag := path.parent.parent / "work" / "failed").exists():
        flag.touch()
        raise RuntimeError("shard failed")
    index, count = int(task["index"]), int(task["count"])
    with (path.parent.parent / "work" / "calls").open("a") as calls:
        calls.write(f"{index}\n")
    written = write_documents(path, (Document(f"{index}-{i}", f"text {i}", "toy") for i in range(count)))
    return {"documents": written}


@stage("toy.write", revision=1, inputs={}, output="documents", sources=lambda config: fingerprint_paths(config.paths))
def write(context: Context[WriteConfig]) -> Result:
    """Write toy documents."""
    config = context.config
    tasks = [
        {"path": str(context.output / shard_name(i)), "index": i, "count": config.count, "fail": i == config.fail_at}
        for i in range(config.shards)
    ]
    results = context.map_shards(write_shard, tasks, description="writing")
    return Result(counts={"documents_out": sum(r["documents"] for r in results)}, performance={"seconds": 1.0})


class UpperConfig(StageConfig):
    suffix: str = Field("", description="text appended")


@stage("toy.upper", revision=1, inputs={"documents": "documents"}, output="documents")
def upper(context: Context[UpperConfig]) -> Result:
    """Shout."""
    documents = context.input("documents")
    total = 0
    for index, path in enumerate(document_shards(documents)):
        shouted = (
            Document(d.id, d.text.upper() + context.config.suffix, d.source, d.url, d.language, d.metadata)
            for d in read_documents(path)
        )
        total += write_documents(context.output / shard_name(index), shouted)
    return Result(counts={"documents_out": total})


@stage("toy.join", revision=1, inputs={"parts": "documents+", "extra": "tokenizer?"}, output="report")
def join(context: Context[UpperConfig]) -> Result:
    """Join several inputs."""
    (context.output / "ids.txt").write_text("\n".join(part.id for part in context.many("parts")))
    return Result(counts={"parts": len(context.many("parts"))})


@pytest.fixture(scope="session")
def toy_registry() -> object:
    return registry
