"""What the loss of the demo's first training depends on, at equal CPU time.

Every row is step `base` of the recipe `demo` with other settings, trained by the stage `train` for as many steps as fit
into the given CPU seconds: the time of a step is measured first, so a row with dearer steps gets fewer of them. With
`--steps` all rows have equally many steps instead, as for the question whether bfloat16 costs any loss. One thread, one
run at a time, CPU time instead of elapsed time: figures hold on a machine that does other things too. Without
`--tokens` the corpus is the recipe's own, of the documentation installed here. A script that was killed resumes with
the missing runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read by libraries when they are imported

from tables import difference, markdown, spread

import longcat.stages
from longcat.pipeline.artifact import Artifact, load_artifact
from longcat.pipeline.config import merge
from longcat.pipeline.environment import environment
from longcat.pipeline.recipe_file import load_recipe
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.store import Store

RECIPE = Path(longcat.stages.__file__).parent / "recipes" / "demo.yaml"
SECONDS, SEEDS = 600.0, 3
PROBE_STEPS = (2, 8)
AS_NOW = "recipe"

Settings = Mapping[str, Any]
Results = dict[str, list[dict[str, Any]]]


def embedding(**values: float) -> dict[str, Any]:
    return {"kinds": {"embedding": values}}


# Changes of the recipe by row. `None` removes a key, so that its default is used.
MUON: dict[str, Any] = {"kind": "muon"}
ROWS: dict[str, Settings] = {
    AS_NOW: {},
    "embedding at the rate of the others": {"kinds": None},
    "embedding x 5": embedding(learning_rate_factor=5),
    "embedding x 10": embedding(learning_rate_factor=10),
    "embedding x 20": embedding(learning_rate_factor=20),
    "embedding x 40": embedding(learning_rate_factor=40),
    "embedding: initial deviation 0.2": embedding(initial_std=0.2),
    "embedding: no decay": embedding(weight_decay=0.0),
    "output projection x 0.5": {"kinds": {"unembedding": {"learning_rate_factor": 0.5}}},
    "output projection x 2": {"kinds": {"unembedding": {"learning_rate_factor": 2}}},
    "output projection starts at zero": {"kinds": {"unembedding": {"initial_std": 0.0}}},
    "router x 0.3": {"kinds": {"router": {"learning_rate_factor": 0.3}}},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 4e-3": {"learning_rate": 4e-3},
    "Muon": {"optimizer": MUON},
    "Muon in bfloat16": {"optimizer": {**MUON, "muon": {"dtype": "bfloat16"}}},
    "Muon by head": {"optimizer": {**MUON, "muon": {"per_head": True}}},
    "Muon, learning rate 4e-3": {"optimizer": MUON, "learning_rate": 4e-3},
    "Muon, embedding at the rate of the others": {"optimizer": MUON, "kinds": None},
    "cautious decay": {"optimizer": {"cautious_decay": True}},
    "no decay": {"optimizer": {"weight_decay": 0.0}},
    "initial deviation 0.04": {"model": {"initializer_range": 0.04}},
    "initial deviation 0.01": {"model": {"initializer_range": 0.01}},
    "half the batch": {"batch_size": 4},
    "twice the batch": {"batch_size": 16},
    "width 256, one layer": {
        "model": {"hidden_size": 256, "num_layers": 1, "ffn_hidden_size": 512, "q_lora_rank": 128, "kv_lora_rank": 96}
    },
    "four layers": {"model": {"num_layers": 4}},
    "experts of half the width, twice as many": {
        "model": {"expert_ffn_hidden_size": 64, "n_routed_experts": 32, "zero_expert_num": 16, "moe_topk": 8}
    },
    "experts of twice the width, half as many": {
        "model": {"expert_ffn_hidden_size": 256, "n_routed_experts": 8, "zero_expert_num": 4, "moe_topk": 2}
    },
    "no balance loss": {"balance_loss": {"enabled": False}},
    "no hidden z-loss": {"objective": {"hidden_z_loss": 0.0}},
    "bfloat16": {"dtype": "bfloat16"},
    "no guard against spikes": {"stability": {"spikes": {"action": "none"}}},
}


def settings_of(row: str, seed: int, steps: int, base: Settings) -> dict[str, Any]:
    """Configuration of `train` for a row: one schedule over its own steps."""
    kept = {key: value for key, value in base.items() if not (key in ROWS[row] and ROWS[row][key] is None)}
    changes = {key: value for key, value in ROWS[row].items() if value is not None}
    schedule = {"schedule": {"total_steps": steps}}
    fixed = {"seed": seed, "steps": steps, "threads": 1, "device": "cpu", "watch": {"tensorboard": False}}
    return merge(merge(kept, changes), {**fixed, **schedule})


def recipe_settings() -> dict[str, Any]:
    """Configuration of step `base`."""
    return dict(load_recipe(RECIPE).steps["base"].config)


def recipe_tokens(folder: Path) -> Artifact:
    """Tokens of the recipe, made if they are missing."""
    command = [sys.executable, "-m", "longcat.cli", "--store", str(folder), "run", "demo", "--until", "tokens"]
    subprocess.run(command, check=True)
    return Store(folder).resolve("tokens")


def train(session: Session, tokens: Artifact, settings: Settings) -> tuple[Artifact, float]:
    """The checkpoint, and the CPU seconds of its run."""
    began = time.process_time()
    artifact = run_stage(session, "train", dict(settings), {"tokens": tokens}).artifact
    return artifact, time.process_time() - began


def seconds_per_step(row: str, tokens: Artifact, base: Settings) -> float:
    """CPU seconds of a step, from two short runs: what both do once cancels out."""
    with TemporaryDirectory() as folder:  # where no run is found that was done before
        session = Session(Store(Path(folder)))
        few, more = (train(session, tokens, settings_of(row, 0, steps, base))[1] for steps in PROBE_STEPS)
    return max(1e-3, (more - few) / (PROBE_STEPS[1] - PROBE_STEPS[0]))


def steps_within(seconds: float, row: str, tokens: Artifact, base: Settings) -> int:
    """Steps of a row that fit into so many CPU seconds."""
    return max(2, round(seconds / seconds_per_step(row, tokens, base)))


def result_of(row: str, seed: int, session: Session, tokens: Artifact, base: Settings, steps: int) -> dict[str, Any]:
    """Figures of one run."""
    artifact, spent = train(session, tokens, settings_of(row, seed, steps, base))
    metrics, counts = artifact.manifest.metrics, artifact.manifest.counts
    kept = {key: metrics[key] for key in ("validation_loss", "train_loss", "unigram_loss", "active_experts")}
    return {"steps": steps, "tokens": counts["tokens"], "parameters": counts["parameters"], **kept} | {
        "cpu_seconds": round(spent, 1),
    }


def table(results: Results) -> str:
    """Markdown table, the lowest loss first, with the difference to the recipe per seed."""
    rows = []
    losses = {row: [run["validation_loss"] for run in runs] for row, runs in results.items()}
    for row in sorted(results, key=lambda row: sum(losses[row]) / len(losses[row])):
        runs = results[row]
        compared = AS_NOW in losses and row != AS_NOW and len(losses[row]) == len(losses[AS_NOW])
        gap = difference(losses[row], losses[AS_NOW]) if compared else ""
        size = f"{runs[0]['parameters'] / 1e6:.2f} M"
        rows.append([row, size, str(runs[0]["steps"]), f"{runs[0]['tokens']:,}", spread(losses[row], 3), gap])
    return markdown(["", "parameters", "steps", "tokens", "validation loss", "against the recipe"], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo-recipe"), help="output folder, also of runs")
    parser.add_argument("--tokens", type=Path, help="a tokens artifact instead of the recipe's own")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="CPU seconds of every run")
    parser.add_argument("--steps", type=int, help="steps of every run instead of CPU seconds")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="seeds per row")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS], default=[*ROWS], help="rows to run (default: all)")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    store = given.output / "store"
    tokens = load_artifact(given.tokens) if given.tokens else recipe_tokens(store)
    session, base, kept = Session(Store(store)), recipe_settings(), given.output / "runs.json"
    here, extent = environment(), f"{given.steps} steps" if given.steps else f"{given.seconds:g} CPU seconds"
    print(f"{here.get('processor', 'unknown processor')}, one thread, {extent} a run")
    done: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    results: Results = {row: [] for row in given.rows}
    for seed in range(given.seeds):
        for row in given.rows:
            key = json.dumps([row, settings_of(row, seed, 0, base), tokens.id, extent], sort_keys=True)
            if key not in done:
                steps = given.steps or steps_within(given.seconds, row, tokens, base)
                done[key] = result_of(row, seed, session, tokens, base, steps)
                kept.write_text(json.dumps(done, indent=1), encoding="utf-8")
                print(f"{row}, seed {seed}: {done[key]['validation_loss']:.4f}", file=sys.stderr)
            results[row].append(done[key])
    text = table(results)
    report = {"environment": here, "extent": extent, "tokens": tokens.id, "rows": results}
    (given.output / "demo_recipe.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    (given.output / "demo_recipe.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
