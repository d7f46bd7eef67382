"""Tables of the single-byte encodings of the Encoding Standard, section 9."""

from __future__ import annotations

from functools import cache

# Where Python's codec has another name.
CODECS = {
    "ibm866": "cp866",
    "macintosh": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    "iso-8859-8-i": "iso-8859-8",
}
# Where the Standard has another character.
CHANGED = {"koi8-u": {0xAE: "ў", 0xBE: "Ў"}, "windows-1255": {0xCA: "\u05ba"}}
UNDEFINED = "\ufffe"  # for codecs.charmap_decode


@cache
def single_byte_table(encoding: str) -> str:
    """The characters of the 256 bytes; windows encodings have C1 controls for bytes that Microsoft leaves undefined."""
    ascii_part = "".join(map(chr, range(0x80)))
    if encoding == "x-user-defined":
        return ascii_part + "".join(chr(0xF700 + byte) for byte in range(0x80, 0x100))
    return ascii_part + "".join(_character(encoding, byte) for byte in range(0x80, 0x100))


def _character(encoding: str, byte: int) -> str:
    if byte in (changed := CHANGED.get(encoding, {})):
        return changed[byte]
    codec = CODECS.get(encoding, encoding.replace("windows-", "cp"))
    try:
        return bytes([byte]).decode(codec)
    except UnicodeDecodeError:
        return chr(byte) if byte < 0xA0 and encoding.startswith("windows-") else UNDEFINED
