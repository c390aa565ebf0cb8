"""What a profile says of a window."""

import math
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.errors import ConfigurationError, LimitExceededError, UnverifiableError
from mlsec_dagster.integrity.limits import Limits
from mlsec_dagster.stability.measuring import measure
from mlsec_dagster.stability.profiles import SAMPLE_ROWS, Frame, Profile, Roles
from tests.stability.windows import KEY, START, accounted, learnt, measured, mixed, nested

Asked = Callable[[pa.Table], Any]


@pytest.fixture(params=["in memory", "by an engine"])
def asked(request: pytest.FixtureRequest) -> Asked:
    """A table as a source that is counted in one of the two ways."""
    return (lambda table: table) if request.param == "in memory" else ibis.memtable


few_examples = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_figures_are_those_of_the_data() -> None:
    table = mixed()
    profile = measured(table)
    accounted(profile)
    values = [value for value in table["number"].to_pylist() if value is not None]
    number = profile.column("number")
    assert number is not None
    assert profile.rows == table.num_rows
    assert number.nulls == table["number"].null_count
    assert number.minimum == min(values)
    assert number.maximum == max(values)
    assert number.mean == pytest.approx(statistics.fmean(values))
    assert number.deviation == pytest.approx(statistics.pstdev(values))
    assert number.distinct == pytest.approx(len(set(values)), rel=0.15)


def test_cells_are_those_that_the_edges_say() -> None:
    table = mixed()
    frame = learnt(table)
    profile = measured(table, frame)
    for name in ("number", "hour", "amount", "price"):
        values = np.array([float(value) for value in table[name].to_pylist() if value is not None])
        expected = np.bincount(np.searchsorted(frame.column(name).edges, values, side="right"), minlength=len(frame.column(name).edges) + 1)
        assert profile.column(name).counts == tuple(expected)


@few_examples
@given(
    st.lists(st.one_of(st.floats(), st.none(), st.integers(-5, 5).map(float)), max_size=60),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40, unique=True),
)
def test_any_numbers_fall_into_the_right_cells_whatever_the_edges(values: list[float | None], edges: list[float]) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    frame = learnt(pa.table({"x": pa.array([0.5, 1.5, 2.5])}))
    edges = sorted({edge + 0.0 for edge in edges})
    from msgspec.structs import replace

    frame = replace(frame, columns=(replace(frame.columns[0], kind="number", edges=tuple(edges), categories=()),))
    profile = measured(table, frame)
    accounted(profile)
    known = np.array([value for value in values if value is not None and not math.isnan(value)])
    assert profile.columns[0].counts == tuple(np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1))
    assert profile.columns[0].infinities == int(np.isinf(known).sum())


