"""`longcat generate` and `longcat chat`: text from a checkpoint."""

from __future__ import annotations

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

    from longcat.stages.serve.chat import ChatSession
    from longcat.stages.serve.sampling import SamplingParams

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
    from longcat.stages.serve.generate import generate as continuation

    text = prompt if prompt is not None else sys.stdin.read(1 << 20)
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
    sys.stdout.write(text)
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
    """Talk with a model; /reset forgets the conversation, /exit or Ctrl-D ends it.

    Example: [cyan]longcat chat --checkpoint extended --system "Answer briefly."[/cyan]
    """
    from longcat.cli.console import make_progress
    from longcat.stages.serve.chat import ChatSession

    folder = checkpoint_folder(ctx, checkpoint)
    progress = make_progress(quiet=settings_of(ctx).quiet)
    session = ChatSession(folder, system, device=_word(device), dtype=_word(dtype), threads=threads, progress=progress)
    _converse(session, _params(max_tokens, temperature, top_p, top_k, seed))


def _converse(session: ChatSession, params: SamplingParams) -> None:
    from longcat.pipeline.errors import InputError

    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if text == "/exit":
            return
        if text == "/reset":
            session.reset()
            continue
        try:
            _stream(session.send(text, params))
        except InputError as error:
            sys.stderr.write(f"longcat: {error}\n")


def _stream(pieces: Iterator[str]) -> None:
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


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
