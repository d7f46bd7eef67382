"""The local engine: results, errors across processes, dead workers."""

from __future__ import annotations

import os
import signal

import pytest

from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import InputError, LongcatError


def square(value: int) -> int:
    return value * value


def fail(value: int) -> int:
    raise InputError(f"bad {value}", where="here", hint="do that")


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_run_once(workers: int) -> None:
    assert dict(LocalEngine(workers).run(square, range(20))) == {i: i * i for i in range(20)}
    assert list(LocalEngine(workers).run(square, [])) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tasks_error_arrives_whole(workers: int) -> None:
    with pytest.raises(InputError) as caught:
        list(LocalEngine(workers).run(fail, [1, 2]))
    assert (caught.value.where, caught.value.hint) == ("here", "do that")


def test_a_killed_worker_is_one_clear_error() -> None:
    with pytest.raises(LongcatError, match="worker process died"):
        list(LocalEngine(2).run(die, [1, 2]))
