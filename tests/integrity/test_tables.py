"""The same logical table has the same grid from everywhere; any change has its place and its name."""

import datetime
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.errors import LossyContainerError, UnverifiableError, VerificationError
from mlsec_dagster.integrity import tables as product
from mlsec_dagster.integrity.logical import canonical_type, parse_type, type_text
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.tables import Column, table_grid
from tests.integrity.tables import FLAT, RICH, edited, files_of, rechunked, tables, with_garbage, with_offset

_FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
_MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight rows, so that small tables have many."""
    monkeypatch.setattr(product, "BLOCK_ROWS", 8)


def _arrow_reads(path: Path) -> bool:
    try:
        pq.read_table(path)
    except pa.ArrowInvalid:
        return False
    return True


@pytest.mark.usefixtures("small_blocks")
@_FEW
@given(st.data())
def test_every_container_gives_the_same_root(data: st.DataObject) -> None:
    table = data.draw(tables(RICH))
    grid = table_grid(table)
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files_of(table, Path(folder)):
            if "without" in name and "duration" in str(table.schema):
                continue  # Parquet itself has no durations, only Arrow's note about them
            if (path.suffix == ".parquet" or path.is_dir()) and not _arrow_reads(path):
                continue  # Arrow writes lists of a fixed size that are null, and cannot read all of them again.
            found = table_grid(path, schema=grid)
            assert (found.root, found.losses) == (grid.root, ()), name


@pytest.mark.usefixtures("small_blocks")
@_MANY
@given(st.data())
def test_chunks_offsets_encodings_and_garbage_do_not_matter(data: st.DataObject) -> None:
    table = data.draw(tables(RICH))
    other = data.draw(rechunked(table))
    other.validate(full=True)
    assert table_grid(other) == table_grid(table)
    assert table_grid(other.to_reader(max_chunksize=data.draw(st.integers(1, 9)))) == table_grid(table)


@pytest.mark.usefixtures("small_blocks")
@_FEW
@given(st.data())
def test_polars_gives_the_same_root(data: st.DataObject) -> None:
    table = data.draw(tables({kind: values for kind, values in RICH.items() if not pa.types.is_map(kind)}))
    grid = table_grid(table)
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    assert table_grid(frame, schema=grid).root == grid.root
    assert table_grid(frame.lazy(), schema=grid).root == grid.root


@pytest.mark.usefixtures("small_blocks")
@_FEW
@given(st.data())
def test_pandas_gives_the_same_root_and_says_where_it_hides_nan(data: st.DataObject) -> None:
    table = data.draw(tables(FLAT))
    grid = table_grid(table)
    plain = table_grid(table.to_pandas(), schema=grid)
    assert plain.root == grid.root
    hidden = {
        name
        for name, column in zip(table.column_names, table.columns, strict=True)
        if 0 < column.null_count < len(column) and str(column.type).startswith(("double", "float", "int", "uint", "decimal"))
    }
    assert hidden <= {loss.split("'")[1] for loss in plain.losses}
    masked = table_grid(table.to_pandas(types_mapper=pd.ArrowDtype), schema=grid)
    assert (masked.root, masked.losses) == (grid.root, ())


@pytest.mark.usefixtures("small_blocks")
@_FEW
@given(st.data())
def test_csv_gives_the_same_root_given_the_schema(data: st.DataObject) -> None:
    table = data.draw(tables(FLAT))
    grid = table_grid(table)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        pyarrow.csv.write_csv(table, path)
        assert table_grid(path, schema=grid).root == grid.root


@pytest.mark.usefixtures("small_blocks")
@_MANY
@given(st.data())
def test_one_edited_cell_is_named_with_its_column_and_block(data: st.DataObject) -> None:
    table = data.draw(tables(FLAT | {kind: RICH[kind] for kind in (pa.float64(), pa.binary(), pa.list_(pa.string()))}, min_rows=1))
    column = data.draw(st.integers(0, table.num_columns - 1))
    row = data.draw(st.integers(0, table.num_rows - 1))
    values = table.column(column).to_pylist()
    values[row] = edited(values[row], table.schema.types[column])
    changed = table.set_column(column, table.column_names[column], pa.array(values, table.schema.types[column]))
    before, after = Manifest(table=table_grid(table)), Manifest(table=table_grid(changed))
    if table.column(column).to_pylist()[row] is values[row]:
        return
    difference = before.compare(after)
    assert difference
    assert difference.kind == "rewrite"
    assert [(change.column, change.block, change.kind) for change in difference.blocks] == [(f"c{column}", row // 8, "changed")]
    assert difference.blocks[0].first_row <= row <= difference.blocks[0].last_row
    assert not difference.is_append


@pytest.mark.usefixtures("small_blocks")
@_MANY
@given(st.data())
def test_appends_insertions_deletions_and_truncations_are_told_apart(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 60))
    new = data.draw(st.integers(1, 20))
    table = pa.table({"id": range(rows), "flag": [True] * rows})
    extra = pa.table({"id": range(-new, 0), "flag": [True] * new})
    at = data.draw(st.integers(0, rows))
    before = table_grid(table)

    def difference(after: pa.Table) -> product.TableGrid:
        return Manifest(table=before).compare(Manifest(table=table_grid(after, previous=before)))  # type: ignore[return-value]

    inserted = difference(pa.concat_tables([table[:at], extra, table[at:]]))
    assert inserted.is_append == (at == rows)
    assert inserted.kind == ("append" if at == rows else "insertion")
    if at < rows:
        assert f"in or behind block {at // 8} " in inserted.sentence
    if inserted.is_append:
        assert {change.kind for change in inserted.blocks} == {"added"}
        assert min(change.first_row for change in inserted.blocks) == rows
    kept = data.draw(st.integers(0, rows - 1))
    truncated = difference(table[:kept])
    assert (truncated.kind, truncated.is_append) == ("truncation", False)
    count = min(new, rows - at)
    if count and at + count < rows:
        deleted = difference(pa.concat_tables([table[:at], table[at + count :]]))
        assert deleted.kind == ("truncation" if (rows - count - 1) // 8 == at // 8 else "deletion")
        assert not deleted.is_append
    row = data.draw(st.integers(0, rows - 1))
    ids = table["id"].to_pylist()
    ids[row] = -1000
    altered = difference(pa.concat_tables([table.set_column(0, "id", [ids]), extra]))
    assert not altered.is_append
    assert altered.kind in ("rewrite", "insertion")


@pytest.mark.usefixtures("small_blocks")
def test_an_append_is_not_claimed_without_proof() -> None:
    table = pa.table({"x": range(12)})
    before = table_grid(table)
    unproved = Manifest(table=before).compare(Manifest(table=table_grid(pa.table({"x": range(14)}))))
    assert not unproved.is_append
    assert "previous=" in unproved.sentence
    whole_blocks = table_grid(table[:8])
    assert Manifest(table=whole_blocks).compare(Manifest(table=table_grid(table))).is_append
    assert Manifest(table=table_grid(table[:0])).compare(Manifest(table=before)).is_append


@pytest.mark.usefixtures("small_blocks")
def test_an_append_with_an_edited_earlier_row_names_that_row() -> None:
    before = table_grid(pa.table({"x": range(20), "y": range(20)}))
    after = table_grid(pa.table({"x": [*range(17), -1, *range(18, 40)], "y": range(40)}), previous=before)
    difference = Manifest(table=before).compare(Manifest(table=after))
    assert (difference.kind, difference.is_append) == ("rewrite", False)
    assert difference.sentence == "20 rows appended, and earlier values changed: column 'x' in block 2 (rows 16 to 23)"


@pytest.mark.usefixtures("small_blocks")
def test_a_reorder_is_only_a_hint_and_never_an_append() -> None:
    table = pa.table({"x": range(32)})
    moved = pa.concat_tables([table[8:16], table[:8], table[16:]])
    difference = Manifest(table=table_grid(table)).compare(Manifest(table=table_grid(moved)))
    assert (difference.kind, difference.is_append) == ("reorder?", False)
    shuffled = Manifest(table=table_grid(table)).compare(Manifest(table=table_grid(table.take([*range(31, -1, -1)]))))
    assert shuffled.kind == "rewrite"


def test_schema_changes_are_named() -> None:
    table = pa.table({"a": [1], "b": ["x"]})

    def sentence(after: pa.Table) -> str:
        difference = Manifest(table=table_grid(table)).compare(Manifest(table=table_grid(after)))
        assert difference.kind == "schema"
        return difference.sentence

    assert sentence(table.select(["b", "a"])) == "the columns are in another order"
    assert sentence(table.select(["a"])) == "the columns differ: 'b' (string) was removed"
    assert sentence(table.set_column(0, "a", [["1"]])) == "the columns differ: 'a' was int64 and is string"
    assert sentence(table.append_column("c", [[1.0]])) == "the columns differ: 'c' (float64) was added"


def test_a_type_of_another_family_is_a_schema_change_even_when_the_schema_is_given() -> None:
    before = table_grid(pa.table({"a": [1, 2]}))
    assert table_grid(pa.table({"a": pa.array([1, 2], pa.int8())}), schema=before).root == before.root
    assert table_grid(pa.table({"a": [1.0, 2.0]}), schema=before).root == before.root
    for other in (["1", "2"], [True, False]):
        after = table_grid(pa.table({"a": other}), schema=before)
        assert Manifest(table=before).compare(Manifest(table=after)).kind == "schema"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([0.1]), pa.float32()),
        (pa.array([1.5]), pa.int64()),
        (pa.array([300]), pa.int8()),
        (pa.array([1], pa.timestamp("us")), pa.timestamp("s")),
        (pa.array([1], pa.timestamp("us")), pa.date32()),
        (pa.array([Decimal("1.25")]), pa.decimal128(5, 1)),
        (pa.array([[1, 2, 3]]), pa.list_(pa.int64(), 2)),
        (pa.array([-1]), pa.uint64()),
    ],
)
def test_a_value_that_the_schema_cannot_state_exactly_is_an_error_and_not_rounded(values: pa.Array, kind: pa.DataType) -> None:
    with pytest.raises(VerificationError, match=r"rows 0 to 0: column 'a'"):
        table_grid(pa.table({"a": values}), schema=pa.schema([("a", kind)]))


def test_zero_has_one_sign_and_nan_one_form_and_null_is_neither() -> None:
    def root(*values: float | None, kind: pa.DataType | None = None) -> str:
        return table_grid(pa.table({"a": pa.array(values, kind or pa.float64())})).root

    odd = np.array([0x7FF8000000000001, 0xFFF8000000000000, 0x7FF0000000000001], np.uint64).view(np.float64)
    assert table_grid(pa.table({"a": pa.array(odd)})).root == root(*[float("nan")] * 3)
    assert root(-0.0) == root(0.0)
    assert len({root(None), root(float("nan")), root(0.0), root(float("inf")), root(float("-inf"))}) == 5
    halves = pa.array([np.float16(-0.0), None, np.float16("nan")], pa.float16())
    assert table_grid(pa.table({"a": halves})).root == table_grid(pa.table({"a": pa.array([np.float16(0), None, np.float16("nan")])})).root


def test_what_pandas_cannot_tell_apart_is_refused_or_recorded() -> None:
    big = 2**53
    before = table_grid(pa.table({"a": [big + 1, None]}))
    with pytest.raises(LossyContainerError, match="cannot tell neighbours apart; keep them as int64"):
        table_grid(pd.DataFrame({"a": [float(big), None]}), schema=before)
    assert table_grid(pd.DataFrame({"a": pd.array([big + 1, None], "Int64")}), schema=before) == before
    grid = table_grid(pd.DataFrame({"a": [1.0, float("nan")], "b": ["x", None], "c": pd.array([1.0, None], "Float64")}))
    assert grid.losses == ("column 'a': NaN and null cannot be told apart in a pandas float64 column; both are stated as null",)
    assert Manifest.from_bytes(Manifest(table=grid).to_bytes()).table == grid
    with pytest.raises(UnverifiableError, match="column 'a' has values of several types"):
        table_grid(pd.DataFrame({"a": [1, "x"]}))


def test_csv_has_no_types_and_nothing_is_guessed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b\n01,NA\n2,\n3,""\n')
    grid = table_grid(path)
    assert grid.columns == (Column("a", "string"), Column("b", "string"))
    assert grid.root == table_grid(pa.table({"a": ["01", "2", "3"], "b": ["NA", None, ""]})).root
    assert grid.losses == ("column 'b': an empty CSV field is stated as null; some writers mean an empty text by it",)
    typed = table_grid(path, schema=[Column("a", "int64"), Column("b", "string")])
    assert typed.root == table_grid(pa.table({"a": [1, 2, 3], "b": ["NA", None, ""]})).root
    with pytest.raises(UnverifiableError, match="column #1"):
        table_grid(path, schema=[Column("b", "int64")])


def test_csv_keeps_blank_rows_quotes_line_breaks_and_repeated_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a\n1\n\n"x\ny"\n')
    assert table_grid(path).root == table_grid(pa.table({"a": ["1", None, "x\ny"]})).root
    path.write_text("a,a\n1,2\n")
    assert (
        table_grid(path, schema=[Column("a", "string"), Column("a", "int64")]).root == table_grid(pa.table([["1"], [2]], ["a", "a"])).root
    )
    (tmp_path / "t.tsv").write_text("a\tb\n1\t2\n")
    assert table_grid(tmp_path / "t.tsv").root == table_grid(pa.table({"a": ["1"], "b": ["2"]})).root


def test_spark_int96_timestamps_are_moments_in_utc(tmp_path: Path) -> None:
    moments = [datetime.datetime(2013, 1, 1, 5, 15, 0, 123456, datetime.UTC), None, datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC)]
    table = pa.table({"t": pa.array(moments, pa.timestamp("us", "UTC"))})
    part = tmp_path / "out" / "part-00000-abc-c000.snappy.parquet"
    part.parent.mkdir()
    pq.write_table(table, part, use_deprecated_int96_timestamps=True)
    (part.parent / "_SUCCESS").touch()
    (part.parent / ".part-00000-abc-c000.snappy.parquet.crc").write_bytes(b"crc")
    grid = table_grid(table)
    found = table_grid(part.parent, schema=grid)
    assert found.root == grid.root
    assert found.losses == ("column 't': INT96 timestamps are read in us; differences finer than a microsecond are not seen",)


def test_parts_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    table = pa.table({"x": range(100)})
    for place, name in reversed([*enumerate(("part-0", "part-1/a", "part-1/b", "part-2"))]):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table[place * 25 : (place + 1) * 25], path)
    assert table_grid(tmp_path).root == table_grid(table).root


_ODD_TYPES = [
    pa.null(), pa.float16(), pa.binary(16), pa.decimal256(50, 3), pa.decimal128(5, -2), pa.time32("s"), pa.date64(),
    pa.timestamp("ns", "+02:00"), pa.map_(pa.string(), pa.list_(pa.int8())), pa.struct([]),
    pa.struct([pa.field('a "b", c: <x>', pa.int8()), pa.field("é", pa.null())]),
]  # fmt: skip


@pytest.mark.parametrize("kind", [*sorted(RICH, key=str), *_ODD_TYPES], ids=str)
def test_the_text_of_a_type_gives_the_type_back(kind: pa.DataType) -> None:
    canonical = canonical_type(kind)
    assert parse_type(type_text(canonical)).equals(canonical)


@pytest.mark.parametrize(
    "text",
    ["", "int65", "list<int64", "struct<a: int64>", "timestamp[us]x", "decimal(99999999999, 0)", "map<int64>", "list<" * 200, "int64[3]"],
)
def test_what_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(UnverifiableError, match="is not the text of a column type"):
        parse_type(text)


def test_maps_lists_structs_and_their_garbage() -> None:
    kind = pa.map_(pa.string(), pa.int64())
    maps = pa.array([[("a", 1)], None, [("b", None), ("c", 3)], []], kind)
    grid = table_grid(pa.table({"m": maps}))
    assert table_grid(pa.table({"m": with_offset(maps)})).root == grid.root
    assert (
        table_grid(pa.table({"m": maps.cast(pa.list_(pa.struct([("key", pa.string()), ("value", pa.int64())])))}), schema=grid).root
        == grid.root
    )
    hidden = pa.ListArray.from_arrays(pa.array([0, 2, 4, 5]), pa.array([1, 2, 3, 4, 5]), mask=pa.array([False, True, False]))
    assert table_grid(pa.table({"x": hidden})).root == table_grid(pa.table({"x": [[1, 2], None, [5]]})).root
    masked = pa.StructArray.from_arrays([pa.array([1, 2, 3])], ["a"], mask=pa.array([False, True, False]))
    assert table_grid(pa.table({"x": masked})).root == table_grid(pa.table({"x": [{"a": 1}, None, {"a": 3}]})).root
    assert (
        table_grid(pa.table({"x": [{"a": None}]})).root != table_grid(pa.table({"x": pa.array([None], pa.struct([("a", pa.null())]))})).root
    )
    views = pa.ListViewArray.from_arrays([2, 0, 0], [2, 2, 0], pa.array(["a", "b", "c", "d"]))
    assert table_grid(pa.table({"x": views})).root == table_grid(pa.table({"x": [["c", "d"], ["a", "b"], []]})).root
    dictionary = pa.array([["a"], ["b", "a"]], pa.list_(pa.dictionary(pa.int8(), pa.string())))
    assert table_grid(pa.table({"x": dictionary})).root == table_grid(pa.table({"x": [["a"], ["b", "a"]]})).root


def test_storage_widths_of_decimals_and_extension_types_do_not_matter() -> None:
    value = [Decimal("1.25"), None]
    roots = {
        table_grid(pa.table({"d": pa.array(value, kind(9, 2))})).root for kind in (pa.decimal32, pa.decimal64, pa.decimal128, pa.decimal256)
    }
    assert len(roots) == 1
    wide = pa.array([Decimal(10) ** 45, None], pa.decimal256(50, 2))
    assert table_grid(pa.table({"d": with_garbage(wide)})).columns == (Column("d", "decimal(50, 2)"),)
    uuid = pa.array([b"0" * 16], pa.binary(16))
    assert table_grid(pa.table({"u": uuid.cast(pa.uuid())})).root == table_grid(pa.table({"u": uuid})).root


def test_values_do_not_run_into_each_other() -> None:
    grids = [
        {"a": ["x", "yz"]}, {"a": ["xy", "z"]}, {"a": [b"x", b"yz"]}, {"a": [None, "xyz"]}, {"a": ["", "xyz"]},
        {"a": [["x"], ["y", "z"]]}, {"a": [["x", "y"], ["z"]]}, {"a": [["xy"], ["z"]]}, {"b": ["x", "yz"]},
    ]  # fmt: skip
    assert len({table_grid(pa.table(grid)).root for grid in grids}) == len(grids)


def test_names_may_repeat_be_empty_or_differ_only_in_their_unicode_form() -> None:
    composed, decomposed = "é", "e\u0301"
    array = pa.array([1])
    roots = {
        table_grid(pa.table([array, array], names)).root
        for names in (["a", "a"], [composed, decomposed], [decomposed, composed], ["", "a"])
    }
    assert len(roots) == 4
    before = table_grid(pa.table([pa.array([1]), pa.array([2])], ["a", "a"]))
    after = table_grid(pa.table([pa.array([1]), pa.array([3])], ["a", "a"]))
    assert [change.column for change in Manifest(table=before).compare(Manifest(table=after)).blocks] == ["a"]


def test_two_thousand_columns_and_no_columns_and_no_rows(tmp_path: Path) -> None:
    wide = pa.table({f"c{place}": [place, None] for place in range(2000)})
    pq.write_table(wide, tmp_path / "wide.parquet")
    assert table_grid(tmp_path / "wide.parquet").root == table_grid(wide).root
    values = wide.column(1999).to_pylist()
    changed = wide.set_column(1999, "c1999", [[*values[:1], 1]])
    assert Manifest(table=table_grid(wide)).compare(Manifest(table=table_grid(changed))).blocks[0].column == "c1999"
    empty = pa.table({"a": pa.array([], pa.int64())})
    pq.write_table(empty, tmp_path / "empty.parquet")
    assert (
        table_grid(tmp_path / "empty.parquet").root == table_grid(empty).root != table_grid(pa.table({"a": pa.array([], pa.int32())})).root
    )
    assert table_grid(empty).rows == 0
    bare = pd.DataFrame(index=range(3))
    pq.write_table(pa.table({"a": [1, 2, 3]}).select([]), tmp_path / "bare.parquet")
    assert table_grid(bare).rows == 3
    assert table_grid(bare).root != table_grid(pd.DataFrame(index=range(4))).root
    assert Manifest(table=table_grid(bare)).compare(Manifest(table=table_grid(pd.DataFrame(index=range(4))))).is_append
    assert table_grid(tmp_path / "bare.parquet").columns == ()


def test_all_null_columns_of_any_type() -> None:
    for kind in [*RICH, pa.null()]:
        nulls = pa.table({"a": pa.nulls(70_000, kind)})
        grid = table_grid(nulls)
        assert grid.rows == 70_000
        assert table_grid(pa.table({"a": pa.nulls(70_000)}), schema=grid).root == grid.root


def test_an_index_that_says_something_becomes_columns() -> None:
    frame = pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name="k"))
    assert table_grid(frame).root == table_grid(pa.table({"x": [1, 2], "k": ["a", "b"]})).root
    assert table_grid(frame).root == table_grid(pa.Table.from_pandas(frame)).root


def test_blocks_are_bounded_in_bytes_by_content_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "BLOCK_BYTES", 1000)
    texts = ["x" * (place % 300) for place in range(500)] + ["y" * 5000, "z"]
    table = pa.table({"t": texts, "n": range(502)})
    grid = table_grid(table)
    start = 0
    for rows in grid.block_rows:
        size = sum(len(text) + 4 + 8 for text in texts[start : start + rows])
        assert size <= 1000 or rows == 1
        start += rows
        if start < len(texts):
            assert size + len(texts[start]) + 12 > 1000
    for other in (
        table.to_reader(max_chunksize=3),
        table.set_column(0, "t", pc.dictionary_encode(table["t"])),
        table.set_column(0, "t", table["t"].cast(pa.large_string())),
        table.set_column(0, "t", table["t"].cast(pa.string_view())),
        table.to_pandas(),
        pl.from_arrow(table),
    ):
        found = table_grid(other)
        assert (found.block_rows, found.root) == (grid.block_rows, grid.root)


def test_a_lazy_frame_streams(tmp_path: Path) -> None:
    frame = pl.DataFrame({"x": range(200_000), "y": [f"v{number % 7}" for number in range(200_000)]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert table_grid(pl.scan_parquet(tmp_path / "t.parquet")).root == table_grid(frame).root == table_grid(tmp_path / "t.parquet").root
    assert table_grid(pl.LazyFrame({"x": pl.Series([], dtype=pl.Int8)})).columns == (Column("x", "int8"),)


def test_anything_with_an_arrow_stream_is_a_table() -> None:
    import duckdb

    relation = duckdb.connect().sql("select range as x, 'v' || range as y from range(100000)")
    assert table_grid(relation).root == table_grid(pa.table({"x": range(100_000), "y": [f"v{number}" for number in range(100_000)]})).root


def test_polars_categories_and_enums_are_texts() -> None:
    series = pl.Series("x", ["a", "b", "a", None])
    plain = table_grid(series.to_frame()).root
    assert table_grid(series.cast(pl.Categorical).to_frame()).root == plain
    assert table_grid(series.cast(pl.Enum(["b", "a"])).to_frame()).root == plain
    assert table_grid(pd.DataFrame({"x": pd.Categorical(["a", "b", "a", None])})).root == plain


def test_the_grid_is_what_the_documentation_specifies() -> None:
    """Recomputes a root from `docs/manifests.md` alone, with nothing of the product."""
    import struct

    from blake3 import blake3

    def frame(*parts: bytes) -> bytes:
        return b"".join(struct.pack("<Q", len(part)) + part for part in parts)

    def tree(leaves: list[bytes]) -> bytes:
        if len(leaves) == 1:
            return blake3(b"\0" + leaves[0]).digest()
        half = 1 << (len(leaves) - 1).bit_length() - 1
        return blake3(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()

    # int64 [1, null, 3] and string ["é", null, ""], a list [[1.0], null, [-0.0, NaN]]
    integers = frame(b"mlsec:leaf:v1", b"int64") + struct.pack("<Q", 3) + frame(b"\x05", struct.pack("<qqq", 1, 0, 3))
    texts = frame(b"mlsec:leaf:v1", b"string") + struct.pack("<Q", 3) + frame(b"\x05", struct.pack("<III", 2, 0, 0), "é".encode())
    lists = frame(b"mlsec:leaf:v1", b"list<float64>") + struct.pack("<Q", 3) + frame(b"\x05", struct.pack("<III", 1, 0, 2))
    lists += struct.pack("<Q", 3) + frame(b"", struct.pack("<dd", 1.0, 0.0) + bytes.fromhex("000000000000f87f"))
    leaves = [blake3(leaf).digest() for leaf in (integers, texts, lists)]
    columns = frame(b"i", b"int64", b"t", b"string", b"l", b"list<float64>")
    root = blake3(frame(b"mlsec:table:v1", columns, struct.pack("<Q", 3), tree([tree([leaf]) for leaf in leaves]))).hexdigest()
    table = pa.table({"i": [1, None, 3], "t": ["é", None, ""], "l": [[1.0], None, [-0.0, float("nan")]]})
    assert table_grid(table).root == f"blake3:{root}"
