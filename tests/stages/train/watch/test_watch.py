"""Monitoring of a run besides its metrics: speed, event files, trackers, profiles."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from longcat.model.accounting import AttentionFlops, count
from longcat.model.config import ModelConfig
from longcat.model.presets import load_preset
from longcat.pipeline.config import build_config
from longcat.pipeline.errors import ConfigError
from longcat.stages.train.watch import watch as module
from longcat.stages.train.watch.config import WatchOptions
from longcat.stages.train.watch.figures import scalars
from longcat.stages.train.watch.throughput import Throughput, known_peak, measured_peak
from longcat.stages.train.watch.trackers import Tracker
from longcat.stages.train.watch.watch import Watch, Watched, steps_told

LOGGER = logging.getLogger("test-watch")
Open = Callable[..., Watch]


def record(step: int, **more: Any) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": 128 * step,
        "loss": 5.0 / step,
        "learning_rate": 1e-3,
        "active_experts": [1.5],
        **more,
    }


@pytest.fixture
def config() -> ModelConfig:
    return load_preset("smoke")


@pytest.fixture
def open_watch(config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Start to monitor a run of the smallest model; the log is `run.jsonl`."""
    monkeypatch.setattr(module, "peak_flops", lambda device, dtype: 1e9)

    def open_it(**options: Any) -> Watch:
        watched = Watched(
            model=config,
            device=torch.device("cpu"),
            dtype=torch.float32,
            sequence_length=32,
            tokens_per_step=128,
            target_active_experts=4 / 3,
        )
        return Watch(WatchOptions(**options), watched, tmp_path / "run.jsonl", LOGGER)

    return open_it


def log_lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]


