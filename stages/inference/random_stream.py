"""Counter-based random numbers: a pure function of seed, choice and position, equal on every platform.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). No state is kept, so that
batches, drafts and recomputation after preemption change no number.
"""

from __future__ import annotations

import secrets

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random words of 32 bits from a counter of four words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & _WORD, (first >> 32) ^ c3 ^ k1, first & _WORD
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def uniform(seed: int, choice: int, position: int) -> float:
    """Random number in [0, 1) with 53 bits for token `position` of continuation `choice`; `seed` has 64 bits."""
    high, low, *_ = philox(_words(position) + _words(choice), _words(seed))
    return ((high << 32 | low) >> 11) * 2.0**-53


def resolve_seed(seed: int | None) -> int:
    """The seed of a request: the one it states, otherwise one from the system."""
    return secrets.randbits(63) if seed is None else seed


def _words(number: int) -> tuple[int, int]:
    return number & _WORD, (number >> 32) & _WORD
