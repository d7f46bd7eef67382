"""What is compared of a document: a digest of its text and a MinHash signature of its word n-grams."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from datasketch import MinHash

DIGEST_BYTES = 16
# Above this, the table of n-grams by hash functions leaves the cache.
NGRAMS_A_STEP = 2048
EMPTY_SLOT = np.uint32(0xFFFFFFFF)

# Han and kana are written without blanks, so each sign is a word; otherwise a word is a run of letters and digits.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = npt.NDArray[np.uint64]


def exact_digest(text: str) -> bytes:
    """Digest of the text in Unicode's composed form with every run of blanks as one."""
    words = unicodedata.normalize("NFC", text).split()
    return hashlib.blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def normalised_words(text: str) -> list[str]:
    """Words without regard to case, punctuation, layout and compatibility forms."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def ngram_hashes(words: list[str], size: int) -> Hashes:
    """A 32-bit hash of every n-gram, from hashes of its words; a text shorter than that is one n-gram.

    Shape [n n-grams], empty where there are no words.
    """
    hashes = np.fromiter(map(_word_hash, words), dtype=np.uint64, count=len(words))
    size = min(size, len(words))
    count = len(words) - size + 1
    mixed = np.zeros(count if words else 0, dtype=np.uint64)
    for offset in range(size):
        mixed = (mixed * _MULTIPLIER) ^ hashes[offset : offset + count]
        mixed ^= mixed >> np.uint64(29)
    return (mixed * _MULTIPLIER) >> np.uint64(32)


class Signer:
    """Computes MinHash signatures with datasketch's permutations."""

    def __init__(self, num_perm: int, ngram: int, seed: int) -> None:
        from datasketch import MinHash

        self._empty: MinHash = MinHash(num_perm=num_perm, seed=seed, hashfunc=int, scheme="affine32")
        self._ngram = ngram

    def sign(self, text: str) -> npt.NDArray[np.uint32]:
        """Signature of `text`, shape [num_perm]; every slot is `EMPTY_SLOT` where it has no words."""
        hashes = ngram_hashes(normalised_words(text), self._ngram)
        sketch = self._empty.copy()
        for start in range(0, len(hashes), NGRAMS_A_STEP):
            sketch.update_batch(hashes[start : start + NGRAMS_A_STEP].tolist())
        return sketch.hashvalues.astype(np.uint32)
