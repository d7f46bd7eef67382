"""Fenced code blocks of the README and of the pages in docs/, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# In a list, a block is indented like its item. A longer fence may hold shorter ones.
FENCE = re.compile(r"^( *)(`{3,})(\w*)\n(.*?)^\1\2$", re.MULTILINE | re.DOTALL)
SHELL = {"bash", "console", "sh", "shell", "zsh"}
QUOTED = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.")
# Unquoted characters that zsh or bash would expand or interpret as an operator.
UNQUOTED = re.compile(r"[][*?(){}<>^`;]|(?<![\w/-])~(?!/)|\s=")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the number of its first line of text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """Name of the file that the block contains, if its first line is `# NAME.yaml`."""
        found = re.match(r"# ([\w./-]+\.(?:yaml|json))\b", self.text)
        return found.group(1) if found else None

    @property
    def module(self) -> str | None:
        """Python file of the repository that the block contains, if its first line is `# FOLDER/NAME.py`."""
        found = re.match(r"# ([\w/]+\.py)\n", self.text)
        return found.group(1) if found and self.language == "python" else None


@dataclass(frozen=True)
class Command:
    """One command of a shell block, as a user would paste it."""

    where: str
    text: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)

    @property
    def without_comment(self) -> str:
        """The text up to a comment, with quoted parts as `''`."""
        return re.sub(r"(^|\s)#.*", "", QUOTED.sub("''", self.text))


def blocks(page: Path) -> list[Block]:
    """All fenced blocks, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 2,
            found[3],
            re.sub(f"^{found[1]}", "", found[4], flags=re.MULTILINE),
        )
        for found in FENCE.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """Commands of a shell block; in a `console` block only lines after the prompt `$`, the rest is output."""
    lines = block.text.splitlines()
    found, number = [], 0
    while number < len(lines):
        start, line = number, lines[number]
        number += 1
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        while line.rstrip().endswith("\\") and number < len(lines):
            line = line.rstrip()[:-1] + lines[number].strip()
            number += 1
        if line.strip() and not line.startswith("#"):
            found.append(Command(f"{block.page.relative_to(ROOT)}:{block.line + start}", line))
    return found
