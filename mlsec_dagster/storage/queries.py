"""The queries that are asked all the time, built once: SQLAlchemy's preparation would cost more than the database's answer."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    CompoundSelect,
    Connection,
    Dialect,
    Integer,
    Select,
    Table,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite

from mlsec_dagster.storage.tables import checkpoints, entries

ROWS_PER_QUERY: Final = 500
_SUBJECTS_PER_QUERY: Final = 100

NEWEST_CHECKPOINT: Final = select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
_NODES: Final = select(entries.c.position, entries.c.nodes).where(entries.c.position.in_(bindparam("some", expanding=True)))
_ENTRIES: Final = select(entries).where(entries.c.position.in_(bindparam("some", expanding=True))).order_by(entries.c.position)
LAST_OF_ASSET: Final = select(func.max(entries.c.position)).where(
    entries.c.asset == bindparam("asset"), entries.c.position < bindparam("before")
)
FIRST_OF_ASSET: Final = select(func.min(entries.c.position)).where(
    entries.c.asset == bindparam("asset"), entries.c.position < bindparam("before")
)


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
    """Insert many rows, each a tuple in the order of the table's columns.

    Plain tuples to the driver: SQLAlchemy's own preparation of every row costs more than SQLite's insertion of it.
    """
    command, names = _insertion(table, connection.dialect)
    connection.exec_driver_sql(command, [dict(zip(names, row, strict=True)) for row in rows] if names else list(rows))


@lru_cache(maxsize=16)
def _insertion(table: Table, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    """The command in the driver's own words, and the names of its parameters where they go by name."""
    command = insert(table).compile(dialect=dialect)
    return str(command), () if dialect.positional else tuple(column.name for column in table.columns)


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
        subjects: Assets with partition or None.
        before: Size of the ledger that is looked at.
        types: Only entries of these predicate types.
        run_id: Only entries that name this run.
    """
    found: dict[tuple[str, str | None], int] = {}
    kinds = None if types is None else sorted(types)
    for nothing in (True, False):
        chosen = [subject for subject in dict.fromkeys(subjects) if (subject[1] is None) is nothing]
        for start in range(0, len(chosen), _SUBJECTS_PER_QUERY):
            some = chosen[start : start + _SUBJECTS_PER_QUERY]
            query = _newest_query(len(some), nothing, len(kinds) if kinds is not None else None, run_id is not None)
            values: dict[str, Any] = {"before": before}
            values |= {f"asset{i}": asset for i, (asset, _) in enumerate(some)}
            if not nothing:
                values |= {f"partition{i}": partition for i, (_, partition) in enumerate(some)}
            if kinds is not None:
                values |= {f"type{i}": kind for i, kind in enumerate(kinds)}
            if run_id is not None:
                values["run_id"] = run_id
            found |= {some[i]: position for i, position in connection.execute(query, values) if position is not None}
    return found


@lru_cache(maxsize=64)
def _newest_query(count: int, nothing: bool, types: int | None, run: bool) -> CompoundSelect[int, int | None] | Select[int, int | None]:
    def one(number: int) -> Select[int, int | None]:
        query = select(entries.c.position).where(entries.c.asset == bindparam(f"asset{number}"), entries.c.position < bindparam("before"))
        query = query.where(entries.c.partition.is_(None) if nothing else entries.c.partition == bindparam(f"partition{number}"))
        if types is not None:
            query = query.where(entries.c.type.in_([bindparam(f"type{i}") for i in range(types)]))
        if run:
            query = query.where(entries.c.run_id == bindparam("run_id"))
        return select(literal_column(str(number), Integer), query.order_by(entries.c.position.desc()).limit(1).scalar_subquery())

    return union_all(*(one(number) for number in range(count))) if count > 1 else one(0)


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
