"""Fit the scorer's weights on pages whose main content is known; run by hand, not by any stage.

    python benchmarks/fit_content_scorer.py OUTPUT.npz --pages CRAWL.warc.gz TRUTH.jsonl [--pages ...]
        [--teacher TEXTS.jsonl] [--folds 4]

The page kind is fitted first (a softmax over page statistics), then the network of the first pass, then that of the
second, whose inputs are the scores of first networks fitted on other sites. The loss is one minus the soft word F1 of
each page, plus the cross-entropy of blocks. `--folds` first fits on all sites but those of one fold, in turn, and
writes the texts of the sites left out beside OUTPUT (`.texts.jsonl`), which `data_extract.py --texts` compares with
peers. `--teacher` has `id` and `text` per line, for pages of which only snippets are known; `data_extract.py
--write-texts` makes it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from content_samples import Measures, Sample, fold, read_samples
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, embedding_bag

from longcat.stages.data.extract.content.columns import Floats
from longcat.stages.data.extract.content.context import context_features
from longcat.stages.data.extract.content.features import KINDS
from longcat.stages.data.extract.content.markdown import to_markdown
from longcat.stages.data.extract.content.scorer import (
    FAR_WEIGHT,
    LIMIT,
    NEAR_LEVELS,
    NEAR_WEIGHT,
    Weights,
    first_pass,
    kind_probabilities,
    score,
)
from longcat.stages.data.extract.content.selection import select
from longcat.stages.data.extract.content.vocabulary import Vocabulary, class_words, text_words

FIRST, SECOND = (32, 16), (32, 16)
EPOCHS = 12
BATCH = 16  # pages
LEARNING_RATE = 4e-3
WEIGHT_DECAY, WORD_DECAY = 3e-2, 0.3
DROPOUT, INPUT_DROPOUT, WORD_DROPOUT = 0.15, 0.1, 0.3
KIND_DECAY = 0.03
INNER_FOLDS = 3
LEAST_SITES = 12  # of a word of the vocabulary
Bag = tuple[Any, Any, Any]


class Network(nn.Module):
    """Three layers; vectors of words are added to the outputs of the first."""

    def __init__(self, inputs: int, widths: tuple[int, int], vocabularies: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, widths[0])
        self.words = nn.ParameterList([nn.Parameter(torch.zeros(size, widths[0])) for size in vocabularies])
        self.rest = nn.Sequential(
            nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(*widths), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(widths[1], 1)
        )
        self.input_dropout = nn.Dropout(INPUT_DROPOUT)

    def forward(self, rows: Tensor, bags: list[Bag]) -> Tensor:
        values = self.first(self.input_dropout(rows))
        for table, (found, offsets, given) in zip(self.words, bags, strict=True):
            weights = given * (torch.rand_like(given) > WORD_DROPOUT) / (1 - WORD_DROPOUT) if self.training else given
            values = values + embedding_bag(found, table, offsets, mode="sum", per_sample_weights=weights)
        scores: Tensor = self.rest(values).squeeze(-1)
        return scores


class Words:
    """The vocabularies of some samples, and the words of each block with their weights, as `scorer` has them."""

    def __init__(self, samples: list[Sample]) -> None:
        self.text = Vocabulary(_common(samples, lambda sample: [text_words(words) for words in sample.features.words]))
        self.classes = Vocabulary(_common(samples, lambda sample: [class_words(*kind) for kind in sample.blocks.kinds]))
        self.sizes = tuple(len(words.numbers) for words in (self.text, self.classes, self.classes))

    def of_page(self, sample: Sample) -> list[list[tuple[list[int], list[float]]]]:
        """For each of the three bags (text, near, far) the numbers and weights of each block."""
        texts = [_weighted(self.text.of_text(words)) for words in sample.features.words]
        kinds = [_weighted(self.classes.of_kind(kind)) for kind in sample.blocks.kinds]
        near, far = [], []
        around: dict[int, tuple[Any, Any]] = {}
        for block in sample.blocks.blocks:
            if block.element not in around:
                around[block.element] = self._around(sample, block.element, kinds)
            near.append(around[block.element][0])
            far.append(around[block.element][1])
        return [texts, near, far]

    @staticmethod
    def _around(sample: Sample, element: int, kinds: list[tuple[list[int], list[float]]]) -> tuple[Any, Any]:
        bags: tuple[Any, Any] = ([], []), ([], [])
        level = 0
        while element >= 0:
            found, weights = kinds[sample.blocks.keys[element]]
            is_far = level >= NEAR_LEVELS
            bags[is_far][0].extend(found)
            bags[is_far][1].extend([value * (FAR_WEIGHT if is_far else NEAR_WEIGHT) for value in weights])
            element = sample.blocks.parents[element]
            level += 1
        return bags


def _common(samples: list[Sample], words_of: Any) -> list[str]:
    """Words of at least `LEAST_SITES` sites."""
    sites: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        for word in set(chain.from_iterable(words_of(sample))):
            sites[word].add(sample.site)
    return sorted(word for word, found in sites.items() if len(found) >= LEAST_SITES)


def _weighted(found: tuple[int, ...]) -> tuple[list[int], list[float]]:
    return list(found), [max(len(found), 1) ** -0.5] * len(found)


class Packed:
    """Words of all blocks of all pages, end to end."""

    def __init__(self, pages: list[list[tuple[list[int], list[float]]]]) -> None:
        lengths = [len(found) for page in pages for found, _ in page]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])
        self.found = np.fromiter((n for page in pages for found, _ in page for n in found), np.int64)
        self.weights = np.fromiter((w for page in pages for _, weights in page for w in weights), np.float32)

    def select(self, rows: Any) -> Bag:
        """Words, offsets and weights of some blocks."""
        low, sizes = self.offsets[rows], self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        index = np.repeat(low - offsets, sizes) + np.arange(sizes.sum())
        return torch.from_numpy(self.found[index]), torch.from_numpy(offsets), torch.from_numpy(self.weights[index])


def fit_kind(samples: list[Sample]) -> dict[str, Floats]:
    """Weight [kinds, page features] and bias [kinds] of the softmax over page statistics."""
    samples = [sample for sample in samples if sample.truth["type"] in KINDS]
    pages = np.stack([sample.features.page for sample in samples])
    mean, deviation = pages.mean(0), pages.std(0) + 0.05
    inputs = torch.tensor((pages - mean) / deviation)
    kinds = torch.tensor([KINDS.index(sample.truth["type"]) for sample in samples])
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
    return {"kind_weight": weight, "kind_bias": layer.bias.detach().numpy() - weight @ mean}


def fit(samples: list[Sample]) -> Weights:
    """All arrays and vocabularies."""
    arrays = fit_kind(samples)
    words = Words(samples)
    bags = [words.of_page(sample) for sample in samples]
    # Kinds out of fold, so that the networks rely on them no more than they may on a new page.
    by_fold = [fit_kind([s for s in samples if fold(s.site, "kind", INNER_FOLDS) != n]) for n in range(INNER_FOLDS)]
    rows = [_rows(sample, by_fold[fold(sample.site, "kind", INNER_FOLDS)]) for sample in samples]
    weights = _stored(words, {**arrays, **_fit_first(samples, rows, bags, words)})
    scores = _scores_out_of_fold(samples, rows, bags, words, arrays)
    inputs = [
        np.concatenate([row, context_features(sample.features, scores[number])], axis=1)
        for number, (sample, row) in enumerate(zip(samples, rows, strict=True))
    ]
    weights.arrays.update(_train("second", samples, inputs, SECOND, [], ()))
    return weights


def _fit_first(samples: list[Sample], rows: list[Floats], bags: list[Any], words: Words) -> dict[str, Floats]:
    packed = [Packed([page[bag] for page in bags]) for bag in range(3)]
    return _train("first", samples, rows, FIRST, packed, words.sizes)


def _scores_out_of_fold(
    samples: list[Sample], rows: list[Floats], bags: list[Any], words: Words, arrays: dict[str, Floats]
) -> dict[int, Floats]:
    scores: dict[int, Floats] = {}
    for number in range(INNER_FOLDS):
        inside = [n for n, sample in enumerate(samples) if fold(sample.site, "second", INNER_FOLDS) != number]
        chosen = [[values[n] for n in inside] for values in (samples, rows, bags)]
        weights = _stored(words, {**arrays, **_fit_first(chosen[0], chosen[1], chosen[2], words)})  # type: ignore[arg-type]
        for n in set(range(len(samples))) - set(inside):
            scores[n] = first_pass(samples[n].features, rows[n], weights)
    return scores


def _stored(words: Words, arrays: dict[str, Floats]) -> Weights:
    return Weights(arrays, "\n".join(words.text.numbers), "\n".join(words.classes.numbers))


def _rows(sample: Sample, kind: dict[str, Floats]) -> Floats:
    kinds = kind_probabilities(sample.features, Weights(kind, "", ""))
    return np.concatenate([sample.features.rows, np.repeat(kinds[None], len(sample.words), axis=0)], axis=1)


def _train(
    name: str, samples: list[Sample], rows: list[Floats], widths: tuple[int, int], packed: list[Packed], sizes: Any
) -> dict[str, Floats]:
    """Arrays of a network by their names in `Weights`."""
    torch.manual_seed(0)
    joined = np.concatenate(rows)
    mean, deviation = joined.mean(0), joined.std(0) + 0.05
    inputs = torch.tensor(np.clip((joined - mean) / deviation, -LIMIT, LIMIT))
    network = Network(joined.shape[1], widths, sizes)
    _optimise(network, samples, inputs, packed)
    arrays = {f"{name}_mean": mean, f"{name}_deviation": deviation}
    layers = [network.first, *(layer for layer in network.rest if isinstance(layer, nn.Linear))]
    for number, layer in enumerate(layers):
        arrays[f"{name}_weight{number}"] = layer.weight.detach().numpy().T.copy()
        arrays[f"{name}_bias{number}"] = layer.bias.detach().numpy()
    for bag, table in zip(("text", "near", "far"), network.words, strict=False):
        arrays[bag] = table.detach().numpy()
    return {key: array.astype(np.float32) for key, array in arrays.items()}


def _optimise(network: Network, samples: list[Sample], inputs: Tensor, packed: list[Packed]) -> None:
    plain = [parameter for key, parameter in network.named_parameters() if not key.startswith("words")]
    groups = [{"params": plain, "weight_decay": WEIGHT_DECAY}]
    if packed:
        groups.append({"params": list(network.words), "weight_decay": WORD_DECAY, "lr": LEARNING_RATE / 2})
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-len(samples) // BATCH))
    bounds = np.cumsum([0, *(len(sample.words) for sample in samples)])
    wanted, words, weight = (
        torch.tensor(np.concatenate([getattr(sample, name) for sample in samples]))
        for name in ("wanted", "words", "weight")
    )
    truth = torch.tensor([sample.truth_words * sample.known for sample in samples], dtype=torch.float32)
    order = np.random.default_rng(0)
    network.train()
    for _ in range(EPOCHS):
        shuffled = order.permutation(len(samples))
        for start in range(0, len(shuffled), BATCH):
            pages = shuffled[start : start + BATCH]
            index = np.concatenate([np.arange(bounds[page], bounds[page + 1]) for page in pages])
            page_of = torch.tensor(np.repeat(np.arange(len(pages)), bounds[pages + 1] - bounds[pages]))
            scores = network(inputs[index], [words_of.select(index) for words_of in packed])
            loss = _loss(scores, wanted[index], words[index], weight[index], truth[pages], page_of)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def _loss(scores: Tensor, wanted: Tensor, words: Tensor, weight: Tensor, truth: Tensor, page_of: Tensor) -> Tensor:
    """One minus soft word F1 where `truth` is known (not 0), plus cross-entropy with long blocks weighing more."""

    def by_page(values: Tensor) -> Tensor:
        return torch.zeros(len(truth)).index_add(0, page_of, values)

    kept = torch.sigmoid(scores) * words
    known = truth.clamp(min=1)
    f1 = 2 * torch.minimum(by_page(kept * wanted), known) / (by_page(kept) + known)
    weight = (words.sqrt() + 0.2) * weight
    entropy = binary_cross_entropy_with_logits(scores, wanted, reduction="none") * weight / by_page(weight)[page_of]
    return ((1 - f1) * (truth > 0)).mean() + entropy.sum() / len(truth)


def text_of(sample: Sample, weights: Weights) -> str:
    """Main text of a page by these weights, without what the page's head says."""
    kind, scores = score(sample.features, weights)
    return to_markdown(sample.blocks, select(sample.features, scores, kind, "auto").keep)


