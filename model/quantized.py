"""Quantised checkpoints: matrices of few bits and their scales in safetensors files.

    method    stored weight                      scale (key)                                    for
    int8      I8 [O, I]                          F32 [O]  (`<weight>_scale`)                    CPU, `model.packed`
    int4      U8 [O, I' / 2], two values a byte  F32 [O, I' / 32]  (`<weight>_scale`)           CPU, `model.packed`
    fp8       F8_E4M3 [O, I]                     F32 [O / 128, I / 128]  (`<weight>_scale_inv`) GPU, vLLM and SGLang

A weight is its stored values times the scale of its row, of its row and group of 32 columns (I' is I rounded up to
groups; the even column is in the low half of a byte, values are from -7 to 7, stored plus 8), or of its block of 128 x
128. `int4` has int4 for experts and output projection, where most of the bytes are, and int8 for the rest. Embedding,
norms, routers and up-projections of latents keep their dtype. In `fp8` up-projections are quantised and the output
projection is not; what is not quantised becomes bfloat16, except for routers.

`quantization_config` in config.json is `{"quant_method": "longcat", "weights": "int8" or "int4"}`, or, as published,
`{"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}`.

Names: O outputs, I inputs, G groups of columns, P and Q blocks of rows and columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from longcat.kernels.packed_linear import int4, int8
from longcat.model.bounds import shown
from longcat.model.errors import CheckpointError
from longcat.model.layout import is_router_key
from longcat.model.safetensors_files import DTYPES, all_finite, not_finite
from longcat.model.weights import CONFIG_FILE, WeightFiles

Method = Literal["int8", "int4", "fp8"]
BLOCK = 128
LARGEST_FP8 = 448.0
LEAST = 1e-30
CONFIGS: Mapping[Method, Mapping[str, Any]] = {
    "int8": {"quant_method": "longcat", "weights": "int8"},
    "int4": {"quant_method": "longcat", "weights": "int4"},
    "fp8": {
        "quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"
    },
}  # fmt: skip
STORED = {"I8": "int8", "U8": "int4", "F8_E4M3": "fp8"}
VALUES = {"int8": torch.int8, "int4": torch.uint8, "fp8": torch.float8_e4m3fn}
SUFFIXES: Mapping[str, str] = {"int8": "_scale", "int4": "_scale", "fp8": "_scale_inv"}
TO_QUANTIZE = re.compile(
    r".*\.(?:q_proj|q_a_proj|q_b_proj|kv_a_proj_with_mqa|kv_b_proj|o_proj|gate_proj|up_proj|down_proj|eh_proj)\.weight"
    r"|lm_head\.weight"
)
HEAD, LATENTS_UP, EXPERT = "lm_head.weight", ".kv_b_proj.weight", re.compile(r".*\.experts\.\d+\..*")


def method_of(published: Mapping[str, Any], where: str) -> Method | None:
    """Method of a config.json; None for plain weights.

    Raises:
        CheckpointError: it names a method, or a variant of one, that cannot be read.
    """
    stated = published.get("quantization_config")
    if not stated:
        return None
    if isinstance(stated, dict):
        for method, config in CONFIGS.items():
            # Weights of 8 bits without a stated format are e4m3.
            stated_all = {"fmt": "e4m3", **stated}
            if all(stated_all.get(key) == value for key, value in config.items() if key != "activation_scheme"):
                return method
    found = stated.get("quant_method") if isinstance(stated, dict) else stated
    raise CheckpointError(
        f"{where}: quantization_config says that the weights are {shown(found)}; quantised weights of other tools "
        "cannot be read, except fp8 of e4m3 in blocks of 128 x 128; take the checkpoint in BF16"
    )


def kind_of(key: str, method: Method) -> str | None:
    """How a method stores the tensor with a published key: int8, int4, fp8, or None for a plain float."""
    if not TO_QUANTIZE.fullmatch(key):
        return None
    if method == "fp8":
        return None if key == HEAD else "fp8"
    if key.endswith(LATENTS_UP):
        return None
    return "int4" if method == "int4" and (key == HEAD or EXPERT.fullmatch(key)) else "int8"


def shapes(kind: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of stored values and scales of a matrix."""
    outputs, inputs = shape
    groups = -(-inputs // int4.GROUP)
    if kind == "int8":
        return shape, (outputs,)
    if kind == "int4":
        return (outputs, groups * int4.GROUP // 2), (outputs, groups)
    return shape, (-(-outputs // BLOCK), -(-inputs // BLOCK))


def quantize(weight_OI: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(stored values, scales) of a matrix; raises CheckpointError if it is not finite."""
    wide_OI = weight_OI.float()
    if not wide_OI.isfinite().all():
        raise CheckpointError("a weight is not finite; the checkpoint is damaged or its training has diverged")
    if kind == "int8":
        values_OI, scale_O = int8.quantize(wide_OI)
        return values_OI, scale_O
    if kind == "int4":
        values_OI, scale_OG = int4.quantize(F.pad(wide_OI, (0, -wide_OI.shape[1] % int4.GROUP)))
        nibbles_OI = (values_OI + int4.ZERO).to(torch.uint8)
        return nibbles_OI[:, ::2] | nibbles_OI[:, 1::2] << 4, scale_OG
    outputs, inputs = wide_OI.shape
    padded = F.pad(wide_OI, (0, -inputs % BLOCK, 0, -outputs % BLOCK))
    blocks_PXQY = padded.unflatten(1, (-1, BLOCK)).unflatten(0, (-1, BLOCK))
    scale_PQ = blocks_PXQY.abs().amax((1, 3)).clamp_min(LEAST) / LARGEST_FP8
    values = (wide_OI / _spread(scale_PQ, outputs, inputs)).to(torch.float8_e4m3fn)
    return values, scale_PQ


def dequantize(values: torch.Tensor, scale: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Float32 matrix of `shape` from stored values and scales."""
    outputs, inputs = shape
    if values.dtype == torch.int8:
        return int8.Quantized(values, scale.float()).dequantized()
    if values.dtype == torch.uint8:
        nibbles_OI = torch.stack((values & 15, values >> 4), dim=-1).flatten(1).float() - int4.ZERO
        return (nibbles_OI.unflatten(1, (-1, int4.GROUP)) * scale.float().unsqueeze(-1)).flatten(1)[:, :inputs]
    return values.float() * _spread(scale.float(), outputs, inputs)


def _spread(scale_PQ: torch.Tensor, outputs: int, inputs: int) -> torch.Tensor:
    rows = scale_PQ.repeat_interleave(BLOCK, dim=0)[:outputs]
    return rows.repeat_interleave(BLOCK, dim=1)[:, :inputs]


class Plan:
    """Tensors of a quantised checkpoint: `planned` gives their dtypes and shapes, `read` their values by key.

    Of `tensors`, those of the plain checkpoint, only dtypes and shapes are taken.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], method: Method) -> None:
        self._owners: dict[str, tuple[str, str]] = {}
        self._last: tuple[str, tuple[torch.Tensor, torch.Tensor]] | None = None
        self.planned: dict[str, torch.Tensor] = {}
        for key, tensor in tensors.items():
            kind = kind_of(key, method)
            if kind is None:
                narrow = method == "fp8" and not is_router_key(key)
                self._add(key, tuple(tensor.shape), torch.bfloat16 if narrow else tensor.dtype)
                continue
            values, scale = shapes(kind, tuple(tensor.shape))
            self._add(key, values, VALUES[kind])
            self._add(key + SUFFIXES[kind], scale, torch.float32)
            self._owners |= {key: (key, kind), key + SUFFIXES[kind]: (key, kind)}

    @property
    def quantized(self) -> int:
        """Number of matrices that are quantised."""
        return len(self._owners) // 2

    def _add(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.planned[key] = torch.empty(shape, dtype=dtype, device="meta")

    def read(self, key: str, plain: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """The tensor to store under `key`; `plain` returns those of the plain checkpoint."""
        if key not in self._owners:
            return plain(key).to(self.planned[key].dtype)
        owner, kind = self._owners[key]
        # Values and scales follow each other.
        if self._last is None or self._last[0] != owner:
            self._last = owner, quantize(plain(owner), kind)
        return self._last[1][key != owner]


class QuantizedFiles(WeightFiles):
    """Weights of a quantised checkpoint, read as float32; `tensors` lists them without their scales.

    Raises:
        CheckpointError: as for `WeightFiles`, or a scale is missing, misshapen or not a float.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._stored = dict(self.tensors)
        self._scales: dict[str, str] = {}
        for key, stored in self._stored.items():
            scale = key + SUFFIXES.get(STORED.get(stored.dtype, ""), "")
            if scale == key:
                continue
            if scale not in self._stored:
                raise CheckpointError(f"{folder / stored.file}: {key} is {stored.dtype} and its {scale} is missing")
            self._scales[key] = scale
            self.tensors.pop(scale, None)
        self._shapes: dict[str, tuple[int, ...]] = {}

    def check_dtype(self, key: str) -> None:
        if key not in self._scales:
            super().check_dtype(key)
        elif self._stored[self._scales[key]].dtype not in DTYPES:
            stored = self._stored[self._scales[key]]
            raise CheckpointError(f"{self.folder / stored.file}: {self._scales[key]} is {stored.dtype}, not a float")

    def check_shape(self, key: str, shape: tuple[int, ...]) -> None:
        if key not in self._scales:
            super().check_shape(key, shape)
            return
        self._shapes[key] = shape
        kind = STORED[self._stored[key].dtype]
        if len(shape) != 2:
            raise CheckpointError(f"{self.folder}: {key} is {self._stored[key].dtype} and not a matrix")
        for name, expected in zip((key, self._scales[key]), shapes(kind, shape), strict=True):
            stored = self._stored[name]
            if stored.shape != expected:
                path = self.folder / stored.file
                raise CheckpointError(f"{path}: {name} has the shape {stored.shape}, {CONFIG_FILE} asks for {expected}")

    def dtype_of(self, key: str) -> torch.dtype:
        return torch.bfloat16 if key in self._scales else super().dtype_of(key)

    @torch.no_grad()
    def copy_into(self, targets: Mapping[str, torch.Tensor]) -> None:
        super().copy_into({key: target for key, target in targets.items() if key not in self._scales})
        with self.reader() as read:
            for key in sorted(targets.keys() & self._scales.keys()):
                values = read(key)
                if not all_finite(values):
                    raise not_finite(self.folder / self.tensors[key].file, key)
                targets[key].copy_(values)

    @contextmanager
    def reader(self) -> Iterator[Callable[[str], torch.Tensor]]:
        with WeightFiles(self.folder).reader() as read:

            def dequantized(key: str) -> torch.Tensor:
                if key not in self._scales:
                    return read(key)
                return dequantize(read(key), read(self._scales[key]), self._shapes[key])

            yield dequantized
