"""N-gram embeddings: rows and vectors against equations 2 and 3 written out, at bounds, in steps, and in every mode."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from longcat.model.batch_invariance import batch_invariant
from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import previous_ids
from longcat.model.embeddings.ngram import NgramEmbedding
from longcat.model.embeddings.ngram_tables import NgramTables
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.init import initialize
from longcat.model.layout import published_tensors
from longcat.model.packed.prepare import prepare
from longcat.model.rows import Rows
from longcat.model.step import Piece, StepBatch
from longcat.model.tiles.model import TiledModel
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
Floats = npt.NDArray[np.float64]
NGRAM = {"ngram_vocab_size_ratio": 2.57, "emb_neighbor_num": 3, "emb_split_num": 2}

# Vocabulary, N, K, ratio: 12,500 random cases each. The last makes products beyond 63 bits unless taken modulo.
SIZES = [
    *((97, 2, 1, 3.57), (97, 3, 2, 0.31), (50, 4, 4, 78.0), (11, 6, 3, 1.003)),
    *((4096, 5, 1, 30.02), (131072, 4, 4, 78.0), (163840, 5, 4, 100.567), (1 << 24, 16, 1, 16000.5)),
]
CASES = 12_500


def config_of(vocab: int, order: int, splits: int, ratio: float, **others: Any) -> ModelConfig:
    count = (order - 1) * splits
    width = 6 * count if vocab < 1000 else count
    sizes = {"vocab_size": vocab, "hidden_size": width, "num_layers": 1, "n_routed_experts": 1, "zero_expert_num": 0}
    ngram = {"ngram_vocab_size_ratio": ratio, "emb_neighbor_num": order, "emb_split_num": splits}
    return ModelConfig(**{**sizes, "moe_topk": 1, **ngram, **others})


def oracle_rows(config: ModelConfig, text: Sequence[int], place: int, start: int) -> list[int]:
    """Equation 2 in Python's integers of any size, for a token of a document that starts at `start`."""
    if text[place] in config.ngram_excluded_ids:
        return [0] * ((config.emb_neighbor_num - 1) * config.emb_split_num)
    numbers = [text[place]]  # sum of the terms, by the number of them
    for back in range(1, config.emb_neighbor_num):
        if place - back < start or text[place - back] in (config.eos_token_id, *config.ngram_excluded_ids):
            break
        numbers.append(numbers[-1] + text[place - back] * config.vocab_size**back)
    assert config.ngram_vocab_size_ratio is not None
    least, rows = int(config.ngram_vocab_size_ratio * config.vocab_size), []
    for order in range(2, config.emb_neighbor_num + 1):
        number = numbers[min(order, len(numbers)) - 1]
        for split in range(config.emb_split_num):
            rows.append(number % (least + 2 * ((order - 2) * config.emb_split_num + split) + 1))
    return rows


def random_text(config: ModelConfig, length: int, seed: int) -> list[int]:
    """Half of the ids are the largest, an excluded one, or the end of a text."""
    generator = random.Random(seed)
    common = [config.vocab_size - 1, config.eos_token_id, *config.ngram_excluded_ids]
    return [generator.choice(common) if generator.random() < 0.5 else generator.randrange(config.vocab_size)
            for _ in range(length)]  # fmt: skip


