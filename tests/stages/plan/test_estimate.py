"""Memory, traffic, time and search of layouts against plain arithmetic."""

from __future__ import annotations

import pytest

from longcat.model.config import ModelConfig
from longcat.model.presets import load_preset
from longcat.model.training_memory import training_memory
from longcat.pipeline.errors import ConfigError
from longcat.stages.plan.config import LayoutOptions, PlanOptions
from longcat.stages.plan.estimate import Plan, make_plan
from longcat.stages.plan.layout import Group, Layout
from longcat.stages.plan.memory import in_flight
from longcat.stages.plan.traffic import Traffic, all_to_all, collective
from longcat.stages.train.parallel.config import ParallelOptions, degrees

SMALL = {"num_layers": 4, "n_routed_experts": 64, "max_position_embeddings": 1024}


def small(**changes: object) -> ModelConfig:
    return ModelConfig.from_dict({**load_preset("tiny").to_dict(), **SMALL, **changes})


def plan(devices: int, model: ModelConfig | None = None, **options: object) -> Plan:
    values = {"tokens": 10**9, "batch_tokens": 1 << 18, "devices": devices, **options}
    return make_plan(model or small(), PlanOptions.model_validate(values))


def layout(pipeline: int, micro_batches: int, schedule: str = "1f1b") -> Layout:
    options = ParallelOptions.model_validate({"pipeline": pipeline, "pipeline_schedule": schedule})
    return Layout(options, degrees(options, pipeline), 1, micro_batches, "none")


def test_rings_and_exchanges_share_links_as_counted_by_hand() -> None:
    # 16 processes on two nodes of 8, 160 bytes: 150 pass every ring, an eighth of them by each network link.
    assert collective(160, Group(16), 8) == Traffic(150 / 8, 150)
    assert collective(160, Group(4), 8) == Traffic(0, 120)
    # Members 8 apart are on nodes of their own; 4 apart, two share a node.
    assert collective(160, Group(4, 8), 8) == Traffic(120, 0)
    assert collective(160, Group(4, 4), 8) == Traffic(60, 120)
    assert collective(160, Group(1), 8) == Traffic(0, 0)
    assert all_to_all(160, Group(16), 8) == Traffic(80, 70)
    assert all_to_all(160, Group(4), 8) == Traffic(0, 120)
    assert all_to_all(160, Group(1), 8) == Traffic(0, 0)


def test_traffic_of_a_step_is_that_of_plain_loops() -> None:
    chosen = {"pipeline": 1, "data_replicate": 2, "context": 2, "expert": 4, "micro_batch_size": 2}
    found = plan(32, layout={**chosen, "activation_checkpointing": "none"})
    model, step = found.work.model, found.best.time
    micro_batches = (1 << 18) // 1024 // 2 // 16  # of 256 sequences, 2 at a time, on 16 data groups
    tokens = 2 * 1024 // 2
    rows = 4 * 4 * micro_batches * tokens * 2 * model.hidden_size * found.work.sizes.mean_ffn_experts
    assert step.traffic["rows of experts"].node == pytest.approx(rows * 3 / 4)
    assert step.traffic["rows of experts"].network == 0
    latent = 2 * (model.kv_lora_rank + model.qk_rope_head_dim)
    assert step.traffic["latents of rows"].node == pytest.approx(2 * 8 * micro_batches * 2 * tokens * latent / 2)
    experts = 4 * 64 * 3 * model.hidden_size * model.expert_ffn_hidden_size
    routers = 4 * model.num_experts * model.hidden_size
    dense = found.work.sizes.total - experts - routers
    gathered = (2 * dense + 4 * routers) * 15 / 16 / 8 + 2 * experts / 4 * 3 / 4 / 2
    assert step.traffic["parameters gathered"].network == pytest.approx(2 * micro_batches * gathered)


