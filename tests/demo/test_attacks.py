"""What the drill's attacker can do, by itself: an attack that did nothing would prove nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from mlsec_dagster.demo import attacks


@pytest.fixture
def flights(tmp_path: Path) -> Path:
    file = tmp_path / "flights.parquet"
    pd.DataFrame(
        {
            "carrier": ["UA", "AA", "UA", "UA"],
            "arr_delay": [20.0, 30.0, -5.0, None],
            "late": [True, True, False, False],
        }
    ).to_parquet(file, index=False)
    return file


def test_flipping_labels_changes_those_labels_and_nothing_that_a_directory_listing_shows(flights: Path) -> None:
    before, listed = pd.read_parquet(flights), flights.stat()
    assert attacks.flip_labels(flights, "late", carrier="UA", first_row=1) == 2
    after = pd.read_parquet(flights)
    assert after["late"].tolist() == [True, True, True, True]
    pd.testing.assert_frame_equal(after.drop(columns="late"), before.drop(columns="late"))
    assert flights.stat().st_mtime_ns == listed.st_mtime_ns
    assert [path.name for path in flights.parent.iterdir()] == [flights.name]


def test_hiding_delays_makes_late_flights_of_one_carrier_punctual(flights: Path) -> None:
    assert attacks.hide_delays(flights, carrier="UA") == 1
    assert pd.read_parquet(flights)["arr_delay"].fillna(-1).tolist() == [0.0, 30.0, -5.0, -1.0]


@pytest.fixture
def week() -> pd.DataFrame:
    rows = 200
    return pd.DataFrame(
        {
            "carrier": ["UA", "AA"] * (rows // 2),
            "flight": range(rows),
            "arr_late": pd.array([True, False, None, False] * (rows // 4), dtype="boolean"),
        }
    )


def test_a_crowded_week_has_as_many_rows_some_of_them_copies_of_one_carriers(week: pd.DataFrame) -> None:
    before = week.copy()
    assert attacks.crowd_with_copies(week, carrier="UA", share=0.05) == 10
    assert week.dtypes.tolist() == before.dtypes.tolist()
    assert (week.carrier == "UA").sum() == 110
    assert week.duplicated().sum() == 10
    assert len(week.merge(before)) == len(week)  # each row is one that was there


def test_labels_are_called_punctual_where_they_said_late_and_nothing_else_changes(week: pd.DataFrame) -> None:
    before = week.copy()
    assert attacks.call_punctual(week, "arr_late", share=0.02) == 4
    changed = week.arr_late.fillna(value=False) != before.arr_late.fillna(value=False)
    assert before.arr_late[changed].tolist() == [True] * 4
    pd.testing.assert_frame_equal(week.drop(columns="arr_late"), before.drop(columns="arr_late"))
    assert week.arr_late.isna().tolist() == before.arr_late.isna().tolist()


def test_a_week_is_issued_again_for_as_long_as_the_attack_lasts(week: pd.DataFrame, tmp_path: Path) -> None:
    with attacks.issued_again(tmp_path / "feed", "2013-01-08", week):
        assert len(pd.read_csv(tmp_path / "feed/2013-01-08.csv")) == len(week)
    assert not list((tmp_path / "feed").iterdir())


def test_what_was_attacked_is_back_afterwards_bytes_and_time_even_if_the_attack_breaks_off(flights: Path) -> None:
    before, listed = flights.read_bytes(), flights.stat()

    def break_off() -> None:
        with attacks.restored_afterwards(flights):
            attacks.flip_labels(flights, "late", carrier="UA", first_row=0)
            assert flights.read_bytes() != before
            raise InterruptedError

    with pytest.raises(InterruptedError):
        break_off()
    assert flights.read_bytes() == before
    assert flights.stat().st_mtime_ns == listed.st_mtime_ns


def test_an_earlier_copy_of_a_database_can_be_put_back_while_others_have_it_open(tmp_path: Path) -> None:
    database, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    with closing(sqlite3.connect(database)) as reader:
        reader.execute("PRAGMA journal_mode=WAL")
        with reader:
            reader.execute("CREATE TABLE entry (text)")
            reader.execute("INSERT INTO entry VALUES ('first')")
        attacks.copy_database(database, copy)
        with reader:
            reader.execute("INSERT INTO entry VALUES ('second')")
        attacks.copy_database(copy, database)
        assert reader.execute("SELECT text FROM entry").fetchall() == [("first",)]
