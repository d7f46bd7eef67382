"""Every command of the README and of docs/ runs as written, in bash and in zsh.

A page is processed in order: what it refers to belongs to the demo or was made by an earlier command of the page. Slow
commands are only planned (`--dry-run`, which checks the configuration and the inputs), and their output is published.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import command as command_line
from longcat.cli.app import run
from longcat.cli.settings import Settings
from longcat.pipeline.store import Store
from longcat.stages.train.joins import schedule as join
from tests.docs.blocks import PAGES, ROOT, SHELL, UNQUOTED, Block, Command, blocks, commands

# The first test runs the smoke recipe, which all pages share.
pytestmark = pytest.mark.timeout(900)

# Executed as written; other commands that make an artifact are planned.
RUN = {"artifacts", "recipes", "model", "plan", "report", "generate", "chat", "export", "import", "doctor", "grow"}
# Recipes that are planned, and checkpoints of theirs that a page uses and the store of the pages lacks.
RECIPES: dict[str, tuple[str, ...]] = {"demo": (), "lite": ("lite-extended",)}
READING = {("eval", "show"), ("eval", "compare"), ("extend", "schedules")}
DATA_RUN = {"extract", "filter", "dedup", "train-quality", "pack", "score", "inspect"}
# Only parsed: servers, commands that need the network or another machine or change the user's shell.
PARSE = {"serve", "bench", "--install-completion"}
OTHERS = {
    "source",
    "pip",
    "uv",
    "pipx",
    "ray",
    "tensorboard",
    "curl",
    "cd",
    "git",
    "sbatch",
    "kubectl",
    "podman",
    "export",
    "pytest",
}


def shell_commands(page: Path) -> list[Command]:
    return [each for block in blocks(page) if block.language in SHELL for each in commands(block)]


def all_commands() -> list[Command]:
    return [each for page in PAGES for each in shell_commands(page)]


def test_there_are_commands() -> None:
    assert len(all_commands()) > 100


def test_every_shell_block_is_marked_as_one() -> None:
    for page in PAGES:
        for block in blocks(page):
            plain = block.language in SHELL or not re.search(r"^\$ |^longcat |^make ", block.text, re.MULTILINE)
            assert plain, f"{block.where}: mark the block as bash or console"


def test_only_blocks_with_output_show_a_prompt() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "console":
                assert any(not line.startswith("$ ") for line in block.text.splitlines()), f"{block.where}: bash"
            elif block.language in SHELL:
                assert not re.search(r"^\w*[$%] ", block.text, re.MULTILINE), (
                    f"{block.where}: a prompt in {block.language}"
                )


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.where)
def test_no_shell_expands_an_argument(command: Command) -> None:
    assert command.words
    text = command.without_comment
    assert "..." not in text, f"{command.where}: a placeholder"
    if not command.text.startswith(("curl", "for ")):
        assert not UNQUOTED.search(text), f"{command.where}: quote {UNQUOTED.search(text)}"


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


@pytest.mark.parametrize(
    "command", [each for each in all_commands() if "longcat" not in each.words[:2]], ids=lambda command: command.where
)
def test_commands_of_other_programs_refer_to_existing_things(command: Command) -> None:
    """Scripts, their options, targets of make, extras of the distribution."""
    program, *words = command.words
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert {word for word in words if "=" not in word} <= targets
    elif program == "python" and words[0].startswith("benchmarks/"):
        scripts = "".join(path.read_text() for path in {ROOT / words[0], *(ROOT / words[0]).parent.glob("toy.py")})
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert f'"{option}"' in scripts or f'"{option[2:]}"' in scripts, (
                f"{command.where}: {words[0]} has no option {option}"
            )
    elif program == "pytest":  # of docs/architecture.md, whose tests test_architecture.py runs
        assert words[-1].startswith("tests/") or "-k" in words
    else:
        assert program in OTHERS | {"python"}, f"{command.where}: {program} is not in the list of this test"
        for extra in re.findall(r"longcat-cli\[([\w,]+)\]", command.text):
            assert set(extra.split(",")) <= extras()


def parse(words: list[str]) -> None:
    """Parse with the command line without running; unknown options fail."""
    try:
        _make_context(words)
    except SystemExit as ended:  # of --version and --help
        assert not ended.code, words


def _make_context(words: list[str]) -> None:
    found, name = command_line(), "longcat"
    context = found.make_context(name, list(words), obj=Settings())
    while hasattr(found, "resolve_command") and (rest := [*context._protected_args, *context.args]):
        name, found, rest = found.resolve_command(context, rest)
        assert found is not None
        context = found.make_context(name, rest, parent=context)


class Reader:
    """Runs or plans the commands of a page in order."""

    def __init__(self, world: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.store, self.capfd = Store(world / "longcat-store"), capfd

    def call(self, command: Command, words: list[str]) -> str:
        self.capfd.readouterr()
        code = run(words)
        out, err = self.capfd.readouterr()
        assert code == 0, f"{command.where}: {command.text}\n{err}"
        return out

    def read(self, command: Command) -> None:
        words = [self.substituted(word) for word in command.words]
        while "=" in words[0]:
            del words[0]
        if words.pop(0) != "longcat":
            return
        if "--install-completion" in words:  # writes to the startup file of the shell, which must be detected
            return
        plain = [word for word in words if not word.startswith("-")]
        first = plain[0] if plain else words[0]
        name = words[words.index("--name") + 1] if "--name" in words else None
        shows = {"--show-config", "--help", "-h", "--version", "--dry-run"} & set(words)
        remote = "ray" in words or any("://" in word for word in words)
        if first in PARSE or remote:
            parse(words)
        elif "--resume-from" in words or (first == "train" and {"verify", "publish"} & set(plain[:2])):
            parse(words)
            if name:
                self.publish("checkpoint", name)
        elif first == "run" and plain[1] in RECIPES:
            self.call(command, [*dict.fromkeys([*words, "--dry-run"])])
            for made in RECIPES[plain[1]]:
                self.publish("checkpoint", made)
        elif shows or first in RUN or first == "run" or tuple(plain[:2]) in READING:
            self.call(command, words)
        elif first == "data" and plain[1] in DATA_RUN:
            self.call(command, ["--workers", "1", *words])
        else:
            plan = json.loads(self.call(command, [*words, "--dry-run", "--json"]))
            if name:
                self.publish(plan["steps"][0]["kind"], name)
        if remote and name:
            self.publish("documents", name)

    def substituted(self, word: str) -> str:
        """The word with `$(longcat ...)` replaced by its output."""
        inner = re.search(r"\$\((longcat .*)\)", word)
        if not inner:
            return word
        command = Command("in a word", inner.group(1))
        return word[: inner.start()] + self.call(command, command.words[1:]).strip() + word[inner.end() :]

    def publish(self, kind: str, name: str) -> None:
        """Publish an artifact of the same kind in place of the output of a planned command."""
        known = {version.id for version in self.store.refs.versions(name)}
        every = sorted(path.name for path in (self.store.root / kind).iterdir())
        self.store.refs.publish(
            name, next((each for each in every if each not in known), every[0]), kind, "2026-01-01T00:00:00+00:00"
        )


def execute(block: Block, names: dict[str, Any]) -> None:
    """Run a block of Python after the earlier ones of its page; of a client of a server run only the imports."""
    code = compile(block.text, block.where, "exec")
    if "http://" in block.text:
        lines = [line for line in block.text.splitlines() if line.startswith(("import ", "from "))]
        code = compile("\n".join(lines), block.where, "exec")
    exec(code, names)  # noqa: S102  the pages are trusted


def is_read(block: Block) -> bool:
    if block.language in SHELL:
        return any(command.words[0] != "pytest" for command in commands(block))
    return block.language == "python" and not block.module


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(map(is_read, blocks(page)))], ids=lambda page: page.stem
)
def test_a_page_runs_as_written(
    page: Path, world: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n")))
    # In place of the outputs of planned commands stand others, whose schedules are not those of the page.
    monkeypatch.setattr(join, "_same", lambda one, other: True)
    reader = Reader(world, capfd)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.file_name:
            (world / block.file_name).write_text(block.text)
        for command in commands(block) if block.language in SHELL else ():
            reader.read(command)
        if block.language == "python" and not block.module:
            execute(block, names)


def help_examples() -> list[Command]:
    """Examples shown by `--help`."""
    found = []
    for path in sorted((ROOT / "src" / "longcat" / "cli").glob("*.py")):
        strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        for text in (each for each in strings if isinstance(each, str)):
            whole = [text] if re.match(r"longcat [a-z]+ [^,;]+$", text) else []
            found += [
                Command(path.name, each) for each in whole + re.findall(r"\[cyan\](longcat .*?)\s*\[/cyan\]", text)
            ]
    return found


@pytest.mark.parametrize("command", help_examples(), ids=lambda command: command.text[:60])
def test_examples_of_the_help_are_valid(command: Command) -> None:
    assert not UNQUOTED.search(command.without_comment)
    parse(command.words[1:])
