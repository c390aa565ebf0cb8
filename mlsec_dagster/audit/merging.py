"""Rows of any number of files in the order of their times, in bounded memory.

    with Merging() as merging:
        merging.add(table)                 # any number of times, in any order
        for table in merging.merged():     # by time, then by key
            ...

An external merge sort: what comes is sorted piece by piece and laid down in a file without a name, and then the pieces are merged, of each
of which a little is in memory.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Iterator
from tempfile import TemporaryFile
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa

_PIECE_ROWS: Final = 65_536
_PIECE_BYTES: Final = 32 << 20
_LITTLE_ROWS: Final = 1024
_LITTLE_BYTES: Final = 256 << 10
_ORDER: Final = [("time", "ascending"), ("key", "ascending")]


class Merging:
    """Rows that are being brought into order. Leave it, and the disk is free again."""

    def __init__(self) -> None:
        self._file = TemporaryFile()  # noqa: SIM115 - it is closed when the merging is left
        self._sink = pa.PythonFile(self._file, "w")
        self._writer: Any = None
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._bytes = 0
        self._written = 0
        self._pieces: list[range] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, table: pa.Table) -> None:
        """Take rows in."""
        self._waiting.append(table)
        self._rows += table.num_rows
        self._bytes += table.nbytes
        if self._rows >= _PIECE_ROWS or self._bytes >= _PIECE_BYTES:
            self._lay_down()

    def _lay_down(self) -> None:
        if not self._rows:
            return
        piece = pa.concat_tables(self._waiting).sort_by(_ORDER).combine_chunks()
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._sink, piece.schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        rows = max(1, min(_LITTLE_ROWS, _LITTLE_BYTES * piece.num_rows // max(piece.nbytes, 1)))
        batches = piece.to_batches(max_chunksize=rows)
        for batch in batches:
            self._writer.write_batch(batch)
        self._pieces.append(range(self._written, self._written + len(batches)))
        self._written += len(batches)
        self._waiting, self._rows, self._bytes = [], 0, 0

    def merged(self) -> Iterator[pa.Table]:
        """All rows, in order, in tables of no particular size."""
        self._lay_down()
        if self._writer is None:
            return
        self._writer.close()
        self._sink.flush()
        self._file.flush()
        self._file.seek(0)
        reader = pa.ipc.open_file(pa.PythonFile(self._file, "r"))
        pieces = [_Piece(reader, numbers) for numbers in self._pieces]
        while pieces:
            # Up to here nothing can come any more that belongs before.
            end = min(piece.last for piece in pieces)
            taken = [rows for piece in pieces if (rows := piece.take(end)) is not None]
            table = pa.Table.from_batches(taken)
            yield table if len(taken) == 1 else table.sort_by(_ORDER)
            pieces = [piece for piece in pieces if not piece.done]


class _Piece:
    """What was sorted at once, and the little of it that is in memory."""

    def __init__(self, reader: Any, numbers: range) -> None:
        self._reader = reader
        self._numbers = iter(numbers)
        self.done = False
        self._next()

    @property
    def last(self) -> int:
        return int(self._times[-1])

    def take(self, end: int) -> Any:
        """Rows up to a time, if the next rows have any."""
        count = int(np.searchsorted(self._times, end, side="right"))
        if not count:
            return None
        rows = self._batch.slice(0, count)
        if count == len(self._times):
            self._next()
        else:
            self._batch, self._times = self._batch.slice(count), self._times[count:]
        return rows

    def _next(self) -> None:
        number = next(self._numbers, None)
        if number is None:
            self.done = True
            return
        self._batch = self._reader.get_batch(number)
        self._times = self._batch.column("time").cast(pa.int64()).to_numpy(zero_copy_only=False)
