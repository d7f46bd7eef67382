"""The plan beside the figures of the report: LongCat-Flash, tables 6 and 7, section 5.3."""

from __future__ import annotations

import pytest

from longcat.model.presets import load_preset
from longcat.stages.plan.arithmetic import dollars_per_million, hidden_share, seconds_per_token
from longcat.stages.plan.config import LayoutOptions, PlanOptions
from longcat.stages.plan.devices import DEVICES
from longcat.stages.plan.estimate import Plan, make_plan
from longcat.stages.plan.serving import serving_of
from longcat.stages.plan.work import Work

TABLE_7 = {"attention": 264e-6, "dispatch": 236e-6, "experts": 60e-6, "combine": 472e-6}
ONE = LayoutOptions(
    pipeline=1, data_replicate=1, context=1, expert=32, activation_checkpointing="block", micro_batch_size=2
)


@pytest.fixture(scope="module")
def flash() -> Plan:
    return make_plan(load_preset("longcat-flash"), PlanOptions(devices=512, layout=ONE))


def test_time_per_output_token_of_table_7() -> None:
    found = seconds_per_token(28, TABLE_7.values(), 1 + 0.8)
    assert found == pytest.approx(16.05e-3, rel=1e-3)
    assert dollars_per_million(96 / 16.0e-3, 2.0) == pytest.approx(0.0926, abs=5e-5)
    assert dollars_per_million(96 / found, 2.0) == pytest.approx(0.0926, rel=0.005)


def test_cost_of_table_6() -> None:
    assert dollars_per_million(804, DEVICES["h800"].dollars_per_hour) == pytest.approx(0.691, abs=5e-4)


def test_times_of_a_layer_follow_from_the_device(flash: Plan) -> None:
    """Attention is not among them: the table does not say how many tokens are cached."""
    found = serving_of(flash.work, flash.device)
    assert found.dispatch == pytest.approx(TABLE_7["dispatch"], rel=0.005)
    assert found.combine == pytest.approx(TABLE_7["combine"], rel=0.005)
    assert found.experts == pytest.approx(TABLE_7["experts"], rel=0.05)
    assert found.seconds_per_token == pytest.approx(16.05e-3, rel=0.05)
    assert found.dollars_per_million == pytest.approx(0.0926, rel=0.05)
    assert found.cache_bytes_per_token == 64_512


def test_what_the_shortcut_hides() -> None:
    """25.3 % of the step without it, 8.4 % with it."""
    share = hidden_share(0.253, 0.084)
    assert share == pytest.approx(PlanOptions().hidden_share, abs=0.005)
    work, rows = 1.0, 0.253 / (1 - 0.253)
    exposed = rows * (1 - share)
    assert rows / (work + rows) == pytest.approx(0.253)
    assert exposed / (work + exposed) == pytest.approx(0.084)


def test_the_planned_exchange_is_hidden_as_reported(flash: Plan) -> None:
    """Where it takes 25.3 % of the step without the shortcut, the plan's 8.4 % with it is the report's."""
    # The efficiency at which the exchange of this layout has the reported share.
    options = flash.work.options
    step = flash.best.time
    wanted = 0.253 / (1 - 0.253)
    others = step.parameters_exposed + step.update
    compute = step.exchange / wanted - others
    slower = make_plan(
        flash.work.model, options.model_copy(update={"efficiency": options.efficiency * step.compute / compute})
    ).best.time
    assert slower.exposed_share_without_shortcut == pytest.approx(0.253, rel=0.01)
    assert slower.exposed_share == pytest.approx(0.084, rel=0.05)


def test_twenty_trillion_tokens(flash: Plan) -> None:
    """191.08 GFLOPs a token: at the MFU of the plan, so many devices train 30 days."""
    assert flash.flops == pytest.approx(20e12 * 191.081250816e9, rel=1e-4)
    devices = flash.device_hours / (30 * 24)
    assert devices * flash.mfu * 989.4e12 * 30 * 86400 == pytest.approx(flash.flops)
    assert 5_000 < devices < 10_000


@pytest.mark.parametrize(
    ("preset", "billions"), [("longcat-flash", 560.665), ("longcat-flash-lite", 68.56), ("longcat-2.4b-16b", 16)]
)
def test_parameters_of_published_models(preset: str, billions: float) -> None:
    found = Work.of(load_preset(preset), PlanOptions(), 4096)
    units = found.inventory.stage(0, 1)
    total = sum(unit.values(kind) for unit in units for kind in ("dense", "routers", "experts"))
    assert total == found.sizes.total == pytest.approx(billions * 1e9, rel=1e-3 if billions > 20 else 0.02)


def test_checkpoints_of_the_published_model(flash: Plan) -> None:
    """Weights in bfloat16 with routers in float32; weights and two moments in float32."""
    routers, biases = 28 * 768 * 6144, 28 * 768
    assert flash.to_json()["checkpoint"] == {
        "weights": 2 * 560_664_958_976 + 2 * routers + 4 * biases,
        "training_state": 12 * 560_664_958_976 + 4 * biases,
    }
