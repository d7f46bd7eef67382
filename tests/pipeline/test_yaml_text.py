"""External YAML: every error is one line with file, line and column, and bounds apply early."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.cli.app import run
from longcat.pipeline.config import MAX_YAML_BYTES, load_mapping
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.recipe import load_recipe
from longcat.pipeline.yaml_text import parse_yaml

LAUGHS = ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
LAUGHS += [f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 10)]
MERGES = ["m0: &m0 {a: 1}"] + [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 12)]

REFUSED = {
    "name: x\nsteps: " + "[" * 5000 + "]" * 5000: "2:71: .*nested more than 64 levels",
    "[" * 1_000_000: "1:65: .*nested more than 64 levels",
    "\n".join(" " * level + "a:" for level in range(200)): "64:64: .*nested more than 64 levels",
    "\n".join(LAUGHS): "5:.*more than 100000 values, with aliases expanded",
    "\n".join(MERGES): "more than 100000 values, with aliases expanded",
    "[" + "1," * 200_000 + "]": "more than 100000 values",
    "a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 5000 + "]": "2:.*characters, with aliases expanded",
    "a: &a [*a]": r"1:8: .*the alias \*a contains itself",
    "a: *b": "1:4: .*undefined alias",
    'steps: !!int ""': "1:8: .*'' is not a valid int",
    "a: !!float x": "1:4: .*'x' is not a valid float",
    "a: !!bool maybe": "1:4: .*'maybe' is not a valid bool",
    "steps: !!timestamp x": "1:8: .*of type timestamp are not supported",
    "a: !!binary aGk=": "binary are not supported",
    "a: !!set {x}": "set are not supported",
    "a: !own x": "!own are not supported",
    "a: !!python/object/apply:os.system [x]": "python/object/apply:os.system are not supported",
    "a: !!str {b: c}": "1:4: .*expected a scalar",
    "steps: {? {a: b} : c}": "1:11: .*a key of type map",
    "? [a]\n: b": "a key of type seq",
    "1: a": "a key of type int, expected text .write '1' in quotes",
    "on: a": "a key of type bool",
    "? " + "k" * 300 + "\n: a": "a key of more than 256 characters",
    "a: 1\nb: 2\na: 3": "3:1: .*duplicate key 'a'",
    "x: &x {p: 1}\na: {<<: *x, <<: *x}": "2:13: .*duplicate key '<<'",
    "a: {<<: 1}": "1:9: .*expected a mapping to merge",
    "a: .inf": "1:4: .*inf is not a finite number",
    "a:\n  - .nan": "2:5: .*nan is not a finite number",
    "a: 1e999": "1:4: .*inf is not a finite number",
    "a: " + "9" * 5000: "1:4: .*is not a valid int",
    "a: 0x" + "f" * 100: "1:4: .*more than 64 bits",
    "a: " + "1:" * 5000 + "1": "1:4: .*is not a valid int",
    "a: b\0c": r"1:5: .*the character U\+0000",
    "a:\n b\x1bc": r"2:3: .*the character U\+001B",
    'a: "b\\0c"': r"1:4: .*the character U\+0000",
    'a: "\\ud800"': "1:4: .*a string with a lone surrogate",
    'a: "\\UFFFFFFFF"': "1:7: .*not valid YAML",
    "a: 1\n---\nb: 2": "2:1: .*expected a single document .*another document",
    "a: [1": "1:6: .*not valid YAML",
    "a:\n\t- b": "2:1: .*cannot start any token",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_errors_have_their_location(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    started = time.monotonic()
    with pytest.raises(
        ConfigError, match=f"(?s)c.yaml:{REFUSED[text]}" if REFUSED[text][0].isdigit() else REFUSED[text]
    ) as caught:
        load_mapping(path)
    assert time.monotonic() - started < 30
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 400 + len(str(path))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("b: &b {s: x}\na: {<<: *b, config: {k: 1}}", {"b": {"s": "x"}, "a": {"s": "x", "config": {"k": 1}}}),
        (
            "x: &x {p: 1}\ny: &y {p: 2, q: 1}\na: {<<: [*x, *y], q: 3}",
            {"x": {"p": 1}, "y": {"p": 2, "q": 1}, "a": {"p": 1, "q": 3}},
        ),
        (
            "a: &a {x: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, y: 1}\nd: *b",
            {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2, "y": 1}, "d": {"x": 2}},
        ),
        ("a: 2024-01-01\nb: 2024-01-01 10:00:00\nc: =", {"a": "2024-01-01", "b": "2024-01-01 10:00:00", "c": "="}),
        ("\ufeffa: 1e-3", {"a": 0.001}),
        ("a: &a [1]\nb: [*a, *a]", {"a": [1], "b": [[1], [1]]}),
        ("a: ~\nb:\nc: yes\nd: 18446744073709551615", {"a": None, "b": None, "c": True, "d": 2**64 - 1}),
        ("---\na: 1\n...\n", {"a": 1}),
        ("", None),
    ],
)
def test_accepted_values(text: str, value: object) -> None:
    assert parse_yaml(text, "c.yaml") == value


def test_invalid_utf_8_has_a_location(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:2:4: not UTF-8"):
        load_mapping(path)
    path.write_bytes("a: 1".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"c\.yaml:1:1: not UTF-8"):
        load_mapping(path)
    path.write_bytes(b"#" * (MAX_YAML_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_mapping(path)


def test_a_device_is_read_within_the_bound() -> None:
    with pytest.raises(ConfigError, match="larger than"):
        load_mapping(Path("/dev/zero"))


PIECES = st.sampled_from(
    [
        *(
            "a: ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "\n",
            "  ",
            "&a ",
            "*a",
            "<<: ",
            "? ",
            ": ",
            "!!int ",
            "!!float ",
            "!x ",
        ),
        *(
            "1",
            "0x",
            ".inf",
            "1e9",
            "'",
            '"',
            "\\x",
            "\\ud800",
            "|\n",
            ">-\n",
            "---\n",
            "...",
            "%TAG ! x\n",
            "#",
            "\t",
            "\0",
        ),
        *("1:2:3", "2024-01-01", "~", "=", "yes", "\u2028", "\ufeff"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=20).map("".join)))
def test_no_other_error_is_raised(text: str) -> None:
    try:
        parse_yaml(text, "c.yaml")
    except ConfigError as error:
        assert str(error).startswith("c.yaml:")


@pytest.mark.parametrize(
    "text", ["steps: !!int ''", "steps: {? {a: b} : c}", "a: [*b", "- 1", "steps: 3", "steps: {a: 3}"]
)
def test_a_bad_recipe_is_one_line(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"name: x\n{text}\n" if not text.startswith("-") else text)
    assert run(["--store", str(tmp_path / "store"), "run", str(path)]) == 3
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith(f"longcat: {path}")


def test_steps_of_a_recipe_share_values_by_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: x\nsteps:\n"
        "  strict: &strict\n    stage: data.filter\n    inputs: {documents: there}\n    config: {limit: &limit 2}\n"
        "  loose: {<<: *strict, config: {limit: *limit, seed: 1}}\n"
    )
    steps = load_recipe(path).steps
    assert steps["loose"].stage == steps["strict"].stage == "data.filter"
    assert steps["loose"].inputs == {"documents": ["there"]}
    assert (steps["strict"].config, steps["loose"].config) == ({"limit": 2}, {"limit": 2, "seed": 1})
