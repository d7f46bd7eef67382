"""An engine whose n-gram tables are on disk: the texts of one in memory, alone and in batches, with drafts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from longcat.model.checkpoint import save_pretrained
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.options import EngineOptions
from tests.stages.inference.test_deterministic import PARAMS, TEXTS, run

NGRAM = {"ngram_vocab_size_ratio": 3.57, "emb_neighbor_num": 3, "emb_split_num": 2}


def written(folder: Path, tokenizer_folder: Path, **changes: object) -> Path:
    values = {"vocab_size": 400, "initializer_range": 0.3, "num_nextn_predict_layers": 1, **changes}
    model = LongcatFlash(load_preset("smoke").model_copy(update=values))
    initialize(model, 6)
    save_pretrained(model, folder)
    for path in tokenizer_folder.iterdir():
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("drafts", ["mtp", "ngram"])
def test_texts_are_those_of_tables_in_memory(drafts: str, tokenizer_folder: Path, tmp_path: Path) -> None:
    """To the bit, alone and together."""
    torch.set_num_threads(1)
    folder = written(tmp_path, tokenizer_folder, **NGRAM)
    found = []
    for place in ("memory", "disk"):
        given = {"deterministic": True, "drafts": drafts, "cache_tokens": 2048, "ngram_tables": place}
        engine = load_engine(folder, device="cpu", threads=1, options=EngineOptions.model_validate(given))
        prompts = [engine.tokenizer.encode(text) for text in TEXTS]
        found.append(run(engine, prompts, PARAMS))
        assert [run(engine, [prompt], PARAMS)[0] for prompt in prompts] == found[-1]
    assert found[0] == found[1]


def test_a_model_without_tables_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    folder = written(tmp_path, tokenizer_folder)
    with pytest.raises(ConfigError, match="no n-gram tables that could stay on disk"):
        load_engine(folder, device="cpu", threads=1, options=EngineOptions(ngram_tables="disk"))
