"""Answers: content, reasoning and tool calls, however the text is cut."""

from __future__ import annotations

import json
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.stages.inference.answers import AnswerParser, AnswerPart
from longcat.stages.inference.tokenizer import TAG_MARK

CALL, END, THINK, THOUGHT = (
    TAG_MARK + tag for tag in ("<longcat_tool_call>", "</longcat_tool_call>", "<longcat_think>", "</longcat_think>")
)
WEATHER = CALL + '\n{"name": "weather", "arguments": {"city": "Zü\\"}rich", "days": [1, {"a": 2}]}}\n' + END


def parse(pieces: list[str], *, thinking: bool = False, calls: bool = True, stream: bool = True) -> list[AnswerPart]:
    """Parts, those of one kind and call merged."""
    parser = AnswerParser(thinking=thinking, calls=calls, stream=stream)
    parts = [part for piece in pieces for part in parser.push(piece)] + parser.finish()
    merged = []
    for (kind, index, name), group in groupby(parts, key=lambda part: (part.kind, part.index, part.name)):
        run = list(group)
        text, source = "".join(part.text for part in run), "".join(part.source for part in run)
        merged.append(AnswerPart(kind, text, source, index, name))
    return merged


def shown(parts: list[AnswerPart]) -> list[tuple[str, str]]:
    return [(part.kind, part.name or part.text) for part in parts if part.kind != "tag"]


@pytest.mark.parametrize("stream", [True, False])
def test_reasoning_content_and_calls(stream: bool) -> None:
    text = f"{THINK}\nhm{THOUGHT}So:{WEATHER}{CALL}\n" + '{"name": "now", "arguments": {}}\n' + f"{END} end"
    arguments = '{"city": "Zü\\"}rich", "days": [1, {"a": 2}]}'
    assert shown(parse([text], stream=stream)) == [
        ("reasoning", "\nhm"),
        ("content", "So:"),
        ("call", "weather"),
        ("arguments", arguments),
        ("call", "now"),
        ("arguments", "{}"),
        ("content", " end"),
    ]
    assert [part.index for part in parse([text], stream=stream) if part.kind == "call"] == [0, 1]


def test_a_prompt_that_ends_inside_a_thought() -> None:
    assert shown(parse([f"hm{THOUGHT}yes"], thinking=True)) == [("reasoning", "hm"), ("content", "yes")]
    assert shown(parse(["hm"], thinking=True)) == [("reasoning", "hm")]


def test_arguments_stream_as_they_come() -> None:
    parser = AnswerParser()
    assert parser.push(CALL + '\n{"name": "f", "argu') == []
    assert not parser.called
    (begun,) = parser.push('ments": ') + parser.push("{")[:1]
    assert (begun.kind, begun.name, begun.text) == ("call", "f", "")
    assert [part.text for part in parser.push('"a": ')] == ['"a": ']
    assert [part.text for part in parser.push("1}}")] == ["1}"]
    assert [part.kind for part in parser.push("\n" + END)] == ["tag"]
    assert parser.called


def test_content_is_not_held_back() -> None:
    parser = AnswerParser()
    assert [part.text for part in parser.push("a < b")] == ["a < b"]
    assert parser.push(TAG_MARK + "<longcat_th") == []
    assert [part.text for part in parser.push("at")] == []
    assert "".join(part.text for part in parser.finish()) == TAG_MARK + "<longcat_that"


def test_the_text_of_tags_in_plain_tokens_is_content() -> None:
    text = WEATHER.replace(TAG_MARK, "") + "<longcat_think>x"
    assert shown(parse([text])) == [("content", text)]


def test_without_calls_their_tags_are_content() -> None:
    assert shown(parse([WEATHER], calls=False))[0][0] == "content"
    assert "".join(part.source for part in parse([WEATHER], calls=False)) == WEATHER
    for pieces in ([WEATHER], list(WEATHER)):
        assert shown(parse(pieces, calls=False)) == [("content", WEATHER.replace(TAG_MARK, ""))]


