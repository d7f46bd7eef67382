"""Counter-based random numbers."""

from __future__ import annotations

import pytest

from longcat.stages.inference.random_stream import philox, resolve_seed, uniform

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    # kat_vectors of Random123, philox4x32 with 10 rounds.
    assert philox(counter, key) == expected


def test_every_coordinate_changes_the_number() -> None:
    numbers = {uniform(*where) for where in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (1 << 40, 0, 0)]}
    assert len(numbers) == 6
    assert all(0 <= number < 1 for number in numbers)
    assert uniform(0, 0, 0) == (0x6627E8D5E169C58D >> 11) / 2**53


def test_numbers_are_uniform() -> None:
    numbers = [uniform(3, 1, position) for position in range(20000)]
    counts = [sum(1 for number in numbers if int(number * 10) == tenth) for tenth in range(10)]
    assert sum((count - 2000) ** 2 / 2000 for count in counts) < 27.9  # 0.999 of chi-square with 9 degrees of freedom


def test_a_seed_is_kept_and_a_missing_one_drawn() -> None:
    assert resolve_seed(7) == 7
    assert resolve_seed(None) != resolve_seed(None)
