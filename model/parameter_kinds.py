"""Parameter kinds for rules that scale with the width of the model.

    embedding     a table of vectors, of tokens or n-grams: no sum over the width
    hidden        a matrix that sums over a width: attention, dense networks, experts, latents, the join of multi-token
                  prediction, the projection of n-gram tables
    router        the classifier of a router, which sums over a width too
    unembedding   the output projection
    vector        norm gains, and matrices with both dimensions independent of the width

The names are those of a model's parameters or, expert by expert, of its published tensors. A tied embedding table
(`tie_word_embeddings`) has one name, and counts as embedding.
"""

import re
from typing import Literal, get_args

from longcat.model.config import ModelConfig
from longcat.model.mixers import slot_of_key

Kind = Literal["embedding", "hidden", "router", "unembedding", "vector"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The output of a constant expert is a lookup too, like a token's vector.
_TABLES = re.compile(
    r".*embed_tokens\.weight|.*\.zero_experts\.constant\.vectors"
    r"|model\.embed_tokens\.tables|model\.ngram_embeddings\.embedders\.\d+\.weight"
)


def parameter_kind(config: ModelConfig, name: str, dimensions: int) -> Kind:
    """Kind of the parameter `name` of a model, with its number of dimensions."""
    place = None if config.default_attention else slot_of_key(name, config.num_layers)
    if place is not None:
        slot, own_name = place
        own: Kind | None = config.mixer(slot).mixer.parameter_kind(own_name, dimensions)
        if own is not None:
            return own
    if dimensions < 2 or name.endswith(".router.residual.weight"):
        return "vector"
    if _TABLES.fullmatch(name):
        return "embedding"
    if name.endswith(".router.classifier.weight"):
        return "router"
    return "unembedding" if name.startswith("lm_head.") else "hidden"
