"""Table of variants: every kind of attention (`model.attention.base`) and embedding (`model.embeddings.base`).

A new kind adds a row to `VARIANTS` and changes nothing else here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.model import mixers
from longcat.model.accounting import count
from longcat.model.attention.base import SequenceMixer
from longcat.model.attention.pages import PerSequence, SlotState
from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError, ModelError
from longcat.model.growth.files import GrownWeights
from longcat.model.growth.layers import Growth, Order
from longcat.model.growth.memory import grow_model
from longcat.model.init import initial_value, initialize
from longcat.model.parameter_kinds import parameter_kind
from longcat.model.rows import Rows
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash
from longcat.model.width import widened
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.progress import SilentProgress
from longcat.stages.convert import export_checkpoint
from longcat.stages.train.parallel.config import Degrees, ParallelOptions, check_fits
from tests.model.compiled import check_compiled

NGRAM = {"ngram_vocab_size_ratio": 2.57, "emb_neighbor_num": 3, "emb_split_num": 2, "ngram_excluded_ids": [7]}
LSA = {
    **{"kind": "lsa", "index_topk": 8, "index_n_heads": 2, "index_head_dim": 12},
    **{"index_init_tokens": 1, "index_local_tokens": 3},
}
NSA: dict[str, Any] = dict(
    sorted(
        {
            **{"kind": "nsa", "compress_size": 4, "compress_stride": 2, "block": 4, "top_n": 3, "initial_blocks": 1},
            **{"local_blocks": 1, "window": 4, "query_group": 2},
        }.items()
    )
)
# Changes to the configuration.
VARIANTS: dict[str, dict[str, Any]] = {
    "mla": {},
    "queries without a latent": {"q_lora_rank": None, "mla_scale_q_lora": False},
    "window": {"attention": {"kind": "window", "size": 4}},
    "window with sinks": {"attention": {"kind": "window", "sinks": 2, "size": 4}},
    "streaming": {"attention": {"pattern": [{"block": 4, "kind": "window", "sinks": 4, "size": 8}, "mla"]}},
    "window of the tests": {"attention": {"kind": "test_window", "size": 4}},
    "linear": {"attention": "test_linear"},
    "window and mla": {"attention": {"pattern": ["test_window", "mla"]}},
    "linear and mla": {"attention": {"pattern": ["test_linear", "mla"]}},
    "gdn": {"attention": {"head_dim": 5, "kind": "delta", "rule": "gdn"}},
    "gdn2": {"attention": {"head_dim": 5, "kind": "delta", "lower_bound": -5.0, "rule": "gdn2", "value_head_dim": 7}},
    "fg2_plus and mla": {
        "attention": {"pattern": [{"head_dim": 5, "kind": "delta", "rule": "fg2_plus", "value_head_dim": 4}, "mla"]}
    },
    "nsa": {"attention": NSA},
    "nsa, softmax": {"attention": NSA | {"gate": "softmax", "group_scores": "max", "head_groups": 3}},
    "asa": {"attention": {"pattern": [{"kind": "window", "size": 4}, NSA | {"branches": "110"}]}},
    "top-k": {"attention": {"kind": "topk", "k": 6}},
    "top-k by head": {"attention": {"kind": "topk", "ratio": 0.05, "share": "head"}},
    "lsa": {"attention": LSA},
    "lsa, indexers of their own": {"attention": LSA | {"cli_factor": 1, "indexer_rope_interleave": False}},
    "lsa and mla": {"attention": {"pattern": [LSA, LSA, "mla", "mla"]}},
    "n-grams": {**NGRAM, "ngram_amplification": "norm"},
    "n-grams and window": {**NGRAM, "attention": "test_window", "ngram_word_scale": "full", "eos_token_id": 50},
    "n-grams, tied": {**NGRAM, "tie_word_embeddings": True, "ngram_amplification": "sqrt_d", "emb_neighbor_num": 5},
}
ATEN = torch.ops.aten
PRODUCTS = (ATEN.mm.default, ATEN.bmm.default, ATEN.addmm.default, ATEN.baddbmm.default, ATEN.baddbmm_.default)


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_window", "tests.model.variants:WindowAttention")
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def variant(request: pytest.FixtureRequest, config: ModelConfig) -> ModelConfig:
    return ModelConfig(**{**config.model_dump(), **request.param, "num_nextn_predict_layers": 0})


@pytest.fixture
def model(variant: ModelConfig) -> LongcatFlash:
    """Model in float64, with weights large enough that every part affects the logits."""
    built = LongcatFlash(variant)
    initialize(built, 3, {"hidden": 0.2, "router": 0.2, "embedding": 1.0, "unembedding": 0.3})
    return built.double()


@pytest.fixture(name="ids_BT")
def token_ids(variant: ModelConfig) -> torch.Tensor:
    return torch.randint(4, variant.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))


def batch_of(model: LongcatFlash, pieces: list[Piece], page_size: int = 4) -> StepBatch:
    return StepBatch.of(pieces, page_size, look_back=model.model.embed_tokens.look_back)


@torch.no_grad()
def test_attention_is_causal(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    whole = model(ids_BT).logits
    assert whole.isfinite().all()
    torch.testing.assert_close(model(ids_BT[:, :15]).logits, whole[:, :15])
    torch.testing.assert_close(model(ids_BT[1:]).logits, whole[1:])
    changed = ids_BT.clone()
    changed[:, 13] = 5 - changed[:, 13] % 2
    assert (model(changed).logits[:, 14] - whole[:, 14]).abs().amax() > 1e-4


def test_gradients_equal_finite_differences(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    """Along a random direction over all parameters, including auxiliary losses."""

    def loss() -> torch.Tensor:
        total, _, output = model.loss(ids_BT, ids_BT.roll(-1, 1))
        return total + sum(value for layer in output.layers for value in layer.losses.values())

    parameters = [parameter for name, parameter in model.named_parameters() if ".router." not in name]
    gradients = torch.autograd.grad(loss(), parameters, materialize_grads=True)
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * 1e-6 for p in parameters]
    with torch.no_grad():
        values = []
        for sign in (1, -2):
            for parameter, step in zip(parameters, direction, strict=True):
                parameter.add_(step, alpha=sign)
            values.append(loss())
    found = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    torch.testing.assert_close((values[0] - values[1]) / 2, found, rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[24], [9, 1, 1, 1, 7, 5], [1] * 24])
def test_decoding_equals_the_forward_pass(model: LongcatFlash, ids_BT: torch.Tensor, pieces: list[int]) -> None:
    rows = Rows(model, 2, 24, page_size=8)
    found = [rows.append(piece).logits for piece in ids_BT.split(pieces, dim=1)]
    torch.testing.assert_close(torch.cat(found, dim=1), model(ids_BT).logits)


@torch.no_grad()
@pytest.mark.parametrize("length", [0, 1, 5, 15, 16])
def test_rewound_rows_equal_new_ones(model: LongcatFlash, ids_BT: torch.Tensor, length: int) -> None:
    rows = Rows(model, 2, 24, page_size=8)
    for piece in ids_BT[:, :16].split([9, 1, 6], dim=1):
        rows.append(piece)
    kept = rows.rewind(length)
    assert rows.length == kept == (0 if rows.cache.recurrent and length < 16 else length)
    other = ids_BT.flip(1)
    text = torch.cat((ids_BT[:, :length], other[:, length:]), dim=1)
    torch.testing.assert_close(rows.append(text[:, kept:]).logits, model(text).logits[:, kept:])


@torch.no_grad()
@pytest.mark.parametrize("splits", [[[24], [24]], [[9, 1, 1, 1, 7, 5], [6, 17, 1]], [[1] * 24, [3] * 8]])
def test_steps_over_pages_equal_the_forward_pass(
    model: LongcatFlash, ids_BT: torch.Tensor, splits: list[list[int]]
) -> None:
    cache, pages = model.new_pages(12, page_size=4, slots=3), ([7, 3, 9, 0, 11, 2], [4, 5, 6, 10, 1, 8])
    found: list[list[torch.Tensor]] = [[], []]
    for place in range(max(map(len, splits))):
        rows = [row for row in (0, 1) if place < len(splits[row])]
        pieces = []
        for row in rows:
            start, count = sum(splits[row][:place]), splits[row][place]
            ids = ids_BT[row].tolist()
            pieces.append(Piece(ids[start : start + count], start, pages[row], count, ids[:start], slot=2 - row))
        logits_RV = model.step(batch_of(model, pieces), cache).logits_RV
        for row, part in zip(rows, logits_RV.split([len(piece.ids) for piece in pieces]), strict=True):
            found[row].append(part)
    expected = model(ids_BT).logits
    for row in (0, 1):
        torch.testing.assert_close(torch.cat(found[row]), expected[row], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_step_continues_from_an_earlier_position_or_is_refused(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    """After six tokens and a draft of two. A state per sequence needs a slot copied before the draft."""
    ids = ids_BT[0].tolist()
    cache = model.new_pages(3, page_size=4, slots=2)

    def run(start: int, end: int, slot: int) -> torch.Tensor:
        piece = Piece(ids[start:end], start, [1, 2, 0], 1, ids[:start], slot)
        return model.step(batch_of(model, [piece]), cache).logits_RV

    run(0, 6, 0)
    cache.copy_slot(0, 1)
    run(6, 8, 0)
    if cache.recurrent:
        with pytest.raises(ModelError, match="slot 0 holds the state after 8 positions and the tokens begin at 6"):
            run(6, 9, 0)
    expected = model(ids_BT[:1, :9]).logits[0, -1:]
    torch.testing.assert_close(run(6, 9, 1), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(run(0, 9, 1), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_slots_are_required_and_belong_to_one_sequence(model: LongcatFlash) -> None:
    cache = model.new_pages(4, page_size=4, slots=2)
    mixers = [mixer for layer in model.model.layers for mixer in layer.self_attn]
    recurrent = any(isinstance(mixer.state_kind(), PerSequence) for mixer in mixers)
    assert (cache.recurrent, cache.bytes_per_slot > 0) == (recurrent, recurrent)
    assert cache.nbytes == 4 * cache.bytes_per_page + 2 * cache.bytes_per_slot
    if recurrent:
        with pytest.raises(ModelError, match="make the cache with slots = number of sequences"):
            model.new_pages(4)
        with pytest.raises(ModelError, match="two pieces of a step have the same slot"):
            model.step(batch_of(model, [Piece([5], 0, [0]), Piece([6], 0, [1])]), cache)
        with pytest.raises(ModelError, match="there is no slot 2: the cache has 2"):
            model.step(batch_of(model, [Piece([5], 0, [0], slot=2)]), cache)


@torch.no_grad()
def test_documents_do_not_see_each_other(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    together = model(ids_BT, torch.tensor([0, 10, 24, 31, 48])).logits.flatten(0, 1)
    for begin, end in ((0, 10), (10, 24), (24, 31), (31, 48)):
        alone = model(ids_BT.flatten()[None, begin:end]).logits[0]
        torch.testing.assert_close(together[begin:end], alone)


class Counted(TorchDispatchMode):
    """Counts FLOPs of matrix products and of elementwise multiplications and additions."""

    products = 0
    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            self.products += 2 * out.numel() * args[-1].shape[-2]
        elif func in (ATEN.mul.Tensor, ATEN.add.Tensor):
            self.values += out.numel()
        return out


@torch.no_grad()
def test_accounting_equals_the_computation(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    """One token after twenty, per mixer: counted operations and stored values equal the accounting."""
    rows = Rows(model, 1, 20, page_size=20)
    rows.append(ids_BT[:1, :19])
    where = model.step_context(StepBatch.of([Piece([5], 19, [0])], 20))
    x_11D = torch.randn(1, 1, model.config.hidden_size).double()
    for layer in model.model.layers:
        of_module = where
        for mixer in layer.self_attn:
            state = rows.cache.layer_states[mixer.slot]
            with Counted() as counted, sdpa_kernel(SDPBackend.MATH):
                of_module = of_module.after(mixer(x_11D, of_module, state))
            weights = sum(2 * parameter.numel() for parameter in mixer.parameters() if parameter.dim() == 2)
            counts = counted.values if mixer.kind == "test_linear" else counted.products - weights
            assert counts == mixer.flops(1, 19)
            parts = state if isinstance(state, tuple) else (state,)
            held = [part.values if isinstance(part, SlotState) else part.pages_PLW for part in parts]
            assert sum(values[0].numel() for values in held) == mixer.state_values(20)


@torch.no_grad()
def test_exchanged_scales_change_no_logits_or_are_refused(model: LongcatFlash, ids_BT: torch.Tensor) -> None:
    """With an arbitrary factor for every group of a pair, 0.2 to 5."""
    before, generator, changed = model(ids_BT).logits, torch.Generator().manual_seed(4), 0
    for mixer in (module for module in model.modules() if isinstance(module, SequenceMixer)):
        if not mixer.rescales:
            with pytest.raises(ModelError, match=f"attention '{mixer.kind}' has no matrices whose scales"):
                mixer.exchanges()
            continue
        for exchange in mixer.exchanges():
            factors_G = 5 ** (2 * torch.rand(len(exchange.first.places_GX), generator=generator).double() - 1)
            for part, by_group in ((exchange.first, factors_G), (exchange.second, 1 / factors_G)):
                weight = mixer.get_parameter(part.name)
                factors = weight.new_ones(weight.shape[part.dim])
                factors[part.places_GX] = by_group.unsqueeze(1)
                weight.mul_(factors.unsqueeze(1 - part.dim))
                changed += 1
    assert changed or not any(spec.mixer.rescales for spec in model.config.mixers)
    torch.testing.assert_close(model(ids_BT).logits, before, rtol=1e-10, atol=1e-10)


def test_accounting_grows_with_the_context(variant: ModelConfig) -> None:
    short, long = count(variant, 64), count(variant, 128)
    mixing = [
        sizes.flops_per_token_prefill - 2 * (sizes.activated_mean - sizes.parameters["norms"])
        for sizes in (short, long)
    ]
    kinds = {spec.kind for spec in variant.mixers}
    mixers = [mixer for mixer in LongcatFlash(variant).modules() if isinstance(mixer, SequenceMixer)]
    if not kinds & {"lsa", "nsa"}:  # whose indexer and compressed blocks show everything, but are small
        assert (mixing[1] > 1.5 * mixing[0]) == bool(kinds & {"mla", "topk"})
    assert (long.kv_bytes_per_token > 0) == any(not isinstance(built.state_kind(), PerSequence) for built in mixers)
    assert long.state_bytes >= short.state_bytes > 0


def test_initial_values(variant: ModelConfig) -> None:
    models = [LongcatFlash(variant) for _ in range(2)]
    for built in models:
        initialize(built, 7)
    for (key, tensor), again in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert tensor.isfinite().all(), key
        assert torch.equal(tensor, again)
        if key.endswith("A_log"):
            assert 0 <= tensor.min() < tensor.max() <= 2.78
            assert torch.equal(initial_value(variant, 7, key, tensor.shape), tensor)
            assert parameter_kind(variant, key, 1) == "vector"


def test_a_compiled_model_gives_the_same(
    model: LongcatFlash, ids_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_compiled(model, ids_BT, monkeypatch)


def test_sharing_rows_works_or_is_refused_by_name(variant: ModelConfig) -> None:
    def check() -> None:
        check_fits(
            ParallelOptions(context=2),
            Degrees(context=2),
            variant,
            sequence_length=64,
            batch_size=2,
            micro_batch_size=1,
        )

    others = {spec.kind for spec in variant.mixers if not spec.mixer.shares_context()}
    if not others:
        check()
        return
    (kind,) = others
    with pytest.raises(ConfigError, match=f"attention '{kind}' cannot share a row between processes"):
        check()
    (module,) = {type(m): m for m in LongcatFlash(variant).modules() if getattr(m, "kind", None) == kind}.values()
    with pytest.raises(ModelError, match=f"attention '{kind}' cannot share a row between processes"):
        module.context_parallel(None)


@torch.no_grad()
@pytest.mark.parametrize(
    ("order", "part"), [("stack", None), ("interleave", None), ("stack", (1, 2)), ("interleave", (0, 1))]
)
def test_growth_keeps_the_kind_of_every_layer(
    order: Order, part: tuple[int, int] | None, model: LongcatFlash, ids_BT: torch.Tensor, tmp_path: Path
) -> None:
    growth = Growth.of(2, 3, order, part)
    grown = grow_model(model, growth)
    found = [[mixer.kind for mixer in layer.self_attn] for layer in grown.model.layers]
    small = [[mixer.kind for mixer in layer.self_attn] for layer in model.model.layers]
    assert found == [small[source] for source in growth.layers]
    logits = grown(ids_BT).logits
    assert logits.isfinite().all()
    save_pretrained(model, tmp_path / "small")
    GrownWeights(tmp_path / "small", growth).write(tmp_path / "grown")
    again = load_pretrained(tmp_path / "grown", dtype=torch.float64)
    assert again.config == grown.config
    assert torch.equal(again(ids_BT).logits, logits)


def test_a_pattern_that_does_not_divide_the_layers_is_written_out(config: ModelConfig) -> None:
    """Slots of the small model: window, mla, mla, window."""
    window, mla = {"kind": "test_window", "size": 4}, {"kind": "mla"}
    changed = ModelConfig(**{**config.model_dump(), "attention": {"pattern": [window, "mla", "mla"]}})
    grown = Growth.of(2, 2).config(changed)
    assert grown.attention == {"pattern": [window, mla, mla, window]}
    interleaved = Growth.of(2, 2, "interleave").config(changed)
    assert interleaved.attention == {"pattern": [window, mla, window, mla, mla]}  # the shortest
    assert Growth.of(2, 1).config(changed) == changed
    model = LongcatFlash(changed)
    found = grow_model(model, Growth.of(2, 2, "interleave")).model.layers
    assert [mixer.kind for layer in found for mixer in layer.self_attn] == [
        *("test_window", "mla", "test_window", "mla", "mla", "test_window", "mla", "test_window")
    ]


def test_multi_token_prediction_keeps_its_kind(config: ModelConfig) -> None:
    """Both attention modules of the only layer have one kind, but as a pattern."""
    changes = {"attention": {"pattern": ["test_window"] * 2 + ["mla"]}, "num_layers": 1, "num_nextn_predict_layers": 1}
    small = ModelConfig(**{**config.model_dump(), **changes})
    grown = Growth.of(1, 3).config(small)
    assert [grown.mixer(slot).kind for slot in range(7)] == ["test_window"] * 6 + ["mla"]


def test_kinds_that_no_pattern_can_give_are_refused(config: ModelConfig) -> None:
    changes = {"attention": {"pattern": ["test_window", "mla", "mla"]}, "num_layers": 60}
    small = ModelConfig(**{**config.model_dump(), **changes})
    with pytest.raises(ModelError, match="repeat after more than 64 slots"):
        Growth.of(60, 2, "stack", (9, 10)).config(small)
    assert Growth.of(60, 2).config(small).attention == small.attention


@torch.no_grad()
def test_a_checkpoint_is_read_back_and_cannot_be_exported(
    model: LongcatFlash, ids_BT: torch.Tensor, tmp_path: Path
) -> None:
    save_pretrained(model, tmp_path / "saved")
    again = load_pretrained(tmp_path / "saved", dtype=torch.float64)
    assert again.config == model.config
    assert torch.equal(again(ids_BT).logits, model(ids_BT).logits)
    assert ("attention" in model.config.to_dict()) == (model.config.attention is not None)

    def export() -> None:
        export_checkpoint(
            tmp_path / "saved", tmp_path / "out", layout="published", dtype="stored", progress=SilentProgress()
        )

    reason = again.config.unreadable_elsewhere()
    if reason is None:
        export()
        return
    with pytest.raises(InputError, match=f"cannot be exported: {re.escape(reason)}"):
        export()
    assert not (tmp_path / "out").exists()


def test_a_wider_model_keeps_its_kinds(variant: ModelConfig) -> None:
    wide = widened(variant, 2)
    assert [spec.kind for spec in wide.mixers] == [spec.kind for spec in variant.mixers]
    assert wide.hidden_size == 2 * variant.hidden_size


def test_a_subclass_does_not_inherit_support_for_parts_of_rows(variant: ModelConfig) -> None:
    for spec in variant.mixers:
        assert spec.mixer.shares_context() == (spec.kind in ("mla", "window"))


WRONG = {
    "nonsense": "unknown kind 'nonsense', choose one of .*mla, .*test_window",
    "": "unknown kind",
    "options": "test_window: size = 0: Input should be greater than or equal to 1",
    "unknown option": "test_window: depth = 1: Extra inputs are not permitted",
    "no kind": "an object with a key 'kind'",
    "empty": "a list of 1 to 64 kinds",
    "nested": "an object with a key 'kind'",
}
GIVEN: dict[str, Any] = {
    "nonsense": "nonsense",
    "": "MLA",
    "options": {"kind": "test_window", "size": 0},
    "unknown option": {"kind": "test_window", "depth": 1},
    "no kind": {"size": 3},
    "empty": {"pattern": []},
    "nested": {"pattern": [{"pattern": ["mla"]}]},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_kind_is_named(case: str, config: ModelConfig) -> None:
    with pytest.raises(ModelConfigError, match=f"attention .*{WRONG[case]}"):
        ModelConfig.from_dict({**config.to_dict(), "attention": GIVEN[case]})


def test_losses_that_multi_token_prediction_would_ignore_are_refused(config: ModelConfig) -> None:
    changes = {"num_nextn_predict_layers": 1, "attention": "test_linear"}
    with pytest.raises(ModelConfigError, match="'test_linear' has losses of its own"):
        ModelConfig.from_dict({**config.to_dict(), **changes})
    pattern = ModelConfig.from_dict({**config.to_dict(), **changes, "attention": {"pattern": ["test_linear"] * 2}})
    assert pattern.mixer(pattern.mtp_slot).kind == "mla"


@pytest.mark.parametrize("spelled", ["mla", {"kind": "mla"}, {"pattern": ["mla", {"kind": "mla"}]}])
def test_spellings_of_the_published_kind_are_equal(spelled: Any, config: ModelConfig) -> None:
    assert ModelConfig(**{**config.model_dump(), "attention": spelled}) == config


def test_a_modified_configuration_has_the_modified_kinds(config: ModelConfig) -> None:
    assert [spec.kind for spec in config.mixers] == ["mla"]
    changed = config.model_copy(update={"attention": "test_window"})
    assert [spec.kind for spec in changed.mixers] == ["test_window"]
