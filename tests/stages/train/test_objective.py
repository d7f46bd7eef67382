"""The training objective: terms of the loss, their token counts, and options that must not change them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from longcat.model.embeddings.token import TokenEmbedding
from longcat.model.init import initialize
from longcat.model.moe.mixture import LayerRouting
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError
from longcat.stages.formats.architecture import changed_config
from longcat.stages.formats.checkpoint import read_model, read_start
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.windows import Batch, Window, batch
from longcat.stages.train.config import ObjectiveOptions
from longcat.stages.train.load_balance.expert_load import Load, RoutingObserver
from longcat.stages.train.objective import Objective, Terms, Totals
from longcat.stages.train.optim.average import WeightAverage
from longcat.stages.train.parallel.config import Degrees
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.prefetch import Prefetcher

Contents = Callable[[Artifact], dict[str, str]]


def make_model(**changes: Any) -> LongcatFlash:
    model = LongcatFlash(changed_config(load_preset("smoke"), {"vocab_size": 64, **changes}, "test"))
    initialize(model, 0)
    return model


def make_batch(*lengths: int, length: int = 16, seed: int = 0) -> Batch:
    """One row of documents of these lengths."""
    ids = np.random.default_rng(seed).integers(64, size=(1, length + 1))
    starts = np.cumsum([0, *lengths])
    return Batch(ids, (starts[starts < length],))


def objective_of(model: LongcatFlash, **options: Any) -> Objective:
    return Objective(ObjectiveOptions(**options), model.config, Parallel())


def terms_of(objective: Objective, model: LongcatFlash, batch: Batch, totals: Totals) -> Terms:
    rows = objective.rows(batch)
    loss_sum, _, output = model.loss(rows.ids_BT, rows.targets_BT, rows.cu_seqlens)
    return objective.terms(model, output, rows, totals, 1, loss_sum)


def test_terms_add_up_over_micro_batches() -> None:
    """Two halves add up to the loss and the gradients of the whole batch."""
    rows = [make_batch(5, 7, seed=seed) for seed in range(4)]
    whole = Batch(np.concatenate([row.ids for row in rows]), tuple(row.starts[0] for row in rows))
    model = make_model(num_nextn_predict_layers=1)
    objective = objective_of(model, hidden_z_loss=1e-2, mtp_weight=0.5)
    totals = objective.totals(whole, 4, 1)
    results = []
    for size in (4, 2):
        model.zero_grad()
        sums: dict[str, float] = {}
        for start in range(0, 4, size):
            terms = terms_of(objective, model, whole.rows(start, start + size), totals)
            terms.total.backward()
            for name, value in terms.figures.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        results.append((sums, [parameter.grad.clone() for parameter in model.parameters()]))
    assert list(results[0][0]) == objective.names(1) == ["loss", "mtp_loss", "hidden_z_loss"]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_totals_exclude_targets_beyond_a_document() -> None:
    # Of 16 targets two ahead, one is missing at the end of the row and two at each inner end (5 and 12).
    objective = objective_of(make_model(num_nextn_predict_layers=1))
    assert objective.totals(make_batch(5, 7), 1, 1) == Totals(targets=16, mtp_targets=16 - 1 - 2 - 2)


def masked(batch: Batch, seed: int = 3) -> Batch:
    return batch._replace(trained=np.random.default_rng(seed).random((len(batch.ids), batch.ids.shape[1] - 1)) < 0.6)


def test_a_loss_mask_excludes_targets_from_every_term() -> None:
    model = make_model(num_nextn_predict_layers=1)
    objective, rows_in = objective_of(model, document_mask=True), masked(make_batch(5, 7))
    assert rows_in.trained is not None
    rows, trained = objective.rows(rows_in), torch.from_numpy(rows_in.trained)
    totals = objective.totals(rows_in, 1, 1)
    assert totals.targets == int(trained.sum()) < 16
    with torch.no_grad():
        found = terms_of(objective, model, rows_in, totals)
        logits = model(rows.ids_BT, rows.cu_seqlens).logits
    ids = torch.from_numpy(rows_in.ids)
    expected = torch.nn.functional.cross_entropy(logits[trained], ids[:, 1:][trained])
    torch.testing.assert_close(found.figures["loss"], expected)
    assert totals.mtp_targets == int((rows.next_targets_BT != -100).sum()) < 11
    assert (rows.next_targets_BT[:, :-1][~trained[:, 1:]] == -100).all()


def test_masked_micro_batches_add_up() -> None:
    parts = [masked(make_batch(5, 7, seed=seed), seed) for seed in range(2)]
    whole = Batch(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "starts", "trained")))
    model = make_model()
    objective = objective_of(model)
    totals = objective.totals(whole, 2, 1)
    halves = sum(terms_of(objective, model, whole.rows(row, row + 1), totals).total for row in range(2))
    torch.testing.assert_close(terms_of(objective, model, whole, totals).total, halves)


def test_a_batch_without_targets_does_not_divide_by_zero() -> None:
    model = make_model()
    nothing = make_batch(16)._replace(trained=np.zeros((1, 16), dtype=np.bool_))
    objective = objective_of(model)
    terms = terms_of(objective, model, nothing, objective.totals(nothing, 1, 1))
    assert terms.figures["loss"] == 0
    assert terms.total.isfinite()


def test_samples_pass_masks_and_budgets_to_the_attention() -> None:
    class Source:
        def sample(self, number: int) -> Window:
            ids, starts = np.arange(17) + number, np.array([0])
            return Window(ids, starts, np.arange(16) > 3, 5) if number else Window(ids, starts)

    found = batch(Source(), 0, 2)
    assert found.trained is not None
    assert found.trained.sum(axis=1).tolist() == [16, 12]
    assert found.targets()[1].tolist() == [-100] * 4 + [number + 1 for number in range(5, 17)]
    assert found.rows(1, 2).budgets.tolist() == [5]
    model = make_model()
    rows = objective_of(model).rows(found)
    seen: list[torch.Tensor | None] = []
    layer = model.model.layers[0]
    layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1].budgets_B))
    model.loss(rows.ids_BT, rows.targets_BT, rows.cu_seqlens, budgets_B=rows.budgets_B)
    assert seen[0] is not None
    assert seen[0].tolist() == [16, 5]


def test_every_layer_gets_its_own_budgets() -> None:
    model = make_model(num_layers=2)
    ids = np.arange(34).reshape(2, 17)
    found = Batch(ids, (np.array([0]),) * 2, budgets=np.array([[3, 4], [5, 6]]))
    assert found.rows(1, 2).budgets.tolist() == [[4], [6]]
    rows = objective_of(model).rows(found)
    seen: list[list[int]] = []
    for layer in model.model.layers:
        for mixer in layer.self_attn:
            mixer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1].budgets_B.tolist()))
    model.loss(rows.ids_BT, rows.targets_BT, rows.cu_seqlens, budgets_B=rows.budgets_B)
    assert seen == [[3, 4], [3, 4], [5, 6], [5, 6]]


def test_documents_do_not_see_each_other() -> None:
    """The logits of a document depend on the previous document only without a mask."""
    model, one, other = make_model(), make_batch(8), make_batch(8)
    other.ids[0, :7] = 63 - other.ids[0, :7]

    def second(batch: Batch, mask: bool) -> torch.Tensor:
        rows = objective_of(model, document_mask=mask).rows(batch)
        return model(rows.ids_BT, rows.cu_seqlens).logits[0, 8:]

    torch.testing.assert_close(second(one, True), second(other, True), rtol=1e-5, atol=1e-6)
    assert (second(one, False) - second(other, False)).abs().max() > 1e-3


def test_multi_token_prediction_starts_at_its_step(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    config = tiny | {"model": {"num_nextn_predict_layers": 1}, "steps": 60, "batch_size": 8}
    late = run_stage("train", config | {"objective": {"mtp_start_step": 21}}, {"tokens": tokens})
    records = read_metrics(late.file("metrics.jsonl"))
    assert [record["step"] for record in records if "mtp_loss" in record] == list(range(21, 61))
    assert records[-1]["mtp_loss"] < records[20]["mtp_loss"] - 0.3


@pytest.mark.parametrize("kind", ["selective", "block"])
def test_recomputing_changes_no_bit(
    kind: str, run_apart: Any, tokens: Artifact, tiny: dict[str, Any], contents: Contents
) -> None:
    plain, again = (
        run_apart("train", tiny | {"steps": 3, "activation_checkpointing": what}, {"tokens": tokens})
        for what in ("none", kind)
    )
    for file in ("model.safetensors", "metrics.jsonl", "training/optimizer.safetensors"):
        assert contents(plain)[file] == contents(again)[file]


def test_recomputing_saves_memory() -> None:
    from longcat.stages.train.parallel.activation_checkpointing import checkpoint_activations

    def kept(what: Any) -> int:
        model, batch = make_model(), make_batch(length=64)
        checkpoint_activations(model, what)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (sizes.append(x.numel()), x)[1], lambda x: x):
            terms_of(objective_of(model), model, batch, Totals(64, 0))
        return sum(sizes)

    assert kept("block") < kept("selective") < kept("none")


def test_compiled_blocks_give_the_same_numbers(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    plain, compiled = (
        run_stage("train", tiny | {"steps": 2, "compile": what}, {"tokens": tokens}) for what in (False, True)
    )
    for a, b in zip(*(read_metrics(run.file("metrics.jsonl")) for run in (plain, compiled)), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=1e-4)


def test_the_average_of_the_weights(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    config = tiny | {"optimizer": {"average_decay": 0.9}, "steps": 6}
    whole = run_stage("train", config, {"tokens": tokens})
    average = load_file(whole.file("training/average.safetensors"))
    weights = dict(read_model(whole).named_parameters())
    assert average.keys() == weights.keys()
    assert any(not torch.equal(average[name], weight) for name, weight in weights.items())
    record = read_metrics(whole.file("metrics.jsonl"))[-1]
    assert record["validation_loss_of_average"] != record["validation_loss"]
    on = config | {"preset": None, "steps": 1}
    after = run_stage("train", on, {"tokens": tokens, "checkpoint": whole})
    decay = min(0.9, (1 + 6) / (10 + 6))
    for name, weight in read_model(after).named_parameters():
        expected = average[name] + (1 - decay) * (weight.detach() - average[name])
        torch.testing.assert_close(read_start(after).average[name], expected)


def test_averages_of_another_model_are_refused() -> None:
    model = make_model()
    with pytest.raises(Exception, match=r"averaged weights: lm_head\.weight is missing or belongs to no parameter"):
        WeightAverage(model, 0.9, {"nothing": torch.zeros(1)})


def test_the_load_has_mean_and_deviation_over_tokens() -> None:
    """Two tokens with 3 and 1 FFN experts, seen twice: mean 2, standard deviation 1."""
    model = make_model(num_layers=1, n_routed_experts=4, zero_expert_num=3, moe_topk=4)
    experts_TK = torch.tensor([[0, 1, 2, 5], [3, 4, 5, 6]])
    counts_E = torch.bincount(experts_TK.flatten(), minlength=7)
    observer = RoutingObserver(model.config, Parallel(), None, 2, None)
    for _ in range(2):
        assert observer(0, LayerRouting(torch.ones(2, 4), experts_TK, counts_E, torch.ones(1))) is None
    load = Load(torch.stack([observer.counts[0]]), [float(observer.squares[0])], 4)
    assert (load.mean(4), load.spread(4)) == ([2.0], [1.0])


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_number_of_loader_workers(workers: int) -> None:
    asked: list[int] = []

    def make(first: int) -> Batch:
        asked.append(first)
        if first == 40:
            raise InputError("a bad sample")
        return make_batch(seed=first)

    batches = Prefetcher(make, 4, workers)
    for first in (0, 4, 8, 24, 28):
        assert np.array_equal(batches.get(first).ids, make_batch(seed=first).ids)
    with pytest.raises(InputError, match="a bad sample"):
        batches.get(40)
    batches.close()
    assert len(asked) >= 6


def test_workers_change_no_byte(run_stage: Any, tokens: Artifact, tiny: dict[str, Any], contents: Contents) -> None:
    runs = [run_stage("train", tiny | {"steps": 4, "loader_workers": n}, {"tokens": tokens}) for n in (0, 1, 4)]
    files = [{name: digest for name, digest in contents(run).items() if "state.json" not in name} for run in runs]
    assert files[0] == files[1] == files[2]


def test_an_id_outside_the_vocabulary(run_stage: Any, tokens: Artifact, tiny: dict[str, Any], monkeypatch: Any) -> None:
    from longcat.stages.formats import continued_windows as loader

    original = loader.ContinuedWindows.sample

    def sample(self: loader.ContinuedWindows, number: int) -> Window:
        window = original(self, number)
        return window._replace(ids=np.where(window.ids == 10, 64, window.ids)) if number >= 8 else window

    monkeypatch.setattr(loader.ContinuedWindows, "sample", sample)
    with pytest.raises(InputError, match=r"token id 64, the model has vocab_size = 64") as caught:
        run_stage("train", tiny, {"tokens": tokens})
    assert caught.value.where == "sample 8 to 11"


def test_less_than_one_batch(run_stage: Any, make_tokens: Any, tiny: dict[str, Any]) -> None:
    few = make_tokens([40, 40])
    with pytest.raises(InputError, match="fill 2 sequences of 32 tokens, batch_size is 4"):
        run_stage("train", tiny, {"tokens": few})


class Shifted(TokenEmbedding):
    """Vector of the token, plus half of that of the token before it."""

    look_back = 1

    def forward(self, input_ids_BT: torch.Tensor, previous_ids_BTN: torch.Tensor | None = None) -> torch.Tensor:
        assert previous_ids_BTN is not None
        before_BT = previous_ids_BTN[..., -1]
        return self.weight[input_ids_BT] + 0.5 * self.weight[before_BT.clamp(min=0)] * (before_BT >= 0).unsqueeze(-1)


@pytest.mark.parametrize("masked", [True, False])
def test_an_embedding_of_earlier_ids_gets_them_for_every_part_of_a_row(masked: bool) -> None:
    model, whole = make_model(), make_batch(5, 7)
    shifted = Shifted(64, model.config.hidden_size)
    shifted.weight = model.model.embed_tokens.weight
    model.model.embed_tokens = shifted
    bounds = torch.from_numpy(whole.cu_seqlens()) if masked else None
    expected = model.embed(torch.from_numpy(whole.ids)[:, :-1], bounds)
    options = ObjectiveOptions(document_mask=masked)
    for rank in range(2):
        parallel = Parallel(sizes=Degrees(context=2), rank=rank)
        rows = Objective(options, model.config, parallel, shifted.look_back).rows(whole)
        found = model.embed(rows.ids_BT, rows.cu_seqlens, rows.positions_T, rows.previous_ids_BTN)
        assert rows.positions_T is not None
        torch.testing.assert_close(found, expected[:, rows.positions_T])
