"""The local engine: results, errors across processes, killed workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.engine.workers import WorkerContext
from longcat.pipeline.errors import InputError, LongcatError


def square(value: int) -> int:
    return value * value


def fail(value: int) -> int:
    raise InputError(f"bad {value}", where="here", hint="do that")


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_runs_once(workers: int) -> None:
    assert dict(LocalEngine(workers).run(square, range(20))) == {i: i * i for i in range(20)}
    assert list(LocalEngine(workers).run(square, [])) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_task_is_passed_on_completely(workers: int) -> None:
    with pytest.raises(InputError) as caught:
        list(LocalEngine(workers).run(fail, [1, 2]))
    assert (caught.value.where, caught.value.hint) == ("here", "do that")


def die_once(mark: str) -> str:
    with suppress(FileExistsError):
        Path(mark).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return mark


def test_a_worker_killed_once_loses_no_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "0").touch()
    marks = [str(tmp_path / str(min(number, 1))) for number in range(8)]
    assert dict(LocalEngine(2).run(die_once, marks)) == dict(enumerate(marks))
    assert caplog.messages == ["a worker process died (killed, or out of memory); its shards are retried once"]


def test_no_more_workers_than_the_cores_can_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("longcat.pipeline.engine.local.available_cores", lambda: 2)
    engine = LocalEngine(300)
    assert engine.workers == 8
    assert dict(engine.run(square, [3])) == dict(engine.run(square, [3])) == {0: 9}
    assert caplog.messages == ["300 workers are too many for 2 cores: 8"]
    assert LocalEngine(8).workers == 8


class Lost:
    """An object that cannot be unpickled in a worker, like semaphores of a closed pool."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("/no/such/semaphore",)


class Broken:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


@pytest.mark.parametrize(("argument", "told"), [(Lost, ""), (Broken, "ValueError: invalid literal")])
def test_a_worker_reports_only_real_errors_at_start(
    capfd: pytest.CaptureFixture[str], argument: type, told: str
) -> None:
    process = WorkerContext().Process(target=square, args=(argument(),))
    process.start()
    process.join()
    assert process.exitcode == 1
    err = capfd.readouterr().err
    assert err.endswith(told) if not told else told in err


def test_a_starting_worker_exits_with_its_parent(tmp_path: Path) -> None:
    """The parent is killed as soon as the worker exists."""
    script = (
        "import os, signal, time\n"
        "from longcat.pipeline.engine.workers import WorkerContext\n"
        "def run():\n"
        "    process = WorkerContext().Process(target=time.sleep, args=(60,))\n"
        "    process.start()\n"
        "    print(process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__':\n"
        "    run()\n"
    )
    (tmp_path / "parent.py").write_text(script)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "parent.py")], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(int(done.stdout))
        with suppress(psutil.TimeoutExpired):
            worker.wait(5)
        assert worker.status() == psutil.STATUS_ZOMBIE


def test_a_killed_worker_is_one_clear_error() -> None:
    with pytest.raises(LongcatError, match="worker process died"):
        list(LocalEngine(2).run(die, [1, 2]))
