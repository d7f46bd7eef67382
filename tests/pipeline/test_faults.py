"""System errors: distinguished from damage, retried once, and reported in one line."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longcat.pipeline import faults
from longcat.pipeline.errors import InputError, MachineError
from longcat.pipeline.faults import SteadyFile, is_fault, open_input, twice, writing_failed
from longcat.pipeline.files import atomic_path, sha256_file

# Reading its first page fails with EIO, also for root.
BROKEN = Path("/proc/self/mem")


class Failing(io.FileIO):
    """A file whose reads fail with the given error numbers in order, then succeed."""

    numbers: list[int]

    def readinto(self, buffer: Any) -> int:
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number))
        return super().readinto(buffer) or 0


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let the next reads of input files fail with the given error numbers; return the remaining ones."""
    monkeypatch.setattr(faults, "RETRY_SECONDS", 0.0)

    def arm(*numbers: int) -> list[int]:
        left = list(numbers)
        monkeypatch.setattr(Failing, "numbers", left, raising=False)
        monkeypatch.setattr(Path, "open", lambda self, mode="r", **rest: Failing(self))
        return left

    return arm


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE])
def test_a_read_that_fails_once_loses_nothing(tmp_path: Path, failing: Callable[..., list[int]], number: int) -> None:
    (tmp_path / "a").write_bytes(bytes(range(256)) * 4000)
    with open_input(tmp_path / "a") as stream:
        first = stream.read(1000)
        stream.raw.close()
    left = failing(number)
    with open_input(tmp_path / "a") as stream:
        stream.seek(0)
        assert stream.read(1000) == first
        left.append(number)
        assert first + stream.read() == bytes(range(256)) * 4000
    assert not left


def test_a_read_that_fails_twice_is_one_line_with_file_and_remedy(
    tmp_path: Path, failing: Callable[..., list[int]]
) -> None:
    (tmp_path / "a").write_bytes(b"content")
    failing(errno.EIO, errno.EIO)
    with pytest.raises(MachineError) as caught:
        sha256_file(tmp_path / "a")
    remedy = "check the disk (see `dmesg`) and run again; finished shards are kept"
    assert str(caught.value) == f"{tmp_path}/a: Input/output error ({remedy})"
    assert caught.value.exit_code == 1


@pytest.mark.skipif(not BROKEN.exists(), reason="no file with failing reads is known on this system")
def test_a_real_read_error() -> None:
    with pytest.raises(MachineError, match="/proc/self/mem: Input/output error"), open_input(BROKEN) as stream:
        stream.read(10)


def test_a_file_replaced_between_two_tries_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"the old content")
    with SteadyFile(path) as stream:
        assert stream.read(4) == b"the "
        (tmp_path / "b").write_bytes(b"another content")
        (tmp_path / "b").replace(path)
        assert stream.read(3) == b"old"
        stream._drop()
        with pytest.raises(InputError, match="the file changed while it was read"):
            stream.read(4)


@pytest.mark.parametrize("offset", [15, 16, 1 << 62])
def test_reading_beyond_the_end_gives_the_end(tmp_path: Path, offset: int) -> None:
    (tmp_path / "a").write_bytes(b"the old content")
    with open_input(tmp_path / "a") as stream:
        stream.seek(offset)
        assert stream.read(4) == b""
        stream.seek(-7, io.SEEK_END)
        assert stream.read() == b"content"


def test_a_missing_file_is_not_retried(tmp_path: Path) -> None:
    calls = []

    def missing() -> None:
        calls.append(1)
        (tmp_path / "none").open("rb")

    with pytest.raises(FileNotFoundError):
        twice(missing)
    with pytest.raises(FileNotFoundError):
        open_input(tmp_path / "none")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (MemoryError("malloc of size 64 failed"), True),
        (OSError("Couldn't deserialize thrift: No more data to read."), False),
        (ValueError("No space left on device"), False),  # may be the content of a record
    ],
)
def test_system_errors_are_distinguished_from_damage(error: Exception, machine: bool) -> None:
    assert is_fault(error) is machine


FULL = "the disk is full (free some space and run again; finished shards are kept)"


def numpy_save(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(1 << 20))


def numpy_tofile(path: Path) -> None:
    with path.open("wb") as stream:
        np.zeros(1 << 20).tofile(stream)


def pyarrow_write(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": np.random.default_rng(0).random(1 << 20)}), path)


def zstd_write(path: Path) -> None:
    import zstandard

    with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as stream:
        stream.write(os.urandom(8 << 20))


def safetensors_save(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1 << 21)}, path)


def torch_save(path: Path) -> None:
    import torch

    torch.save(torch.zeros(1 << 21), path)


def tokenizer_save(path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({f"word {number}": number for number in range(1 << 18)}, "")).save(str(path))


WRITERS = [numpy_save, numpy_tofile, pyarrow_write, zstd_write, safetensors_save, torch_save, tokenizer_save]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_reported_for_every_library(small_disk: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(MachineError) as caught, atomic_path(small_disk / "a.bin") as aside:
        write(aside)
    assert str(caught.value) == f"{small_disk}/a.bin: {FULL}"
    assert not list(small_disk.iterdir())


def test_an_error_of_another_file_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="other") as caught, atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "Input/output error", "/other")
    assert caught.value.filename == "/other"
    assert writing_failed(caught.value)
