"""One process of the tests of parallelism: runs the cases of its world and writes what it measured.

Every case builds a model for this process, takes the gradients of one step, and compares what the processes hold with
one plain model that sees the whole batch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

from model.config import ModelConfig
from model.init import initialize as initialize_whole
from model.moe import LayerRouting
from model.transformer import LongcatFlash, TrunkOutput
from stages.train.parallel.all_to_all import Exchange
from stages.train.parallel.build import Distributed, build_model
from stages.train.parallel.config import ParallelOptions
from stages.train.parallel.mesh import Parallel
from stages.train.parallel.norms import by_mesh, clip_gradients
from stages.train.parallel.pipeline import Pipeline
from stages.train.parallel.reduce import sum_statistics
from stages.train.parallel.rows import Rows, local_rows
from stages.train.parallel.state import full_state, full_tensors, initialize, load_full_state

SEED, LENGTH, VOCABULARY, MTP_WEIGHT = 5, 32, 67, 0.3
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
    "max_position_embeddings": LENGTH,
    "initializer_range": 0.15,
}


@dataclass(frozen=True)
class Case:
    """`accumulation` micro batches a data group, of `rows` rows each."""

    name: str
    world: int
    options: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    accumulation: int = 1
    rows: int = 1
    documents: bool = False
    recompute: bool = False
    # Added to the selection biases: every token goes to these experts.
    favoured: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32


MTP = {"num_nextn_predict_layers": 1}
DEEP = {"num_layers": 4}
INTERLEAVED = {"pipeline": 2, "pipeline_schedule": "interleaved"}
CASES = [
    Case("one process in groups of one", 1, {"expert": 1}, accumulation=4),
    Case("fsdp", 2),
    Case("fsdp, accumulation", 2, model=MTP, accumulation=4, documents=True),
    Case("fsdp, shared embeddings", 2, model={**MTP, "tie_word_embeddings": True, "mtp_share_embeddings": True}),
    Case("fsdp, gating residual", 2, model={"gating_residual": True}),
    Case("fsdp, bfloat16", 2, dtype=torch.bfloat16),
    Case("replicas", 2, {"data_replicate": 2}),
    Case("replicas, accumulation", 2, {"data_replicate": 2}, accumulation=4),
    Case("expert", 2, {"expert": 2}),
    Case("expert, accumulation", 2, {"expert": 2}, model=MTP, accumulation=4, documents=True),
    Case("expert, interleaved layers", 2, {"expert": 2}, model={"moe_layout": "interleaved"}),
    Case("expert, recompute", 2, {"expert": 2}, recompute=True, accumulation=4),
    Case("expert, one process gets all", 2, {"expert": 2}, favoured=(1, 2, 3)),
    Case("expert, zero experts alone", 2, {"expert": 2}, favoured=(8, 9, 11)),
    Case("expert, constant experts", 2, {"expert": 2}, model={"zero_expert_type": "constant"}),
    Case("context", 2, {"context": 2}, rows=2),
    Case("context, accumulation", 2, {"context": 2}, model=MTP, accumulation=4, documents=True, rows=2),
    Case("context, expert", 2, {"context": 2, "expert": 2}, model=MTP, documents=True, rows=2),
    Case("pipeline 1f1b", 2, {"pipeline": 2}, model=MTP, accumulation=4, documents=True),
    Case("pipeline gpipe", 2, {"pipeline": 2, "pipeline_schedule": "gpipe"}, accumulation=4),
    Case("pipeline interleaved", 2, INTERLEAVED, model=DEEP, accumulation=4, rows=2),
    Case("fsdp of four", 4),
    Case("replicated shards", 4, {"data_replicate": 2}, model=MTP, accumulation=4),
    Case("expert of four", 4, {"expert": 4}),
    Case("fsdp, expert", 4, {"expert": 2}),
    Case("fsdp, expert, accumulation", 4, {"expert": 2}, model=MTP, accumulation=4),
    Case("replicas, expert", 4, {"expert": 2, "data_replicate": 2}),
    Case("context of four", 4, {"context": 4}, model=MTP, documents=True, rows=2),
    Case("fsdp, context, expert", 4, {"context": 2, "expert": 4}, accumulation=4),
    Case("fsdp, context, half the experts", 4, {"context": 2, "expert": 2}),
    Case("pipeline, fsdp", 4, {"pipeline": 2}, accumulation=4),
    Case("pipeline, expert, context", 4, {"pipeline": 2, "context": 2, "expert": 2}, model=MTP, accumulation=2, rows=2),
    Case("pipeline of four", 4, {"pipeline": 4}, model=DEEP, accumulation=4),
    Case("pipeline interleaved, fsdp", 4, INTERLEAVED, model=DEEP, accumulation=4),
]


def batch_of(case: Case, count: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Ids, targets and bounds of documents of the `count` micro batches of a step; some targets are left out."""
    generator = torch.Generator().manual_seed(3)
    micro_batches = []
    for number in range(count):
        ids = torch.randint(VOCABULARY, (case.rows, LENGTH + 1), generator=generator)
        targets = ids[:, 1:].masked_fill(torch.rand(case.rows, LENGTH, generator=generator) < 0.1 * (number + 1), -100)
        tokens = case.rows * LENGTH
        # Documents that end inside chunks, on borders of chunks, and one that reaches into the next row.
        bounds = [0, 3, 8 + number, 16, 21, tokens - 7, tokens - 6, tokens]
        micro_batches.append((ids[:, :-1], targets, torch.tensor(bounds) if case.documents else None))
    return micro_batches


