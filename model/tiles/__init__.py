"""A step in tiles of ROWS tokens, so that a text gets the same bits alone and in any batch, on a CPU in float32.

Matrix libraries order sums by the shape of a product, and vector loops compute the last values of a tensor with other
instructions. Here every operation has one shape in every step, whatever is computed beside a token:

    projections, dense networks, norms, router, logits    ROWS rows; missing tokens are filled in
    attention                                             each query by itself, over the positions before it
    experts                                               EXPERT_ROWS rows of one expert; missing rows are filled in
    sums over the experts of a token                      in the order of its slots

That a row's place in a tile does not matter is a property of the libraries, and is checked for every model
(`model.tiles.check`). Bits are fixed for a build of torch, a processor, a number of threads and a form of the weights.

`model.batch_invariance` does the same for forward passes without pages, on any device and at a higher price.
"""

from longcat.model.tiles.check import check_places
from longcat.model.tiles.model import ROWS, TiledModel

__all__ = ["ROWS", "TiledModel", "check_places"]
