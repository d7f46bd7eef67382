"""Scaling Embeddings (arXiv 2601.21204): n-gram tables against more experts, at equal activated compute.

The paper finds that the loss falls with the logarithm of total over activated parameters, whether these are experts or
n-gram tables; that tables lose to experts where there are few of these, and win beyond a number of experts ("introduce
them when the number of experts exceeds its sweet spot"); that sizes near multiples of the vocabulary have more
collisions; and that amplifying the embeddings lowers the loss by 0.02.

Here E experts are compared with E / 2 experts and tables of as many parameters as the other half, for E of 8, 32 and
128; the slots per token, and so the computation, are equal. The controls are the E / 2 experts alone, and tables of 2
tokens only (N = 2, K = 1). Then, with 16 experts: sizes at an integer, one half and neither; and the amplifications.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from compare import WINDOW, smooth
from tables import difference, markdown, spread
from toy import Experiment, Results, Run, main

from longcat.stages.formats.svg import Line, Panel, draw

EXPERTS = (8, 32, 128)
# Rows of a table by the vocabulary, so that all tables have the parameters of E / 2 experts, within 3 %.
RATIOS = {8: 0.73, 32: 2.93, 128: 11.93}
MIDDLE = 32
SHAPE = {"emb_neighbor_num": 3, "emb_split_num": 2}
SIZES = (3.0, 2.5, 2.57)
AMPLIFICATIONS = ("sqrt_d", "norm")
BIGRAMS = f"{MIDDLE // 2} experts, one table of 2-grams"


def experts(count: int) -> dict[str, Any]:
    """A third of the experts without computation, so that 4 of 6 selected ones are feed-forward experts on average."""
    return {"n_routed_experts": count, "zero_expert_num": count // 2}


def tables(ratio: float, **others: Any) -> dict[str, Any]:
    return {"ngram_vocab_size_ratio": ratio, **SHAPE, **others}


def more(count: int) -> str:
    return f"{count} experts"


def halved(count: int) -> str:
    return f"{count // 2} experts and tables"


def sized(ratio: float) -> str:
    return f"{MIDDLE // 2} experts, tables of {ratio:g} vocabularies"


def amplified(kind: str) -> str:
    return f"{halved(MIDDLE)}, amplification {kind}"


def models() -> dict[str, dict[str, Any]]:
    """Overrides of the base by label."""
    found = {more(count): experts(count) for count in (*(size // 2 for size in EXPERTS), *EXPERTS)}
    found |= {halved(count): experts(count // 2) | tables(RATIOS[count]) for count in EXPERTS}
    half = experts(MIDDLE // 2)
    bigrams = {"emb_neighbor_num": 2, "emb_split_num": 1}
    found[BIGRAMS] = half | tables(RATIOS[MIDDLE], **bigrams)
    found |= {sized(ratio): half | tables(ratio) for ratio in SIZES}
    found |= {amplified(kind): half | tables(RATIOS[MIDDLE], ngram_amplification=kind) for kind in AMPLIFICATIONS}
    return found


def plan(seeds: range) -> list[Run]:
    return [Run(label, seed, model) for seed in seeds for label, model in models().items()]


def report(results: Results, plot: Path) -> str:
    plot.write_text(draw([sparsity(results), curves(results)]), encoding="utf-8")
    head = ["model", "parameters", "activated", "collisions by uniform", "validation loss", "seconds", "peak memory"]
    rows = []
    for label, runs in results.items():
        first = runs[0]
        rows.append(
            [
                label,
                f"{first['parameters'] / 1e6:.2f} M",
                f"{first['activated'] / 1e6:.2f} M",
                "-" if first["collisions"] is None else f"{first['collisions']:.2f}",
                spread([run["validation_loss"] for run in runs]),
                spread([run["wall_seconds"] for run in runs], 0),
                f"{max(run['peak_bytes'] for run in runs) / 1e6:.0f} MB",
            ]
        )
    pairs = [(halved(count), more(count)) for count in EXPERTS]
    pairs += [(halved(count), more(count // 2)) for count in EXPERTS]
    pairs += [(BIGRAMS, halved(MIDDLE)), *((sized(ratio), sized(SIZES[-1])) for ratio in SIZES[:-1])]
    pairs += [(amplified(kind), halved(MIDDLE)) for kind in AMPLIFICATIONS]
    lines = []
    for one, other in pairs:
        losses = [[run["validation_loss"] for run in results[label]] for label in (one, other)]
        lines.append(f"- {one} minus {other}: {difference(*losses)}\n")
    return "\n".join([markdown(head, rows), "".join(lines)])


def sparsity(results: Results) -> Panel:
    """Validation loss against the logarithm of total over activated parameters."""
    kinds = {
        "experts": [more(count) for count in sorted({*EXPERTS, *(size // 2 for size in EXPERTS)})],
        "half of them as n-gram tables": [halved(count) for count in EXPERTS],
    }
    lines = []
    for kind, labels in kinds.items():
        places = [math.log(results[label][0]["parameters"] / results[label][0]["activated"]) for label in labels]
        seeds = range(len(results[labels[0]]))
        values = [[results[label][seed]["validation_loss"] for label in labels] for seed in seeds]
        lines.append(Line(kind, places, values))
    return Panel("validation loss", "log of total / activated parameters", lines)


def curves(results: Results) -> Panel:
    """Training loss of the largest models."""
    labels = (more(EXPERTS[-1] // 2), more(EXPERTS[-1]), halved(EXPERTS[-1]))
    steps = range(1, len(results[labels[0]][0]["loss"]) + 1)
    kept = range(len(steps) // 8, len(steps))
    lines = []
    for label in labels:
        losses = [smooth(run["loss"], WINDOW) for run in results[label]]
        lines.append(
            Line(label, [steps[place] for place in kept], [[loss[place] for place in kept] for loss in losses])
        )
    return Panel("training loss", "step", lines)


EXPERIMENT = Experiment("ngram", __doc__ or "", 3, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
