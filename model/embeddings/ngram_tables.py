"""Sizes and hash constants of n-gram tables, as plain numbers (Scaling Embeddings, arXiv 2601.21204, equation 2).

Table i = (n - 2) * K + k of the n-grams of order n = 2 ... N has m + 2 i + 1 rows, m = int(ratio * vocab_size), of
hidden_size / ((N - 1) * K) values. Numbers of parameters hardly depend on N and K.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

MAX_ROWS = 1 << 38  # of one table: products with a token id stay within 63 bits, see `bounds.MAX_WIDTH`
MAX_ORDER = 16
MAX_SPLITS = 64
# Keys of the sizes, which are written whenever there are tables; and all keys that need `ngram_vocab_size_ratio`.
NGRAM_SIZES = ("emb_neighbor_num", "emb_split_num")
NGRAM_KEYS = (*NGRAM_SIZES, "ngram_word_scale", "ngram_amplification", "ngram_excluded_ids")


@dataclass(frozen=True)
class NgramTables:
    """Tables of a model. `order` is N, the longest n-gram; `splits` is K, the number of tables of each order."""

    vocab_size: int
    hidden_size: int
    order: int
    splits: int
    ratio: float

    @property
    def count(self) -> int:
        """Number of tables."""
        return (self.order - 1) * self.splits

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.hidden_size // self.count

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of every table."""
        least = int(self.ratio * self.vocab_size)
        return tuple(least + 2 * table + 1 for table in range(self.count))

    @property
    def starts(self) -> tuple[int, ...]:
        """First row of every table if they are stacked."""
        return (0, *accumulate(self.sizes[:-1]))

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.sizes)

    @property
    def parameters(self) -> int:
        """Values of all tables, and of the projections to the model's width."""
        return self.rows * self.width + self.hidden_size * self.count * self.width

    def order_of(self, table: int) -> int:
        """Length of the n-grams of a table, the token itself included."""
        return 2 + table // self.splits

    def factors(self, table: int) -> tuple[int, ...]:
        """Factors of the token and the ids 1, 2, ... N - 1 before it, modulo the table's rows."""
        size, order = self.sizes[table], self.order_of(table)
        return tuple(pow(self.vocab_size, back, size) if back < order else 0 for back in range(self.order))


class NgramSettings(Protocol):
    """The fields of `model.config.ModelConfig` that concern n-gram embeddings."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def ngram_excluded_ids(self) -> tuple[int, ...]: ...
    @property
    def mtp_share_embeddings(self) -> bool: ...
    @property
    def ngram_tables(self) -> NgramTables | None: ...


def problem(config: NgramSettings) -> str | None:
    """Reason why a model cannot have its n-gram embeddings, naming the key; None if it can, or has none."""
    tables = config.ngram_tables
    if tables is None:
        fields: dict[str, Any] = type(config).model_fields  # type: ignore[attr-defined]
        given = [name for name in NGRAM_KEYS if getattr(config, name) != fields[name].default]
        return f"{given[0]} = {getattr(config, given[0])!r} needs ngram_vocab_size_ratio" if given else None
    if tables.hidden_size % tables.count:
        return (
            f"hidden_size = {tables.hidden_size} is not a multiple of the {tables.count} n-gram tables that "
            f"emb_neighbor_num = {tables.order} and emb_split_num = {tables.splits} make: (N - 1) * K"
        )
    if not tables.ratio * tables.vocab_size < MAX_ROWS:
        return (
            f"ngram_vocab_size_ratio = {tables.ratio:g} times vocab_size = {tables.vocab_size} is too large: an n-gram "
            f"table has at most {MAX_ROWS} rows"
        )
    outside = [number for number in config.ngram_excluded_ids if not 0 <= number < config.vocab_size]
    if outside:
        return f"ngram_excluded_ids: {outside[0]} is outside vocab_size = {config.vocab_size}"
    if config.mtp_share_embeddings:
        return (
            "mtp_share_embeddings = True and ngram_vocab_size_ratio exclude each other: multi-token prediction has a "
            "token table of its own"
        )
    return None
