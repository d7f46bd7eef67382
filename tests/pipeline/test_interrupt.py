"""Effects of a signal on the program and on a chat answer, and the hint about resuming."""

from __future__ import annotations

import os
import signal
import time

import pytest

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import InterruptedRunError
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, registry, stage


class Nothing(StageConfig):
    """No configuration."""


@stage("toy.stopped", revision=1, inputs={}, output="report")
def stopped(context: Context[Nothing]) -> Result:
    """Be interrupted."""
    os.kill(os.getpid(), signal.SIGINT)
    return Result()


@stage("toy.stopped-whole", revision=1, inputs={}, output="report", resumes=False)
def stopped_whole(context: Context[Nothing]) -> Result:
    """Be interrupted, without any progress."""
    os.kill(os.getpid(), signal.SIGINT)
    return Result()


def kill(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_without_a_stage_has_no_hint() -> None:
    stop = StopSignal()
    with stop.installed(), pytest.raises(InterruptedRunError) as caught:
        kill(signal.SIGINT)
    assert str(caught.value) == "interrupted"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("toy.stopped", "interrupted (run the same command again to resume from here)"),
        (
            "toy.stopped-whole",
            "interrupted (run the same command again; toy.stopped-whole then starts from its beginning)",
        ),
    ],
)
def test_a_stage_declares_whether_a_rerun_resumes(session: Session, name: str, says: str) -> None:
    session.stop = StopSignal()
    with session.stop.installed(), pytest.raises(InterruptedRunError) as caught:
        run_stage(session, name, {})
    assert str(caught.value) == says


def test_stages_without_progress_are_known() -> None:
    registered = {name: registry.get(name).resumes for name in registry.names() if not name.startswith("toy.")}
    assert {name for name, resumes in registered.items() if not resumes} == {"grow", "import", "quantize", "data.mix"}


def test_a_deferred_ctrl_c_is_seen_once_and_the_second_raises() -> None:
    stop = StopSignal()
    with stop.installed():
        with stop.noted():
            kill(signal.SIGINT)
            assert (stop.requested, stop.received) == (True, signal.SIGINT)
            with pytest.raises(InterruptedRunError):
                kill(signal.SIGINT)
        assert not stop.requested
        with stop.noted():
            assert not stop.requested
        with pytest.raises(InterruptedRunError):
            kill(signal.SIGINT)


def test_sigterm_always_raises() -> None:
    stop = StopSignal()
    with stop.installed():
        with pytest.raises(InterruptedRunError), stop.noted():
            kill(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(InterruptedRunError):
            stop.check()


class Deaf:
    """Exceptions raised in `__del__` are lost."""

    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def test_a_signal_lost_in_a_finalizer_is_raised_again(capfd: pytest.CaptureFixture[str]) -> None:
    stop = StopSignal()
    with stop.installed(), pytest.raises(InterruptedRunError):
        Deaf()
        time.sleep(5)
    assert capfd.readouterr().err == ""
