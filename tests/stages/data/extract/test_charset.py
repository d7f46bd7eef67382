"""Decoders of the Encoding Standard: values of its index tables, and what it says of malformed sequences."""

from __future__ import annotations

import pytest

from longcat.stages.data.extract.charset.decoders import decode_as
from longcat.stages.data.extract.charset.labels import LABELS, encoding_name
from longcat.stages.data.extract.charset.meta import meta_encoding
from longcat.stages.data.extract.charset.wide import wide_encoding


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("ISO-8859-1", "windows-1252"),
        ("us-ascii", "windows-1252"),
        ("latin5", "windows-1254"),
        ("TIS-620", "windows-874"),
        ("gb2312", "gbk"),
        ("ks_c_5601-1987", "euc-kr"),
        ("windows-31j", "shift_jis"),
        ("Big5-HKSCS", "big5"),
        (" utf8\n", "utf-8"),
        ("'x-sjis'", "shift_jis"),
        ("unicode", "utf-16le"),
        ("logical", "iso-8859-8-i"),
        ("hz-gb-2312", "replacement"),
        ("utf-7", None),
        ("", None),
        (None, None),
    ],
)
def test_labels_mean_what_they_mean_in_browsers(label: str | None, name: str | None) -> None:
    assert encoding_name(label) == name


def test_the_standard_has_228_labels_of_40_encodings() -> None:
    labels = [label for text in LABELS.values() for label in text.split()]
    assert (len(labels), len(set(labels)), len(LABELS)) == (228, 228, 40)


# Each character is that of the Standard's index for the pointer of these bytes.
@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("shift_jis", b"\xfb\xfc\x87\x40\xed\x95\x80\xf0\x40\xb1", "髙①﨑\x80\ue000ｱ"),
        ("euc-kr", b"\x8c\x63\xc6\xf5\xc5\x41\x81\x41", "똠폡휕갂"),
        ("gbk", b"\x80\xa3\xa0\xa6\xd9\xfe\x66\x84\x31\xa4\x37\x95\x32\x82\x36", "€\u3000\ufe10\u9fb6\ufffd\U00020000"),
        ("gb18030", b"\xa8\xbc\x81\x35\xf4\x37\xe3\x32\x9a\x35", "\u1e3f\ue7c7\U0010ffff"),
        ("big5", b"\xa1\x45\xa1\xfe\xa2\x41\xa2\x42\xa2\x46\xf9\xd6\x88\x62", "‧／∕﹨￠碁Ê̄"),
        ("big5", b"\x87\x7a\x87\x7b\x8e\x69\xa3\xe1\xfe\xdd\xfd\xb8", "㡵𡵓箸€砉渝"),
        ("euc-jp", b"\xa1\xc1\xad\xa1\xf9\xa1\xfc\xf9\x8f\xa2\xb7\x8e\xb1\x8f\xb0\xa1", "～①纊ⅸ～ｱ丂"),
        ("iso-2022-jp", b'a\x1b$B$"-!\x1b(I1\x1b(J\\~\x1b(B\\~', "aあ①ｱ¥‾\\~"),
        ("windows-1252", b"\x80\x81\x8d\x9d\xe9", "€\x81\x8d\x9dé"),
        ("windows-874", b"\x80\x81\x93\xa1\xfb", "€\x81“ก๛"),
        ("windows-1255", b"\xca\xd4\x81", "\u05baװ\x81"),
        ("koi8-u", b"\xae\xbe\xa4\xb4", "ўЎєЄ"),
        ("iso-8859-8-i", b"\xf9\xec", "של"),
        ("ibm866", b"\x8f\xe0\xa8\xfc", "При№"),
        ("macintosh", b"\x8e\xdb\xf0", "é€\uf8ff"),
        ("x-mac-cyrillic", b"\x80\xff\xa2\xb6", "А€Ґґ"),
        ("x-user-defined", b"A\x80\xff", "A\uf780\uf7ff"),
        ("utf-16be", b"\x04\x10\xd8\x3d\xde\x00", "А😀"),
        ("utf-32le", b"\x10\x04\0\0\0\xf6\x01\0", "А😀"),
    ],
)
def test_characters_of_the_index_tables(encoding: str, data: bytes, text: str) -> None:
    assert decode_as(data, encoding) == (text, 0)


