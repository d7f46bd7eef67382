"""Time of a training step of a layout.

Computation takes its FLOPs at `efficiency` of the peak. Of the exchange with experts the share `hidden_share` is hidden
where the dense path computes long enough; parameters and gradients travel while anything computes that does not hide
rows already; latents and hidden states between stages are waited for. A pipeline is idle for one micro batch less than
it has processes, divided by the layer ranges of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from longcat.model.accounting import TRAINING_PASSES
from longcat.stages.plan.devices import Device
from longcat.stages.plan.layout import Layout
from longcat.stages.plan.share import Share, share_of
from longcat.stages.plan.traffic import Traffic, exchange, exchanges, step_traffic, tokens_of
from longcat.stages.plan.work import Work

# Reads of weight, gradient and moments, and writes of all but the gradient, all float32.
UPDATE_BYTES = 28


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step of the slowest process, and what they are made of.

    `exchange` is that with experts if nothing were hidden, `exchange_exposed` what is waited for; `parameters_exposed`,
    `latents` and `stages` the other waits, `idle` that of the pipeline, `update` the optimizer. `traffic` is in bytes.
    """

    compute: float
    exchange: float
    exchange_exposed: float
    parameters_exposed: float
    latents: float
    stages: float
    idle: float
    update: float
    traffic: Mapping[str, Traffic]

    @property
    def seconds(self) -> float:
        waits = self.exchange_exposed + self.parameters_exposed + self.latents + self.stages
        return self.compute + waits + self.idle + self.update

    @property
    def exposed_share(self) -> float:
        """Share of the exchange with experts that is waited for in the step."""
        return self.exchange_exposed / self.seconds

    @property
    def exposed_share_without_shortcut(self) -> float:
        """The same if the experts' output were needed at once."""
        return self.exchange / (self.seconds - self.exchange_exposed + self.exchange)


def time_of(work: Work, layout: Layout, device: Device) -> StepTime:
    """Estimate a step."""
    options, share = work.options, _slowest(work, layout)
    tokens, micro_batches = tokens_of(work, layout), layout.micro_batches
    rate = options.efficiency * device.peak(options.dtype)
    flops = share.layers * (work.layer_flops + work.computed_again(layout.checkpointing))
    flops += share.is_last * work.head_flops
    compute = micro_batches * tokens * flops / rate
    one = exchange(work, layout, device.per_node).seconds(device, options.link_efficiency)
    rows = share.layers * exchanges(layout) * one * micro_batches
    hidden = share.layers * micro_batches * _hidden(work, layout, one, tokens / rate)
    traffic = step_traffic(work, layout, share, device.per_node)
    seconds = {key: moved.seconds(device, options.link_efficiency) for key, moved in traffic.items()}
    of_parameters = seconds["parameters gathered"] + seconds["gradients reduced"]
    room = compute - hidden if layout.sizes.pipeline == 1 else 0.0
    exposed = max(0.0, of_parameters - room)
    once = exposed if layout.sizes.pipeline > 1 else 0.0
    busy = compute + rows - hidden + exposed - once + seconds["latents of rows"] + seconds["between stages"]
    idle = busy / micro_batches * (layout.sizes.pipeline - 1) / layout.stages_per_process
    return StepTime(
        compute=compute,
        exchange=rows,
        exchange_exposed=rows - hidden,
        parameters_exposed=exposed,
        latents=seconds["latents of rows"],
        stages=seconds["between stages"],
        idle=idle,
        update=UPDATE_BYTES * share.held / device.memory_bandwidth,
        traffic=traffic,
    )


def _slowest(work: Work, layout: Layout) -> Share:
    """Share of the process with most work."""
    head = work.head_flops / work.layer_flops
    shares = [share_of(work, layout, rank) for rank in range(layout.sizes.pipeline)]
    return max(shares, key=lambda share: share.layers + head * share.is_last)


def _hidden(work: Work, layout: Layout, one: float, seconds_per_flop: float) -> float:
    """Seconds of a layer's exchanges that its dense path hides, in all passes.

    The backward pass has windows twice as long; a layer that is computed again has those of its forward pass again.
    """
    if not layout.options.overlap:
        return 0.0
    share = work.options.hidden_share
    found = 0.0
    for window in work.windows:
        forward = min(share * one, window * seconds_per_flop)
        backward = min(share * one, (TRAINING_PASSES - 1) * window * seconds_per_flop)
        found += forward * (1 + (layout.checkpointing == "block")) + backward
    return found
