"""Interface of token mixers: the methods that every attention kind implements.

A variant is one module with one subclass of `SequenceMixer`, one line in `model.mixers`, its kernels, and a row in the
tests' table of variants. No other code depends on the kind of a mixer.

Names: B batch, T tokens, D hidden, P rotary pairs.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import torch
from torch import nn

from longcat.kernels.mla_attention import DocumentBounds
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.pages import StateKind, StepLayout, StepState
from longcat.model.attention.rescaling import Exchange
from longcat.model.errors import ModelError
from longcat.model.parameter_kinds import Kind
from longcat.model.rope import rope_angles_at
from longcat.model.rope_scaling import RopeScaling

if TYPE_CHECKING:
    import numpy as np
    import torch.distributed as dist

    from longcat.model.config import ModelConfig

NO_LOSSES: Mapping[str, torch.Tensor] = {}


@dataclass(frozen=True)
class SequenceContext:
    """Metadata of the tokens of one forward pass, computed once and shared by all layers.

    positions_T: int64, positions of the tokens in their rows. cu_seqlens: int [documents + 1], bounds of documents in
    the B * T flattened tokens, None if every row is one document; kept on its original device. documents: the same in
    the form that kernels take, for whole rows. angles: float64 [T, P] by rotary width. budgets_B: keys that a token of
    each row attends to, instead of the budget of the kind (`SequenceMixer.budget_in`), None for that one; ignored by
    kinds without budgets. A mixer sees one budget per row; before `of_layer` there may be one per layer too, [L, B].
    layout: pieces and pages of a step over many sequences, which is one row (`model.step`). shared: what the attention
    module before it in the layer leaves to the next one (`MixerOutput.shared`).
    """

    positions_T: torch.Tensor
    cu_seqlens: torch.Tensor | None = None
    documents: DocumentBounds | None = None
    angles: Mapping[int, torch.Tensor] = field(default_factory=dict)
    budgets_B: torch.Tensor | None = None
    layout: StepLayout | None = None
    shared: Any = None

    def after(self, output: MixerOutput) -> SequenceContext:
        """Context of the next attention module of the layer, after the output of this one."""
        return self if output.shared is None else replace(self, shared=output.shared)

    @classmethod
    def at(
        cls,
        positions_T: torch.Tensor,
        widths: Iterable[int],
        theta: float,
        scaling: RopeScaling | None = None,
        **fields: Any,
    ) -> Self:
        """Context with the angles of every required rotary width."""
        angles = {width: rope_angles_at(positions_T, width, theta, scaling) for width in sorted(set(widths))}
        return cls(positions_T, angles=angles, **fields)

    def of_layer(self, place: int) -> Self:
        """The context of layer `place` of those that run: with its budgets, if they differ by layer."""
        if self.budgets_B is None or self.budgets_B.ndim == 1:
            return self
        return replace(self, budgets_B=self.budgets_B[place])


class MixerOutput(NamedTuple):
    """y_BTD: output added to the residual stream. losses: auxiliary losses by name, each a sum over these tokens; one
    without a gradient is a figure, which is logged and not trained.

    shared: what the next attention module of the layer may use (`SequenceContext.shared`), such as the positions that
    it attends to; known only to the kind that makes it.
    """

    y_BTD: torch.Tensor
    losses: Mapping[str, torch.Tensor] = NO_LOSSES
    shared: Any = None


class SequenceMixer(nn.Module, ABC):
    """One attention module of a layer: mixes the tokens of a row, and never those of different rows or documents.

    Raises:
        ModelError: of any method, for an operation the kind does not support, with the remedy.
    """

    Options: ClassVar[type[MixerOptions]] = MixerOptions
    # Name of the kind in the configuration and error messages.
    kind: ClassVar[str]
    # Auxiliary losses that `forward` may return.
    loss_names: ClassVar[tuple[str, ...]] = ()
    # Methods excluded from torch.compile, because they call kernels that are faster than its code.
    opaque: ClassVar[tuple[str, ...]] = ()
    # Bytes of a value of the state of a model in bfloat16.
    bytes_per_value: ClassVar[int] = 2
    # Whether `exchanges` is defined; a subclass in which these change its output sets it to False.
    rescales: ClassVar[bool] = False
    # `module:class` of the context-parallel form, made from a module and a process group. Not inherited: a subclass may
    # attend to other positions than its parent.
    parts_of_rows: ClassVar[str]

    @abstractmethod
    def __init__(self, config: ModelConfig, slot: int, options: MixerOptions) -> None:
        """Build the module of attention slot `slot`, with parameters set to NaN."""
        super().__init__()
        self.slot = slot

    @abstractmethod
    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        """Mix the tokens; in a step they also attend to the cached positions of their sequence, and are cached.

        A step has a `state`, the one that `LongcatFlash.new_pages` made for `state_kind()`, and `where.layout`, which
        tells the pieces.
        """

    @classmethod
    def losses_of(cls, options: MixerOptions) -> tuple[str, ...]:
        """Auxiliary losses with these options."""
        return cls.loss_names

    @classmethod
    def trains_only(cls, options: MixerOptions) -> str | None:
        """Name of the part of such modules that alone is trained in the model; None: everything is."""
        return None

    @classmethod
    def conversion_problem(cls, before: str, options: MixerOptions) -> str | None:
        """Why a trained module of the kind `before` cannot become one with these options, with the remedy."""
        return None

    @classmethod
    def check_slot(cls, config: ModelConfig, slot: int, options: MixerOptions) -> None:
        """Raise ValueError, naming the option, if the kind cannot be in this slot of such a model."""

    def state_kind(self) -> StateKind:
        """What the mixer keeps in a step over many sequences.

        Raises:
            ModelError: the kind cannot take such a step.
        """
        raise ModelError(f"attention {self.kind!r} keeps no pages and no state per sequence; generate with 'mla'")

    @classmethod
    def check(cls, config: ModelConfig, options: MixerOptions) -> None:
        """Raise ValueError if the options do not fit the model, naming them."""

    @classmethod
    def budget_in(cls, config: ModelConfig, slot: int) -> int | None:
        """Keys that a token attends to at most, unless a row has its own budget; None for a kind without budgets."""
        return None

    def coverage(self, x_BTD: torch.Tensor, where: SequenceContext, budgets: Sequence[int]) -> torch.Tensor | None:
        """Share of attention mass [B, T, number of budgets] on the keys that each token attends to with each budget.

        The mass is that of attention to all positions of its document before the token and itself, or of the scores by
        which the kind selects keys. None if the module before it in the layer selects them. Called without gradients.

        Raises:
            ModelError: the kind has no budgets.
        """
        raise ModelError(f"attention {self.kind!r} has no budgets; use a kind that selects keys")

    @property
    def offloads(self) -> bool:
        """Whether the kind takes a state of `model.attention.offload` for its pages."""
        return False

    @abstractmethod
    def flops(self, tokens: int, cached: int) -> int:
        """FLOPs of a forward pass over `tokens` tokens after `cached` ones, without the weight matrices.

        A multiply-add counts as two; masked positions are not counted.
        """

    @abstractmethod
    def state_values(self, length: int) -> int:
        """Number of values in the state per row after `length` positions."""

    def expanded_values(self) -> int:
        """Number of key and value elements of all heads per position, to compare with `state_values`."""
        return self.state_values(1)

    def exchanges(self) -> tuple[Exchange, ...]:
        """Parts of parameters that can be rescaled against each other without a change of the output.

        Raises:
            ModelError: none are defined for the kind.
        """
        raise ModelError(f"attention {self.kind!r} has no matrices whose scales may be exchanged; use 'mla'")

    @property
    def rotary_width(self) -> int | None:
        """Width of the rotary part of queries and keys; None for a kind without one."""
        return None

    @classmethod
    def initial_value(
        cls, name: str, shape: tuple[int, ...], std: float, stream: np.random.Generator
    ) -> torch.Tensor | None:
        """Float32 value of the parameter `name` of the module; None for the model's rule (N(0, std^2), vectors one)."""
        return None

    @classmethod
    def parameter_kind(cls, name: str, dimensions: int) -> Kind | None:
        """Parameter kind for learning rate and decay; None for the model's rule."""
        return None

    @classmethod
    def head_rows(cls, config: ModelConfig, name: str) -> tuple[int, ...] | None:
        """Rows of the matrices of each head in a parameter that is made of heads; None for others."""
        return None

    @classmethod
    def widened(cls, options: MixerOptions, factor: float) -> MixerOptions:
        """Options for a model with all widths multiplied by `factor`."""
        return options

    @classmethod
    def shares_context(cls) -> bool:
        """Whether the kind supports context parallelism."""
        return "parts_of_rows" in cls.__dict__

    def context_parallel(self, group: dist.ProcessGroup) -> SequenceMixer:
        """Context-parallel module with this module's parameters; other processes of the group hold the other parts of
        rows.

        Raises:
            ModelError: the kind does not support it.
        """
        if not self.shares_context():
            raise ModelError(
                f"attention {self.kind!r} cannot share a row between processes; set parallel.context: 1, or use 'mla'"
            )
        module, _, name = self.parts_of_rows.partition(":")
        shared: SequenceMixer = getattr(importlib.import_module(module), name)(self, group)
        return shared


def rotary_widths(modules: Iterable[nn.Module]) -> set[int]:
    """Rotary widths of all mixers among the modules."""
    found = (module.rotary_width for module in modules if isinstance(module, SequenceMixer))
    return {width for width in found if width is not None}
