"""Personal data in kept texts: what is masked, what only looks like it, and the counts."""

from __future__ import annotations

import time
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document, document_shards, read_documents
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.filter.pii import Masker, find_emails, find_ip_addresses, find_phone_numbers
from longcat.stages.data.rules.config import PiiRules

MakeDocuments = Callable[..., Artifact]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write to jane.doe@example.com.", ["jane.doe@example.com"]),
        (
            "<jane+news@mail.example.co.uk>, (o'neil@example.org)",
            ["jane+news@mail.example.co.uk", "o'neil@example.org"],
        ),
        ("mailto=jane@example.com;john@example.com", ["jane@example.com", "john@example.com"]),
        ("请联系jane@example.com谢谢", ["jane@example.com"]),
        ("почта@пример.рф и jürgen@müller.de", ["почта@пример.рф", "jürgen@müller.de"]),
        ("jane@xn--mller-kva.xn--p1ai", ["jane@xn--mller-kva.xn--p1ai"]),
        ("A_B-c@EXAMPLE.COM", ["A_B-c@EXAMPLE.COM"]),
        ("jane@localhost, @handle, 5@2.50, a@b, jane..doe@example.com, @@@", []),
        ("def f(): pass\n@property\nx = a @ b.c", []),
    ],
)
def test_emails(text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in find_emails(text)] == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Server 8.8.8.8 at 1.1.1.1:53.", ["8.8.8.8", "1.1.1.1"]),
        (
            "[2001:4860:4860::8888]:53 and 2a00:1450:4001:82b::200e.",
            ["2001:4860:4860::8888", "2a00:1450:4001:82b::200e"],
        ),
        ("::ffff:8.8.8.8 2606:4700:4700:0:0:0:0:1111", ["8.8.8.8", "2606:4700:4700:0:0:0:0:1111"]),
        ("2a00:1450:4001:82b::8.8.8.8", ["2a00:1450:4001:82b::8.8.8.8"]),
        ("10.0.0.1 192.168.1.1 127.0.0.1 169.254.1.1 0.0.0.0 224.0.0.1 255.255.255.255 192.0.2.1", []),
        ("::1 fe80::1 fc00::1 2001:db8::1 std::vector cafe::babe a::b 12:30:45 00:1b:44:11:3a:b7", []),
        ("1.2.3.4.5 version v8.8.8.8 300.8.8.8 8.8.8 8.8.8.8a 1.8.8.8.8", []),
    ],
)
def test_public_ip_addresses(text: str, found: list[str]) -> None:
    assert [text[start:end] for start, end in find_ip_addresses(text)] == found


@pytest.mark.parametrize(
    ("text", "regions", "found"),
    [
        ("Call +49 30 901820 or +1 (415) 555-2671.", (), ["+49 30 901820", "+1 (415) 555-2671"]),
        ("Tel. (415) 555-2671", (), []),
        ("Tel. (415) 555-2671, 030 901820", ("US",), ["(415) 555-2671"]),
        ("Tel. (415) 555-2671, 030 901820", ("US", "DE"), ["(415) 555-2671", "030 901820"]),
        ("+44 20 7946 0958\n+33 1 42 68 53 00", (), ["+44 20 7946 0958", "+33 1 42 68 53 00"]),
        ("電話：+81 3-3224-5000まで", (), ["+81 3-3224-5000"]),
        ("ISBN 978-3-16-148410-0, 2024-01-01 12:30, 1,000,000,000, 3.14159265358979", ("US",), []),
        ("x = [ 1  2  3  4  5  6  7  8  9 10]; y = (229291.1234); z = 2246336902", ("US",), []),
        (
            "020 7946 0958, 01 42 68 53 00, +491711234567",
            ("GB", "FR"),
            ["020 7946 0958", "01 42 68 53 00", "+491711234567"],
        ),
        ("+1 2 3 4", (), []),
    ],
)
def test_phone_numbers(text: str, regions: tuple[str, ...], found: list[str]) -> None:
    assert [text[start:end] for start, end in find_phone_numbers(text, regions)] == found


