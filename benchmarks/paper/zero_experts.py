"""Figure 3 of the LongCat-Flash report: tokens may use different numbers of experts at the same mean cost.

The report compares a model whose tokens all use K_e FFN experts with one whose tokens select K of FFN experts and
zero-computation experts, K_e of them FFN experts on average; the second ends with a lower loss (2.396 and 2.407 after
500 billion tokens). The controller of the router biases brings the mean to K_e, and the spread over tokens grows.

Zero-computation experts return their input, which is an additional path. To separate its effect from that of the choice
of compute, a third model drops those slots: the same choice, without that path.
"""

from __future__ import annotations

from pathlib import Path

from compare import loss_panel, loss_table
from tables import markdown, spread
from toy import BASE, Experiment, Results, Run, main

from longcat.stages.formats.svg import Line, Panel, draw

ZERO, FIXED, DROPPED = "top-6 with zero-computation experts", "fixed top-4", "top-6, slots dropped"
LAST = 20


def plan(seeds: range) -> list[Run]:
    fixed = {"zero_expert_num": 0, "moe_topk": BASE["moe_topk"] * 2 // 3}
    models = {ZERO: {}, FIXED: fixed, DROPPED: {"zero_expert_type": "zero"}}
    return [Run(label, seed, model) for seed in seeds for label, model in models.items()]


def report(results: Results, plot: Path) -> str:
    steps = range(1, len(results[ZERO][0]["loss"]) + 1)
    layers = range(len(results[ZERO][0]["active"][0]))

    def line(label: str, key: str, layer: int) -> Line:
        return Line(
            f"layer {layer}",
            steps,
            [[values[layer] for values in run[key]] for run in results[label]],
            dashed=layer > 0,
        )

    panels = [
        loss_panel(results),
        Panel("mean FFN experts per token", "step", [line(ZERO, "active", layer) for layer in layers]),
        Panel("their standard deviation over tokens", "step", [line(ZERO, "active_std", layer) for layer in layers]),
    ]
    plot.write_text(draw(panels), encoding="utf-8")
    rows = [
        [label, *(spread([final(run[key]) for run in runs], 3) for key in ("active", "active_std"))]
        for label, runs in results.items()
    ]
    table = markdown(["model", f"FFN experts per token, last {LAST} steps", "standard deviation over tokens"], rows)
    return f"{loss_table(results, (ZERO, FIXED), (DROPPED, FIXED))}\n{table}"


def final(values: list[list[float]]) -> float:
    """Mean over layers and the last `LAST` steps."""
    last = [value for layers in values[-LAST:] for value in layers]
    return sum(last) / len(last)


EXPERIMENT = Experiment("zero_experts", __doc__ or "", 4, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
