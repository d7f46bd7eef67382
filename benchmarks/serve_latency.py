"""Time to the first token (TTFT) of `longcat serve`: short requests beside a long prompt, second turns of chats.

1. Seven short requests at once, alone, and sent while the server computes a prompt of 4,000 tokens: the medians over
   their TTFT, and the last of them. The long request ends after one token.
2. A chat of 2,000 tokens, and its second turn with the first answer: TTFT, and how many tokens were cached.

Every round measures all of them with new texts; the table shows medians over the rounds.

    python benchmarks/serve_latency.py [--short 7] [--long 4000] [--chat 2000] [--rounds 7] [--weights auto]
        [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from serve_common import Answer, Server, ask, finish, longcat_server, print_table, word_tokens, words, write_checkpoint

BESIDE, SECOND_TURN = 3.0, 0.15
SHORT_WORDS = 12
SHORT_TOKENS = 8
# The server has begun with the long prompt when the short requests come.
HEAD_START_SECONDS = 0.1
USAGE = {"stream_options": {"include_usage": True}}


class Texts:
    """New random texts of a number of tokens."""

    def __init__(self, tokens_per_word: float) -> None:
        self.tokens_per_word = tokens_per_word
        self.seed = 0

    def make(self, tokens: int) -> str:
        self.seed += 1
        return words(max(1, int(tokens / self.tokens_per_word)), self.seed)


def complete(server: Server, text: str, tokens: int) -> Any:
    body = {"prompt": text, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, **USAGE}
    return ask(server, "/v1/completions", body)


async def short_ones(
    server: Server, texts: Texts, count: int, beside: str | None
) -> tuple[list[Answer], Answer | None]:
    """Answers of `count` short requests, and that of the long prompt if one is sent before."""
    long = asyncio.create_task(complete(server, beside, 1)) if beside else None
    await asyncio.sleep(HEAD_START_SECONDS)
    own = [complete(server, texts.make(SHORT_WORDS), SHORT_TOKENS) for _ in range(count)]
    answers = await asyncio.gather(*own)
    return answers, await long if long else None


async def two_turns(server: Server, text: str) -> tuple[Answer, Answer]:
    """The first and the second turn of a chat."""
    messages = [{"role": "user", "content": text}]
    body = {"max_tokens": SHORT_TOKENS, "temperature": 0, "ignore_eos": True, **USAGE}
    first = await ask(server, "/v1/chat/completions", {"messages": messages, **body})
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "And then?"}]
    return first, await ask(server, "/v1/chat/completions", {"messages": messages, **body})


async def one_round(server: Server, texts: Texts, given: argparse.Namespace) -> dict[str, float]:
    alone, _ = await short_ones(server, texts, given.short, None)
    beside, long = await short_ones(server, texts, given.short, texts.make(given.long))
    by_itself = await complete(server, texts.make(given.long), 1)
    first, second = await two_turns(server, texts.make(given.chat))
    answers = [*alone, *beside, by_itself, first, second]
    assert long is not None
    if any(answer.status != 200 or answer.first != answer.first for answer in [*answers, long]):
        raise SystemExit(f"answers with status {sorted({answer.status for answer in answers})}, or without text")
    return {
        "alone": statistics.median(answer.first for answer in alone),
        "beside": statistics.median(answer.first for answer in beside),
        "last alone": max(answer.first for answer in alone),
        "last beside": max(answer.first for answer in beside),
        "long beside": long.first,
        "long alone": by_itself.first,
        "first turn": first.first,
        "second turn": second.first,
        "cached tokens": second.cached,
    }


async def rounds(server: Server, texts: Texts, given: argparse.Namespace) -> list[dict[str, float]]:
    """All rounds after one that warms up."""
    found = [await one_round(server, texts, given) for _ in range(given.rounds + 1)]
    return found[1:]


def rows(found: list[dict[str, float]], given: argparse.Namespace) -> list[dict[str, Any]]:
    middle = {name: statistics.median(one[name] for one in found) for name in found[0]}

    def row(what: str, over: str, under: str, target: float | None) -> dict[str, Any]:
        ratio = statistics.median(one[over] / one[under] for one in found)
        values = {"TTFT ms": 1000 * middle[over], "against ms": 1000 * middle[under], "ratio": ratio}
        return {"what": what, **values, "target": target, "met": None if target is None else ratio <= target}

    return [
        row(f"{given.short} short beside {given.long} tokens, median", "beside", "alone", BESIDE),
        row("the last of them", "last beside", "last alone", None),
        row("the long prompt beside them", "long beside", "long alone", None),
        row(f"second turn of {given.chat} tokens", "second turn", "first turn", SECOND_TURN),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--short", type=int, default=7, help="requests")
    parser.add_argument("--long", type=int, default=4000, help="tokens, about")
    parser.add_argument("--chat", type=int, default=2000, help="tokens, about")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        write_checkpoint(checkpoint, given.preset)
        texts = Texts(word_tokens(checkpoint))
        with longcat_server(checkpoint, "--weights", given.weights, threads=given.threads) as server:
            found = asyncio.run(rounds(server, texts, given))
    table = rows(found, given)
    print_table(table)
    cached = statistics.median(one["cached tokens"] for one in found)
    print(f"\nTokens of the second turn from the cache: {cached:.0f}")
    settings = {name: value for name, value in vars(given).items() if name not in ("output", "threads")}
    finish(given.output, given.threads, settings=settings, rows=table, seconds=found)


if __name__ == "__main__":
    main()
