"""What the tests of the ledger write, and how they get at it behind its back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mlsec_dagster.integrity.statements import WRITE, Statement


def write(asset: str = "raw/flights", partition: str | None = None, run_id: str = "run-1", **more: object) -> Statement:
    """A plausible statement."""
    return Statement(asset, partition, WRITE, {"blake3": "5c" * 32}, {"run_id": run_id, "step_key": asset, **more})


@contextmanager
def behind_its_back(file: Path) -> Iterator[sqlite3.Connection]:
    """The database as somebody sees it who can write to it but has no key."""
    with closing(sqlite3.connect(file)) as connection, connection:
        yield connection