def test_time_is_the_sum_of_its_parts() -> None:
    chosen = {"pipeline": 2, "data_replicate": 1, "context": 1, "expert": 2, "pipeline_schedule": "1f1b"}
    found = plan(8, layout={**chosen, "micro_batch_size": 8, "activation_checkpointing": "none"})
    step, micro_batches = found.best.time, 256 // 4 // 8
    # Two layers, four exchanges: the dense network and the second attention, then the second dense network, and both
    # for twice as long in the backward pass.
    parameters, tokens = found.work.sizes.parameters, 8 * 1024
    dense = 2 * parameters["dense_ffn"] / 4
    attention = (2 * parameters["attention"] + found.work.sizes.attention_flops_per_token) / 4
    one, hidden = step.exchange / (2 * 4 * micro_batches), 0.0
    for window in ((dense + attention) / 2, dense / 2, dense + attention, dense):
        hidden += 2 * micro_batches * min(0.73 * one, window * tokens / (0.4 * 989.4e12))
    assert step.exchange_exposed == pytest.approx(step.exchange - hidden)
    busy = step.compute + step.exchange_exposed + step.stages + step.latents
    assert step.idle == pytest.approx(busy / micro_batches)
    assert step.seconds == pytest.approx(busy + step.idle + step.parameters_exposed + step.update)
    # The last of both stages has two of four layers and the output projection.
    sizes, output = found.work.sizes, 6 * 2048 * 96
    of_stage = (sizes.flops_per_token_train - output) / 2 + output
    assert step.compute == pytest.approx((1 << 18) / 4 * of_stage / (0.4 * 989.4e12))


def test_recomputation_and_layers_without_shortcut() -> None:
    chosen = {"pipeline": 1, "data_replicate": 1, "context": 1, "expert": 4, "micro_batch_size": 8}
    kinds = {what: plan(4, layout={**chosen, "activation_checkpointing": what}) for what in ("none", "block")}
    none, block = kinds["none"].best, kinds["block"].best
    assert block.time.exchange == pytest.approx(1.5 * none.time.exchange)
    forward = (none.time.compute * 4 * 0.4 * 989.4e12 / (1 << 18) - 6 * 2048 * 96) / 3
    assert block.time.compute - none.time.compute == pytest.approx((1 << 18) / 4 * forward / (0.4 * 989.4e12))
    assert block.largest.activations < none.largest.activations
    inline = plan(4, small(moe_layout="interleaved"), layout={**chosen, "activation_checkpointing": "none"})
    assert inline.best.time.exchange_exposed == inline.best.time.exchange > 0


def test_a_single_process_needs_what_its_own_estimate_says() -> None:
    found = plan(1, load_preset("tiny"), layout={"micro_batch_size": 8, "activation_checkpointing": "none"})
    expected = training_memory(load_preset("tiny"), "bfloat16", 8 * 1024, parts=32)
    assert found.best.largest.activations == expected.activations
    assert found.best.largest.total == expected.peak
    few = {"device": "cpu", "batch_tokens": 1024, "layout": {"activation_checkpointing": "block"}}
    here = plan(1, load_preset("tiny"), **few).best.largest
    expected = training_memory(load_preset("tiny"), "bfloat16", 1024, checkpointing="block")
    assert here.total == expected.host_peak
    step = found.best.time
    assert step.exchange == step.idle == 0
    assert step.seconds == pytest.approx(step.compute + step.update)