DAMAGED = [
    CALL,
    CALL + '\n{"name": "f"',
    CALL + '\n{"name": "f", "arguments": [1]}\n' + END,
    CALL + '\n{"name": "", "arguments": {}}\n' + END,
    CALL + '\n{"name": "\\ud8", "arguments": {}}\n' + END,
    CALL + "not json" + END,
    CALL + '{"arguments": {"a": 1}}' + END,
    CALL + '{"name": 1, "arguments": {}}' + END,
    CALL + '{"name": "f", "parameters": {}}' + END,
    CALL + "[" * 5000 + END,
    END,
    THOUGHT,
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_calls_come_back_as_content(text: str, stream: bool) -> None:
    assert shown(parse([f"a{text}b"], stream=stream)) == [("content", f"a{text}b".replace(TAG_MARK, ""))]


DAMAGED_ARGUMENTS = [
    CALL + '\n{"name": "f", "arguments": {"a": ',
    CALL + '\n{"name": "f", "arguments": {"a": }}\n' + END,
    CALL + '\n{"name": "f", "arguments": {"a": NaN}}\n' + END,
    CALL + '\n{"name": "f", "arguments": {"a": "' + END,
    CALL + '\n{"name": "f", "arguments": {}, "more": 1}\n' + END,
]


@pytest.mark.parametrize("text", DAMAGED_ARGUMENTS)
def test_a_whole_answer_has_no_call_with_damaged_arguments(text: str) -> None:
    assert shown(parse([text], stream=False)) == [("content", text.replace(TAG_MARK, ""))]


def test_a_stream_goes_on_as_content_after_damaged_arguments() -> None:
    assert shown(parse([DAMAGED_ARGUMENTS[3] + " x"])) == [
        ("call", "f"),
        ("arguments", '{"a": "'),
        ("content", "</longcat_tool_call> x"),
    ]
    assert shown(parse([DAMAGED_ARGUMENTS[4]]))[-1] == ("content", ', "more": 1}\n</longcat_tool_call>')
    assert shown(parse([CALL + '{"name": "f", "arguments": {}}' + WEATHER]))[-2:][0] == ("call", "weather")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ('{"arguments": {"a": "ü"}, "name": "f"}', '{"a": "ü"}'),
        ('{"name": "f"}', "{}"),
        (' \n{ "name":"f" ,\n"arguments" : {"a":1} } ', '{"a":1}'),
    ],
)
def test_other_spellings_of_a_call(body: str, arguments: str, stream: bool) -> None:
    parts = parse([CALL + body + END], stream=stream)
    assert shown(parts) == [("call", "f"), ("arguments", arguments)]
    assert "".join(part.source for part in parts) == CALL + body + END


@pytest.mark.parametrize("stream", [True, False])
def test_a_call_without_its_end_tag_is_complete(stream: bool) -> None:
    assert shown(parse([WEATHER.removesuffix(END)], stream=stream))[0] == ("call", "weather")


FRAGMENTS = [
    CALL, END, THINK, THOUGHT, WEATHER, TAG_MARK, "<longcat_think>", "\n", " ", "}", "{", '"', "\\", "a", "ü",
    '{"name": "f", "arguments": ', '{"a": 1}', '{"name": "f", "arguments": {"x": [1, "}"]}}', '"arguments": {}',
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=5)), max_size=14).map("".join)


@given(TEXTS, st.data(), st.booleans(), st.booleans(), st.booleans())
def test_any_split_gives_the_same_parts_and_loses_nothing(
    text: str, data: st.DataObject, thinking: bool, calls: bool, stream: bool
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = parse([text], thinking=thinking, calls=calls, stream=stream)
    assert parse(pieces, thinking=thinking, calls=calls, stream=stream) == whole
    assert parse(list(text), thinking=thinking, calls=calls, stream=stream) == whole
    assert "".join(part.source for part in whole) == text
    kept = "".join(part.text for part in whole if part.kind in ("content", "reasoning"))
    assert stream or all(isinstance(json.loads(part.text), dict) for part in whole if part.kind == "arguments")
    assert len(kept) <= len(text)
