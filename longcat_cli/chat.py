"""`longcat chat`: a conversation with a checkpoint."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longcat.cli.inference_options import (
    Checkpoint,
    Deterministic,
    Device,
    Drafts,
    Dtype,
    MaxTokens,
    Seed,
    Temperature,
    Threads,
    TopK,
    TopP,
    Weights,
    checkpoint_folder,
    engine_values,
)
from longcat.cli.sampling_options import MinP
from longcat.cli.settings import settings_of

if TYPE_CHECKING:
    from longcat.cli.chat_commands import Conversation
    from longcat.cli.chat_input import Said
    from longcat.pipeline.errors import InputError
    from longcat.pipeline.interrupt import StopSignal

LEAVE = "press Ctrl-C again, or use /exit or Ctrl-D, to end the conversation"


def register(root: typer.Typer) -> None:
    """Register the command."""
    root.command("chat")(chat)


def chat(
    ctx: typer.Context,
    checkpoint: Checkpoint,
    system: Annotated[str | None, typer.Option("--system", help="System prompt of the conversation.")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = None,
    min_p: MinP = 0.0,
    seed: Seed = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    weights: Weights = None,
    drafts: Drafts = None,
    deterministic: Deterministic = False,
) -> None:
    '''Chat with a model. /help lists the commands; """ begins and ends a message of several lines; Ctrl-C stops the
    answer or clears the line; /exit or Ctrl-D ends the conversation.

    Example: [cyan]longcat chat --checkpoint extended --system "Answer briefly."[/cyan]
    '''
    from longcat.cli.chat_commands import Conversation
    from longcat.cli.chat_input import edit_lines
    from longcat.cli.console import make_progress
    from longcat.cli.prompts import check_unicode
    from longcat.pipeline.interrupt import StopSignal

    check_unicode(system or "", "--system")
    from longcat.stages.inference.chat import ChatSession
    from longcat.stages.inference.options import EngineOptions

    folder = checkpoint_folder(ctx, checkpoint)
    progress = make_progress(quiet=settings_of(ctx).quiet)
    options = EngineOptions.model_validate(engine_values(weights, drafts, deterministic=deterministic))
    words: dict[str, Any] = {"device": device, "dtype": dtype, "options": options}
    session = ChatSession(folder, system, threads=threads, progress=progress, **words)
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    sampling |= {"top_p": top_p, "top_k": top_k or 0, "min_p": min_p}
    edit_lines()
    _converse(Conversation(session, sampling), settings_of(ctx).stop or StopSignal())


def _converse(conversation: Conversation, stop: StopSignal) -> None:
    from longcat.cli.chat_commands import run_command
    from longcat.pipeline.errors import InputError

    while not conversation.ended:
        try:
            said = _said_next(stop)
            if said is None:
                return
            if said.is_command:
                run_command(conversation, said.text)
            elif said.text:
                _answer(conversation, said.text, stop)
        except InputError as error:
            _complain(error)


def _complain(error: InputError) -> None:
    """Show an error and go on; in a pipe nobody would see it in time, so it ends the command."""
    from longcat.cli.console import say

    if not sys.stdin.isatty():
        raise error
    say(f"longcat: {error}")


def _said_next(stop: StopSignal) -> Said | None:
    """Next user message. On a terminal Ctrl-C clears the input; a second consecutive one exits."""
    from longcat.cli.chat_input import read_message
    from longcat.cli.console import say
    from longcat.pipeline.errors import InterruptedRunError

    try:
        return read_message()
    except InterruptedRunError:
        if not sys.stdin.isatty() or not stop.forget_interrupt():
            raise
        say(f"({LEAVE})")
    return read_message()


def _answer(conversation: Conversation, text: str, stop: StopSignal) -> None:
    """Stream one answer; Ctrl-C stops it and keeps the conversation."""
    from longcat.cli.console import say
    from longcat.cli.prompts import check_unicode
    from longcat.cli.terminal import write_stream
    from longcat.pipeline.errors import InputError, InterruptedRunError
    from longcat.stages.inference.jobs import CancelledError

    with stop.noted():
        try:
            check_unicode(text, "stdin")
            write_stream(conversation.session.send(text, conversation.params(), lambda: stop.requested))
        except InputError as error:
            say(f"longcat: {error}")
        except (CancelledError, InterruptedRunError):
            if stop.received is not signal.SIGINT:
                raise
            say("(answer stopped; /exit or Ctrl-D ends the conversation)")
