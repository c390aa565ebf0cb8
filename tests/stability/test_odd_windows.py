"""Windows that no one would write on purpose: each is measured, or refused with a sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.stability.assessment import Assessment, History, assess
from mlsec_dagster.stability.channels import Channel
from mlsec_dagster.stability.counting import characters
from mlsec_dagster.stability.evidence import evidence_of
from mlsec_dagster.stability.measuring import measure
from mlsec_dagster.stability.profiles import Roles
from mlsec_dagster.stability.samples import seconds_of
from tests.stability import test_assessment as usual
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


def after(past: History, *found: Assessment) -> History:
    return History([*past.windows, *(each.window for each in found)], [*past.samples, *(each.sample for each in found)])


def told(table: pa.Table, past: History) -> Assessment:
    """What is found about a window, in words too."""
    found = assess(table, past, roles=usual.ROLES, key=KEY)
    assert evidence_of(found, past, usual.ROLES).sentence
    return found


def ordinary(seed: int) -> pa.Table:
    return pa.table(usual.columns(seed))


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


ODD: dict[str, Callable[[pa.Table], pa.Table]] = {
    "no rows and so no types": lambda table: pa.table({name: pa.nulls(0) for name in table.column_names}),
    "one row": lambda table: table.slice(0, 1),
    "five rows": lambda table: table.slice(0, 5),
    "other columns": lambda _: pa.table({"x": range(50)}),
    "a column twice": lambda table: table.append_column("price", table["price"]),
    "another type": lambda table: with_column(table, "price", table["price"].cast(pa.string())),
    "lists": lambda table: with_column(table, "price", pa.array([[1.0]] * len(table))),
    "all null": lambda table: pa.table({field.name: pa.nulls(len(table), field.type) for field in table.schema}),
    "no labels": lambda table: with_column(table, "bought", pa.nulls(len(table), pa.string())),
    "infinite": lambda table: with_column(table, "price", pa.array(np.where(np.arange(len(table)) % 2, np.inf, -np.inf))),
    "huge": lambda table: with_column(table, "price", pa.array(np.where(np.arange(len(table)) % 2, 1.7e308, -1.7e308))),
    "constant": lambda table: with_column(table, "price", pa.array([1.0] * len(table))),
    "signs that steer": lambda table: with_column(table, "region", pa.array(["\u202e\x00\x1b[2J"] * len(table))),
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_window_is_told_and_so_is_the_next_ordinary_one(odd: Callable[[pa.Table], pa.Table]) -> None:
    found = told(odd(ordinary(1101)), usual.history())
    assert found.outcome in ("schema", "alarm")
    then = told(ordinary(1102), after(usual.history(), found))
    assert then.judgement is not None
    if found.outcome == "schema" and found.window.profile.rows:
        assert then.outcome == "schema"
    else:
        assert then.outcome == "stable"
        assert then.reference is not None
        assert then.reference.rows > 4_000


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("name", ["a column twice", "all null", "no labels", "infinite", "no rows and so no types"])
def test_windows_that_stay_odd_are_compared_with_one_another(name: str) -> None:
    past = usual.history()
    for seed in range(9):
        past = after(past, found := told(ODD[name](ordinary(1200 + seed)), past))
    assert found.outcome == "stable"
    assert told(ordinary(1300), past).judgement is not None


def test_missing_values_are_told_by_columns_whatever_their_order_and_whichever_came() -> None:
    """Whether a set of missing columns is new does not hang on where they stand in the table."""
    table = with_column(ordinary(1), "cost", pa.array([None, *ordinary(1)["cost"].to_pylist()[1:]]))
    past: list[Assessment] = []
    for seed in range(20):
        nulls = with_column(ordinary(seed), "cost", pa.array([None, *ordinary(seed)["cost"].to_pylist()[1:]]))
        past.append(told(nulls, after(History(), *past)) if seed > 11 else assess(nulls, History(), roles=Roles(), key=KEY))
    history = after(History(), *past)
    for changed in (table.select(table.column_names[::-1]), table.append_column("new", pa.array([1.0] * len(table)))):
        found = told(changed, history)
        assert found.observation.channels.get(Channel("pattern")) == 0.0
        again = told(changed, after(history, found))
        assert again.observation.channels.get(Channel("pattern")) == 0.0


def test_few_texts_and_many_are_made_of_the_same_characters() -> None:
    texts = ["Über 12\u00a0km", "a\tb", "٣ x", "", "日本 7", "!?", None]
    many = pa.chunked_array([texts * 3 + [f"Über {number}" for number in range(100)]])
    one_by_one = np.array([characters(pa.chunked_array([[text]])) or (0,) * 4 for text in many.to_pylist() if text])
    lengths = np.array([len(text) for text in many.to_pylist() if text])
    assert characters(many) == pytest.approx((one_by_one * lengths[:, None]).sum(0) / lengths.sum())


def test_a_relation_that_fails_while_it_is_asked_says_so_without_values(tmp_path: Path) -> None:
    import duckdb

    pq.write_table(mixed(300), tmp_path / "rows.parquet")
    relation = duckdb.connect().read_parquet(str(tmp_path / "rows.parquet"))
    frame = learnt(relation)
    (tmp_path / "rows.parquet").unlink()
    with pytest.raises(UnverifiableError, match="duckdb could not measure the "):
        measured(relation, frame)


# --- heavy ones

PEAK = """\
import sys
from mlsec_dagster.stability.assessment import History, assess
from mlsec_dagster.stability.profiles import Roles
first = assess(sys.argv[1], History(), roles=Roles(), key=b"k" * 32)
then = assess(sys.argv[1], History([first.window] * 8, [first.sample] * 8), roles=Roles(), key=b"k" * 32)
print(then.outcome, then.window.profile.rows, then.window.profile.columns[0].distinct, first.sample.nbytes)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(path: Path) -> tuple[list[str], int]:
    """What was found about a file in a process of its own, and the most memory that it took, in MB."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True, timeout=250)
    found, memory = done.stdout.splitlines()
    return found.split(), int(memory) // 1024


@pytest.mark.slow
def test_ten_million_distinct_values_take_little_memory(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("number", pa.int64())])
    with pq.ParquetWriter(tmp_path / "rows.parquet", schema) as writer:
        for start in range(0, 10_000_000, 500_000):
            numbers = pa.array(range(start, start + 500_000))
            writer.write_table(pa.table({"id": numbers.cast(pa.string()), "number": numbers}, schema))
    (outcome, rows, distinct, _), memory = peak(tmp_path / "rows.parquet")
    assert (outcome, rows) == ("learning", "10000000")
    assert int(distinct) == pytest.approx(10_000_000, rel=0.1)
    assert memory < 700


@pytest.mark.slow
def test_texts_of_a_megabyte_take_little_memory_and_stay_out_of_what_is_kept(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    schema = pa.schema([("text", pa.string()), ("number", pa.int64())])
    with pq.ParquetWriter(tmp_path / "rows.parquet", schema, use_dictionary=False, compression="none") as writer:
        for number in range(300):
            text = random.integers(97, 123, 1 << 20, dtype=np.uint8).tobytes().decode()
            writer.write_table(pa.table({"text": [text], "number": [number]}, schema))
    (outcome, rows, distinct, sample), memory = peak(tmp_path / "rows.parquet")
    assert (outcome, rows) == ("learning", "300")
    assert int(distinct) == pytest.approx(300, rel=0.1)
    assert int(sample) < 100_000
    assert memory < 1_000


@pytest.mark.slow
def test_two_thousand_columns_are_judged() -> None:
    def wide(seed: int) -> pa.Table:
        random = np.random.default_rng(seed)
        numbers = {f"n{number}": random.normal(size=200) for number in range(1_000)}
        return pa.table(numbers | {f"c{number}": random.choice(["a", "b", "c"], 200) for number in range(1_000)})

    found: list[Assessment] = []
    for seed in range(9):
        found.append(assess(wide(seed), after(History(), *found), roles=Roles(), key=KEY))
    # As if each of them had come three times.
    past = after(History(), *found, *found[8:] * 13)
    then = told(wide(99), past)
    assert then.outcome in ("stable", "alarm")
    assert len(then.channels) > 4_000
