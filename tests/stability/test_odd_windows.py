"""Windows that no one would write on purpose: each is measured, or refused with a sentence."""

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.stability.assessment import History, assess
from mlsec_dagster.stability.measuring import measure
from mlsec_dagster.stability.profiles import Roles
from mlsec_dagster.stability.samples import seconds_of
from tests.stability.windows import KEY, accounted, learnt, measured, mixed, nested


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_one_row_windows_are_measured_and_learnt_from(rows: int, tmp_path: Path) -> None:
    for table in (mixed(300), nested()):
        small = table.slice(0, rows)
        pq.write_table(small, tmp_path / "small.parquet")
        for source in (small, tmp_path / "small.parquet"):
            profile, sample = measure(source, learnt(table), Roles(), KEY)
            accounted(profile)
            assert profile.rows == sample.num_rows == rows
            assert sample.column_names == table.column_names
            accounted(measured(table, learnt(source)))


def test_all_null_columns() -> None:
    nothing = pa.table({"a": pa.array([None] * 50, pa.float64()), "b": pa.array([None] * 50, pa.string()), "c": pa.nulls(50)})
    something = pa.table({"a": [1.0] * 50, "b": ["x"] * 50, "c": pa.nulls(50)})
    for table in (nothing, something):
        profile = measured(table, learnt(nothing))
        accounted(profile)
        assert sum(profile.column("a").counts) + profile.column("a").nulls == 50
    assert profile.column("a").mean == 1.0
    accounted(measured(nothing, learnt(something)))


def test_nan_and_infinities_are_counted_and_never_in_moments() -> None:
    values = [1.0, 2.0, 3.0, float("nan"), float("inf"), float("-inf"), None, float("nan")]
    table = pa.table({"x": pa.array(values), "y": pa.array(values, pa.float32())})
    for learnt_from in (table, pa.table({"x": np.arange(1000.0), "y": np.arange(1000, dtype="float32")})):
        profile = measured(table, learnt(learnt_from))
        accounted(profile)
        for column in profile.columns:
            assert (column.nulls, column.nans, column.infinities) == (1, 2, 2)
            assert (column.minimum, column.maximum, column.mean) == (1.0, 3.0, 2.0)
            assert column.deviation == pytest.approx((2 / 3) ** 0.5)


def test_extremes_do_not_overflow() -> None:
    table = pa.table(
        {
            "int": pa.array([-(2**63), 2**63 - 1, 0, 1] * 20),
            "unsigned": pa.array([0, 2**64 - 1, 5, 6] * 20, pa.uint64()),
            "float": pa.array([-1.7e308, 1.7e308, 0.0, 5e-324] * 20),
            "decimal": pa.array([10**37, -(10**37), 0, 1] * 20, pa.decimal128(38, 0)),
            "wide": pa.array([10**70, -(10**70), 0, 1] * 20, pa.decimal256(76, 0)),
        }
    )
    profile = measured(table)
    accounted(profile)
    for name, mean, deviation in (
        ("int", 0.0, 2**63 / 2**0.5),
        ("unsigned", 2**62, 2**64 * 3**0.5 / 4),
        ("float", 0.0, 1.7e308 / 2**0.5),
        ("decimal", 0.25, 1e37 / 2**0.5),
        ("wide", 0.25, 1e70 / 2**0.5),
    ):
        column = profile.column(name)
        assert column.mean == pytest.approx(mean, abs=deviation * 1e-9), name
        assert column.deviation == pytest.approx(deviation, rel=1e-6), name


def test_a_small_spread_far_from_zero_is_not_lost() -> None:
    values = 1e9 + np.random.default_rng(1).normal(0, 1e-2, 5000)
    learnt_elsewhere = learnt(pa.table({"x": np.random.default_rng(2).normal(0, 1, 5000)}))
    profile = measured(pa.table({"x": values}), learnt_elsewhere)
    assert profile.columns[0].deviation == pytest.approx(values.std(), rel=1e-3)


def test_odd_and_repeated_names() -> None:
    names = ["a", "A", "a", "", 'x"; DROP TABLE t; --', "é ∅", "c0", "hash", "rows"]
    table = pa.Table.from_arrays([pa.array(range(n, n + 50)) for n in range(len(names))], names=names)
    frame = learnt(table)
    profile, sample = measure(table, frame, Roles(), KEY)
    accounted(profile)
    assert [column.name for column in profile.columns] == names == sample.column_names
    assert [column.minimum for column in profile.columns] == list(range(len(names)))
    assert all(column.counts for column in profile.columns)


def test_values_that_look_like_queries_are_values(tmp_path: Path) -> None:
    values = ["'; DROP TABLE t; --", '"', "\\", "\x00", "%s", "{x}", "''"]
    table = pa.table({"x": values * 10})
    pq.write_table(table, tmp_path / 'it\'s "odd" *.parquet')
    for source in (table, tmp_path / 'it\'s "odd" *.parquet', ibis.memtable(table)):
        profile = measured(source, frame := learnt(source))
        assert frame.columns[0].categories == tuple(sorted(values))
        assert profile.columns[0].counts[: len(values)] == (10,) * len(values)


