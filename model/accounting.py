"""How large a model is and what it costs, from its configuration alone."""

from dataclasses import dataclass

from model.config import ModelConfig

CACHE_BYTES_PER_VALUE = 2  # bfloat16
TRAINING_PASSES = 3  # forward, gradient of inputs, gradient of weights
PRETRAINING_LENGTH = 8192  # tokens, the published length of sequences


@dataclass(frozen=True)
class Accounting:
    """Parameters, and costs a token.

    `activated_*` count the parameters that one token uses, with one matrix of vocabulary size (the output projection)
    and not the embedding table: at least (all selected experts are zero-computation ones), at most (none is), and on
    average when FFN experts are selected as often as they are numerous. `flops_per_token_train` is forward and backward
    on that average with causal attention over `sequence_length` tokens. `kv_bytes_per_token` is the cache in bfloat16.
    """

    total: int
    embedding: int
    attention: int
    dense_ffn: int
    experts: int
    router: int
    norms: int
    activated_min: int
    activated_mean: int
    activated_max: int
    mean_ffn_experts: float
    sequence_length: int
    flops_per_token_train: int
    kv_bytes_per_token: int


def count(config: ModelConfig, sequence_length: int | None = None) -> Accounting:
    """Account for a model; `sequence_length` in tokens is 8,192 by default, or the context length if that is less."""
    length = sequence_length or min(PRETRAINING_LENGTH, config.max_position_embeddings)
    layers, width = config.num_layers, config.hidden_size
    expert = 3 * width * config.expert_ffn_hidden_size
    table = config.vocab_size * width
    attention = 2 * layers * _attention_matrices(config)
    dense_ffn = 2 * layers * 3 * width * config.ffn_hidden_size
    experts = layers * config.n_routed_experts * expert
    router = layers * config.num_experts * width
    norms = layers * (4 * width + 2 * (config.q_lora_rank + config.kv_lora_rank)) + width
    mean_ffn_experts = config.moe_topk * config.n_routed_experts / config.num_experts
    activated_min = attention + dense_ffn + router + norms + table
    activated_mean = activated_min + round(layers * mean_ffn_experts * expert)
    most_ffn_experts = min(config.moe_topk, config.n_routed_experts)
    return Accounting(
        total=attention + dense_ffn + experts + router + norms + table * (1 if config.tie_word_embeddings else 2),
        embedding=table,
        attention=attention,
        dense_ffn=dense_ffn,
        experts=experts,
        router=router,
        norms=norms,
        activated_min=activated_min,
        activated_mean=activated_mean,
        activated_max=activated_min + layers * most_ffn_experts * expert,
        mean_ffn_experts=mean_ffn_experts,
        sequence_length=length,
        flops_per_token_train=TRAINING_PASSES * (2 * (activated_mean - norms) + _score_flops(config, length)),
        kv_bytes_per_token=2 * layers * (config.kv_lora_rank + config.qk_rope_head_dim) * CACHE_BYTES_PER_VALUE,
    )


def _attention_matrices(config: ModelConfig) -> int:
    heads, width = config.num_attention_heads, config.hidden_size
    queries = config.q_lora_rank * (width + heads * config.qk_head_dim)
    latents = width * (config.kv_lora_rank + config.qk_rope_head_dim)
    expansion = config.kv_lora_rank * heads * (config.qk_nope_head_dim + config.v_head_dim)
    return queries + latents + expansion + heads * config.v_head_dim * width


def _score_flops(config: ModelConfig, length: int) -> int:
    """Scores and mixing of values in the forward pass, a token: it sees (length + 1) / 2 positions on average."""
    per_position = 2 * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    return config.num_layers * per_position * (length + 1)
