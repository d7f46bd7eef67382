"""What the benchmarks of serving share: checkpoints, server processes, a client, and tables.

A checkpoint has random weights and a tokenizer trained on the standard library's sources. The client reads the bytes of
a streamed answer with their times and parses them only when the answer is complete, because it shares the processor
with the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from model_decode import processor

START_SECONDS = 180.0
TOKENIZER_BYTES = 4 << 20


def write_checkpoint(folder: Path, preset: str, **changes: Any) -> None:
    """A checkpoint of a preset with random weights, and its tokenizer."""
    from longcat.model.checkpoint import save_pretrained
    from longcat.model.init import initialize
    from longcat.model.presets import load_preset
    from longcat.model.transformer import LongcatFlash
    from longcat.stages.data.tokenizer.bpe import train
    from longcat.stages.data.tokenizer.config import TokenizerConfig
    from longcat.stages.data.tokenizer.files import write_tokenizer

    folder.mkdir(parents=True)
    config = load_preset(preset).model_copy(update=changes)
    write_tokenizer(train(_sources(), TokenizerConfig(vocab_size=config.vocab_size)), folder)
    model = LongcatFlash(config)
    initialize(model, seed=0)
    save_pretrained(model, folder)


def export(source: Path, output: Path) -> None:
    """The same checkpoint as transformers 5 reads it."""
    from longcat.pipeline.progress import SilentProgress
    from longcat.stages.convert import export_checkpoint

    export_checkpoint(source, output, layout="transformers5", progress=SilentProgress())


def _sources() -> Iterator[str]:
    left = TOKENIZER_BYTES
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield text
        left -= len(text)
        if left < 0:
            return


def words(count: int, seed: int) -> str:
    """Random words, which no prompt before began with."""
    source = random.Random(seed)
    pick = lambda: source.choice("bdfgklmnprstv") + source.choice("aeiou")  # noqa: E731
    return " ".join(pick() + pick() for _ in range(count))


def word_tokens(folder: Path) -> float:
    """Tokens per word of `words`."""
    from longcat.stages.inference.tokenizer import EngineTokenizer

    return len(EngineTokenizer.load(folder).encode(words(200, 0))) / 200


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass
class Server:
    """A server process, and the model name that it wants."""

    url: str
    model: str
    process: subprocess.Popen[bytes]


@contextmanager
def _running(command: Sequence[str], port: int, model: str, threads: int) -> Iterator[Server]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("LONGCAT_API_KEY", None)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            _wait(process, port)
            yield Server(f"http://127.0.0.1:{port}", model, process)
        finally:
            process.kill()


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            assert process.stderr is not None
            raise SystemExit(f"the server ended: {process.stderr.read().decode(errors='replace')[-2000:]}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"no server within {START_SECONDS:g} s: {' '.join(process.args)}")  # type: ignore[arg-type]


@contextmanager
def longcat_server(folder: Path, *options: str, threads: int) -> Iterator[Server]:
    """`longcat serve` of a checkpoint."""
    port = free_port()
    fixed = ["--quiet", "serve", "--checkpoint", str(folder), "--model-name", "bench", "--port", str(port)]
    command = [sys.executable, "-P", "-m", "longcat.cli", *fixed, "--threads", str(threads), *options]
    with _running(command, port, "bench", threads) as server:
        yield server


@contextmanager
def transformers_server(python: str, folder: Path, threads: int) -> Iterator[Server]:
    """`transformers serve` of a checkpoint in its layout."""
    port = free_port()
    program = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    command = [python, "-c", program, "serve", str(folder), "--port", str(port), "--host", "127.0.0.1"]
    with _running([*command, "--device", "cpu", "--log-level", "error"], port, str(folder), threads) as server:
        yield server


@dataclass
class Answer:
    """One streamed answer; times are seconds from the request on."""

    status: int = 0
    first: float = float("nan")
    ended: float = float("nan")
    tokens: int = 0
    text: str = ""
    # Prompt tokens from the server's cache.
    cached: int = 0
    # Whether the client left, and whether the stream said that it is complete.
    left: bool = False
    done: bool = False


@dataclass
class Load:
    """Answers of a load and its duration in seconds."""

    seconds: float
    answers: list[Answer] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return sum(answer.tokens for answer in self.answers) / self.seconds


async def ask(server: Server, path: str, body: dict[str, Any], leave_after: int | None = None) -> Answer:
    """Send a request and read its streamed answer; hang up after `leave_after` reads with data, if that is given."""
    started = time.perf_counter()
    address = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps({"model": server.model, "stream": True, **body}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    read: list[tuple[float, bytes]] = []
    with_data = 0
    try:
        while data := await reader.read(1 << 16):
            read.append((time.perf_counter() - started, data))
            with_data += b"data:" in data
            if leave_after is not None and with_data > leave_after:
                return Answer(_status(read), ended=read[-1][0], left=True)
    finally:
        writer.close()
    return _answer(read)


def _status(read: list[tuple[float, bytes]]) -> int:
    return int(read[0][1].split(b" ", 2)[1]) if read else 0


def _answer(read: list[tuple[float, bytes]]) -> Answer:
    answer, rest, pieces = Answer(_status(read)), b"", []
    chunks = 0
    for moment, data in read:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if line[5:].strip() == b"[DONE]":
                answer.done = True
                continue
            event = json.loads(line[5:])
            usage = event.get("usage")
            if usage:
                answer.tokens = usage["completion_tokens"]
                answer.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
            for choice in event.get("choices", ()):
                text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                pieces.append(text)
                chunks += bool(text)
                if text and answer.first != answer.first:
                    answer.first = moment
        answer.ended = moment
    answer.text = "".join(pieces)
    answer.tokens = answer.tokens or chunks
    return answer


def closed_loop(clients: int, requests: int, send: Callable[[int], Awaitable[Answer]]) -> Load:
    """`clients` clients send `requests` requests each, one after the other; `send` gets the request's number."""

    async def client(number: int) -> list[Answer]:
        return [await send(number * requests + turn) for turn in range(requests)]

    async def run() -> Load:
        started = time.perf_counter()
        found = await asyncio.gather(*map(client, range(clients)))
        return Load(time.perf_counter() - started, [answer for answers in found for answer in answers])

    load = asyncio.run(run())
    wrong = sorted({answer.status for answer in load.answers} - {200})
    if wrong:
        raise SystemExit(f"answers with status {wrong}")
    return load


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Rows with the same keys as a Markdown table."""
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(_cell(value) for value in row.values())} |")


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "NO", None: ""}[value]
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and abs(value) < 100
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )


def finish(output: Path | None, threads: int, **content: Any) -> None:
    """Name the machine, and write everything as JSON if a file is given."""
    host = processor()
    print(f"\n{host['model']} ({', '.join(host['flags'])}), {threads} threads")
    if output is not None:
        output.write_text(json.dumps({"processor": host, "threads": threads, **content}, indent=2), encoding="utf-8")
