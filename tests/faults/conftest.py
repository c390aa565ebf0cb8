"""What tests of faults share: a fast Dagster, a real ledger, and the record of which bodies ran."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.guard.projects import RAN


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster whose own event log is in memory, four times as fast; the ledger and its key are files in a real DAGSTER_HOME."""
    artifacts = dagster_home / "artifacts"
    artifacts.mkdir()
    with dg.DagsterInstance.ephemeral(tempdir=str(artifacts)) as instance:
        yield instance


@pytest.fixture
def disk_instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster on SQLite in its own home, for tests with several processes."""
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    yield
    RAN.clear()
