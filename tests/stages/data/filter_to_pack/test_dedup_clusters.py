"""Pairs and clusters: what is compared, what is joined, measured against datasketch and against exact Jaccard."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document, write_documents
from longcat.stages.data.dedup import match
from longcat.stages.data.dedup.clusters import Clusters
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.keep import Earlier, keepers
from longcat.stages.data.dedup.match import MatchTask, match_part, read_pairs, similarity
from longcat.stages.data.dedup.runs import EXACT, Runs, SortedRun, save_array
from longcat.stages.data.dedup.signature_pass import SignTask, sign_shard
from longcat.stages.data.dedup.signatures import Permutations, Signer, distinct_ngrams, draw_permutations


def text(generator: random.Random, words: int) -> str:
    return " ".join(f"w{generator.randrange(4000)}" for _ in range(words))


def edited(generator: random.Random, original: str, rate: float) -> str:
    return " ".join(f"e{generator.random()}" if generator.random() < rate else word for word in original.split())


def jaccard(first: str, second: str) -> float:
    sets = [set(distinct_ngrams(item, 5).tolist()) for item in (first, second)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def corpus(generator: random.Random) -> list[str]:
    """Originals, each with copies of rising edit rates."""
    originals = [text(generator, generator.randrange(60, 300)) for _ in range(60)]
    return [edited(generator, item, rate) for item in originals for rate in (0.0, 0.005, 0.01, 0.02, 0.05, 0.2)]


def permutations_of(config: DedupConfig) -> Permutations:
    return draw_permutations(config.num_perm, config.seed)


def signed(folder: Path, texts: list[str], config: DedupConfig) -> Runs:
    write_documents(folder / "shard.jsonl.zst", [Document(f"d{n:05d}", item, "s") for n, item in enumerate(texts)])
    result = sign_shard(
        SignTask(InputShard(folder / "shard.jsonl.zst", "a"), 0, folder, config, permutations_of(config))
    )
    runs = Runs(folder, tuple(SortedRun(**run) for run in result["runs"]))
    runs.save()
    save_array(folder / "firsts.npy", np.ones(len(texts), dtype=np.bool_))
    return runs


def pairs_of(runs: Runs, config: DedupConfig, section: int, parts: int = 1) -> list[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for part in range(parts):
        target = runs.folder / "pairs.bin"
        match_part(MatchTask(runs.folder, section, part, parts, target, runs.folder / "firsts.npy", config))
        for pairs in read_pairs(target):
            found.update((min(pair), max(pair)) for pair in pairs.tolist())
    return sorted(found)


def roots_of(runs: Runs, config: DedupConfig) -> list[int]:
    clusters = Clusters(runs.documents)
    for section in (EXACT, *range(config.bands)):
        clusters.join(np.array(pairs_of(runs, config, section), dtype=np.int64).reshape(-1, 2))
    return clusters.roots().tolist()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=30).map(
            lambda pairs: np.array(pairs, dtype=np.int64).reshape(-1, 2)
        ),
        max_size=4,
    )
)
def test_clusters_are_the_connected_parts(steps: list[np.ndarray]) -> None:
    clusters = Clusters(31)
    smallest = list(range(31))
    for pairs in steps:
        clusters.join(pairs)
        for one, other in pairs.tolist():
            low, high = sorted((smallest[one], smallest[other]))
            smallest = [low if root == high else root for root in smallest]
    assert clusters.roots().tolist() == smallest


def test_bands_find_the_pairs_that_datasketch_finds(tmp_path: Path) -> None:
    config = DedupConfig(min_similarity=None)
    runs = signed(tmp_path, corpus(random.Random(2)), config)
    index = MinHashLSH(num_perm=config.num_perm, params=(config.bands, config.rows))
    rows = runs.gather("signatures", np.arange(runs.documents))
    sketches = [MinHash(hashvalues=row, scheme="affine32") for row in rows]
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch)
    expected = {(min(n, o), max(n, o)) for n, sketch in enumerate(sketches) for o in index.query(sketch) if n != o}
    found = {pair for band in range(config.bands) for pair in pairs_of(runs, config, band)}
    assert len(expected) > 200
    assert found == expected


@pytest.mark.parametrize("exact_jaccard", [False, True])
def test_near_copies_are_found_and_strangers_are_not(tmp_path: Path, exact_jaccard: bool) -> None:
    texts = corpus(random.Random(3))
    config = DedupConfig(exact_jaccard=exact_jaccard)
    roots = roots_of(signed(tmp_path, texts, config), config)
    near = [
        (a, b) for a in range(len(texts)) for b in range(a) if a // 6 == b // 6 and jaccard(texts[a], texts[b]) >= 0.8
    ]
    assert len(near) > 200
    assert sum(roots[a] == roots[b] for a, b in near) / len(near) >= 0.95
    assert all(root // 6 == number // 6 for number, root in enumerate(roots))


def test_pairs_do_not_depend_on_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = corpus(random.Random(4))
    config = DedupConfig()
    whole = signed(tmp_path / "whole", texts, config)
    monkeypatch.setattr("longcat.stages.data.dedup.signature_pass.BATCH_DOCUMENTS", 50)
    monkeypatch.setattr(match, "PAIRS_A_STEP", 64)
    split = signed(tmp_path / "split", texts, DedupConfig(memory_mib=1))
    assert len(whole.runs) == 1 < len(split.runs)
    for section in (EXACT, 0, 5):
        found = pairs_of(whole, config, section)
        assert found
        assert found == pairs_of(split, config, section, parts=7)
    with_all = Runs.load(tmp_path / "whole")
    assert (with_all.parts(0, 1 << 20), with_all.parts(0, 640)) == (1, -(-len(texts) * 64 // 640))


def test_the_exact_check_gives_the_jaccard_of_the_ngrams(tmp_path: Path) -> None:
    texts = [*corpus(random.Random(5))[:12], "...", "one", "..."]
    config = DedupConfig(exact_jaccard=True)
    pairs = np.array([(0, 5), (3, 1), (0, 7), (13, 0), (2, 2)])
    expected = [jaccard(texts[one], texts[other]) for one, other in pairs.tolist()]
    assert similarity(signed(tmp_path, texts, config), pairs, config).tolist() == expected


def test_a_candidate_pair_below_the_least_similarity_is_let_go(tmp_path: Path) -> None:
    generator = random.Random(6)
    common = text(generator, 200)
    texts = [common, edited(generator, common, 0.02)]
    assert 0.6 < jaccard(*texts) < 0.9
    for least, groups in ((None, 1), (0.5, 1), (0.95, 2)):
        config = DedupConfig(bands=40, rows=2, min_similarity=least)
        assert len(set(roots_of(signed(tmp_path, texts, config), config))) == groups


def test_in_a_large_bucket_members_unlike_the_first_meet_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match, "SMALL_BUCKET", 2)
    generator = random.Random(7)
    first, second, common = text(generator, 60), text(generator, 40), text(generator, 5)
    texts = [f"{common} {first}", f"{common} {second}", f"{common} {second} last"]
    seed = next(seed for seed in range(5000) if _all_share(texts, seed))
    runs = signed(tmp_path, texts, config := DedupConfig(bands=1, rows=1, exact_jaccard=True, seed=seed))
    assert pairs_of(runs, config, 0) == [(1, 2)]
    assert len(pairs_of(runs, config.model_copy(update={"min_similarity": None}), 0)) == 2


def _all_share(texts: list[str], seed: int) -> bool:
    return len({row.tobytes() for row in Signer(draw_permutations(1, seed), 5).sign(texts)}) == 1


def test_texts_without_words_are_not_near_each_other(tmp_path: Path) -> None:
    config = DedupConfig(min_similarity=None)
    assert roots_of(signed(tmp_path, ["...", "!!!", "???"], config), config) == [0, 1, 2]


def test_the_best_stays_then_the_longest_then_the_smallest_id(tmp_path: Path) -> None:
    facts = [  # id, characters, quality: in groups of which the second-last is to stay
        [("a", 5, 0.1), ("b", 9, None), ("c", 4, 0.2), ("d", 9, "0.9")],
        [("a", 5, None), ("b", 5, float("nan")), ("z", 9, None), ("c", 5, True)],
        [("c", 5, 1), ("b", 4, 1.0), ("a", 5, 1.0), ("d", 5, 1)],
    ]
    documents = [
        Document(name, str(group) * size, "s", metadata={} if quality is None else {"quality": quality})
        for group, members in enumerate(facts)
        for name, size, quality in members
    ]
    write_documents(tmp_path / "shard.jsonl.zst", documents)
    result = sign_shard(
        SignTask(
            InputShard(tmp_path / "shard.jsonl.zst", "a"), 0, tmp_path, DedupConfig(), permutations_of(DedupConfig())
        )
    )
    runs = Runs(tmp_path, tuple(SortedRun(**run) for run in result["runs"]))
    assert keepers(runs, np.repeat([0, 4, 8], 4), Earlier(12)).tolist() == [2] * 4 + [6] * 4 + [10] * 4
    assert keepers(runs, np.arange(12), Earlier(12)).tolist() == list(range(12))
