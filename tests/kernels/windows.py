"""Which positions a window shows, in the words of the papers: for loops in tests."""

from longcat.kernels.mla_attention import Window


def positions(query: int, window: Window) -> list[int]:
    """Positions that a query sees, in the words of the papers."""
    block = query // window.block
    local = [j for j in range(query + 1) if block - j // window.block < window.size // window.block]
    if window.block == 1:
        local = list(range(max(0, query - window.size + 1), query + 1))
    return sorted({*local, *(j for j in range(window.sinks) if j <= query)})
