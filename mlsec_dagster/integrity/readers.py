"""Tables from wherever they are, as one stream of Arrow arrays.

Whatever is read here stays in the encoding it came in (a dictionary is not decoded); `canonical` takes that away block by block.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import os
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mlsec_dagster.errors import MlsecError, UnverifiableError
from mlsec_dagster.integrity.limits import Limits, Meter

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 65_536

TABLES = {
    "pandas": ("DataFrame",),
    "polars": ("DataFrame", "LazyFrame"),
    "pyarrow": ("Table", "RecordBatch", "RecordBatchReader"),
}
"""Library -> its classes of tables."""

ARROW_STREAM = "__arrow_c_stream__"
"""The method of other libraries' tables."""


@dataclass(slots=True)
class Source:
    """A table that is being read.

    Attributes:
        name: What it is called in messages.
        names: Column names, in order; they need not differ.
        types: The Arrow type of each column, as found.
        batches: The rows, in order; each batch has one array per column.
        meter: Counts against the limits.
        losses: What the container could not tell apart; complete when all batches were read.
    """

    name: str
    names: list[str]
    types: "list[pa.DataType]"
    batches: "Iterator[tuple[Sequence[pa.Array[Any]], int]]"
    meter: Meter
    losses: list[str] = field(default_factory=list[str])


# Says for column names which canonical type each should have, or None.
Wanted: TypeAlias = "Callable[[Sequence[str]], list[pa.DataType | None]]"


def is_table(value: object) -> bool:
    """Says whether `table_grid` can read a value in memory, without importing a library that is not loaded yet."""
    return _kind_of(value) is not None or hasattr(value, ARROW_STREAM)


def _kind_of(value: object) -> str | None:
    for module, names in TABLES.items():
        library = sys.modules.get(module)
        for name in names if library is not None else ():
            if isinstance(value, getattr(library, name, ())):
                return f"{module}.{name}"
    return None


@contextmanager
def reading(source: object, limits: Limits, wanted: Wanted) -> "Generator[Source, None, None]":
    """Opens a table for one pass.

    Args:
        source: A path (Parquet, CSV, Feather, or a directory of such parts in the order of their names), a pandas or polars frame,
            a polars LazyFrame, a pyarrow Table, RecordBatch or RecordBatchReader, an iterable of RecordBatch, or anything with
            `__arrow_c_stream__`.
        limits: Bounds, for files checked on their metadata before anything is decoded.
        wanted: Says for column names which canonical type each should have, or None; used where a container has no types.

    Yields:
        The opened source, to be read inside the `with`.

    Raises:
        UnverifiableError: It is no table, or is damaged; or, on leaving, the file changed while it was read.
        LimitExceededError: It asks for more than the limits allow.
    """
    import pyarrow as pa

    from mlsec_dagster.integrity import containers

    name = (
        str(source) if isinstance(source, str | os.PathLike) else f"the {type(source).__module__.partition('.')[0]} {type(source).__name__}"
    )
    try:
        if isinstance(source, str | os.PathLike):
            with containers.opened(os.fspath(source), limits, wanted) as opened:
                yield opened
        else:
            yield _in_memory(source, name, limits, wanted)
    except MlsecError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        # Not `from error`: what logs show of this must not quote the data.
        raise UnverifiableError(f"{name} cannot be read as a table ({_reason(error)}); if it is damaged, materialize it again") from None


def _reason(error: Exception) -> str:
    """A library's message without the values that it quotes: a CSV row that does not parse, a text that is no number."""
    text = " ".join(str(error).split())
    if "CSV" in text:
        found = re.match(
            r"In CSV column #\d+: CSV conversion error to \w+|CSV parse error: (Row #\d+: )?Expected \d+ columns, got \d+", text
        )
        return found[0] if found else "CSV error"
    return re.split("['\"]", text, maxsplit=1)[0].strip()[:300] or type(error).__name__


def _in_memory(source: Any, name: str, limits: Limits, wanted: Wanted) -> Source:
    import pyarrow as pa

    kind = _kind_of(source)
    meter = Meter(name, limits)
    if kind == "pandas.DataFrame":
        return _pandas(source, name, meter, wanted)
    if kind == "polars.DataFrame":
        head = source.clear().to_arrow()
        slices = (source.slice(start, BATCH_ROWS).to_arrow() for start in range(0, source.height, BATCH_ROWS))
        return _source(name, head.schema, _tables(slices), meter)
    if kind == "polars.LazyFrame":
        import polars

        schema = polars.DataFrame(schema=source.collect_schema()).to_arrow().schema
        frames = source.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)
        return _source(name, schema, _tables(frame.to_arrow() for frame in frames), meter)
    if kind == "pyarrow.Table":
        return _source(name, source.schema, _tables([source]), meter)
    if kind == "pyarrow.RecordBatch":
        return _source(name, source.schema, _batches([source]), meter)
    if kind == "pyarrow.RecordBatchReader":
        return _source(name, source.schema, _batches(source), meter)
    if hasattr(source, "__arrow_c_stream__"):
        reader = pa.RecordBatchReader.from_stream(source)
        return _source(name, reader.schema, _batches(reader), meter)
    if isinstance(source, Iterable):
        batches: Iterator[Any] = iter(source)
        first: Any = next(batches, None)
        if isinstance(first, pa.RecordBatch):
            return _source(name, first.schema, _batches(_chained(first, batches, name)), meter)
        if first is None:
            raise UnverifiableError(
                f"{name} has no record batches, so its columns are unknown; pass a RecordBatchReader, which has a schema"
            )
    raise UnverifiableError(
        f"{name} is no table; expected a pandas or polars frame, a pyarrow Table, RecordBatchReader or iterable of RecordBatch, or a path"
    )


