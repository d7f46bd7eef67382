"""Decode of one text with an offloaded cache against all in memory: tokens per second, resident bytes, recall.

All variants decode the same tokens after the same cached prompt, in turn, several rounds. With `--checkpoint`, the
prompt is the standard library's source, computed by the model, and the recall of attention mass is measured. Without
one, the model is random and so are the contents of the cache: speed and memory are those of a trained one, recall is
not and is left out.

    python benchmarks/offload_decode.py [--checkpoint FOLDER] [--contexts 8192,32768,131072] [--resident-blocks 64]
        [--token-budget 1024] [--steps 16] [--rounds 5] [--threads 2] [--folder DIR]
        [--output FILE.json --plot FILE.svg]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from model_decode import processor

from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.attention.offload.state import OffloadState
from longcat.model.attention.pages import PageState
from longcat.model.checkpoint import load_pretrained
from longcat.model.init import initialize
from longcat.model.paged_cache import PagedCache
from longcat.model.presets import load_preset
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash
from longcat.stages.formats.svg import Line, Panel, draw

DENSE = "all in memory"
CHUNK = 2048


class Texts:
    """One text in several caches with equal contents."""

    def __init__(self, model: LongcatFlash, ids: list[int] | None, context: int, given: argparse.Namespace) -> None:
        self.model, self.context, self.block = model, context, given.block
        self.pages = list(range(-(-(context + given.steps + 1) // given.block)))
        self.ids = ids or torch.randint(model.config.vocab_size, (context,)).tolist()
        dense = model.new_pages(len(self.pages), given.block, slots=1)
        self.caches = {DENSE: dense}
        shared = {"block": given.block, "resident_blocks": given.resident_blocks, "token_budget": given.token_budget}
        shared |= {"block_score": given.block_score, "heads": given.heads}
        for name, more in (
            ("memory, async", {"tier": "memory"}),
            ("memory, sync", {"tier": "memory", "mode": "sync"}),
            ("disk, async", {"tier": "disk", "folder": given.folder}),
        ):
            options = OffloadOptions(**shared, **more)
            self.caches[name] = model.new_pages(len(self.pages), given.block, slots=1, offload=options)
        options = OffloadOptions(**shared, tier="memory", mode="sync", measure_every=1)
        self.measured = model.new_pages(len(self.pages), given.block, slots=1, offload=options) if ids else None
        self._fill(computed=ids is not None)

    def _fill(self, *, computed: bool) -> None:
        """The same prompt in every cache, but for its last token, which every cache computes."""
        last, dense = self.context - 1, self.caches[DENSE]
        generator = torch.Generator().manual_seed(0)
        for start in range(0, last, CHUNK):
            batch = self.batch(self.ids[start : min(start + CHUNK, last)], start)
            if computed:
                self.model.step(batch, dense)
            for place, state in enumerate(dense.layer_states):
                assert isinstance(state, PageState)
                if not computed:
                    width = state.pages_PLW.shape[2]
                    state.store(batch.layout, torch.randn(batch.ids_1T.shape[1], width, generator=generator))
                values = state.read(batch.layout, 0)[start:]
                for cache in self.others():
                    other = cache.layer_states[place]
                    assert isinstance(other, OffloadState)
                    other.keep(batch.layout, values)
        for cache in (dense, *self.others()):
            self.step(cache, self.ids[-1], last)

    def others(self) -> list[PagedCache]:
        """The offloaded caches."""
        found = [cache for name, cache in self.caches.items() if name != DENSE]
        return found if self.measured is None else [*found, self.measured]

    def batch(self, ids: list[int], start: int) -> StepBatch:
        return StepBatch.of([Piece(ids, start, self.pages, dense=self.context)], self.block)

    def step(self, cache: PagedCache, token: int, position: int) -> int:
        """The most likely token after this one."""
        return int(self.model.step(self.batch([token], position), cache).logits_RV[0].argmax())

    def decode(self, cache: PagedCache, steps: int) -> float:
        """Seconds of so many tokens after the prompt, whose last one is computed first."""
        token = self.step(cache, self.ids[-1], self.context - 1)
        token = self.step(cache, token, self.context)
        started = time.perf_counter()
        for place in range(1, steps):
            token = self.step(cache, token, self.context + place)
        return (time.perf_counter() - started) / (steps - 1)


def prompt_ids(folder: Path, most: int) -> list[int]:
    """Ids of the standard library's source."""
    from longcat.stages.inference.tokenizer import EngineTokenizer

    tokenizer, ids = EngineTokenizer.load(folder), []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        ids += tokenizer.encode(path.read_text(encoding="utf-8", errors="ignore"))
        if len(ids) >= most:
            return ids[:most]
    raise SystemExit(f"the standard library has {len(ids)} tokens, {most} were asked for")


