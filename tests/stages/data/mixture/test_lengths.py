"""Sampling by document length: shares worked out by hand, limits, stages, refusals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import longcat.stages.data.mixture.report
import longcat.stages.data.mixture.text_bytes
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.files import read_json
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.mixture.text_bytes import text_bytes
from longcat.stages.formats.tokenizer import load_tokenizer

Mix = Callable[..., Artifact]
Read = Callable[..., list[list[int]]]
BUCKETS: dict[str, Any] = {"bounds": [50, 500], "weights": [1, 1, 2]}
LONG: dict[str, Any] = {"min_tokens": 500}


@pytest.fixture
def source(make_tokens: Mix) -> Artifact:
    """1000 tokens in documents of 10, 1000 in documents of 100, 2000 in documents of 1000."""
    return make_tokens([10] * 100 + [100] * 10 + [1000] * 2, 57)


def by_length(artifact: Artifact, documents: Read, first: int = 57) -> dict[int, int]:
    return dict(Counter(len(document) for document in documents(artifact) if document[0] == first))


def test_weights_are_shares_of_the_tokens(source: Artifact, mixed: Mix, documents: Read) -> None:
    """A quarter, a quarter and a half of 2000 tokens."""
    artifact = mixed([source], weights=[1], token_budget=2000, length_buckets=BUCKETS)
    assert by_length(artifact, documents) == {10: 50, 100: 5, 1000: 1}
    rows = artifact.manifest.metrics["length_buckets"]
    assert rows == read_json(artifact.file("mixture.json"))["length_buckets"]
    assert rows == [
        {"source": "0", "from": 0, "to": 49, "tokens": 500, "documents": 50, "share_wanted": 0.25, "share": 0.25},
        {"source": "0", "from": 50, "to": 499, "tokens": 500, "documents": 5, "share_wanted": 0.25, "share": 0.25},
        {"source": "0", "from": 500, "tokens": 1000, "documents": 1, "share_wanted": 0.5, "share": 0.5},
    ]


def test_weights_are_factors_on_the_shares_of_the_source(source: Artifact, mixed: Mix, documents: Read) -> None:
    """Shares of 1/4, 1/4 and 1/2 times 1, 1 and 2 are 1/6, 1/6 and 2/3 of 3000 tokens."""
    artifact = mixed([source], weights=[1], token_budget=3000, length_buckets=BUCKETS | {"reading": "factor"})
    assert by_length(artifact, documents) == {10: 50, 100: 5, 1000: 2}


@pytest.mark.parametrize(("reading", "share", "long"), [("of_all", 0.25, 5000), ("added", 0.2, 4000)])
def test_both_readings_of_a_quarter_more_long_documents(
    source: Artifact, mixed: Mix, documents: Read, reading: str, share: float, long: int
) -> None:
    """The rest of 20,000 tokens comes from all documents, half of whose tokens are in long ones."""
    artifact = mixed(
        [source], weights=[1], token_budget=20_000, max_epochs=[10], long_documents=LONG | {"reading": reading}
    )
    everything, only_long = artifact.manifest.metrics["length_buckets"]
    assert (everything["from"], only_long["from"]) == (0, 500)
    assert (everything["share_wanted"], only_long["share_wanted"]) == (1 - share, share)
    assert (everything["tokens"], only_long["tokens"]) == (pytest.approx(20_000 - long, abs=500), long)
    # The others are not fewer: short documents keep their part of the rest.
    found = by_length(artifact, documents)
    assert 10 * found[10] + 100 * found[100] == pytest.approx((20_000 - long) / 2, abs=1000)
    assert 1000 * found[1000] == pytest.approx((20_000 - long) / 2 + long, abs=1000)


def test_buckets_are_spread_and_no_document_repeats_before_its_bucket_was_used(
    source: Artifact, mixed: Mix, documents: Read
) -> None:
    artifact = mixed([source], weights=[1], token_budget=2400, length_buckets={"bounds": [50], "weights": [1, 1]})
    lengths = [len(document) for document in documents(artifact)]
    first = lengths[: len(lengths) // 2]
    assert sum(length for length in first if length == 10) == pytest.approx(600, abs=120)
    short = Counter(tuple(document) for document in documents(artifact) if len(document) == 10)
    assert (len(short), set(short.values())) == (100, {1, 2})


def test_buckets_in_bytes_are_those_of_the_texts(
    session: Session, make_documents: Mix, prose: str, mixed: Mix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ASCII and other characters, begun and ended by special tokens, in blocks that end within documents."""
    texts = {f"d{number}": f"{number} {line} naïve 日本語 \U0001f642" for number, line in enumerate(prose.split("\n"))}
    documents = make_documents(texts | {f"s{number}": "ab" * (number + 1) for number in range(9)})
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 300}, {"documents": documents}).artifact
    config = {"validation_fraction": 0.2, "begin_token": True}
    packed = run_stage(session, "data.pack", config, {"documents": documents, "tokenizer": tokenizer}).artifact
    train, words = TokenFile(packed.path / "train"), load_tokenizer(packed.path)
    every = [words.decode(train.document(number), skip_special=True) for number in range(train.n_documents)]
    expected = [len(text.encode()) for text in every]
    assert set(every) <= {*texts.values(), *("ab" * number for number in range(1, 10))}
    for block in (1 << 22, 7, 1):
        monkeypatch.setattr(longcat.stages.data.mixture.text_bytes, "BLOCK_TOKENS", block)
        assert text_bytes(packed).tolist() == expected

    buckets = {"bounds": [19], "weights": [1, 0], "unit": "bytes"}
    artifact = mixed([packed], weights=[1], token_budget=30, length_buckets=buckets)
    (row,) = artifact.manifest.metrics["length_buckets"]
    assert (row["from"], row["to"], row["unit"]) == (0, 18, "bytes")
    drawn = TokenFile(artifact.path / "train")
    assert drawn.n_documents
    for number in range(drawn.n_documents):
        assert len(words.decode(drawn.document(number), skip_special=True)) < 19
    with pytest.raises(InputError, match=r"no document of 100000 bytes or more, the longest has \d+ bytes"):
        mixed([packed], weights=[1], token_budget=20, length_buckets=buckets | {"bounds": [100_000], "weights": [1, 1]})


