"""The LongCat-Flash language model: embedding, shortcut-connected layers, final norm, output projection.

Names: B batch, T tokens, D hidden, V vocabulary, L layers, E experts of both kinds.
"""

from typing import NamedTuple

import torch
from torch import nn

from kernels.cross_entropy import cross_entropy
from kernels.linear import linear
from model.cache import LatentCache
from model.config import ModelConfig
from model.embedding import TokenEmbedding
from model.errors import ModelError
from model.layer import ShortcutLayer
from model.linear import Linear
from model.norm import RMSNorm
from model.rope import rope_angles
from model.router import Router


class ModelOutput(NamedTuple):
    """logits: float32 [B, T, V]. expert_counts_LE: int64, the slots that went to every expert of every layer."""

    logits: torch.Tensor
    expert_counts_LE: torch.Tensor


class Trunk(nn.Module):
    """Everything below the output projection; its name in a checkpoint is `model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(ShortcutLayer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class LongcatFlash(nn.Module):
    """A LongCat-Flash model. A new one holds NaN: give it values by `model.init.initialize` or load a checkpoint."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        cache: LatentCache | None = None,
    ) -> ModelOutput:
        """Logits of the token after every position.

        `cu_seqlens` (int [documents + 1]) are the bounds of documents in the B * T flattened tokens, from 0 to B * T: a
        token sees those of its own document only. Rows never see each other. With `cache` the tokens follow what is
        cached, see all of it, and are cached themselves.

        Raises:
            ModelError: `cu_seqlens` together with `cache`, a cache under autograd, or one without room.
        """
        start = 0
        if cache is not None:
            self._check_cache(cache, input_ids_BT, cu_seqlens)
            start = cache.length
        tokens, width = input_ids_BT.shape[1], self.config.qk_rope_head_dim
        angles_TP = rope_angles(start, tokens, width, self.config.rope_theta, input_ids_BT.device)
        h_BTD = self.model.embed_tokens(input_ids_BT)
        counts = []
        for layer in self.model.layers:
            h_BTD, counts_E = layer(h_BTD, angles_TP, cu_seqlens, cache)
            counts.append(counts_E)
        if cache is not None:
            cache.advance(tokens)
        logits_BTV = linear(self.model.norm(h_BTD), self.output_weight)
        return ModelOutput(logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32)), torch.stack(counts))

    def loss(
        self, input_ids_BT: torch.Tensor, targets_BT: torch.Tensor, cu_seqlens: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, ModelOutput]:
        """(sum of the cross entropy in nats, float32; targets counted, int64; output). Targets of -100 are left out."""
        output = self(input_ids_BT, cu_seqlens)
        loss_sum, n_tokens = cross_entropy(output.logits.flatten(0, 1), targets_BT.flatten())
        return loss_sum, n_tokens, output

    @property
    def output_weight(self) -> torch.Tensor:
        """The output projection [V, D], which is the embedding table where the two are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def routers(self) -> list[Router]:
        """The router of every layer, in order."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def router_biases(self) -> list[torch.Tensor]:
        """The selection bias of every layer, float32 [E], to be updated in place; entries from N on stay zero."""
        return [router.e_score_correction_bias for router in self.routers()]

    def _check_cache(self, cache: LatentCache, input_ids_BT: torch.Tensor, cu_seqlens: torch.Tensor | None) -> None:
        if cu_seqlens is not None:
            raise ModelError("a cache holds one text a row; give either cache or cu_seqlens")
        if torch.is_grad_enabled():
            raise ModelError("a cache keeps no gradients; call the model under torch.no_grad()")
        cache.check_room(*input_ids_BT.shape)
