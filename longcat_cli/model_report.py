"""Printing of the model description."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from longcat.cli.console import out, size
from longcat.cli.tables import table
from longcat.cli.terminal import line, styled

if TYPE_CHECKING:
    from longcat.model.accounting import Accounting
    from longcat.model.config import ModelConfig

Row = Sequence[str | Text]

PART_NAMES = {
    "embedding": "embedding",
    "ngram": "n-gram embedding",
    "output": "output projection",
    "attention": "attention",
    "dense_ffn": "dense feed-forward",
    "experts": "experts",
    "router": "routers",
    "norms": "norms",
    "indexer": "indexers of sparse attention",
    "other": "other",
}


def print_presets(found: Iterable[tuple[str, str, Accounting]]) -> None:
    """Print every preset with its size and purpose."""
    rows = table("preset", ">total", ">active", "~description")
    for name, description, sizes in found:
        first_sentence = description.partition(". ")[0].removesuffix(".")
        rows.add_row(name, number(sizes.total), number(sizes.activated_mean), first_sentence)
    out().print(rows)


def print_accounting(name: str, description: str, config: ModelConfig, sizes: Accounting) -> None:
    """Print the description of one model."""
    console = out()
    console.print(line(styled(name, "bold"), f"  {_shape(config)}"))
    if description:
        console.print(description)
    if (reason := config.unrunnable()) is not None:
        console.print(f"{reason}. FLOPs and cache are those of dense attention.")
    for columns, rows in (
        (("parameters", ">count", ">share", ">exactly"), _parameter_rows(sizes)),
        (("active per token", ">parameters", ""), _activation_rows(config, sizes)),
        ((f"FLOPs per token, context {sizes.context:,}", ">FLOPs", "~"), _flop_rows(sizes)),
        (("cache, bfloat16", ">a token", f">{sizes.context:,} tokens", "~"), _cache_rows(sizes)),
        (("memory", ">size", "~"), _memory_rows(sizes)),
    ):
        made = table(*columns)
        for row in rows:
            made.add_row(line("  ", row[0]), *row[1:])
        console.print()
        console.print(made)


def _shape(config: ModelConfig) -> str:
    zero = f" + {config.zero_expert_num} zero-computation" if config.zero_expert_num else ""
    layers = f"{config.num_layers} layer{'s' * (config.num_layers > 1)} of width {config.hidden_size:,}"
    experts = f"{config.n_routed_experts}{zero} experts, {config.moe_topk} a token"
    return f"{layers}, {experts}, vocabulary {config.vocab_size:,}, context {config.max_position_embeddings:,}"


def _parameter_rows(sizes: Accounting) -> Iterable[Row]:
    for part, label in PART_NAMES.items():
        if value := sizes.parameters[part]:
            yield label, number(value), f"{100 * value / sizes.total:.2f} %", f"{value:,}"
    # As published, in billions also beyond a trillion.
    total = f"{sizes.total / 1e9:,.3f} B" if sizes.total >= 10**12 else number(sizes.total, 3)
    yield styled("total", "bold"), styled(total, "bold"), "", f"{sizes.total:,}"
    if mtp := sizes.parameters["mtp"]:
        yield "multi-token prediction, apart", number(mtp), "", f"{mtp:,}"


def _activation_rows(config: ModelConfig, sizes: Accounting) -> Iterable[Row]:
    chosen, zero = config.moe_topk, min(config.moe_topk, config.zero_expert_num)
    yield "least", number(sizes.activated_min), f"{chosen - zero} of {chosen} selected experts are feed-forward experts"
    yield "mean", number(sizes.activated_mean), f"{sizes.mean_ffn_experts:.3g} of {chosen}"
    if sizes.activated_reported != sizes.activated_mean:
        aim = f"{2 * chosen / 3:.3g} of {chosen}, what published models are trained to"
        yield "two thirds", number(sizes.activated_reported), aim
    yield "most", number(sizes.activated_max), f"{min(chosen, config.n_routed_experts)} of {chosen}"


def _flop_rows(sizes: Accounting) -> Iterable[Row]:
    yield "training", flops(sizes.flops_per_token_train), "forward and backward, causal attention over the context"
    if sizes.mtp_flops_per_token_train:
        yield "multi-token prediction", flops(sizes.mtp_flops_per_token_train), "in addition to training"
    yield "prefill", flops(sizes.flops_per_token_prefill), "the forward pass of training"
    yield "decode", flops(sizes.flops_per_token_decode), "one token after a full context, computed on the latents"


def _cache_rows(sizes: Accounting) -> Iterable[Row]:
    latent, expanded = sizes.kv_bytes_per_token, sizes.expanded_kv_bytes_per_token
    yield "latents", f"{latent:,} B", size(latent * sizes.context), "cached"
    of_heads = f"keys and values of every head, {expanded / latent:.1f} times the size"
    yield "expanded", f"{expanded:,} B", size(expanded * sizes.context), of_heads


def _memory_rows(sizes: Accounting) -> Iterable[Row]:
    memory = sizes.memory
    yield "weights, float32", size(memory.weights_fp32)
    yield "weights, bfloat16", size(memory.weights_bf16), "routers float32"
    yield "weights, fp8", size(memory.weights_fp8), "matrices of attention, feed-forward, experts, in 128 x 128 blocks"
    yield "AdamW", size(memory.optimizer), "two moments, float32"
    yield "training, float32", size(memory.training_fp32), "weights, gradients, moments"
    yield "training, bfloat16", size(memory.training_bf16), "weights, gradients; float32 master weights, moments"


def number(value: float, decimals: int = 2, units: str = "kMBT") -> str:
    """Format a count: `27.15 B`."""
    for power, unit in zip((12, 9, 6, 3), reversed(units), strict=True):
        if value >= 10**power:
            return f"{value / 10**power:.{decimals}f} {unit}"
    return f"{value:.0f}"


def flops(value: float) -> str:
    """Format FLOPs: `191.08 G`."""
    return number(value, units="kMGT")
