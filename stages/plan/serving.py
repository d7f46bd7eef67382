"""Decoding on many devices, as in the report's section 6.1 and table 7.

In a shortcut layer a step waits for the first attention, the dispatch of rows, the experts, and their return; the
second attention and the dense networks run while rows travel (single batch overlap). Weights and rows sent are FP8
where the device has it, rows returned and the cache bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

from longcat.stages.plan.arithmetic import dollars_per_million, seconds_per_token
from longcat.stages.plan.devices import Device
from longcat.stages.plan.work import Work

RETURNED_BYTES = 2
ATTENTIONS = 2  # of a layer


@dataclass(frozen=True)
class Serving:
    """Figures of one device; times of a layer in seconds.

    `cache_bytes_per_token` is that of one token of a sequence, `sequences` what fits beside the weights.
    """

    attention: float
    dispatch: float
    experts: float
    combine: float
    seconds_per_token: float
    tokens_per_second: float
    dollars_per_million: float
    cache_bytes_per_token: int
    weight_bytes: int
    sequences: int


def serving_of(work: Work, device: Device) -> Serving:
    """Estimate decoding with the options of `work`."""
    options, sizes = work.options.serving, work.sizes
    tokens = options.batch * (1 + options.drafts)
    wide = 1 if device.fp8 else 2
    attention, dense = _attention(work, device, tokens, wide), _dense(work, device, tokens, wide)
    far = options.expert_parallel > device.per_node
    link = (device.network_bandwidth if far else device.node_bandwidth) * work.options.link_efficiency
    rows = tokens * work.expert_rows * work.model.hidden_size if options.expert_parallel > 1 else 0
    dispatch, combine = rows * wide / link, rows * RETURNED_BYTES / link
    experts = _experts(work, device, tokens, wide)
    if work.model.moe_layout == "interleaved":
        waits = (ATTENTIONS * attention + ATTENTIONS / 2 * dense, dispatch, experts, combine)
    else:
        waits = (attention, max(dispatch, dense), experts, max(combine, attention + dense))
    per_token = seconds_per_token(work.layers, waits, 1 + options.drafts * options.acceptance)
    rate = options.batch / per_token
    weights = sizes.memory.weights_fp8 if device.fp8 else sizes.memory.weights_bf16
    own = round(weights - wide * sizes.parameters["experts"] * (1 - 1 / options.expert_parallel))
    room = device.memory * (1 - work.options.reserve) - own
    return Serving(
        attention=waits[0],
        dispatch=dispatch,
        experts=experts,
        combine=combine,
        seconds_per_token=per_token,
        tokens_per_second=rate,
        dollars_per_million=dollars_per_million(rate, device.dollars_per_hour),
        cache_bytes_per_token=sizes.kv_bytes_per_token,
        weight_bytes=own,
        sequences=max(0, int(room / (sizes.kv_bytes_per_token * options.context))),
    )


def _attention(work: Work, device: Device, tokens: int, wide: int) -> float:
    """One attention: its matrices, and the cached tokens of all sequences, computed on the latents."""
    options, modules = work.options.serving, ATTENTIONS * work.layers
    values = work.sizes.parameters["attention"] / modules
    cached = options.batch * options.context * work.sizes.kv_bytes_per_token / modules
    at_context = work.cached_attention_flops * options.context / work.sizes.context / modules * tokens
    core = at_context / (device.peak("bfloat16") * options.attention_efficiency)
    return _matrices(device, values, tokens, wide) + max(core, cached / device.memory_bandwidth)


def _dense(work: Work, device: Device, tokens: int, wide: int) -> float:
    return _matrices(device, work.sizes.parameters["dense_ffn"] / (2 * work.layers), tokens, wide)


def _experts(work: Work, device: Device, tokens: int, wide: int) -> float:
    """Own experts on the rows that all devices send: as many as this one sends."""
    own = work.sizes.parameters["experts"] / work.layers / work.options.serving.expert_parallel
    computed = tokens * work.expert_flops / device.peak("fp8")
    return max(computed, wide * own / device.memory_bandwidth)


def _matrices(device: Device, values: float, tokens: int, wide: int) -> float:
    return max(2 * values * tokens / device.peak("fp8"), wide * values / device.memory_bandwidth)
