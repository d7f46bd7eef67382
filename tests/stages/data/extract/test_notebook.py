"""Jupyter notebooks: what becomes of each cell, and what becomes of files that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.pipeline.documents import Document
from longcat.stages.data.extract.notebook import read_notebook
from longcat.stages.data.extract.records import Rejected
from longcat.stages.data.rules.judge import document_kind


def code(source: Any, *outputs: dict[str, Any]) -> dict[str, Any]:
    return {"cell_type": "code", "source": source, "outputs": list(outputs), "execution_count": 1, "metadata": {}}


def notebook(*cells: Any, **metadata: Any) -> bytes:
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}).encode()


KERNEL = {"kernelspec": {"name": "ir", "language": "R"}, "language_info": {"name": "R"}}


def test_cells_become_markdown_in_order(extract_bytes: Any) -> None:
    cells = (
        {"cell_type": "markdown", "source": ["# Rivers\n", "\n", "How long they are."]},
        code(["x <- c(1, 2)\n", "print(x)"], {"output_type": "stream", "name": "stdout", "text": ["[1] 1 2\n"]}),
        {"cell_type": "raw", "source": "for nbconvert"},
        code("x * 2", {"output_type": "execute_result", "data": {"text/plain": "[1] 2 4", "text/html": "<b>2 4</b>"}}),
        code("", {"output_type": "stream", "text": ""}),
    )
    made = extract_bytes("rivers.ipynb", notebook(*cells, **KERNEL, title="Rivers of the north"))
    (document,) = made.documents
    assert document.text == (
        "# Rivers\n\nHow long they are.\n\n```r\nx <- c(1, 2)\nprint(x)\n```\n\n```text\n[1] 1 2\n```\n\n"
        "```r\nx * 2\n```\n\n```text\n[1] 2 4\n```"
    )
    assert document.metadata == {
        "kind": "notebook",
        "title": "Rivers of the north",
        "programming_language": "r",
        "encoding": "utf-8",
    }
    assert document_kind(Document("a", "", "", metadata=document.metadata)) == "markdown"


def test_pictures_and_colours_go_and_errors_are_named() -> None:
    picture = {"output_type": "display_data", "data": {"image/png": "iVBORw0K", "text/plain": "<Figure size 640x480>"}}
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["\x1b[31mlong\x1b[0m"]}
    coloured = {"output_type": "stream", "text": "\x1b[1;32mgreen\x1b[0m"}
    cells = (
        code("plot()", picture),
        code("fail()", error),
        code("show()", coloured),
        {"cell_type": "markdown", "source": "see ![map](data:image/png;base64,iVBORw0KGgo=) here"},
    )
    text = read_notebook(notebook(*cells).decode(), 2000).text
    assert text == (
        "```\nplot()\n```\n\n```\nfail()\n```\n\n```text\nValueError: no\n```\n\n```\nshow()\n```\n\n"
        "```text\ngreen\n```\n\nsee ![map]() here"
    )


@pytest.mark.parametrize(("limit", "shown"), [(0, None), (10, "0123456789..."), (30, "01234567890123456789")])
def test_output_is_bounded(limit: int, shown: str | None) -> None:
    data = notebook(code("run()", {"output_type": "stream", "text": "01234567890123456789"})).decode()
    text = read_notebook(data, limit).text
    assert text == "```\nrun()\n```" + (f"\n\n```text\n{shown}\n```" if shown else "")


def test_a_fence_in_the_code_gets_a_longer_one_around_it() -> None:
    assert read_notebook(notebook(code('text = """\n````\n"""')).decode(), 0).text == (
        '`````\ntext = """\n````\n"""\n`````'
    )


def test_worksheets_of_nbformat_3() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Rivers"]},
        {
            "cell_type": "code",
            "language": "python",
            "input": ["1 + 1"],
            "outputs": [
                {"output_type": "pyout", "text": ["2"]},
                {"output_type": "pyout", "png": "iV", "text": ["<x>"]},
            ],
        },
    ]
    data = json.dumps({"worksheets": [{"cells": cells}, {}], "metadata": {}, "nbformat": 3})
    assert read_notebook(data, 100).text == "## Rivers\n\n```python\n1 + 1\n```\n\n```text\n2\n```"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "not_json"),
        (notebook(code("x"))[:-20], "not_json"),
        (b"[1]", "not_notebook"),
        (b'{"cells": 3}', "not_notebook"),
        (b"[" * 100_000, "not_json"),
        (b'{"cells": []}', "no_text"),
        (
            b'{"cells": [1, null, {"cell_type": []}, {"cell_type": "code", "source": {"a": 1}, "outputs": 5}]}',
            "no_text",
        ),
        (b"\x89PNG\r\n", "binary"),
        (notebook(code("x" * 3000)), "too_large"),
    ],
)
def test_what_is_no_notebook_is_named(extract_bytes: Any, data: bytes, reason: str) -> None:
    limit = {"max_record_bytes": 2000} if reason == "too_large" else {}
    made = extract_bytes("x.ipynb", data, **limit)
    assert made.counts == {"documents_in": 1, "documents_out": 0, "dropped": {reason: 1}}


def test_a_served_notebook_is_told_by_its_content_type(extract_bytes: Any) -> None:
    body = notebook({"cell_type": "markdown", "source": "served"})
    http = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ipynb+json\r\n\r\n" + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http\r\nContent-Length: {len(http)}\r\n\r\n"
    made = extract_bytes("x.warc", head.encode() + http + b"\r\n\r\n")
    assert [(document.text, document.metadata["kind"]) for document in made.documents] == [("served", "notebook")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["cell_type", "source", "outputs", "data", "text", "text/plain", "image/png", "level", "output_type"]
            ),
            inner | st.sampled_from(["code", "markdown", "heading", "error"]),
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({"cells": json_values}, optional={"metadata": json_values, "worksheets": json_values}))
def test_any_json_gives_text_or_a_named_reason(values: dict[str, Any]) -> None:
    try:
        found = read_notebook(json.dumps(values), 50)
    except Rejected as rejected:
        assert rejected.reason == "not_notebook"
    else:
        assert isinstance(found.text, str)
