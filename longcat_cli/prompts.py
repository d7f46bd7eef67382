"""Prompts from options, files and stdin: bounded, and valid Unicode."""

from __future__ import annotations

import sys
from pathlib import Path

MAX_PROMPT_BYTES = 1 << 20


def prompt_text(prompt: str | None, file: Path | None) -> str:
    """The prompt of a command: `prompt`, else the content of `file`, else stdin.

    One newline at the end of a file or of stdin is dropped: `echo` and editors add it.

    Raises:
        InputError: the text is missing, too long or not UTF-8.
    """
    if prompt is not None:
        check_unicode(prompt, "--prompt")
        return prompt
    where = "stdin" if file is None else str(file)
    text = _read(file, where).decode("utf-8", "surrogateescape")
    check_unicode(text, where)
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _read(file: Path | None, where: str) -> bytes:
    from longcat.cli.console import say
    from longcat.pipeline.errors import InputError

    try:
        if file is None:
            if sys.stdin.isatty():
                say("(type the text, then Ctrl-D on a line of its own)")
            data = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
        else:
            with file.expanduser().open("rb") as stream:
                data = stream.read(MAX_PROMPT_BYTES + 1)
    except OSError as error:
        raise InputError(error.strerror or str(error), where=where) from None
    if len(data) > MAX_PROMPT_BYTES:
        raise InputError(f"the prompt is longer than {MAX_PROMPT_BYTES:,} bytes", where=where)
    return data


def check_unicode(text: str, where: str) -> None:
    """Check that texts are valid UTF-8.

    Raises:
        InputError: a text has bytes that are not UTF-8.
    """
    from longcat.pipeline.errors import InputError

    try:
        text.encode()
    except UnicodeEncodeError as error:
        hint = "convert it, with iconv for example"
        raise InputError(f"the text is not UTF-8 from character {error.start + 1} on", where=where, hint=hint) from None
