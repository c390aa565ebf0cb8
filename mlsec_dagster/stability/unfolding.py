"""How much a table unfolds to, told before it does: one long text in a dictionary can stand for terabytes.

What is read through Arrow is cut into pieces that stay small when each row has its own value (`pieces`). What DuckDB is to read from a
Parquet file is asked for the lengths of its texts first (`weigh`): it takes them from the dictionary, once for each value there.
"""

# pyarrow and DuckDB bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.limits import Meter
from mlsec_dagster.integrity.readers import BATCH_ROWS
from mlsec_dagster.stability.connections import connected

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PIECE_BYTES: Final = 64 << 20
"""What a piece of a table unfolds to, at most, if it has more than one row."""

_AT_ONCE: Final = 500
"""Columns in one query."""


def pieces(arrays: "Sequence[pa.Array[Any]]", rows: int, meter: Meter) -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    """Cuts a batch into pieces that may be unfolded, and counts them.

    Raises:
        LimitExceededError: It unfolds to more than the limits allow. Nothing of it was unfolded then.
    """
    for start in range(0, max(rows, 1), BATCH_ROWS):
        count = min(BATCH_ROWS, rows - start)
        yield from _halved([array.slice(start, count) for array in arrays] if rows > BATCH_ROWS else arrays, count, meter)


def _halved(arrays: "Sequence[pa.Array[Any]]", rows: int, meter: Meter) -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    size = sum(unfolded(array) for array in arrays)
    meter.expect(meter.rows + rows, meter.decoded + size)
    if size <= PIECE_BYTES or rows <= 1:
        if rows == 1:
            meter.row(size)
        meter.add(rows, size)
        yield arrays, rows
        return
    half = rows // 2
    yield from _halved([array.slice(0, half) for array in arrays], half, meter)
    yield from _halved([array.slice(half) for array in arrays], rows - half, meter)


def unfolded(values: "pa.Array[Any]") -> int:
    """Returns how many bytes an array takes when each row has its own value, without giving it one; never too few."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    kind = values.type
    if not _folds(kind):
        return values.nbytes
    if isinstance(values, pa.ExtensionArray):
        return unfolded(values.storage)
    if isinstance(values, pa.DictionaryArray):
        return _repeated(_sizes(values.dictionary).take(values.indices))
    if t.is_run_end_encoded(kind):
        runs = pa.RunEndEncodedArray.from_arrays(values.run_ends, _sizes(values.values)).slice(values.offset, len(values))
        return _repeated(pc.run_end_decode(runs))
    if t.is_string_view(kind) or t.is_binary_view(kind):
        return _repeated(_sizes(values))
    if t.is_struct(kind):
        return sum(unfolded(child) for child in values.flatten())
    if t.is_list_view(kind) or t.is_large_list_view(kind):  # may overlap
        items = pc.sum(pc.list_value_length(values)).as_py() or 0
        return int(items * (pc.max(_sizes(values.values)).as_py() or 0)) + 8 * len(values)
    if t.is_map(kind):
        values = values.cast(pa.list_(pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])))
    return unfolded(values.flatten()) + 8 * len(values)


def may_unfold(metadata: "pq.FileMetaData") -> int:
    """Returns how many bytes the texts of a Parquet file cannot exceed, going by its footer: if each of them were all that there is."""
    return sum(chunk.num_values * chunk.total_uncompressed_size for chunk in _texts(metadata))


def weigh(files: Sequence[Path], meter: Meter) -> None:
    """Finds out how long the texts of Parquet files are in all, before anything that would copy or compare them.

    Args:
        files: The files.
        meter: Knows the limits.

    Raises:
        LimitExceededError: They unfold to more than the limits allow.
        UnverifiableError: DuckDB cannot say: it stopped, for want of memory as a rule.
    """
    import duckdb

    total = 0
    with ExitStack() as stack:
        connection, links = connected(stack, files)
        try:
            kinds = [str(row[1]) for row in connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [links]).fetchall()]
            asked = [(place, _LENGTH[kind]) for place, kind in enumerate(kinds) if kind in _LENGTH]
            for start in range(0, len(asked), _AT_ONCE):
                # Columns go by their place, so that no name that comes from data is in the query.
                lengths = ", ".join(f"sum({length}(c{place}))" for place, length in asked[start : start + _AT_ONCE])
                columns = ", ".join(f"c{place}" for place in range(len(kinds)))
                (found,) = connection.execute(f"SELECT {lengths} FROM read_parquet(?) AS held({columns})", [links]).fetchall()  # noqa: S608
                total += sum(int(length or 0) for length in found)
                meter.expect(meter.rows, total)
        except duckdb.Error as error:
            raise UnverifiableError(
                f"duckdb could not tell how long the texts of {meter.name} are ({type(error).__name__}), so they may be more than memory "
                f"holds: look for single values that are very long and very many"
            ) from None
    if any(kind not in _LENGTH and ("VARCHAR" in kind or "BLOB" in kind) for kind in kinds):
        meter.expect(meter.rows, total + sum(_nested(file, meter.limits.ratio_from) for file in files))


_LENGTH: Final = {"VARCHAR": "strlen", "JSON": "strlen", "BLOB": "octet_length"}


def _nested(file: Path, enough: int) -> int:
    """Bytes of texts within lists, maps and structs, at most; exact only beyond `enough`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mlsec_dagster.integrity.parquet import longest_in_dictionary

    chunks = [chunk for chunk in _texts(pq.read_metadata(file)) if "." in chunk.path_in_schema]
    if sum(chunk.num_values * chunk.total_uncompressed_size for chunk in chunks) <= enough:
        return 0
    with pa.OSFile(str(file)) as opened:
        return sum(chunk.total_uncompressed_size + chunk.num_values * longest_in_dictionary(opened, chunk) for chunk in chunks)


