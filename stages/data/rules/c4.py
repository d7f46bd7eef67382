"""C4's line and page rules (Raffel et al. 2020, JMLR 21/140, section 2.2, and its released code).

Line rules remove lines from the text; page rules judge the rest. Blank lines between kept lines are kept, so that
paragraphs survive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from longcat.stages.data.rules.family import Cleaned, Family, Subject, ratio
from longcat.stages.data.text.characters import CUT, SINGLE
from longcat.stages.data.text.markdown_marks import bare_line
from longcat.stages.data.text.sentences import ends_by_foreign_mark, ends_sentence, foreign_breaks

if TYPE_CHECKING:
    from longcat.stages.data.rules.view import TextView

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
# Sentence terminators, with closing quotes and brackets, before another sentence on the line. A full stop after a
# single capital or a known abbreviation does not end a sentence. Possessive, so that the cost of a run of punctuation
# is linear. The pattern starts with the terminators, so that the search can skip to them; the text before is checked
# afterwards.
_SENTENCE_BREAK = re.compile(
    r"[.!?\"'”’)\]](?<![.!?\"'”’)\]]{2})(?:(?<![A-Z].)|(?<=[A-Z]{2}.))(?:(?<=[.!?])|(?=[\"'”’)\]]*+[.!?]))"
    r"[.!?\"'”’)\]]*+[^\S\n]++(?=[\"'“‘(\[«„¿¡]*+\w)"
)
_ABBREVIATION = re.compile(
    r"\.(?:(?<=\b(?:Mr|Ms|Dr|St|Jr|Sr|Co|vs)\.)|(?<=\b(?:Mrs|Inc|Ltd|e\.g|i\.e|a\.m|p\.m)\.)|(?<=\bProf\.))"
    r"[^\S\n]+(?=\w)"
)
_FENCES = ("```", "~~~")


@dataclass(frozen=True, slots=True)
class Lines:
    """What is judged of a text: `prose`, its lines as the view counts them, without blank ones; the words on them; the
    breaks between them.
    """

    prose: list[str]
    words: int
    newlines: int


class C4Lines(BaseModel):
    """C4's line rules: a line that violates one is removed from the text."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    # FineWeb found that this rule alone removes a third of all tokens, so it is off by default, unlike in C4.
    require_terminal_punctuation: bool = Field(
        default=False, description="Remove lines that do not end with one of . ? ! \" ' or a mark of another script."
    )
    min_words: int | None = Field(default=3, ge=0, description="Minimum number of words per line.")
    max_word_length: int | None = Field(default=1000, ge=1, description="Maximum word length in a line, in characters.")
    remove_javascript: bool = Field(default=True, description="Remove lines that contain javascript.")
    remove_policy: bool = Field(
        default=True, description="Remove lines about terms of use, privacy policies and cookies."
    )
    local_policy_phrases: tuple[str, ...] = Field(
        default=(), description="Phrases of lines to remove with `remove_policy`, in addition to the English ones."
    )
    remove_citations: bool = Field(default=True, description="Remove [1], [edit] and [citation needed] from lines.")
    spare_markdown: bool = Field(default=True, description="Keep headings, table rows and fenced code unchanged.")


class C4Rules(Family):
    """C4's page rules, applied after its line rules."""

    values = (
        "sentences",
        "lorem_ipsum",
        "curly_brackets",
        "lines_removed",
        "characters_removed",
        "removed_fraction",
    )

    lines: C4Lines = Field(default=C4Lines(), description="The line rules.")
    max_lorem_ipsum: int | None = Field(default=0, ge=0, description="Maximum number of lines with lorem ipsum.")
    max_curly_brackets: int | None = Field(default=0, ge=0, description="Maximum number of lines with a curly bracket.")
    # Not a rule of C4, so it is off where its page rules apply.
    max_removed_fraction: float | None = Field(
        default=None, ge=0, le=1, description="Maximum fraction of characters that the line rules remove."
    )
    min_sentences: int | None = Field(default=5, ge=0, description="Minimum number of sentences.")

    def measure(self, subject: Subject) -> dict[str, float]:
        """What the page rules judge; `subject.text` becomes what the line rules leave."""
        subject.cleaned, values = clean(subject.view(self.lines.spare_markdown), self.lines)
        subject.text = subject.cleaned.text
        return values

    def needs_measuring(self, key: str, other: Family) -> bool:
        """Without the line rules the ratios of FineWeb would be those of other lines."""
        return key == "enabled" or super().needs_measuring(key, other)


def whole(view: TextView) -> Lines:
    """All lines of a text without C4 rules."""
    prose = [line for line in view.prose_lines if line and not line.isspace()]
    return Lines(prose, view.n_words, view.prose.count("\n"))


