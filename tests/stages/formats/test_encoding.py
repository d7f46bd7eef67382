"""Ids of many texts at once: those of the tokenizers library, whichever library encodes."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from longcat.pipeline.errors import InputError
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.formats.encoding import Encoder, giga, open_encoder, segments
from longcat.stages.formats.encoding.probe import paired
from longcat.stages.formats.encoding.segments import cut
from longcat.stages.formats.encoding.support import supported
from longcat.stages.formats.special_tokens import SPECIAL_TOKENS
from longcat.stages.formats.tokenizer import Tokenizer, read_state
from longcat.stages.formats.tokenizer_backend import load_backend

# Characters of one kind, or that are near each other in text; a fuzzed text mixes a few of these kinds.
KINDS = (
    "abcdeXYZ", "éñßſЯأहि्", "0123456789²½Ⅷ٣", "  \t\n\r\v\f", "\u3000 \u2028\x85\u00a0 ", "漢字中文東京々〆𠀀",
    "ひらがなカタカナｱｲ", "ーｰﾞ゛", "〇〡⺀㋐㌔🈀", "゜\u3099\u309a\u0301\u0308\U00016ff0", "!?「」。、.,-'", "한국어ᄀ",
    "😀👨‍👩‍👧🏽🇩🇪", "\x00\x01\x1c\x1f\x7f\ufeff\u200d", "'s't're'S'LL", "\u088f\U000323b0\U000e01ef\ue000\uffff",
    "กำลังເຮັດខ្មែར",
)  # fmt: skip


def fuzzed(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        kinds = [*rng.sample(KINDS, rng.randrange(1, 6)), rng.choice(SPECIAL_TOKENS)]
        texts.append("".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randrange(40))))
    return texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with merges across every kind of boundary, so that a wrong boundary changes the ids."""
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train(fuzzed(1, 3000), TokenizerConfig(vocab_size=3000)), path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    found = open_encoder(folder)
    assert found.library == "gigatoken", found.reason
    return found


def pair_encoder(folder: Path, texts: list[str]) -> Encoder:
    """Encoder with a merge wherever there could be a bound between pieces."""
    state = paired(read_state(folder), texts)
    return Encoder(Tokenizer(load_backend(state), {}, (), {}), giga.Giga(*supported(state)), None)


def differing(encoder: Encoder, texts: list[str]) -> list[str]:
    rows = zip(texts, encoder.encode(texts).rows(), encoder.reference(texts).rows(), strict=True)
    return [text for text, found, wanted in rows if not np.array_equal(found, wanted)]


def test_ids_of_fuzzed_texts_are_those_of_tokenizers(encoder: Encoder) -> None:
    assert differing(encoder, fuzzed(2, 6000)) == []


def test_every_kind_of_character_is_the_same_in_both_libraries(encoder: Encoder, folder: Path) -> None:
    """Merges of a character's bytes with those around it show where a piece ends."""
    alike = [*range(0x3400, 0xA000), *range(0xAC00, 0xD7A4), *range(0x17000, 0x18D00), *range(0x20000, 0x33480)]
    codes = {*range(0xD800), *range(0xE000, 0xE010), *range(0xF900, 0x1FB00), *range(0xE0000, 0xE0200)}
    codes = sorted(codes - set(alike) | {code for code in alike if code % 64 in (0, 57)})
    assigned = [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn" or code % 8 == 0]
    lines = [f"a{letter}a!{letter}! {letter}\r\n中{letter}" for letter in assigned]
    texts = ["\n".join(lines[at : at + 64]) for at in range(0, len(lines), 64)]
    assert differing(pair_encoder(folder, texts), texts) == []


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [""],
        ["", "a", "", "", "中", ""],
        ["a" * (1 << 20)],
        ["0123456789" * 5000],
        [" " * 50_000 + "x" + "\n" * 50_000],
        ["漢" * 100_000],
        ["ー" * 1000 + "ア"],
        ["\x00" * 1000, "a\x00b"],
        ["line\r\nline\r\n\r\n  中\r\n"],
        ["👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽🇩🇪"],
        ["a lone surrogate replaced: \ufffd"],
        [*SPECIAL_TOKENS, "".join(SPECIAL_TOKENS), "中</longcat_s>文"],
        ["　　段落\n\n 〇一二 \n\n　中"],
        ["中", "中", "ー", "ーア", " ", "字 "],
        ["〇\n\u3000\nx", "a\n\u3000〇\n \u00a0\n〇b\n\u2028\n\nc"],
    ],
    ids=lambda texts: ascii("|".join(texts))[:20],
)
def test_ids_of_texts_at_the_edges(encoder: Encoder, folder: Path, texts: list[str]) -> None:
    assert differing(encoder, texts) == []
    assert differing(pair_encoder(folder, texts), texts) == []
    encoded = encoder.encode(texts)
    assert (encoded.n_bytes, len(encoded.lengths)) == (sum(len(text.encode()) for text in texts), len(texts))


def test_special_tokens_in_a_text_are_text(encoder: Encoder) -> None:
    assert encoder.encode(list(SPECIAL_TOKENS)).ids.min() >= len(SPECIAL_TOKENS)


def test_a_lone_surrogate_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="lone surrogate"):
        encoder.encode(["fine", "a\ud800b"])


def test_plain_prose_of_every_script_goes_to_gigatoken() -> None:
    """Only lines with the rare characters that the two libraries treat differently are left to the other."""
    prose = "東京は日本の首都です。 カタカナー 東ー\n　春眠不覺曉，處處聞啼鳥。\nशिक्षा 한국어 العربية".encode()
    assert not cut([prose], groups=True).hard.any()
    pieces = cut(["一行\n二〇二四年\n三行".encode()], groups=True)
    slices = zip(pieces.bounds[:-1][pieces.hard], pieces.bounds[1:][pieces.hard], strict=True)
    assert [pieces.data[start:stop].tobytes().decode() for start, stop in slices] == ["二〇二四年\n"]


def test_new_characters_are_hard_whatever_python_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments.unicodedata, "category", lambda letter: "Lo")
    kinds = segments._kinds.__wrapped__(True)
    assert {int(kinds[code]) for code in (0x88F, 0x11DE0, 0x16FF4, 0x323B0, 0x33479)} == {segments.HARD}


def test_a_grown_cache_is_given_up_without_an_effect_on_ids(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giga, "MIN_BYTES", 0)
    monkeypatch.setattr(giga, "MAX_GROWTH", -(1 << 50))
    encoder = open_encoder(folder)
    assert encoder._giga is not None
    before = encoder._giga._tokenizer
    assert differing(encoder, fuzzed(3, 200)) == []
    assert encoder._giga._tokenizer is not before