@pytest.mark.parametrize(("vocab", "order", "splits", "ratio"), SIZES)
def test_rows_equal_the_equation(vocab: int, order: int, splits: int, ratio: float) -> None:
    """With bounds of documents, ends of texts and excluded ids; in rows, and in pieces of steps, as drafts are."""
    config = config_of(vocab, order, splits, ratio, ngram_excluded_ids=[3, 7])
    with torch.device("meta"):
        hashing = NgramEmbedding(config).hashing
    text, generator = random_text(config, CASES, vocab), random.Random(order)
    bounds = sorted({*range(0, CASES + 1, 250), *(generator.randrange(CASES) for _ in range(CASES // 10))})
    documents = list(pairwise(bounds))
    expected = [oracle_rows(config, text, place, start) for start, end in documents for place in range(start, end)]

    ids_BT = torch.tensor(text).view(-1, 250)
    found = hashing.rows(ids_BT, previous_ids(ids_BT, order - 1, torch.tensor(bounds)))
    assert (found - torch.tensor(hashing.sizes.starts)).flatten(0, 1).tolist() == expected

    pieces = [piece for start, end in documents for piece in pieces_of(text[start:end], generator)]
    pages = iter(range(10**6))
    placed = [piece._replace(pages=[next(pages) for _ in range(len(piece.pages))]) for piece in pieces]
    batch = StepBatch.of(placed, 4, look_back=order - 1)
    assert batch.previous_1TN is not None
    in_steps = hashing.rows(batch.ids_1T, batch.previous_1TN) - torch.tensor(hashing.sizes.starts)
    assert in_steps[0].tolist() == expected


def pieces_of(ids: Sequence[int], generator: random.Random) -> Iterator[Piece]:
    """A text in pieces of one to nine tokens."""
    start = 0
    while start < len(ids):
        end = min(start + generator.randint(1, 9), len(ids))
        yield Piece(ids[start:end], start, range(-(-end // 4)), 1, ids[max(0, start - 15) : start])
        start = end


def oracle_vectors(model: LongcatFlash, ids: Sequence[int], rows: Sequence[Sequence[int]]) -> Floats:
    """Equation 3, table by table, from the published tensors in float64 [T, D]."""
    config = model.config
    w = {key: tensor.double().numpy() for key, tensor in published_tensors(model) if "layers" not in key}
    word_TD = w["model.embed_tokens.weight"][list(ids)]
    grams_TD = np.zeros_like(word_TD)
    for table, rows_T in enumerate(zip(*rows, strict=True)):
        projection_DW = w[f"model.ngram_embeddings.post_projs.{table}.weight"]
        grams_TD += w[f"model.ngram_embeddings.embedders.{table}.weight"][list(rows_T)] @ projection_DW.T
    parts = 1 + len(rows[0])
    mean_TD = word_TD + grams_TD / parts if config.ngram_word_scale == "full" else (word_TD + grams_TD) / parts
    e_TD = np.where(np.isin(ids, config.ngram_excluded_ids)[:, None], word_TD + grams_TD, mean_TD)
    if config.ngram_amplification == "sqrt_d":
        return e_TD * np.sqrt(config.hidden_size)
    if config.ngram_amplification == "norm":
        root_T1 = np.sqrt((e_TD**2).mean(axis=1, keepdims=True) + config.rms_norm_eps)
        return e_TD / root_T1 * w["model.embed_tokens.norm.weight"]
    return e_TD


@pytest.mark.parametrize("amplification", ["none", "sqrt_d", "norm"])
@pytest.mark.parametrize("word_scale", ["mean", "full"])
def test_vectors_equal_the_equation(build_model: BuildModel, word_scale: str, amplification: str) -> None:
    changes = {"ngram_word_scale": word_scale, "ngram_amplification": amplification, "ngram_excluded_ids": [9, 11]}
    model = build_model(**NGRAM, **changes)
    ids = random_text(model.config, 400, 6)
    rows = [oracle_rows(model.config, ids, place, 0) for place in range(400)]
    expected = torch.from_numpy(oracle_vectors(model, ids, rows))
    torch.testing.assert_close(model.double().embed(torch.tensor([ids]))[0], expected, rtol=1e-12, atol=1e-12)


def test_gradients_of_float32_are_those_of_float64(build_model: BuildModel) -> None:
    """Every gradient within 1e-5 of its largest value; sparse gradients of tables are the same in fewer rows."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    ids_BT = torch.randint(0, 97, (2, 50), generator=torch.Generator().manual_seed(3))
    for kind in ("double", "float", "sparse"):
        model = build_model(**NGRAM, ngram_amplification="norm", ngram_excluded_ids=[9])
        embedding = model.model.embed_tokens.double() if kind == "double" else model.model.embed_tokens
        embedding.sparse_gradients = kind == "sparse"
        weights = torch.randn(2, 50, 32, generator=torch.Generator().manual_seed(4))
        (model.embed(ids_BT) * weights).square().sum().backward()
        found[kind] = {name: p.grad for name, p in embedding.named_parameters() if p.grad is not None}
    assert found["sparse"]["tables"].is_sparse
    assert found["sparse"]["tables"].coalesce().indices().shape[1] < 100 * 4
    found["sparse"]["tables"] = found["sparse"]["tables"].to_dense()
    assert found["double"].keys() == {"weight", "tables", "projection.weight", "norm.weight"}
    for kind in ("float", "sparse"):
        for name, expected in found["double"].items():
            error = (found[kind][name].double() - expected).abs().max() / expected.abs().max()
            assert error < 1e-5, (kind, name)


@torch.no_grad()
def test_decoding_equals_the_forward_pass_in_float32(build_model: BuildModel) -> None:
    """In pieces, after a rewind, over ends of texts; relative to the largest logit."""
    model = build_model(**NGRAM, ngram_amplification="sqrt_d", ngram_excluded_ids=[9])
    ids_BT = torch.tensor([random_text(model.config, 40, seed) for seed in (1, 2)])
    whole = model(ids_BT).logits
    rows = Rows(model, 2, 40, page_size=4)
    rows.append(ids_BT[:, :23])
    assert rows.rewind(11) == 11
    found = [rows.append(piece).logits for piece in ids_BT[:, 11:].split([1, 5, 1, 1, 21], dim=1)]
    assert (torch.cat(found, dim=1) - whole[:, 11:]).abs().max() / whole.abs().max() < 2e-6


@torch.no_grad()
def test_packed_tiled_and_batch_invariant_models_have_them(build_model: BuildModel) -> None:
    model = build_model(**NGRAM, ngram_amplification="norm")
    ids = random_text(model.config, 20, 3)
    whole = model(torch.tensor([ids])).logits[0]
    tiled = TiledModel(model).step([Piece(ids, 0, range(5), 20)], model.new_pages(5, 4)).logits_RV
    torch.testing.assert_close(tiled, whole, rtol=1e-4, atol=1e-4)
    with batch_invariant():
        logits, alone = model(torch.tensor([ids])).logits[0], model(torch.tensor([ids[:9]])).logits[0]
    assert torch.equal(logits[:9], alone)
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-4)
    report = prepare(model, "fp32")
    assert report.kept["NgramEmbedding.tables"] == 1
    torch.testing.assert_close(model(torch.tensor([ids])).logits[0], whole, rtol=1e-4, atol=1e-4)


def test_sizes_are_the_published_ones() -> None:
    """LongCat-Flash-Lite: 12 tables; LongCat-2.0: 16 tables with 16,476,897 + 2 i + 1 rows."""
    lite, two = NgramTables(131072, 3072, 4, 4, 78.0), NgramTables(163840, 8192, 5, 4, 100.567)
    assert (lite.count, lite.width, lite.sizes[:2], lite.sizes[-1]) == (12, 256, (10223617, 10223619), 10223639)
    assert (two.count, two.width, two.sizes[0]) == (16, 512, 16476898)
    assert lite.parameters == 256 * sum(range(10223617, 10223640, 2)) + 3072**2
    assert round(lite.parameters / 1e9, 3) == 31.416
    assert round(two.parameters / 1e9, 2) == 135.05


def test_tables_of_another_ratio_are_refused(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(**NGRAM), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("2.57", "3.57"))
    told = (
        f"{tmp_path}/model.safetensors: model.ngram_embeddings.embedders.0.weight has 250 rows, ngram_vocab_size_ratio "
        "= 3.57 of config.json asks for 347; the tables are of another ratio"
    )
    with pytest.raises(CheckpointError, match=re.escape(told)):
        load_pretrained(tmp_path)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "absurd ratio": ({"ngram_vocab_size_ratio": 1e6, "vocab_size": 1 << 24}, "ngram_vocab_size_ratio = 1e+06 times"),
    "absurd model": ({"ngram_vocab_size_ratio": 1e6, "vocab_size": 1 << 17, "hidden_size": 12288}, "parameters, more"),
    "width": ({"hidden_size": 34}, "hidden_size = 34 is not a multiple of the 4 n-gram tables"),
    "excluded": ({"ngram_excluded_ids": [5, 97]}, "ngram_excluded_ids: 97 is outside vocab_size = 97"),
    "negative": ({"ngram_excluded_ids": [-1]}, "ngram_excluded_ids: -1 is outside vocab_size = 97"),
    "too short": ({"emb_neighbor_num": 1}, "emb_neighbor_num = 1: Input should be greater than or equal to 2"),
    "no ratio": ({"ngram_vocab_size_ratio": None}, "emb_neighbor_num = 3 needs ngram_vocab_size_ratio"),
    "not a number": ({"ngram_vocab_size_ratio": float("nan")}, "ngram_vocab_size_ratio = nan"),
    "fusion": ({"ngram_word_scale": "half"}, "ngram_word_scale = 'half'"),
    "shared": (
        {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True},
        "mtp_share_embeddings = True and ngram_vocab_size_ratio exclude each other",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_configuration_is_refused_before_anything_is_allocated(case: str, config: ModelConfig) -> None:
    changes, message = WRONG[case]
    with pytest.raises(ModelConfigError, match=re.escape(message)) as caught:
        ModelConfig.from_dict({**config.model_dump(), **NGRAM, **changes})
    assert "\n" not in str(caught.value)


def test_the_configuration_states_the_sizes(config: ModelConfig) -> None:
    changed = ModelConfig(**{**config.model_dump(), **NGRAM, "emb_neighbor_num": 5, "emb_split_num": 4})
    assert changed.to_dict()["emb_split_num"] == 4
    assert ModelConfig.from_dict(changed.to_dict()) == changed
    assert not any("ngram" in key or key.startswith("emb_") for key in config.to_dict())


def test_initial_values_do_not_depend_on_other_tables(config: ModelConfig) -> None:
    """A table has its own random stream: more rows leave the first ones as they are."""
    tables = []
    for ratio in (2.57, 3.57):
        model = LongcatFlash(ModelConfig(**{**config.model_dump(), **NGRAM, "ngram_vocab_size_ratio": ratio}))
        initialize(model, 5, {"embedding": 0.5, "hidden": 0.1})
        tables.append(dict(published_tensors(model)))
    key = "model.ngram_embeddings.{}.1.weight"
    assert torch.equal(tables[0][key.format("embedders")], tables[1][key.format("embedders")][:252])
    assert tables[0][key.format("embedders")].std().item() == pytest.approx(0.5, rel=0.1)
    assert tables[0][key.format("post_projs")].std().item() == pytest.approx(0.1, rel=0.1)
