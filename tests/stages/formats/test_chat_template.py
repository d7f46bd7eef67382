"""Untrusted chat templates: limits of time, memory and text."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.errors import InputError, MachineError
from longcat.stages.formats import template_child
from longcat.stages.formats.chat_template import ChatTemplate

LIMIT = 16 << 20
SPIN = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
GROW = "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}"

TIME_OR_MEMORY = "takes more than 5 s of CPU time|MiB of memory|grows beyond|out of bounds|too large|too big"


def render(source: str, **values: Any) -> str:
    return ChatTemplate(source).render(values, LIMIT)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SPIN, "takes more than 5 s of CPU time"),
        (GROW, "MiB of memory|grows beyond"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxx{% endfor %}{% endfor %}", "grows beyond"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recurses without end"),
        ("{{ 'x' * 99999999999 }}", TIME_OR_MEMORY),
        ("{{ 'x'.ljust(99999999999) }}", TIME_OR_MEMORY),
        ("{{ 'x'|center(99999999999) }}", TIME_OR_MEMORY),
        ("{{ '%9999999999d'|format(1) }}", TIME_OR_MEMORY),
        ("{{ 9 ** 99999999 }}", TIME_OR_MEMORY),
        ("{{ ('x' * 1000000).replace('x', 'y' * 1000000) }}", TIME_OR_MEMORY),
        ("{{ [0] * 9999999999 }}", TIME_OR_MEMORY),
        ("{{ lipsum(n=9999999) }}", TIME_OR_MEMORY),
        ("{{ range(99999999) }}", "rejects.*too big"),
        ("{{ 1 / 0 }}", "rejects.*division by zero"),
        ("{{ {}['a'].b }}", "rejects.*no attribute 'a'"),
        ("{{ raise_exception('x' * 100000) }}", "rejects.*x{200}"),
        ("{{ 'a'|nofilter }}", "not valid.*nofilter"),
        ("{% include 'x' %}", "rejects"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "rejects.*unsafe"),
    ],
)
def test_a_template_beyond_the_limits_is_one_short_line(source: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        render(source)
    assert time.monotonic() - started < 40
    assert len(str(caught.value)) < 500
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ " + "(" * 50_000, "{{ x }", "{% for %}" * 10, "{{ " + "[" * 5000 + "]" * 5000 + " }}"]
)
def test_an_invalid_template_is_refused_without_a_child_process(source: str) -> None:
    with pytest.raises(InputError, match="not valid"):
        ChatTemplate(source)


def test_a_template_works_after_a_call_that_did_not_end() -> None:
    template = ChatTemplate("{% if spin %}" + SPIN + "{% endif %}hello {{ name }}")
    assert template.render({"name": "ä", "spin": False}, LIMIT) == "hello ä"
    with pytest.raises(InputError, match="CPU time"):
        template.render({"spin": True}, LIMIT)
    assert template.render({"name": "\ud800", "spin": False}, LIMIT) == "hello \ud800"


def test_a_child_killed_from_outside_is_not_a_fault_of_the_template() -> None:
    template = ChatTemplate("{{ x }}")
    assert template.render({"x": 1}, LIMIT) == "1"
    assert template._child is not None
    os.kill(template._child._process.pid, signal.SIGKILL)
    with pytest.raises(MachineError, match="killed by SIGKILL"):
        template.render({"x": 1}, LIMIT)
    assert template.render({"x": 2}, LIMIT) == "2"


def _ask(template: ChatTemplate, number: int) -> str:
    return template.render({"x": number}, LIMIT)


def test_threads_share_the_child_and_it_exits_with_its_template() -> None:
    template = ChatTemplate("{{ x }}")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(partial(_ask, template), range(40))) == [str(x) for x in range(40)]
    assert template._child is not None
    pid = template._child._process.pid
    del template
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_values_without_json_representation_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in ({1, 2}, b"x", endless):
        with pytest.raises(InputError, match="a value that JSON cannot represent"):
            render("{{ x }}", x=value)


def test_json_keeps_order_and_characters() -> None:
    text = render("{{ x|tojson(indent=1) }}", x={"b": [1, "ä"], "a": None})
    assert text == '{\n "b": [\n  1,\n  "ä"\n ],\n "a": null\n}'


def test_the_child_can_write_no_file_and_open_few(tmp_path: Path) -> None:
    """Limits of a template that escaped from the sandbox."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(template_child.__file__).parent)!r})
import template_child
template_child.limit()
try:
    with open({str(tmp_path / "x")!r}, "w") as file:
        file.write("x")
except OSError as error:
    print(error.strerror)
"""
    command = [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "File too large\n"
