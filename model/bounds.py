"""Size limits of an architecture, checked on plain numbers before anything is built from a file."""

from typing import Any, Protocol

MAX_WIDTH = 1 << 24  # maximum of any matrix dimension
MAX_LAYERS = 1 << 10
MAX_EXPERTS = 1 << 16
MAX_CONTEXT = 1 << 30  # tokens
MAX_MATRICES = 1 << 20  # experts in all layers: each has tensors on disk
MAX_PARAMETERS = 1 << 48
SHOWN_CHARACTERS = 80


class Sizes(Protocol):
    """The fields of `model.config.ModelConfig` that determine sizes."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def ffn_hidden_size(self) -> int: ...
    @property
    def expert_ffn_hidden_size(self) -> int: ...
    @property
    def n_routed_experts(self) -> int: ...
    @property
    def zero_expert_num(self) -> int: ...
    @property
    def q_lora_rank(self) -> int | None: ...
    @property
    def kv_lora_rank(self) -> int: ...
    @property
    def qk_nope_head_dim(self) -> int: ...
    @property
    def qk_rope_head_dim(self) -> int: ...
    @property
    def v_head_dim(self) -> int: ...
    @property
    def ngram_parameters(self) -> int: ...


def check_size(sizes: Sizes) -> None:
    """Raise ValueError if the sizes, each within its limit, together exceed the limits of a model."""
    matrices = sizes.num_layers * (3 * sizes.n_routed_experts + 2 * sizes.zero_expert_num)
    if matrices > MAX_MATRICES:
        raise ValueError(
            f"num_layers = {sizes.num_layers} times the matrices of n_routed_experts = {sizes.n_routed_experts} and "
            f"zero_expert_num = {sizes.zero_expert_num} are {matrices}, more than {MAX_MATRICES}"
        )
    parameters = parameters_of(sizes)
    if parameters > MAX_PARAMETERS:
        raise ValueError(f"the sizes make a model of {parameters:.1e} parameters, more than {MAX_PARAMETERS:.1e}")


def parameters_of(sizes: Sizes) -> int:
    """Approximate parameter count of a model, without norms, biases and multi-token prediction."""
    tables = 2 * sizes.vocab_size * sizes.hidden_size + sizes.ngram_parameters
    return sizes.num_layers * _parameters_of_layer(sizes) + tables


def _parameters_of_layer(sizes: Sizes) -> int:
    """Approximate parameter count, without norms and biases."""
    width, heads = sizes.hidden_size, sizes.num_attention_heads
    queries = heads * (sizes.qk_nope_head_dim + sizes.qk_rope_head_dim)
    attention = (
        width * (sizes.kv_lora_rank + sizes.qk_rope_head_dim)
        + (width * queries if sizes.q_lora_rank is None else sizes.q_lora_rank * (width + queries))
        + sizes.kv_lora_rank * heads * (sizes.qk_nope_head_dim + sizes.v_head_dim)
        + heads * sizes.v_head_dim * width
    )
    experts = sizes.n_routed_experts * 3 * width * sizes.expert_ffn_hidden_size
    router = width * (sizes.n_routed_experts + sizes.zero_expert_num)
    return 2 * attention + 2 * 3 * width * sizes.ffn_hidden_size + experts + router


def least_tensors(sizes: Sizes) -> int:
    """Lower bound on the number of tensors in a checkpoint of these sizes."""
    return sizes.num_layers * (3 * sizes.n_routed_experts + 10)


def shown(value: Any) -> str:
    """Format a value from a file for an error message: one line, truncated."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
