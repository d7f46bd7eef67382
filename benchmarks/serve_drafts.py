"""Drafts of the engine: measured speed against what their acceptance and the costs measured in the same run allow.

Costs are those of bare steps of the model, over a plain step of the same number of sequences: `c2` of a step that
verifies one draft of each, `d` of the multi-token prediction that makes it. With acceptance `a` the speed over decoding
without drafts is at most (1 + a) / (c2 + d). Where only a part `f` of the steps has drafts, because nothing repeats or
because drafts that do not pay were switched off, it is (1 + f a) / (1 + f (c2 + d - 1)).

1. Acceptance is set: the model's prediction runs as always, and its drafts are replaced by the next token of the text
   without drafts, or in the remaining cases by another token. Weights are random.
2. With `--checkpoint`: acceptance of a trained model with a multi-token prediction layer (recipe `drafts`).
3. n-gram drafts on a text of random weights that repeats itself, where `d` is 0.
4. The cost of a step by the rows of one sequence, and the speed if all drafts were accepted.

Every round measures every setting and decoding without drafts; the table shows medians of the ratios.

    python benchmarks/serve_drafts.py [--accept 0 0.25 0.5 0.75 1] [--sequences 1 8] [--rounds 3] [--checkpoint FOLDER]
        [--preset lc-100m] [--weights auto] [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from serve_common import finish, print_table
from serve_engine import Bytes, build

from longcat.model.step import Piece
from longcat.model.transformer import LongcatFlash
from longcat.stages.inference.core import Core
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.jobs import Job, PromptDelta
from longcat.stages.inference.mtp_drafts import MTPProposer
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams
from longcat.stages.inference.step_item import StepItem

SHARE = 0.95
# One, less what the same run differs from itself.
NOT_SLOWER = 0.98
ROWS = (1, 2, 3, 4, 6, 8)
REPEATS = 9
PAGE = 16
Texts = list[list[int]]


class Run(NamedTuple):
    """Texts of a run, seconds of decoding, and how many drafts there were and how many were accepted."""

    texts: Texts
    seconds: float
    tokens: int
    drafted: int
    accepted: int


class SetAcceptance(MTPProposer):
    """Multi-token prediction whose drafts are replaced so that a given part of them is accepted."""

    def expect(self, texts: dict[tuple[int, ...], list[int]], accept: float) -> None:
        """`texts` are the whole sequences by prompt."""
        self.texts, self.accept, self.random = texts, accept, random.Random(0)

    def propose(self, items: Sequence[StepItem], hidden_TD: torch.Tensor) -> None:
        super().propose(items, hidden_TD)
        for item in items:
            sequence = item.branch.sequence
            if sequence.drafts:
                whole = self.texts[tuple(sequence.ids[: sequence.prompt_length])]
                place = len(sequence.ids)
                token = whole[place] if place < len(whole) else 0
                wanted = self.random.random() < self.accept
                sequence.drafts[:1] = [token if wanted else (token + 1) % self._runner.vocab_size]


def decode(engine: InferenceEngine, prompts: Texts, tokens: int) -> Run:
    """Continue all prompts at once; times begin when every one has its first token."""
    texts: Texts = [[] for _ in prompts]
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    jobs = []
    for text, prompt in zip(texts, prompts, strict=True):

        def emit(event: object, text: list[int] = text) -> None:
            if isinstance(event, PromptDelta):
                text.extend(event.delta.token_ids)

        jobs.append(Job([prompt], params, emit, math.inf))
        engine.submit(jobs[-1])
    while not all(texts):
        engine.step()
    stats = engine.stats
    drafted, accepted, had = sum(stats.drafted), sum(stats.accepted), sum(map(len, texts))
    started = time.perf_counter()
    while any(engine.holds(job) for job in jobs):
        engine.step()
    seconds = time.perf_counter() - started
    generated = sum(map(len, texts)) - had
    return Run(texts, seconds, generated, sum(stats.drafted) - drafted, sum(stats.accepted) - accepted)


class Costs:
    """Seconds of bare steps of a model: plain, with rows to verify, and of multi-token prediction.

    Texts are random and differ between the sequences, and so do the experts that they select.
    """

    def __init__(self, core: Core, context: int, sequences: int) -> None:
        self.core, self.context, self.sequences = core, context, sequences
        self.generator = torch.Generator().manual_seed(context)
        per = -(-(context + max(ROWS)) // PAGE)
        self.pages = [list(range(row * per, (row + 1) * per)) for row in range(sequences)]
        with torch.inference_mode():
            for own, ids in zip(self.pages, self.ids(context), strict=True):
                hidden_TD = core.runner.forward([Piece(ids, 0, own, 0)]).hidden_TD
        self.hidden_TD = hidden_TD

    def ids(self, count: int) -> Texts:
        """Random tokens of every sequence."""
        shape = (self.sequences, count)
        return torch.randint(16, self.core.runner.vocab_size, shape, generator=self.generator).tolist()

    def step(self, rows: int) -> float:
        """A step with `rows` tokens of every sequence."""
        pieces = iter(
            [Piece(ids, self.context, own, rows) for ids, own in zip(self.ids(rows), self.pages, strict=True)]
            for _ in range(REPEATS)
        )
        return timed(lambda: self.core.runner.forward(next(pieces)))

    def prediction(self, tokens: int) -> float:
        """Multi-token prediction after `tokens` verified tokens of every sequence, with the choice of a token."""
        count = tokens * self.sequences
        hidden_TD = self.hidden_TD.repeat(-(-count // len(self.hidden_TD)), 1)[:count]
        proposer = self.core.proposer
        assert isinstance(proposer, MTPProposer)
        start = self.context - tokens
        pieces = [Piece(ids, start, own, 1) for ids, own in zip(self.ids(tokens), self.pages, strict=True)]
        return timed(lambda: proposer._predict(hidden_TD, pieces))


def timed(run: Callable[[], object]) -> float:
    """Median seconds of a call."""
    found = []
    with torch.inference_mode():
        for _ in range(REPEATS):
            started = time.perf_counter()
            run()
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def engine_of(model: LongcatFlash, given: argparse.Namespace, drafts: str, tokenizer: Any = None) -> InferenceEngine:
    cache = max(given.sequences) * (given.prompt + given.tokens + 4 * PAGE)
    fixed = {"prefix_cache": False, "page_size": PAGE, "max_sequences": max(given.sequences)}
    options = EngineOptions(cache_tokens=cache, drafts=drafts, **fixed)  # type: ignore[arg-type]
    return InferenceEngine(model, tokenizer or Bytes(model.config.vocab_size), (), options)  # type: ignore[arg-type]


def prompts_of(vocab_size: int, sequences: int, length: int) -> Texts:
    generator = torch.Generator().manual_seed(sequences)
    return torch.randint(16, vocab_size, (sequences, length), generator=generator).tolist()


def row_of(what: str, sequences: int, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the rounds of one setting."""
    row: dict[str, Any] = {"drafts": what, "sequences": sequences}
    row |= {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    met = row["of formula"] >= SHARE
    return {**row, "met (0.95)": met, "not slower": row["speed"] >= NOT_SLOWER}


def compare(
    plain: Run, drafted: Run, plain_step: float, verify: float, making: Callable[[float], float]
) -> dict[str, float]:
    """Speed of a run with drafts, and what its acceptance allows; `making` gives the cost of a draft by acceptance."""
    a = drafted.accepted / drafted.drafted if drafted.drafted else 0.0
    # A step of a sequence gives one token and the accepted drafts.
    f = drafted.drafted / (drafted.tokens - drafted.accepted)
    c2, d = verify / plain_step, making(a) / plain_step
    formula = (1 + f * a) / (1 + f * (c2 + d - 1))
    speed = (plain.seconds / plain.tokens) / (drafted.seconds / drafted.tokens)
    same = sum(own == other for own, other in zip(plain.texts, drafted.texts, strict=True)) / len(plain.texts)
    figures = {"a": a, "f": f, "c2": c2, "d": d, "(1+a)/(c2+d)": (1 + a) / (c2 + d)}
    return {**figures, "formula": formula, "speed": speed, "of formula": speed / formula, "same texts": same}


class Setting(NamedTuple):
    """An engine with drafts, and what makes a row of it."""

    name: str
    engine: InferenceEngine
    prepare: Callable[[], None]
    makes: bool


def measure(
    model: LongcatFlash, given: argparse.Namespace, settings: Sequence[Setting], prompts: Texts
) -> list[dict[str, Any]]:
    """One row per setting, for these prompts."""
    sequences = len(prompts)
    plain = engine_of(model, given, "off")
    found: dict[str, list[dict[str, float]]] = {setting.name: [] for setting in settings}
    with_costs = settings[0].engine
    for number in range(given.rounds + 1):
        costs = Costs(with_costs.core, given.prompt, sequences)
        steps = {rows: costs.step(rows) for rows in (1, 2)}
        makes = {count: costs.prediction(count) for count in (1, 2)} if settings[0].makes else {1: 0.0, 2: 0.0}
        for setting in settings:
            # The first of two neighbours runs without drafts, and every other time the second.
            setting.prepare()
            order = [plain, setting.engine] if number % 2 else [setting.engine, plain]
            runs = {id(engine): decode(engine, prompts, given.tokens) for engine in order}
            pair = (runs[id(plain)], runs[id(setting.engine)])
            making = lambda a: (1 - a) * makes[1] + a * makes[2]  # noqa: E731, B023
            if number:
                found[setting.name].append(compare(*pair, steps[1], steps[2], making))
    return [row_of(name, sequences, rounds) for name, rounds in found.items()]


def set_acceptance(model: LongcatFlash, given: argparse.Namespace, sequences: int) -> list[dict[str, Any]]:
    """Rows for every acceptance to be set."""
    engine = engine_of(model, given, "mtp")
    proposer = SetAcceptance(engine.core.runner, 1)
    assert engine.core.proposer is not None
    proposer.price, engine.core.proposer = engine.core.proposer.price, proposer
    prompts = prompts_of(model.config.vocab_size, sequences, given.prompt)
    texts = decode(engine_of(model, given, "off"), prompts, given.tokens).texts
    whole = {tuple(prompt): prompt + text for prompt, text in zip(prompts, texts, strict=True)}
    settings = [
        Setting(f"set to {accept:g}", engine, lambda accept=accept: proposer.expect(whole, accept), True)  # type: ignore[misc]
        for accept in given.accept
    ]
    return measure(model, given, settings, prompts)


def repetitive(model: LongcatFlash, given: argparse.Namespace, sequences: int) -> list[dict[str, Any]]:
    """n-gram drafts after prompts that already end in what the model repeats."""
    starts = prompts_of(model.config.vocab_size, sequences, 8)
    settled = decode(engine_of(model, given, "off"), starts, given.prompt + 1).texts
    prompts = [text[-given.prompt :] for text in settled]
    return measure(model, given, [Setting("n-gram", engine_of(model, given, "ngram"), lambda: None, False)], prompts)


def trained(folder: Path, given: argparse.Namespace, sequences: int) -> list[dict[str, Any]]:
    """Multi-token prediction and n-gram drafts of a trained model, on prose."""
    from longcat.stages.inference.loading import load_model, pack_weights
    from longcat.stages.inference.tokenizer import EngineTokenizer

    model = load_model(folder, device="cpu")
    pack_weights(model, folder, given.weights)
    tokenizer = EngineTokenizer.load(folder)
    ids = tokenizer.encode((Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8"))
    prompts = [ids[place * 40 : place * 40 + given.prompt] for place in range(sequences)]
    settings = [
        Setting(f"trained, {name}", engine_of(model, given, name, tokenizer), lambda: None, name == "mtp")
        for name in ("mtp", "ngram")
    ]
    return [row for setting in settings for row in measure(model, given, [setting], prompts)]


def ceiling(model: LongcatFlash, given: argparse.Namespace, sequences: int) -> list[dict[str, Any]]:
    """Cost of a step by the rows of a sequence, and the speed if each of them gave a token."""
    costs = Costs(engine_of(model, given, "mtp").core, given.prompt, sequences)
    found = [({rows: costs.step(rows) for rows in ROWS}, costs.prediction(1)) for _ in range(given.rounds)]
    table = []
    for rows in ROWS:
        cost = statistics.median(steps[rows] / steps[1] for steps, _ in found)
        making = statistics.median(making / steps[1] for steps, making in found)
        speeds = {"ceiling": rows / cost, "ceiling with mtp": rows / (cost + (rows - 1) * making)}
        table.append({"sequences": sequences, "rows": rows, "cost": cost, **speeds})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--accept", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--weights", default="auto", help="auto, plain, fp32, fp16, bf16, int8 or int4")
    parser.add_argument("--prompt", type=int, default=64, help="tokens")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--checkpoint", type=Path, help="folder of a trained model with a layer for drafts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.set_flush_denormal(True)
    model = build(given.preset, given.weights, num_nextn_predict_layers=1, mtp_share_embeddings=True)
    table, ceilings = [], []
    for sequences in given.sequences:
        table += set_acceptance(model, given, sequences) + repetitive(model, given, sequences)
        table += trained(given.checkpoint, given, sequences) if given.checkpoint else []
        ceilings += ceiling(model, given, sequences)
    print_table(table)
    print()
    print_table(ceilings)
    settings = {name: str(value) for name, value in vars(given).items() if name not in ("output", "threads")}
    finish(given.output, given.threads, settings=settings, rows=table, ceilings=ceilings)


if __name__ == "__main__":
    main()
