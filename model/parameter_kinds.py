"""What a parameter is to the rules that scale it with the width of the model.

    embedding     a table of vectors of the width: nothing is summed over the width
    hidden        a matrix that sums over a width: attention, dense networks, experts, routers, latents, the join of
                  multi-token prediction
    unembedding   the output projection
    vector        gains of norms, and matrices whose both sides do not depend on the width

The names are those of a model's parameters or, expert by expert, of its published tensors. An embedding table that is
the output projection as well (`tie_word_embeddings`) has one name, and counts as embedding.
"""

from typing import Literal, get_args

Kind = Literal["embedding", "hidden", "unembedding", "vector"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def parameter_kind(name: str, dimensions: int) -> Kind:
    """The kind of the parameter `name`, which has so many dimensions."""
    if dimensions < 2 or name.endswith(".router.residual.weight"):
        return "vector"
    # What a constant expert returns is looked up like the vector of a token.
    if name.endswith(("embed_tokens.weight", ".zero_experts.constant.vectors")):
        return "embedding"
    return "unembedding" if name.startswith("lm_head.") else "hidden"
