"""Printing of the plan of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from longcat.cli.console import duration, out, size
from longcat.cli.model_report import number
from longcat.cli.tables import table
from longcat.cli.terminal import line, styled

if TYPE_CHECKING:
    from longcat.stages.plan.estimate import Plan
    from longcat.stages.plan.search import Candidate

DAY = 86400
Row = Sequence[str]


def print_plan(name: str, plan: Plan) -> None:
    """Print all figures of a plan."""
    sizes, console = plan.work.sizes, out()
    shape = f"{number(sizes.total)} parameters, {number(sizes.activated_mean)} active, on {plan.devices:,} "
    console.print(line(styled(name, "bold"), f"  {shape}{plan.device.name}"))
    for columns, rows in (
        (("layout", ">step", ">MFU", ">memory", ">micro batch", "recomputed"), _layouts(plan)),
        (("memory a device", ">largest", "~"), _memory(plan)),
        (("a step", ">time", ">share", "~"), _times(plan)),
        (("bytes a device sends in a step", ">to other nodes", ">within its node"), _traffic(plan)),
        (("the run", ">", "~"), _run(plan)),
        (("decoding", ">", "~"), _serving(plan)),
        (("assumption", ">value", "~change with"), _assumptions(plan)),
    ):
        made = table(*columns)
        for row in rows:
            made.add_row(line("  ", row[0]), *row[1:])
        console.print()
        console.print(made)


def _degrees(candidate: Candidate) -> str:
    sizes = candidate.layout.sizes
    names = ("pipeline", "data_replicate", "data_shard", "context", "expert")
    found = [f"{name} {getattr(sizes, name)}" for name in names if getattr(sizes, name) > 1]
    if candidate.layout.stages_per_process > 1:
        found.append("interleaved")
    return ", ".join(found) or "one process"


def _layouts(plan: Plan) -> Iterable[Row]:
    """The best, and the next best with other degrees."""
    for candidate in plan.candidates:
        mfu = plan.mfu * plan.best.time.seconds / candidate.time.seconds
        layout = candidate.layout
        times = (_seconds(candidate.time.seconds), f"{mfu:.1%}", size(candidate.largest.total))
        micro = f"{layout.micro_batches} of {layout.micro_batch_size}"
        yield _degrees(candidate), *times, micro, layout.checkpointing


def _memory(plan: Plan) -> Iterable[Row]:
    largest = plan.best.largest
    says = {
        "weights": "float32, exact: what the parallel code gives this process",
        "gradients": "float32",
        "moments": "two of AdamW, float32",
        "gathered": "whole layers in the compute dtype, and their gradients",
        "activations": "kept for the backward pass",
        "exchange": "rows in flight to experts and back",
        "logits": "",
        "host": "libraries, allocator and a checkpoint in writing",
    }
    for key, text in says.items():
        if value := getattr(largest, key):
            yield key, size(value), text
    room = plan.device.memory * (1 - plan.work.options.reserve)
    yield "together", size(largest.total), f"of {size(room)} available; least loaded {size(_least(plan))}"


def _least(plan: Plan) -> int:
    return min(rank.total for rank in plan.best.memory)


def _times(plan: Plan) -> Iterable[Row]:
    step = plan.best.time
    exposed = f"{step.exposed_share_without_shortcut:.1%} of a step if nothing were hidden"
    for name, value, text in (
        ("computation", step.compute, "with what is computed again"),
        ("waits for experts' rows", step.exchange_exposed, exposed),
        ("waits for parameters, gradients", step.parameters_exposed, "beyond what computation hides"),
        ("waits for latents of rows", step.latents, ""),
        ("waits between stages", step.stages, ""),
        ("idle pipeline", step.idle, ""),
        ("optimizer", step.update, ""),
    ):
        if value:
            yield name, _seconds(value), f"{value / step.seconds:.1%}", text
    tokens = f"{plan.batch_size:,} sequences of {plan.work.sequence_length:,} tokens"
    yield "together", _seconds(step.seconds), "", tokens


def _traffic(plan: Plan) -> Iterable[Row]:
    for name, moved in plan.best.time.traffic.items():
        if moved.network or moved.node:
            yield name, size(moved.network), size(moved.node)


def _run(plan: Plan) -> Iterable[Row]:
    memory, hours = plan.work.sizes.memory, plan.device_hours
    dollars = hours * plan.device.dollars_per_hour
    yield "tokens", number(plan.work.options.tokens), f"{plan.steps:,} steps of {number(plan.batch_tokens)}"
    yield "FLOPs", f"{plan.flops:.3g}", f"{plan.work.step_flops_per_token / 1e9:,.1f} G a token, without recomputation"
    yield "speed", f"{number(plan.tokens_per_second)}/s", f"MFU {plan.mfu:.1%}"
    yield "time", _days(plan.seconds), "without evaluations, checkpoints, failures"
    yield "devices for 30 days", f"{hours / (30 * 24):,.0f}", "at this speed of each"
    yield "device hours", number(hours), f"{hours * plan.device.watts / 1e6:,.0f} MWh of the devices alone"
    yield "cost", f"${number(dollars)}", f"${plan.device.dollars_per_hour:g} a device and hour"
    yield "checkpoint", size(memory.weights_bf16), "weights, bfloat16"
    yield "training state", size(memory.weights_fp32 + memory.optimizer), "weights and moments, float32"


def _serving(plan: Plan) -> Iterable[Row]:
    found, options = plan.serving, plan.work.options.serving
    yield "cache a token", f"{found.cache_bytes_per_token:,} B", "bfloat16"
    yield "weights a device", size(found.weight_bytes), f"experts shared by {options.expert_parallel}"
    yield "sequences that fit", f"{found.sequences:,}", f"of {options.context:,} tokens, beside the weights"
    parts = (found.attention, found.dispatch, found.experts, found.combine)
    micros = " + ".join(f"{value * 1e6:,.0f}" for value in parts)
    layer = f"{plan.work.layers} layers of attention + dispatch + experts + combine: {micros} µs"
    yield "time per token", _seconds(found.seconds_per_token), layer
    yield "tokens a device", f"{found.tokens_per_second:,.0f}/s", f"{options.batch} sequences at once"
    yield "cost", f"${found.dollars_per_million:.4f}", "a million tokens"


def _assumptions(plan: Plan) -> Iterable[Row]:
    options, device = plan.work.options, plan.device
    yield (
        "computation reaches",
        f"{options.efficiency:.0%}",
        f"of {device.peak(options.dtype) / 1e12:,.1f} TFLOP/s: efficiency",
    )
    links = f"of {device.network_bandwidth / 1e9:g} and {device.node_bandwidth / 1e9:g} GB/s: link_efficiency"
    yield "links reach", f"{options.link_efficiency:.0%}", links
    yield "rows hidden by the shortcut", f"{options.hidden_share:.0%}", "hidden_share (report: 25.3 to 8.4 % of a step)"
    yield "memory kept free", f"{options.reserve:.0%}", "reserve"
    yield "FFN experts of a token", f"{plan.work.expert_rows:.3g}", "all experts get as many rows"
    yield "drafts accepted", f"{options.serving.acceptance:.0%}", "serving.acceptance, serving.drafts"
    yield "device", device.name, "device_values.memory, .bfloat16, .network_bandwidth, .dollars_per_hour, ..."


def _seconds(value: float) -> str:
    return duration(value) if value >= 1 else f"{1000 * value:,.3g} ms"


def _days(seconds: float) -> str:
    return f"{seconds / DAY:,.1f} days" if seconds > 2 * DAY else duration(seconds)
