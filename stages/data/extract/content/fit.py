"""Fit the scorer's weights on pages whose main content is known; run by hand, not by any stage.

    python -m longcat.stages.data.extract.content.fit PAGES.warc.gz TRUTH.jsonl weights.npz [--half 0|1]

The page kind is fitted first (a softmax over page statistics). Blocks get its probabilities as features, for training
pages out of fold, so that the network does not rely on them more than it may on a new page. The loss is one minus the
soft word F1 of each page, plus the cross-entropy of blocks.
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from longcat.stages.data.extract.content.blocks import read_blocks
from longcat.stages.data.extract.content.features import KINDS, Floats, PageFeatures
from longcat.stages.data.extract.content.scorer import LIMIT

WORD = re.compile(r"\w+")
HIDDEN = (24, 12)
EPOCHS = 25
BATCH = 16  # pages
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 3e-2
KIND_DECAY = 0.03
FOLDS = 5


@dataclass
class Sample:
    """One page: block features, page features, and for each block its words and how many of them are wanted."""

    id: str
    kind: int
    rows: Floats
    page: Floats
    wanted: Floats  # share of the block's word 4-grams that the truth holds
    words: Floats
    truth_words: int


def fold(name: str, salt: str, folds: int) -> int:
    """A page's fold by a checksum of its id, the same on every machine."""
    return zlib.crc32((salt + name).encode()) % folds


def read_samples(crawl: Path, truth: Path) -> Iterator[Sample]:
    """Pages of a WARC whose record ids end with `:id` of a line of `truth` (id, type, text)."""
    from fastwarc.warc import ArchiveIterator
    from resiliparse.parse.html import HTMLTree

    from longcat.stages.data.extract.decode import decode
    from longcat.stages.data.extract.html import without_controls

    known = {item["id"]: item for item in map(json.loads, truth.read_bytes().splitlines())}
    with crawl.open("rb") as stream:
        for record in ArchiveIterator(stream):
            item = known.get(str(record.record_id).strip("<>").rpartition(":")[2])
            if item is None:
                continue
            tree: Any = HTMLTree.parse(without_controls(decode(record.reader.read(), is_html=True).text))
            markup = tree.document.html
            blocks = read_blocks(markup)
            if blocks.blocks:
                yield _sample(
                    item, [block.text for block in blocks.blocks], PageFeatures(blocks, markup, tree.title or "")
                )


def _sample(item: dict[str, Any], texts: list[str], features: PageFeatures) -> Sample:
    truth = WORD.findall(item["text"].lower())
    grams = [set(zip(*(truth[start:] for start in range(size)), strict=False)) for size in (1, 2, 3, 4)]
    wanted, lengths = [], []
    for text in texts:
        words = WORD.findall(text.lower())
        size = min(4, len(words))
        own = list(zip(*(words[start:] for start in range(size)), strict=False)) if size else []
        wanted.append(sum(gram in grams[size - 1] for gram in own) / len(own) if own else 0.0)
        lengths.append(len(words))
    return Sample(
        item["id"],
        KINDS.index(item["type"]),
        features.rows,
        features.page,
        np.array(wanted, np.float32),
        np.array(lengths, np.float32),
        len(truth),
    )


