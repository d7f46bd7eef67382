"""The deterministic mode of the engine: its cost, and that drafts change no text.

Cost: milliseconds of a step of 1 and of 8 sequences, default and deterministic, interleaved; the ratio is that of the
minima, since other load of the machine can only add. Weights as they are (plain), and packed as the engine packs them:
chosen by measurement in the default mode, fixed in the other.

Check: the same prompts with drafts off and with each source of drafts, many at once. In the deterministic mode tokens
and log-probabilities must be equal to the bit; in the default one every first difference must stand where the two best
logits lie within 1e-3.

    python benchmarks/serve_deterministic.py [--preset lc-100m] [--threads 1] [--runs 30] [--context 128]
        [--prompts 1000] [--checkpoint FOLDER] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from serve_common import finish, print_table

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.packed.choice import AsAsked
from longcat.model.packed.prepare import prepare
from longcat.model.presets import load_preset
from longcat.model.step import Piece
from longcat.model.transformer import LongcatFlash
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.inference.deterministic import DeterministicRunner
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.jobs import Event, Finished, Job, PromptDelta
from longcat.stages.inference.loading import load_model
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.runner import StepRunner
from longcat.stages.inference.sampling import SamplingParams, TokenLogprobs
from longcat.stages.inference.tokenizer import EngineTokenizer

ROWS, PAGE = (1, 8), 16
TOKENS, CLOSE = 24, 1e-3
VOCABULARY, SPREAD = 400, 0.3  # random weights this large give varied and decided texts
TEXT = "The quick brown fox jumps over the lazy dog, again and again. Größe und Maß; 日本語のテキスト。\n"
DRAFTS = {"mtp": 2, "ngram": 3}
SAMPLING: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "seed": 1},
}
# Whether deterministic, and the sampling. In the default mode the two best logits do not tell where a draw may differ.
MODES = ((True, "greedy"), (True, "sampled"), (False, "greedy"))

Text = list[TokenLogprobs]


def model_of(preset: str, **changes: Any) -> LongcatFlash:
    model = LongcatFlash(ModelConfig(**{**load_preset(preset).model_dump(), **changes}))
    initialize(model, seed=0)
    return model.eval().requires_grad_(False)


def runners(preset: str, weights: str, pages: int) -> dict[str, StepRunner]:
    """Default and deterministic, on one model as it is or on two packed ones."""
    default = fixed = model_of(preset)
    if weights == "packed":
        fixed = model_of(preset)
        prepare(default)
        prepare(fixed, chooser=AsAsked())
    size = default.config.vocab_size
    return {
        "default": StepRunner(default, default.new_pages(pages, PAGE), size),
        "deterministic": DeterministicRunner(fixed, fixed.new_pages(pages, PAGE), size),
    }


@torch.inference_mode()
def cost(preset: str, weights: str, context: int, runs: int) -> list[dict[str, Any]]:
    held = -(-(context + 1) // PAGE)
    found, both = [], runners(preset, weights, max(ROWS) * held)
    for rows in ROWS:
        pieces = [Piece([5 + row], context, range(row * held, (row + 1) * held)) for row in range(rows)]
        times: dict[str, list[float]] = {name: [] for name in both}
        for run in range(runs + 2):
            for name, runner in both.items():
                elapsed = milliseconds(lambda runner=runner, pieces=pieces: runner.forward(pieces))  # type: ignore[misc]
                if run > 1:
                    times[name].append(elapsed)
        least = {name: min(values) for name, values in times.items()}
        ratio = least["deterministic"] / least["default"]
        found.append({"weights": weights, "sequences": rows, **least, "ratio": ratio})
    return found


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def checked_model(folder: Path | None) -> tuple[LongcatFlash, EngineTokenizer]:
    """Model with multi-token prediction: of a folder, else of random weights."""
    if folder is not None:
        return load_model(folder, device="cpu", dtype="float32"), EngineTokenizer.load(folder)
    changes = {"vocab_size": VOCABULARY, "initializer_range": SPREAD, "num_nextn_predict_layers": 1}
    with tempfile.TemporaryDirectory() as made:
        write_tokenizer(train([TEXT] * 8, TokenizerConfig(vocab_size=VOCABULARY)), Path(made))
        return model_of("smoke", **changes), EngineTokenizer.load(Path(made))


def prompts_of(count: int, vocab_size: int) -> list[list[int]]:
    """Random ids; every second prompt repeats its beginning, so that there is something to look up."""
    random, found = Random(0), []
    for number in range(count):
        ids = [random.randrange(vocab_size) for _ in range(random.randint(2, 24))]
        found.append(ids * 2 if number % 2 else ids)
    return found


def texts(engine: InferenceEngine, prompts: Sequence[list[int]], params: SamplingParams) -> list[Text]:
    """The continuations of all prompts, which are submitted together."""
    events: list[list[Event]] = [[] for _ in prompts]
    jobs = [Job([ids], params, found.append, math.inf) for ids, found in zip(prompts, events, strict=True)]
    for job in jobs:
        engine.submit(job)
    while any(engine.holds(job) for job in jobs):
        engine.step()
    if any(found[-1] != Finished(None) for found in events):
        raise SystemExit("a job failed")
    return [
        [entry.logprobs for event in found if isinstance(event, PromptDelta) for entry in event.delta.entries]
        for found in events
    ]


def check(prompts: int, folder: Path | None) -> list[dict[str, Any]]:
    model, tokenizer = checked_model(folder)
    asked = prompts_of(prompts, min(model.config.vocab_size, tokenizer.vocab_size))
    found = []
    for deterministic, sampling in MODES:
        params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, top_logprobs=2, **SAMPLING[sampling])
        options = {"deterministic": deterministic, "drafts": "off"}
        plain = texts(engine_of(model, tokenizer, options), asked, params)
        for drafts, count in DRAFTS.items():
            engine = engine_of(model, tokenizer, options | {"drafts": drafts, "draft_tokens": count})
            result = compared(plain, texts(engine, asked, params))
            counts = {"drafted": sum(engine.stats.drafted), "accepted": sum(engine.stats.accepted)}
            found.append({"deterministic": deterministic, "sampling": sampling, "drafts": drafts, **counts, **result})
    return found


def engine_of(model: LongcatFlash, tokenizer: EngineTokenizer, options: dict[str, Any]) -> InferenceEngine:
    return InferenceEngine(model, tokenizer, [tokenizer.eos_id], EngineOptions.model_validate(options))


def compared(plain: Sequence[Text], others: Sequence[Text]) -> dict[str, Any]:
    """Texts with equal tokens and with equal bits, and the greatest gap of the two best where tokens first differ."""
    gaps = []
    for one, other in zip(plain, others, strict=True):
        pairs = zip(one, other, strict=True)
        first = next((mine for mine, theirs in pairs if mine.token_id != theirs.token_id), None)
        if first is not None:
            gaps.append(first.top[0][1] - first.top[1][1])
    same = sum(one == other for one, other in zip(plain, others, strict=True))
    return {"texts": len(plain), "equal": len(plain) - len(gaps), "equal_bits": same, "gap": max(gaps, default=0.0)}


def failed(line: dict[str, Any]) -> bool:
    return line["equal_bits"] < line["texts"] if line["deterministic"] else line["gap"] > CLOSE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m", help="for the cost")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--context", type=int, default=128, help="cached tokens of each sequence")
    parser.add_argument("--prompts", type=int, default=1000, help="for the check")
    parser.add_argument("--checkpoint", type=Path, help="for the check, with multi-token prediction; default: smoke")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        line for weights in ("plain", "packed") for line in cost(options.preset, weights, options.context, options.runs)
    ]
    print_table(rows)
    print()
    checked = check(options.prompts, options.checkpoint)
    print_table(checked)
    fields = {"preset": options.preset, "context": options.context, "rows": rows, "check": checked}
    finish(options.output, options.threads, **fields)
    if any(failed(line) for line in checked):
        raise SystemExit("drafts changed a text")


if __name__ == "__main__":
    main()
