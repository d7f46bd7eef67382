"""System errors during a stage: nothing is dropped or published, finished shards are kept."""

from __future__ import annotations

import errno
import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longcat.pipeline import faults, sources
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards
from longcat.pipeline.errors import MachineError
from longcat.pipeline.store import Store

NAMES = ("a.jsonl", "b.jsonl.gz", "c.parquet", "d.warc.gz", "e.html")  # in the order of their shards


def content(path: Path) -> bytes:
    return b"".join(shard.read_bytes() for shard in document_shards(Artifact(path, None)))  # type: ignore[arg-type]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """One file per format with a different reader, each of several reads."""
    folder = tmp_path / "in"
    folder.mkdir()
    lines = b"".join(orjson.dumps({"text": f"line {number} {os.urandom(400).hex()}"}) + b"\n" for number in range(900))
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines, 1))
    texts = [f"row {number} {os.urandom(400).hex()}" for number in range(900)]
    pq.write_table(pa.table({"text": texts}), folder / "c.parquet", row_group_size=300)
    (folder / "e.html").write_bytes(b"<html><body><p>A page.</p>" + b"<p>More of it.</p>" * 40_000 + b"</body></html>")
    record = b"WARC/1.0\r\nWARC-Type: resource\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n"
    record = gzip.compress(record + os.urandom(50_000).hex().encode() + b"\r\n\r\n", 1)
    (folder / "d.warc.gz").write_bytes(record * 12)
    return folder


class Disk:
    """Makes reads of one file fail: read number `at`, `times` times in a row."""

    def __init__(self) -> None:
        self.name, self.at, self.times, self.number = "", 0, 0, errno.EIO
        self.reads = 0

    def arm(self, name: str, at: int, times: int, number: int = errno.EIO) -> None:
        self.name, self.at, self.times, self.number, self.reads = name, at, times, number, 0

    def check(self, name: str) -> None:
        if name != self.name:
            return
        self.reads += 1
        if self.at <= self.reads < self.at + self.times:
            raise OSError(self.number, os.strerror(self.number))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made, plain = Disk(), Path.open

    class Raw(io.FileIO):
        def readinto(self, buffer: Any) -> int:
            made.check(Path(str(self.name)).name)
            return super().readinto(buffer) or 0

    def opened(self: Path, mode: str = "r", buffering: int = -1, **rest: Any) -> Any:
        return Raw(self) if (mode, buffering) == ("rb", 0) else plain(self, mode, buffering, **rest)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(faults, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(sources, "SETTLED_NS", 1 << 62)  # no digest is cached, also on a slow machine
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_one_failed_read_of_an_input_changes_no_byte(
    inputs: Path, disk: Disk, store: Store, run_stage: Callable[..., Artifact], name: str, number: int
) -> None:
    whole = run_stage("data.extract", {"input": [str(inputs)]})
    expected = content(whole.path)
    store.remove(whole)
    disk.arm(name, at=4, times=1, number=number)  # the first reads are those of the digest
    again = run_stage("data.extract", {"input": [str(inputs)]})
    assert disk.reads > 4
    assert again.id == whole.id
    assert content(again.path) == expected
    assert again.manifest.counts["dropped"] == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_read_that_fails_twice_publishes_nothing_and_the_next_run_resumes(
    inputs: Path,
    disk: Disk,
    store: Store,
    run_stage: Callable[..., Artifact],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "SETTLED_NS", 0)  # a digest is computed once, so the last read is that of the shard
    disk.arm(name, at=1 << 30, times=0)
    whole = run_stage("data.extract", {"input": [str(inputs)]})
    expected = content(whole.path)
    store.remove(whole)
    sources._known.clear()
    disk.arm(name, at=disk.reads, times=1000)
    with pytest.raises(MachineError) as caught:
        run_stage("data.extract", {"input": [str(inputs)]})
    assert caught.value.where == str(inputs / name)
    assert caught.value.what == "Input/output error"
    assert store.get("documents", whole.id) is None
    finished = len(list(store.staging(whole.id).output.glob("shard-*")))
    assert finished == NAMES.index(name)
    disk.arm("", 0, 0)
    assert content(run_stage("data.extract", {"input": [str(inputs)]}).path) == expected
