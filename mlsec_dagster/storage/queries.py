"""The queries that are asked all the time, built once: SQLAlchemy's preparation would cost more than the database's answer."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Table, bindparam, delete, func, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite

from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.storage.database import sqlite_driver
from mlsec_dagster.storage.tables import checkpoints, entries, manifests

ROWS_PER_QUERY: Final = 500

_NEWEST_CHECKPOINT: Final = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
_NODES: Final = select(entries.c.position, entries.c.nodes).where(entries.c.position.in_(bindparam("some", expanding=True)))
_ENTRIES: Final = select(entries).where(entries.c.position.in_(bindparam("some", expanding=True))).order_by(entries.c.position)
LAST_OF_ASSET: Final = select(func.max(entries.c.position)).where(
    entries.c.asset == bindparam("asset"), entries.c.position < bindparam("before")
)
FIRST_OF_ASSET: Final = select(func.min(entries.c.position)).where(
    entries.c.asset == bindparam("asset"), entries.c.position < bindparam("before")
)


def newest_checkpoint(connection: Connection) -> tuple[Any, Any] | None:
    """Size and note of the checkpoint with the largest size, as stored; None if there is none."""
    if connection.dialect.name == "sqlite":
        return sqlite_driver(connection).execute("SELECT size, note FROM mlsec_checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    row = connection.execute(_NEWEST_CHECKPOINT).one_or_none()
    return None if row is None else (row.size, row.note)


def read_nodes(connection: Connection, positions: Collection[int]) -> Mapping[int, bytes]:
    """Stored subtree hashes of entries; what is missing or no bytes is left out."""
    found: dict[int, bytes] = {}
    wanted = sorted(positions)
    for start in range(0, len(wanted), ROWS_PER_QUERY):
        rows = connection.execute(_NODES, {"some": wanted[start : start + ROWS_PER_QUERY]})
        found.update((row.position, row.nodes) for row in rows if isinstance(row.nodes, bytes))
    return found


def read_entries(connection: Connection, positions: Collection[int]) -> Sequence[Any]:
    """The rows at these positions (at most `ROWS_PER_QUERY`), in order; missing ones are left out."""
    return connection.execute(_ENTRIES, {"some": list(positions)}).all()


def insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows (at most `ROWS_PER_QUERY`), each a tuple in the order of the table's columns.

    Plain tuples to the driver: SQLAlchemy's own preparation of every row costs more than SQLite's insertion of it.
    """
    if connection.dialect.name == "sqlite":
        # One command, so that the interpreter is free for the threads that sign while SQLite works.
        sqlite_driver(connection).execute(_insertion(table, len(rows)), tuple(chain.from_iterable(rows)))
    else:
        names = tuple(column.name for column in table.columns)
        command = _compiled(table, connection.dialect)
        connection.exec_driver_sql(command, [dict(zip(names, row, strict=True)) for row in rows])


@lru_cache(maxsize=16)
def _compiled(table: Table, dialect: Dialect) -> str:
    return str(insert(table).compile(dialect=dialect))


@lru_cache(maxsize=16)
def _insertion(table: Table, rows: int) -> str:
    names = [column.name for column in table.columns]
    row = f"({', '.join('?' * len(names))})"
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {', '.join([row] * rows)}"  # noqa: S608 - our own tables' names


def newest_positions(
    connection: Connection,
    subjects: Iterable[tuple[str, str | None]],
    *,
    before: int,
    types: Collection[str] | None = None,
    run_id: str | None = None,
) -> dict[tuple[str, str | None], int]:
    """The largest position below `before` of each subject (asset, partition) that has one: one step through the index each.

    Args:
        connection: Where to look.
        subjects: Assets with partition or None, any number: they go as one JSON text.
        before: Size of the ledger that is looked at.
        types: Only entries of these predicate types.
        run_id: Only entries that name this run.
    """
    wanted = list(dict.fromkeys(subjects))
    if not wanted:
        return {}
    if any("\0" in name for subject in wanted for name in subject if name):
        raise ConfigurationError("The name of an asset or partition holds a NUL character, which databases cannot keep.")
    values: dict[str, Any] = {"subjects": json.dumps(wanted), "before": before}
    if types is not None:
        values["types"] = json.dumps(sorted(types))
    if run_id is not None:
        values["run_id"] = run_id
    dialect = connection.dialect.name
    query = _newest_query(dialect, types is not None, run_id is not None)
    found: Iterable[Any] = (
        sqlite_driver(connection).execute(query, values) if dialect == "sqlite" else connection.execute(_text(query), values)
    )
    return {wanted[number]: position for number, position in found if position is not None}


_SUBJECTS: Final = {
    "sqlite": "SELECT key AS number, json_extract(value, '$[0]') AS asset, json_extract(value, '$[1]') AS partition"
    " FROM json_each(:subjects)",
    "postgresql": "SELECT place - 1 AS number, value ->> 0 AS asset, value ->> 1 AS partition"
    " FROM json_array_elements(CAST(:subjects AS json)) WITH ORDINALITY AS listed(value, place)",
}
_TYPES: Final = {
    "sqlite": "SELECT value FROM json_each(:types)",
    "postgresql": "SELECT json_array_elements_text(CAST(:types AS json))",
}

_text = lru_cache(maxsize=16)(text)


@lru_cache(maxsize=16)
def _newest_query(dialect: str, types: bool, run: bool) -> str:
    """By hand, for the two databases unpack JSON differently. Two branches: only "=" and "IS NULL" use the index in both."""
    more = (f" AND type IN ({_TYPES[dialect]})" if types else "") + (" AND run_id = :run_id" if run else "")
    newest = (
        "(SELECT position FROM mlsec_entries AS e WHERE e.asset = s.asset AND e.partition {} AND e.position < :before{}"
        " ORDER BY position DESC LIMIT 1)"
    )
    return (
        f"SELECT s.number, CASE WHEN s.partition IS NULL THEN {newest.format('IS NULL', more)}"  # noqa: S608 - constants only
        f" ELSE {newest.format('= s.partition', more)} END FROM ({_SUBJECTS[dialect]}) AS s"
    )


def put(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, or replace those whose primary key is there already (a content address: then only a damaged row changes)."""
    if not rows:
        return
    statement = (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
    keys = [column.name for column in table.primary_key]
    statement = statement.on_conflict_do_update(
        index_elements=keys, set_={name: statement.excluded[name] for name in rows[0] if name not in keys}
    )
    connection.execute(statement, list(rows))


def erase_contents(connection: Connection, digests: Collection[str]) -> int:
    """Deletes contents by their addresses, in the caller's transaction. Returns how many there were.

    SQLite overwrites them; PostgreSQL gives the space free when it vacuums. Backups and replicas have them still.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    erased = 0
    wanted = sorted(digests)
    for start in range(0, len(wanted), ROWS_PER_QUERY):
        some = wanted[start : start + ROWS_PER_QUERY]
        erased += connection.execute(delete(manifests).where(manifests.c.digest.in_(some))).rowcount
    return erased
