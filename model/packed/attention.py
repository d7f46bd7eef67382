"""Projections of latent attention on packed matrices: those of the input are one matrix.

A step whose pieces all absorb the projections, as decoding does, normalises and rotates in place, so that a token's
latent and rotary key lie side by side as the pages take them; the softmax scale is part of the norm of query latents.

Names: B batch, T tokens, N rows (B * T), D hidden, L query latent, C latent width, R rotary width, H heads, Y = L + C +
R, P = R / 2, N width without position, V value width, Q = N + R, E = C + R, X queries of a sequence and heads together.
"""

from typing import Any

import torch

from longcat.kernels.mla_paged_decode.cpu import attend
from longcat.kernels.mla_project import Projected
from longcat.kernels.packed_linear import PackedMatrix
from longcat.kernels.rms_norm.cpu import normalize, normalize_
from longcat.kernels.rope.cpu import rotate, rotate_, turns
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.mla import LATENT_NORM_EPS, MultiHeadLatentAttention
from longcat.model.attention.pages import Group, PageState


class PackedProjection(MultiHeadLatentAttention):
    """Mixed into a kind of latent attention by `packed_attention`, which keeps everything else of the kind."""

    joint: PackedMatrix
    q_b: PackedMatrix
    q_norm_L: torch.Tensor
    kv_norm_C: torch.Tensor
    absorbed: tuple[torch.Tensor, torch.Tensor]
    w_value_HCV: torch.Tensor

    def absorbed_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.absorbed

    def project(self, x_BTD: torch.Tensor, where: SequenceContext) -> Projected:
        batch, tokens, width = x_BTD.shape
        joint_NY = self.joint(x_BTD.reshape(-1, width))
        latent, query = self.latent_width, self.q_b.inputs
        q_latent_NL = normalize(joint_NY[:, :query], self.q_norm_L, LATENT_NORM_EPS, self.query_scale)
        q_BTHQ = self.q_b(q_latent_NL).view(batch, tokens, self.heads, -1)
        latent_NC = normalize(joint_NY[:, query : query + latent], self.kv_norm_C, LATENT_NORM_EPS, self.latent_scale)
        turn_T1P = turns(where.angles[self.rope_width], x_BTD.dtype)
        k_rope_BT1R = rotate(joint_NY[:, query + latent :].view(batch, tokens, 1, -1), turn_T1P)
        q_nope_BTHN, q_rope_BTHR = q_BTHQ.split((self.nope_width, self.rope_width), dim=-1)
        return Projected(
            q_nope_BTHN,
            rotate(q_rope_BTHR, turn_T1P),
            latent_NC.view(batch, tokens, latent),
            k_rope_BT1R.squeeze(2),
        )

    def attend_in_step(self, x_1TD: torch.Tensor, where: SequenceContext, state: PageState) -> torch.Tensor:
        layout = where.layout
        assert layout is not None  # noqa: S101  a step has one
        division = layout.divided(self.absorption, self.absorbs)
        if division.tokens_Y is not None:
            return super().attend_in_step(x_1TD, where, state)
        turn_T1P = turns(where.angles[self.rope_width], x_1TD.dtype)
        joint_TY = self.joint(x_1TD[0])
        latent_TL, joint_TE = joint_TY.split_with_sizes((self.q_b.inputs, self.latent_width + self.rope_width), 1)
        self._finish(joint_TE, turn_T1P)
        state.store(layout, joint_TE)
        o_THC = self._attend(self._absorbed_queries(latent_TL, turn_T1P), division.groups, state)
        return torch.bmm(o_THC.transpose(0, 1), self.w_value_HCV).transpose(0, 1).unsqueeze(0)

    def _finish(self, joint_TE: torch.Tensor, turn_T1P: torch.Tensor) -> None:
        """Latents and rotary keys as they are cached, in place."""
        latent_TC, k_rope_TR = joint_TE.split_with_sizes((self.latent_width, self.rope_width), 1)
        normalize_(latent_TC, self.kv_norm_C, LATENT_NORM_EPS, self.latent_scale)
        rotate_(k_rope_TR, turn_T1P.squeeze(1))

    def _absorbed_queries(self, latent_TL: torch.Tensor, turn_T1P: torch.Tensor) -> torch.Tensor:
        """Scaled queries [T, H, E] of latents and rotary keys."""
        scale = self.query_scale * self.softmax_scale
        q_TX = self.q_b(normalize(latent_TL, self.q_norm_L, LATENT_NORM_EPS, scale))
        q_THQ = q_TX.view(len(q_TX), self.heads, -1)
        q_THN, q_THR = q_THQ.split_with_sizes((self.nope_width, self.rope_width), 2)
        rotate_(q_THR, turn_T1P)
        q_HTC = torch.bmm(q_THN.transpose(0, 1), self.absorbed[0])
        return torch.cat((q_HTC.transpose(0, 1), q_THR), dim=2)

    def _attend(self, q_THE: torch.Tensor, groups: tuple[Group, ...], state: PageState) -> torch.Tensor:
        """Sums of latents [T, H, C]."""
        memory = state.memory(self.latent_width)
        outputs, first = [], 0
        for tokens, sequences in groups:
            count = len(sequences.lengths)
            q_BXE = q_THE[first : first + count * tokens].view(count, tokens * self.heads, -1)
            outputs.append(attend(q_BXE.unbind(), memory, sequences, tokens))
            first += count * tokens
        o_YC = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return o_YC.view(-1, self.heads, self.latent_width)


def packed_attention(
    mixer: MultiHeadLatentAttention, joint: PackedMatrix, q_b: PackedMatrix
) -> MultiHeadLatentAttention:
    """`mixer` with its projections replaced; all other methods, states and parameters are those of `mixer`."""
    kind: Any = type(f"Packed{type(mixer).__name__}", (PackedProjection, type(mixer)), {})
    packed: Any = kind.__new__(kind)
    torch.nn.Module.__init__(packed)
    packed.__dict__.update(mixer.__dict__)
    packed._modules = dict(mixer._modules)
    packed.q_norm_L, packed.kv_norm_C = (norm.weight.detach() for norm in (mixer.q_a_layernorm, mixer.kv_a_layernorm))
    packed.joint, packed.q_b = joint, q_b
    packed.absorbed = tuple(weight.detach() for weight in mixer.absorbed_weights())
    packed.w_value_HCV = packed.absorbed[1].mT
    for name in ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm"):
        del packed._modules[name]
    result: MultiHeadLatentAttention = packed
    return result


def takes(mixer: torch.nn.Module) -> bool:
    """Whether `mixer` projects as plain latent attention does."""
    own = MultiHeadLatentAttention
    return (
        isinstance(mixer, own)
        and mixer.has_query_latent
        and all(
            getattr(type(mixer), name) is getattr(own, name)
            for name in ("project", "_projections", "absorbed_weights", "attend_in_step")
        )
    )
