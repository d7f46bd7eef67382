"""Figure 4 of the LongCat-Flash report: the shortcut that overlaps communication and computation costs no quality.

The report trains models with shortcut-connected layers and with the usual order, alternating MoE and dense FFN, and
finds nearly equal losses. Here the second model has one dense FFN of twice the width where the first has two, so that
parameters and work are equal.
"""

from __future__ import annotations

from pathlib import Path

from compare import gap_panel, loss_panel, loss_table
from toy import BASE, Experiment, Results, Run, main

from longcat.stages.formats.svg import draw

SHORTCUT, INTERLEAVED = "shortcut-connected", "interleaved"


def plan(seeds: range) -> list[Run]:
    other = {"moe_layout": "interleaved", "ffn_hidden_size": 2 * BASE["ffn_hidden_size"]}
    return [run for seed in seeds for run in (Run(SHORTCUT, seed), Run(INTERLEAVED, seed, other))]


def report(results: Results, plot: Path) -> str:
    plot.write_text(draw([loss_panel(results), gap_panel(results, SHORTCUT, INTERLEAVED)]), encoding="utf-8")
    return loss_table(results, (SHORTCUT, INTERLEAVED))


EXPERIMENT = Experiment("shortcut", __doc__ or "", 4, plan, report)

if __name__ == "__main__":
    main(EXPERIMENT)