def curve_points(tmp_path: Path, tag: str) -> list[tuple[int, float]]:
    """Points of a curve in TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_the_run_log_and_the_progress_bar_have_the_figures(
    open_watch: Open, config: ModelConfig, tmp_path: Path
) -> None:
    with open_watch(tensorboard=False) as watch:
        shown = watch.step(record(1), 0.5)
    opening, step = log_lines(tmp_path)
    assert (opening["event"], opening["experts"], opening["zero_experts"]) == ("watch", 4, 2)
    assert (opening["peak_flops"], opening["device"]) == (1e9, "cpu")
    assert (step["step"], step["seconds"], step["tokens_per_second"]) == (1, 0.5, 256)
    expert = 3 * config.hidden_size * config.expert_ffn_hidden_size
    flops = count(config, 32).flops_per_token_train + 6 * expert * (1.5 - 4 / 3)
    assert step["mfu"] == pytest.approx(256 * flops / 1e9)
    assert step["memory_bytes"] > 50e6
    assert shown["loss"] == "5.0000"
    assert shown["tokens/s"] == "256"
    assert shown["MFU"].endswith("%")
    assert set(shown) == {"loss", "lr", "tokens/s", "MFU", "memory"}


def test_the_progress_bar_keeps_the_last_validation_loss(open_watch: Open) -> None:
    with open_watch(tensorboard=False) as watch:
        first = watch.step(record(1, validation_loss=4.25, epoch=0.125), 0.5)
        second = watch.step(record(2, learning_rate=2.5e-4, epoch=1.5), 0.5)
    assert (first["validation"], first["epoch"], first["lr"]) == ("4.2500", "0.12", "0.001")
    assert (second["validation"], second["epoch"], second["lr"]) == ("4.2500", "1.50", "0.00025")


def test_mfu_counts_attention_within_documents(config: ModelConfig) -> None:
    """Documents of 1, 3 and 28 tokens: 1 + 6 + 406 pairs of tokens, where one of 32 has 528."""
    config = config.model_copy(update={"num_nextn_predict_layers": 1})
    width = config.num_attention_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    attention = AttentionFlops(config)
    assert attention.of([1, 3, 28], mtp=False) == 2 * 413 * width * 2 * config.num_layers
    assert attention.of([32], mtp=True) - attention.of([32], mtp=False) == 2 * 528 * width
    throughput = Throughput(config, sequence_length=32, peak=1e9, devices=1, device=torch.device("cpu"))
    for mtp in (False, True):
        whole = throughput.timing(1.0, 32, [1.0], mtp=mtp).mfu
        same = throughput.timing(1.0, 32, [1.0], mtp=mtp, attention=attention.of([32], mtp=mtp) / 32).mfu
        parts = throughput.timing(1.0, 32, [1.0], mtp=mtp, attention=attention.of([1, 3, 28], mtp=mtp) / 32).mfu
        assert whole is not None
        assert parts is not None
        assert same == pytest.approx(whole)
        mixers = 2 * config.num_layers + mtp
        assert whole - parts == pytest.approx(3 * 2 * (528 - 413) * width * mixers / 1e9)


def test_mfu_counts_operations_of_all_devices(config: ModelConfig) -> None:
    config = config.model_copy(update={"num_nextn_predict_layers": 1})

    def mfu(devices: int = 1, active: float = 1.0, *, mtp: bool = False) -> float:
        throughput = Throughput(config, sequence_length=32, peak=1e9, devices=devices, device=torch.device("cpu"))
        found = throughput.timing(1.0, 64, [active], mtp=mtp).mfu
        assert found is not None
        return found

    assert mfu(devices=2) == mfu() / 2
    assert mfu(active=2.0) - mfu() == pytest.approx(64 * 6 * 3 * 64 * 32 / 1e9)
    assert mfu(mtp=True) - mfu() == pytest.approx(64 * count(config, 32).mtp_flops_per_token_train / 1e9)
    unknown = Throughput(config, sequence_length=32, peak=None, devices=1, device=torch.device("cpu"))
    assert unknown.timing(1.0, 64, [1.0], mtp=False).mfu is None


@pytest.mark.parametrize(
    ("name", "bfloat16"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10", 125e12),
        ("Tesla T4", None),
        ("NVIDIA RTX A1000", None),
    ],
)
def test_peaks_are_found_by_device_name(name: str, bfloat16: float | None) -> None:
    assert known_peak(name, torch.bfloat16) == bfloat16


def test_measuring_the_peak_does_not_change_the_process() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    assert measured_peak(torch.device("cpu"), torch.float32) > 1e8
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_event_files_show_every_step_once_after_a_resume(open_watch: Open, tmp_path: Path) -> None:
    with open_watch() as watch:
        watch.resume(0)
        for step in range(1, 8):
            watch.step(record(step, loss=float(step)), 0.1)
    with open_watch() as watch:  # killed after step 7, the last checkpoint was of step 4
        watch.resume(4)
        for step in range(5, 10):
            watch.step(record(step, loss=100.0 + step), 0.1)
    expected = [(step, float(step)) for step in range(1, 5)] + [(step, 100.0 + step) for step in range(5, 10)]
    assert curve_points(tmp_path, "loss/train") == expected
    assert [step for step, _ in curve_points(tmp_path, "experts/active/layer_00")] == list(range(1, 10))


def test_a_record_becomes_one_curve_per_number() -> None:
    stability = {"router_cosine": [0.1, None], "gradient_rms": {"experts": 1e-5}}
    found = scalars(record(2, expert_load=[[6, 2]], stability=stability, skipped=True, validation_loss=3.0))
    assert found == {
        "loss/train": 2.5,
        "loss/validation": 3.0,
        "progress/tokens": 256.0,
        "optimizer/learning_rate": 1e-3,
        "experts/active/layer_00": 1.5,
        "experts/busiest_over_mean/layer_00": 1.5,
        "optimizer/skipped": 1.0,
        "stability/router_cosine/layer_00": 0.1,
        "stability/gradient_rms/experts": 1e-5,
    }


class FakeService:
    """Replaces the modules wandb and trackio; fails on request."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, float]] = []
        self.started: list[dict[str, Any]] = []
        self.fail_init = self.fail_log = False
        self.finished = 0

    def Settings(self, **options: Any) -> dict[str, Any]:  # noqa: N802 - the library's name
        return options

    def init(self, **options: Any) -> Any:
        if self.fail_init:
            raise ConnectionError("no route to host")
        self.started.append(options)
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, values: dict[str, float], step: int) -> None:
        if self.fail_log:
            raise TimeoutError
        self.logged.append((step, values["loss/train"]))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FakeService]]:
    fake = FakeService()
    monkeypatch.setitem(sys.modules, request.param, fake)  # type: ignore[arg-type]
    yield request.param, fake


