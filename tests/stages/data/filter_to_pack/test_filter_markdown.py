"""The marks of markdown that extraction writes are left out of what Gopher's and FineWeb's rules count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import Document
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.inspect.report import report
from longcat.stages.data.rules.config import FilterConfig
from longcat.stages.data.rules.gopher_quality import measure_quality
from longcat.stages.data.rules.gopher_repetition import measure_repetition
from longcat.stages.data.rules.judge import RuleVerdict, judge
from longcat.stages.data.rules.view import view_text

MakeDocuments = Callable[..., Artifact]

SPARING = ("gopher_quality", "gopher_repetition", "fineweb")


def judged(text: str, spare: bool, **metadata: str) -> RuleVerdict:
    families: dict[str, Any] = {name: {"spare_markdown": spare} for name in SPARING}
    config = FilterConfig.model_validate({"language": {"enabled": False}, **families})
    return judge(Document("d", text, "test", metadata=metadata), config, None)


@pytest.mark.parametrize(
    ("text", "prose", "n_words"),
    [
        ("## The mill", "The mill", 2),
        ("- The mill\n  - its wheel", "- The mill\n  - its wheel", 4),
        ("1. The mill\n23. its wheel", "The mill\nits wheel", 4),
        ("> The mill\n> its wheel\n>\n> > - stands", "The mill\nits wheel\n\n- stands", 5),
        ("| mill | wheel |\n| --- | --- |\n| old |  |", "mill wheel\nold", 3),
        ("Call `turn` or `stop`, and ``quote'' ` alone", "Call turn or stop, and ``quote'' ` alone", 12),
        ("- Call `turn`\n| `a` | b |", "- Call turn\na b", 4),
        ("before\n```sh\n# no heading\nturn\n```\nafter", "before\nafter", 2),
        ("before\n````\n```\nturn\n```\n````\nafter", "before\nafter", 2),
        ("before\n```\nturn", "before\n```\nturn", 5),
    ],
)
def test_marks_are_told_from_prose(text: str, prose: str, n_words: int) -> None:
    view = view_text(text, spare_markdown=True)
    assert (view.prose, view.n_words, sum(view.line_words.tolist())) == (prose, n_words, n_words)
    assert (view.text, view.lines) == (text, text.split("\n"))


@pytest.mark.parametrize("text", ["#tag", "-5 degrees", "a - b", "1.5 km", "1.", "|x| > 3 | y", "C# | F#", "#", "-"])
def test_signs_that_are_no_marks_are_counted(text: str) -> None:
    assert view_text(text, spare_markdown=True).prose == text
    assert view_text(text, spare_markdown=True).n_words == view_text(text).n_words


PAGE = """## The # mill

- The wheel
- The pond ...

| part | `year` |
| --- | --- |
| wheel | 1848 |

```
- x = 1  # turn
```"""


def test_quality_counts_without_marks() -> None:
    values = measure_quality(view_text(PAGE, spare_markdown=True), ("the", "turn"))
    assert values["words"] == 10  # The mill The wheel The pond part year wheel 1848; # and ... are symbols
    assert values["hash_ratio"] == pytest.approx(1 / 12)
    assert values["ellipsis_ratio"] == pytest.approx(1 / 12)
    assert values["alphabetic_word_fraction"] == pytest.approx(9 / 12)
    assert values["stop_words"] == 0
    marked = measure_quality(view_text(PAGE), ("the", "turn"))
    assert marked["alphabetic_word_fraction"] < 0.5
    assert marked["hash_ratio"] == pytest.approx(4 / 41)
    assert marked["stop_words"] == 1


def test_a_bullet_tells_a_list_line_though_it_is_no_word() -> None:
    items = "\n".join(f"- Item {number}" for number in range(9))
    code = "\n```diff\n" + "- x\n" * 30 + "```"
    for text in (items + "\nEnd", items + code + "\nEnd"):
        assert measure_quality(view_text(text, spare_markdown=True), ())["bullet_line_fraction"] == 0.9
    assert judged(items, spare=True).values["gopher_quality.bullet_line_fraction"] == 1


def test_repeated_fences_rules_and_code_are_no_repetition() -> None:
    text = "\n\n".join(f"Step {name}\n\n```\nmake\n```\n\n| {name} | x{name} |\n| --- | --- |" for name in "abcd")
    assert measure_repetition(view_text(text))["duplicate_line_fraction"] > 0.4
    assert measure_repetition(view_text(text, spare_markdown=True))["duplicate_line_fraction"] == 0
    spared, marked = judged(text, True).values, judged(text, False).values
    assert spared["fineweb.duplicate_line_characters"] == 0 < marked["fineweb.duplicate_line_characters"]
    assert spared["c4.sentences"] == marked["c4.sentences"]


def test_lines_of_fineweb_are_those_of_the_cleaned_text() -> None:
    text = "# It is said.\n- It stands so [1].\n> It is `so`.\n```\nx = 1 and no more\n```\nGo\n| It is. | so. |"
    verdict = judged(text, spare=True)
    assert verdict.text == text.replace(" [1]", " ").replace("Go\n", "")
    assert verdict.values["fineweb.terminal_line_fraction"] == 1
    assert verdict.values["fineweb.short_line_fraction"] == 1
    assert verdict.values["fineweb.newlines_per_word"] == pytest.approx(3 / 20)
    assert judged(text, spare=False).values["fineweb.terminal_line_fraction"] == pytest.approx(3 / 7)


def test_a_page_is_not_dropped_for_its_marks(prose: str) -> None:
    text = "\n\n".join(f"| {line} | 2 |\n| --- | --- |" for line in prose.split("\n"))
    assert judged(text, spare=True).values["gopher_quality.alphabetic_word_fraction"] > 0.8
    assert judged(text, spare=False).reason == "gopher_quality.min_alphabetic_word_fraction"


def test_code_in_fences_is_no_prose_of_a_notebook(prose: str) -> None:
    text = prose + "\n\n```python\nimport numpy as np and so on\n```" * 20
    assert judged(text, True, kind="notebook").reason is None
    assert str(judged(text, False, kind="notebook").reason).startswith("gopher_repetition.")


UNMARKED = st.text(alphabet=st.characters(exclude_characters="#|>`\n"), max_size=60).filter(
    lambda line: not line.split() or not (line.split()[0] == "-" or line.split()[0][-1] == ".")
)


@settings(max_examples=200, deadline=None)
@given(st.lists(UNMARKED | st.sampled_from(["The mill stands.", "The mill", "", "• one", "-x"]), max_size=8))
def test_text_without_marks_has_the_same_values(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert judged(text, True) == judged(text, False)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="#->|`1. \nax", max_size=60))
def test_any_marks_leave_the_text_and_give_shares(text: str) -> None:
    view = view_text(text, spare_markdown=True)
    assert view.text == text
    assert len(view.line_words) == len(view.lines)
    values = measure_quality(view, ())
    assert all(0 <= values[f"{name}_fraction"] <= 1 for name in ("bullet_line", "ellipsis_line", "alphabetic_word"))
    judged(text, spare=True)


def test_other_marks_need_another_run(session: Session, make_documents: MakeDocuments, prose: str) -> None:
    documents = make_documents([Document("d", prose, "s")])
    config = {"language": {"enabled": False}}
    artifact = run_stage(session, "data.filter", config, {"documents": documents}).artifact
    with pytest.raises(ConfigError, match="changes what is measured"):
        report(artifact, None, changes={"gopher_quality": {"spare_markdown": False}})
