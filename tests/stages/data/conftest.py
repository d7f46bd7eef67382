"""Documents artifacts made in tests, and prose that passes every rule of the filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pytest
from pydantic import Field

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import StageConfig
from longcat.pipeline.documents import Document, shard_name, write_documents
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, stage

MakeDocuments = Callable[..., Artifact]

PROSE = """The river rises in the hills to the north of the town and runs for thirty miles before it meets the sea.
In spring the melting snow swells it so far that the lower meadows have to be left to the water for a month.
Farmers along its banks built low walls of stone, and many of those walls still stand after two centuries.
A ferry carried people and cattle across until the first bridge was opened by the mayor in a heavy storm.
Children used to wait there for the boats that brought coal, salt and letters from the harbour.
Nobody living remembers the ferry, but its landing place can be found below the old mill.
Walkers who follow the path upstream come to a pool where herons fish in the early morning light."""


class _Shards(StageConfig):
    shards: tuple[tuple[dict[str, Any], ...], ...] = Field(default=(), description="Documents of each shard.")


@stage("test.documents", revision=1, inputs={}, output="documents")
def _write(context: Context[_Shards]) -> Result:
    """Write the documents that the configuration holds."""
    for number, shard in enumerate(context.config.shards):
        write_documents(context.output / shard_name(number), [Document(**fields) for fields in shard])
    return Result({"documents_out": sum(map(len, context.config.shards))})


def _documents(shard: Sequence[Document] | Mapping[str, str]) -> Sequence[Document]:
    return [Document(name, text, "s") for name, text in shard.items()] if isinstance(shard, Mapping) else shard


@pytest.fixture
def prose() -> str:
    """English text that passes all published rules: seven lines, one sentence each."""
    return PROSE


@pytest.fixture
def make_documents(session: Session) -> MakeDocuments:
    """Make a documents artifact in the session of the test, or in `into`.

    A shard is a list of documents, or a mapping of ids to texts.
    """

    def make(*shards: Sequence[Document] | Mapping[str, str], into: Session = session) -> Artifact:
        values = [[asdict(document) for document in _documents(shard)] for shard in shards]
        return run_stage(into, "test.documents", {"shards": values}).artifact

    return make
