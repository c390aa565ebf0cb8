"""The sample that a window leaves behind, and how many of its rows repeat another one.

Rows of the sample are chosen by random numbers that nobody knows before, the engine's or ours; they lie in random order, so that the
first rows of a sample are a sample too.

Whether rows repeat others is asked of a sample of *values*: of rows whose keyed hash is small, so that equal rows are all chosen or none
is. Whoever does not know the key cannot write rows that are never chosen. That is all it is worth: the hash is the engine's own 64-bit
hash, which is not cryptographic, XORed with a secret number and hashed again. Nobody outside sees what it yields, but who knows the key,
or who may read the engine's queries, can aim. Two different rows have equal hashes with a probability of 2^-64 unless somebody made them
so, which costs an attacker false duplicates, not hidden ones. Engines hash differently: which rows are chosen depends on the engine.
"""

# Ibis and pyarrow bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.stability.columns import Column, keyed_hash, secret_number
from mlsec_dagster.stability.conversion import TEXT, cut, settled
from mlsec_dagster.stability.profiles import SAMPLE_ROWS
from mlsec_dagster.stability.sources import Window

if TYPE_CHECKING:
    import pyarrow as pa

HASHED_ROWS: Final = 200_000
"""About so many rows are looked at for duplicates; all of them, if there are no more."""

_CELLS: Final = 4_000_000
"""Values that a sample holds at most: of 2,000 columns it keeps fewer rows."""


@dataclass(frozen=True)
class Sample:
    """What was chosen.

    Attributes:
        hashed: Rows whose hash fell into the sample for duplicates.
        duplicates: How many of them repeat another one of them.
        rows: The sample table, under the columns' names by position (`c0`, …).
    """

    hashed: int
    duplicates: int
    rows: "pa.Table"