def _texts(metadata: "pq.FileMetaData") -> "Iterator[pq.ColumnChunkMetaData]":
    """The column chunks that hold texts or binary values."""
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.physical_type == "BYTE_ARRAY":
                yield chunk


def _repeated(sizes: "pa.Array[Any]") -> int:
    import pyarrow.compute as pc

    return int(pc.sum(sizes).as_py() or 0) + 8 * len(sizes)


def _sizes(values: "pa.Array[Any]") -> "pa.Array[Any]":
    """Bytes of each value (int64)."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    kind = values.type
    if t.is_string_view(kind) or t.is_binary_view(kind):
        # Arrow tells the length of a view of texts in characters only; the first four of its sixteen bytes are that in bytes.
        import numpy as np

        from mlsec_dagster.integrity import buffers

        raw = values.buffers()[1]
        lengths = np.frombuffer(raw if raw is not None else b"", "<i4")[::4][values.offset : values.offset + len(values)].astype(np.int64)
        return pa.array(lengths * buffers.numbers(pc.is_valid(values).cast(pa.int8())) if values.null_count else lengths)
    if t.is_string(kind) or t.is_binary(kind) or t.is_large_string(kind) or t.is_large_binary(kind):
        return pc.binary_length(values).cast(pa.int64())
    if t.is_nested(kind) or _folds(kind):
        return pa.array([unfolded(values.slice(place, 1)) for place in range(len(values))], pa.int64())
    width = 0 if t.is_null(kind) else -(-kind.bit_width // 8)
    return pa.repeat(pa.scalar(width, pa.int64()), len(values))


def _folds(kind: "pa.DataType") -> bool:
    """Whether one stored value of a type may stand for many."""
    import pyarrow as pa
    import pyarrow.types as t

    if isinstance(kind, pa.BaseExtensionType):
        return _folds(kind.storage_type)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind) or t.is_string_view(kind) or t.is_binary_view(kind):
        return True
    if t.is_list_view(kind) or t.is_large_list_view(kind):
        return True
    return any(_folds(kind.field(place).type) for place in range(kind.num_fields)) if t.is_nested(kind) else False
