"""Clients of `longcat serve` and of `transformers serve`: tokens per second and time to the first token (TTFT).

Both serve one checkpoint: random weights, a real tokenizer. Every round asks every server in turn, with every number of
clients; a request has a new random text, temperature 0 and a fixed number of tokens. Our engine without a server
answers the same requests in a process of its own, which shows what HTTP costs. All of them are loaded from the start;
those that are not asked wait. Times are those of the client, which shares the processor with the server.

    python benchmarks/serve_clients.py [--peer-python python] [--clients 1 8] [--prompt 64] [--tokens 64] [--rounds 5]
        [--threads 2] [--output FILE.json]

`--peer-python` is an interpreter with transformers and its extra `serving`; `none` leaves the peer out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from serve_common import (
    Answer,
    Load,
    Server,
    ask,
    closed_loop,
    export,
    finish,
    longcat_server,
    print_table,
    transformers_server,
    word_tokens,
    words,
    write_checkpoint,
)

PEER = "transformers serve"
FORMS = {"auto": "longcat serve", "int8": "longcat serve int8"}
TIMES = {("auto", 1): 3.0, ("auto", 8): 8.0, ("int8", 1): 5.0, ("int8", 8): 16.0}
OVER_ENGINE = 0.95
FIRST_TOKEN_SECONDS = 0.005


class EngineProcess:
    """Our engine without a server, in a process of its own."""

    def __init__(self, folder: Path, weights: str, threads: int) -> None:
        command = [sys.executable, __file__, "--engine", str(folder), "--weights", weights, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def load(self, clients: int, texts: list[str], tokens: int) -> Load:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([clients, texts, tokens]), file=self.process.stdin, flush=True)
        seconds, firsts, counts = json.loads(self.process.stdout.readline())
        return Load(seconds, [Answer(200, first, tokens=count) for first, count in zip(firsts, counts, strict=True)])

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def engine_process(folder: Path, weights: str, threads: int) -> None:
    """Answer lines of JSON on standard input until it ends."""
    from longcat.stages.inference.loading import load_engine
    from longcat.stages.inference.options import EngineOptions

    options = EngineOptions(weights=weights)  # type: ignore[arg-type]
    engine = load_engine(folder, device="cpu", threads=threads, options=options)
    for line in sys.stdin:
        clients, texts, tokens = json.loads(line)
        print(json.dumps(engine_loop(engine, clients, texts, tokens)), flush=True)


def engine_loop(engine: Any, clients: int, texts: list[str], tokens: int) -> tuple[float, list[float], list[int]]:
    """Keep `clients` jobs in the engine until all texts are continued: seconds, those to each first token, tokens."""
    from longcat.stages.inference.jobs import Job, PromptDelta
    from longcat.stages.inference.sampling import SamplingParams

    params = SamplingParams(max_tokens=tokens, temperature=0)
    firsts, counts = [math.nan] * len(texts), [0] * len(texts)
    open_jobs: list[Job] = []
    started, waiting = time.perf_counter(), list(enumerate(texts))

    def submit(number: int, text: str) -> None:
        sent = time.perf_counter()

        def emit(event: object) -> None:
            if isinstance(event, PromptDelta):
                if not counts[number]:
                    firsts[number] = time.perf_counter() - sent
                counts[number] += len(event.delta.token_ids)

        open_jobs.append(Job([engine.tokenizer.encode(text)], params, emit, math.inf))
        engine.submit(open_jobs[-1])

    while open_jobs or waiting:
        while waiting and len(open_jobs) < clients:
            submit(*waiting.pop(0))
        engine.step()
        open_jobs[:] = [job for job in open_jobs if engine.holds(job)]
    return time.perf_counter() - started, firsts, counts


def server_load(server: Server, clients: int, texts: list[str], tokens: int) -> Load:
    """Ask a server; ours counts tokens in `usage` if it is asked to, the peer does always."""
    extra = {"stream_options": {"include_usage": True}} if server.model == "bench" else {}

    def send(number: int) -> Any:
        body = {"prompt": texts[number], "max_tokens": tokens, "temperature": 0, **extra}
        return ask(server, "/v1/completions", body)

    return closed_loop(clients, len(texts) // clients, send)


def measure(given: argparse.Namespace, folder: Path) -> dict[str, dict[str, list[Load]]]:
    """Loads by tool and number of clients, one of every round."""
    write_checkpoint(folder / "own", given.preset)
    count = max(1, round(given.prompt / word_tokens(folder / "own")))
    if given.peer_python != "none":
        export(folder / "own", folder / "peer")
    loads: dict[str, dict[str, list[Load]]] = {}
    with ExitStack() as stack:
        tools: dict[str, Any] = {}
        for weights, name in FORMS.items():
            server = longcat_server(folder / "own", "--weights", weights, threads=given.threads)
            tools[name] = stack.enter_context(server)
        tools["engine"] = stack.enter_context(closing(EngineProcess(folder / "own", "auto", given.threads)))
        if given.peer_python != "none":
            tools[PEER] = stack.enter_context(transformers_server(given.peer_python, folder / "peer", given.threads))
        for number in range(given.rounds + 1):
            for clients in given.clients:
                texts = [words(count, hash((number, clients, turn))) for turn in range(clients * given.requests)]
                order = list(tools)
                order = order[number % len(order) :] + order[: number % len(order)]
                for name in order:
                    tool = tools[name]
                    # The first round warms up.
                    tokens = given.tokens if number else 4
                    run = tool.load if isinstance(tool, EngineProcess) else None
                    load = run(clients, texts, tokens) if run else server_load(tool, clients, texts, tokens)
                    if number:
                        loads.setdefault(name, {}).setdefault(str(clients), []).append(load)
    return loads


def rate(loads: list[Load]) -> float:
    return statistics.median(load.tokens_per_second for load in loads)


def first_token(loads: list[Load]) -> float:
    return statistics.median(answer.first for load in loads for answer in load.answers)


def rows(loads: dict[str, dict[str, list[Load]]]) -> list[dict[str, Any]]:
    """One row per tool and number of clients."""
    table = []
    form_of = {name: weights for weights, name in FORMS.items()}
    for name, by_clients in loads.items():
        for clients, own in by_clients.items():
            row: dict[str, Any] = {"tool": name, "clients": clients, "tok/s": rate(own)}
            row |= {"TTFT ms": 1000 * first_token(own), "tokens": sum(a.tokens for one in own for a in one.answers)}
            row |= {"over peer": None, "target": None, "met": None}
            if name in form_of and PEER in loads:
                pairs = zip(own, loads[PEER][clients], strict=True)
                ratio = statistics.median(a.tokens_per_second / b.tokens_per_second for a, b in pairs)
                target = TIMES.get((form_of[name], int(clients)))
                row |= {"over peer": ratio, "target": target, "met": None if target is None else ratio >= target}
            table.append(row)
    return table


def over_engine(loads: dict[str, dict[str, list[Load]]]) -> list[dict[str, Any]]:
    """What the server costs over the bare engine, for every number of clients."""
    table = []
    for clients, bare in loads["engine"].items():
        served = loads[FORMS["auto"]][clients]
        pairs = zip(served, bare, strict=True)
        ratio = statistics.median(a.tokens_per_second / b.tokens_per_second for a, b in pairs)
        later = first_token(served) - first_token(bare)
        row: dict[str, Any] = {"clients": clients, "server/engine tok/s": ratio, "met (0.95)": ratio >= OVER_ENGINE}
        table.append({**row, "TTFT later ms": 1000 * later, "met (5 ms)": later <= FIRST_TOKEN_SECONDS})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=1, help="requests of a client in a round")
    parser.add_argument("--prompt", type=int, default=64, help="tokens, about")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--weights", default="auto", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.engine:
        engine_process(given.engine, given.weights, given.threads)
        return
    with tempfile.TemporaryDirectory() as folder:
        loads = measure(given, Path(folder))
    table, overhead = rows(loads), over_engine(loads)
    print_table(table)
    print()
    print_table(overhead)
    kept = {
        name: {
            clients: [{"seconds": one.seconds, "first": [a.first for a in one.answers]} for one in own]
            for clients, own in by_clients.items()
        }
        for name, by_clients in loads.items()
    }
    settings = {"prompt": given.prompt, "tokens": given.tokens, "rounds": given.rounds, "preset": given.preset}
    finish(given.output, given.threads, settings=settings, rows=table, over_engine=overhead, loads=kept)


if __name__ == "__main__":
    main()