def spread(routing: LayerRouting) -> torch.Tensor:
    """A loss of how a layer routed; a sum over tokens, so that the parts of a batch add up."""
    return routing.logits_TE.softmax(dim=-1).square().sum() * 1e-2


def objective(
    model: LongcatFlash, output: TrunkOutput, rows: Rows, counted: int, mtp_counted: int
) -> torch.Tensor:
    loss = model.loss_of(output.hidden_BTD, rows.targets_BT)[0] / counted
    if model.model.mtp is None:
        return loss
    further = model.mtp_loss_of(
        output.hidden_BTD, rows.next_ids_BT, rows.next_targets_BT, rows.cu_seqlens, rows.positions_T
    )
    return loss + MTP_WEIGHT * further[0] / mtp_counted


Steps = tuple[float, dict[int, torch.Tensor]]


def whole_step(model: LongcatFlash, micro_batches: list[Rows], goal: Callable[..., torch.Tensor]) -> Steps:
    """Add up the gradients of a step without a pipeline; returns its objective and the slots of every expert."""
    total, counts = 0.0, {}
    for rows in micro_batches:
        loss_sum, _, output = model.loss(rows.ids_BT, rows.targets_BT, rows.cu_seqlens, rows.positions_T)
        # `loss` has what the objective computes anew, which must not stay without a gradient.
        loss = goal(model, output, rows, loss_sum) + sum(spread(layer) for layer in output.routing)
        loss.backward()
        total += loss.item()
        for layer, routing in enumerate(output.routing):
            counts[layer] = counts.get(layer, 0) + routing.counts_E
    return total, counts


def goal_of(counted: int, mtp_counted: int) -> Callable[..., torch.Tensor]:
    def goal(model: LongcatFlash, output: TrunkOutput, rows: Rows, loss_sum: torch.Tensor) -> torch.Tensor:
        if model.model.mtp is None:
            return loss_sum / counted
        further, _ = model.mtp_loss_of(
            output.hidden_BTD, rows.next_ids_BT, rows.next_targets_BT, rows.cu_seqlens, rows.positions_T
        )
        return loss_sum / counted + MTP_WEIGHT * further / mtp_counted

    return goal


def favour(biases: list[torch.Tensor], experts: tuple[int, ...]) -> None:
    for bias in biases:
        bias[list(experts)] += 10.0


def recompute_layers(model: LongcatFlash) -> None:
    for layer in model.model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


@dataclass
class Traffic:
    """Rows of every exchange that went out with gradients still to come, so forward ones, to experts and home."""

    rows: int = 0
    sent: list[int] = field(default_factory=list)


def watch(traffic: Traffic) -> Callable[[], None]:
    """Count the rows of all exchanges; returns what ends it."""
    original = Exchange.start

    def start(self: Exchange, x: torch.Tensor) -> torch.Tensor:
        traffic.sent.append(x.shape[0])
        return original(self, x)

    Exchange.start = start  # type: ignore[method-assign]
    return lambda: setattr(Exchange, "start", original)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    scale = expected.double().square().mean().sqrt().item()
    error = (found.double() - expected.double()).square().mean().sqrt().item()
    return error / scale if scale else error


