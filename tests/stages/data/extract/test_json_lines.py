"""JSON lines of every kind: encodings, numbers that JSON has not, fields of every type."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest

TEXT = "première ligne, 髙橋, привет"


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("packed", [False, True])
def test_lines_in_unicode_with_and_without_a_mark(extract_bytes: Any, codec: str, packed: bool) -> None:
    lines = "".join(f'{{"text": "{TEXT} {n}", "id": {n}}}\n' for n in range(2000)).encode(codec)
    made = extract_bytes("x.jsonl.gz" if packed else "x.jsonl", gzip.compress(lines) if packed else lines)
    assert [d.text for d in made.documents] == [f"{TEXT} {n}" for n in range(2000)]
    assert made.documents[-1].metadata["original_id"] == "1999"
    assert made.counts["dropped"] == {}


def test_marks_of_files_that_were_concatenated(extract_bytes: Any) -> None:
    made = extract_bytes("x.jsonl", b'\xef\xbb\xbf{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n')
    assert [d.text for d in made.documents] == ["one", "two"]


def test_a_malformed_unit_of_utf16_costs_one_character(extract_bytes: Any) -> None:
    lines = '{"text": "one"}\n{"text": "two §"}\n{"text": "three"}\n'.encode("utf-16")
    made = extract_bytes("x.jsonl", lines.replace(b"\xa7\0", b"\0\xd8"))
    assert [d.text for d in made.documents] == ["one", "two \ufffd", "three"]
    assert [d.metadata.get("replaced_characters") for d in made.documents] == [None, 1, None]


@pytest.mark.parametrize(
    ("codec", "encoding", "text"),
    [
        ("cp932", "shift_jis", "日本語のテキストです。ソフトウェアの表示、能力。"),
        ("cp1251", "windows-1251", "Привет, мир! Это страница о погоде."),
        ("cp949", "euc-kr", "한국어 텍스트입니다. 오늘은 날씨가 좋네요."),
    ],
)
def test_lines_in_other_encodings(extract_bytes: Any, codec: str, encoding: str, text: str) -> None:
    lines = "".join(f'{{"text": "{text} {n}"}}\n' for n in range(50)).encode(codec)
    made = extract_bytes("x.jsonl", lines)
    assert [d.text for d in made.documents] == [f"{text} {n}" for n in range(50)]
    assert {d.metadata["encoding"] for d in made.documents} == {encoding}


LINES: list[tuple[bytes, dict[str, Any], str]] = [
    (b'{"text": "a", "id": 7}', {"original_id": "7"}, ""),
    (b'{"text": "a", "id": 18446744073709551615}', {"original_id": "18446744073709551615"}, ""),
    (b'{"text": "a", "id": 123456789012345678901234567890}', {"original_id": "123456789012345678901234567890"}, ""),
    (b'{"text": "a", "id": true}', {"original_id": "true"}, ""),
    (b'{"text": "a", "id": 1.5}', {"original_id": "1.5"}, ""),
    (b'{"text": "a", "id": {"x": [1]}}', {"id": {"x": [1]}}, ""),
    (b'{"text": "a", "id": null, "url": null, "language": null}', {}, ""),
    (b'{"text": "a", "url": 5, "language": ["en"], "metadata": 3}', {"url": 5, "language": ["en"], "metadata": 3}, ""),
    (b'{"text": "a", "score": 0.5, "n": null, "tags": ["x"]}', {"score": 0.5, "n": None, "tags": ["x"]}, ""),
    (b'{"text": "a", "x": 1, "metadata": {"x": 2, "y": 3}}', {"x": 2, "y": 3}, ""),
    (b'{"text": "a", "kind": "code", "encoding": "x"}', {"kind": "code", "encoding": "x"}, ""),
    (b'{"text": "a", "replaced_characters": "many"}', {"replaced_characters": "many"}, ""),
    (b'{"text": "a", "x": -9223372036854775809}', {"x": "-9223372036854775809"}, ""),
    (b'{"text": "a", "x": {"y": [18446744073709551616]}}', {"x": {"y": ["18446744073709551616"]}}, ""),
    (b'{"text": "a", "x": NaN, "y": [Infinity, -Infinity]}', {"x": None, "y": [None, None]}, ""),
    (b'{"text": "a", "id": NaN}', {}, ""),
    (
        b'{"text": "a", "x": "half \\ud83d", "y": "\\ud83d\\ude00"}',
        {"x": "half \ufffd", "y": "😀", "replaced_characters": 1},
        "",
    ),
    (b'{"text": "a", "\\udc00": 1}', {"\ufffd": 1, "replaced_characters": 1}, ""),
    (b'{"text": "a", "metadata": ' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}", {}, "bad_metadata"),
    (b'{"text": "a", "x": ' + b"[" * 5000 + b"NaN" + b"]" * 5000 + b"}", {}, "not_json"),
    (b'{"text": "a", "x": NaNa}', {}, "not_json"),
    (b'{"text": ["a"]}', {}, "missing_text"),
    (b'{"text": 5}', {}, "missing_text"),
    (b'{"text": NaN}', {}, "missing_text"),
]


@pytest.mark.parametrize(("line", "metadata", "reason"), LINES)
def test_values_of_json_lines(extract_bytes: Any, line: bytes, metadata: dict[str, Any], reason: str) -> None:
    made = extract_bytes("a.jsonl", line + b'\n{"text": "the next one"}\n')
    assert made.documents[-1].text == "the next one"
    assert made.counts["dropped"] == ({reason: 1} if reason else {})
    if not reason:
        first = made.documents[0]
        assert (first.metadata, first.url, first.language) == ({"kind": "text"} | metadata, None, None)
        assert orjson.loads(first.to_line())["text"] == "a"


def test_lone_surrogates_of_the_text_are_replaced_and_counted(extract_bytes: Any) -> None:
    made = extract_bytes("a.jsonl", b'{"text": "a \\ud83d b \\udc00\\ud83d c \\ud83d\\ude00"}\n')
    assert made.documents[0].text == "a \ufffd b \ufffd\ufffd c 😀"
    assert made.documents[0].metadata["replaced_characters"] == 3
    assert made.metrics["replaced_characters"] == 3


def test_metadata_fields_chooses_fields(extract_bytes: Any) -> None:
    line = b'{"text": "a", "score": 1, "other": 2, "metadata": {"own": 3}}\n'
    made = extract_bytes("a.jsonl", line, metadata_fields=["sc*"])
    assert made.documents[0].metadata == {"kind": "text", "score": 1, "own": 3}


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("html", "<p>Some text of a page, déjà vu.</p>", "Some text of a page, déjà vu."),
        ("markdown", "# Titre\n\ndéjà vu\n", "# Titre\n\ndéjà vu"),
        ("code", "\ndef f():\n    return 1\n", "def f():\n    return 1"),
        ("notebook", '{"nbformat": 4, "metadata": {}, "cells": [{"cell_type": "markdown", "source": "déjà"}]}', "déjà"),
    ],
)
def test_field_of_another_kind(extract_bytes: Any, kind: str, content: str, text: str) -> None:
    made = extract_bytes("a.jsonl", orjson.dumps({"body": content, "id": 1}), text_field="body", field_kind=kind)
    assert text in made.documents[0].text
    assert made.documents[0].metadata["kind"] == kind
    assert made.documents[0].metadata["original_id"] == "1"
