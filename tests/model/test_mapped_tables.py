"""N-gram tables on disk: the logits of a model in memory, rows that are read and no others, and damaged rows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.embeddings import mapped
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.init import initialize
from longcat.model.layout import published_tensors
from longcat.model.packed.prepare import prepare
from longcat.model.presets import load_preset
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash
from longcat.model.weights import write_json, write_shard

BuildModel = Callable[..., LongcatFlash]
NGRAM = {"ngram_vocab_size_ratio": 2.57, "emb_neighbor_num": 3, "emb_split_num": 2, "ngram_excluded_ids": [9]}
GIB, MIB = 1 << 30, 1 << 20


@pytest.fixture
def folder(build_model: BuildModel, tmp_path: Path) -> Path:
    model = build_model(**NGRAM, num_nextn_predict_layers=1)
    save_pretrained(model.bfloat16(), tmp_path, max_shard_bytes=30_000)
    return tmp_path


@pytest.fixture(name="ids_BT")
def token_ids() -> torch.Tensor:
    return torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(4))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_tables_in_memory(folder: Path, ids_BT: torch.Tensor, dtype: torch.dtype) -> None:
    whole, on_disk = (load_pretrained(folder, dtype=dtype, map_tables=here) for here in (False, True))
    assert not any("tables" in name for name, _ in on_disk.named_parameters())
    assert torch.equal(whole(ids_BT).logits, on_disk(ids_BT).logits)
    decoded = []
    for model in (whole, on_disk):
        rows = Rows(model, 2, 24)
        decoded.append(torch.cat([rows.append(piece).logits for piece in ids_BT.split([20, 1, 3], dim=1)], dim=1))
    assert torch.equal(*decoded)


@torch.no_grad()
def test_packed_weights_and_pages_given_back(
    folder: Path, ids_BT: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "KEPT_ROWS", 1)
    whole, on_disk = (load_pretrained(folder, map_tables=here) for here in (False, True))
    for model in (whole, on_disk):
        prepare(model, "fp32")
    for _ in range(2):
        torch.testing.assert_close(on_disk(ids_BT).logits, whole(ids_BT).logits, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_a_row_that_is_not_finite_is_named_when_it_is_read(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model(**NGRAM)
    table = model.model.embed_tokens.hashing.rows(torch.tensor([[11]]), torch.tensor([[[-1, 12]]]))[0, 0, 0]
    model.model.embed_tokens.tables[table] = float("nan")
    save_pretrained(model, tmp_path)
    damaged = load_pretrained(tmp_path, map_tables=True)
    assert damaged(torch.tensor([[12, 13]])).logits.isfinite().all()
    with pytest.raises(CheckpointError, match=rf"safetensors: row {int(table)} of an n-gram table is not finite"):
        damaged(torch.tensor([[12, 11]]))


def test_a_model_without_tables_is_refused(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(), tmp_path)
    told = f"{tmp_path}: the model has no n-gram tables that could stay on disk"
    with pytest.raises(ModelConfigError, match=re.escape(told)):
        load_pretrained(tmp_path, map_tables=True)


def write_large(folder: Path) -> None:
    """A small model with 4 GiB of tables, which are a hole in a file and so zeros."""
    small = load_preset("smoke").model_copy(update=NGRAM | {"vocab_size": 4096, "ngram_excluded_ids": ()})
    width = small.hidden_size // 4
    changes = {"ngram_vocab_size_ratio": 4 * GIB / (4 * 4 * width * 4096)}
    config = ModelConfig(**{**small.model_dump(), **changes})
    assert config.ngram_tables is not None
    model = LongcatFlash(small)
    initialize(model, 0)
    save_pretrained(model, folder / "small")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    whole = load_pretrained(folder / "small")
    rest = {key: tensor for key, tensor in published_tensors(whole) if "embedders" not in key}
    write_shard(folder / names[0], rest)
    header, end = {}, 0
    for table, rows in enumerate(config.ngram_tables.sizes):
        key, size = f"model.ngram_embeddings.embedders.{table}.weight", 4 * rows * width
        header[key] = {"dtype": "F32", "shape": [rows, width], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / names[1]).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    assert end > 4 * GIB
    keys = {**dict.fromkeys(rest, names[0]), **dict.fromkeys(header, names[1])}
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": end}, "weight_map": keys})
    write_json(folder / "config.json", config.to_dict())


DECODE = """
import random, sys
from pathlib import Path
import torch
from longcat.model.checkpoint import load_pretrained
from longcat.model.rows import Rows

def held(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(key)) << 10

torch.set_num_threads(1)
with torch.no_grad():
    load_pretrained(Path(sys.argv[1]) / "small")
    before = held("VmRSS")
    model = load_pretrained(sys.argv[1], map_tables=True)
    rows, generator = Rows(model, 8, 300), random.Random(1)
    for _ in range(300):
        rows.append(torch.tensor([[generator.randrange(4096)] for _ in range(8)]))
    print(held("VmHWM") - before)
"""


@pytest.mark.slow
def test_four_gibibytes_of_tables_take_the_memory_of_the_rows_read(tmp_path: Path) -> None:
    """9,600 rows of 2,400 tokens; what the process has before it loads the model is not counted."""
    write_large(tmp_path)
    done = subprocess.run([sys.executable, "-c", DECODE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 300 * MIB
