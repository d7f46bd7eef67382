"""Checks of `longcat doctor`: one function per check, returning its findings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from longcat.cli.console import size
from longcat.cli.ownership import DISTRIBUTION, PACKAGE, ownership
from longcat.pipeline.engine.local import available_cores
from longcat.pipeline.environment import package_version
from longcat.pipeline.processes import import_root, safe_python
from longcat.pipeline.store import Store

MIN_FREE_BYTES = 2 << 30


@dataclass(frozen=True)
class Check:
    """One finding; `state` is ok, note (works, but) or problem (a stage would fail)."""

    name: str
    state: str
    found: str
    remedy: str = ""


def run_checks(store: Store) -> list[Check]:
    """All checks, in a fixed order."""
    checks: tuple[Callable[[], Check], ...] = (
        _python,
        _ownership,
        _torch,
        _accelerator,
        _triton,
        _fasttext,
        _language_model,
        _isolation,
        _processor,
        _half_precision,
        _packed_weights,
        _memory,
        lambda: _disk(store),
    )
    return [check() for check in checks]


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check("python", "ok", f"{version} at {sys.prefix}")


def _ownership() -> Check:
    """Check which distributions own files below the import name, and for leftovers of older versions."""
    known = ownership()
    home = import_root() / PACKAGE
    found = f"{home}, owned by {', '.join(map(str, known.owners)) or 'no distribution'}"
    if strangers := known.strangers:
        names = " ".join(owner.name for owner in strangers)
        return Check("import name", "problem", found, f"pip uninstall {names}, then reinstall {DISTRIBUTION}")
    if known.former:
        found = f"{known.former[0]} in {known.former[0].place} owns names such as kernels and model"
        return Check(
            "import name", "problem", found, f"run pip uninstall {DISTRIBUTION} until none is left, then reinstall"
        )
    if known.left:
        found = f"an older {DISTRIBUTION} left {', '.join(str(path) for path in known.left)}"
        return Check("import name", "problem", found, "remove these folders: other packages have the same names")
    if not known.owners:
        return Check("import name", "note", found, f"not installed: pip install {DISTRIBUTION}")
    return Check("import name", "ok", found)


def _torch() -> Check:
    version = package_version("torch")
    if version is None:
        return Check("torch", "problem", "not installed", "make setup")
    return Check("torch", "ok", version)


def _accelerator() -> Check:
    try:
        import torch
    except ImportError:
        return Check("accelerator", "note", "torch is missing", "")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("accelerator", "ok", names)
    return Check("accelerator", "note", "none, training and serving run on the CPU")


def _triton() -> Check:
    version = package_version("triton")
    if version is None:
        return Check("triton", "note", "not installed", "needed for the GPU kernels only")
    return Check("triton", "ok", version)


def _fasttext() -> Check:
    providers = sorted(
        {
            dist.metadata["Name"]
            for dist in distributions()
            if (dist.metadata["Name"] or "").lower().startswith("fasttext")
        }
    )
    if not providers:
        return Check("fasttext", "problem", "not installed", "pip install fasttext-community")
    if len(providers) > 1:
        return Check(
            "fasttext",
            "problem",
            f"{', '.join(providers)} all provide it",
            "keep fasttext-community, remove the others",
        )
    return Check("fasttext", "ok", f"{providers[0]} {package_version(providers[0])}")


def _language_model() -> Check:
    from longcat.pipeline.errors import LongcatError
    from longcat.stages.data.text.language import ensure_language_model

    try:
        return Check("language model", "ok", str(ensure_language_model()))
    except LongcatError as error:
        return Check("language model", "problem", error.what, error.hint or "")


def _isolation() -> Check:
    """Check whether modules rendered for a crawl can be isolated from the network."""
    from longcat.stages.data.collect.render import SCRIPT

    done = subprocess.run([*safe_python(), str(SCRIPT), "--isolated"], capture_output=True, check=False, timeout=60)
    if done.returncode == 0:
        return Check("isolation", "ok", "modules are imported without network access")
    remedy = "allow user namespaces (sysctl kernel.unprivileged_userns_clone), or collect only packages you trust"
    return Check("isolation", "note", "modules that `data collect local` imports have network access", remedy)


def _processor() -> Check:
    flags = ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        line = next((line for line in info.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
        wanted = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "asimd")
        flags = " ".join(flag for flag in wanted if flag in line.split())
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return Check("processor", "ok", f"{available_cores()} cores {flags}{load}")


def _half_precision() -> Check:
    """The measured rate of bfloat16 products on this processor."""
    try:
        from longcat.stages.train.watch.half_rate import half_rate
    except ImportError:
        return Check("bfloat16", "note", "torch is missing", "")
    rate = half_rate()
    found = f"matrix products at {rate:.1f} times the rate of float32"
    return Check("bfloat16", "ok", found, "train with dtype bfloat16" if rate > 1 else "train with dtype float32")


def _packed_weights() -> Check:
    """Forms of weights for inference on this processor, and their rate."""
    try:
        from longcat.model.packed.machine import rates
    except ImportError:
        return Check("packed weights", "note", "torch is missing", "")
    known = rates()
    usable = {form: rate for form, rate in known.items() if not isinstance(rate, str)}
    listed = ", ".join(f"{form} {'/'.join(map(str, rate))}" for form, rate in usable.items())
    found = f"1/8 rows, times the rate of torch's float32: {listed}"
    absent = [f"{form}: {rate}" for form, rate in known.items() if isinstance(rate, str)]
    return Check("packed weights", "note" if absent else "ok", found, "; ".join(absent))


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{size(memory.available)} of {size(memory.total)} free"
    if memory.available < MIN_FREE_BYTES:
        return Check("memory", "note", found, "close other programs, or use --workers 1")
    return Check("memory", "ok", found)


def _disk(store: Store) -> Check:
    folder = next(path for path in (store.root, *store.root.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if not os.access(folder, os.W_OK):
        return Check("store", "problem", f"{store.root} cannot be written", "choose another with --store")
    if free < MIN_FREE_BYTES:
        return Check("store", "problem", f"{store.root}: {size(free)} free", "free some space, or use --store")
    return Check("store", "ok", f"{store.root}: {size(free)} free")
