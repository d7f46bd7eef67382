"""SpanNorm (arXiv 2601.22580): deep models whose residual spans a block train at learning rates where others do not.

The paper says that norms before the parts of a block (PreNorm) are stable, but leave deep layers with little to do;
that norms after them (PostNorm) are better, but unstable; and that a residual which spans the block, with a norm of the
sum and scaled initial values, has both. Its equations and its scale are not public in full (see `model.layers.span`).

Here all three are shortcut-connected layers with the same parts. Depth counts pairs of attention and feed-forward
network, two per layer; "scaled" divides the initial output projections by the root of the depth. The scale is also
tried with PostNorm, as it may be what matters. Gradient ratio: norm of the gradient of a down-projection of the first
layer over that of the last. Two further runs grow a scaled model to twice its depth, with and without a rescaling of
the output projections for the new depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tables import difference, markdown, spread
from toy import BASE, Experiment, Figures, Growing, Results, Run, main

from longcat.stages.formats.svg import Line, Panel, draw

DEPTHS = (6, 12, 24, 48)
RATES = (2e-3, 8e-3)
STEPS = 200
LAST = 20
PRE, POST, SPAN = "pre", "post", "span"
POST_SCALED, SPAN_SCALED = "post scaled", "span scaled"
VARIANTS = {
    PRE: {},
    POST: {"moe_layout": "post", "span_scale": "none"},
    POST_SCALED: {"moe_layout": "post", "span_scale": "L"},
    SPAN: {"moe_layout": "span", "span_scale": "none"},
    SPAN_SCALED: {"moe_layout": "span", "span_scale": "L"},
}
GROWN_DEPTH, GROWN_RATE = 24, 2e-3
GROWN = {f"{SPAN_SCALED}, grown, {word}": word == "rescaled" for word in ("rescaled", "kept")}
# Half the width of the other toy models: the deepest has 24 layers.
SMALL = {key: BASE[key] // 2 for key in ("hidden_size", "ffn_hidden_size", "q_lora_rank")}
SMALL |= {"n_routed_experts": 8, "zero_expert_num": 4, "moe_topk": 3}


def name(variant: str, depth: int, rate: float) -> str:
    return f"{variant}, depth {depth}, learning rate {rate:g}"


def plan(seeds: range) -> list[Run]:
    runs = []
    for seed in seeds:
        for depth in DEPTHS:
            model = SMALL | {"num_layers": depth // 2}
            runs += [
                Run(name(variant, depth, rate), seed, model | changes, learning_rate=rate, steps=STEPS)
                for rate in RATES
                for variant, changes in VARIANTS.items()
            ]
        model = SMALL | VARIANTS[SPAN_SCALED] | {"num_layers": GROWN_DEPTH // 2}
        for label, rescale in GROWN.items():
            growing = Growing(0.5, rescale_depth=rescale)
            runs.append(Run(label, seed, model, learning_rate=GROWN_RATE, steps=STEPS, growing=growing))
    return runs


def report(results: Results, plot: Path) -> str:
    depths = [depth for depth in DEPTHS if name(PRE, depth, RATES[0]) in results]
    panels = [
        Panel(
            f"validation loss, learning rate {rate:g}",
            "depth",
            [line(results, variant, depths, rate, lambda run: run["validation_loss"]) for variant in VARIANTS],
            x_log=True,
        )
        for rate in RATES
    ]
    panels.append(
        Panel(
            "gradient of the first layer over the last, step 1",
            "depth",
            [line(results, variant, depths, RATES[0], lambda run: run["gradient_ratio"][0]) for variant in VARIANTS],
            x_log=True,
            y_log=True,
        )
    )
    plot.write_text(draw(panels), encoding="utf-8")
    head = ["norms", "depth", "learning rate", "validation loss", "largest gradient norm"]
    head += ["gradient ratio at step 1", f"last {LAST} steps", "CPU seconds", "wall seconds", "peak memory, MB"]
    rows = [
        [variant, f"{depth}", f"{rate:g}", *figures(results[name(variant, depth, rate)])]
        for depth in depths
        for rate in RATES
        for variant in VARIANTS
    ]
    lines = [markdown(head, rows)]
    for rate in RATES:
        for other in (PRE, POST_SCALED, SPAN):
            pair = [results[name(variant, depths[-1], rate)] for variant in (SPAN_SCALED, other)]
            gap = difference(*([run["validation_loss"] for run in runs] for runs in pair))
            lines.append(f"- depth {depths[-1]}, learning rate {rate:g}, {SPAN_SCALED} minus {other}: {gap}\n")
    return "\n".join([lines[0], "".join(lines[1:]), growth_table(results)])


def line(results: Results, variant: str, depths: Sequence[int], rate: float, value: object) -> Line:
    """A value of every run over the depths, [seeds][depths]."""
    assert callable(value)
    by_depth = [[value(run) for run in results[name(variant, depth, rate)]] for depth in depths]
    return Line(variant, depths, [list(seed) for seed in zip(*by_depth, strict=True)], dots=True)


def figures(runs: list[Figures]) -> list[str]:
    return [
        spread([run["validation_loss"] for run in runs]),
        spread([largest(run["gradient_norm"]) for run in runs], 2),
        spread([run["gradient_ratio"][0] for run in runs], 2),
        spread([math.fsum(run["gradient_ratio"][-LAST:]) / len(run["gradient_ratio"][-LAST:]) for run in runs], 2),
        spread([run["cpu_seconds"] for run in runs], 0),
        spread([run["wall_seconds"] for run in runs], 0),
        spread([run["peak_bytes"] / 1e6 for run in runs], 0),
    ]


def largest(values: Sequence[float]) -> float:
    """Infinite if one is not a number, as `max` would pass it over."""
    return math.inf if any(math.isnan(value) for value in values) else max(values)


def growth_table(results: Results) -> str:
    rows = [
        [
            label,
            spread([run["jump"]["before"] for run in results[label]]),
            spread([run["jump"]["after"] for run in results[label]]),
            spread([run["validation_loss"] for run in results[label]]),
        ]
        for label in GROWN
    ]
    head = [f"from depth {GROWN_DEPTH // 2} to {GROWN_DEPTH}, learning rate {GROWN_RATE:g}"]
    table = markdown([*head, "loss before growth", "after it", "at the end"], rows)
    losses = ([run["validation_loss"] for run in results[label]] for label in GROWN)
    return f"{table}\nrescaled minus kept: {difference(*losses)}\n"


def quick(run: Run) -> bool:
    """Two depths, and growth to a small one."""
    return run.growing is not None or run.model["num_layers"] <= DEPTHS[1] // 2


EXPERIMENT = Experiment("spannorm", __doc__ or "", 3, plan, report, quick)

if __name__ == "__main__":
    main(EXPERIMENT)
