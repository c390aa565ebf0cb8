"""Projects of other shapes than `tests.guard.projects` has, and ways to break what they stand on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import event

from mlsec_dagster.errors import StoreError
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.integrity.statements import WRITE, Statement
from mlsec_dagster.integrity.verification import Verification, verify_ledger
from mlsec_dagster.reconciliation import Reconciliation, reconcile
from mlsec_dagster.resources import SecurityStore, open_store
from tests.guard.projects import RAN, Project, flights


def own_writer(instance: dg.DagsterInstance, path: Path, **options: Any) -> Project:
    """An asset that writes for itself, and one that only depends on it: here nothing but the check can stop what comes after."""

    @dg.asset
    def raw() -> dg.MaterializeResult:
        flights(50).to_parquet(path)
        return dg.MaterializeResult(metadata={"path": str(path)})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    return Project(dg.Definitions(assets=[raw, features]), instance, ["raw"], options)


def ledger_file(home: Path) -> Path:
    return home / "mlsec" / "ledger.db"


def key_file(home: Path) -> Path:
    return home / "mlsec" / "keys" / "mlsec.pem"


@contextmanager
def full_disk(instance: dg.DagsterInstance, store: SecurityStore | None = None) -> Iterator[None]:
    """The ledger's SQLite file is full to the last byte and cannot grow by another page."""
    ledger = open_store(instance, store)
    engine = ledger.database.engine

    def no_more_pages(connection: Any, _record: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(engine, "connect", no_more_pages)
    engine.dispose()
    try:
        with pytest.raises(StoreError, match="full"):
            _append_for_ever(ledger)
        yield
    finally:
        event.remove(engine, "connect", no_more_pages)
        engine.dispose()


def _append_for_ever(ledger: Ledger) -> None:
    while True:
        ledger.append([Statement("filler", None, WRITE, {"blake3": "00" * 32}, {"run_id": "-"})])


def verified(instance: dg.DagsterInstance, store: SecurityStore | None = None) -> Verification:
    """The whole ledger, verified; fails with its first problem."""
    verification = verify_ledger(open_store(instance, store))
    assert not verification.problems, verification.problems[0].sentence
    return verification


def reconciled(instance: dg.DagsterInstance, store: SecurityStore | None = None) -> Reconciliation:
    """Every materialization has its seal."""
    found = reconcile(open_store(instance, store), instance)
    assert not found.gaps, found.gaps[0].sentence
    return found
