"""Effects of a signal on the program and on a chat answer, and the hint about resuming."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.config import StageConfig
from longcat.pipeline.errors import InterruptedRunError
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, registry, stage
from longcat.stages.formats.special_tokens import SPECIAL_TOKENS
from longcat.stages.formats.tokenizer import load_tokenizer


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
    without = {name for name, resumes in registered.items() if not resumes}
    assert without == {"import", "quantize", "data.mix", "train.publish"}


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


def test_an_interrupt_is_no_fault_of_the_text_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a library raises on a text is the text's fault, but not a signal that arrives meanwhile."""
    path = tmp_path / "tokenizer.json"
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    backend.save(str(path))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    tokenizer = load_tokenizer(tmp_path)

    class Interrupted:
        def encode_batch_fast(self, texts: list[str], **options: bool) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(tokenizer, "_backend", Interrupted())
    with StopSignal().installed(), pytest.raises(InterruptedRunError):
        tokenizer.encode("a")
    assert not issubclass(InterruptedRunError, Exception)
