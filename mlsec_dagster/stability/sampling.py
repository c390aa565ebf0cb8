"""The sample that a window leaves behind, and how many of its rows repeat another one.

A row is chosen by a keyed hash of its values. Whoever does not know the key cannot write rows that are never chosen, or always. That is
all it is worth: the hash is the engine's own 64-bit hash, which is not cryptographic, XORed with a secret number and hashed again. Nobody
outside sees what it yields, but who knows the key, or who may read the engine's queries, can aim. Two equal rows always have equal
hashes, so duplicates are chosen together; two different rows have equal ones with a probability of 2^-64 unless somebody made
them so, which costs an attacker false duplicates, not hidden ones. Engines hash differently: which rows are chosen depends on the engine.
"""

# Ibis, numpy and pyarrow compute functions bring no types that a checker knows.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlsec_dagster.stability.columns import Column, keyed_hash, secret_number
from mlsec_dagster.stability.profiles import SAMPLE_ROWS
from mlsec_dagster.stability.sources import Window

if TYPE_CHECKING:
    import pyarrow as pa

HASHED_ROWS: Final = 200_000
"""About so many rows are looked at for duplicates; all of them, if there are no more."""

TEXT: Final = 256
"""Characters that the sample keeps of a text."""

_CELLS: Final = 4_000_000
"""Values that a sample holds at most: of 2,000 columns it keeps fewer rows."""


@dataclass(frozen=True)
class Sample:
    """What was chosen.

    Attributes:
        hashed: Rows whose hash fell into the sample for duplicates.
        duplicates: How many of them repeat another one of them.
        share: The share of all rows that this sample was aimed at, 0 to 1.
        rows: The sample table, under the columns' names by position (`c0`, …).
    """

    hashed: int
    duplicates: int
    share: float
    rows: "pa.Table"


def draw(window: Window, table: Any, keyed: Sequence[Column], kept: Sequence[Column], rows: int, key: bytes) -> Sample:
    """Draws the sample of a window in one pass.

    Args:
        window: Where to ask.
        table: Its table, or a slice of it.
        keyed: Columns whose values make a row the same as another one.
        kept: Columns of the sample table.
        rows: Rows of `table`.
        key: The secret.
    """
    import ibis
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = min(SAMPLE_ROWS, max(1, _CELLS // max(len(kept), 1)))
    share, share_kept = (1.0 if rows <= most else most / rows for most in (HASHED_ROWS, wanted))
    values = [(table[column.id], column.dtype) for column in keyed]
    if not values:
        values = [(ibis.literal(0, "int64"), "int64")]
    hashed, lowest = keyed_hash(window.engine, values, secret_number(key, "row"))
    # Hashed once, then used for both thresholds.
    chosen = table.select(hash=hashed, **{column.id: table[column.id] for column in kept})
    # Typed, for a number of more than 63 bits is not taken for one of the hash's type.
    if share < 1:
        chosen = chosen.filter(chosen.hash < ibis.literal(lowest + int(share * 2**64), hashed.type()))
    limit = lowest + int(share_kept * 2**64) if share_kept < 1 else None
    chosen = chosen.select(
        chosen.hash,
        **{
            column.id: _shown(chosen, column, None if limit is None else chosen.hash < ibis.literal(limit, hashed.type()))
            for column in kept
        },
    )
    hashes: list[Any] = []
    parts: list[pa.Table] = []
    pending, total = 0, 0
    unique: Any = np.empty(0, np.uint64)
    for batch in window.batches(chosen):
        numbers = batch.column(0).to_numpy(zero_copy_only=False)
        total += len(numbers)
        hashes.append(np.unique(numbers))
        pending += len(hashes[-1])
        if pending > 2 * HASHED_ROWS:
            # Kept small even if one row that happens to be chosen is there ten million times.
            unique, hashes, pending = np.unique(np.concatenate([unique.astype(numbers.dtype), *hashes])), [], 0
        part = pa.Table.from_batches([batch])
        parts.append(part if limit is None else part.filter(pc.less(part.column(0), pa.scalar(limit, part.schema.field(0).type))))
        if sum(each.num_rows for each in parts) > 4 * wanted:
            parts = [_lowest(parts, wanted)]
    if hashes:
        unique = np.unique(np.concatenate([unique.astype(hashes[0].dtype), *hashes]))
    if parts:
        drawn = _lowest(parts, wanted)
    else:
        drawn = pa.table({"hash": pa.array([], pa.uint64()), **{column.id: pa.array([], pa.null()) for column in kept}})
    return Sample(total, total - len(unique), share, drawn.drop_columns(["hash"]))


def _lowest(parts: "Sequence[pa.Table]", wanted: int) -> "pa.Table":
    """The rows with the lowest hashes, in an order that depends on nothing but their values."""
    import pyarrow as pa
    import pyarrow.types as t

    table = pa.concat_tables(parts)
    sortable = [
        (field.name, "ascending")
        for field in table.schema
        if t.is_primitive(field.type) or t.is_string(field.type) or t.is_large_string(field.type) or t.is_decimal(field.type)
    ]
    # Equal hashes are equal rows but for their identifiers; a handful of columns tells those apart.
    return table.sort_by(sortable[:9]).slice(0, wanted)


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