def test_a_column_that_came_or_changed_its_type_has_no_counts_and_one_that_went_is_not_there() -> None:
    frame = learnt(pa.table({"same": [1.5, 2.5] * 50, "changed": [1, 2] * 50, "gone": ["x", None] * 50}))
    profile = measured(pa.table({"new": [1, 2, None], "changed": ["1", "2", "3"], "same": [1.5, 1.5, None]}), frame)
    assert [column.name for column in profile.columns] == ["new", "changed", "same"]
    assert profile.column("new").counts == profile.column("changed").counts == ()
    assert profile.column("new").nulls == 1
    assert sum(profile.column("same").counts) == 2
    assert profile.column("changed").mean == 1.0


def test_types_that_the_engine_does_not_know_are_only_counted() -> None:
    table = pa.table(
        {
            "interval": pa.array([(1, 2, 3), None, (4, 5, 6)], pa.month_day_nano_interval()),
            "duration": pa.array([1, 2, None], pa.duration("s")),
            "half": pa.array(np.array([1, 2, 3], np.float16)),
            "time": pa.array([1, 2, None], pa.time64("us")),
            "bytes": pa.array([b"\xff\x00", b"", None]),
            "dictionary": pa.array(["a", "b", None]).dictionary_encode(),
            "view": pa.array(["a", "b", None], pa.string_view()),
        }
    )
    frame = learnt(table)
    profile = measured(table, frame)
    accounted(profile)
    assert frame.column("interval").kind == "other"
    assert [column.nulls for column in profile.columns] == [1, 1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_every_unit_are_learnt_from_a_sample(unit: str) -> None:
    begin = np.datetime64("2013-01-05T07:00:01", unit)
    times = pa.table({"at": pa.array(begin + np.arange(2_000) * np.timedelta64(1, "m").astype(f"timedelta64[{unit}]"))})
    roles = Roles(time="at")
    first = assess(times, History(), roles=roles, key=KEY)
    then = assess(times, History([first.window], [first.sample]), roles=roles, key=KEY)
    assert then.outcome == "learning"
    seconds = seconds_of(first.sample.column("at"))
    assert seconds is not None
    assert seconds.min() == pytest.approx(1_357_369_201.0)


def test_long_texts_stay_out_of_the_sample() -> None:
    table = pa.table({"text": ["a" * 3_000_000 + str(n % 3) for n in range(30)], "short": ["b"] * 30})
    profile, sample = measure(table, frame := learnt(table), Roles(), KEY)
    accounted(profile)
    assert frame.column("text").kind == "text"
    assert profile.column("text").maximum == 3_000_001
    assert sample.nbytes < 100_000
    # Nor do they come in as values of what used to be a category.
    usual = learnt(pa.table({"text": ["a", "b", "c"] * 10, "short": ["b"] * 30}))
    profile = measured(table, usual)
    accounted(profile)
    assert max(len(text) for text, _ in profile.column("text").unlisted) <= 256


def test_a_category_that_explodes_is_not_grouped_by() -> None:
    frame = learnt(pa.table({"x": ["a", "b"] * 100}))
    profile = measured(pa.table({"x": ["a"] * 100 + [f"value {n}" for n in range(20_000)]}), frame)
    accounted(profile)
    assert profile.columns[0].counts[:2] == (100, 0)
    assert 0 < len(profile.columns[0].unlisted) <= 20


def test_a_column_that_became_constant_and_one_that_ceased_to_be() -> None:
    varied, constant = pa.table({"x": [1.5, 2.5, 3.5, 9.0] * 30}), pa.table({"x": [2.5] * 120})
    accounted(measured(constant, learnt(varied)))
    frame = learnt(constant)
    assert frame.columns[0].kind == "constant"
    profile = measured(varied, frame)
    accounted(profile)
    assert profile.columns[0].counts[0] == 30
    assert dict(profile.columns[0].unlisted) == {"1.5": 30, "3.5": 30, "9.0": 30}


def test_many_patterns_of_missingness_keep_the_commonest() -> None:
    random = np.random.default_rng(7)
    table = pa.table({f"x{n}": pa.array(np.ones(3000), mask=random.random(3000) < 0.5) for n in range(70)})
    assert len(measured(table).patterns) == 256


def test_a_damaged_file_is_refused_without_its_values(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x": ["secret value"] * 1000}), path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[40:4000] = b"\xff" * 3960
    path.write_bytes(data)
    with pytest.raises(UnverifiableError) as caught:
        measured(path, learnt(pa.table({"x": ["a"] * 10})))
    assert "secret" not in str(caught.value)
    for name, content in (("empty.parquet", b""), ("no.parquet", b"PAR1 nothing PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnverifiableError):
            learnt(tmp_path / name)
    with pytest.raises(UnverifiableError):
        learnt(tmp_path / "absent.parquet")


def test_no_columns_are_refused() -> None:
    with pytest.raises(UnverifiableError, match="no columns"):
        learnt(pa.table({}))


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(UnverifiableError):
        learnt(42)
