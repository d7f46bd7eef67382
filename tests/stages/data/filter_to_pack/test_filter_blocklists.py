"""Documents whose URL is in a blocklist go, before they are measured, each under its reason and list."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store
from longcat.stages.data.filter.blocklist import (
    DOMAIN,
    HOST,
    URL,
    Blocklists,
    BlocklistTask,
    parse_line,
    read_blocklist,
)
from longcat.stages.data.inspect.report import report

MakeDocuments = Callable[..., Artifact]
RULES_OFF = {
    family: {"enabled": False} for family in ("language", "gopher_quality", "gopher_repetition", "c4", "fineweb")
}


@pytest.mark.parametrize(
    ("line", "entries"),
    [
        ("example.com", [(DOMAIN, "example.com")]),
        ("  Example.COM.  ", [(DOMAIN, "example.com")]),
        ("*.example.com", [(DOMAIN, "example.com")]),
        (".example.com", [(DOMAIN, "example.com")]),
        ("||example.com^", [(DOMAIN, "example.com")]),
        ("bücher.de # shop", [(DOMAIN, "xn--bcher-kva.de")]),
        ("10.0.0.1", [(DOMAIN, "10.0.0.1")]),
        ("2001:DB8::1", [(DOMAIN, "2001:db8::1")]),
        ("0.0.0.0 ads.example.com tracker.example.org", [(DOMAIN, "ads.example.com"), (DOMAIN, "tracker.example.org")]),
        ("127.0.0.1\tads.example.com #spam", [(DOMAIN, "ads.example.com")]),
        ("::1 localhost ip6-localhost", []),
        ("fe80::1%lo0 localhost", []),
        ("0.0.0.0 0.0.0.0", []),
        ("https://www.Example.com:443/a%20b", [(HOST, "example.com"), (URL, "example.com/a b")]),
        ("example.com/~user", [(HOST, "example.com"), (URL, "example.com/~user")]),
        ("example.com:8080", [(HOST, "example.com"), (URL, "example.com:8080/")]),
        ("http://[::1]/x", [(HOST, "::1"), (URL, "::1/x")]),
        ("# example.com", []),
        ("! Title: a list", []),
        ("", []),
        ("example.com example.org", None),
        ("exa mple", None),
        ("||example.com^$third-party", None),
        ("http://", None),
        ("0.0.0.0 bad..name", None),
    ],
)
def test_lines_of_lists(line: str, entries: list[tuple[str, str]] | None) -> None:
    assert parse_line(line) == entries


@pytest.fixture
def lists(tmp_path: Path) -> list[str]:
    """A list of domains in hosts format, gzip, and one of domains and URLs."""
    hosts = tmp_path / "hosts.gz"
    hosts.write_bytes(gzip.compress("# hosts\n127.0.0.1 localhost\n0.0.0.0 spam.example\n0.0.0.0 bücher.de\n".encode()))
    mixed = tmp_path / "mixed.txt"
    urls = ["site.example/private/", "https://site.example/tag-", "a b c", "x.example:81"]
    mixed.write_text("\r\n".join(["\ufeffspam.example", "10.0.0.1", *urls]))
    return [str(hosts), str(mixed)]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://spam.example/", ("blocklist.domain", 0)),
        ("https://a.b.SPAM.example.:8443/x?y", ("blocklist.domain", 0)),
        ("http://user@spam.example", ("blocklist.domain", 0)),
        ("http://BÜCHER.de/x", ("blocklist.domain", 0)),
        ("http://xn--bcher-kva.de/x", ("blocklist.domain", 0)),
        ("http://10.0.0.1/x", ("blocklist.domain", 1)),
        ("http://notspam.example/", None),
        ("http://spam.example.org/", None),
        ("http://110.0.0.1/", None),
        ("http://site.example/private/1", ("blocklist.url", 1)),
        ("https://www.site.example:443/%70rivate/#top", ("blocklist.url", 1)),
        ("http://site.example/tag-1", ("blocklist.url", 1)),
        ("http://site.example/private", None),
        ("http://site.example/tags", None),
        ("http://site.example:81/private/", None),
        ("http://other.site.example/private/", None),
        ("http://site.example/public?u=http://spam.example/", None),
        ("http://x.example:81/a", ("blocklist.url", 1)),
        ("http://x.example/a", None),
        ("http://site.example/private/" + "x" * 100_000, ("blocklist.url", 1)),
        ("not a url", None),
        (None, None),
    ],
)
def test_urls_are_looked_up(tmp_path: Path, lists: list[str], url: str | None, found: object) -> None:
    tasks = [BlocklistTask(path, tmp_path / f"{number}.npy") for number, path in enumerate(lists)]
    results = [read_blocklist(task) for task in tasks]
    assert results == [
        {"domains": 2, "urls": 0, "lines_ignored": 0, "ignored": []},
        {"domains": 2, "urls": 3, "lines_ignored": 1, "ignored": [[5, "a b c"]]},
    ]
    assert Blocklists([task.keys for task in tasks]).find(url) == found


@pytest.fixture
def corpus(make_documents: MakeDocuments, prose: str) -> Artifact:
    urls = [
        "http://good.example/",
        "http://www.spam.example/",
        None,
        "http://site.example/private/a",
        "http://10.0.0.1/",
    ]
    documents = [Document(f"d{number}", prose, "s", url=url) for number, url in enumerate(urls)]
    return make_documents(
        documents[:2], [*documents[2:], Document("short", "Too short.", "s", url="http://spam.example")]
    )


def filtered(session: Session, corpus: Artifact, **config: object) -> Artifact:
    return run_stage(session, "data.filter", config, {"documents": corpus}).artifact


def test_blocked_documents_go(session: Session, corpus: Artifact, lists: list[str]) -> None:
    made = filtered(session, corpus, blocklists=lists)
    assert [d.id for shard in document_shards(made) for d in read_documents(shard)] == ["d0", "d2"]
    assert made.manifest.counts == {
        "documents_in": 6,
        "documents_out": 2,
        "dropped": {"blocklist.domain": 3, "blocklist.url": 1},
    }
    assert made.manifest.metrics["blocklists"] == [
        {"name": lists[0], "domains": 2, "urls": 0, "lines_ignored": 0, "documents": 2},
        {"name": lists[1], "domains": 2, "urls": 3, "lines_ignored": 1, "documents": 2},
    ]
    rows = pq.read_table(made.file("attributes-00001.parquet")).to_pylist()
    assert [row["reason"] for row in rows] == [None, "blocklist.url", "blocklist.domain", "blocklist.domain"]
    assert rows[3]["gopher_quality.words"] is None
    assert sum(made.manifest.metrics["documents_by_rules"].values()) == 2


def test_other_thresholds_leave_them_blocked(session: Session, corpus: Artifact, lists: list[str]) -> None:
    made = filtered(session, corpus, blocklists=lists)
    changes = {"gopher_quality": {"min_words": 10_000}}
    found = report(made, [corpus], changes=changes)
    assert found["counts"] == {
        "kept": 0,
        "blocklist.domain": 3,
        "gopher_quality.min_words": 2,
        "blocklist.url": 1,
    }
    assert found["counts"] == report(filtered(session, corpus, blocklists=lists, **changes), [])["counts"]
    with pytest.raises(ConfigError, match="this changes what is measured"):
        report(made, [], changes={"blocklists": []})


def test_another_content_gives_another_artifact(session: Session, corpus: Artifact, lists: list[str]) -> None:
    made = filtered(session, corpus, blocklists=lists)
    Path(lists[1]).write_text("good.example\n")
    again = filtered(session, corpus, blocklists=lists)
    assert again.id != made.id
    assert again.manifest.counts["dropped"] == {"blocklist.domain": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# nothing\n\n", "no domains and no URLs in this list"),
        (b"\x1f\x8b\x08\x00broken", "not whole gzip data"),
        (gzip.compress(b"spam.example\n" * 99, mtime=0)[:-9], "not whole gzip data"),
        (b"\0\xff\xfe" * 50_000, "no domains and no URLs in this list"),
        (b"a folder", "is a folder, not a list"),
        (None, "no such file or folder"),
    ],
)
def test_an_unreadable_list_is_named(
    session: Session, corpus: Artifact, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "list.txt"
    if content == b"a folder":
        path.mkdir()
        (path / "domains").write_text("spam.example\n")
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        filtered(session, corpus, blocklists=[str(path)])
    assert caught.value.where == str(path)


def test_the_option_is_repeatable(
    tmp_path: Path, lists: list[str], prose: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": prose, "url": "http://spam.example/"}) + "\n")
    store = ["--store", str(tmp_path / "store"), "-q"]
    assert run([*store, "data", "extract", str(tmp_path / "a.jsonl"), "--name", "a"]) == 0
    capfd.readouterr()
    given = [word for path in lists for word in ("--blocklist", path)]
    assert run([*store, "data", "filter", "--documents", "a", *given, "--name", "b", "--json"]) == 3
    captured = capfd.readouterr()
    assert json.loads(captured.out)["counts"]["dropped"] == {"blocklist.domain": 1}


def test_the_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, make_documents: MakeDocuments, lists: list[str], prose: str
) -> None:
    found = []
    for workers in (1, 2):
        session = Session(Store(tmp_path / str(workers)), LocalEngine(workers))
        shards = [[Document(f"{n}", prose, "s", url=f"http://h{n}.spam.example/")] for n in range(2)]
        documents = make_documents(*shards, [Document("x", prose, "s")], into=session)
        found.append(filtered(session, documents, blocklists=lists, **RULES_OFF).manifest.files)
    assert found[0] == found[1]
