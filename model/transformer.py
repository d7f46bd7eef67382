"""The LongCat-Flash language model: embedding, shortcut-connected layers, final norm, output projection.

A configuration with `num_nextn_predict_layers = 1` has a multi-token-prediction layer beside them (`model.mtp`), which
is not used in `forward` and `loss`.

Names: B batch, T tokens, D hidden, V vocabulary, L layers, E experts of both kinds.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from longcat.kernels.linear import linear
from longcat.kernels.linear_cross_entropy import linear_cross_entropy
from longcat.kernels.mla_attention import document_bounds
from longcat.model.attention.base import MixerOutput, SequenceContext, SequenceMixer, rotary_widths
from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.attention.pages import PerPosition, StateKind
from longcat.model.config import ModelConfig
from longcat.model.embeddings.base import Embedding, previous_ids
from longcat.model.embeddings.build import build_embedding
from longcat.model.errors import ModelConfigError, ModelError
from longcat.model.layers.base import LayerOutput, run_layers
from longcat.model.layers.build import build_layer, layer_class
from longcat.model.linear import Linear
from longcat.model.moe.mixture import LayerRouting
from longcat.model.moe.router import Router
from longcat.model.mtp import MTPOutput, MultiTokenPrediction, targets_after_next
from longcat.model.norm import RMSNorm
from longcat.model.paged_cache import PagedCache
from longcat.model.step import StepBatch, StepOutput


class BackboneOutput(NamedTuple):
    """hidden_BTD: hidden states after the final norm, the input of logits and multi-token prediction.

    residual_BTD: hidden states before the final norm. layers: output of every layer.
    """

    hidden_BTD: torch.Tensor
    residual_BTD: torch.Tensor
    layers: tuple[LayerOutput, ...]

    @property
    def routing(self) -> tuple[LayerRouting, ...]:
        """Routing of every layer."""
        return tuple(layer.routing for layer in self.layers)

    @property
    def expert_counts_LE(self) -> torch.Tensor:  # noqa: N802
        """int64 [L, E], number of slots per layer and expert."""
        return torch.stack([layer.counts_E for layer in self.routing])


class ModelOutput(NamedTuple):
    """logits: float32 [B, T, V]. The other fields are as in `BackboneOutput`."""

    logits: torch.Tensor
    hidden_BTD: torch.Tensor
    routing: tuple[LayerRouting, ...]

    @property
    def expert_counts_LE(self) -> torch.Tensor:  # noqa: N802
        """int64 [L, E], number of slots per layer and expert."""
        return torch.stack([layer.counts_E for layer in self.routing])


class Backbone(nn.Module):
    """The model without its output projection; its name in a checkpoint is `model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = build_embedding(config)
        self.layers = nn.ModuleList(build_layer(config, index) for index in range(config.num_layers))
        self.norm: nn.Module = (
            RMSNorm(config.hidden_size, config.rms_norm_eps) if layer_class(config).final_norm else nn.Identity()
        )
        self.mtp = MultiTokenPrediction(config) if config.num_nextn_predict_layers else None


class LongcatFlash(nn.Module):
    """LongCat-Flash model. Parameters start as NaN: use `model.init.initialize` or load a checkpoint.

    Raises:
        ModelConfigError: the configuration has parts that are kept and cannot be run.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if (reason := config.unrunnable()) is not None:
            raise ModelConfigError(reason)
        self.config = config
        self.model = Backbone(config)
        self._rotary_widths = rotary_widths(self.modules())
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        logits_to_keep: int | None = None,
    ) -> ModelOutput:
        """Logits of the token after every position, or after each of the last `logits_to_keep`.

        `cu_seqlens` (int [documents + 1]) are the bounds of documents in the B * T flattened tokens, from 0 to B * T: a
        token attends only to its own document. Rows are independent. To generate, see `step`.
        """
        output = self._hidden(input_ids_BT, cu_seqlens)
        first = 0 if logits_to_keep is None else max(0, output.hidden_BTD.shape[1] - logits_to_keep)
        return ModelOutput(self._logits(output.hidden_BTD[:, first:]), output.hidden_BTD, output.routing)

    def _hidden(
        self,
        input_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        positions_T: torch.Tensor | None = None,
        previous_ids_BTN: torch.Tensor | None = None,
        budgets_B: torch.Tensor | None = None,
    ) -> BackboneOutput:
        where = self.context(input_ids_BT, cu_seqlens, positions_T, budgets_B)
        h_BTD = self.embed(input_ids_BT, cu_seqlens, positions_T, previous_ids_BTN)
        layers = run_layers(self.model.layers, h_BTD, where)
        h_BTD = layers[-1].hidden_BTD
        return BackboneOutput(self.model.norm(h_BTD), h_BTD, tuple(layers))

    def context(
        self,
        input_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        positions_T: torch.Tensor | None = None,
        budgets_B: torch.Tensor | None = None,
    ) -> SequenceContext:
        """Sequence context of these tokens; `positions_T` are 0, 1, ... unless given."""
        documents, (batch, tokens) = None, input_ids_BT.shape
        if positions_T is None:
            if cu_seqlens is not None:
                documents = document_bounds(cu_seqlens, batch, tokens, input_ids_BT.device)
            positions_T = torch.arange(tokens, device=input_ids_BT.device)
        fields = {"cu_seqlens": cu_seqlens, "documents": documents, "budgets_B": budgets_B}
        return self._context_at(positions_T, **fields)

    def _context_at(self, positions_T: torch.Tensor, **fields: Any) -> SequenceContext:
        rope = self.config.rope_theta, self.config.rope_scaling
        return SequenceContext.at(positions_T, self._rotary_widths, *rope, **fields)

    def new_pages(
        self, pages: int, page_size: int = 16, slots: int = 0, offload: OffloadOptions | None = None
    ) -> PagedCache:
        """Memory for steps: `pages` pages of `page_size` positions, in the dtype and on the device of the embedding.

        `slots`: number of states per sequence, for attention kinds that keep one; kept copies count too. `offload`:
        attention slots that support it keep their positions in a slow tier, the others theirs as always.

        Raises:
            ModelError: an attention kind cannot take steps, needs slots, no kind can be offloaded, or a number is out
                of range.
        """
        mixers = [self._mixers(module) for module in (self.model.layers, self.model.mtp)]
        kinds = [[mixer.state_kind() for mixer in some] for some in mixers]
        if offload is not None:
            kinds = [[_offloaded(mixer) for mixer in some] for some in mixers]
            if not any(mixer.offloads for some in mixers for mixer in some):
                names = ", ".join(sorted({mixer.kind for some in mixers for mixer in some}))
                raise ModelError(
                    f"attention {names} has no cache that could be offloaded, 'mla' has; leave out offload"
                )
        weight = self.model.embed_tokens.weight
        return PagedCache(kinds[0], kinds[1], pages, page_size, slots, weight.dtype, weight.device, offload)

    def step(self, batch: StepBatch, cache: PagedCache) -> StepOutput:
        """Hidden states of the new tokens of many sequences, which are cached, and the wanted logits.

        A token attends to the cached positions of its own sequence and to the earlier tokens of its piece.

        Raises:
            ModelError: gradients are enabled, the batch does not fit the cache or the model, or a slot does not hold
                the state at a piece's start.
        """
        self._check_step(batch, cache)
        embed_tokens = self.model.embed_tokens
        found = 0 if batch.previous_1TN is None else batch.previous_1TN.shape[-1]
        if found != embed_tokens.look_back:
            raise ModelError(
                f"the embedding needs the {embed_tokens.look_back} ids before every token, the batch has {found}; "
                f"make it with look_back = {embed_tokens.look_back}"
            )
        h_1TD = embed_tokens(batch.ids_1T, batch.previous_1TN)
        layers = run_layers(self.model.layers, h_1TD, self.step_context(batch), states=cache.layer_states)
        hidden_TD = self.model.norm(layers[-1].hidden_BTD)[0]
        return StepOutput(self._wanted(hidden_TD, batch), hidden_TD, tuple(layer.routing for layer in layers))

    def mtp_step(self, hidden_TD: torch.Tensor, batch: StepBatch, cache: PagedCache) -> StepOutput:
        """Multi-token prediction in a step: logits of the token after the next one, for the wanted rows.

        `hidden_TD` are the hidden states of `step` (or, to predict further, of this method) at the positions of
        `batch`, whose ids are the *next* tokens: position t takes the token t + 1. Pages are those of the sequences.

        Raises:
            ModelError: as in `step`, or the model lacks this layer.
        """
        mtp, embed_tokens = self._mtp(), self._mtp_embedding()
        self._check_step(batch, cache)
        if hidden_TD.shape[0] != batch.ids_1T.shape[1]:
            raise ModelError(f"{hidden_TD.shape[0]} hidden states do not fit {batch.ids_1T.shape[1]} next tokens")
        e_1TD, where = embed_tokens(batch.ids_1T), self.step_context(batch)
        h_TD = mtp(e_1TD, hidden_TD.unsqueeze(0), where, cache.mtp_states[0]).y_BTD[0]
        return StepOutput(self._wanted(h_TD, batch), h_TD, ())

    def step_context(self, batch: StepBatch) -> SequenceContext:
        """Sequence context of the tokens of a step."""
        return self._context_at(batch.positions_T, layout=batch.layout)

    def _wanted(self, hidden_TD: torch.Tensor, batch: StepBatch) -> torch.Tensor:
        return self._logits(hidden_TD if batch.wanted_R is None else hidden_TD.index_select(0, batch.wanted_R))

    def _check_step(self, batch: StepBatch, cache: PagedCache) -> None:
        if torch.is_grad_enabled():
            raise ModelError("a step does not support gradients; call it under torch.no_grad()")
        if batch.ids_end > self.config.vocab_size:
            raise ModelError(f"token {batch.ids_end - 1} is outside the vocabulary of {self.config.vocab_size}")
        cache.check(batch.layout)

    @staticmethod
    def _mixers(module: nn.Module | None) -> list[SequenceMixer]:
        """Mixers of all layers, or of multi-token prediction, by slot."""
        found = [] if module is None else [part for part in module.modules() if isinstance(part, SequenceMixer)]
        return sorted(found, key=lambda mixer: mixer.slot)

    def embed(
        self,
        input_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        positions_T: torch.Tensor | None = None,
        previous_ids_BTN: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings [B, T, D] of tokens, which may depend on earlier ids in the rows.

        Raises:
            ModelError: the tokens are parts of rows, and the embedding needs ids that are not among them.
        """
        embed_tokens = self.model.embed_tokens
        look_back: int = embed_tokens.look_back
        if look_back and previous_ids_BTN is None:
            if positions_T is not None:
                raise ModelError("an embedding of earlier ids needs previous_ids_BTN for parts of rows")
            previous_ids_BTN = previous_ids(input_ids_BT, look_back, cu_seqlens)
        h_BTD: torch.Tensor = embed_tokens(input_ids_BT, previous_ids_BTN if look_back else None)
        return h_BTD

    def mtp_forward(
        self,
        hidden_BTD: torch.Tensor,
        next_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
    ) -> MTPOutput:
        """Logits of the token after the next one at every position.

        `hidden_BTD` is `ModelOutput.hidden_BTD` (after the final norm), `next_ids_BT` the next tokens.

        Raises:
            ModelError: the model lacks this layer.
        """
        h_BTD = self._mtp_hidden(hidden_BTD, next_ids_BT, cu_seqlens).y_BTD
        return MTPOutput(self._logits(h_BTD), h_BTD)

    def _mtp_hidden(
        self,
        hidden_BTD: torch.Tensor,
        next_ids_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        positions_T: torch.Tensor | None = None,
    ) -> MixerOutput:
        mtp, embed_tokens = self._mtp(), self._mtp_embedding()
        where = self.context(next_ids_BT, cu_seqlens, positions_T)
        output: MixerOutput = mtp(embed_tokens(next_ids_BT), hidden_BTD, where)
        return output

    def loss(
        self,
        input_ids_BT: torch.Tensor,
        targets_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        positions_T: torch.Tensor | None = None,
        previous_ids_BTN: torch.Tensor | None = None,
        budgets_B: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, BackboneOutput]:
        """(sum of the cross entropy in nats, float32; targets counted, int64; output). Targets of -100 are ignored.

        The full logits are never materialized. `positions_T`: positions of the tokens in their rows if not 0, 1, 2,
        ..., as in a part of a row; an embedding of earlier ids then needs `previous_ids_BTN` too
        (`model.embeddings.base`). `budgets_B`: for attention kinds with budgets, [B] or by layer [L, B].
        """
        output = self._hidden(input_ids_BT, cu_seqlens, positions_T, previous_ids_BTN, budgets_B)
        return *self.loss_of(output.hidden_BTD, targets_BT), output

    def mtp_loss(
        self,
        hidden_BTD: torch.Tensor,
        input_ids_BT: torch.Tensor,
        targets_BT: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum of the cross entropy of multi-token prediction in nats, float32; targets counted, int64).

        Takes the inputs of `loss` and the hidden states of its output, so that one forward pass serves both; to train
        both, add this mean with a weight. Targets are those of `targets_after_next`.
        """
        # The last position of a row gets a wrong next token, but has no target and no position attends to it.
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
        """`mtp_loss` from the next tokens and the targets after them, for parts of rows."""
        h_BTD = self._mtp_hidden(hidden_BTD, next_ids_BT, cu_seqlens, positions_T).y_BTD
        return self.loss_of(h_BTD, next_targets_BT)

    def loss_of(self, hidden_BTD: torch.Tensor, targets_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first two results of `loss` from the hidden states after the final norm."""
        loss_sum, _, counted = linear_cross_entropy(hidden_BTD.flatten(0, 1), self.output_weight, targets_BT.flatten())
        return loss_sum, counted

    @property
    def output_weight(self) -> torch.Tensor:
        """Output projection [V, D]; the embedding table if tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def routers(self) -> list[Router]:
        """Routers of all layers, in order."""
        return [module for module in self.modules() if isinstance(module, Router)]

    def router_biases(self) -> list[torch.Tensor]:
        """Selection biases of all layers, float32 [E], to be updated in place; entries from N on stay zero."""
        return [router.e_score_correction_bias for router in self.routers()]

    def project_output(self, h_BTD: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V] in the dtype of the weights."""
        return linear(h_BTD, self.output_weight)

    def _logits(self, h_BTD: torch.Tensor) -> torch.Tensor:
        logits_BTV = self.project_output(h_BTD)
        return logits_BTV.to(torch.promote_types(logits_BTV.dtype, torch.float32))

    def _mtp(self) -> MultiTokenPrediction:
        if self.model.mtp is None:
            raise ModelError("the model has no multi-token prediction; it needs num_nextn_predict_layers = 1")
        return self.model.mtp

    def _mtp_embedding(self) -> Embedding:
        embed_tokens: Embedding = self._mtp().embed_tokens or self.model.embed_tokens
        if embed_tokens.look_back:
            raise ModelError(
                "multi-token prediction cannot share an embedding of earlier ids; set mtp_share_embeddings: false"
            )
        return embed_tokens


def _offloaded(mixer: SequenceMixer) -> StateKind:
    kind = mixer.state_kind()
    return kind._replace(offloaded=True) if mixer.offloads and isinstance(kind, PerPosition) else kind
