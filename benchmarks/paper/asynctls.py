"""AsyncTLS (arXiv 2604.07815): attention mass on the blocks that the token before chose, and what must be copied.

On the queries and cached positions of every attention module of a checkpoint (which must be trained: recall says
nothing of a random model), for the last `--tokens` tokens of texts of the standard library: the blocks are chosen by
summaries of their positions (`mean` of 8, or `minmax`, the paper's form) and one score of all heads, the tokens attend
to today's or to yesterday's blocks. Recall is the part of dense attention mass on them, mean over heads, modules and
tokens; copies are the blocks that the token before did not have, as a part of all. Mean and spread are over texts.

    python benchmarks/paper/asynctls.py --checkpoint FOLDER [--context 4096] [--texts 4] [--output FOLDER]
    python benchmarks/paper/asynctls.py --quick        # a random model, as a smoke test
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tables import markdown, spread

from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.attention.offload.selection import greatest
from longcat.model.attention.offload.summaries import make_summaries
from longcat.model.attention.paged_mla import absorbed_queries
from longcat.model.checkpoint import load_pretrained
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash

FORMS = [(score, heads) for score in ("mean", "minmax") for heads in ("mass", "sum", "max")]
BUDGETS = (1 / 16, 1 / 8, 1 / 4)


def projected(model: LongcatFlash, ids: list[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Scaled queries [T, H, E] and cached positions [T, E] of every attention module that can be offloaded."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(mixer: MultiHeadLatentAttention, inputs: Any) -> None:
        made = mixer.project(*inputs[:2])
        q_THE = absorbed_queries(mixer, made.q_nope_BTHN[0], made.q_rope_BTHR[0]) * mixer.softmax_scale
        found.append((q_THE, torch.cat((made.latent_BTC, made.k_rope_BTR), dim=-1)[0]))

    mixers = [module for module in model.modules() if getattr(module, "offloads", False)]
    handles = [mixer.register_forward_pre_hook(keep) for mixer in mixers]
    model(torch.tensor([ids]), logits_to_keep=1)
    for handle in handles:
        handle.remove()
    yield from found


def figures(
    q_THE: torch.Tensor, cached_TE: torch.Tensor, options: OffloadOptions, tokens: int
) -> tuple[float, float, float]:
    """Recall with today's and with yesterday's blocks, and the part of the blocks that is copied."""
    length, block, most = len(cached_TE), options.block, options.resident_blocks
    pages = length // block
    whole = cached_TE[: pages * block]
    summaries = make_summaries(options, pages, cached_TE.shape[1], cached_TE.dtype, cached_TE.device)
    parts_XSW = whole.unflatten(0, (-1, summaries.part))
    summaries.update(torch.arange(len(parts_XSW)), parts_XSW)
    before: set[int] = set()
    today, yesterday, copied = [], [], []
    for position in range(length - tokens - 1, length):
        newest = position // block
        scores = summaries.scores(q_THE[position], torch.arange(newest), options.heads)
        scores[0] = float("inf")
        chosen = {*greatest(scores, most - 1).tolist(), newest}
        if before:
            mass_S = (q_THE[position] @ cached_TE[: position + 1].t()).softmax(dim=-1).mean(dim=0)
            by_block = torch.zeros(newest + 1).index_add_(0, torch.arange(position + 1) // block, mass_S)
            today.append(float(by_block[sorted(chosen)].sum()))
            yesterday.append(float(by_block[sorted({*before, newest})].sum()))
            copied.append(len(chosen - before) / len(chosen))
        before = chosen
    return tuple(sum(values) / len(values) for values in (today, yesterday, copied))  # type: ignore[return-value]


def measure(model: LongcatFlash, texts: list[list[int]], block: int, tokens: int) -> list[dict[str, Any]]:
    """A row for every form and budget, with the figures of every text."""
    rows: dict[tuple[str, str, int], list[tuple[float, ...]]] = {}
    for ids in texts:
        modules = list(projected(model, ids))
        for budget in BUDGETS:
            blocks = max(2, round(len(ids) // block * budget))
            for score, heads in FORMS:
                options = OffloadOptions(
                    tier="memory", block=block, resident_blocks=blocks, block_score=score, heads=heads
                )
                found = [figures(q_THE, cached_TE, options, tokens) for q_THE, cached_TE in modules]
                mean = tuple(sum(values) / len(found) for values in zip(*found, strict=True))
                rows.setdefault((score, heads, blocks), []).append(mean)
    names = ("today", "yesterday", "copied")
    return [
        {"score": score, "heads": heads, "blocks": blocks, **dict(zip(names, zip(*found, strict=True), strict=True))}
        for (score, heads, blocks), found in rows.items()
    ]


def texts_of(folder: Path, context: int, count: int) -> list[list[int]]:
    """Consecutive texts of the standard library's source."""
    from longcat.stages.inference.tokenizer import EngineTokenizer

    tokenizer, ids = EngineTokenizer.load(folder), []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        ids += tokenizer.encode(path.read_text(encoding="utf-8", errors="ignore"))
        if len(ids) >= context * count:
            break
    return [ids[first : first + context] for first in range(0, context * count, context)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="last tokens of a text that are measured")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("paper-runs"))
    parser.add_argument("--quick", action="store_true", help="a small random model")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with torch.inference_mode():
        if given.quick:
            model = LongcatFlash(load_preset("smoke"))
            initialize(model, 0)
            generator = torch.Generator().manual_seed(0)
            sizes = (2, 256)
            texts = torch.randint(model.config.vocab_size, sizes, generator=generator).tolist()
            rows = measure(model.eval(), texts, 16, 4)
        elif given.checkpoint is None:
            parser.error("give --checkpoint FOLDER of a trained model, or --quick")
        else:
            model = load_pretrained(given.checkpoint, quantized="read").eval()
            rows = measure(model, texts_of(given.checkpoint, given.context, given.texts), given.block, given.tokens)
    head = ["block score", "heads", "blocks", "recall, today's blocks", "recall, yesterday's", "copied"]
    cells = [
        [
            row["score"],
            row["heads"],
            str(row["blocks"]),
            *(spread(row[key]) for key in ("today", "yesterday", "copied")),
        ]
        for row in rows
    ]
    table = markdown(head, cells)
    given.output.mkdir(parents=True, exist_ok=True)
    (given.output / "asynctls.md").write_text(table, encoding="utf-8")
    (given.output / "asynctls.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
