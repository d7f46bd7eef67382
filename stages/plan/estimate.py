"""The whole plan of a model on a number of devices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from longcat.model.config import ModelConfig
from longcat.pipeline.errors import ConfigError
from longcat.stages.plan.arithmetic import HOUR
from longcat.stages.plan.config import MOST_TOKENS, TOKENS_PER_DEVICE, PlanOptions
from longcat.stages.plan.devices import Device
from longcat.stages.plan.find_device import find_device
from longcat.stages.plan.search import Candidate, Search
from longcat.stages.plan.serving import Serving, serving_of
from longcat.stages.plan.work import Work
from longcat.stages.train.check import check_length

LONGEST = 8192  # tokens per sequence where none are given: the report's pretraining
STATE_SHARE = 4  # of the devices' memory one part is for the training state, where their number is not given
MOST_SHOWN = 5


@dataclass(frozen=True)
class Plan:
    """A planned run: `candidates` are the fastest layouts, one for each set of degrees."""

    work: Work
    device: Device
    devices: int
    batch_size: int
    candidates: list[Candidate]
    serving: Serving

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def batch_tokens(self) -> int:
        return self.batch_size * self.work.sequence_length

    @property
    def steps(self) -> int:
        return -(-self.work.options.tokens // self.batch_tokens)

    @property
    def seconds(self) -> float:
        """Of the run, without evaluations, checkpoints and failures."""
        return self.steps * self.best.time.seconds

    @property
    def tokens_per_second(self) -> float:
        return self.batch_tokens / self.best.time.seconds

    @property
    def flops(self) -> float:
        """Of the run, without recomputation."""
        return self.steps * self.batch_tokens * self.work.step_flops_per_token

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: useful FLOPs per second, of the peak of all devices."""
        peak = self.devices * self.device.peak(self.work.options.dtype)
        return self.tokens_per_second * self.work.step_flops_per_token / peak

    @property
    def device_hours(self) -> float:
        return self.devices * self.seconds / HOUR

    def to_json(self) -> dict[str, Any]:
        """All figures; bytes, seconds, FLOPs and dollars."""
        memory = self.work.sizes.memory
        time = self.best.time
        return {
            "parameters": self.work.sizes.total,
            "activated_parameters": self.work.sizes.activated_mean,
            "device": self.device.model_dump(),
            "devices": self.devices,
            "assumptions": self.work.options.model_dump(mode="json"),
            "sequence_length": self.work.sequence_length,
            "batch_size": self.batch_size,
            "layout": self.best.layout.to_json(),
            "memory": [{**asdict(rank), "total": rank.total} for rank in self.best.memory],
            "step": {
                **{key: value for key, value in vars(time).items() if key != "traffic"},
                "seconds": time.seconds,
                "exposed_share": time.exposed_share,
                "exposed_share_without_shortcut": time.exposed_share_without_shortcut,
            },
            "traffic": {key: asdict(moved) for key, moved in time.traffic.items()},
            "run": {
                "steps": self.steps,
                "flops": self.flops,
                "seconds": self.seconds,
                "tokens_per_second": self.tokens_per_second,
                "mfu": self.mfu,
                "device_hours": self.device_hours,
                "kilowatt_hours": self.device_hours * self.device.watts / 1000,
                "dollars": self.device_hours * self.device.dollars_per_hour,
            },
            "checkpoint": {"weights": memory.weights_bf16, "training_state": memory.weights_fp32 + memory.optimizer},
            "serving": asdict(self.serving),
            "others": [
                {**other.layout.to_json(), "seconds": other.time.seconds, "memory": other.largest.total}
                for other in self.candidates[1:]
            ],
        }


def make_plan(model: ModelConfig, options: PlanOptions) -> Plan:
    """Plan a run.

    Raises:
        ConfigError: the device is unknown, the sequence is longer than the model's context, the batch has no whole
            sequences, or no layout fits.
    """
    device = find_device(options.device, options.device_values)
    length = options.sequence_length or min(LONGEST, model.max_position_embeddings)
    check_length(length, model)
    work = Work.of(model, options, length)
    devices = options.devices or _enough_devices(work, device)
    batch_size = _batch_size(options, length, devices)
    found = Search(work, device, devices, batch_size).best()
    by_degrees = {candidate.layout.sizes: candidate for candidate in reversed(found)}
    chosen = sorted(by_degrees.values(), key=lambda item: item.time.seconds)[:MOST_SHOWN]
    return Plan(work, device, devices, batch_size, chosen, serving_of(work, device))


def _enough_devices(work: Work, device: Device) -> int:
    needed = STATE_SHARE * work.sizes.memory.training_fp32 / device.memory
    return 1 << max(0, int(needed).bit_length()) if needed > 1 else 1


def _batch_size(options: PlanOptions, length: int, devices: int) -> int:
    if options.batch_tokens is None:
        return max(1, min(MOST_TOKENS, devices * TOKENS_PER_DEVICE) // length)
    if options.batch_tokens % length:
        raise ConfigError(
            f"batch_tokens = {options.batch_tokens:,} is not a multiple of sequence_length = {length:,}",
            hint=f"choose a multiple, e.g. {-(-options.batch_tokens // length) * length}",
        )
    return options.batch_tokens // length
