"""Shortcut-connected layer with PostNorm (Vaswani et al. 2017), the control of `model.layers.span`.

Norms, initial values and the place of the mixture are those of the spanned layer; only the residual of a feed-forward
network differs, out = norm(y + FFN(y)).

Names: B batch, T tokens, D hidden.
"""

import torch

from longcat.model.layers.span import SpanLayer


class PostNormLayer(SpanLayer):
    """Spanned layer, with the normed sum after an attention as the residual of the network that follows."""

    @staticmethod
    def residual(x_BTD: torch.Tensor, y_BTD: torch.Tensor) -> torch.Tensor:
        return y_BTD
