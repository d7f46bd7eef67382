"""Cost of attention kinds by context: decode of one row, prefill, and the attention of a training step.

Variants run in the same process, one after the other in every round; figures are medians of the rounds, each with the
lowest. One thread is timed by its CPU time, several by the clock. Weights and cached values are random: no kind's time
depends on them, except that real texts choose other positions. `decode` is a whole step of the model for one token
after `context` cached ones. `prefill` and `train` are both attention modules of a layer over one row, forward, and
forward and backward.

    python benchmarks/sparse_decode.py [--preset lc-100m] [--decode 8192,32768,131072] [--prefill 32768]
        [--train 131072] [--rounds 5] [--threads 1] [--variant NAME=JSON] [--output FILE]

A variant is the value of `attention` of a model; without any, dense attention and `lsa` are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from longcat.model.attention.pages import PageState
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.paged_cache import PagedCache
from longcat.model.presets import load_preset
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash

PAGE = 128
DENSE = "mla"
VARIANTS = {
    DENSE: "mla",
    "lsa": {"kind": "lsa", "index_head_dim": 64, "kept_pages": 48, "first_paged_layer": 0},
}


def main() -> None:
    given = options()
    torch.set_num_threads(given.threads)
    machine = {"cpu": processor(), "threads": given.threads, "torch": torch.__version__, "preset": given.preset}
    print(json.dumps(machine))
    variants = dict(one.split("=", 1) for one in given.variant)
    named: dict[str, Any] = {name: json.loads(text) for name, text in variants.items()} or VARIANTS
    rows = []
    for task, measured in (("decode", decode), ("prefill", prefill), ("train", train)):
        for length in filter(None, getattr(given, task).split(",")):
            rows += compare(task, int(length), measured, named, given)
    if given.output:
        given.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2), encoding="utf-8")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--decode", default="8192,32768,131072", help="cached positions, separated by commas")
    parser.add_argument("--prefill", default="32768", help="tokens of a row")
    parser.add_argument("--train", default="131072", help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", action="append", default=[], help="NAME=JSON of `attention`; may be repeated")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def processor() -> str:
    """Model and vector extensions of the processor."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return platform.processor()
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").split("\n\n")[0].splitlines())
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = [flag for flag in fields.get("flags", "").split() if flag.startswith(("avx", "amx", "fma"))]
    return f"{fields.get('model name', '?')} ({' '.join(flags)})"


def compare(
    task: str,
    length: int,
    measured: Callable[[LongcatFlash, int], Callable[[], None]],
    variants: dict[str, Any],
    given: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Interleaved rounds of all variants; prints and returns a row for each."""
    calls = {name: measured(model_of(given.preset, attention, length), length) for name, attention in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values() if task == "decode" else ():
        call()
    clock = time.process_time if given.threads == 1 else time.perf_counter
    for _ in range(given.rounds if task == "decode" else max(1, given.rounds // 3)):
        for name, call in calls.items():
            began = clock()
            call()
            seconds[name].append(clock() - began)
    rows = []
    for name, found in seconds.items():
        median = statistics.median(found)
        dense = statistics.median(seconds[DENSE]) / median if DENSE in seconds else None
        rows.append({"task": task, "length": length, "variant": name, "median": median, "lowest": min(found)})
        faster = "" if dense is None else f"{dense:8.2f} times as fast as {DENSE}"
        print(f"{task:>8} {length:>8,} {name:>12} {1e3 * median:12.2f} ms  (lowest {1e3 * min(found):.2f}){faster}")
    return rows


def model_of(preset: str, attention: Any, length: int) -> LongcatFlash:
    """A model with random weights and this attention, of a context of at least `length` tokens."""
    base = load_preset(preset)
    fields = base.model_dump() | {"max_position_embeddings": 2 * length, "attention": attention}
    model = LongcatFlash(ModelConfig(**fields))
    initialize(model, 0)
    return model


def decode(model: LongcatFlash, length: int) -> Callable[[], None]:
    """A step of one token after `length` - 1 cached ones."""
    pages = -(-length // PAGE)
    cache = model.new_pages(pages, PAGE, slots=1)
    fill(cache, length)
    table = list(range(pages))

    @torch.no_grad()
    def step() -> None:
        for state in slotted(cache):
            state.lengths[0] = length - 1
        model.step(StepBatch.of([Piece([7], length - 1, table)], PAGE), cache)

    return step


def slotted(cache: PagedCache) -> Iterator[Any]:
    """States per sequence, which are told that they have seen the positions before."""
    for state in cache.layer_states:
        yield from (one for one in (state if isinstance(state, tuple) else (state,)) if hasattr(one, "lengths"))


def fill(cache: PagedCache, length: int) -> None:
    """Random values in all pages; means of blocks of the indexer's keys."""
    generator = torch.Generator().manual_seed(length)
    for state in cache.layer_states:
        parts = [one for one in (state if isinstance(state, tuple) else (state,)) if isinstance(one, PageState)]
        for part in parts:
            part.pages_PLW.normal_(generator=generator)
        if len(parts) == 3:
            _, keys, means = parts
            block = keys.pages_PLW.shape[1] // means.pages_PLW.shape[1]
            means.pages_PLW.copy_(keys.pages_PLW.unflatten(1, (-1, block)).mean(2))


def prefill(model: LongcatFlash, length: int) -> Callable[[], None]:
    """Both attention modules of a layer over a row."""
    x_1TD = torch.randn(1, length, model.config.hidden_size, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def run() -> None:
        where = model.context(torch.zeros(1, length, dtype=torch.int64))
        for mixer in model.model.layers[0].self_attn:
            where = where.after(mixer(x_1TD, where))

    return run


def train(model: LongcatFlash, length: int) -> Callable[[], None]:
    """The same, forward and backward."""
    x_1TD = torch.randn(1, length, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    x_1TD.requires_grad_()

    def run() -> None:
        where = model.context(torch.zeros(1, length, dtype=torch.int64))
        for mixer in model.model.layers[0].self_attn:
            output = mixer(x_1TD, where)
            where = where.after(output)
            (output.y_BTD.sum() + sum(output.losses.values())).backward()

    return run


if __name__ == "__main__":
    main()
