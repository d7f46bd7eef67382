"""Layouts that fit the devices and the model, the fastest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, inf

from longcat.pipeline.errors import ConfigError
from longcat.stages.plan.config import Checkpointing, LayoutOptions
from longcat.stages.plan.devices import CPU, Device
from longcat.stages.plan.layout import Layout
from longcat.stages.plan.memory import RankMemory, memory_of
from longcat.stages.plan.timing import StepTime, time_of
from longcat.stages.plan.work import Work
from longcat.stages.train.parallel.config import Degrees, ParallelOptions, check_fits, degrees

MOST_CONTEXT = 64


@dataclass(frozen=True)
class Candidate:
    """A layout that fits, its memory by pipeline rank and its time."""

    layout: Layout
    memory: list[RankMemory]
    time: StepTime

    @property
    def largest(self) -> RankMemory:
        """Memory of the process that needs most."""
        return max(self.memory, key=lambda rank: rank.total)


@dataclass
class Search:
    """Layouts of a number of devices; what was refused is kept to say why nothing is left."""

    work: Work
    device: Device
    devices: int
    batch_size: int
    refused: ConfigError | None = None
    least: int | None = None

    @property
    def room(self) -> int:
        """Bytes of a device that a process may use."""
        return int(self.device.memory * (1 - self.work.options.reserve))

    def best(self) -> list[Candidate]:
        """Layouts that fit, the fastest first; of equal times the one that needs least memory.

        Raises:
            ConfigError: none fits; the message says by how many bytes, or what the model or the batch excludes.
        """
        found = [candidate for sizes in self._grids() for candidate in self._fitting(*sizes)]
        if not found:
            raise self._none()
        return sorted(found, key=lambda item: (item.time.seconds, item.largest.total))

    def _grids(self) -> Iterator[tuple[ParallelOptions, Degrees]]:
        wanted = self.work.options.layout
        for given in _degrees_of(wanted, self.devices, self.work):
            try:
                options = ParallelOptions.model_validate(given)
                sizes = degrees(options, self.devices)
                check_fits(
                    options,
                    sizes,
                    self.work.model,
                    sequence_length=self.work.sequence_length,
                    batch_size=self.batch_size,
                    micro_batch_size=wanted.micro_batch_size or 1,
                )
            except ConfigError as error:
                self.refused = self.refused or error
                continue
            yield options, sizes

    def _fitting(self, options: ParallelOptions, sizes: Degrees) -> Iterator[Candidate]:
        """For every kind of recomputation the largest micro batch that fits."""
        wanted = self.work.options.layout
        share = self.batch_size // sizes.data
        for checkpointing in _kinds(wanted):
            for micro in _micro_batches(wanted, share):
                if not _enough(options, share // micro):
                    continue
                layout = Layout(options, sizes, micro, share // micro, checkpointing)
                memory = memory_of(self.work, layout, host=self.device.name == CPU)
                most = max(rank.total for rank in memory)
                self.least = min(most, self.least or most)
                if most <= self.room:
                    yield Candidate(layout, memory, time_of(self.work, layout, self.device))
                    break

    def _none(self) -> ConfigError:
        if self.least is None:
            return self.refused or ConfigError("no layout has this number of devices", where="layout")
        over = self.least - self.room
        reserve = f"{self.work.options.reserve:.0%} of {self.device.memory:,} are reserved"
        return ConfigError(
            f"no layout of {self.devices} {self.device.name} fits: the one that needs least takes {self.least:,} bytes "
            f"a device, {over:,} more than the {self.room:,} available ({reserve})",
            hint="more devices, devices with more memory, or shorter sequences"
            + ("" if self.work.options.layout == LayoutOptions() else "; or leave values of the layout open"),
        )


def _degrees_of(wanted: LayoutOptions, devices: int, work: Work) -> Iterator[dict[str, object]]:
    """Degrees that divide `devices` and have the values that are given."""
    for pipeline in _choices(wanted.pipeline, devices, work.layers):
        for context in _choices(wanted.context, devices // pipeline, MOST_CONTEXT):
            if wanted.context is None and work.sequence_length % (2 * context) and context > 1:
                continue
            for replicate in _choices(wanted.data_replicate, devices // pipeline // context, inf):
                shard = wanted.data_shard or devices // pipeline // context // replicate
                # Given values that do not divide are kept, so that their error is told.
                for expert in _choices(wanted.expert, gcd(shard * context, work.model.n_routed_experts), inf):
                    for schedule in _schedules(wanted, pipeline, work.layers):
                        yield {
                            "pipeline": pipeline,
                            "context": context,
                            "data_replicate": replicate,
                            "data_shard": wanted.data_shard,
                            "expert": expert,
                            "pipeline_schedule": schedule,
                        }


def _choices(given: int | None, number: int, most: float) -> list[int]:
    """The given value, or the divisors of a number."""
    if given is not None:
        return [given]
    small = [one for one in range(1, int(number**0.5) + 1) if number % one == 0]
    return sorted(one for one in {*small, *(number // one for one in small)} if one <= most)


def _schedules(wanted: LayoutOptions, pipeline: int, layers: int) -> list[str]:
    if wanted.pipeline_schedule is not None:
        return [wanted.pipeline_schedule]
    return ["1f1b", "interleaved"] if 1 < pipeline <= layers // 2 else ["1f1b"]


def _kinds(wanted: LayoutOptions) -> tuple[Checkpointing, ...]:
    given = wanted.activation_checkpointing
    return (given,) if given else ("none", "selective", "block")


def _micro_batches(wanted: LayoutOptions, share: int) -> list[int]:
    """Sequences of a micro batch, most first."""
    if wanted.micro_batch_size is not None:
        return [wanted.micro_batch_size]
    return [one for one in (1 << power for power in range(share.bit_length())) if share % one == 0][::-1]


def _enough(options: ParallelOptions, micro_batches: int) -> bool:
    """Whether the schedule can run this number of micro batches."""
    if options.pipeline == 1:
        return True
    whole = micro_batches % options.pipeline == 0 or options.pipeline_schedule != "interleaved"
    return micro_batches >= options.pipeline and whole
