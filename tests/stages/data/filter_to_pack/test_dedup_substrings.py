"""Repeated substrings: what is removed is what a dictionary of all substrings says, in bounded memory."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document, document_shards, read_documents, write_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.kept import KeptShard
from longcat.stages.data.dedup.substrings import find, windows
from longcat.stages.data.dedup.substrings.cut import CutTask, Cutter, at_words, without
from longcat.stages.data.dedup.substrings.find import find_substrings
from longcat.stages.data.dedup.substrings.windows import window_hashes, winnow
from longcat.stages.data.text.character_kinds import codes_of

MakeDocuments = Callable[..., Artifact]
Shards = Sequence[Sequence[str]]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BLOCK_CHARACTERS", 96)


def words(seed: int, count: int) -> str:
    generator = random.Random(seed)
    return " ".join(f"w{generator.randrange(10**6)}" for _ in range(count))


def expected(shards: Shards, own: int, size: int) -> list[list[str]]:
    """Texts of the first `own` shards without what occurred before; the other shards come first."""
    first: dict[str, int] = {}
    start = 0
    found = {}
    for number in (*range(own, len(shards)), *range(own)):
        found[number] = []
        for text in shards[number]:
            gone = np.zeros(len(text), dtype=bool)
            for at in range(len(text) - size + 1):
                before = first.setdefault(text[at : at + size], start + at)
                if before < start + at:
                    gone[max(at, before + size - start) : at + size] = True
            start += len(text)
            found[number].append("".join(sign for sign, out in zip(text, gone, strict=True) if not out))
    return [found[number] for number in range(own)]


def cleaned(folder: Path, shards: Shards, own: int, size: int, memory: int = 512) -> list[list[str]]:
    """Texts of the first `own` shards as the stage cuts them."""
    config = DedupConfig(substrings={"enabled": True, "min_characters": size}, memory_mib=memory)
    sources = []
    for number, texts in enumerate(shards):
        path, kept = folder / f"{number}.jsonl.zst", folder / f"kept-{number}.npy"
        write_documents(path, [Document(f"{number}-{row}", text, "s") for row, text in enumerate(texts)])
        np.save(kept, np.ones(len(texts), dtype=bool))
        sources.append(KeptShard(InputShard(path, "a"), kept, None, "all"))

    def map_shards(function: Callable[[Any], Any], tasks: Sequence[Any], description: str) -> list[Any]:
        return [function(task) for task in tasks]

    context: Any = SimpleNamespace(config=config, work=folder, map_shards=map_shards)
    removals = find_substrings(context, sources, own)
    found = []
    for number, source in enumerate(sources[:own]):
        cutter = Cutter(CutTask(removals.files, removals.starts[number], folder / "seen.parquet"))
        texts = {document.id: document.text for document in cutter.clean(source.documents(None))}
        found.append([texts.get(f"{number}-{row}", "") for row in range(len(shards[number]))])
    return found


def corpus(seed: int, alphabet: str, size: int) -> list[list[str]]:
    """Texts without blanks that share pieces, with themselves and each other; some are longer than a block."""
    generator = random.Random(seed)

    def fresh(length: int) -> str:
        return "".join(generator.choice(alphabet) for _ in range(length))

    pool = [fresh(generator.randrange(size // 2, 3 * size)) for _ in range(6)]
    shards = []
    for _ in range(4):
        texts = []
        for _ in range(generator.randrange(5)):
            pieces = [generator.choice(pool) if generator.random() < 0.5 else fresh(generator.randrange(2 * size))]
            pieces += [generator.choice(pool) if generator.random() < 0.3 else fresh(9) for _ in range(4)]
            texts.append("".join(pieces))
        shards.append([*texts, ""])
    return shards


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.usefixtures("small_blocks")
def test_what_is_removed_occurred_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    size = (16, 17, 24)[seed % 3]
    shards = corpus(seed, "ab" if seed % 4 == 0 else "abcdefghij語𝄞é", size)
    own = 4 - seed % 2
    whole = expected(shards, own, size)
    assert cleaned(tmp_path, shards, own, size) == whole
    assert whole != [list(texts) for texts in shards[:own]]
    monkeypatch.setattr(find, "BYTES_AN_ENTRY", 1 << 16)  # many runs and ranges
    (tmp_path / "again").mkdir()
    assert cleaned(tmp_path / "again", shards, own, size, memory=1) == whole


@pytest.mark.parametrize("period", [1, 3, 7, 40])
def test_a_periodic_text_keeps_its_first_occurrence(tmp_path: Path, period: int) -> None:
    text = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[:period] * (2000 // period)
    ((found,),) = cleaned(tmp_path, [[text]], 1, 50)
    assert found == text[:50]
    assert [[found]] == expected([[text]], 1, 50)


def test_hashes_are_those_of_the_windows() -> None:
    text = words(1, 200) + words(1, 200)
    hashes = window_hashes(codes_of(text), 30)
    assert len(hashes) == len(text) - 29
    by_window: dict[str, int] = {}
    for at, value in enumerate(hashes.tolist()):
        assert by_window.setdefault(text[at : at + 30], value) == value
    assert len(set(by_window.values())) == len(by_window)
    assert len(window_hashes(codes_of("short"), 30)) == 0


def test_every_run_of_positions_has_a_fingerprint() -> None:
    generator = np.random.default_rng(1)
    hashes = generator.integers(0, 1 << 63, 5000, dtype=np.uint64)
    whole = np.ones(5000, dtype=np.bool_)
    whole[1000:1010] = False
    at = winnow(hashes, whole, 50)
    chosen = np.zeros(5000, dtype=np.bool_)
    chosen[at] = True
    for start in range(4951):
        inside = hashes[start : start + 50]
        if whole[start : start + 50].all():
            assert chosen[start + int(inside.argmin())]
    assert not chosen[1000:1010].any()
    assert len(at) < 5000 * 2.4 / 51


@pytest.mark.parametrize(
    ("text", "span", "found"),
    [
        ("one two three four", (5, 12), (7, 8)),
        ("one two three four", (4, 8), (4, 8)),
        ("one two three four", (3, 13), (3, 13)),
        ("one two three four", (0, 18), (0, 18)),
        ("one two three four", (0, 16), (0, 14)),
        ("one two three four", (5, 9), (7, 8)),
        ("語" * 30, (5, 20), (5, 20)),
        ("a" * 100 + " b", (50, 100), (50, 100)),
    ],
)
def test_words_are_kept_whole(text: str, span: tuple[int, int], found: tuple[int, int] | None) -> None:
    assert at_words(text, span) == found


@pytest.mark.parametrize(
    ("text", "spans", "left"),
    [
        ("one two three", [(4, 8)], "one three"),
        ("one two\nthree", [(4, 8)], "one\nthree"),
        ("one\n\ntwo\n\nthree", [(5, 8)], "one\n\nthree"),
        ("one two\n\ntwo three", [(4, 13)], "one\n\nthree"),
        ("一二三四", [(1, 3)], "一四"),
        ("one two three\n", [(0, 4)], "two three\n"),
        ("one two three\n", [(8, 14)], "one two"),
        ("one two three\n", [(8, 13)], "one two"),
        ("one two three four five", [(0, 4), (8, 14), (19, 23)], "two four"),
        ("one X X two", [(4, 5), (6, 7)], "one two"),
        ("one X\n\nX two", [(4, 5), (7, 8)], "one\n\ntwo"),
        ("  one two", [(6, 9)], "  one"),
        ("one", [(0, 3)], ""),
    ],
)
def test_the_sides_of_a_gap_are_joined(text: str, spans: list[tuple[int, int]], left: str) -> None:
    assert without(text, spans) == left


def config(**more: object) -> dict[str, object]:
    return {"near": False, "substrings": {"enabled": True, "min_characters": 200}, **more}


def texts_of(artifact: Artifact) -> dict[str, str]:
    return {d.id: d.text for shard in document_shards(artifact) for d in read_documents(shard)}


LICENCE = words(99, 60)


@pytest.fixture
def licensed() -> list[list[Document]]:
    """Five documents that quote a licence, one of which is nothing else, and two that quote too little of it."""
    texts = {
        "a": f"{words(1, 30)}\n\n{LICENCE}",
        "b": f"{words(2, 30)}\n\n{LICENCE}\n\n{words(3, 30)}",
        "c": LICENCE,
        "d": f"{words(4, 30)}\n{LICENCE[:150]}",
        "e": f"{words(5, 30)}\n\n{LICENCE} {words(6, 30)}",
    }
    documents = [Document(name, text, "s") for name, text in texts.items()]
    return [documents[:2], [], documents[2:]]


def test_all_but_the_first_occurrence_go(
    session: Session, make_documents: MakeDocuments, licensed: list[list[Document]]
) -> None:
    given = {d.id: d.text for d in chain(*licensed)}
    made = run_stage(session, "data.dedup", config(), {"documents": make_documents(*licensed)}).artifact
    assert texts_of(made) == {
        "a": given["a"],
        "b": f"{words(2, 30)}\n\n{words(3, 30)}",
        "d": given["d"],
        "e": f"{words(5, 30)}\n\n{words(6, 30)}",
    }
    assert made.manifest.counts == {"documents_in": 5, "documents_out": 4, "dropped": {"repeated_substrings": 1}}
    rows = pq.read_table(made.file("substrings.parquet")).to_pylist()
    assert [(row["document"], given[row["document"]][row["start"] :][: row["characters"]].strip()) for row in rows] == [
        (name, LICENCE) for name in "bce"
    ]
    assert all(LICENCE.startswith(row["text"].strip()) for row in rows)
    metrics = made.manifest.metrics
    assert (metrics["substrings_removed"], metrics["substring_documents_changed"]) == (3, 3)
    assert metrics["substring_characters_removed"] == sum(row["characters"] for row in rows)


def test_the_given_order_decides_which_is_first(
    session: Session, make_documents: MakeDocuments, licensed: list[list[Document]]
) -> None:
    one, another = make_documents(licensed[0]), make_documents(licensed[2])
    made = run_stage(session, "data.dedup", config(), {"documents": [another, one]}).artifact
    found = texts_of(made)
    assert (found["c"], found["a"]) == (LICENCE, words(1, 30))


def test_what_an_earlier_corpus_has_goes(
    session: Session, make_documents: MakeDocuments, licensed: list[list[Document]]
) -> None:
    new, old = make_documents(licensed[0]), make_documents([], licensed[2])
    made = run_stage(session, "data.dedup", config(), {"documents": new, "against": old}).artifact
    assert texts_of(made) == {"a": words(1, 30), "b": f"{words(2, 30)}\n\n{words(3, 30)}"}
    assert {row["document"] for row in pq.read_table(made.file("substrings.parquet")).to_pylist()} == {"a", "b"}


def test_repeated_paragraphs_are_removed_before(session: Session, make_documents: MakeDocuments) -> None:
    texts = {f"d{n}": f"{LICENCE}\n\n{words(n, 30)} {words(77, 50)}" for n in range(4)}
    paragraphs = {"enabled": True, "scope": "all", "min_documents": 3}
    given = {"documents": make_documents(texts)}
    made = run_stage(session, "data.dedup", config(paragraphs=paragraphs), given).artifact
    assert texts_of(made) == {
        "d0": f"{words(0, 30)} {words(77, 50)}",
        **{f"d{n}": words(n, 30) for n in range(1, 4)},
    }
    assert made.manifest.metrics["paragraphs_removed"] == 4
    assert made.manifest.metrics["substrings_removed"] == 3


def test_it_is_off_by_default(session: Session, make_documents: MakeDocuments, licensed: list[list[Document]]) -> None:
    made = run_stage(session, "data.dedup", {"near": False}, {"documents": make_documents(*licensed)}).artifact
    assert texts_of(made) == {d.id: d.text for d in chain(*licensed)}
    assert not (made.path / "substrings.parquet").exists()


def test_workers_and_memory_change_nothing(
    tmp_path: Path, make_documents: MakeDocuments, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [[Document(f"{n}", text, "s") for n, text in enumerate(texts)] for texts in corpus(3, "abcdefghij", 200)]
    found = []
    for workers, entry in ((1, 64), (2, 1 << 12)):
        monkeypatch.setattr(find, "BYTES_AN_ENTRY", entry)
        session = Session(Store(tmp_path / str(workers)), LocalEngine(workers))
        documents = make_documents(*shards, into=session)
        found.append(run_stage(session, "data.dedup", config(memory_mib=1), {"documents": documents}).artifact.manifest)
    assert found[0].files == found[1].files
    assert found[0].metrics["substrings_removed"] >= 3