def test_buckets_in_bytes_need_a_byte_level_tokenizer(source: Artifact, mixed: Mix) -> None:
    with pytest.raises(InputError, match=r"unit = bytes needs a byte-level tokenizer.*set length_buckets.unit=tokens"):
        mixed([source], weights=[1], token_budget=2000, length_buckets=BUCKETS | {"unit": "bytes"})


def test_a_stage_has_lengths_of_its_own(source: Artifact, mixed: Mix, documents: Read, make_tokens: Mix) -> None:
    other = make_tokens([20] * 100, 58)
    stages = [
        {"name": "short", "share": 1, "length_buckets": {"bounds": [500], "weights": [1, 0]}},
        {"name": "as before", "share": 1},
        {"name": "long", "share": 2, "weights": [1, 0], "long_documents": LONG | {"fraction": 1.0}},
    ]
    artifact = mixed(
        [source, other],
        weights=[1, 1],
        token_budget=4000,
        stages=stages,
        length_buckets=BUCKETS | {"reading": "factor"},
    )
    rows = artifact.manifest.metrics["length_buckets"]
    short, as_before, long = ([row for row in rows if row["stage"] == stage["name"]] for stage in stages)
    assert [(row["source"], row["from"]) for row in short] == [("0", 0), ("1", 0)]
    assert [(row["source"], row["from"]) for row in as_before] == [("0", 0), ("0", 50), ("0", 500), ("1", 0)]
    assert [(row["source"], row["from"], row["tokens"]) for row in long] == [("0", 500, 2000)]
    assert read_json(artifact.file("curriculum.json"))["stages"][2]["documents"] == 2


def test_the_bytes_do_not_depend_on_the_workers(source: Artifact, mixed: Mix, tmp_path: Path) -> None:
    config = {"weights": [1], "token_budget": 2000, "length_buckets": BUCKETS}
    other = Session(Store(tmp_path / "other"), engine=LocalEngine(workers=2))
    again = run_stage(other, "data.mix", config, {"tokens": [source]}).artifact
    assert again.manifest.files == mixed([source], **config).manifest.files


def test_a_killed_run_begins_again_and_ends_with_the_same_bytes(
    source: Artifact, mixed: Mix, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"weights": [1], "token_budget": 2000, "long_documents": LONG}
    expected = mixed([source], **config)
    session.store.remove(expected)

    def fail(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(longcat.stages.data.mixture.report, "bucket_rows", fail)
        mixed([source], **config)
    again = mixed([source], **config)
    assert (again.manifest.files, again.manifest.metrics) == (expected.manifest.files, expected.manifest.metrics)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"length_buckets": BUCKETS | {"weights": [0, 0, 4]}, "token_budget": 10_000}, r"max_epochs = 4 leaves 8000"),
        ({"length_buckets": {"bounds": [2000], "weights": [1, 1]}}, r"no document of 2000 tokens or more, the longest"),
        ({"length_buckets": {"bounds": [20, 90], "weights": [1, 1, 1]}}, r"no document of 20 to 89 tokens"),
        ({"long_documents": {"min_tokens": 2000}}, r"lower long_documents.min_tokens"),
        (
            {"length_buckets": {"bounds": [2000], "weights": [0, 1], "reading": "factor"}},
            r"source '0' has only documents of weight zero",
        ),
    ],
)
def test_what_a_source_lacks_is_named(source: Artifact, mixed: Mix, config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mixed([source], **({"weights": [1], "token_budget": 2000} | config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"length_buckets": {"bounds": [50, 50], "weights": [1, 1, 1]}}, "bounds must rise"),
        ({"length_buckets": {"bounds": [50], "weights": [1]}}, "1 bounds make 2 buckets, there are 1 weights"),
        ({"length_buckets": {"bounds": [50], "weights": [0, 0]}}, "all weights are zero"),
        ({"length_buckets": BUCKETS, "long_documents": LONG}, "exclude each other"),
        ({"long_documents": LONG, "sampling": "samplemix"}, "long_documents and sampling=samplemix exclude each other"),
        ({"long_documents": LONG, "token_budget": None}, "token_budget is missing"),
        ({"long_documents": {"min_token": 5}}, "did you mean 'min_tokens'"),
    ],
)
def test_configurations_that_do_not_fit(source: Artifact, mixed: Mix, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mixed([source], **({"weights": [1], "token_budget": 2000} | config))
