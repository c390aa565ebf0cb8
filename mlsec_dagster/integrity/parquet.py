"""Parquet files, read in batches that stay small whatever a dictionary would unfold to.

A Parquet column may hold one long value and a billion references to it. Before a row group is decoded, its longest dictionary value
is looked up, and the batches are made so short that even if every row refers to it they fit in memory.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mlsec_dagster.integrity.limits import Meter
from mlsec_dagster.integrity.readers import BATCH_ROWS, Source, Wanted

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# A batch decodes to about the first of these many bytes, and to the second if each row refers to the longest value there is.
_USUAL_BYTES = 32 << 20
_WORST_BYTES = 128 << 20
# Column chunks are read in pieces of this size; pre-buffering would keep every row group that was read in memory.
_READ: "dict[str, Any]" = {"buffer_size": 1 << 20, "pre_buffer": False}
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def opened(file: "pa.NativeFile", name: str, meter: Meter, wanted: Wanted) -> Source:
    """Opens a Parquet file after checking what its metadata announces against the limits."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = pq.ParquetFile(file, **_READ)
    meter.columns(len(reader.schema_arrow))
    meter.expect(meter.rows + reader.metadata.num_rows, meter.decoded + _announced(reader.metadata))
    names = list(reader.schema_arrow.names)
    kinds = wanted(names)
    instants = _int96_columns(reader)
    losses: list[str] = []
    if instants:
        # Nanoseconds wrap around outside 1677 to 2262, so a coarser unit is read where that is all that is asked for.
        units = {getattr(kind, "unit", "ns") for label, kind in zip(names, kinds, strict=True) if label in instants and kind is not None}
        unit = "us" if units and "ns" not in units else "ns"
        reader = pq.ParquetFile(file, **_READ, coerce_int96_timestamp_unit=unit)
        what = "finer than a microsecond are not seen" if unit == "us" else "outside the years 1677 to 2262 are not told apart"
        losses = [f"column {label!r}: INT96 timestamps are read in {unit}; differences {what}" for label in sorted(instants)]
    types = list(reader.schema_arrow.types)
    # INT96 has no time zone; by convention (Spark, Hive, Impala) it counts from the epoch in UTC.
    zoned = {
        position: pa.timestamp(types[position].unit, "UTC")
        for position, (label, kind) in enumerate(zip(names, kinds, strict=True))
        if label in instants and getattr(kind, "tz", None)
    }
    types = [zoned.get(position, kind) for position, kind in enumerate(types)]
    return Source(name, names, types, _batches(reader, file, zoned), meter, losses)


def _announced(metadata: "pq.FileMetaData") -> int:
    """Returns how many bytes the file says it decodes to, at least; `canonical` counts what it really is."""
    total = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            chunk = row_group.column(column)
            total += max(chunk.total_uncompressed_size, chunk.num_values * _WIDTHS.get(chunk.physical_type, 0))
    return total


def _int96_columns(reader: "pq.ParquetFile") -> set[str]:
    schema = reader.metadata.schema
    return {schema.column(position).name for position in range(len(schema)) if schema.column(position).physical_type == "INT96"}


def _batches(
    reader: "pq.ParquetFile", file: "pa.NativeFile", zoned: "dict[int, pa.DataType]"
) -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    metadata = reader.metadata
    if not len(reader.schema_arrow):
        # Without columns there is nothing to read, but the rows are still counted.
        yield (), metadata.num_rows
        return
    runs = _runs(metadata)
    with ThreadPoolExecutor(1, thread_name_prefix="mlsec-dictionaries") as ahead:
        # Looked up while the row groups before it are decoded.
        sizes = [ahead.submit(_batch_rows, reader, file, run) for run in runs]
        try:
            for run, size in zip(runs, sizes, strict=True):
                for batch in reader.iter_batches(batch_size=size.result(), row_groups=run):
                    columns = [column.cast(zoned[place]) if place in zoned else column for place, column in enumerate(batch.columns)]
                    yield columns, batch.num_rows
        finally:
            ahead.shutdown(cancel_futures=True)


def _runs(metadata: "pq.FileMetaData") -> list[list[int]]:
    """Returns the row groups in order; small ones together, as far as they make up one batch."""
    runs: list[list[int]] = []
    rows = BATCH_ROWS
    for group in range(metadata.num_row_groups):
        if rows >= BATCH_ROWS:
            runs.append([])
            rows = 0
        runs[-1].append(group)
        rows += metadata.row_group(group).num_rows
    return runs


