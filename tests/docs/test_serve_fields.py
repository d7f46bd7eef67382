"""The page about the server names the fields of others, its settings and its metrics as they are."""

from __future__ import annotations

import re

import pytest

from longcat.stages.inference.options import EngineOptions
from longcat.stages.serve.protocol import NOT_OURS, ChatRequest, CompletionRequest
from longcat.stages.serve.settings import ServerSettings
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
FIELDS = PAGE[PAGE.index("### Fields of other servers") : PAGE.index("## Limits and errors")]


def test_the_table_of_foreign_fields_is_complete() -> None:
    named = set(re.findall(r"`(\w+)`", FIELDS))
    ours = {"structured_outputs"} | CompletionRequest.model_fields.keys() | ChatRequest.model_fields.keys()
    assert {name for name in NOT_OURS if f"`{name}`" not in PAGE} == set()
    assert named <= NOT_OURS.keys() | ours


@pytest.mark.parametrize("kind", [CompletionRequest, ChatRequest])
def test_every_field_of_a_request_is_named(kind: type[CompletionRequest] | type[ChatRequest]) -> None:
    assert {name for name in kind.model_fields if f"`{name}`" not in PAGE and f'"{name}"' not in PAGE} == set()


def test_settings_that_are_named_exist() -> None:
    for path in re.findall(r"`serve\.([\w.]+)(?:=[^`]*)?`", PAGE):
        kind = ServerSettings
        for part in path.split("."):
            assert part in kind.model_fields, path
            kind = kind.model_fields[part].annotation  # type: ignore[assignment]


def test_the_table_of_the_engine_is_complete() -> None:
    assert set(re.findall(r"`engine\.(\w+)`", PAGE)) == EngineOptions.model_fields.keys()
    defaults = dict(re.findall(r"^\| .*`engine\.(\w+)` \| `?([\w ,]+)`? \|", PAGE, re.MULTILINE))
    for name, field in EngineOptions.model_fields.items():
        if field.default is not None:
            switch = "on" if field.default else "off"
            assert defaults[name] == (switch if isinstance(field.default, bool) else str(field.default))


def test_every_metric_is_named() -> None:
    source = (ROOT / "stages" / "serve" / "metrics.py").read_text(encoding="utf-8")
    for name in set(re.findall(r'"(longcat_\w+)"', source)):
        assert re.search(rf"`{name}(?:_total)?`", PAGE), name
