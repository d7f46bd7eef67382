"""The recipe `lite`, with smaller sizes: its model has n-gram embeddings and a longer context, and is exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longcat.model.checkpoint import load_pretrained
from longcat.pipeline.files import read_json
from longcat.pipeline.store import Store
from tests.package.other_program import deviation, run_beside, take_logits
from tests.package.test_mlx_lm import OTHER, SCRIPT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = ("crawl.limit=40", "tokenizer.vocab_size=600", "base.steps=30", "evaluation.windows=4")


def longcat(store: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "longcat.cli", "--store", str(store), "--quiet", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of the extended checkpoint and of its export."""
    folder = tmp_path_factory.mktemp("lite")
    settings = [text for setting in SMALL for text in ("--set", setting)]
    longcat(folder / "store", "run", "lite", *settings)
    longcat(folder / "store", "export", "lite-extended", "--output", str(folder / "out"))
    return Store(folder / "store").resolve("lite-extended").path, folder / "out"


def test_the_export_is_a_model_with_ngram_embeddings_and_yarn(exported: tuple[Path, Path]) -> None:
    ours, theirs = exported
    config = read_json(theirs / "config.json")
    assert config["model_type"] == "longcat_flash_ngram"
    assert (config["emb_neighbor_num"], config["emb_split_num"], config["ngram_vocab_size_ratio"]) == (3, 2, 3.57)
    assert config["max_position_embeddings"] == 1024
    assert config["rope_scaling"]["factor"] == 4.0
    ids = torch.randint(4, 600, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(load_pretrained(theirs)(ids).logits, load_pretrained(ours)(ids).logits)


def test_mlx_lm_gives_its_logits(exported: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = exported
    ids = torch.randint(4, 600, (2, 40), generator=torch.Generator().manual_seed(0))
    run_beside(tmp_path / "venv", OTHER, SCRIPT, [[str(theirs)], ids.tolist()])
    with torch.no_grad():
        assert deviation(take_logits(theirs), load_pretrained(ours)(ids).logits) < 2e-5
