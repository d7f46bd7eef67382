"""The begin token of documents, and of prompts after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.tokens import TokenFile
from longcat.stages.formats.begin_token import with_begin, without_begin
from longcat.stages.formats.tokenizer import load_tokenizer, read_state
from longcat.stages.inference.tokenizer import EngineTokenizer

Pack = Callable[..., Artifact]


@pytest.fixture
def documents(make_documents: Callable[..., Artifact], prose: str) -> Artifact:
    return make_documents([Document(f"d{n}", prose[: 20 * n + 30], "s") for n in range(12)])


@pytest.fixture
def tokenizer(session: Session, documents: Artifact) -> Artifact:
    return run_stage(session, "data.tokenizer", {"vocab_size": 300}, {"documents": documents}).artifact


@pytest.fixture
def pack(session: Session, documents: Artifact, tokenizer: Artifact) -> Pack:
    def run(given: Artifact = tokenizer, **config: object) -> Artifact:
        return run_stage(session, "data.pack", config, {"documents": documents, "tokenizer": given}).artifact

    return run


def read(tokens: Artifact) -> list[list[int]]:
    file = TokenFile(tokens.path / "train")
    return [file.document(number).tolist() for number in range(file.n_documents)]


def test_documents_begin_with_it_if_asked_to(pack: Pack, tokenizer: Artifact) -> None:
    plain, begun = pack(), pack(begin_token=True)
    assert read(begun) == [[1, *ids] for ids in read(plain)]
    assert begun.manifest.metrics["bytes_per_token"] == plain.manifest.metrics["bytes_per_token"]
    assert all(ids[0] != 1 and ids[-1] == 2 for ids in read(plain))
    assert plain.file("tokenizer.json").read_bytes() == tokenizer.file("tokenizer.json").read_bytes()


def test_prompts_begin_as_the_documents_do(pack: Pack) -> None:
    for tokens, begin in ((pack(), []), (pack(begin_token=True), [1]), (pack(begin_token=False), [])):
        ours, engine = load_tokenizer(tokens.path), EngineTokenizer.load(tokens.path)
        text = ours.encode("The sea")
        assert 1 not in text
        assert engine.encode("The sea") == text
        assert ours.encode_prompt("The sea") == engine.encode_prompt("The sea") == begin + text
        assert ours.encode_prompt("<longcat_s>The sea", parse_special=True) == [1, *text]  # never twice
        config = json.loads(tokens.file("tokenizer_config.json").read_text())
        assert config["add_bos_token"] == bool(begin)


def test_transformers_adds_it_too(pack: Pack) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(pack(begin_token=True).path)
    ours = load_tokenizer(pack().path)
    assert theirs("The sea").input_ids == [1, *ours.encode("The sea")]
    assert theirs("The sea", add_special_tokens=False).input_ids == ours.encode("The sea")


def test_a_tokenizer_that_adds_it_is_followed(
    pack: Pack, tokenizer: Artifact, publish_artifact: Callable[..., Artifact]
) -> None:
    state = with_begin(read_state(tokenizer.path), "<longcat_s>", 1)

    def copy(output: Path) -> None:
        for entry in tokenizer.path.iterdir():
            if entry.name != "manifest.json":
                (output / entry.name).write_bytes(entry.read_bytes())
        (output / "tokenizer.json").write_text(json.dumps(state))

    adding = publish_artifact("70ce500000000077", "tokenizer", "data.tokenizer", copy)
    followed, removed = pack(adding), pack(adding, begin_token=False)
    assert read(followed) == read(pack(begin_token=True))
    assert followed.file("tokenizer.json").read_bytes() == adding.file("tokenizer.json").read_bytes()
    assert read(removed) == read(pack())
    assert load_tokenizer(removed.path).begin_ids == ()


def test_other_steps_after_encoding_are_kept() -> None:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    state = {"model": {}, "post_processor": byte_level}
    both = with_begin(state, "<s>", 5)
    kinds = [part["type"] for part in both["post_processor"]["processors"]]
    assert kinds == ["ByteLevel", "TemplateProcessing"]
    assert without_begin(both) == state
    assert without_begin(with_begin({"post_processor": None}, "<s>", 5)) == {"post_processor": None}
