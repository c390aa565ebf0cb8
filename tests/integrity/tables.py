"""Random tables, and the many ways to write the same one down."""

import datetime
import decimal
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
from hypothesis import strategies as st

# Surrogates cannot be encoded, and NUL ends a text for some CSV readers.
_TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=6)
_DAYS = st.dates(datetime.date(1970, 1, 2), datetime.date(2200, 1, 1))
_MOMENTS = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(2200, 1, 1))

# Types that every container can hold, including CSV and pandas.
FLAT: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**52), 2**52),
    pa.int8(): st.integers(-128, 127),
    pa.uint32(): st.integers(0, 2**32 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): _TEXT.filter(bool),
    pa.date32(): _DAYS,
    pa.timestamp("us"): _MOMENTS,
    pa.timestamp("us", "UTC"): _MOMENTS.map(lambda moment: moment.replace(tzinfo=datetime.UTC)),
    pa.decimal128(9, 2): st.decimals(-9999999, 9999999, places=2, allow_nan=False),
}
# Types that Parquet, Feather, polars and Arrow in memory can hold.
RICH: dict[pa.DataType, st.SearchStrategy[Any]] = FLAT | {
    pa.binary(): st.binary(max_size=6),
    pa.float64(): st.floats(),
    pa.duration("us"): st.integers(-(2**40), 2**40),
    pa.time64("us"): st.times(),
    pa.list_(pa.int32()): st.lists(st.none() | st.integers(-9, 9), max_size=4),
    pa.list_(pa.string()): st.lists(st.none() | _TEXT, max_size=3),
    pa.list_(pa.float32(), 2): st.lists(st.floats(width=32), min_size=2, max_size=2),
    pa.struct([pa.field("a", pa.int16()), pa.field("b", pa.list_(pa.string()))]): st.fixed_dictionaries(
        {"a": st.none() | st.integers(-9, 9), "b": st.none() | st.lists(_TEXT, max_size=2)}
    ),
}


@st.composite
def columns(draw: st.DrawFn, kinds: dict[pa.DataType, st.SearchStrategy[Any]], *, rows: int, nulls: bool = True) -> pa.Array:
    kind = draw(st.sampled_from(sorted(kinds, key=str)))
    value = st.none() | kinds[kind] if nulls else kinds[kind]
    return pa.array(draw(st.lists(value, min_size=rows, max_size=rows)), kind)


@st.composite
def tables(
    draw: st.DrawFn, kinds: dict[pa.DataType, st.SearchStrategy[Any]], *, min_rows: int = 0, max_rows: int = 30, nulls: bool = True
) -> pa.Table:
    rows = draw(st.integers(min_rows, max_rows))
    count = draw(st.integers(1, 4))
    arrays = [draw(columns(kinds, rows=rows, nulls=nulls)) for _ in range(count)]
    return pa.table(arrays, [f"c{place}" for place in range(count)])


@st.composite
def rechunked(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    """The same table in other chunks, offsets and encodings, with garbage where there is nothing."""
    arrays = []
    for column in table.columns:
        array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        disguises = _disguises(array.type)
        mixed, one = draw(st.booleans()), draw(st.sampled_from(disguises))
        cuts = sorted(draw(st.lists(st.integers(0, len(array)), max_size=4)))
        pieces = [
            draw(st.sampled_from(disguises) if mixed else st.just(one))(array.slice(start, end - start))
            for start, end in zip([0, *cuts], [*cuts, len(array)], strict=True)
        ]
        # One chunked array has one type: the disguises that change it are kept only if all pieces wear the same.
        if any(not piece.type.equals(pieces[0].type) for piece in pieces):
            pieces = [_plain(piece).cast(array.type) for piece in pieces]
        arrays.append(pa.chunked_array(pieces))
    return pa.table(arrays, table.column_names)


def _plain(piece: pa.Array) -> pa.Array:
    if isinstance(piece, pa.DictionaryArray):
        return piece.dictionary_decode()
    return pc.run_end_decode(piece) if pa.types.is_run_end_encoded(piece.type) else piece


def with_offset(array: pa.Array) -> pa.Array:
    padded = pa.concat_arrays([array.slice(0, min(3, len(array))), array])
    return padded.slice(min(3, len(array)))


def with_garbage(array: pa.Array) -> pa.Array:
    """Fills null slots of a fixed-width array with bits that are not zero."""
    if not array.null_count or not pa.types.is_primitive(array.type) or pa.types.is_boolean(array.type):
        return array
    width, plain = array.type.bit_width // 8, with_offset(array)
    data = bytearray(plain.buffers()[1])
    for place in range(len(plain)):
        if not plain[place].is_valid:
            at = (plain.offset + place) * width
            data[at : at + width] = b"\xa5" * width
    return pa.Array.from_buffers(plain.type, len(plain), [plain.buffers()[0], pa.py_buffer(bytes(data))], offset=plain.offset)


def _disguises(kind: pa.DataType) -> list[Any]:
    same: list[Any] = [lambda array: array, with_offset, with_garbage]
    if pa.types.is_string(kind):
        same += [lambda array: array.cast(pa.large_string()), lambda array: array.cast(pa.string_view())]
    if pa.types.is_binary(kind):
        same += [lambda array: array.cast(pa.large_binary()), lambda array: array.cast(pa.binary_view())]
    if pa.types.is_list(kind):
        same += [lambda array: array.cast(pa.large_list(kind.value_type))]
    if not pa.types.is_nested(kind) and not pa.types.is_floating(kind):
        same += [pc.dictionary_encode]
    if pa.types.is_string(kind) or pa.types.is_integer(kind):
        same += [pc.run_end_encode]
    return same


def files_of(table: pa.Table, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the same table in every file format that can hold it."""
    parquet = folder / "t.parquet"
    pq.write_table(table, parquet, row_group_size=7)
    yield "parquet", parquet
    pq.write_table(table, folder / "plain.parquet", use_dictionary=False, compression="zstd", data_page_version="2.0", store_schema=False)
    yield "parquet without Arrow schema", folder / "plain.parquet"
    for compression in ("uncompressed", "lz4", "zstd"):
        path = folder / f"{compression}.feather"
        pyarrow.feather.write_feather(table, path, compression=compression, chunksize=5)
        yield f"feather, {compression}", path
    parts = folder / "parts"
    parts.mkdir()
    (parts / "_SUCCESS").touch()
    half = len(table) // 2
    pq.write_table(table[:half], parts / "part-00000-x.snappy.parquet")
    pq.write_table(table[half:], parts / "part-00001-x.snappy.parquet")
    yield "a directory of parts", parts


def edited(value: Any, kind: pa.DataType) -> Any:
    """Another value of the same type, as near as can be."""
    if value is None:
        return 0 if pa.types.is_integer(kind) else _SOME.get(str(kind), [] if pa.types.is_nested(kind) else None)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value > 0 else value + 1
    if isinstance(value, float):
        return 0.0 if math.isnan(value) or value != 0 else 1.0
    if isinstance(value, str):
        return f"{value} "
    if isinstance(value, bytes):
        return value + b"\0"
    if isinstance(value, decimal.Decimal):
        return value + (decimal.Decimal("0.01") if value <= 0 else decimal.Decimal("-0.01"))
    return None


_SOME: dict[str, Any] = {
    "bool": False,
    "string": "",
    "double": 0.0,
    "float": 0.0,
    "decimal128(9, 2)": decimal.Decimal(0),
    "date32[day]": datetime.date(2000, 1, 1),
    "timestamp[us]": datetime.datetime(2000, 1, 1),
    "timestamp[us, tz=UTC]": datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC),
    "binary": b"",
}