def _chained(first: Any, rest: "Iterator[Any]", name: str) -> "Iterator[pa.RecordBatch]":
    yield first
    for batch in rest:
        if not hasattr(batch, "schema") or not batch.schema.equals(first.schema):
            raise UnverifiableError(f"{name}: a later batch has other columns than the first; all batches of a table have one schema")
        yield batch


def _source(name: str, schema: "pa.Schema", batches: "Iterator[tuple[Sequence[pa.Array[Any]], int]]", meter: Meter) -> Source:
    return Source(name, list(schema.names), list(schema.types), batches, meter)


def _batches(batches: "Iterable[pa.RecordBatch]") -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    for batch in batches:
        yield batch.columns, batch.num_rows


def _tables(tables: "Iterable[pa.Table]") -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    for table in tables:
        if not table.num_columns:
            yield (), table.num_rows
        for batch in table.to_batches():
            yield batch.columns, batch.num_rows


def _pandas(frame: Any, name: str, meter: Meter, wanted: Wanted) -> Source:
    """Converts a pandas frame column by column, as pandas' own writers do; an index other than a plain range becomes columns."""
    import pandas as pd
    import pyarrow as pa

    if not isinstance(frame.index, pd.RangeIndex):
        labels = [label if label is not None else f"__index_level_{level}__" for level, label in enumerate(frame.index.names)]
        index = [frame.index.get_level_values(level) for level in range(frame.index.nlevels)]
    else:
        labels, index = [], []
    series = [frame.iloc[:, position] for position in range(frame.shape[1])] + index
    names = [str(label) for label in [*frame.columns, *labels]]
    losses: list[str] = []
    columns: list[pa.ChunkedArray[Any]] = []
    for label, values, kind in zip(names, series, wanted(names), strict=True):
        hint = kind if values.dtype == object else None
        try:
            converted = pa.array(values, from_pandas=True, type=hint)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            if hint is None:
                # Arrow's own message may quote a value.
                raise UnverifiableError(f"{name}: column {label!r} has values of several types; give it one type") from None
            converted = pa.array(values, from_pandas=True)
        chunked = converted if isinstance(converted, pa.ChunkedArray) else pa.chunked_array([converted])
        if _may_hide_nan(values.dtype, chunked.type) and any(_has_null(chunk) for chunk in chunked.chunks):
            losses.append(f"column {label!r}: NaN and null cannot be told apart in a pandas {values.dtype} column; both are stated as null")
        columns.append(chunked)
    schema = pa.schema([pa.field(label, column.type) for label, column in zip(names, columns, strict=True)])
    batches = _batches_of(columns, len(frame))
    return Source(name, names, list(schema.types), batches, meter, losses)


def _batches_of(columns: "Sequence[pa.ChunkedArray[Any]]", rows: int) -> "Iterator[tuple[Sequence[pa.Array[Any]], int]]":
    for start in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - start)
        parts = [column.slice(start, count) for column in columns]
        yield [part.chunk(0) if part.num_chunks == 1 else part.combine_chunks() for part in parts], count


def _may_hide_nan(dtype: Any, kind: "pa.DataType") -> bool:
    """A masked or Arrow-backed column keeps nulls apart from NaN; a text, a timestamp or a category has no NaN to confuse them with."""
    return dtype.kind in "fO" and type(dtype).__module__.startswith("numpy") and _has_nan_type(kind)


def _has_nan_type(kind: "pa.DataType") -> bool:
    import pyarrow.types as t

    if t.is_nested(kind):
        return any(_has_nan_type(kind.field(position).type) for position in range(kind.num_fields))
    return t.is_floating(kind) or t.is_decimal(kind)


def _has_null(values: "pa.Array[Any]") -> bool:
    import pyarrow.types as t

    if values.null_count:
        return True
    if t.is_struct(values.type):
        return any(_has_null(child) for child in values.flatten())
    if t.is_list(values.type) or t.is_large_list(values.type) or t.is_fixed_size_list(values.type):
        return _has_null(values.flatten())
    return False
