"""Number of splits per sequence, so that a batch of few sequences fills the GPU.

A function of shapes only: no data of the batch is read, so a CUDA graph captured for one shape is valid for every step.
"""

LEAST = 64  # minimum positions per part: one tile of the kernels
MOST = 128  # maximum parts per sequence
FULL = 0.8  # fraction of busy multiprocessors from which on splitting costs more than it gains
CLOSE = 0.9  # fraction of the best utilisation that is sufficient; the smallest such number of parts is used


def choose_splits(programs: int, capacity: int, multiprocessors: int) -> int:
    """Maximum number of splits: the smallest with close to the best multiprocessor utilisation.

    `programs` is the number of programs without splitting, `capacity` the maximum number of positions of a sequence.
    The memory for partial results grows with the number of splits; programs times splits is a few times the number of
    multiprocessors. Based on `num_splits_heuristic` of FlashAttention-2 (Dao 2023).
    """
    most = max(1, min(MOST, -(-capacity // LEAST)))
    if programs >= FULL * multiprocessors:
        return 1
    if programs * most <= multiprocessors:
        return most
    used = {splits: _used(programs * splits, multiprocessors) for splits in range(1, most + 1)}
    return min(splits for splits, use in used.items() if use >= CLOSE * max(used.values()))


def _used(programs: int, multiprocessors: int) -> float:
    """Fraction of busy multiprocessors while programs of equal length run, one per multiprocessor at a time."""
    waves = -(-programs // multiprocessors)
    return programs / (waves * multiprocessors)