def left(view: TextView, cleaned: Cleaned) -> Lines:
    """The lines that C4's rules left, as `view` counts them; words are those of the lines before they were edited."""
    line_words, prose = view.line_words.tolist(), []
    for number, edited in cleaned.kept:
        line: str | None = view.lines[number] if edited is None else edited
        if number in view.marks:
            line, _ = view.marks[number] if edited is None else bare_line(edited, edited.split())
        if line and (line := line.strip()):
            prose.append(line)
    words = sum(line_words[number] for number, _ in cleaned.kept)
    return Lines(prose, words, max(0, len(prose) - 1))


def clean(view: TextView, rules: C4Lines) -> tuple[Cleaned, dict[str, float]]:
    """Apply the line rules and measure values for the page rules."""
    judge = _LineJudge(view, rules)
    kept: list[tuple[int, str | None]] = []
    written: list[str] = []
    counted: list[str] = []
    removed = 0
    for number, (raw, chunks) in enumerate(zip(view.lines, view.chunks, strict=True)):
        line = raw.strip()
        if not line:
            written.append("")
        elif (result := judge.line(raw, line, chunks)) is None:
            removed += 1
        else:
            kept.append((number, None if result is raw else result))
            counted.append(line if result is raw else result.strip())
            written.append(result)
    text = _join(written) if removed or judge.edited else view.text
    values: dict[str, float] = {
        "sentences": count_sentences("\n".join(counted), view.kinds) if counted else 0,
        "lorem_ipsum": judge.lorem_ipsum,
        "curly_brackets": judge.curly_brackets,
        "lines_removed": removed,
        "characters_removed": len(view.text) - len(text),
        "removed_fraction": ratio(len(view.text) - len(text), len(view.text)),
    }
    return Cleaned(text, kept), values


def count_sentences(text: str, kinds: int) -> int:
    """Number of sentences in lines of text: at least one per line; `kinds` are the bits of `kinds_in`."""
    inner = len(_SENTENCE_BREAK.findall(text)) - len(_ABBREVIATION.findall(text))
    return text.count("\n") + 1 + max(0, inner) + foreign_breaks(text, kinds)


def _join(lines: list[str]) -> str:
    """Join lines; where removal left adjacent blank lines, one is kept."""
    text: list[str] = []
    for line in lines:
        if line or (text and text[-1]):
            text.append(line)
    return "\n".join(text).strip("\n")


class _LineJudge:
    """Judges the lines of one text; counts lines with page-level violations."""

    def __init__(self, view: TextView, rules: C4Lines) -> None:
        text = view.text
        self.rules = rules
        self._unspaced = view.kinds & (CUT | SINGLE)
        self.edited = False
        self.lorem_ipsum = 0
        self.curly_brackets = 0
        self._fence = ""
        lower = text.lower()
        # Most texts contain none of the rare marks, so that lines need not be searched for them.
        self._citations = rules.remove_citations and "[" in text
        self._has_lorem = "lorem ipsum" in lower
        self._has_javascript = rules.remove_javascript and "javascript" in lower
        phrases = (*_POLICY, *rules.local_policy_phrases) if rules.remove_policy else ()
        self._policies = tuple(phrase for phrase in phrases if phrase in lower)
        self._has_phrases = self._has_lorem or self._has_javascript or bool(self._policies) or "{" in text

    def line(self, raw: str, line: str, words: list[str]) -> str | None:
        """Output line, or None to remove it; `words` are its parts between blanks, or the words by script."""
        rules = self.rules
        if rules.spare_markdown and self._is_markdown(line):
            return raw
        longest = rules.max_word_length
        if longest is not None and len(line) > longest and max(map(len, words)) > longest:
            return None
        if self._citations and (cited := _CITATION.sub("", line)) != line:
            line, raw = cited, _CITATION.sub("", raw)
            self.edited = True
        if rules.require_terminal_punctuation and (not ends_sentence(line) or line.endswith("...")):
            return None
        if rules.min_words is not None and self._has_few_words(line, words, rules.min_words):
            return None
        return self._by_phrases(raw, line) if self._has_phrases else raw

    def _has_few_words(self, line: str, words: list[str], least: int) -> bool:
        """Whether a line has too few words; in scripts without blanks a sentence may have any number."""
        if not self._unspaced or len(words) >= 3 * least:
            return len(words) < least
        from longcat.stages.data.text.character_kinds import kinds_in

        if not kinds_in(line) & (CUT | SINGLE):
            return len(words) < least
        return sum(any(map(str.isalnum, word)) for word in words) < least and not ends_by_foreign_mark(line)

    def _by_phrases(self, raw: str, line: str) -> str | None:
        lower = line.lower() if self._has_lorem or self._has_javascript or self._policies else ""
        self.lorem_ipsum += self._has_lorem and "lorem ipsum" in lower
        if self._has_javascript and "javascript" in lower:
            return None
        self.curly_brackets += "{" in line
        if any(phrase in lower for phrase in self._policies):
            return None
        return raw

    def _is_markdown(self, line: str) -> bool:
        """Whether a line is a heading, a table row or part of fenced code."""
        if self._fence:
            if line.startswith(self._fence):
                self._fence = ""
            return True
        if line.startswith(_FENCES):
            self._fence = line[:3]
            return True
        return line.startswith(("#", "|"))