def sample_rows(columns: int) -> int:
    """How many rows a sample of so many columns has, at most."""
    return min(SAMPLE_ROWS, max(1, _CELLS // max(columns, 1)))


def share_hashed(rows: int) -> float:
    """The share of all rows that the sample for duplicates is aimed at, 0 to 1."""
    return 1.0 if rows <= HASHED_ROWS else HASHED_ROWS / rows


def shuffled(table: "pa.Table", wanted: int) -> "pa.Table":
    """So many rows of a table by chance, in random order."""
    return table.take(np.random.default_rng().permutation(table.num_rows)[:wanted])


def row_hash(window: Window, table: Any, keyed: Sequence[Column], key: bytes) -> tuple[Any, int]:
    """A keyed hash of each row, and its lowest possible value."""
    import ibis

    values = [(table[column.id], column.dtype) for column in keyed] or [(ibis.literal(0, "int64"), "int64")]
    return keyed_hash(window.engine, values, secret_number(key, "row"))


def below(hashed: Any, lowest: int, share: float) -> Any:
    """Whether a hash is in the lowest part."""
    import ibis

    # Typed, for a number of more than 63 bits is not taken for one of the hash's type.
    return hashed < ibis.literal(lowest + int(share * 2**64), hashed.type())


def draw(window: Window, table: Any, keyed: Sequence[Column], kept: Sequence[Column], rows: int, key: bytes) -> Sample:
    """Draws the sample of a window in one pass.

    Args:
        window: Where to ask.
        table: Its table, or a slice of it.
        keyed: Columns whose values make a row the same as another one; if there are none, nothing is asked about duplicates.
        kept: Columns of the sample table.
        rows: Rows of `table`.
        key: The secret.
    """
    import ibis
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = sample_rows(len(kept))
    # A little more than what is wanted, so that hardly ever less is found.
    share = min((wanted + 6 * wanted**0.5) / max(rows, 1), 1.0)
    hashed, lowest = row_hash(window, table, keyed, key) if keyed else (ibis.null("int64"), 0)
    lot: Any = ibis.random() if share < 1 else ibis.literal(0.0)
    chosen = table.select(hash=hashed, lot=lot, **{column.id: table[column.id] for column in kept})
    drawn = chosen.lot < share
    if not keyed:
        chosen = chosen.filter(drawn)
    elif share_hashed(rows) < 1:
        chosen = chosen.filter(below(chosen.hash, lowest, share_hashed(rows)) | drawn)
    drawn = chosen.lot < share if share < 1 else None
    chosen = chosen.select(chosen.hash, chosen.lot, **{column.id: _shown(chosen, column, drawn) for column in kept})
    limit = lowest + int(share_hashed(rows) * 2**64)
    total, distinct = 0, _Distinct()
    parts: list[pa.Table] = []
    for batch in window.batches(chosen):
        if keyed:
            numbers = batch.column(0).to_numpy(zero_copy_only=False)
            if share_hashed(rows) < 1:
                numbers = numbers[numbers < np.array(limit, numbers.dtype)]
            total += len(numbers)
            distinct.add(numbers)
        part = pa.Table.from_batches([batch])
        parts.append(part.filter(pc.less(part.column(1), share)) if share < 1 else part)
    if not parts:
        sample = pa.table({column.id: pa.array([], pa.null()) for column in kept})
    else:
        sample = shuffled(pa.concat_tables(parts).drop_columns(["hash", "lot"]), wanted)
    return Sample(total, total - len(distinct), pa.table({name: settled(sample.column(name)) for name in sample.column_names}))


class _Distinct:
    """Numbers without repetition; small even if one row that happens to be chosen is there ten million times."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._pending = 0

    def add(self, numbers: NDArray[Any]) -> None:
        self._parts.append(np.unique(numbers))
        self._pending += len(self._parts[-1])
        if self._pending > 2 * HASHED_ROWS:
            self._parts, self._pending = [np.unique(np.concatenate(self._parts))], 0

    def __len__(self) -> int:
        return len(np.unique(np.concatenate(self._parts))) if self._parts else 0


def hashed_in_memory(table: "pa.Table", key: bytes) -> tuple[int, int]:
    """Looks for duplicates among the rows of a table in memory.

    Returns:
        Rows looked at, and how many of them repeat another one of them.

    Raises:
        UnverifiableError: DuckDB cannot hash them.
    """
    import duckdb

    if not table.num_rows or not table.num_columns:
        return table.num_rows, max(table.num_rows - 1, 0)
    try:
        with duckdb.connect(":memory:", config={"threads": 1}) as connection:
            connection.register("held", table)
            names = ", ".join(table.column_names)  # ours: c0, c1, …
            query = f"SELECT hash(xor(hash({names}), {secret_number(key, 'row')}::UBIGINT)) FROM held"  # noqa: S608
            hashes = connection.sql(query).to_arrow_table().column(0).to_numpy()
    except duckdb.Error as error:
        raise UnverifiableError(f"duckdb could not compare the rows of the window ({type(error).__name__})") from None
    share = share_hashed(table.num_rows)
    if share < 1:
        hashes = hashes[hashes < np.uint64(int(share * 2**64))]
    return len(hashes), len(hashes) - len(np.unique(hashes))


def _shown(table: Any, column: Column, chosen: Any) -> Any:
    """A value as the sample keeps it: texts cut, and of what is neither number, text nor time only the length, or that it is there."""
    import ibis

    value = table[column.id]
    if column.family == "text":
        value = column.text(value).left(TEXT)
    elif column.family in ("binary", "nested"):
        value = column.number(table)
    elif column.family == "number" and column.dtype.is_decimal():
        value = value.cast("float64")
    elif column.family == "time" and column.dtype.is_time():
        value = column.number(table)
    elif column.family == "other":
        value = value.notnull()
    return value if chosen is None else ibis.ifelse(chosen, value, ibis.null(value.type()))


def held_sample(table: "pa.Table") -> "pa.Table":
    """The sample of a table in memory that is in the form of samples, but for texts, which are cut here."""
    import pyarrow as pa

    sample = shuffled(table, sample_rows(table.num_columns))
    return pa.table({name: cut(sample.column(name)) for name in sample.column_names})
