"""Figure 5b of the LongCat-Flash report: a model whose layers are stacked during training ends below a random start.

The report grows a model of 14 layers to 28 after some tens of billions of tokens; its validation loss jumps, falls
faster than that of 28 layers trained from random values, and ends lower (0.558 and 0.570). Over-training the small
model makes growth less efficient.

Here 2 layers become 4. All runs have the same total FLOPs, so that a run which is small for longer has more steps. They
are compared with the large model from random values, and with the small one that goes on without growth. As the FLOPs
of a step are not its time, both are also compared at equal time.
"""

from __future__ import annotations

from pathlib import Path

from compare import WINDOW, smooth
from tables import difference, markdown, spread
from toy import BASE, Experiment, Figures, Growing, Results, Run, main

from longcat.model.accounting import count
from longcat.model.config import ModelConfig
from longcat.stages.formats.svg import Line, Panel, draw

SMALL, LARGE = 2, 4
LARGE_STEPS = 200
# CPU time of a step of the small model over that of the large one.
TIME_RATIO = 0.52
FRACTIONS = (0.125, 0.25, 0.5, 0.75)
CHOSEN = 0.25

RANDOM, ALONE = "4 layers from random values", "2 layers, not grown"
GROWN = {part: f"grown after {part:.3g} of the FLOPs" for part in FRACTIONS}
VARIANTS = {
    "interleaved": Growing(0, order="interleave"),
    "moments rescaled": Growing(0, moments="rescale"),
    "moments reset": Growing(0, moments="zero"),
    "own schedule, re-warmed": Growing(0, own_schedule=True),
}
TIMED = {label: f"{label}, equal time" for label in (ALONE, GROWN[CHOSEN])}


def flops_ratio() -> float:
    """FLOPs of a token of the small model over those of the large one."""
    small, large = (
        count(ModelConfig(**{**BASE, "num_layers": layers, "vocab_size": 1024}), Run.sequence_length)
        for layers in (SMALL, LARGE)
    )
    return small.flops_per_token_prefill / large.flops_per_token_prefill


def plan(seeds: range) -> list[Run]:
    large, small = {"num_layers": LARGE}, {"num_layers": SMALL}
    ratio = flops_ratio()

    def grown(label: str, seed: int, part: float, ratio: float, growing: Growing) -> Run:
        """The part of the cost of `LARGE_STEPS` that the small model takes."""
        before, after = round(part * LARGE_STEPS / ratio), round((1 - part) * LARGE_STEPS)
        steps = before + after
        chosen = Growing(before / steps, growing.order, growing.moments, growing.own_schedule)
        return Run(label, seed, large, steps=steps, growing=chosen)

    runs = []
    for seed in seeds:
        runs += [Run(RANDOM, seed, large, steps=LARGE_STEPS), Run(ALONE, seed, small, steps=round(LARGE_STEPS / ratio))]
        runs += [grown(label, seed, part, ratio, Growing(0)) for part, label in GROWN.items()]
        runs += [grown(label, seed, CHOSEN, ratio, growing) for label, growing in VARIANTS.items()]
        runs += [
            Run(TIMED[ALONE], seed, small, steps=round(LARGE_STEPS / TIME_RATIO)),
            grown(TIMED[GROWN[CHOSEN]], seed, CHOSEN, TIME_RATIO, Growing(0)),
        ]
    return runs


def report(results: Results, plot: Path) -> str:
    panels = [
        Panel(
            "training loss", "share of the FLOPs", [curve(results, label) for label in (RANDOM, ALONE, *GROWN.values())]
        ),
        Panel(
            "order, moments, schedule",
            "share of the FLOPs",
            [curve(results, label) for label in (GROWN[CHOSEN], *VARIANTS)],
        ),
    ]
    plot.write_text(draw(panels), encoding="utf-8")
    rows = [
        [
            label,
            f"{len(runs[0]['loss'])}",
            spread([run["cpu_seconds"] for run in runs], 0),
            spread([run["validation_loss"] for run in runs]),
            jump(runs),
            recovery(runs),
        ]
        for label, runs in results.items()
    ]
    head = ["run", "steps", "CPU seconds with validation", "validation loss", "loss at growth", "steps to recover"]
    lines = [markdown(head, rows)]
    pairs = [(label, other) for label in GROWN.values() for other in (RANDOM, ALONE)]
    pairs += [(label, GROWN[CHOSEN]) for label in VARIANTS]
    pairs += [(TIMED[GROWN[CHOSEN]], other) for other in (RANDOM, TIMED[ALONE])]
    for first, second in pairs:
        losses = [[run["validation_loss"] for run in results[label]] for label in (first, second)]
        lines.append(f"- {first} minus {second}: {difference(*losses)}\n")
    return "\n".join([lines[0], "".join(lines[1:])])


def curve(results: Results, label: str) -> Line:
    """Training loss over the share of the FLOPs."""
    runs, ratio = results[label], flops_ratio()
    steps = range(1, len(runs[0]["loss"]) + 1)
    small = len(steps) if label == ALONE else (runs[0]["jump"] or {"step": 0})["step"]
    costs = [min(step, small) * ratio + max(0, step - small) for step in steps]
    kept = range(len(steps) // 8, len(steps))
    losses = [smooth(run["loss"], WINDOW) for run in runs]
    return Line(
        label, [costs[place] / costs[-1] for place in kept], [[loss[place] for place in kept] for loss in losses]
    )


def jump(runs: list[Figures]) -> str:
    """Validation loss before and after growth."""
    if not runs[0]["jump"]:
        return "-"
    return (
        f"{spread([run['jump']['before'] for run in runs], 2)} to {spread([run['jump']['after'] for run in runs], 2)}"
    )


def recovery(runs: list[Figures]) -> str:
    """Steps from growth until the mean loss of `WINDOW` steps is that of the `WINDOW` steps before it."""
    if not runs[0]["jump"]:
        return "-"
    steps = [recovered(run["loss"], run["jump"]["step"]) for run in runs]
    found = [step for step in steps if step is not None]
    missing = f" {len(steps) - len(found)} not recovered" if len(found) < len(steps) else ""
    return (spread(found, 0) if found else "") + missing


def recovered(losses: list[float], step: int) -> int | None:
    """Steps after `step` until the mean of `WINDOW` losses is at most that of the `WINDOW` before; None: never."""
    window = min(WINDOW, step, len(losses) - step)
    before = sum(losses[step - window : step]) / window
    for end in range(step + window, len(losses) + 1):
        if sum(losses[end - window : end]) / window <= before:
            return end - step
    return None


EXPERIMENT = Experiment("growth", __doc__ or "", 3, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
