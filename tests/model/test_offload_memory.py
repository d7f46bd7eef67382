"""Memory of an offloaded cache: what is refused before the first step, files that leave no trace, resident bytes."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.model import mixers
from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.errors import ModelError
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
MIB = 1 << 20


def options_of(folder: Path | None, **changes: Any) -> OffloadOptions:
    place = {"tier": "memory"} if folder is None else {"tier": "disk", "folder": folder}
    return OffloadOptions(**{"block": 8, "resident_blocks": 3} | place | changes)


def test_folders_that_cannot_be_used_are_refused(
    build_model: BuildModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, missing = build_model(), tmp_path / "missing"
    with pytest.raises(ModelError, match=f"offload.folder '{missing}': there is no such folder; create it"):
        model.new_pages(40, 8, slots=2, offload=options_of(missing))
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="Not a directory"):
        model.new_pages(40, 8, slots=2, offload=options_of(tmp_path / "file"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    told = "no file of 0.00 GiB can be made there (No space left on device); name another folder, or lower cache_tokens"
    with pytest.raises(ModelError, match=re.escape(told)):
        model.new_pages(40, 8, slots=2, offload=options_of(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_sizes_that_do_not_fit_are_refused(build_model: BuildModel, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model()
    with pytest.raises(ModelError, match=r"page_size = 16 must be offload.block = 8"):
        model.new_pages(40, 16, slots=2, offload=options_of(None))
    with pytest.raises(ModelError, match="make it with slots = number of sequences"):
        model.new_pages(40, 8, offload=options_of(None))
    with pytest.raises(ModelError, match="for 10 sequences are 40 blocks, and the whole cache has 40: nothing would"):
        model.new_pages(40, 8, slots=10, offload=options_of(None))
    monkeypatch.setitem(mixers.KINDS, "test_window", "tests.model.variants:WindowAttention")
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")
    for kind in ({"kind": "test_window"}, {"kind": "test_linear"}, {"kind": "topk", "k": 6}):
        with pytest.raises(ModelError, match=f"attention {kind['kind']} has no cache that could be offloaded, 'mla'"):
            build_model(attention=kind).new_pages(40, 8, slots=2, offload=options_of(None))
    for other in ({"kind": "test_linear"}, {"kind": "topk", "k": 6}):
        mixed = build_model(attention={"pattern": [other, "mla"]})
        cache = mixed.new_pages(40, 8, slots=2, offload=options_of(None))
        assert [hasattr(state, "resident_bytes") for state in cache.layer_states] == [False, True] * 2


def test_files_have_no_name(build_model: BuildModel, tmp_path: Path) -> None:
    """So none is left, however the process ends."""
    cache = build_model().new_pages(40, 8, slots=2, offload=options_of(tmp_path))
    assert not list(tmp_path.iterdir())
    assert str(tmp_path) in Path("/proc/self/maps").read_text(encoding="utf-8")
    width = cache.layer_states[0].pages_PLW.shape[2]
    assert cache.bytes_per_page == 4 * 8 * width * 4
    assert cache.nbytes == cache.resident_bytes  # nothing else is in memory
    del cache
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8")


DECODE = """
import sys
from pathlib import Path
import torch
from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash

def held(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(key)) << 10

torch.set_num_threads(1)
length = 98_304
changes = {"max_position_embeddings": length + 64, "kv_lora_rank": 248}
model = LongcatFlash(load_preset("smoke").model_copy(update=changes))
initialize(model, 0)
options = OffloadOptions(tier="disk", folder=sys.argv[1], resident_blocks=16, token_budget=256)
with torch.inference_mode():
    pages = list(range(length // 64 + 1))
    model.step(StepBatch.of([Piece([1], 0, [0])], 64), model.new_pages(4, 64))
    before = held("VmRSS")
    cache = model.new_pages(len(pages), 64, slots=1, offload=options)
    # The contents of a prompt are made up, since computing one takes minutes.
    generator = torch.Generator().manual_seed(0)
    for state in cache.layer_states:
        for first in range(0, length, 4096):
            of = Piece([1] * 4096, first, pages)
            layout = StepBatch.of([of], 64).layout
            state.keep(layout, torch.randn(4096, state.pages_PLW.shape[2], generator=generator))
        state._choices[0][length - 1] = list(range(15)) + [length // 64 - 1]
    for place in range(48):
        model.step(StepBatch.of([Piece([place], length + place, pages, dense=length)], 64), cache)
    print(held("VmHWM") - before, cache.bytes_per_page * cache.pages, cache.resident_bytes)
"""


def test_resident_memory_is_bounded(tmp_path: Path) -> None:
    """The process grows by the fast tier and a constant, and not by the cache, which is on disk."""
    done = subprocess.run([sys.executable, "-c", DECODE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, whole, resident = map(int, done.stdout.split())
    assert whole > 140 * MIB and resident < whole / 16
    assert grown < resident + 90 * MIB, (grown, whole, resident)