def measure(texts: Texts, given: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for every variant."""
    seconds: dict[str, list[float]] = {name: [] for name in texts.caches}
    for number in range(given.rounds):
        names = list(texts.caches)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(texts.decode(texts.caches[name], given.steps))
    recall = None
    if texts.measured is not None:
        texts.decode(texts.measured, given.steps)
        recall = texts.measured.offload_stats.recall
    whole, fastest = texts.caches[DENSE].nbytes, statistics.median(seconds[DENSE])
    rows = []
    for name, cache in texts.caches.items():
        stats, median = cache.offload_stats, statistics.median(seconds[name])
        row = {"context": texts.context, "cache": name, "tokens_per_second": 1 / median, "seconds": seconds[name]}
        row |= {
            "over all in memory": fastest / median,
            "resident_bytes": whole if name == DENSE else cache.resident_bytes,
        }
        if name != DENSE:
            row |= {"hit_rate": stats.hit_rate, "recall": recall, "share": row["resident_bytes"] / whole}
            row["moved_bytes_per_token"] = stats.moved_bytes / max(stats.tokens / len(cache.layer_states), 1)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--preset", default="lc-100m", help="of the random model")
    parser.add_argument("--contexts", default="8192,32768,131072")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--resident-blocks", type=int, default=64)
    parser.add_argument("--token-budget", type=int, default=1024)
    parser.add_argument("--block-score", default="mean", choices=("mean", "minmax"))
    parser.add_argument("--heads", default="mass", choices=("mass", "sum", "max"))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    contexts = [int(word) for word in given.contexts.split(",")]
    rows: list[dict[str, Any]] = []
    with torch.inference_mode():
        if given.checkpoint is None:
            model = LongcatFlash(load_preset(given.preset))
            initialize(model, 0)
        else:
            model = load_pretrained(given.checkpoint, quantized="read")
        model.eval().requires_grad_(False)
        for context in contexts:
            ids = None if given.checkpoint is None else prompt_ids(given.checkpoint, context)
            rows += measure(Texts(model, ids, context, given), given)
    print_table(rows)
    host = processor()
    print(f"\n{host['model']} ({', '.join(host['flags'])}), {given.threads} threads")
    if given.output:
        given.output.write_text(json.dumps({"rows": rows, "processor": host}, indent=1), encoding="utf-8")
    if given.plot:
        given.plot.write_text(draw([memory_panel(rows, contexts)]), encoding="utf-8")


def print_table(rows: list[dict[str, Any]]) -> None:
    head = (
        "context | cache | tok/s | over all in memory | resident MiB | of dense | hit rate | recall | MiB moved a token"
    )
    print(f"| {head} |\n|{'---|' * 9}")
    for row in rows:
        cells = [f"{row['context']:,}", row["cache"], f"{row['tokens_per_second']:.1f}"]
        cells += [f"{row['over all in memory']:.2f}", f"{row['resident_bytes'] / 2**20:.1f}"]
        for key, shown in (("share", "1/{:.1f}"), ("hit_rate", "{:.3f}"), ("recall", "{:.4f}")):
            value = row.get(key)
            cells.append("" if value is None else shown.format(1 / value if key == "share" else value))
        moved = row.get("moved_bytes_per_token")
        cells.append("" if moved is None else f"{moved / 2**20:.2f}")
        print(f"| {' | '.join(cells)} |")


def memory_panel(rows: list[dict[str, Any]], contexts: list[int]) -> Panel:
    """Resident bytes by length of the context."""
    lines = []
    for name in (DENSE, "memory, async"):
        values = [row["resident_bytes"] / 2**20 for row in rows if row["cache"] == name]
        lines.append(Line("offloaded" if name != DENSE else name, contexts, [values]))
    return Panel("resident cache, MiB", "context, tokens", lines)


if __name__ == "__main__":
    main()