def test_trackers_get_every_step_once(open_watch: Open, service: tuple[str, FakeService]) -> None:
    name, fake = service
    for start in (0, 2):
        with open_watch(tensorboard=False, trackers=[name], project="p") as watch:
            watch.resume(start)
            for step in range(start + 1, start + 4):
                watch.step(record(step, loss=float(step)), 0.1)
    assert fake.logged == [(step, float(step)) for step in range(1, 6)]
    assert fake.finished == 2
    assert [item["name"] for item in fake.started] == ["run", "run"]
    assert fake.started[0]["project"] == "p"
    assert fake.started[0]["resume"] == "allow"


def test_a_failing_tracker_causes_one_warning(
    open_watch: Open, service: tuple[str, FakeService], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    name, fake = service
    with open_watch(tensorboard=False, trackers=[name]) as watch:
        watch.step(record(1), 0.1)
        fake.fail_log = True
        for step in range(2, 6):
            watch.step(record(step), 0.1)
    fake.fail_init = True
    with open_watch(tensorboard=False, trackers=[name]) as watch:
        watch.step(record(6), 0.1)
    assert [line["step"] for line in log_lines(tmp_path) if line["event"] == "step"] == list(range(1, 7))
    assert fake.logged == [(1, 5.0)]
    messages = [entry.getMessage() for entry in caplog.records]
    assert messages == [
        f"{name} no longer receives this run: TimeoutError",
        f"{name} no longer receives this run: no route to host",
    ]


def test_a_tracker_that_is_not_installed_is_one_error(
    open_watch: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'longcat-cli\[wandb\]'"):
        open_watch(trackers=["wandb"])
    assert not (tmp_path / "run.jsonl").exists()


def test_only_steps_received_by_a_tracker_count_as_sent(tmp_path: Path) -> None:
    def line(**values: Any) -> str:
        return json.dumps(values)

    lines = [line(event="step", step=9), line(event="watch", trackers=["wandb"]), line(event="step", step=3)]
    lines += [line(event="watch", trackers=[]), line(event="step", step=7), '{"event": "st']
    (tmp_path / "run.jsonl").write_text("\n".join(lines))
    assert steps_told(tmp_path / "run.jsonl", "wandb") == 3
    assert steps_told(tmp_path / "run.jsonl", "trackio") == -1
    assert steps_told(tmp_path / "none.jsonl", "wandb") == -1


def test_a_closed_tracker_is_finished_once() -> None:
    fake = FakeService()
    tracker = Tracker("wandb", -1, LOGGER)
    tracker.open(fake.init)
    tracker.close()
    tracker.close()
    assert fake.finished == 1


@pytest.mark.parametrize("steps", [4, 2, 1])
def test_the_profiler_records_its_window(open_watch: Open, tmp_path: Path, steps: int) -> None:
    with open_watch(tensorboard=False, profile_steps=(2, 2)) as watch:
        watch.resume(0)
        for step in range(1, steps + 1):
            torch.ones(8, 8) @ torch.ones(8, 8)
            watch.step(record(step), 0.1)
    (path,) = (tmp_path / "run" / "profile").iterdir()
    assert path.name == "trace-2-3.json"
    trace = json.loads(path.read_text())
    products = sum(event.get("name") == "aten::mm" for event in trace["traceEvents"])
    assert products == min(2, steps - 1)


def test_a_past_window_is_not_recorded(open_watch: Open, tmp_path: Path) -> None:
    with open_watch(tensorboard=False, profile_steps=(2, 2)) as watch:
        watch.resume(2)
        watch.step(record(3), 0.1)
    assert not (tmp_path / "run" / "profile").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trackers": ["mlflow"]}, "trackers"),
        ({"trackers": ["wandb", "wandb"]}, "names a service twice"),
        ({"memory_snapshot": True}, "profile_steps, which is not set"),
        ({"profile_steps": [0, 3]}, "profile_steps"),
    ],
)
def test_options_without_effect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(WatchOptions, options, "watch")
