"""The words on which the scorer is fitted have the weights that it gives them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resiliparse.parse.html import HTMLTree
from torch.nn.functional import embedding_bag

from longcat.stages.data.extract.content import scorer
from longcat.stages.data.extract.content.blocks import read_blocks
from longcat.stages.data.extract.content.features import PageFeatures

PAGE = """<body class="single post"><div id="wrap"><div class="pageColumn main-part"><section><div class="entry share">
<article><h1>On bread</h1><p class="lead">Two words, 3 loaves.</p><ul class="list"><li>Flour<li>Water and salt</ul>
</article></div></section></div></div><footer><p>Copyright</p></footer></body>"""


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import fit_content_scorer

    monkeypatch.setattr(fit_content_scorer, "LEAST_SITES", 1)
    yield fit_content_scorer
    for name in ("fit_content_scorer", "content_samples"):
        sys.modules.pop(name)


def test_words_weigh_in_the_fit_what_they_weigh_in_the_scorer(fit: Any) -> None:
    blocks = read_blocks(HTMLTree.parse(PAGE).document.html)
    features = PageFeatures(blocks, "", "")
    truth = {"id": "a", "url": "https://example.org/", "text": "", "type": "article"}
    ones = np.ones(len(blocks.blocks), np.float32)
    sample = fit.Sample("truth", truth, blocks, features, ones, ones, ones, 1)
    words = fit.Words([sample])
    random = np.random.default_rng(0)
    bags = words.of_page(sample)
    arrays, expected = {}, np.zeros((len(blocks.blocks), 4), np.float32)
    for bag, name, size in zip(bags, ("text", "near", "far"), words.sizes, strict=True):
        arrays[name] = random.normal(size=(size, 4)).astype(np.float32)
        found, offsets, weights = fit.Packed([bag]).select(np.arange(len(blocks.blocks)))
        table = torch.from_numpy(arrays[name])
        expected += embedding_bag(found, table, offsets, mode="sum", per_sample_weights=weights).numpy()
    weights = scorer.Weights(arrays, "\n".join(words.text.numbers), "\n".join(words.classes.numbers))
    np.testing.assert_allclose(scorer._words(features, weights), expected, rtol=1e-5, atol=1e-5)
