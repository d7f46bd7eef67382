"""The stage `data.score`, and its scores in packing and mixing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import Field

import longcat.stages.data.score  # noqa: F401  registers the stage
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import StageConfig
from longcat.pipeline.documents import Document, shard_name, write_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import InputError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, stage
from longcat.pipeline.store import Store
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.score.quality import rule_quality
from longcat.stages.formats.scores import read_scores, scores_name, token_scores

TOPICS = {
    "river": "water bank ferry mill herons meadow bridge flood stream shore boats harbour",
    "music": "violin sonata tempo quartet melody bow choir fugue rhythm scale concert opera",
    "ovens": "bread yeast flour crust dough baker knead loaf butter rise kitchen salt",
}
Make = Callable[..., Artifact]


class _Corpus(StageConfig):
    name: str = Field(default="a", description="Prefix of the ids.")
    shards: int = Field(default=2, description="Number of shards.")
    documents: int = Field(default=60, description="Documents per shard.")
    templated: bool = Field(default=False, description="Whether all texts are nearly equal.")


@stage("test.score.documents", revision=1, inputs={}, output="documents")
def _write(context: Context[_Corpus]) -> Result:
    """Documents on three topics, or nearly equal texts; the last one of each shard is empty."""
    config = context.config
    random = np.random.Generator(np.random.PCG64([7, len(config.name)]))
    for number in range(config.shards):
        written = []
        for index in range(config.documents):
            words = list(TOPICS.values())[index % 3].split()
            text = " ".join(random.choice(words, 60)) + ".\nAnother line that ends as sentences of some length do."
            if config.templated:
                text = f"Page {index} of the catalogue: add to basket, compare prices, read all reviews of the product."
            if index == config.documents - 1:
                text = ""
            written.append(Document(f"{config.name}-{number}-{index}", text, "test"))
        write_documents(context.output / shard_name(number), written)
    return Result({"documents_out": config.shards * config.documents})


@pytest.fixture
def corpus(session: Session) -> Make:
    def make(into: Session = session, **config: object) -> Artifact:
        return run_stage(into, "test.score.documents", config).artifact

    return make


def score(session: Session, documents: list[Artifact], **config: object) -> Artifact:
    return run_stage(session, "data.score", config, {"documents": documents}).artifact


def test_every_document_has_its_row_in_order(session: Session, corpus: Make) -> None:
    documents = corpus()
    scores = score(session, [documents])
    assert scores.manifest.counts == {"documents_in": 120, "documents_out": 120, "dropped": {}}
    for number in range(2):
        table = pq.read_table(scores.path / scores_name(documents.id, number))
        assert table.column("id").to_pylist() == [f"a-{number}-{index}" for index in range(60)]
        values = np.stack([table.column(name).to_numpy() for name in ("quality", "diversity")])
        assert ((values >= 0) & (values <= 1)).all()
        assert table.to_pylist()[-1] == {"id": f"a-{number}-59", "quality": 0.0, "cluster": -1, "diversity": 0.0}


def test_documents_on_one_topic_are_in_one_cluster(session: Session, corpus: Make) -> None:
    documents = corpus()
    scores = score(session, [documents], clusters=3)
    groups = np.concatenate(
        [pq.read_table(scores.path / scores_name(documents.id, number)).column("cluster") for number in range(2)]
    ).reshape(2, 60)[:, :-1]
    topics = [set(groups[:, topic::3].ravel().tolist()) for topic in range(3)]
    assert all(len(found) == 1 for found in topics)
    assert len(set.union(*topics)) == 3


def test_a_template_is_less_diverse_than_texts(session: Session, corpus: Make) -> None:
    texts, template = corpus(), corpus(name="bb", templated=True)
    scores = score(session, [texts, template])
    means = {}
    for source in (texts, template):
        values = read_scores(scores.path / scores_name(source.id, 0))[:-1]
        means[source.id] = values.mean(axis=0)
    assert means[texts.id][1] > means[template.id][1] + 0.3
    clusters = pq.read_table(scores.path / "clusters.parquet")
    assert clusters.num_rows == scores.manifest.metrics["clusters"] <= 11
    assert sum(clusters.column("documents").to_pylist()) == 236


def test_the_bytes_do_not_depend_on_the_workers(tmp_path: Path, corpus: Make) -> None:
    digests = []
    for workers in (1, 2):
        session = Session(Store(tmp_path / f"store-{workers}"), engine=LocalEngine(workers=workers))
        made = score(session, [corpus(session, shards=3)])
        files = sorted(path for path in made.path.rglob("*.parquet"))
        digests.append(
            {str(path.relative_to(made.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        )
    assert digests[0] == digests[1]
    assert len(digests[0]) == 4


def test_a_sample_is_enough(session: Session, corpus: Make) -> None:
    documents = corpus(shards=4, documents=100)
    scores = score(session, [documents], sample_documents=60, clusters=3)
    groups = pq.read_table(scores.path / scores_name(documents.id, 0)).column("cluster").to_numpy()[:-1]
    assert all(len(set(groups[topic::3].tolist())) == 1 for topic in range(3))


@pytest.mark.parametrize("texts", [[""], ["", "..."], ["same words"] * 20, ["one"]])
def test_few_and_equal_documents(session: Session, make_plain: Make, texts: list[str]) -> None:
    documents = make_plain(texts)
    scores = score(session, [documents])
    values = read_scores(scores.path / scores_name(documents.id, 0))
    assert values.shape == (len(texts), 2)
    assert np.isfinite(values).all()


class _Texts(StageConfig):
    texts: tuple[str, ...] = Field(description="Texts of the documents.")


@stage("test.score.texts", revision=1, inputs={}, output="documents")
def _plain(context: Context[_Texts]) -> Result:
    """Documents with the given texts and equal ids."""
    documents = [Document("same", text, "test") for text in context.config.texts]
    write_documents(context.output / shard_name(0), documents)
    return Result({"documents_out": len(documents)})


@pytest.fixture
def make_plain(session: Session) -> Make:
    def make(texts: list[str]) -> Artifact:
        return run_stage(session, "test.score.texts", {"texts": texts}).artifact

    return make


def test_no_documents_are_refused(session: Session, make_plain: Make) -> None:
    with pytest.raises(InputError, match="there are no documents to score"):
        score(session, [make_plain([])])


def test_rules_distinguish_prose_from_link_lists_and_code_from_data() -> None:
    prose = "The ferry carried people across the river until the first bridge was opened.\n" + (
        "Children used to wait there for the boats that brought coal and letters from the harbour.\n"
    )
    links = "Home\nNews\nContact\nHome\nNews\nContact\n1\n2\n3\n"
    assert rule_quality(Document("a", prose, "t"), 8192) > 0.95
    assert rule_quality(Document("a", links, "t"), 8192) < 0.4
    code = {"kind": "code"}
    assert rule_quality(Document("a", "def add(a, b):\n    return a + b\n", "t", metadata=code), 8192) > 0.7
    assert rule_quality(Document("a", "{},\n" * 100, "t", metadata=code), 8192) < 0.1
    assert rule_quality(Document("a", " \n", "t"), 8192) == 0


def test_the_classifier_gives_the_quality(session: Session, corpus: Make, tmp_path: Path) -> None:
    from longcat.stages.data.text.quality_classifier import MODEL_NAME, QualityClassifier

    good, bad = corpus(), corpus(name="bb", templated=True)
    known = run_stage(session, "data.train-quality", {}, {"positives": [good], "negatives": [bad]}).artifact
    made = run_stage(session, "data.score", {}, {"documents": [good, bad], "classifier": known}).artifact
    first = pq.read_table(made.path / scores_name(bad.id, 0)).column("quality").to_pylist()[0]
    model = QualityClassifier(known.path / MODEL_NAME)
    text = "Page 0 of the catalogue: add to basket, compare prices, read all reviews of the product."
    assert first == pytest.approx(model.score(text, 8192), abs=1e-5)
    assert read_scores(made.path / scores_name(good.id, 0))[0, 0] > first + 0.5
    with pytest.raises(InputError, match=r"this was made by data\.score; a quality classifier is made by"):
        run_stage(session, "data.score", {}, {"documents": [good], "classifier": made})


def test_packing_carries_the_scores_in_the_order_of_the_tokens(session: Session, corpus: Make) -> None:
    documents = corpus()
    scores = score(session, [documents])
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 400}, {"documents": documents}).artifact
    packed = run_stage(
        session,
        "data.pack",
        {"validation_fraction": 0.2},
        {"documents": documents, "tokenizer": tokenizer, "scores": scores},
    ).artifact
    train = TokenFile(packed.path / "train")
    known = {}
    for number in range(2):
        table = pq.read_table(scores.path / scores_name(documents.id, number))
        known |= {row["id"]: (row["quality"], row["diversity"]) for row in table.to_pylist()}
    from longcat.pipeline.documents import document_shards, read_documents
    from longcat.stages.formats.tokenizer import load_tokenizer

    encoder = load_tokenizer(tokenizer.path)
    by_text = {
        tuple(encoder.encode_batch([document.text])[0]): known[document.id]
        for shard in document_shards(documents)
        for document in read_documents(shard)
    }
    wanted = [by_text[tuple(train.document(number).tolist()[:-1])] for number in range(train.n_documents)]
    assert token_scores(packed, train.n_documents) == pytest.approx(np.array(wanted, dtype=np.float32))
    plain = run_stage(
        session, "data.pack", {"validation_fraction": 0.2}, {"documents": documents, "tokenizer": tokenizer}
    )
    assert (plain.artifact.path / "train.bin").read_bytes() == (packed.path / "train.bin").read_bytes()
    mixture = run_stage(session, "data.mix", {"sampling": "samplemix", "token_budget": 2000}, {"tokens": [packed]})
    assert mixture.artifact.manifest.metrics["stages"][0]["quality"] > 0


def test_scores_of_other_documents_are_refused(session: Session, corpus: Make) -> None:
    documents, others = corpus(), corpus(name="bb")
    scores = score(session, [others])
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 400}, {"documents": documents}).artifact
    inputs = {"documents": documents, "tokenizer": tokenizer, "scores": scores}
    with pytest.raises(InputError, match=re.escape(f"not of {documents.id}")):
        run_stage(session, "data.pack", {}, inputs)
