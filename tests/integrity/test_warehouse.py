"""A keyed digest computed in the database sees every change of a row, and none of the order."""

import datetime
import math
from typing import Any

import ibis
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.multiset import MultisetDigest
from mlsec_dagster.integrity.warehouse import multiset_digest, multiset_of

_KEY = b"a key of at least sixteen bytes"
_COLUMNS = {
    "i": pa.array([1, 2, None]),
    "f": pa.array([0.1, math.nan, math.inf]),
    "s": pa.array(["a", "", None]),
    "b": pa.array([True, False, None]),
    "d": pa.array([datetime.date(2013, 1, 1), None, datetime.date(1, 1, 1)]),
    "t": pa.array([1, None, -1], pa.timestamp("us")),
    "z": pa.array([1, None, -1], pa.timestamp("us", "UTC")),
    "n": pa.array([1, None, -1], pa.timestamp("ns")),
    "p": pa.array(["1.50", None, "-0.01"]).cast(pa.decimal128(9, 2)),
    "x": pa.array([b"\\x00", b"\0", None]),
}


@pytest.fixture
def connection() -> Any:
    return ibis.duckdb.connect()


def _stored(connection: Any, table: pa.Table) -> MultisetDigest:
    connection.con.register("value", table)
    connection.con.execute("create or replace table t as from value")
    return multiset_digest(connection.table("t"), _KEY)


def test_a_stored_table_and_the_value_that_was_stored_have_the_same_digest(connection: Any) -> None:
    table = pa.table(_COLUMNS)
    stored = _stored(connection, table)
    assert stored.rows == 3
    assert multiset_of(table, _KEY, like=stored) == stored
    assert multiset_of(pl.from_arrow(table), _KEY, like=stored) == stored
    assert Manifest.from_bytes(Manifest(multiset=stored).to_bytes()).multiset == stored
    frame = pd.DataFrame({"x": [1.0, None], "s": ["a", None]})
    connection.con.register("frame", frame)
    connection.con.execute("create table pandas_table as from frame")
    assert multiset_of(frame, _KEY) == multiset_digest(connection.table("pandas_table"), _KEY)


def test_order_and_session_settings_do_not_matter_and_relations_are_taken_too(connection: Any) -> None:
    stored = _stored(connection, pa.table(_COLUMNS))
    connection.con.execute("set timezone = 'Asia/Tokyo'")
    assert multiset_digest(connection.table("t"), _KEY) == stored
    assert multiset_digest(connection.con.table("t"), _KEY) == stored
    assert multiset_digest(connection.con.sql("select * from t order by i desc nulls first"), _KEY) == stored


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.none() | st.text("a:1NV", max_size=4), st.none() | st.text("a:1NV", max_size=4)), max_size=4),
    st.lists(st.tuples(st.none() | st.text("a:1NV", max_size=4), st.none() | st.text("a:1NV", max_size=4)), max_size=4),
)
def test_two_tables_have_one_digest_only_if_they_hold_the_same_rows(ours: list[tuple[Any, Any]], theirs: list[tuple[Any, Any]]) -> None:
    def digest(rows: list[tuple[Any, Any]]) -> MultisetDigest:
        return multiset_of(pa.table([pa.array([row[place] for row in rows], pa.string()) for place in (0, 1)], ["a", "b"]), _KEY)

    def by_value(rows: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        return sorted(rows, key=repr)

    assert (digest(ours) == digest(theirs)) == (by_value(ours) == by_value(theirs))
    assert digest(ours) == digest(ours[::-1])


def test_every_single_change_is_seen(connection: Any) -> None:
    table = pa.table(_COLUMNS)
    stored = _stored(connection, table)
    others = [
        table.set_column(0, "i", [[1, 2, 3]]),
        pa.concat_tables([table, table[:1]]),
        table[:2],
        table.rename_columns([f"{name}_" for name in _COLUMNS]),
    ]
    for name, column in _COLUMNS.items():
        others.append(table.set_column(table.column_names.index(name), name, column.take(pa.array([1, 1, 2]))))
    for other in others:
        assert stored.compare(_stored(connection, other))
    assert not stored.compare(stored)


def test_duplicated_rows_do_not_cancel_out() -> None:
    once, thrice = pa.table({"a": [1, 2]}), pa.table({"a": [1, 2, 2, 2]})
    assert multiset_of(once, _KEY).lanes != multiset_of(thrice, _KEY).lanes


def test_zero_has_one_sign_and_null_is_not_nan() -> None:
    def root(value: float | None) -> str:
        return multiset_of(pa.table({"a": pa.array([value], pa.float64())}), _KEY).root

    assert root(-0.0) == root(0.0)
    assert len({root(0.0), root(None), root(math.nan), root(math.inf)}) == 4


def test_another_key_gives_another_digest_that_is_not_compared() -> None:
    table = pa.table({"a": [1]})
    ours, theirs = multiset_of(table, _KEY), multiset_of(table, b"x" * 32)
    assert ours.lanes != theirs.lanes
    with pytest.raises(UnverifiableError, match="another key"):
        ours.compare(theirs)
    with pytest.raises(UnverifiableError, match="has 5 bytes; expected 16 or more"):
        multiset_of(table, b"short")


def test_names_are_quoted_and_never_run(connection: Any) -> None:
    table = pa.table({'a"; drop table t; --': [1], "sélect": ["x"]})
    assert _stored(connection, table) == multiset_of(table, _KEY)
    assert multiset_digest(connection.con.table("t"), _KEY).rows == 1


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (pa.table({"a": [[1]]}), r"column 'a' has the type array<int64>, of which duckdb has no stable text"),
        (pa.table({"a": [{"b": 1}]}), "column 'a' has the type struct"),
    ],
)
def test_types_without_a_stable_text_are_refused(table: pa.Table, sentence: str) -> None:
    with pytest.raises(UnverifiableError, match=sentence):
        multiset_of(table, _KEY)


def test_a_query_that_fails_says_so_without_the_key(connection: Any) -> None:
    connection.con.execute("create table gone (a int)")
    table = connection.table("gone")
    connection.con.execute("drop table gone")
    with pytest.raises(UnverifiableError, match="duckdb could not compute the table's digest") as raised:
        multiset_digest(table, _KEY)
    assert not any(len(word) > 32 for word in str(raised.value).split())
    with pytest.raises(UnverifiableError, match="neither an Ibis table nor a DuckDB relation"):
        multiset_digest(pa.table({"a": [1]}), _KEY)


def test_an_empty_table_has_a_digest(connection: Any) -> None:
    empty = _stored(connection, pa.table({"a": pa.array([], pa.int64())}))
    assert (empty.rows, set(empty.lanes)) == (0, {0})
    assert empty.compare(_stored(connection, pa.table({"a": [0]})))