def cross_validate(samples: list[Sample], folds: int, texts: Path) -> None:
    """Write the text of each page by weights that were fitted without its site, and print the measures."""
    total, lines = Measures(), []
    for number in range(folds):
        started = time.time()
        weights = fit([sample for sample in samples if fold(sample.site, "fold", folds) != number])
        for sample in samples:
            if fold(sample.site, "fold", folds) == number:
                text = text_of(sample, weights)
                total.add(sample.truth, text)
                lines.append(json.dumps({"set": sample.origin, "id": sample.truth["id"], "text": text}))
        print(f"fold {number}: {time.time() - started:.0f} s", flush=True)
    texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("  ".join(f"{name} {value:.4f}" for name, value in total.summary().items()), flush=True)


def save(path: Path, weights: Weights) -> None:
    """Write what `Weights.read` reads, in half precision except for statistics."""
    arrays: dict[str, Any] = {
        name: array if name.endswith(("mean", "deviation")) else array.astype(np.float16)
        for name, array in weights.arrays.items()
    }
    for name, known in (("text_words", weights.text_words), ("class_words", weights.class_words)):
        arrays[name] = np.frombuffer("\n".join(known.numbers).encode(), np.uint8)
    np.savez_compressed(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("output", type=Path)
    parser.add_argument("--pages", type=Path, nargs=2, action="append", required=True, metavar=("CRAWL", "TRUTH"))
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--folds", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = options.teacher.read_bytes().splitlines() if options.teacher else []
    taught = {item["id"]: item["text"] for item in map(json.loads, lines)}
    samples = [sample for crawl, truth in options.pages for sample in read_samples(crawl, truth, taught)]
    print(f"{len(samples)} pages with text", flush=True)
    if options.folds:
        cross_validate(samples, options.folds, options.output.with_suffix(".texts.jsonl"))
    save(options.output, fit(samples))


if __name__ == "__main__":
    main()
