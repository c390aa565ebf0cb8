"""From a finished batch into the trail, once.

    committing = Committing(database, trail, place_uri, location, ledger)
    committing.recover(report)
    committing.put(batch, positions, incomplete, report)

Steps 2 to 5 of what `mlsec_dagster.audit.ingestion` says holds it together, and what becomes of a batch that was left between them.
"""

from typing import TYPE_CHECKING

import msgspec

from mlsec_dagster.audit.batches import Batch, Tally
from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.intents import left_behind, signed
from mlsec_dagster.audit.seals import Commit, seal
from mlsec_dagster.audit.state import LocationState
from mlsec_dagster.audit.ticks import Report
from mlsec_dagster.audit.trail import Trail, TrailConflictError
from mlsec_dagster.storage import log_positions
from mlsec_dagster.storage.log_positions import Intent, Position

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.storage.database import Database


class _Content(msgspec.Struct, frozen=True):
    """What an intent says."""

    files: list[TrailFile]
    positions: list[Position]
    tally: Tally
    incomplete: list[str]


class Committing:
    """The commits of one location. Whoever uses it holds the location.

    Args:
        database: Where intents and positions are.
        trail: Where the files go.
        uri: Of the location.
        location: Its id in the database.
        ledger: Seals commits; None leaves them unsealed.
    """

    def __init__(self, database: "Database", trail: Trail, uri: str, location: int, ledger: "Ledger | None") -> None:
        self._database = database
        self._trail = trail
        self._uri = uri
        self._location = location
        self._ledger = ledger

    def put(self, batch: Batch, positions: list[Position], incomplete: list[str], report: Report) -> None:
        """Put a finished batch into the trail, and write down how far its objects were read.

        Raises:
            TrailConflictError: Somebody else has written to the same source meanwhile: nothing was put there, begin again.
            StoreError: The trail or the database cannot be written. Once the batch is intended only `recover` tells what became of it.
        """
        if not positions and not batch.files:
            return
        content = _Content(batch.files, positions, batch.tally, incomplete)
        if batch.files:
            said = signed(self._ledger, self._trail, self._uri, batch.attempt, batch.number, msgspec.msgpack.encode(content))
            with self._database.write() as connection:
                log_positions.record_intent(connection, self._location, Intent(batch.attempt, batch.number, said))
            batch.intended = True
            self._finish(batch.attempt, batch.number, self._committed(batch), content)
            report.commits += 1
        else:
            with self._database.write() as connection:
                log_positions.record_positions(connection, self._location, positions)
                self._add_to_state(connection, content)
        report.tally.add(batch.tally)
        for file in batch.files:
            report.days[file.day] = report.days.get(file.day, 0) + file.rows

    def recover(self, report: Report) -> None:
        """Find out what became of batches that somebody left between intent and done.

        Raises:
            StoreError: The trail or the database cannot be read or written.
        """
        for intent, said, version in left_behind(self._database, self._ledger, self._trail, self._uri, self._location):
            content = msgspec.msgpack.decode(said, type=_Content)
            if version is not None:
                self._finish(intent.attempt, intent.number, version, content)
                report.recovered += 1
                continue
            self._lost(intent.attempt)
            for file in content.files:
                self._trail.storage.remove(file.path)

    def _committed(self, batch: Batch) -> int:
        """Commit; returns the trail's new version."""
        try:
            return batch.commit() or 0
        except TrailConflictError:
            # It may be the answer that was lost and not the commit: only the table tells.
            fate = self._trail.fate(self._uri, batch.number, [batch.attempt])
            if fate is not None:
                return fate[1]
            self._lost(batch.attempt)
            batch.intended = False
            raise

    def _lost(self, attempt: str) -> None:
        with self._database.write() as connection:
            log_positions.settle(connection, self._location, attempt, "lost")

    def _finish(self, attempt: str, number: int, version: int, content: _Content) -> None:
        """Seal a commit, then write down how far its objects were read."""
        if self._ledger is not None:
            commit = Commit(
                table=self._trail.open().identity,
                version=version,
                attempt=attempt,
                why="ingested",
                location=self._uri,
                number=number,
                added=content.files,
            )
            seal(self._ledger, self._trail, commit)
        with self._database.write() as connection:
            # Not by whoever comes second: one may have been taken for dead and be alive.
            if log_positions.settle(connection, self._location, attempt, "done", content.positions):
                self._add_to_state(connection, content)

    def _add_to_state(self, connection: "Connection", content: _Content) -> None:
        state = LocationState.read(log_positions.read_state(connection, self._location))
        log_positions.write_state(connection, self._location, state.with_batch(content.tally, content.incomplete).written())
