"""Lines of a JSONL file of prompts, checked before anything is generated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from longcat.pipeline.config import StageConfig, build_config
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.files import canonical_json
from longcat.pipeline.json_text import parse_json

MAX_LINE_BYTES = 4 << 20
SHOWN_PROBLEMS = 10
DIGEST_CHARACTERS = 16
MAX_CHOICES = 128


class BatchMessage(StageConfig):
    """A message of a conversation."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: str


class BatchLine(StageConfig):
    """One line: a prompt or a conversation, and values that replace those of the command for this line."""

    model_config = ConfigDict(strict=True)

    id: str | int | None = Field(None, description="returned with the answer")
    prompt: str | None = Field(None, min_length=1, description="text to continue")
    messages: list[BatchMessage] | None = Field(None, min_length=1, description="conversation to answer")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="number of answers")
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0)
    min_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    stop: list[str] | str | None = None
    json_schema: dict[str, Any] | None = Field(None, description="the answer is JSON that satisfies this schema")

    @model_validator(mode="after")
    def _has_one_prompt(self) -> BatchLine:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams` that this line replaces."""
        given = self.model_dump(exclude_none=True, exclude={"id", "prompt", "messages", "n", "json_schema"})
        if isinstance(self.stop, str):
            given["stop"] = [self.stop]
        return given


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1.

    Raises:
        InputError: the file cannot be read, or a line is too long.
    """
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"line {number} is longer than {MAX_LINE_BYTES:,} bytes", where=str(path))
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise InputError(error.strerror or str(error), where=str(path)) from None


def parse_line(path: Path, number: int, line: bytes) -> BatchLine:
    """Parse and check one line.

    Raises:
        ConfigError, InputError: it is damaged; names file, line and key.
    """
    where = f"{path}:{number}"
    try:
        value = parse_json(line)
    except ValueError as error:
        raise InputError(f"is not JSON: {error}", where=where) from None
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", where=where)
    return build_config(BatchLine, value, where)


def check_lines(path: Path) -> int:
    """Check every line; returns their number.

    Raises:
        InputError: there are no lines, or lines are damaged; names the first of them.
    """
    count = damaged = 0
    problems: list[str] = []
    for number, line in read_lines(path):
        count += 1
        try:
            parse_line(path, number, line)
        except (ConfigError, InputError) as error:
            damaged += 1
            if len(problems) < SHOWN_PROBLEMS:
                problems.append(f"line {number} {error.what}")
    if damaged:
        more = "; ..." if damaged > len(problems) else ""
        raise InputError(f"{damaged} of {count} lines are damaged: {'; '.join(problems)}{more}", where=str(path))
    if not count:
        raise InputError("has no lines", where=str(path))
    return count


def digest_of(line: bytes, command: Mapping[str, Any]) -> str:
    """Digest of a line and of the values of the command that it was run with."""
    return hashlib.sha256(line + b"\0" + canonical_json(command)).hexdigest()[:DIGEST_CHARACTERS]
