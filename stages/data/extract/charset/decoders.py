"""Decoders of the Encoding Standard (encoding.spec.whatwg.org), built on Python's codecs.

Python's codecs of the same families differ in some sequences. These are corrected: refused sequences in an error
handler, other characters after decoding. A malformed sequence gives one U+FFFD and never includes a following ASCII
byte.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from longcat.stages.data.extract.charset.big5 import BIG5_EXTRAS, CHANGED_PAIRS
from longcat.stages.data.extract.charset.iso_2022_jp import decode_iso_2022_jp
from longcat.stages.data.extract.charset.single_byte import single_byte_table

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# The bytes of U+FFFD itself, which is no malformed sequence.
WRITTEN_REPLACEMENT = {
    "utf-8": b"\xef\xbf\xbd",
    "utf-16le": b"\xfd\xff",
    "utf-16be": b"\xff\xfd",
    "gbk": b"\x841\xa47",
    "gb18030": b"\x841\xa47",
}

# Characters that Python's codec gives for a sequence, and those of the Standard; each sequence's own, so that no other
# sequence is affected.
GB18030_CHANGED = dict(
    zip(
        "\ue5e5\ue78d\ue78e\ue78f\ue790\ue791\ue792\ue793\ue794\ue795\ue796\ue7c7"
        "\ue81e\ue826\ue82b\ue82c\ue832\ue843\ue854\ue864\u1e3f",
        "\u3000\ufe10\ufe12\ufe11\ufe13\ufe14\ufe15\ufe16\ufe17\ufe18\ufe19\u1e3f"
        "\u9fb4\u9fb5\u9fb6\u9fb7\u9fb8\u9fb9\u9fba\u9fbb\ue7c7",
        strict=True,
    )
)
BIG5_CHANGED = dict(zip("•､‾∼♁☉¥¢£", "‧﹑¯～⊕⊙￥￠￡", strict=True))
EUC_JP_CHANGED = dict(zip("〜‖−¢£¬", "～∥－￠￡￢", strict=True))
SHIFT_JIS_CHANGED = dict.fromkeys("\uf8f0\uf8f1\uf8f2\uf8f3", REPLACEMENT)
BIG5_PAIR = re.compile(rb"[\x81-\xfe][\x40-\x7e\x80-\xff]")

Handler = Callable[[bytes, int], tuple[str, int]]


def decode_as(data: bytes, encoding: str) -> tuple[str, int]:
    """Text of bytes in an encoding named by the Standard, and the number of malformed sequences."""
    text = _decoder(encoding)(data)
    malformed = text.count(REPLACEMENT)
    if malformed and encoding in WRITTEN_REPLACEMENT:
        malformed = max(0, malformed - data.count(WRITTEN_REPLACEMENT[encoding]))
    return text, malformed


@cache
def _decoder(encoding: str) -> Callable[[bytes], str]:
    if encoding in ("utf-8", "utf-16le", "utf-16be", "utf-32le", "utf-32be"):
        return lambda data: data.decode(encoding, errors="replace")
    if encoding in ("gbk", "gb18030"):
        return _corrected("gb18030", _gb18030_error, GB18030_CHANGED)
    if encoding == "big5":
        return _decode_big5
    if encoding == "euc-jp":
        return _decode_euc_jp
    if encoding == "iso-2022-jp":
        return lambda data: decode_iso_2022_jp(data, _decode_euc_jp)
    if encoding == "shift_jis":
        return _corrected("cp932", _pair_error, SHIFT_JIS_CHANGED)
    if encoding == "euc-kr":
        return _corrected("cp949", _pair_error, {})
    table = single_byte_table(encoding)
    return lambda data: codecs.charmap_decode(data, "replace", table)[0]


def _corrected(codec: str, handler: Handler, changed: dict[str, str]) -> Callable[[bytes], str]:
    """Decoder by a Python codec, with refused sequences decoded by `handler`, and `changed` characters replaced."""

    def handle(error: Any) -> tuple[str, int]:
        return handler(error.object, error.start)

    name = f"longcat-{codec}"
    codecs.register_error(name, handle)
    if not changed:
        return lambda data: data.decode(codec, errors=name)
    present, mapping = re.compile(f"[{''.join(changed)}]"), str.maketrans(changed)

    def decode(data: bytes) -> str:
        text = data.decode(codec, errors=name)
        return text.translate(mapping) if present.search(text) else text

    return decode


def _pair_error(data: bytes, start: int) -> tuple[str, int]:
    """A malformed pair of bytes: an ASCII byte after the first one is not part of it."""
    alone = data[start] in (0x80, 0xFF) or start + 1 == len(data) or data[start + 1] < 0x80
    return REPLACEMENT, start + (1 if alone else 2)


def _gb18030_error(data: bytes, start: int) -> tuple[str, int]:
    lead, *rest = data[start : start + 4]
    if lead == 0x80:
        return "€", start + 1
    if lead == 0xFF:
        return REPLACEMENT, start + 1
    # Digits follow in a sequence of four bytes, which is malformed as a whole only if it has that form.
    digits = [0x30 <= byte <= 0x39 for byte in rest]
    if rest and digits[0]:
        form = digits[0] and all(0x81 <= byte <= 0xFE for byte in rest[1:2]) and all(digits[2:])
        return REPLACEMENT, start + (1 + len(rest) if form else 1)
    return REPLACEMENT, start + (1 if not rest or rest[0] < 0x80 else 2)


def _big5_error(data: bytes, start: int) -> tuple[str, int]:
    found = BIG5_EXTRAS.get(data[start : start + 2])
    return (found, start + 2) if found else _pair_error(data, start)


def _decode_big5(data: bytes) -> str:
    decode = _big5()
    if not any(pair in data for pair in CHANGED_PAIRS):
        return decode(data)
    # Python decodes these two pairs to characters that other pairs have as well.
    parts, end = [], 0
    for match in BIG5_PAIR.finditer(data):
        if (changed := CHANGED_PAIRS.get(match[0])) is not None:
            parts += [decode(data[end : match.start()]), changed]
            end = match.end()
    return "".join([*parts, decode(data[end:])])


@cache
def _big5() -> Callable[[bytes], str]:
    return _corrected("big5hkscs", _big5_error, BIG5_CHANGED)


def _euc_jp_error(data: bytes, start: int) -> tuple[str, int]:
    lead, *rest = data[start : start + 3]
    if not (lead in (0x8E, 0x8F) or 0xA1 <= lead <= 0xFE) or not rest or rest[0] < 0x80:
        return REPLACEMENT, start + 1
    if lead == 0x8F and 0xA1 <= rest[0] <= 0xFE:
        return REPLACEMENT, start + (2 if len(rest) == 1 or rest[1] < 0x80 else 3)
    return _from_shift_jis(lead, rest[0]) if lead >= 0xA1 and 0xA1 <= rest[0] <= 0xFE else REPLACEMENT, start + 2


def _from_shift_jis(lead: int, trail: int) -> str:
    """Character of a pair that only the Standard's index has: NEC's and IBM's, which cp932 has in other places."""
    row, cell = lead - 0xA1, trail - 0xA1
    first = row // 2 + (0x81 if row < 62 else 0xC1)
    second = cell + (0x9F if row % 2 else 0x40 if cell < 63 else 0x41)
    return bytes((first, second)).decode("cp932", errors="replace")[0]


def _decode_euc_jp(data: bytes) -> str:
    # The only other sequence that Python decodes to ASCII; 8F is never a second byte.
    return _euc_jp()(data.replace(b"\x8f\xa2\xb7", b"\xa1\xc1"))


@cache
def _euc_jp() -> Callable[[bytes], str]:
    return _corrected("euc_jp", _euc_jp_error, EUC_JP_CHANGED)