@pytest.mark.parametrize(
    ("encoding", "data", "text", "malformed"),
    [
        ("shift_jis", b"\x81<p>\x82\xa0\xa0\xffx\x81", "\ufffd<p>あ\ufffd\ufffdx\ufffd", 4),
        ("shift_jis", b"\x85\x40A\x85\x9f", "\ufffd@A\ufffd", 2),
        ("euc-kr", b"\xb0<\xb0\xa1\xa0\xff\xffa\xc9\xa1", "\ufffd<가\ufffd\ufffda\ufffd", 4),
        ("gbk", b"\xff\xc4<\xc4\xe3\x81\x30x\x81\x30\x81", "\ufffd\ufffd<你\ufffd0x\ufffd", 4),
        ("gb18030", b"\x84\x31\xa5\x30!\x84\x31\xa4\x37", "\ufffd!\ufffd", 1),
        ("big5", b"\xa4<\xa4\xa4\x81\x40\xff\xa4", "\ufffd<中\ufffd@\ufffd\ufffd", 4),
        ("euc-jp", b"\xa4<\xa4\xa2\x8f\xa2<\x8e\xe0\xa9\xa1\xa4\xff!", "\ufffd<あ\ufffd<\ufffd\ufffd\ufffd!", 5),
        ("iso-2022-jp", b'\x1b$B$"$\x1b(B\x1b$Ba\x80\x1b(Bx\xe9\x0e', "あ\ufffd\ufffd\ufffdx\ufffd\ufffd", 5),
        ("windows-1253", b"\xaa\xe1\xd2\x81", "\ufffdα\ufffd\x81", 2),
        ("iso-8859-7", b"\xae\xe1", "\ufffdα", 1),
        ("utf-8", b"\xe2\x82<\xf0\x9f\x98\xc3\xa9\xef\xbf\xbd", "\ufffd<\ufffdé\ufffd", 2),
        ("utf-16le", b"a\0\x00\xd8b\0\xfd\xffc", "a\ufffdb\ufffd\ufffd", 2),
    ],
)
def test_malformed_sequences_count_once_and_spare_their_neighbours(
    encoding: str, data: bytes, text: str, malformed: int
) -> None:
    assert decode_as(data, encoding) == (text, malformed)


@pytest.mark.parametrize(
    ("head", "encoding"),
    [
        (b"<html><meta charset='Shift_JIS'>", "shift_jis"),
        (b'<META http-equiv=Content-Type content="text/html; charset=euc-kr">', "euc-kr"),
        (b'<?xml version="1.0" encoding="GB2312"?><html>', "gbk"),
        (b'<?xml version="1.0" encoding="GB2312"?><meta charset=big5>', "big5"),
        (b"<!-- <meta charset=big5> --><meta charset=utf-8>", "utf-8"),
        (b"<meta charset=nonsense><meta charset=koi8-r>", "koi8-r"),
        (b"<meta charset=utf-16>", "utf-8"),
        (b"<meta charset=x-user-defined>", "windows-1252"),
        (b"<title>" + b"x" * 5000 + b"</title><meta charset=big5>", "big5"),
        (b"<p>charset=big5</p>", None),
    ],
)
def test_encoding_that_a_page_states(head: bytes, encoding: str | None) -> None:
    assert meta_encoding(head) == encoding


@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be", "utf-32le", "utf-32be"])
@pytest.mark.parametrize(
    "text",
    [
        "hi",
        "Hello world, this is a test.\n",
        "Привет, мир! Это страница.\nЕщё одна",
        "中文文本，今天天气很好。\n\u3000\u3000我们去公园玩一次。",
        "日本語のテキストです。\n今日は",
        "한국어 텍스트입니다.\n",
        "שלום עולם\n",
    ],
)
def test_utf16_and_utf32_without_a_mark(text: str, encoding: str) -> None:
    assert wide_encoding(text.encode(encoding)) == encoding


@pytest.mark.parametrize("data", [b"text\0text", b"plain text\n", bytes(range(256)), "Привет\n".encode("cp1251")])
def test_bytes_that_are_neither_utf16_nor_utf32(data: bytes) -> None:
    assert wide_encoding(data) is None
