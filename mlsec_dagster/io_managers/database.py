"""IO managers that keep tables in a database: `DbIOManager`, of which DuckDB is the one supported here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.io_managers.storage import Stored, Subject, Verify, load_between_verifications


class DatabaseStorage:
    """A slice of a table: the whole of it, or the rows of one partition.

    A table has no files and no row order, so its digest is a keyed multiset hash of its rows, computed in the database
    (`integrity/warehouse.py`, which states what that is worth). Reading rows runs no code, so it is hashed before and after the read.
    """

    how = "the rows are hashed in the database before the IO manager reads them and once more after"

    def __init__(self, manager: _compat.DbIOManager, key: Callable[[], bytes]) -> None:
        self._manager = manager
        self._key = key

    @contextmanager
    def examine(self, subject: Subject) -> Iterator[Stored | None]:
        from mlsec_dagster.integrity.warehouse import multiset_digest

        context = subject.context()
        client, slice_ = _compat.table_slice(self._manager, context, context)
        if type(client).__name__ != "DuckDbClient":
            raise UnverifiableError(
                f"{type(client).__name__} keeps {subject.asset_key.to_user_string()}, and only DuckDB tables can be verified through their "
                f"IO manager so far: give the asset a resolver= that returns an Ibis table."
            )
        with client.connect(context, slice_) as connection:
            # What is read of the relation after it was hashed is what was hashed, whoever writes to the table meanwhile.
            connection.begin()
            try:
                relation = _relation(connection, client.get_select_statement(slice_))
                if relation is None:
                    yield None
                else:
                    manifest = Manifest(multiset=multiset_digest(relation, self._key()))
                    yield Stored(manifest, None, client.get_table_name(slice_), relation=relation, snapshot=True)
            finally:
                # The IO manager's own client closes only what ended well, and an open connection keeps others from the file.
                connection.close()

    def load(self, context: dg.InputContext, subjects: Mapping[str | None, Subject], verify: Verify) -> Any:
        return load_between_verifications(self, self._manager.load_input, context, subjects, verify)


def _relation(connection: Any, statement: str) -> Any:
    """What a query yields; None if its table does not exist."""
    try:
        return connection.sql(statement)
    except Exception as error:
        if type(error).__name__ != "CatalogException":
            raise
        return None
