"""One Parquet file of the trail while it is written.

part = Part(path, "2026-05-01", storage.create(path))
part.write(table)                      # any number of times, a row group each
file = part.close("aws.cloudtrail")    # with its digest; in nobody's table yet
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlsec_dagster.audit.files import Sink, TrailFile
from mlsec_dagster.audit.known import Keys, key_numbers
from mlsec_dagster.audit.rows import FILE_SCHEMA


class Part:
    """One file that is being written.

    Args:
        path: Below the table's root.
        day: "2026-05-01", the day of its rows.
        sink: Takes its bytes.
        keep_keys: Whether `keys` is filled: the keys of the rows, by row groups.
    """

    def __init__(self, path: str, day: str, sink: Sink, *, keep_keys: bool = True) -> None:
        self.path = path
        self.day = day
        self.sink = sink
        self.keys: list[Keys] = []
        self.rows = 0
        self._keep_keys = keep_keys
        self._writer: pq.ParquetWriter | None = None
        # Parquet is written in many small pieces, and whoever takes them in Python waits for the other threads each time.
        self._buffered = pa.BufferedOutputStream(pa.PythonFile(sink, "w"), _BUFFER)
        self._first: int | None = None
        self._last: int | None = None

    def write(self, table: pa.Table) -> None:
        """Take rows, at least one, as a row group."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._buffered,
                FILE_SCHEMA,
                compression="zstd",
                compression_level=1,
                use_dictionary=_DICTIONARY,
                write_statistics=_STATISTICS,
            )
        self._writer.write_table(table)
        times = pc.min_max(table.column("time").cast(pa.int64())).as_py()
        self._first = times["min"] if self._first is None else min(self._first, times["min"])
        self._last = times["max"] if self._last is None else max(self._last, times["max"])
        self.rows += table.num_rows
        if self._keep_keys:
            self.keys.append(key_numbers(table.column("key")))

    def close(self, source: str) -> TrailFile:
        """Bring the file to the disk, and say what it is."""
        if self._writer is not None:
            self._writer.close()
        self._buffered.flush()
        self.sink.close()
        return TrailFile(self.path, source, self.day, self.sink.size, self.rows, self._first, self._last, self.sink.digest)


_BUFFER: Final = 4 << 20
# Of these columns every row has another value, so that a dictionary of them would be as large as the column.
_DICTIONARY: Final[Any] = [field.name for field in FILE_SCHEMA if field.name not in {"key", "id", "time", "logged", "request_id", "raw"}]
_STATISTICS: Final[Any] = [field.name for field in FILE_SCHEMA if field.name not in {"key", "raw", "reason"}]
