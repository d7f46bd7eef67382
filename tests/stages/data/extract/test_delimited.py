"""CSV and TSV: quotes, line ends in fields, delimiters, encodings, damaged rows."""

from __future__ import annotations

from typing import Any

import pytest

from longcat.pipeline.errors import InputError


def test_rows_with_quotes_line_ends_and_other_columns(extract_bytes: Any) -> None:
    content = (
        "id,text,url,score,language\r\n"
        '7,"a text, with ""quotes""\r\n\r\nand lines",http://x.example/,0.5,en\r\n'
        "8,plain,,,\r\n"
        "\r\n"
        "9,last,u,1\r\n"
    )
    made = extract_bytes("a.csv", content.encode())
    assert [d.text for d in made.documents] == ['a text, with "quotes"\r\n\r\nand lines', "plain", "last"]
    first = made.documents[0]
    assert (first.url, first.language) == ("http://x.example/", "en")
    assert first.metadata == {"kind": "text", "original_id": "7", "score": "0.5"}
    assert made.documents[2].metadata == {"kind": "text", "original_id": "9", "score": "1"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text;n\none; two;3\n"),
        ("a.csv", "text|n\none|3\n"),
        ("a.csv", "n\ttext\n3\tone\n"),
        ("a.tsv", "n\ttext\n3\tone\n"),
        ("a.tab", 'n\ttext\n3\t"one"\n'),
        ("a.csv", "\ufeffn,text\n3,one\n"),
        ("a.csv", "n, text \n3,one\n"),
        ("a.csv", "text,n,text\none,3,two\n"),
        ("a.csv", "n,text\n3,one"),
    ],
)
def test_delimiters_marks_and_headers(extract_bytes: Any, name: str, content: str) -> None:
    if content == "text;n\none; two;3\n":
        made = extract_bytes(name, content.encode())
        assert made.counts["dropped"] == {"bad_row": 1}
        return
    (document,) = extract_bytes(name, content.encode()).documents
    assert (document.text, document.metadata) == ("one", {"kind": "text", "n": "3"})


def test_rows_that_cannot_be_used_are_named_by_their_line(extract_bytes: Any) -> None:
    rows = ["n,text", '1,"one\n\ntwo"', "2", "3,a,b,c", "4,", "5,five"]
    made = extract_bytes("a.csv", "\n".join(rows).encode())
    assert [d.text for d in made.documents] == ["one\n\ntwo", "five"]
    assert [(p["line"], p["reason"]) for p in made.problems] == [(5, "missing_text"), (6, "bad_row"), (7, "no_text")]


def test_a_quote_that_is_not_closed_is_bounded(extract_bytes: Any) -> None:
    rows = ["n,text", '1,"open', *(f"{n},row {n} of the table" for n in range(2, 500))]
    made = extract_bytes("a.csv", "\n".join(rows).encode(), max_record_bytes=1024)
    assert made.problems[0]["reason"] == "too_large"
    assert made.problems[0]["line"] == 2
    assert made.documents[-1].text == "row 499 of the table"


@pytest.mark.parametrize("codec", ["utf-16", "cp932", "cp1251"])
def test_encodings(extract_bytes: Any, codec: str) -> None:
    text = {"cp1251": "Привет, мир! Это страница о погоде."}.get(codec, "日本語のテキストです。能力と表示。")
    content = "text\tn\n" + "".join(f"{text}\t{n}\n" for n in range(30))
    made = extract_bytes("a.tsv", content.encode(codec))
    assert [(d.text, d.metadata["n"]) for d in made.documents] == [(text, str(n)) for n in range(30)]


def test_html_in_a_column(extract_bytes: Any) -> None:
    made = extract_bytes("a.csv", b"html,n\n<p>A page of text.</p>,1\n", text_field="html", field_kind="html")
    assert (made.documents[0].text, made.documents[0].metadata["kind"]) == ("A page of text.", "html")


def test_a_file_without_the_text_column_is_an_error_that_names_the_columns(extract_bytes: Any) -> None:
    with pytest.raises(InputError, match=r"no column 'text'.*columns: a, b"):
        extract_bytes("a.csv", b"a,b\n1,2\n")