def test_memory_of_a_process_is_that_of_plain_sums() -> None:
    chosen = {"pipeline": 1, "data_replicate": 1, "context": 2, "expert": 4, "micro_batch_size": 2}
    found = plan(32, layout={**chosen, "activation_checkpointing": "block"})
    memory, model, work = found.best.largest, found.work.model, found.work
    assert memory.gradients == memory.weights - 4 * 4 * model.num_experts  # less the routers' biases
    assert memory.moments == 2 * memory.gradients
    assert memory.total == sum(vars(memory).values())
    tokens, row = 2 * 1024 // 2, 2 * 96 * work.sizes.mean_ffn_experts
    assert memory.exchange == pytest.approx(2 * tokens * row, abs=1)
    expanded = 2 * 4 * 2 * (model.qk_head_dim + model.v_head_dim)  # two attentions, four heads, 2 bytes
    kept = training_memory(small(), "bfloat16", 1 << 20).activations / (1 << 20) / 4
    assert memory.activations == pytest.approx(tokens * (4 * 2 * 96 + kept + expanded + 2 * row), rel=1e-6)
    # A layer is computed, the next one arrives, and the gradients of one are reduced in float32.
    experts, router = 64 * 3 * 96 * 64, 96 * model.num_experts
    dense = (work.sizes.total - 4 * (experts + router) - 2 * 2048 * 96 - 96) // 4
    layer, root = 2 * (dense + experts // 4) + 4 * router, 2 * (2 * 2048 * 96 + 96)
    assert memory.gathered == root + max(5 * layer, 3 * root)


def test_a_pipeline_keeps_layers_and_gradients_whole() -> None:
    chosen = {"pipeline": 4, "data_replicate": 1, "context": 1, "expert": 1, "micro_batch_size": 8}
    found = plan(8, layout={**chosen, "pipeline_schedule": "1f1b", "activation_checkpointing": "none"})
    values = [unit.values(kind) for unit in found.work.inventory.stage(1, 4) for kind in ("dense", "experts")]
    router = found.work.inventory.layers[1].values("routers")
    assert found.best.memory[1].gathered == 3 * (2 * sum(values) + 4 * router)
    activations = [rank.activations for rank in found.best.memory]
    assert activations == pytest.approx([activations[3] * kept for kept in (4, 3, 2, 1)], rel=1e-6)


@pytest.mark.parametrize(
    ("made", "rank", "expected"),
    [
        (layout(1, 4), 0, 1),
        (layout(4, 16), 0, 4),
        (layout(4, 16), 3, 1),
        (layout(4, 2), 0, 2),
        (layout(4, 16, "gpipe"), 3, 16),
        # Of two ranges each: the first process starts 2 * 3 + 4 before its first backward, the last 4.
        (layout(4, 16, "interleaved"), 0, 11),
        (layout(4, 16, "interleaved"), 3, 5),
    ],
)
def test_micro_batches_in_flight(made: Layout, rank: int, expected: int) -> None:
    assert in_flight(made, rank) == expected


def test_layouts_are_ranked_and_fit() -> None:
    found = plan(16)
    times = [candidate.time.seconds for candidate in found.candidates]
    assert times == sorted(times)
    assert len(times) > 1
    assert all(candidate.largest.total <= 0.9 * 80e9 for candidate in found.candidates)
    for candidate in found.candidates:
        sizes = candidate.layout.sizes
        assert sizes.pipeline * sizes.data * sizes.context == 16


def test_a_layout_that_does_not_fit_says_by_how_many_bytes() -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(load_preset("longcat-flash"), PlanOptions(devices=64))
    text = str(caught.value)
    assert "no layout of 64 h800 fits" in text
    least, over, room = (int(part.split(" ")[-1].replace(",", "")) for part in _figures(text))
    assert least - room == over > 0
    assert room == 72 * 10**9


def _figures(text: str) -> list[str]:
    takes = text.split(" takes ")[1]
    least, rest = takes.split(" bytes a device, ")
    over, rest = rest.split(" more than the ")
    return [least, over, rest.split(" available")[0]]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sequence_length": 2048}, "sequence_length = 2048 exceeds the model's max_position_embeddings = 1024"),
        ({"batch_tokens": 1000}, "not a multiple of sequence_length = 1,024 (choose a multiple, e.g. 1024)"),
        ({"layout": {"pipeline": 3}}, "pipeline = 3, data_replicate = 1, context = 1 make 3, which does not divide"),
        ({"layout": {"expert": 5}}, "expert = 5 does not divide data_shard * context = 8"),
        ({"layout": {"pipeline": 8}}, "8 pipeline stages need as many layers, num_layers = 4"),
        ({"batch_tokens": 1024, "layout": {"context": 1}}, "batch_size = 1 is not a multiple of 8 data groups"),
    ],
)
def test_what_model_or_batch_exclude_is_told(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(8, **options)
    assert says in str(caught.value)


def test_without_a_number_of_devices_the_state_takes_a_quarter() -> None:
    options = {"tokens": 10**9, "layout": LayoutOptions(pipeline=1, context=1, data_replicate=1)}
    found = make_plan(load_preset("longcat-flash"), PlanOptions.model_validate(options))
    assert found.devices == 512
    assert found.work.sizes.memory.training_fp32 / 512 / 80e9 <= 0.25
