"""The grid of digests of a table: one leaf per column and row block, under one root.

    >>> table_grid("flights.parquet").root                                            # doctest: +SKIP
    'blake3:…'

The same logical table has the same grid whatever container, chunking or encoding it comes in; a changed value changes exactly the
leaf of its column and block. `docs/manifests.md` specifies it byte by byte.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsec_dagster.errors import LossyContainerError, VerificationError
from mlsec_dagster.integrity.digests import digest_text, framed, merkle_root
from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

BLOCK_ROWS = 65_536
BLOCK_BYTES = 32 << 20
_ROOT = b"mlsec:table:v1"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and the text of its logical type (see `logical.type_text`)."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Prefix:
    """The leaves that the last block of an earlier grid would have, had it ended after `rows` rows of this table.

    It makes an append provable when the earlier table ended in the middle of a block. It follows from the table and enters no root.
    """

    rows: int
    leaves: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class TableGrid:
    """Digests of a table's values by column and row block.

    Attributes:
        columns: Names and types, in order.
        block_rows: The number of rows in each block.
        leaves: `leaves[column][block]`, 32 bytes each.
        losses: What the container could not tell apart, one sentence each.
        prefix: See `Prefix`; only there when the grid was made with `previous=`.
    """

    columns: tuple[Column, ...]
    block_rows: tuple[int, ...]
    leaves: tuple[tuple[bytes, ...], ...]
    losses: tuple[str, ...] = ()
    prefix: Prefix | None = None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(self.block_rows)

    @property
    def root(self) -> str:
        """The digest of the whole table: columns, block sizes and all leaves."""
        import blake3

        columns = framed(*(part for column in self.columns for part in (column.name.encode(), column.type.encode())))
        blocks = b"".join(rows.to_bytes(8, "little") for rows in self.block_rows)
        tree = merkle_root([merkle_root(leaves) for leaves in self.leaves])
        return digest_text("blake3", blake3.blake3(framed(_ROOT, columns, blocks, tree)).digest())


def table_grid(
    source: object,
    *,
    schema: "TableGrid | Sequence[Column] | pa.Schema | None" = None,
    previous: TableGrid | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> TableGrid:
    """Computes the grid of a table in one streaming pass; memory does not grow with its rows.

    Args:
        source: A path of a Parquet, CSV or Feather file or of a directory of them, a pandas DataFrame, a polars DataFrame or LazyFrame, a
            pyarrow Table, RecordBatch, RecordBatchReader or iterable of RecordBatch, or anything with `__arrow_c_stream__`.
        schema: The columns in which the table is to be stated, usually those of its manifest. A column of the same name whose type is
            of the same family (any two integer types, say) is stated in the schema's type, exactly; others keep their own, so that
            `compare` sees them. None states each column in its own type; for CSV that is text.
        previous: An earlier grid of the same table. Its columns are the schema if none is given, and the new grid then proves
            whether the earlier rows are unchanged even if they ended in the middle of a block.
        limits: What to refuse; see `Limits`.

    Returns:
        The grid.

    Raises:
        UnverifiableError: The source is missing, damaged, changed while it was read, is no table, or has a type without canonical form.
        VerificationError: A value cannot be stated exactly in the schema's type.
        LossyContainerError: The container cannot tell values of the schema's type apart.
        LimitExceededError: It asks for more than `limits`.
    """
    from mlsec_dagster.integrity.readers import reading

    wanted = _wanted(schema if schema is not None else previous)
    with reading(source, limits, wanted) as opened:
        return _Builder(opened, wanted, previous).build()


def _wanted(schema: "TableGrid | Sequence[Column] | pa.Schema | None") -> "Callable[[Sequence[str]], list[pa.DataType | None]]":
    """Returns a function that gives each column name the type it should have; a repeated name by its occurrence."""
    import pyarrow as pa

    from mlsec_dagster.integrity.logical import canonical_type, parse_type

    types: dict[tuple[str, int], pa.DataType] = {}
    seen: Counter[str] = Counter()
    if isinstance(schema, pa.Schema):
        fields: Any = schema
        pairs = [(field.name, canonical_type(field.type, field.name)) for field in fields]
    else:
        columns: Any = schema.columns if isinstance(schema, TableGrid) else schema or ()
        pairs = [(column.name, parse_type(column.type)) for column in columns]
    for name, kind in pairs:
        types[name, seen[name]] = kind
        seen[name] += 1

    def wanted(names: Sequence[str]) -> "list[pa.DataType | None]":
        met: Counter[str] = Counter()
        found: list[pa.DataType | None] = []
        for name in names:
            found.append(types.get((name, met[name])))
            met[name] += 1
        return found

    return wanted


class _Builder:
    """Cuts batches into blocks and hashes the blocks in other threads while the next ones are read."""

    def __init__(self, source: Any, wanted: "Callable[[Sequence[str]], list[pa.DataType | None]]", previous: TableGrid | None) -> None:
        from mlsec_dagster.integrity.logical import canonical_type, same_family

        self.source = source
        source.meter.columns(len(source.names))
        self.types: list[pa.DataType] = []
        for name, found, asked in zip(source.names, source.types, wanted(source.names), strict=True):
            own = canonical_type(found, name)
            self.types.append(asked if asked is not None and same_family(own, asked) else own)
        # Where the earlier table's last block began, and how many rows it had.
        self.mark = (sum(previous.block_rows[:-1]), previous.block_rows[-1]) if previous and previous.block_rows else None

    def build(self) -> TableGrid:
        from mlsec_dagster.integrity.logical import type_text

        block_rows: list[int] = []
        leaves: list[list[bytes]] = []
        prefix: Future[list[bytes]] | None = None
        workers = min(os.cpu_count() or 1, 4)
        waiting: deque[Future[list[bytes]]] = deque()
        first = 0
        with ThreadPoolExecutor(workers, thread_name_prefix="mlsec-leaves") as pool:
            try:
                for chunks, rows in self.blocks():
                    if self.mark and first == self.mark[0] and rows > self.mark[1]:
                        prefix = pool.submit(self.hash_block, _head(chunks, self.mark[1]), first, self.mark[1])
                    waiting.append(pool.submit(self.hash_block, chunks, first, rows))
                    del chunks
                    if len(waiting) > workers:
                        leaves.append(waiting.popleft().result())
                    block_rows.append(rows)
                    first += rows
                leaves.extend(future.result() for future in waiting)
                ahead = tuple(prefix.result()) if prefix else ()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        columns = tuple(Column(name, type_text(kind)) for name, kind in zip(self.source.names, self.types, strict=True))
        by_column = tuple(tuple(block[place] for block in leaves) for place in range(len(columns)))
        mark = Prefix(self.mark[0] + self.mark[1], ahead) if self.mark and prefix else None
        return TableGrid(columns, tuple(block_rows), by_column, tuple(self.source.losses), mark)

    def hash_block(self, chunks: "list[list[pa.Array[Any]]]", first: int, rows: int) -> list[bytes]:
        from mlsec_dagster.integrity.canonical import leaf_digest

        try:
            return [leaf_digest(parts, kind, name) for parts, kind, name in zip(chunks, self.types, self.source.names, strict=True)]
        except (VerificationError, LossyContainerError) as error:
            raise type(error)(f"{self.source.name}, rows {first:,} to {first + rows - 1:,}: {error}") from error

    def blocks(self) -> "Iterator[tuple[list[list[pa.Array[Any]]], int]]":
        """Yields blocks of as many rows as fit: at most BLOCK_ROWS, and BLOCK_BYTES unless a single row is larger."""
        chunks: list[list[pa.Array[Any]]] = [[] for _ in self.types]
        rows = weight = 0
        for columns, count in self.source.batches:
            fixed, varying = self.weigh(columns, count)
            start = 0
            while start < count:
                take = min(count - start, BLOCK_ROWS - rows)
                took = fixed * take + (0 if varying is None else int(varying[start : start + take].sum()))
                if weight + took > BLOCK_BYTES:
                    take = _fitting(fixed, varying, start, take, BLOCK_BYTES - weight)
                    if not take and not rows:
                        take = 1  # a single row that is larger than a block has one of its own
                    took = fixed * take + (0 if varying is None else int(varying[start : start + take].sum()))
                for parts, column in zip(chunks, columns, strict=True):
                    if take:
                        parts.append(column if take == count else column.slice(start, take))
                rows, weight, start = rows + take, weight + took, start + take
                if rows == BLOCK_ROWS or (start < count and rows):
                    yield chunks, rows
                    chunks, rows, weight = [[] for _ in self.types], 0, 0
        if rows:
            yield chunks, rows

    def weigh(self, columns: "Sequence[pa.Array[Any]]", count: int) -> "tuple[int, np.ndarray[Any, Any] | None]":
        """Returns the weight that all rows have, and what each one has on top; counts both against the limits."""
        from mlsec_dagster.integrity.weights import row_weights

        fixed, varying = 0, None
        for column, kind in zip(columns, self.types, strict=True):
            weights = row_weights(column, kind)
            if isinstance(weights, int):
                fixed += weights
            else:
                varying = weights if varying is None else varying + weights
        self.source.meter.add(count, fixed * count + (0 if varying is None else int(varying.sum())))
        if count:
            self.source.meter.row(fixed + (0 if varying is None else int(varying.max())))
        return fixed, varying


def _fitting(fixed: int, varying: "np.ndarray[Any, Any] | None", start: int, most: int, room: int) -> int:
    """Returns how many of the next rows weigh no more than `room` together."""
    import numpy as np

    if varying is None:
        return min(most, room // fixed)
    return int(np.searchsorted(np.cumsum(varying[start : start + most] + fixed), room, side="right"))


def _head(chunks: "list[list[pa.Array[Any]]]", rows: int) -> "list[list[pa.Array[Any]]]":
    """Returns the first rows of a block."""
    head: list[list[pa.Array[Any]]] = []
    for parts in chunks:
        left, taken = rows, list[Any]()
        for part in parts:
            if left:
                taken.append(part.slice(0, left))
                left -= min(left, len(part))
        head.append(taken)
    return head
