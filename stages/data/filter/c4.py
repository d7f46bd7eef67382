"""C4's line and page rules (Raffel et al. 2020, JMLR 21/140, section 2.2, and its released code).

Line rules take lines out of the text; page rules judge what is left. Blank lines between kept lines stay, so that
paragraphs survive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from longcat.stages.data.filter.config import C4Lines
from longcat.stages.data.filter.markdown import Bare, bare_line
from longcat.stages.data.filter.view import TextView

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_TERMINAL = (".", "?", "!", '"', "'")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
# Signs that end a sentence, with the closing quotes and brackets among them, before a further sentence on the line.
# A full stop after a single capital or a known abbreviation ends none. Possessive, so that a run of signs costs no
# more than its length.
# It starts with the signs themselves, which lets the search skip to them; what stands before is looked at after.
_SENTENCE_BREAK = re.compile(
    r"[.!?\"'”’)\]](?<![.!?\"'”’)\]]{2})(?:(?<![A-Z].)|(?<=[A-Z]{2}.))(?:(?<=[.!?])|(?=[\"'”’)\]]*+[.!?]))"
    r"[.!?\"'”’)\]]*+[^\S\n]++(?=[\"'“‘(\[]*+\w)"
)
_IDEOGRAPHIC_BREAK = re.compile(r"[。！？]++(?!$)", re.MULTILINE)
_ABBREVIATION = re.compile(
    r"\.(?:(?<=\b(?:Mr|Ms|Dr|St|Jr|Sr|Co|vs)\.)|(?<=\b(?:Mrs|Inc|Ltd|e\.g|i\.e|a\.m|p\.m)\.)|(?<=\bProf\.))"
    r"[^\S\n]+(?=\w)"
)
_FENCES = ("```", "~~~")


@dataclass(frozen=True, slots=True)
class Lines:
    """What is left of a text: `prose`, its lines as the view counts them, without blank ones; the words on them; the
    breaks between them; and the text to write.
    """

    prose: list[str]
    words: int
    newlines: int
    text: str


def whole(view: TextView) -> Lines:
    """All lines of a text that C4's rules do not apply to."""
    prose = [line for line in view.prose_lines if line and not line.isspace()]
    return Lines(prose, view.n_words, view.prose.count("\n"), view.text)


def clean(view: TextView, rules: C4Lines) -> tuple[Lines, dict[str, float]]:
    """Apply the line rules and measure what the page rules judge."""
    judge = _LineJudge(view.text, rules)
    kept: list[str] = []
    written: list[str] = []
    bare: dict[int, Bare] = {}
    words = removed = 0
    line_words, marks = view.line_words.tolist(), view.marks
    for number, (raw, chunks, n_words) in enumerate(zip(view.lines, view.chunks, line_words, strict=True)):
        line = raw.strip()
        if not line:
            written.append("")
        elif (result := judge.line(raw, line, chunks)) is None:
            removed += 1
        else:
            kept.append(line if result is raw else result.strip())
            if number in marks:
                bare[len(kept) - 1] = marks[number] if result is raw else bare_line(result, result.split())
            written.append(result)
            words += n_words
    text = _join(written) if removed or judge.edited else view.text
    values: dict[str, float] = {
        "sentences": count_sentences("\n".join(kept)) if kept else 0,
        "lorem_ipsum": judge.lorem_ipsum,
        "curly_brackets": judge.curly_brackets,
        "lines_removed": removed,
        "characters_removed": len(view.text) - len(text),
    }
    prose = _prose(kept, bare) if bare else kept
    return Lines(prose, words, max(0, len(prose) - 1), text), values


def _prose(kept: list[str], bare: dict[int, Bare]) -> list[str]:
    """The lines kept, those without their marks that are in `bare`."""
    lines = [bare[number][0] if number in bare else line for number, line in enumerate(kept)]
    return [line.strip() for line in lines if line]


def count_sentences(text: str) -> int:
    """Sentences in lines of text: at least one a line."""
    inner = len(_SENTENCE_BREAK.findall(text)) - len(_ABBREVIATION.findall(text))
    if any(sign in text for sign in "。！？"):
        inner += len(_IDEOGRAPHIC_BREAK.findall(text))
    return text.count("\n") + 1 + max(0, inner)


def _join(lines: list[str]) -> str:
    """The text of lines; where taking lines out brought blank ones together, one of them stays."""
    text: list[str] = []
    for line in lines:
        if line or (text and text[-1]):
            text.append(line)
    return "\n".join(text).strip("\n")


class _LineJudge:
    """Judges line after line of one text; counts the lines with marks that condemn the page."""

    def __init__(self, text: str, rules: C4Lines) -> None:
        self.rules = rules
        self.edited = False
        self.lorem_ipsum = 0
        self.curly_brackets = 0
        self._fence = ""
        lower = text.lower()
        # Most texts hold none of the rare marks, and their lines need not be looked through for them.
        self._citations = rules.remove_citations and "[" in text
        self._has_lorem = "lorem ipsum" in lower
        self._has_javascript = rules.remove_javascript and "javascript" in lower
        self._policies = tuple(phrase for phrase in _POLICY if rules.remove_policy and phrase in lower)
        self._has_phrases = self._has_lorem or self._has_javascript or bool(self._policies) or "{" in text

    def line(self, raw: str, line: str, words: list[str]) -> str | None:
        """The line as it is to be written, or None to take it out; `words` are what stands between its blanks."""
        rules = self.rules
        if rules.spare_markdown and self._is_markdown(line):
            return raw
        longest = rules.max_word_length
        if longest is not None and len(line) > longest and max(map(len, words)) > longest:
            return None
        if self._citations and (cited := _CITATION.sub("", line)) != line:
            line, raw = cited, _CITATION.sub("", raw)
            self.edited = True
        if rules.require_terminal_punctuation and (not line.endswith(_TERMINAL) or line.endswith("...")):
            return None
        if rules.min_words is not None and len(words) < rules.min_words:
            return None
        return self._by_phrases(raw, line) if self._has_phrases else raw

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
        """Whether a line is a heading, a table row or part of fenced code, whose form is not that of prose."""
        if self._fence:
            if line.startswith(self._fence):
                self._fence = ""
            return True
        if line.startswith(_FENCES):
            self._fence = line[:3]
            return True
        return line.startswith(("#", "|"))
