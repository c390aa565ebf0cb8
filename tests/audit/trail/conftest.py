"""A place on a disk, and an ingestion of it, for tests of the trail."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.ticks import Budget, Report
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.audit.upkeep import Upkeep
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.trust import Trust
from tests.audit.trail.made import Nobody, source_of


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Where the ledger is, and the positions; a test may have it elsewhere."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"


@pytest.fixture
def ledger(tmp_path: Path, database_url: str) -> Iterator[Ledger]:
    ring = KeyRing(load_or_create_key_file(tmp_path / "key.pem"))
    ledger = open_ledger(database_url, signer=ring, trust=Trust(list(ring.publics)))
    yield ledger
    ledger.close()


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(str(tmp_path / "trail"))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


@pytest.fixture
def ingestion(ledger: Ledger, trail: Trail, logs: Path) -> Callable[..., Ingestion]:
    """Makes an ingestion as a new process would."""

    def make(kind: str = "mlflow", **settings: Any) -> Ingestion:
        return Ingestion(ledger.database, trail, source_of(kind, logs), Nobody(), ledger=ledger, **settings)

    return make


@pytest.fixture
def tick(ingestion: Callable[..., Ingestion]) -> Callable[..., Report]:
    """One tick of a new process."""

    def run(kind: str = "mlflow", **settings: Any) -> Report:
        return ingestion(kind, **settings).tick(Budget())

    return run


@pytest.fixture
def upkeep(ledger: Ledger, trail: Trail) -> Upkeep:
    return Upkeep(ledger.database, trail, ledger)
