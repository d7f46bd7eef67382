"""A run that is cut off between shards goes on where it was, and ends with the bytes of a run that was not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

MakeDocuments = Callable[..., Artifact]


class _Breaks(LocalEngine):
    """Stops after so many tasks; counts those it ran."""

    def __init__(self, after: int) -> None:
        super().__init__(workers=1)
        self.left = after
        self.ran = 0

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for result in super().run(function, tasks):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.ran += 1
            yield result


def shards(prose: str) -> list[list[Document]]:
    return [
        [Document(f"{part}{number}", f"{prose} Part {part}, {number}.", "s") for number in range(3)] for part in "abcd"
    ]


@pytest.mark.parametrize(
    ("stage", "config", "tasks"),
    [
        ("data.filter", {"language": {"enabled": False}}, 4),
        ("data.dedup", {}, 23),
        ("data.dedup", {"near": False, "substrings": {"enabled": True, "min_characters": 100}}, 19),
        ("data.pack", {"validation_fraction": 0.4}, 4),
    ],
)
def test_goes_on_after_the_last_finished_shard(
    session: Session, make_documents: MakeDocuments, prose: str, stage: str, config: dict[str, Any], tasks: int
) -> None:
    def inputs(session: Session) -> dict[str, Artifact]:
        documents = {"documents": make_documents(*shards(prose), into=session)}
        if stage != "data.pack":
            return documents
        return documents | {"tokenizer": run_stage(session, "data.tokenizer", {"vocab_size": 300}, documents).artifact}

    clean = run_stage(session, stage, config, inputs(session)).artifact
    store = Store(session.store.root.with_name("other"))
    given = inputs(Session(store, engine=LocalEngine(workers=1)))
    broken, mended = _Breaks(after=tasks - 1), _Breaks(after=-1)
    with pytest.raises(KeyboardInterrupt):
        run_stage(Session(store, engine=broken), stage, config, given)
    resumed = run_stage(Session(store, engine=mended), stage, config, given).artifact
    assert (broken.ran, mended.ran) == (tasks - 1, 1)
    assert resumed.manifest.files == clean.manifest.files
