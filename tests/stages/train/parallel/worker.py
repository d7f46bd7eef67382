"""Processes of the parallelism tests: `worker.py FOLDER [CASES [PART OF A CASE'S NAME]]`.

For every case of the file CASES (cases.yaml), each process builds its part of a model and computes the gradients of one
step. The first process compares the gathered results with a plain model that sees the whole batch, and adds a line to
FOLDER/results.jsonl. All processes are forked from here, because importing torch takes longer than the cases.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from gathering import full_state, full_tensors
from torch.utils.checkpoint import checkpoint

from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import Embedding
from longcat.model.init import initialize as initialize_whole
from longcat.model.layers.base import LayerOutput
from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim.adamw import build_optimizer, set_learning_rate
from longcat.stages.train.parallel.all_to_all import Exchange
from longcat.stages.train.parallel.build import Distributed, build_model
from longcat.stages.train.parallel.config import ParallelOptions
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.norms import clip_factor, gradient_norm, scale_gradients
from longcat.stages.train.parallel.pipeline import Pipeline
from longcat.stages.train.parallel.reduce import sum_statistics
from longcat.stages.train.parallel.rows import Rows, local_rows
from longcat.stages.train.parallel.state import initialize, load_full_state, local_part

PROCESSES, SECONDS = 4, 3600
SEED, LENGTH, VOCABULARY, MTP_WEIGHT, CLIP = 5, 32, 67, 0.3, 1e-2
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 2,
    "ffn_hidden_size": 48,
    "expert_ffn_hidden_size": 16,
    "n_routed_experts": 8,
    "zero_expert_num": 4,
    "moe_topk": 3,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "initializer_range": 0.15,
}
LEARNING_RATE = 1e-2
Tensors = dict[str, torch.Tensor]
Batch = list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Case:
    """An entry of cases.yaml."""

    name: str
    world: int
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    accumulation: int = 1
    rows: int = 1
    length: int = LENGTH
    documents: bool = False
    bounds: tuple[int, ...] = ()
    recompute: bool = False
    preferred: tuple[int, ...] = ()
    again: bool = False
    step: bool = False
    look_back: int = 0
    dtype: str = "float32"
    muon: bool = False

    @property
    def config(self) -> ModelConfig:
        return ModelConfig(**{**TINY, "max_position_embeddings": self.length, **self.model})


@dataclass
class Step:
    """Results of a step besides the gradients, which are in the parameters."""

    loss: float
    counts: dict[int, torch.Tensor]


def batch_of(case: Case, micro_batches: int) -> Batch:
    """Ids, targets and document bounds of every micro batch of a step; later ones have fewer targets."""
    generator = torch.Generator().manual_seed(3)
    tokens = case.rows * case.length
    batch: Batch = []
    for number in range(micro_batches):
        ids = torch.randint(VOCABULARY, (case.rows, case.length + 1), generator=generator)
        left_out = torch.rand(case.rows, case.length, generator=generator) < 0.05 * (number + 1)
        # Documents that end within chunks and at their borders, one that spans two rows, one of a single token.
        bounds = torch.tensor(case.bounds or [0, 3, 8 + number % 3, 16, 21, tokens - 7, tokens - 6, tokens])
        batch.append((ids[:, :-1], ids[:, 1:].masked_fill(left_out, -100), bounds if case.documents else None))
    return batch


def spread(_layer: int, output: LayerOutput) -> torch.Tensor:
    """A routing loss; a sum over tokens, so that parts of a batch add up."""
    return output.routing.logits_TE.softmax(dim=-1).square().sum() * 1e-2


def objective(
    model: LongcatFlash,
    output: BackboneOutput,
    rows: Rows,
    counted: tuple[int, int],
    loss_sum: torch.Tensor | None = None,
    shift: bool = False,
) -> torch.Tensor:
    """`counted`: numbers of targets of the whole step, of the model and of multi-token prediction.

    With `shift` the model shifts the rows itself to get the next tokens.
    """
    if loss_sum is None:
        loss_sum, _ = model.loss_of(output.hidden_BTD, rows.targets_BT)
    if model.model.mtp is None:
        return loss_sum / counted[0]
    if shift:
        further, _ = model.mtp_loss(output.hidden_BTD, rows.ids_BT, rows.targets_BT, rows.cu_seqlens)
    else:
        further, _ = model.mtp_loss_of(
            output.hidden_BTD, rows.next_ids_BT, rows.next_targets_BT, rows.cu_seqlens, rows.positions_T
        )
    return loss_sum / counted[0] + MTP_WEIGHT * further / counted[1]


def plain_step(model: LongcatFlash, micro_batches: list[Rows], counted: tuple[int, int], shift: bool = False) -> Step:
    """A training step without a pipeline."""
    step = Step(0.0, {})
    for rows in micro_batches:
        loss_sum, _, output = model.loss(
            rows.ids_BT, rows.targets_BT, rows.cu_seqlens, rows.positions_T, rows.previous_ids_BTN
        )
        loss = objective(model, output, rows, counted, loss_sum, shift)
        (loss + sum(spread(layer, given) for layer, given in enumerate(output.layers))).backward()
        step.loss += loss.item()
        for layer, routing in enumerate(output.routing):
            step.counts[layer] = step.counts.get(layer, 0) + routing.counts_E
    return step


def look_back(embedding: torch.nn.Module, count: int) -> None:
    """Make the token embedding one that adds weighted vectors of the `count` ids before a token."""

    def forward(ids_BT: torch.Tensor, previous_BTN: torch.Tensor | None = None) -> torch.Tensor:
        assert previous_BTN is not None and previous_BTN.shape[-1] == count
        weights_N1 = torch.linspace(0.3, 0.9, count).unsqueeze(-1)
        vectors_BTND = embedding.weight[previous_BTN.clamp(min=0)] * (previous_BTN >= 0).unsqueeze(-1)
        return embedding.weight[ids_BT] + (vectors_BTND * weights_N1).sum(dim=2)

    embedding.look_back, embedding.forward = count, forward


def pipeline_step(
    case: Case, distributed: Distributed, micro_batches: list[Rows], counted: tuple[int, int]
) -> tuple[Step, float]:
    """A training step with a pipeline, followed by an evaluation of the objective."""
    shape = (case.rows, micro_batches[0].ids_BT.shape[1])
    pipeline = Pipeline(distributed, len(micro_batches), shape)
    goal = partial(objective, counted=counted)
    step = Step(float(sum(pipeline.step(micro_batches, goal, spread))), pipeline.counts())
    return step, float(sum(pipeline.evaluate(micro_batches, goal)))


def prefer(biases: list[torch.Tensor], experts: tuple[int, ...]) -> None:
    for bias in biases:
        bias[list(experts)] += 10.0


@cache
def join(options: str) -> Parallel:
    return Parallel.join(ParallelOptions(**json.loads(options)), torch.device("cpu"))


def build(case: Case, parallel: Parallel) -> Distributed:
    distributed = build_model(case.config, parallel, getattr(torch, case.dtype))
    initialize(distributed, SEED)
    prefer(distributed.router_biases(), case.preferred)
    for model in (model for model in distributed.models if case.look_back):
        if isinstance(model.model.embed_tokens, Embedding):
            look_back(model.model.embed_tokens, case.look_back)
    for layer in (layer for model in distributed.models for layer in model.model.layers if case.recompute):
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    return distributed


def distributed_step(
    case: Case, distributed: Distributed, batch: Batch, counted: tuple[int, int]
) -> tuple[Step, float | None]:
    parallel = distributed.parallel
    share = parallel.batch_share(len(batch) * case.rows, case.rows)
    place = {"context_rank": parallel.context_rank, "context_size": parallel.sizes.context}
    own = [
        local_rows(*part, **place, look_back=distributed.look_back)
        for part in batch[share.start // case.rows : share.stop // case.rows]
    ]
    if parallel.sizes.pipeline > 1:
        return pipeline_step(case, distributed, own, counted)
    return plain_step(distributed.model, own, counted), None


def watch_exchanges() -> tuple[list[int], Callable[[], None]]:
    """Record the rows of every exchange of a forward pass; also return a function that stops recording."""
    sent: list[int] = []
    original = Exchange.start

    def start(self: Exchange, x: torch.Tensor) -> torch.Tensor:
        sent.append(x.shape[0])
        return original(self, x)

    Exchange.start = start  # type: ignore[method-assign]
    return sent, lambda: setattr(Exchange, "start", original)


def run(case: Case) -> dict[str, Any]:
    """Results of a case; equal on all processes except for values known only to the first."""
    parallel = join(json.dumps(dict(case.options)))
    batch = batch_of(case, case.accumulation * parallel.sizes.data)
    rows = [local_rows(*micro_batch) for micro_batch in batch]
    counted = (
        sum(int((micro_batch.targets_BT != -100).sum()) for micro_batch in rows),
        sum(int((micro_batch.next_targets_BT != -100).sum()) for micro_batch in rows),
    )
    distributed = build(case, parallel)
    start = full_state(distributed) if case.step else {}
    sent, end = watch_exchanges()
    step, evaluated = distributed_step(case, distributed, batch, counted)
    end()
    held = sum(local_part(parameter)[0].numel() for parameter in parameters(distributed))
    figures = {"loss": step.loss, "sent": sum(sent), "evaluated": evaluated or 0.0, "held": held}
    counts_LE, sums = sum_statistics(parallel, case.config.num_layers, step.counts, figures)
    gradients = {name: gradient.clone() for name, gradient in full_tensors(distributed, of=gradient_of)}
    result = {"same_without_overlap": same_without_overlap(case, distributed, batch, counted)} if case.again else {}
    result["norm"] = gradient_norm(parameters(distributed), parallel)
    scale_gradients(parameters(distributed), clip_factor(result["norm"], CLIP))
    result["clipped_norm"] = gradient_norm(parameters(distributed), parallel)
    after = optimizer_step(case, distributed, rows, counted) if case.step else {}
    if parallel.is_first:
        result |= compare(case, rows, counted, sums, counts_LE, start, gradients, after)
    return result


def gradient_of(parameter: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def parameters(distributed: Distributed) -> list[torch.nn.Parameter]:
    return [parameter for _, parameter in distributed.named_parameters()]


def same_without_overlap(case: Case, distributed: Distributed, batch: Batch, counted: tuple[int, int]) -> bool:
    """Whether every process gets the same bits when no exchange overlaps with anything."""
    plain = build(case, join(json.dumps({**case.options, "overlap": False})))
    distributed_step(case, plain, batch, counted)
    pairs = zip(parameters(distributed), parameters(plain), strict=True)
    same = all(torch.equal(local_part(a.grad)[0], local_part(b.grad)[0]) for a, b in pairs)
    everywhere = torch.tensor(int(same))
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    return bool(everywhere)


def optimizer_step(case: Case, distributed: Distributed, rows: list[Rows], counted: tuple[int, int]) -> Tensors:
    """Evaluate, step, save and load; return the parameters after the step and after loading."""
    parallel = distributed.parallel
    if parallel.sizes.pipeline == 1:
        place = {"context_rank": parallel.context_rank, "context_size": parallel.sizes.context}
        ids, targets, _ = batch_of(case, 1)[0]
        own = local_rows(ids, targets, **place)
        with torch.no_grad():
            before = distributed.model.loss(own.ids_BT, own.targets_BT, None, own.positions_T)[0]
    update(case, distributed)
    after = full_state(distributed)
    if parallel.sizes.pipeline == 1:
        with torch.no_grad():
            moved = distributed.model.loss(own.ids_BT, own.targets_BT, None, own.positions_T)[0]
        after["moved"] = moved - before
    other = build_model(case.config, parallel)
    load_full_state(other, everywhere(case.config, after))
    return after | {f"loaded {name}": tensor for name, tensor in full_state(other).items()}


def update(case: Case, model: Distributed | LongcatFlash) -> None:
    """One step of the optimizer, with Muon of every head if the case says so."""
    options = {"kind": "muon", "muon": {"per_head": True}} if case.muon else {}
    optimizer = build_optimizer(model, OptimizerOptions(weight_decay=0.01, **options))
    set_learning_rate(optimizer, LEARNING_RATE)
    optimizer.step()


def everywhere(config: ModelConfig, tensors: Tensors) -> Tensors:
    """Tensors of the first process on all processes, like a checkpoint on a shared disk."""
    with torch.device("meta"):
        model = LongcatFlash(config)
    shared = {}
    for name, like in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        shared[name] = tensors.get(name, torch.empty(like.shape)).contiguous()
        dist.broadcast(shared[name], 0)
    return shared


def compare(
    case: Case,
    rows: list[Rows],
    counted: tuple[int, int],
    sums: dict[str, float],
    counts_LE: torch.Tensor,
    start: Tensors,
    gradients: Tensors,
    after: Tensors,
) -> dict[str, Any]:
    """Compare with the same step of one plain model."""
    model = LongcatFlash(case.config)
    initialize_whole(model, SEED)
    if case.look_back:  # the model itself finds the earlier ids of whole rows
        look_back(model.model.embed_tokens, case.look_back)
    prefer(model.router_biases(), case.preferred)
    same_start = same(start, model) if case.step else None
    step = plain_step(model, rows, counted, shift=True)
    expected = {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    counts = torch.stack(list(step.counts.values()))
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item()
    result = {
        "names": [sorted(gradients), sorted(expected)],
        "same_start": same_start,
        "errors": {name: relative(gradients[name], gradient) for name, gradient in expected.items()},
        "rotary_errors": {
            name: relative(gradients[name][case.config.kv_lora_rank :], gradient[case.config.kv_lora_rank :])
            for name, gradient in expected.items()
            if "kv_a_proj_with_mqa" in name
        },
        "zero_gradients": sorted(name for name, gradient in expected.items() if not gradient.any()),
        "expected": {"loss": step.loss, "norm": norm},
        "sums": sums,
        "same_counts": torch.equal(counts_LE, counts),
        "values": sum(parameter.numel() for parameter in model.parameters()),
        "expert_slots": int(counts[:, : case.config.n_routed_experts].sum()),
    }
    return result | (compare_step(case, model, after) if case.step else {})


def compare_step(case: Case, model: LongcatFlash, after: Tensors) -> dict[str, Any]:
    ids, targets, _ = batch_of(case, 1)[0]
    with torch.no_grad():
        before = model.loss(ids, targets)[0]
        update(case, model)
        moved = model.loss(ids, targets)[0] - before
    loaded = {name.removeprefix("loaded "): tensor for name, tensor in after.items() if name.startswith("loaded ")}
    return {
        "updates": {name: relative(after[name], p) for name, p in model.named_parameters()},
        "moved": [after["moved"].item() if "moved" in after else moved.item(), moved.item()],
        "same_loaded": all(torch.equal(after[name], tensor) for name, tensor in loaded.items()) and bool(loaded),
    }


def same(tensors: Tensors, model: LongcatFlash) -> bool:
    expected = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in tensors)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """RMS of the error, relative to that of the expected value unless it is zero."""
    error, scale = ((x.double().square().mean().sqrt()).item() for x in (found.double() - expected, expected))
    return error / scale if scale else error


def work(rank: int, folder: Path, cases_file: str, wanted: str) -> None:
    lines = yaml.safe_load((Path(__file__).parent / cases_file).read_text())
    cases = [case for case in (Case(**line) for line in lines) if wanted in case.name]
    for world in sorted({case.world for case in cases if rank < case.world}):
        store = dist.FileStore(str(folder / f"store-{world}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=SECONDS))
        for case in (case for case in cases if case.world == world):
            result = run(case)
            if rank == 0:
                with (folder / "results.jsonl").open("a") as file:
                    file.write(json.dumps({"name": case.name, **result}) + "\n")
        dist.destroy_process_group()
        join.cache_clear()


def main(folder: str, cases_file: str = "cases.yaml", wanted: str = "") -> int:
    """Return 0 if all processes succeeded; a failed one ends the others, which would wait for it."""
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(rank, Path(folder), cases_file, wanted)) for rank in range(PROCESSES)]
    for process in processes:
        process.start()
    running = {process.sentinel: process for process in processes}
    while running:
        for sentinel in wait(list(running)):
            process = running.pop(sentinel)  # type: ignore[call-overload]
            process.join()
            if process.exitcode:
                for other in running.values():
                    other.kill()
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
