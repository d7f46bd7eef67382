"""Choice of the encoding: what is stated, what the bytes say, and byte order marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from longcat.stages.data.extract.decode import decode, looks_binary
from longcat.stages.data.extract.html import extract_page
from longcat.stages.data.extract.records import Rejected

PROSE = {
    "fr": "Élève à l’école — déjà vu : où êtes-vous ? Les élèves sont arrivés à Noël. ",
    "ru": "Привет, мир! Это страница о погоде. Сегодня идёт дождь, а завтра будет солнечно. ",
    "ja": "日本語のテキストです。髙橋さんと﨑山さんは今日公園に行きました。カタカナもあります。",
    "ko": "한국어 텍스트입니다. 똠방각하와 펲시콜라. 오늘은 날씨가 좋네요. ",
    "zh": "中文文本，今天天气很好。我们去公园玩。人民生活水平不断提高。",
    "hk": "中文文本，今天天氣很好。我們去公園玩，佢哋嘅生活。",
    "th": "ภาษาไทยเป็นภาษาที่มี “ระดับเสียง” ของคำแน่นอน – เช่นเดียวกับภาษาจีน ",
    "tr": "Bugün hava çok güzel, İstanbul’da güneşli. Şimdi gidiyoruz. ",
}


@pytest.mark.parametrize(
    ("data", "charset", "text", "encoding"),
    [
        ("café Ω".encode(), None, "café Ω", "utf-8"),
        ("café Ω".encode(), "iso-8859-1", "café Ω", "utf-8"),  # the server's word against the bytes
        ("café déjà".encode("latin-1"), "iso-8859-1", "café déjà", "windows-1252"),
        ("привет мир, как дела".encode("koi8-r"), "koi8-r", "привет мир, как дела", "koi8-r"),
        ("日本語のテキスト".encode("iso2022_jp"), "iso-2022-jp", "日本語のテキスト", "iso-2022-jp"),
        ("日本語のテキスト".encode("iso2022_jp"), None, "日本語のテキスト", "iso-2022-jp"),
        (b"\x1b[31mred\x1b(B\x1b[m", None, "\x1b[31mred\x1b(B\x1b[m", "utf-8"),  # a terminal's reset
        (b"a ~{ b", "utf-8", "a ~{ b", "utf-8"),
    ],
)
def test_decoding(data: bytes, charset: str | None, text: str, encoding: str) -> None:
    decoded = decode(data, charset)
    assert (decoded.text, decoded.encoding, decoded.replaced) == (text, encoding, 0)


LEGACY = [
    ("fr", "cp1252", "iso-8859-1", "windows-1252"),
    ("ru", "cp1251", "windows-1251", "windows-1251"),
    ("ru", "cp866", "ibm866", "ibm866"),
    ("ja", "cp932", "shift_jis", "shift_jis"),
    ("ko", "cp949", "euc-kr", "euc-kr"),
    ("zh", "gb18030", "gb2312", "gbk"),
    ("hk", "big5hkscs", "big5", "big5"),
    ("th", "cp874", "tis-620", "windows-874"),
    ("tr", "cp1254", "iso-8859-9", "windows-1254"),
]


@pytest.mark.parametrize(("prose", "codec", "label", "encoding"), LEGACY)
@pytest.mark.parametrize("damage", [b"", b"\xff"])
@pytest.mark.parametrize("stated_by", ["server", "meta"])
def test_stated_encoding_is_kept_although_a_few_bytes_do_not_fit(
    prose: str, codec: str, label: str, encoding: str, damage: bytes, stated_by: str
) -> None:
    text = PROSE[prose] * 3
    data = text.encode(codec)
    if stated_by == "server":
        decoded = decode(data + damage + b"<br>", label)
        start = ""
    else:
        start = f"<meta charset={label}>"
        decoded = decode(start.encode() + data + damage + b"<br>", is_html=True)
    assert decoded.text.startswith(start + text)
    assert decoded.text.endswith("<br>")
    assert decoded.encoding == encoding
    if damage and codec in ("cp932", "cp949", "gb18030", "big5hkscs"):
        assert decoded.replaced == 1


@pytest.mark.parametrize("charset", [None, "iso-8859-1", "windows-1251", "shift_jis", "gb2312", "big5", "euc-kr"])
@pytest.mark.parametrize("prose", sorted(PROSE))
def test_utf8_with_a_malformed_byte_stays_utf8_whatever_is_stated(prose: str, charset: str | None) -> None:
    data = PROSE[prose].encode()
    decoded = decode(data + b"\xe9" + data, charset)
    assert decoded.text == PROSE[prose] + "\ufffd" + PROSE[prose]
    assert (decoded.encoding, decoded.replaced) == ("utf-8", 1)


def test_malformed_bytes_are_replaced_and_counted() -> None:
    part = "Ein schöner Satz über Äpfel und Öfen, наконец. ".encode() * 20
    decoded = decode(part + b"\xff" + part + b"\xc3(" + part, "utf-8")
    assert (decoded.encoding, decoded.replaced) == ("utf-8", 2)
    assert decoded.text.count("schöner") == 60


@pytest.mark.parametrize(("prose", "codec"), [("fr", "cp1252"), ("ru", "cp1251"), ("ja", "cp932"), ("ko", "cp949")])
def test_wrongly_stated_utf8_is_found_by_evidence(prose: str, codec: str) -> None:
    text = PROSE[prose] * 5
    assert decode(text.encode(codec), "utf-8").text == text
    page = b"<meta charset=utf-8>" + text.encode(codec)
    assert decode(page, is_html=True).text == "<meta charset=utf-8>" + text


def test_the_server_default_latin1_gives_way_to_meta_and_detection_that_agree() -> None:
    page = b"<meta charset=windows-1251>" + (PROSE["ru"] * 5).encode("cp1251")
    assert decode(page, "iso-8859-1", is_html=True).encoding == "windows-1251"
    french = b"<meta charset=windows-1251>" + (PROSE["fr"] * 5).encode("cp1252")
    assert decode(french, "iso-8859-1", is_html=True).encoding == "windows-1252"


@pytest.mark.parametrize(
    ("codec", "mark", "encoding"),
    [
        ("utf-8", b"\xef\xbb\xbf", "utf-8"),
        ("utf-16-le", b"\xff\xfe", "utf-16le"),
        ("utf-16-be", b"\xfe\xff", "utf-16be"),
        ("utf-32-le", b"\xff\xfe\0\0", "utf-32le"),
        ("utf-32-be", b"\0\0\xfe\xff", "utf-32be"),
    ],
)
@pytest.mark.parametrize("marked", [True, False])
def test_unicode_with_and_without_a_byte_order_mark(codec: str, mark: bytes, encoding: str, marked: bool) -> None:
    for prose in PROSE.values():
        data = (mark if marked else b"") + prose.encode(codec)
        decoded = decode(data, "iso-8859-1")
        assert (decoded.text, decoded.encoding, decoded.replaced) == (prose, encoding, 0)
        assert not looks_binary(data)


def test_encodings_that_browsers_refuse() -> None:
    for charset, data in [("iso-2022-kr", b"\x1b$)C\x0e0!\x0f"), ("hz-gb-2312", b"~{VPND~}")]:
        with pytest.raises(Rejected) as caught:
            decode(data, charset)
        assert caught.value.reason == "unsupported_encoding"
        assert decode(b"plain", charset).text == "plain"


def test_refused_encoding_of_a_page_is_a_counted_reason(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    page = record(1, b"<p>~{VPND~}</p>", content_type="text/html; charset=hz-gb-2312")
    made = extract_bytes("x.warc", page + record(2))
    assert made.counts["dropped"] == {"unsupported_encoding": 1}
    assert made.pages == [2]


def test_charset_of_the_meta_element() -> None:
    html = "<html><head><meta charset='windows-1251'></head><body><p>Привет, мир! Это страница.</p></body></html>"
    page = extract_page(html.encode("cp1251"), None)
    assert (page.text, page.encoding) == ("Привет, мир! Это страница.", "windows-1251")


def test_binary_content_is_told_from_text() -> None:
    assert looks_binary(b"%PDF-1.7 ...")
    assert looks_binary(b"text\0text")
    assert looks_binary(b"\0\x01\x02\xff" * 300)
    assert not looks_binary("text".encode("utf-16"))
    assert not looks_binary(b"<html><body><p>Some text of a page.</p></body></html>")
