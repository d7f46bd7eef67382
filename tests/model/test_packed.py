"""Models with packed weights: the same logits within the bound of the form, alone, cached and in a batch."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from longcat.kernels.packed_linear import FORMS, missing
from longcat.kernels.rms_norm.cpu import normalize, normalize_
from longcat.kernels.rope.cpu import rotate, rotate_, turns
from longcat.model import mixers
from longcat.model.errors import ModelError
from longcat.model.packed import choice as choice_module
from longcat.model.packed import machine
from longcat.model.packed import prepare as prepare_module
from longcat.model.packed.choice import Chooser
from longcat.model.packed.experts import PackedExperts
from longcat.model.packed.prepare import prepare
from longcat.model.packed.routing import InferenceRouter
from longcat.model.rows import Rows
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash

from .conftest import BuildModel

# Greatest relative error of the logits of the small model.
BOUNDS = {"auto": 1e-5, "fp32": 1e-5, "fp16": 3e-3, "bf16": 0.06, "int8": 0.15, "int4": 0.5}


class Asked(Chooser):
    """Measures nothing: the wanted form is the fastest, or the given one."""

    def __init__(self, times: Mapping[str, tuple[float, ...]] | None = None) -> None:
        super().__init__()
        self.times = times or {}

    def measure(self, outputs: int, inputs: int, form: str, rows: tuple[int, ...]) -> tuple[float, ...]:
        return self.times.get(form, (1.0, 1.0))


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_window", "tests.model.variants:WindowAttention")
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")


def pair(build_model: BuildModel, weights: Any = "auto", **changes: object) -> tuple[LongcatFlash, LongcatFlash]:
    packed = build_model(**changes)
    prepare(packed, weights, chooser=Asked())
    return build_model(**changes), packed


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("weights", [form for form in BOUNDS if form == "auto" or missing(form) is None])
@torch.no_grad()
def test_logits_are_within_the_bound_of_the_form(build_model: BuildModel, weights: str) -> None:
    model, packed = pair(build_model, weights)
    for shape in ((1, 1), (1, 7), (3, 50)):
        ids = torch.randint(97, shape)
        assert relative(packed(ids).logits, model(ids).logits) < BOUNDS[weights]


CONFIGURATIONS: dict[str, dict[str, object]] = {
    "interleaved": {"moe_layout": "interleaved"},
    "span": {"moe_layout": "span"},
    "tied": {"tie_word_embeddings": True},
    "null experts": {"zero_expert_type": "null"},
    "gating residual": {"gating_residual": True},
    "no zero experts": {"zero_expert_num": 0},
    "all kinds of zero experts": {"zero_expert_types": {"zero": 2, "constant": 1, "identity": 3}, "zero_expert_num": 6},
    "window": {"attention": {"kind": "test_window", "size": 4}},
    "linear and mla": {"attention": {"pattern": ["test_linear", "mla"]}},
}


@pytest.mark.parametrize("changes", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@torch.no_grad()
def test_every_kind_of_model_decodes_as_before(build_model: BuildModel, changes: dict[str, object]) -> None:
    model, packed = pair(build_model, "fp32", **changes)
    for batch in (1, 2):
        ids = torch.randint(97, (batch, 12))
        expected = model(ids).logits
        rows = Rows(packed, batch, 12)
        pieces = [rows.append(part).logits for part in (ids[:, :9], ids[:, 9:10], ids[:, 10:11], ids[:, 11:])]
        torch.testing.assert_close(torch.cat(pieces, dim=1), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_multi_token_prediction_is_packed_too(build_model: BuildModel) -> None:
    model, packed = pair(build_model, "fp32", num_nextn_predict_layers=1)
    ids = torch.randint(97, (2, 6))
    hidden = model(ids).hidden_BTD
    torch.testing.assert_close(packed.mtp_forward(hidden, ids).logits, model.mtp_forward(hidden, ids).logits)


@pytest.mark.parametrize("attention", [None, {"kind": "test_window", "size": 4}])
@torch.no_grad()
def test_a_step_over_many_sequences_is_that_of_the_model(build_model: BuildModel, attention: Any) -> None:
    model, packed = pair(build_model, "fp32", attention=attention)
    texts = [torch.randint(97, (length,)).tolist() for length in (9, 1, 5)]
    pieces = [Piece(text, 0, (4 * row, 4 * row + 1, 4 * row + 2), len(text)) for row, text in enumerate(texts)]
    logits = packed.step(StepBatch.of(pieces, 4), packed.new_pages(16, 4)).logits_RV
    expected = torch.cat([model(torch.tensor([text])).logits[0] for text in texts])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["fp32", "int8"])
@torch.no_grad()
def test_decoding_and_drafts_absorb_the_projections_as_the_model_does(build_model: BuildModel, weights: str) -> None:
    model, packed = pair(build_model, weights)
    texts = torch.randint(97, (3, 14)).tolist()
    pages = [(0, 1, 2, 3), (9, 5, 12, 7), (4, 8, 6, 10)]  # consecutive and scattered
    steps: list[dict[int, range]] = [{row: range(8) for row in range(3)}, {1: range(8, 9)}]
    steps += [{0: range(8, 11), 1: range(9, 10), 2: range(8, 11)}, {0: range(11, 14), 2: range(11, 14)}]
    cache = packed.new_pages(13, 4)
    for step in steps:
        pieces = [Piece(texts[row][of.start : of.stop], of.start, pages[row], len(of)) for row, of in step.items()]
        found = packed.step(StepBatch.of(pieces, 4), cache).logits_RV
        expected = [model(torch.tensor([texts[row]])).logits[0, of.start : of.stop] for row, of in step.items()]
        assert relative(found, torch.cat(expected)) < BOUNDS[weights]


@torch.no_grad()
def test_rows_are_normalised_and_rotated_in_place_as_they_are_copied() -> None:
    weight, turn = torch.randn(6), turns(torch.rand(3, 2, dtype=torch.float64), torch.float32)
    for wide in (torch.randn(1, 12), torch.randn(3, 13), torch.randn(3, 12), torch.randn(12, 3).t()):
        expected = normalize(wide[:, 2:8], weight, 1e-6, 3.0), rotate(wide[:, None, 8:12], turn[: len(wide)])[:, 0]
        normalize_(wide[:, 2:8], weight, 1e-6, 3.0)
        rotate_(wide[:, 8:12], turn[: len(wide), 0])
        assert torch.equal(wide[:, 2:8], expected[0])
        assert torch.equal(wide[:, 8:12], expected[1])


@torch.no_grad()
def test_routing_is_that_of_the_model(build_model: BuildModel) -> None:
    model, packed = pair(build_model, "fp32")
    x = torch.randn(9, model.config.hidden_size)
    for router, packed_router in zip(model.routers(), routers(packed), strict=True):
        expected, found = router(x)[0], packed_router(x)[0]
        assert torch.equal(found.experts_TK, expected.experts_TK)
        assert torch.equal(found.counts_E, expected.counts_E)
        torch.testing.assert_close(found.weights_TK, expected.weights_TK)


def routers(model: LongcatFlash) -> list[InferenceRouter]:
    return [module for module in model.modules() if isinstance(module, InferenceRouter)]


@torch.no_grad()
def test_experts_sum_their_slots_for_few_and_many_tokens(build_model: BuildModel) -> None:
    model, packed = pair(build_model, "fp32")
    for tokens in (0, 1, 1, 1, 2, 21, 300):
        x = torch.randn(1, tokens, model.config.hidden_size)
        expected, _ = model.model.layers[0].mlp(x)
        found, _ = packed.model.layers[0].mlp(x)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_tokens_without_an_expert_that_has_a_network_add_nothing(build_model: BuildModel) -> None:
    _, packed = pair(build_model, "int8")
    mixture = packed.model.layers[0].mlp
    mixture.router.e_score_correction_bias[: packed.config.n_routed_experts] = -10.0
    for tokens in (1, 4):
        x = torch.randn(1, tokens, packed.config.hidden_size)
        y, routing = mixture(x)
        torch.testing.assert_close(y[0], x[0] * routing.weights_TK.sum(1, keepdim=True))


def test_parameters_of_packed_matrices_are_freed_and_the_rest_is_listed(build_model: BuildModel) -> None:
    model = build_model()
    report = prepare(model, "int8", chooser=Asked())
    names = {name.rpartition(".")[2] for name, _ in model.named_parameters()}
    assert names == {"weight"}
    assert report.kept == {"TokenEmbedding.weight": 1, "Linear.weight": 4}
    assert {path.part for path in report.paths} == {
        "experts", "head", "dense gate_up", "dense down", "attention q_a kv_a", "attention q_b", "attention o"
    }  # fmt: skip
    assert any(line.startswith("experts 10 x [24, 32]: int8 (as asked); 1/2 rows take ") for line in report.lines())
    assert report.to_dict()["nbytes"] == report.nbytes > 0


def test_int4_is_for_experts_and_head_and_the_head_has_its_own_choice(build_model: BuildModel) -> None:
    report = prepare(build_model(), "int4", chooser=Asked())
    assert {path.form for path in report.paths if path.part in ("experts", "head")} == {"int4"}
    assert {path.form for path in report.paths if path.part not in ("experts", "head")} == {"int8"}
    report = prepare(build_model(), "int8", head="fp32", chooser=Asked({"fp32": (0.9, 0.9)}))
    assert {path.part: path.form for path in report.paths}["head"] == "fp32"


SLOW = {"plain": (10.0, 80.0), "fp32": (20.0, 20.0), "bf16": (50.0, 50.0), "fp16": (9.0, 9.0)}


@pytest.mark.parametrize(
    ("wanted", "times", "form", "reason"),
    [
        ("bf16", SLOW, "both", "bf16 is slower here"),
        ("fp16", SLOW, "fp16", "as asked"),
        ("fp32", SLOW, "both", "the fastest"),
        ("fp32", SLOW | {"plain": (19.0, 80.0)}, "fp32", "the fastest"),
        ("fp32", SLOW | {"plain": (5.0, 20.0)}, "plain", "the fastest"),
    ],
)
def test_a_form_is_used_where_it_pays(
    wanted: str, times: Any, form: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice_module, "missing", lambda _: None)
    choice = Asked(times).choose(8, 8, wanted)
    assert (choice.form, choice.reason) == (form, reason)


def test_measuring_gives_positive_times() -> None:
    choice = Chooser().choose(16, 16, "fp32")
    assert all(time > 0 for times in choice.microseconds.values() for time in times)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.bfloat16(), "are made from float32 on a CPU; .* load with dtype float32"),
        (lambda model: prepare(model, chooser=Asked()), "has packed weights already; load it again"),
    ],
)
def test_models_that_cannot_be_prepared_are_refused(build_model: BuildModel, change: Any, message: str) -> None:
    model = build_model()
    change(model)
    with pytest.raises(ModelError, match=message):
        prepare(model, "int8", chooser=Asked())


def test_a_prepared_model_has_no_gradient(build_model: BuildModel) -> None:
    for weights in ("fp32", "int8"):
        _, packed = pair(build_model, weights)
        assert not packed(torch.randint(97, (1, 4))).logits.requires_grad


def test_a_prepared_model_refuses_training_by_name(build_model: BuildModel) -> None:
    _, packed = pair(build_model, "fp32")
    ids = torch.randint(97, (1, 4))
    with pytest.raises(ModelError, match="load the model without them to train"):
        packed.loss(ids, ids)


def test_unknown_weights_are_refused(build_model: BuildModel) -> None:
    with pytest.raises(ModelError, match="weights = 'int3'"):
        prepare(build_model(), "int3")  # type: ignore[arg-type]


def test_experts_are_printed(build_model: BuildModel) -> None:
    _, packed = pair(build_model, "int8")
    assert "5 x (32 -> 12), int8 and int8" in repr(packed)
    assert any(isinstance(module, PackedExperts) for module in packed.modules())


def test_the_machine_has_a_rate_or_a_reason_for_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "missing", lambda form: "no such operator" if form == "bf16" else None)
    monkeypatch.setattr(machine, "CALLS", 2)
    found = machine.rates()
    assert found.pop("bf16") == "no such operator"
    assert set(found) == set(FORMS) - {"bf16"}
    assert all(len(rate) == 2 and min(rate) > 0 for rate in found.values() if not isinstance(rate, str))


def test_float32_needs_no_library_and_other_forms_are_refused_without(
    build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (choice_module, prepare_module):
        monkeypatch.setattr(
            module, "missing", lambda form: "torch is built without it" if form in ("fp32", "bf16") else None
        )
    report = prepare(build_model(), "fp32", chooser=Asked())
    assert {path.form for path in report.paths} == {"plain"}
    with pytest.raises(ModelError, match="weights bf16 cannot be used here: torch is built without it; use auto"):
        prepare(build_model(), "bf16", chooser=Asked())
