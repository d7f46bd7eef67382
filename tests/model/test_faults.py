"""System errors are never reported as damage: the error keeps its number and names the file."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from longcat.model import weights
from longcat.model.checkpoint import load_config, load_pretrained, save_pretrained
from longcat.model.errors import CheckpointError
from longcat.model.transformer import LongcatFlash

WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(build_model: Callable[..., LongcatFlash], tmp_path: Path) -> Path:
    save_pretrained(build_model(), tmp_path / "saved")
    return tmp_path / "saved"


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open at most `count` more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("count", [0, 1])
def test_too_many_open_files_is_not_damage(saved: Path, count: int) -> None:
    with descriptors_left(count), pytest.raises(OSError, match="Too many open files") as caught:
        weights.open_shard(saved / WEIGHTS)
    assert caught.value.errno == errno.EMFILE
    assert caught.value.filename == str(saved / WEIGHTS)
    load_pretrained(saved)


# Messages of safetensors 0.8 and torch.
WORDED: list[tuple[Exception, int]] = [
    (RuntimeError("unable to mmap 268435536 bytes from file </x>: Cannot allocate memory (12)"), errno.ENOMEM),
    (RuntimeError("unable to open file </x> in read-only mode: Input/output error (5)"), errno.EIO),
    (MemoryError("Cannot allocate memory (os error 12)"), errno.ENOMEM),
    (OSError("No such device (os error 19)"), errno.ENODEV),
    (PermissionError(errno.EACCES, "Permission denied"), errno.EACCES),
    (SafetensorError("Error while deserializing header: I/O error: Input/output error (os error 5)"), errno.EIO),
]


@pytest.mark.parametrize(("error", "number"), WORDED, ids=range(len(WORDED)))
def test_errors_in_messages_of_libraries_keep_their_number(
    monkeypatch: pytest.MonkeyPatch, saved: Path, error: Exception, number: int
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(weights, "safe_open", failing)
    with pytest.raises(OSError, match=WEIGHTS) as caught:
        load_pretrained(saved)
    assert (caught.value.errno, caught.value.filename) == (number, str(saved / WEIGHTS))
    assert os.strerror(number) in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_read_that_fails_names_the_file(monkeypatch: pytest.MonkeyPatch, saved: Path, name: str) -> None:
    opened = Path.open

    def open_failing(path: Path, *given: Any, **more: Any) -> Any:
        file = opened(path, *given, **more)
        if path.name != name:
            return file
        file.close()
        return _Failing()

    monkeypatch.setattr(Path, "open", open_failing)
    with pytest.raises(OSError, match=name) as caught:
        load_pretrained(saved)
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(saved / name))


class _Failing:
    def __enter__(self) -> _Failing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, _: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_invalid_bytes_are_damage(saved: Path) -> None:
    content = (saved / WEIGHTS).read_bytes()
    for damaged in (content[:-1], content[:100], content[:4], b"", b"\x7fELF" + content):
        (saved / WEIGHTS).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
            load_pretrained(saved)
    load_config(saved)