def fit_kind(samples: list[Sample]) -> tuple[Floats, Floats]:
    """Weight [kinds, page features] and bias [kinds] of the softmax over page statistics."""
    pages = np.stack([sample.page for sample in samples])
    mean, deviation = pages.mean(0), pages.std(0) + 0.05
    inputs, kinds = torch.tensor((pages - mean) / deviation), torch.tensor([sample.kind for sample in samples])
    torch.manual_seed(0)
    layer = nn.Linear(pages.shape[1], len(KINDS))
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(layer(inputs), kinds) + KIND_DECAY / 2 * (layer.weight**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    weight = layer.weight.detach().numpy() / deviation
    return weight, layer.bias.detach().numpy() - weight @ mean


def kind_features(samples: list[Sample]) -> list[Floats]:
    """Kind probabilities of each page by a softmax that was fitted on the other folds."""
    fitted = [fit_kind([s for s in samples if fold(s.id, "f", FOLDS) != number]) for number in range(FOLDS)]
    found = []
    for sample in samples:
        weight, bias = fitted[fold(sample.id, "f", FOLDS)]
        found.append(torch.softmax(torch.tensor(weight @ sample.page + bias), 0).numpy())
    return found


def fit(samples: list[Sample]) -> dict[str, Floats]:
    """All arrays of `weights.npz`."""
    torch.set_num_threads(1)
    kind_weight, kind_bias = fit_kind(samples)
    rows = np.concatenate(
        [
            np.concatenate([sample.rows, np.repeat(kinds[None], len(sample.rows), 0)], axis=1)
            for sample, kinds in zip(samples, kind_features(samples), strict=True)
        ]
    )
    mean, deviation = rows.mean(0), rows.std(0) + 0.05
    inputs = torch.tensor((rows - mean) / deviation).clamp(-LIMIT, LIMIT)
    network = _train(samples, inputs)
    arrays = {"kind_weight": kind_weight, "kind_bias": kind_bias, "mean": mean, "deviation": deviation}
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(layers):
        arrays[f"weight{number}"] = layer.weight.detach().numpy().T
        arrays[f"bias{number}"] = layer.bias.detach().numpy()
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def _train(samples: list[Sample], inputs: Tensor) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Dropout(0.1), nn.Linear(inputs.shape[1], HIDDEN[0]), nn.ReLU(), nn.Dropout(0.2),
        nn.Linear(*HIDDEN), nn.ReLU(), nn.Dropout(0.2), nn.Linear(HIDDEN[1], 1),
    )  # fmt: skip
    bounds = np.cumsum([0, *(len(sample.rows) for sample in samples)])
    wanted = torch.tensor(np.concatenate([sample.wanted for sample in samples]))
    words = torch.tensor(np.concatenate([sample.words for sample in samples]))
    truth = torch.tensor([sample.truth_words for sample in samples], dtype=torch.float32)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = EPOCHS * -(-len(samples) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, batches)
    order = np.random.default_rng(0)
    for _ in range(EPOCHS):
        shuffled = order.permutation(len(samples))
        for start in range(0, len(shuffled), BATCH):
            pages = shuffled[start : start + BATCH]
            index = np.concatenate([np.arange(bounds[page], bounds[page + 1]) for page in pages])
            page_of = torch.tensor(np.repeat(np.arange(len(pages)), bounds[pages + 1] - bounds[pages]))
            scores = network(inputs[index]).squeeze(-1)
            loss = _loss(scores, wanted[index], words[index], truth[pages], page_of)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _loss(scores: Tensor, wanted: Tensor, words: Tensor, truth: Tensor, page_of: Tensor) -> Tensor:
    """One minus soft word F1, plus cross-entropy with long blocks weighing more, each as the mean over pages."""

    def by_page(values: Tensor) -> Tensor:
        return torch.zeros(len(truth)).index_add(0, page_of, values)

    kept = torch.sigmoid(scores) * words
    truth = truth.clamp(min=1)
    f1 = 2 * torch.minimum(by_page(kept * wanted), truth) / (by_page(kept) + truth)
    weight = words.sqrt() + 0.2
    entropy = binary_cross_entropy_with_logits(scores, wanted, reduction="none") * weight / by_page(weight)[page_of]
    return (1 - f1).mean() + entropy.sum() / len(truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("crawl", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--half", type=int, choices=(0, 1), help="fit on pages of this CRC-32 modulo 2 only")
    options = parser.parse_args()
    samples = list(read_samples(options.crawl, options.truth))
    if options.half is not None:
        samples = [sample for sample in samples if fold(sample.id, "", 2) == options.half]
    np.savez(options.output, **fit(samples))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
