"""Incremental decoding of text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.stages.inference.detokenize import TextStream


def stream_of(pieces: Sequence[bytes], stop: Sequence[str] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(lambda token: pieces[token], stop)
    shown = []
    for token in range(len(pieces)):
        shown.append(stream.push(token))
        if stream.stopped:
            return shown, stream
    return [*shown, stream.finish()], stream


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def test_an_incomplete_character_is_held_back() -> None:
    shown, _ = stream_of([b"a\xe2", b"\x82", b"\xac", b"b"])
    assert shown == ["a", "", "€", "b", ""]


def test_an_incomplete_character_at_the_end_becomes_a_replacement() -> None:
    shown, _ = stream_of([b"a", b"\xf0\x9f"])
    assert shown == ["a", "", "�"]


def test_invalid_utf8_does_not_block() -> None:
    shown, _ = stream_of([b"\xff", b"a"])
    assert "".join(shown) == "�a"


def test_the_start_of_a_stop_string_is_held_back() -> None:
    shown, stream = stream_of([b"one\n", b"\nQ", b"uite", b"\n\nQ:", b"x"], ["\n\nQ:"])
    assert shown == ["one", "", "\n\nQuite", ""]
    assert stream.stopped


def test_a_possible_stop_string_at_the_end_is_shown() -> None:
    assert stream_of([b"a EN"], ["END"])[0] == ["a ", "EN"]


def test_the_earliest_stop_string_counts() -> None:
    shown, _ = stream_of([b"abcdef"], ["ef", "cd"])
    assert shown == ["ab"]


@given(st.text(), st.lists(st.integers(min_value=0, max_value=10_000)))
def test_pieces_join_to_the_text_for_any_split(text: str, places: list[int]) -> None:
    shown, _ = stream_of(cut(text.encode("utf-8", "replace"), places))
    assert "".join(shown) == text.encode("utf-8", "replace").decode()


@given(st.binary(max_size=40), st.lists(st.integers(min_value=0, max_value=40)))
def test_any_bytes_decode_as_python_does(data: bytes, places: list[int]) -> None:
    assert "".join(stream_of(cut(data, places))[0]) == data.decode("utf-8", "replace")


@given(
    st.text(alphabet="ab€", max_size=30),
    st.lists(st.integers(min_value=0, max_value=60)),
    st.lists(st.text(alphabet="ab€", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_nothing_of_a_stop_string_is_ever_shown(text: str, places: list[int], stop: list[str]) -> None:
    pieces = cut(text.encode(), places)
    shown, stream = stream_of(pieces, stop)
    # With pieces of several tokens, several stop strings may complete at once; then the earliest start counts.
    whole = "".join(shown)
    assert text.startswith(whole)
    assert not any(string in whole for string in stop)
    assert stream.stopped == any(string in text for string in stop)
    if not stream.stopped:
        assert whole == text


@pytest.mark.parametrize("pieces", [[b"x", b"y"], [b"xy"]])
def test_counts_of_characters(pieces: list[bytes]) -> None:
    _, stream = stream_of(pieces, ["y!"])
    assert (stream.shown, stream.decoded) == (2, 2)