def micro_batches_of(case: Case, parallel: Parallel, whole: list[Any]) -> list[Rows]:
    share = parallel.batch_share(len(whole) * case.rows, case.rows)
    own = whole[share.start // case.rows : share.stop // case.rows]
    place = {"context_rank": parallel.context_rank, "context_size": parallel.sizes.context}
    return [local_rows(ids, targets, bounds, **place) for ids, targets, bounds in own]


def distributed_step(case: Case, distributed: Distributed, own: list[Rows], counted: tuple[int, int]) -> Steps:
    if distributed.parallel.sizes.pipeline == 1:
        return whole_step(distributed.model, own, goal_of(*counted))
    pipeline = Pipeline(distributed, len(own), tuple(own[0].ids_BT.shape))
    losses = pipeline.step(own, partial(objective, counted=counted[0], mtp_counted=counted[1]), spread)
    return float(sum(losses)), pipeline.counts()


def run(case: Case) -> dict[str, Any]:
    """What a case measured, on the first process; the others compute with it."""
    torch.manual_seed(0)
    config = ModelConfig(**{**TINY, **case.model})
    parallel = Parallel.join(ParallelOptions(**case.options), torch.device("cpu"))
    whole = batch_of(case, case.accumulation * parallel.sizes.data)
    rows = [local_rows(*micro_batch) for micro_batch in whole]
    counted = tuple(int(sum((part != -100).sum() for part in parts)) for parts in
                    ([r.targets_BT for r in rows], [r.next_targets_BT for r in rows]))

    distributed = build_model(config, parallel, case.dtype)
    initialize(distributed, SEED)
    favour(distributed.router_biases(), case.favoured)
    if case.recompute:
        recompute_layers(distributed.model)
    own = micro_batches_of(case, parallel, whole)
    traffic = Traffic()
    stop = watch(traffic)
    total, counts = distributed_step(case, distributed, own, counted)
    stop()
    counts_LE, sums = sum_statistics(
        parallel, config.num_layers, counts, {"loss": total, "sent": float(sum(traffic.sent))}
    )
    gradients = {name: gradient.clone() for name, gradient in full_tensors(distributed, gradients=True)}
    state = full_state(distributed)
    norm = clip_gradients((p for _, p in distributed.named_parameters()), parallel, 1e-3)
    clipped = clip_gradients((p for _, p in distributed.named_parameters()), parallel, 1.0)
    groups = [{"params": group} for group in by_mesh(p for _, p in distributed.named_parameters())]
    torch.optim.AdamW(groups, lr=1e-2, eps=1e-16, fused=True).step()
    after = full_state(distributed)
    load_full_state(distributed, broadcast_state(config, after))
    loaded = full_state(distributed)
    if not parallel.is_first:
        return {}
    return judge(
        case, config, rows, counted, sums, counts_LE, gradients, state, norm, clipped, after, loaded
    )


def broadcast_state(config: ModelConfig, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The first process's tensors on all; a checkpoint on a shared disk would be read by each."""
    with torch.device("meta"):
        model = LongcatFlash(config)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shared = {}
    for name, like in named.items():
        shared[name] = tensors.get(name, torch.empty(like.shape)).contiguous()
        dist.broadcast(shared[name], 0)
    return shared


def judge(case, config, rows, counted, sums, counts_LE, gradients, state, norm, clipped, after, loaded):
    model = LongcatFlash(config)
    initialize_whole(model, SEED)
    favour(model.router_biases(), case.favoured)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    same_start = state.keys() == tensors.keys() and all(torch.equal(state[name], tensors[name]) for name in tensors)
    total, counts = whole_step(model, rows, goal_of(*counted))
    expected = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    errors = {name: relative(gradients[name], gradient) for name, gradient in expected.items()}
    rotary = {
        name: relative(gradients[name][config.kv_lora_rank :], expected[name][config.kv_lora_rank :])
        for name in expected if "kv_a_proj_with_mqa" in name
    }
    whole_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3).item()
    torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-16, fused=True).step()
    counts_whole = torch.stack([counts[layer] for layer in range(config.num_layers)])
    return {
        "same_names": set(gradients) == set(expected),
        "same_start": same_start,
        "worst_gradient": max(errors.items(), key=lambda item: item[1]),
        "worst_rotary": max(rotary.items(), key=lambda item: item[1]),
        "nonzero": sorted(name for name, gradient in expected.items() if gradient.any()),
        "loss": [sums["loss"], total],
        "norm": [norm, whole_norm],
        "clipped_norm": clipped,
        "counts_equal": torch.equal(counts_LE, counts_whole),
        "sent": sums["sent"],
        "expert_slots": int(counts_whole[:, : config.n_routed_experts].sum()),
        "worst_update": max(relative(after[name], p) for name, p in model.named_parameters()),
        "loads": loaded.keys() == after.keys() and all(torch.equal(loaded[name], after[name]) for name in after),
    }


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    chosen = sys.argv[3] if len(sys.argv) > 3 else ""
    torch.set_num_threads(1)
    for world in (1, 2, 4):
        if rank >= world:
            continue
        store = dist.FileStore(str(folder / f"store-{world}"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
        for case in CASES:
            if case.world == world and chosen in case.name:
                result = run(case)
                if rank == 0:
                    with (folder / "results.jsonl").open("a") as file:
                        file.write(json.dumps({"name": case.name, **result}) + "\n")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