@few_examples
@given(st.integers(0, 2**32 - 1), st.integers(0, 400))
def test_a_profile_does_not_depend_on_the_order_of_rows_or_their_chunks(seed: int, rows: int) -> None:
    table = mixed(rows, 3)
    frame = learnt(mixed(500, 4))
    shuffled = table.take(np.random.default_rng(seed).permutation(rows))
    chunked = pa.concat_tables([shuffled.slice(0, rows // 3), shuffled.slice(rows // 3)])
    assert close(measured(table, frame), measured(chunked, frame))


def close(one: Profile, other: Profile) -> bool:
    """Equal, but for the last digits of sums, which are taken in another order."""

    def rounded(profile: Profile) -> Any:
        return [
            (
                column.name, column.type, column.nulls, column.nans, column.counts, column.unlisted, column.characters,
                column.minimum, column.maximum, pytest.approx(column.distinct, rel=0.15),
                None if column.mean is None else pytest.approx(column.mean, rel=1e-9, abs=1e-9),
                None if column.deviation is None else pytest.approx(column.deviation, rel=1e-6, abs=1e-9),
            )
            for column in profile.columns
        ]  # fmt: skip

    same = (one.rows, one.patterns, one.hashed, one.duplicates) == (other.rows, other.patterns, other.hashed, other.duplicates)
    return same and rounded(one) == rounded(other)


@few_examples
@given(st.integers(1, 600))
def test_counts_of_two_halves_add_up_to_those_of_the_whole(cut: int) -> None:
    table = mixed(600)
    frame = learnt(table)
    whole, first, second = (measured(part, frame) for part in (table, table.slice(0, cut), table.slice(cut)))
    assert first.rows + second.rows == whole.rows
    for column in whole.columns:
        halves = [half.column(column.name) for half in (first, second)]
        assert tuple(map(sum, zip(*(half.counts for half in halves), strict=True))) == column.counts
        assert sum(half.nulls for half in halves) == column.nulls
    patterns = {pattern: first.patterns.get(pattern, 0) + second.patterns.get(pattern, 0) for pattern in whole.patterns}
    assert patterns == whole.patterns


def test_the_container_does_not_matter(tmp_path: Path) -> None:
    table = mixed(1500)
    frame = learnt(table)
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=200)
    pyarrow.feather.write_feather(table, tmp_path / "one.feather")
    parts = tmp_path / "parts"
    parts.mkdir()
    pq.write_table(table.slice(700), parts / "a*[1].parquet")
    pq.write_table(table.slice(0, 700), parts / "b.parquet")
    expected = measured(table, frame)
    readers = [tmp_path / "one.parquet", tmp_path / "one.feather", parts, table.to_reader(100), pl.from_arrow(table).lazy()]
    for source in readers:
        assert close(measured(source, frame), expected), source
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("rows", table)
    ibis_table = ibis.duckdb.from_connection(connection).table("rows")
    for source in (connection.table("rows"), ibis_table):
        assert close(measured(source, frame), expected)


def test_csv_and_pandas_are_measured_as_they_are_read(tmp_path: Path) -> None:
    table = pa.table({"x": pa.array(range(100)), "name": ["a", "b"] * 50})
    pyarrow.csv.write_csv(table, tmp_path / "rows.csv")
    frame = learnt(table)
    assert close(measured(tmp_path / "rows.csv", frame), measured(table, frame))
    assert close(measured(table.to_pandas(), frame), measured(table, frame))
    missing = measured(pd.DataFrame({"x": [1.0, float("nan")]}))
    assert missing.columns[0].nulls == 1


def test_profiles_and_frames_survive_being_stored() -> None:
    table = mixed(500)
    frame = learnt(table)
    profile = measured(table, frame)
    assert Frame.from_bytes(frame.to_bytes()) == frame
    assert Profile.from_bytes(profile.to_bytes()) == profile


def test_a_value_that_the_frame_does_not_name_is_named_in_the_profile() -> None:
    table = mixed()
    frame = learnt(table)
    carriers = table["carrier"].to_pylist()
    carriers[:30] = ["ZZ"] * 30
    profile = measured(table.set_column(3, "carrier", pa.array(carriers)), frame)
    accounted(profile)
    assert profile.column("carrier").unlisted == (("ZZ", 30),)
    assert profile.column("carrier").counts[-1] == 30


def test_repeated_rows_are_counted_whatever_their_identifiers_say() -> None:
    table = mixed(2000).drop_columns(["note", "row"])
    again = table.slice(0, 100)
    again = again.set_column(again.column_names.index("tail"), "tail", pa.array([f"X{n:06d}" for n in range(100)]))
    frame = learnt(table)
    assert frame.column("tail").kind == "identifier"
    assert measured(table, frame).duplicates == 0
    profile = measured(pa.concat_tables([table, again]), frame)
    assert (profile.hashed, profile.duplicates) == (2100, 100)


def test_what_is_null_together_is_told() -> None:
    table = pa.table({"a": [1, None, None, 4, None], "b": ["x", None, None, None, None], "c": [None] * 5, "d": [1, 2, 3, 4, 5]})
    assert measured(table).patterns == {"1110": 3, "0010": 1, "0110": 1}


def test_a_time_slice_holds_its_start_and_not_its_end() -> None:
    table = mixed(1000)
    frame = learnt(table, roles := Roles(time="moment"))
    begin = START.timestamp()
    profile, sample = measure(table, frame, roles, KEY, between=(begin + 600, begin + 1200))
    assert profile.rows == sample.num_rows == 10
    assert sorted(sample["row"].to_pylist()) == list(range(10, 20))
    assert profile.window == (begin + 600, begin + 1200)
    naive = pa.table({"t": pa.array([datetime(2024, 1, 1, hour) for hour in range(24)])})
    naive_roles = Roles(time="t")
    assert measured(naive, roles=naive_roles, between=(begin + 3600, begin + 7200)).rows == 1
    days = pa.table({"day": pa.array([datetime(2024, 1, day, tzinfo=UTC).date() for day in range(1, 29)])})
    assert measured(days, roles=Roles(time="day"), between=(begin + 86_400, begin + 3 * 86_400)).rows == 2
    assert measured(pa.table({"s": [1.0, 2.0, 3.0]}), roles=Roles(time="s"), between=(2.0, 3.0)).rows == 1


def test_a_time_slice_needs_a_time() -> None:
    with pytest.raises(UnverifiableError, match="no time column is declared"):
        measured(mixed(10), between=(0, 1))


def test_ignored_columns_are_not_looked_at() -> None:
    table = mixed(200)
    roles = Roles(ignore=["note", "tail"])
    profile, sample = measure(table, learnt(table, roles), roles, KEY)
    assert profile.column("note").counts == ()
    assert profile.column("note").type == "string"
    assert "note" not in sample.column_names


def test_the_sample_is_the_whole_window_if_that_is_small_and_its_texts_are_cut() -> None:
    table = pa.table({"x": range(50), "text": ["long" * 1000] * 50})
    _, sample = measure(table, learnt(table), Roles(), KEY)
    assert sorted(sample["x"].to_pylist()) == list(range(50))
    assert set(sample["text"].to_pylist()) == {"long" * 64}


@pytest.mark.parametrize("distinct", [2, 40, 60_000])
def test_the_sample_is_that_of_its_table_however_few_rows_differ(asked: Asked, distinct: int) -> None:
    values = np.random.default_rng(5).integers(0, distinct, 60_000)
    table = pa.table({"x": values, "same": ["here"] * 60_000})
    frame = learnt(table)
    profile, sample = measure(asked(table), frame, Roles(), KEY)
    assert sample.num_rows == SAMPLE_ROWS
    assert profile.hashed == 60_000
    # Its first rows are a sample too.
    for rows in (SAMPLE_ROWS, 1000):
        mean = np.mean(sample["x"].to_numpy()[:rows])
        assert abs(mean - values.mean()) < 5 * values.std() / math.sqrt(rows)
    again = measure(asked(table), frame, Roles(), KEY)[1]
    assert not sample.equals(again)


@pytest.mark.slow
def test_both_ways_of_counting_say_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = mixed(2500)
    odd = pa.table(
        {"x": pa.array([1.0, 2.5, float("nan"), float("inf"), float("-inf"), None, -0.0] * 40), "n": pa.nulls(280), "y": [7] * 280}
    )
    repeated = pa.concat_tables([whole, whole.slice(100, 50)])
    windows = [(mixed(500, 4), each) for each in (whole, repeated, whole.slice(0, 1), whole.slice(0, 0))]
    windows += [(odd, odd), (odd.slice(0, 2), odd), (nested(), nested()), (mixed(500, 4), whole.drop_columns(["carrier"]))]
    for roles in (Roles(), Roles(time="moment", label="late", ignore=["note"])):
        for learnt_from, window in windows:
            frame = learnt(learnt_from, roles)
            profile, sample = measure(window, frame, roles, KEY)
            with monkeypatch.context() as patch:
                patch.setattr("mlsec_dagster.stability.sources.SMALL_CELLS", -1)
                pq.write_table(window, tmp_path / "rows.parquet")
                for source in (window, tmp_path / "rows.parquet"):
                    theirs, drawn = measure(source, frame, roles, KEY)
                    assert close(profile, theirs)
                    if window.num_rows:
                        assert drawn.schema.equals(sample.schema)
                    order = [(name, "ascending") for name in sample.column_names if not pa.types.is_null(sample.schema.field(name).type)]
                    assert str(drawn.sort_by(order)) == str(sample.sort_by(order)) or not window.num_rows


def test_nested_values_are_counted_by_length(tmp_path: Path) -> None:
    table = nested()
    frame = learnt(table)
    pq.write_table(table, tmp_path / "nested.parquet")
    for source in (table, tmp_path / "nested.parquet"):
        profile, sample = measure(source, frame, Roles(), KEY)
        accounted(profile)
        assert {column.kind for column in frame.columns} == {"nested"}
        assert profile.column("list").nulls == 50
        assert profile.column("list").maximum == 6
        assert profile.column("map").mean == pytest.approx(statistics.fmean(n % 3 for n in range(500)))
        assert profile.column("struct").minimum == 1
        assert sample.num_rows == 500


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="16 or more"):
        measure(mixed(10), learnt(mixed(10)), Roles(), b"short")


def test_limits_are_looked_at_before_anything_is_decoded(tmp_path: Path) -> None:
    pq.write_table(mixed(2000), tmp_path / "rows.parquet")
    frame = learnt(mixed(100))
    for limits in (Limits(rows=1999), Limits(decoded_bytes=1000), Limits(columns=3)):
        with pytest.raises(LimitExceededError):
            measure(tmp_path / "rows.parquet", frame, Roles(), KEY, limits=limits)
