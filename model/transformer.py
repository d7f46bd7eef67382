"""The LongCat-Flash language model: embedding, shortcut-connected layers, final norm, output projection.

A configuration with `num_nextn_predict_layers = 1` has a multi-token-prediction layer beside them (`model.mtp`), which
takes no part in `forward` and `loss`.

Names: B batch, T tokens, D hidden, V vocabulary, L layers, E experts of both kinds.
"""

from typing import NamedTuple

import torch
from torch import nn

from longcat.kernels.linear import linear
from longcat.kernels.linear_cross_entropy import linear_cross_entropy
from longcat.model.cache import LatentCache
from longcat.model.config import ModelConfig
from longcat.model.embedding import TokenEmbedding
from longcat.model.errors import ModelError
from longcat.model.layer import build_layer
from longcat.model.linear import Linear
from longcat.model.moe import LayerRouting
from longcat.model.mtp import MTPOutput, MultiTokenPrediction, targets_after_next
from longcat.model.norm import RMSNorm
from longcat.model.rope import rope_angles, rope_angles_at
from longcat.model.router import Router


class TrunkOutput(NamedTuple):
    """hidden_BTD: the hidden states after the final norm, which logits and multi-token prediction are computed from.

    residual_BTD: those before it. routing: how every layer routed its tokens.
    """

    hidden_BTD: torch.Tensor
    residual_BTD: torch.Tensor
    routing: tuple[LayerRouting, ...]

    @property
    def expert_counts_LE(self) -> torch.Tensor:  # noqa: N802
        """int64, the slots that went to every expert of every layer."""
        return torch.stack([layer.counts_E for layer in self.routing])


class ModelOutput(NamedTuple):
    """logits: float32 [B, T, V]. The others are those of `TrunkOutput`."""

    logits: torch.Tensor
    hidden_BTD: torch.Tensor
    routing: tuple[LayerRouting, ...]

    @property
    def expert_counts_LE(self) -> torch.Tensor:  # noqa: N802
        """int64, the slots that went to every expert of every layer."""
        return torch.stack([layer.counts_E for layer in self.routing])