def _batch_rows(reader: "pq.ParquetFile", file: "pa.NativeFile", groups: Sequence[int]) -> int:
    return min(_group_batch_rows(reader, file, group) for group in groups)


def _group_batch_rows(reader: "pq.ParquetFile", file: "pa.NativeFile", group: int) -> int:
    """Returns how many rows of a row group may be decoded at once: few enough for memory even if each row is as long as can be."""
    metadata = reader.metadata
    row_group = metadata.row_group(group)
    rows = max(row_group.num_rows, 1)
    usual, worst = 0.0, 0.0
    texts: list[str] = []
    for position in range(row_group.num_columns):
        chunk, column = row_group.column(position), metadata.schema.column(position)
        per_row = chunk.num_values / rows
        if chunk.physical_type == "BYTE_ARRAY":
            usual += chunk.total_uncompressed_size / rows
            if "DELTA_BYTE_ARRAY" in chunk.encodings:
                # Each value may repeat the whole of the one before: the chunk's own size is the only bound.
                worst += per_row * chunk.total_uncompressed_size
            elif column.max_definition_level > 1 or "." in column.path:
                worst += per_row * longest_in_dictionary(file, chunk)
            else:
                texts.append(column.path)
        else:
            usual += per_row * (column.length if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(chunk.physical_type, 16))
    if texts and row_group.num_rows:
        worst += _longest_texts(file, metadata, group, texts)
    return max(1, min(BATCH_ROWS, int(_USUAL_BYTES / max(usual, 1)), int(_WORST_BYTES / max(worst, 1))))


def _longest_texts(file: "pa.NativeFile", metadata: "pq.FileMetaData", group: int, columns: list[str]) -> int:
    """Returns the sum over columns of their longest dictionary value in a row group, in bytes, without unfolding any."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    reader = pq.ParquetFile(file, metadata=metadata, **_READ, read_dictionary=columns)
    first = next(reader.iter_batches(batch_size=1, row_groups=[group], columns=columns), None)
    longest = 0
    for column in first.columns if first is not None else ():
        if isinstance(column, pa.DictionaryArray) and len(column.dictionary):
            longest += pc.max(pc.binary_length(column.dictionary)).as_py() or 0
    return longest


def longest_in_dictionary(file: "pa.NativeFile", chunk: "pq.ColumnChunkMetaData") -> int:
    """Returns the length of the longest value in the dictionary page of a nested text column (0 without a dictionary).

    pyarrow keeps only flat columns as dictionaries, so the page is read here: a Thrift `PageHeader`, then, once decompressed, each
    value behind its length. Source: the Parquet format's `parquet.thrift` and `Encodings.md`, "Dictionary Encoding".
    """
    import pyarrow as pa

    start = chunk.dictionary_page_offset or chunk.data_page_offset
    header = file.read_at(256, min(start, chunk.data_page_offset))
    kind, unpacked, packed, size = _page_header(header)
    if kind != _DICTIONARY_PAGE:
        return 0
    try:
        page = file.read_at(packed, min(start, chunk.data_page_offset) + size)
        codec = {"UNCOMPRESSED": None, "LZ4": "lz4_raw"}.get(chunk.compression, chunk.compression.lower())
        data = page if codec is None else pa.decompress(page, unpacked, codec, asbytes=True)
    except (pa.ArrowException, ValueError, OSError):
        return unpacked  # a codec with another framing: no value is longer than the page
    longest = place = 0
    while place + 4 <= len(data):
        length = int.from_bytes(data[place : place + 4], "little")
        longest = max(longest, length)
        place += 4 + length
    return longest


_DICTIONARY_PAGE = 2


def _page_header(data: bytes) -> tuple[int, int, int, int]:
    """Reads page type, uncompressed and compressed size from a Thrift compact `PageHeader`, and the header's own length."""
    place = 0

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return (value >> 1) ^ -(value & 1)

    def structure() -> list[int]:
        nonlocal place
        values: list[int] = []
        while data[place]:
            kind = data[place] & 15
            place += 1
            if kind in (3, 4, 5, 6):
                values.append(number())
            elif kind == 12:
                structure()
            elif kind not in (1, 2):
                break
        place += 1
        return values

    try:
        kind, unpacked, packed = structure()[:3]
    except (IndexError, ValueError):
        return -1, 0, 0, 0
    return kind, unpacked, packed, place
