"""PDF files: text and title, damage, and what happens without the library."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.errors import InputError
from longcat.stages.data.extract.formats.pdf import Pdf


def pdf(*pages: list[str], title: str = "A title") -> bytes:
    """A file with lines of text in Helvetica."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    numbers = []
    for lines in pages:
        rows = "".join(f"1 0 0 1 50 {700 - 14 * row} Tm ({line}) Tj " for row, line in enumerate(lines))
        stream = f"BT /F1 12 Tf {rows}ET".encode("latin-1")
        content = len(objects) + 2
        resources = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        page = f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {resources} /Contents {content} 0 R >>"
        numbers.append(len(objects) + 1)
        objects += [page.encode(), b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream)]
    kids = " ".join(f"{number} 0 R" for number in numbers)
    objects[1] = f"<< /Type /Pages /Kids [{kids}] /Count {len(numbers)} >>".encode()
    objects.append(f"<< /Title ({title}) >>".encode())
    made, places = b"%PDF-1.4\n", []
    for number, content_bytes in enumerate(objects, start=1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, content_bytes)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer << /Size %d /Root 1 0 R /Info %d 0 R >>" % (len(objects) + 1, len(objects))
    start = len(made)
    return made + b"xref\n0 %d\n0000000000 65535 f \n%s%s\nstartxref\n%d\n%%%%EOF" % (
        len(objects) + 1,
        table,
        trailer,
        start,
    )


needs_library = pytest.mark.skipif(find_spec("pypdfium2") is None, reason="the extra pdf is not installed")


@needs_library
def test_text_of_all_pages_and_the_title(extract_bytes: Any) -> None:
    made = extract_bytes("x.pdf", pdf(["First line.", "Second line."], ["On another page."]))
    assert made.documents[0].text == "First line.\nSecond line.\n\nOn another page."
    assert made.documents[0].metadata == {"kind": "pdf", "title": "A title"}
    assert set(made.artifact.manifest.sources) >= {"pypdfium2"}


@needs_library
def test_files_that_are_damaged_encrypted_or_without_text(tmp_path: Path, extract: Any) -> None:
    (tmp_path / "a.pdf").write_bytes(b"no PDF at all")
    (tmp_path / "b.pdf").write_bytes(pdf([]))
    (tmp_path / "c.pdf").write_bytes(pdf(["Whole."]))
    (tmp_path / "d.pdf").write_bytes(pdf(["Cut."])[:300])
    made = extract(tmp_path)
    assert [d.text for d in made.documents] == ["Whole."]
    assert made.counts["dropped"] == {"bad_pdf": 2, "no_text": 1}


def test_without_the_library_a_file_is_refused_by_name_with_the_remedy(
    tmp_path: Path, extract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longcat.stages.data.extract.formats.pdf.find_spec", lambda _: None)
    assert Pdf().missing() is not None
    (tmp_path / "x.pdf").write_bytes(pdf(["Text."]))
    (tmp_path / "y.txt").write_text("a text")
    with pytest.raises(InputError, match=r"x\.pdf: reading pdf files needs pypdfium2") as caught:
        extract(tmp_path / "x.pdf")
    assert "longcat-cli[pdf]" in (caught.value.hint or "")
    made = extract(tmp_path)
    assert [d.text for d in made.documents] == ["a text"]
    assert [(p["file"].rpartition("/")[2], p["reason"]) for p in made.problems] == [("x.pdf", "not_installed")]


@needs_library
def test_a_library_installed_later_gives_another_artifact(
    tmp_path: Path, extract: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.pdf").write_bytes(pdf(["Text."]))
    (tmp_path / "y.txt").write_text("a text")
    with monkeypatch.context() as patch:
        patch.setattr("longcat.stages.data.extract.formats.pdf.find_spec", lambda _: None)
        without = extract(tmp_path)
    found = extract(tmp_path)
    assert found.artifact.id != without.artifact.id
    assert len(found.documents) == 2
