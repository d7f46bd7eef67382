"""`longcat generate` and `longcat chat`: text from a checkpoint."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli.inference_options import (
    Checkpoint,
    Device,
    Dtype,
    Seed,
    Temperature,
    Threads,
    TopK,
    TopP,
    checkpoint_folder,
)
from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longcat.pipeline.interrupt import StopSignal
    from longcat.stages.serve.chat import ChatSession
    from longcat.stages.serve.sampling import SamplingParams

MAX_PROMPT_BYTES = 1 << 20
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.command("generate")(generate)
    root.command("chat")(chat)


def generate(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text to continue; stdin when left out.")] = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.8,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="End before this text.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print prompt and text as JSON.")] = False,
) -> None:
    """Continue a text.

    Examples:

      [cyan]longcat generate --checkpoint extended --prompt "The function returns"[/cyan]

      [cyan]echo "A list is" | longcat generate --checkpoint extended --temperature 0 --json[/cyan]
    """
    from longcat.cli.console import make_progress, print_json
    from longcat.cli.terminal import write_text

    text = _from_stdin() if prompt is None else prompt
    _check_unicode(text, "stdin" if prompt is None else "--prompt")
    from longcat.stages.serve.generate import generate as continuation

    params = _params(max_tokens, temperature, top_p, top_k, seed, tuple(stop or ()))
    pieces = continuation(
        checkpoint_folder(ctx, checkpoint),
        text,
        params,
        device=_word(device),
        dtype=_word(dtype),
        threads=threads,
        progress=make_progress(quiet=settings_of(ctx).quiet),
    )
    if as_json:
        print_json({"checkpoint": checkpoint, "prompt": text, "text": "".join(pieces)})
        return
    write_text(text)
    _stream(pieces)


def chat(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    system: Annotated[str | None, typer.Option("--system", help="Instruction that precedes the conversation.")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    seed: Seed = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
) -> None:
    """Talk with a model; /reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends the answer.

    Example: [cyan]longcat chat --checkpoint extended --system "Answer briefly."[/cyan]
    """
    from longcat.cli.console import make_progress
    from longcat.pipeline.interrupt import StopSignal

    _check_unicode(system or "", "--system")
    from longcat.stages.serve.chat import ChatSession

    folder = checkpoint_folder(ctx, checkpoint)
    progress = make_progress(quiet=settings_of(ctx).quiet)
    session = ChatSession(folder, system, device=_word(device), dtype=_word(dtype), threads=threads, progress=progress)
    params = _params(max_tokens, temperature, top_p, top_k, seed)
    stop = settings_of(ctx).stop or StopSignal()
    while (text := _ask()) is not None and text != "/exit":
        if text == "/reset":
            session.reset()
        elif text:
            _answer(session, text, params, stop)


def _ask() -> str | None:
    """What is said next, None at the end of the input. Ctrl-C here ends the program."""
    from longcat.cli.console import say
    from longcat.pipeline.errors import InputError, InterruptedRunError

    try:
        if sys.stdin.isatty():
            sys.stderr.write("> ")
            sys.stderr.flush()
            return input().strip()
        line = sys.stdin.buffer.readline(MAX_PROMPT_BYTES + 1)
        if len(line) > MAX_PROMPT_BYTES:
            raise InputError(f"a line is longer than {MAX_PROMPT_BYTES:,} bytes", where="stdin")
        return line.decode().strip() if line else None
    except EOFError:
        return None
    except UnicodeDecodeError:
        if not sys.stdin.isatty():
            raise InputError("this is not UTF-8", where="stdin") from None
        say("longcat: this is not UTF-8")
        return ""
    except InterruptedRunError:
        sys.stderr.write("\n")
        raise


def _answer(session: ChatSession, text: str, params: SamplingParams, stop: StopSignal) -> None:
    """One answer; Ctrl-C ends it and keeps the conversation."""
    from longcat.cli.console import say
    from longcat.pipeline.errors import InputError, InterruptedRunError
    from longcat.stages.serve.engine import CancelledError

    with stop.noted():
        try:
            _check_unicode(text, "stdin")
            _stream(session.send(text, params, lambda: stop.requested))
        except InputError as error:
            say(f"longcat: {error}")
        except (CancelledError, InterruptedRunError):
            if stop.received is not signal.SIGINT:
                raise
            say("(answer ended; Ctrl-C once more, /exit or Ctrl-D ends the conversation)")


def _stream(pieces: Iterator[str]) -> None:
    """Write what comes as it comes, and a newline, which a terminal needs after half an answer as well."""
    from longcat.cli.terminal import write_text

    ended = False
    try:
        for piece in pieces:
            write_text(piece)
            sys.stdout.flush()
        ended = True
    finally:
        if ended or sys.stdout.isatty():
            write_text("\n")
            sys.stdout.flush()


def _from_stdin() -> str:
    from longcat.pipeline.errors import InputError

    read = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(read) > MAX_PROMPT_BYTES:
        raise InputError(f"the prompt is longer than {MAX_PROMPT_BYTES:,} bytes", where="stdin")
    return read.decode("utf-8", "surrogateescape")


def _check_unicode(text: str, where: str) -> None:
    """Bytes that are no UTF-8 stand for no tokens.

    Raises:
        InputError: there are some in a text.
    """
    from longcat.pipeline.errors import InputError

    try:
        text.encode()
    except UnicodeEncodeError as error:
        hint = "convert it, with iconv for example"
        raise InputError(f"the text is not UTF-8 from character {error.start + 1} on", where=where, hint=hint) from None


def _params(
    max_tokens: int, temperature: float, top_p: float, top_k: int | None, seed: int | None, stop: tuple[str, ...] = ()
) -> SamplingParams:
    from longcat.stages.serve.sampling import SamplingParams

    return SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k or 0, seed=seed, stop=stop
    )


def _word(value: str) -> Any:
    """The engine checks these words itself, with an error of its own."""
    return value
