"""Files of a batch: damaged lines are named, and the output is continued where it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.errors import InputError, LongcatError
from longcat.stages.inference import batch_lines
from longcat.stages.inference.batch_lines import check_lines, digest_of, parse_line, read_lines
from longcat.stages.inference.batch_output import open_output, record
from longcat.stages.inference.sampling import SamplingParams

EXPECTED = [(1, "aa"), (2, "bb"), (4, "dd")]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def parsed(prompts: Path, **fields: Any) -> batch_lines.BatchLine:
    return parse_line(prompts, 1, json.dumps(fields).encode())


def test_lines_keep_their_numbers_and_blank_ones_are_left_out(prompts: Path) -> None:
    prompts.write_bytes(b'{"prompt": "a"}\n\n  \r\n{"prompt": "b"}\r\n{"prompt": "c"}')
    assert [number for number, _ in read_lines(prompts)] == [1, 4, 5]
    assert check_lines(prompts) == 3


def test_a_line_replaces_values_of_the_command(prompts: Path) -> None:
    line = parsed(prompts, prompt="a", temperature=0, stop="x", top_k=3, seed=None, n=2, id=7)
    assert line.sampling() == {"temperature": 0, "stop": ["x"], "top_k": 3}
    assert parsed(prompts, prompt="a", stop=["x", "y"]).sampling() == {"stop": ["x", "y"]}
    chat = parsed(prompts, messages=[{"role": "user", "content": "Hi"}])
    assert chat.messages is not None
    assert chat.sampling() == {}


def test_values_of_a_line_are_sampling_parameters() -> None:
    own = {"id", "prompt", "messages", "n", "json_schema"}
    assert batch_lines.BatchLine.model_fields.keys() - own <= vars(SamplingParams()).keys()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is not JSON: "),
        (b"\xff", "line 2 is not JSON: not UTF-8"),
        (b'{"prompt": "a", "prompt": "b"}', "line 2 is not JSON: duplicate key 'prompt'"),
        (b'{"prompt": "a", "seed": NaN}', "line 2 is not JSON: NaN is not JSON"),
        (b'{"prompt": "\\ud800"}', "line 2 is not JSON: a string with a lone surrogate"),
        (b"3", "line 2 is not a JSON object"),
        (b"{}", "line 2 .*give either prompt or messages"),
        (b'{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', "line 2 .*give either prompt or messages"),
        (b'{"prompt": ""}', "line 2 'prompt': "),
        (b'{"prompt": "a", "temprature": 1}', "line 2 unknown key 'temprature', did you mean 'temperature'"),
        (b'{"prompt": "a", "temperature": "hot"}', "line 2 'temperature': "),
        (b'{"prompt": "a", "top_p": 7}', "line 2 'top_p': "),
        (b'{"messages": []}', "line 2 'messages': "),
        (b'{"messages": [{"role": "user", "content": 3}]}', "line 2 'messages"),
    ],
)
def test_damaged_lines_are_named_before_anything_is_generated(prompts: Path, line: bytes, message: str) -> None:
    prompts.write_bytes(b'{"prompt": "a"}\n' + line + b'\n{"prompt": "b"}\n')
    with pytest.raises(InputError, match=f"1 of 3 lines are damaged: {message}") as caught:
        check_lines(prompts)
    assert str(prompts) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_many_damaged_lines_are_counted_and_the_first_named(prompts: Path) -> None:
    prompts.write_bytes(b"x\n" * 50)
    with pytest.raises(InputError, match=r"50 of 50 lines are damaged: line 1 .*; line 10 [^;]*; \.\.\.$"):
        check_lines(prompts)


def test_files_that_cannot_be_read_are_named(prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="No such file"):
        check_lines(prompts)
    prompts.write_bytes(b"\n \n")
    with pytest.raises(InputError, match="has no lines"):
        check_lines(prompts)
    monkeypatch.setattr(batch_lines, "MAX_LINE_BYTES", 20)
    prompts.write_bytes(b'{"prompt": "a"}\n{"prompt": "' + b"a" * 30 + b'"}\n')
    with pytest.raises(InputError, match="line 2 is longer than 20 bytes"):
        check_lines(prompts)


def test_a_digest_covers_the_line_and_the_command() -> None:
    digests = {digest_of(line, command) for line in (b"a", b"b") for command in ({}, {"seed": 1}, {"seed": 2})}
    assert len(digests) == 6
    assert digest_of(b"a", {"seed": 1, "n": 2}) == digest_of(b"a", {"n": 2, "seed": 1})


def write(answers: Path, *, until: int) -> None:
    with open_output(answers, iter(EXPECTED)) as output:
        for line, digest in EXPECTED[output.finished : until]:
            output.write(record(line, digest, {"text": f"ä{line}"}))


def test_an_output_is_continued_after_any_byte(answers: Path) -> None:
    write(answers, until=3)
    whole = answers.read_bytes()
    assert [json.loads(line)["line"] for line in whole.splitlines()] == [1, 2, 4]
    for size in range(len(whole) + 1):
        answers.write_bytes(whole[:size])
        write(answers, until=3)
        assert answers.read_bytes() == whole


def test_failed_lines_are_counted(answers: Path) -> None:
    answers.write_bytes(record(1, "aa", {"text": "a"}) + record(2, "bb", {"error": "too long"}))
    with open_output(answers, iter(EXPECTED)) as output:
        assert (output.finished, output.failed) == (2, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"precious notes", "line 1 is no answer of this command"),
        (b"precious\nnotes\n", "line 1 is no answer of this command"),
        (record(1, "aa", {}) + b"3\n", "line 2 is no answer of this command"),
        (record(1, "aa", {}) + b"notes", "line 2 is no answer of this command"),
        (record(1, "xx", {}), "line 1 answers another input, or other options"),
        (record(1, "aa", {}) + record(4, "dd", {}), "line 2 answers another input"),
        (b"".join(record(*pair, {}) for pair in [*EXPECTED, (5, "ee")]), "line 4 answers another input"),
    ],
)
def test_a_file_of_something_else_is_left_as_it_is(answers: Path, content: bytes, message: str) -> None:
    answers.write_bytes(content)
    with pytest.raises(InputError, match=message), open_output(answers, iter(EXPECTED)):
        pass
    assert answers.read_bytes() == content


def test_two_commands_cannot_write_one_output(answers: Path) -> None:
    with (
        open_output(answers, iter(EXPECTED)),
        pytest.raises(InputError, match="another process writes this file"),
        open_output(answers, iter(EXPECTED)),
    ):
        pass


def test_an_output_that_cannot_be_written_is_one_line(tmp_path: Path, small_disk: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "answers.jsonl"):
        with pytest.raises(InputError) as caught, open_output(path, iter(EXPECTED)):
            pass
        assert str(path) in str(caught.value)
    with pytest.raises(LongcatError), open_output(small_disk / "answers.jsonl", iter(())) as output:
        for _ in range(100):
            output.write(b"x" * (1 << 14) + b"\n")