class Trunk(nn.Module):
    """Everything below the output projection; its name in a checkpoint is `model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(build_layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mtp = MultiTokenPrediction(config) if config.num_nextn_predict_layers else None


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
        logits_to_keep: int | None = None,
    ) -> ModelOutput:
        """Logits of the token after every position, or after each of the last `logits_to_keep`.

        `cu_seqlens` (int [documents + 1]) are the bounds of documents in the B * T flattened tokens, from 0 to B * T: a
        token sees those of its own document only. Rows never see each other. With `cache` the tokens follow what is
        cached, see all of it, and are cached themselves.

        Raises:
            ModelError: `cu_seqlens` together with `cache`, a cache under autograd, or one without room.
        """
        hidden_BTD, _, routing = self._hidden(input_ids_BT, cu_seqlens, cache=cache)
        first = 0 if logits_to_keep is None else max(0, hidden_BTD.shape[1] - logits_to_keep)
        return ModelOutput(self._logits(hidden_BTD[:, first:]), hidden_BTD, routing)

    def _hidden(
        self,
        input_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        positions_T: torch.Tensor | None = None,
        cache: LatentCache | None = None,
    ) -> TrunkOutput:
        start = 0 if cache is None else cache.length
        if cache is not None:
            self._check_cache(cache, input_ids_BT, cu_seqlens, start)
        angles_TP = self._angles(start, input_ids_BT) if positions_T is None else self.angles_at(positions_T)
        h_BTD = self.model.embed_tokens(input_ids_BT)
        routing: list[LayerRouting] = []
        for layer in self.model.layers:
            previous_TE = routing[-1].logits_TE if routing else None
            h_BTD, chosen = layer(h_BTD, angles_TP, cu_seqlens, cache, previous_TE)
            routing.append(chosen)
        if cache is not None:
            cache.advance(input_ids_BT.shape[1])
        return TrunkOutput(self.model.norm(h_BTD), h_BTD, tuple(routing))

    def mtp_forward(
        self,
        hidden_BTD: torch.Tensor,
        next_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        cache: LatentCache | None = None,
    ) -> MTPOutput:
        """Logits of the token after the next one at every position.

        `hidden_BTD` is `ModelOutput.hidden_BTD` (after the final norm), `next_ids_BT` the tokens that follow. With
        `cache` the positions follow the `cache.mtp_length` ones that this layer has seen, and are cached.

        Raises:
            ModelError: as `forward`, or a model without this layer.
        """
        h_BTD = self._mtp_hidden(hidden_BTD, next_ids_BT, cu_seqlens, cache=cache)
        return MTPOutput(self._logits(h_BTD), h_BTD)

    def _mtp_hidden(
        self,
        hidden_BTD: torch.Tensor,
        next_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        positions_T: torch.Tensor | None = None,
        cache: LatentCache | None = None,
    ) -> torch.Tensor:
        start = 0 if cache is None else cache.mtp_length
        if cache is not None:
            self._check_cache(cache, next_ids_BT, cu_seqlens, start)
        mtp = self._mtp()
        embed_tokens = mtp.embed_tokens or self.model.embed_tokens
        angles_TP = self._angles(start, next_ids_BT) if positions_T is None else self.angles_at(positions_T)
        h_BTD: torch.Tensor = mtp(embed_tokens(next_ids_BT), hidden_BTD, angles_TP, cu_seqlens, cache)
        if cache is not None:
            cache.advance_mtp(next_ids_BT.shape[1])
        return h_BTD

    def loss(
        self,
        input_ids_BT: torch.Tensor,
        targets_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        positions_T: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, TrunkOutput]:
        """(sum of the cross entropy in nats, float32; targets counted, int64; output). Targets of -100 are left out.

        The logits never exist all at once. `positions_T` are the places of the tokens in their rows where these are not
        0, 1, 2, ..., as in a part of a row.
        """
        output = self._hidden(input_ids_BT, cu_seqlens, positions_T)
        return *self.loss_of(output.hidden_BTD, targets_BT), output

    def mtp_loss(
        self,
        hidden_BTD: torch.Tensor,
        input_ids_BT: torch.Tensor,
        targets_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of the cross entropy of multi-token prediction in nats, float32; targets counted, int64).

        Takes what `loss` took and the hidden states of its output, so that one forward pass serves both; to train both,
        add this mean with a weight. A target counts where `targets_after_next` leaves it.
        """
        # The last position of a row gets the wrong next token, has no target, and is seen by no other position.
        next_ids_BT = input_ids_BT.roll(-1, dims=1)
        return self.mtp_loss_of(hidden_BTD, next_ids_BT, targets_after_next(targets_BT, cu_seqlens), cu_seqlens)

    def mtp_loss_of(
        self,
        hidden_BTD: torch.Tensor,
        next_ids_BT: torch.Tensor,
        next_targets_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        positions_T: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`mtp_loss` from the next tokens and the targets after them, for rows that cannot be shifted in themselves."""
        h_BTD = self._mtp_hidden(hidden_BTD, next_ids_BT, cu_seqlens, positions_T)
        return self.loss_of(h_BTD, next_targets_BT)

    def loss_of(self, hidden_BTD: torch.Tensor, targets_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first two results of `loss` from the hidden states after the final norm."""
        loss_sum, _, counted = linear_cross_entropy(hidden_BTD.flatten(0, 1), self.output_weight, targets_BT.flatten())
        return loss_sum, counted

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

    def angles_at(self, positions_T: torch.Tensor) -> torch.Tensor:
        """Rotary angles of the places `positions_T`, float64 [T, P]."""
        return rope_angles_at(positions_T, self.config.qk_rope_head_dim, self.config.rope_theta)

    def _angles(self, start: int, input_ids_BT: torch.Tensor) -> torch.Tensor:
        width = self.config.qk_rope_head_dim
        return rope_angles(start, input_ids_BT.shape[1], width, self.config.rope_theta, input_ids_BT.device)

    def _logits(self, h_BTD: torch.Tensor) -> torch.Tensor:
        logits_BTV = linear(h_BTD, self.output_weight)
        return logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))

    def _mtp(self) -> MultiTokenPrediction:
        if self.model.mtp is None:
            raise ModelError("the model has no multi-token prediction; it needs num_nextn_predict_layers = 1")
        return self.model.mtp

    def _check_cache(
        self, cache: LatentCache, input_ids_BT: torch.Tensor, cu_seqlens: torch.Tensor | None, length: int
    ) -> None:
        if cu_seqlens is not None:
            raise ModelError("a cache holds one text a row; give either cache or cu_seqlens")
        if torch.is_grad_enabled():
            raise ModelError("a cache keeps no gradients; call the model under torch.no_grad()")
        batch, tokens = input_ids_BT.shape
        cache.check_room(batch, tokens, length)