def test_tokens_replace_them_and_are_counted() -> None:
    text = "Mail jane@example.com or call +1 415 555 2671 from 8.8.8.8.\nAgain: jane@example.com"
    masked, counts = Masker(PiiRules(enabled=True)).mask(text)
    assert masked == (
        "Mail |||EMAIL_ADDRESS||| or call |||PHONE_NUMBER||| from |||IP_ADDRESS|||.\nAgain: |||EMAIL_ADDRESS|||"
    )
    assert counts == {"emails": 2, "ip_addresses": 1, "phone_numbers": 1}
    assert Masker(PiiRules(enabled=True)).mask(masked) == (masked, dict.fromkeys(counts, 0))
    rules = PiiRules(enabled=True, emails=False, phone_numbers=False, ip_address_token="0.0.0.0")
    masked, counts = Masker(rules).mask(text)
    assert masked == text.replace("8.8.8.8", "0.0.0.0")
    assert counts == {"emails": 0, "ip_addresses": 1, "phone_numbers": 0}


@pytest.mark.parametrize("text", ["a." * 200_000 + "@", "@" * 200_000, "1." * 100_000, "a:" * 100_000, "::" * 100_000])
def test_hostile_texts_take_linear_time(text: str) -> None:
    started = time.process_time()
    assert Masker(PiiRules(enabled=True)).mask(text)[0] == text
    assert time.process_time() - started < 3


def test_kept_documents_are_masked_and_counted(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    contact = "\nWrite to the miller at jane@example.com or call him on +49 30 901820 in the morning."
    documents = [
        Document("plain", prose, "s"),
        Document("contact", prose + contact, "s"),
        Document("short", "jane@example.com", "s"),
        Document("code", "AUTHOR = 'jane@example.com'  # 8.8.8.8\n", "s", metadata={"kind": "code"}),
    ]
    config = {"pii": {"enabled": True}}
    made = run_stage(session, "data.filter", config, {"documents": make_documents(documents)}).artifact
    texts = {d.id: d.text for shard in document_shards(made) for d in read_documents(shard)}
    assert texts == {
        "plain": prose,
        "contact": prose
        + "\nWrite to the miller at |||EMAIL_ADDRESS||| or call him on |||PHONE_NUMBER||| in the morning.",
        "code": "AUTHOR = '|||EMAIL_ADDRESS|||'  # |||IP_ADDRESS|||\n",
    }
    masked = {name: value for name, value in made.manifest.metrics.items() if name.endswith("_masked")}
    assert masked == {"documents_masked": 2, "emails_masked": 2, "ip_addresses_masked": 1, "phone_numbers_masked": 1}
    rows = pq.read_table(made.file("attributes-00000.parquet"), columns=["id", "pii.emails", "pii.phone_numbers"])
    assert rows.to_pylist() == [
        {"id": "plain", "pii.emails": 0, "pii.phone_numbers": 0},
        {"id": "contact", "pii.emails": 1, "pii.phone_numbers": 1},
        {"id": "short", "pii.emails": None, "pii.phone_numbers": None},
        {"id": "code", "pii.emails": 1, "pii.phone_numbers": 0},
    ]
    assert made.manifest.metrics["characters_out"] == sum(map(len, texts.values()))


def test_nothing_is_masked_by_default(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    text = prose + "\nWrite to the miller at jane@example.com in the morning."
    made = run_stage(session, "data.filter", {}, {"documents": make_documents({"a": text})}).artifact
    assert [d.text for d in read_documents(document_shards(made)[0])] == [text]
    assert not any(name.endswith("_masked") for name in made.manifest.metrics)


def test_an_unknown_region_is_refused(session: Session, make_documents: MakeDocuments) -> None:
    config = {"pii": {"phone_regions": ["USA"]}}
    with pytest.raises(ConfigError, match="'USA' is not a country code"):
        run_stage(session, "data.filter", config, {"documents": make_documents({"a": "text"})})
