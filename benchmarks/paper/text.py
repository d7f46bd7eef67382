"""Tokens of the toy experiments: source code of the Python standard library, available without network.

Every twentieth module is held out. A byte-level BPE of 1,024 tokens is trained on the others with the project's
tokenizer; files are concatenated to one stream, separated by an end-of-text token.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.formats.special_tokens import END_ID
from longcat.stages.formats.windows import open_tokens

Ids = npt.NDArray[np.int32]
VOCABULARY = 1024
HELD_OUT_EVERY = 20
QUICK_FILES = 40
SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"})


@dataclass(frozen=True)
class Text:
    """Streams of training and validation tokens; `fingerprint` is a hash of their bytes."""

    train: Ids
    validation: Ids
    vocab_size: int
    fingerprint: str

    @classmethod
    def of(cls, train: Ids, validation: Ids, vocab_size: int) -> Text:
        digest = hashlib.sha256(train.tobytes() + validation.tobytes()).hexdigest()[:16]
        return cls(train, validation, vocab_size, digest)

    def batch(self, seed: int, step: int, rows: int, length: int) -> npt.NDArray[np.int64]:
        """Windows [rows, length + 1] of one step; every window is used once before any repeats."""
        windows = (len(self.train) - 1) // length
        epoch, first = divmod(step * rows, windows)
        order = np.concatenate([np.random.default_rng([seed, epoch + more]).permutation(windows) for more in (0, 1)])
        starts = order[first : first + rows] * length
        return np.stack([self.train[start : start + length + 1] for start in starts]).astype(np.int64)

    def held_out(self, rows: int, length: int) -> npt.NDArray[np.int64]:
        """Windows [rows, length + 1], evenly spread over the validation stream."""
        starts = np.linspace(0, len(self.validation) - length - 1, rows).astype(np.int64)
        return np.stack([self.validation[start : start + length + 1] for start in starts]).astype(np.int64)


def packed_text(folder: Path) -> Text:
    """Read the tokens of an artifact written by `longcat pack`."""
    files = [open_tokens(folder, split) for split in ("train", "validation")]
    streams = [np.concatenate([file.document(n) for n in range(file.n_documents)]).astype(np.int32) for file in files]
    return Text.of(*streams, int(max(stream.max() for stream in streams)) + 1)


def library_text(cache: Path, quick: bool) -> Text:
    """Tokens of the standard library, cached in the file `cache`."""
    if not cache.is_file():
        files = _modules()[: QUICK_FILES if quick else None]
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
        learnt = [text for number, text in enumerate(texts) if number % HELD_OUT_EVERY]
        tokenizer = train(learnt, TokenizerConfig(vocab_size=VOCABULARY))
        documents = [[*encoded.ids, END_ID] for encoded in tokenizer.encode_batch(texts)]
        held = np.concatenate(documents[::HELD_OUT_EVERY])
        rest = np.concatenate([ids for number, ids in enumerate(documents) if number % HELD_OUT_EVERY])
        partial = cache.with_suffix(".partial.npz")
        np.savez(partial, train=rest.astype(np.int32), validation=held.astype(np.int32))
        partial.replace(cache)
    with np.load(cache, allow_pickle=False) as arrays:
        return Text.of(arrays["train"], arrays["validation"], VOCABULARY)


def _modules() -> list[Path]:
    """Source files of the standard library, ordered by a hash of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = [path.relative_to(root) for path in root.rglob("*.py")]
    kept = [path for path in found if SKIPPED_FOLDERS.isdisjoint(path.parts)]
    return [root / path for path in sorted(kept, key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())]
