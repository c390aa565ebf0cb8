"""Work on the trail itself, one at a time: files are put in and taken out for reasons other than new rows.

    upkeep = Upkeep(database, trail, ledger)
    with upkeep.turn():                      # finishes first what somebody left in the middle
        view = upkeep.look()                 # the table, and what the ledger says of it
        upkeep.put(Change(…), attempt)       # intent -> commit -> seal -> done

It goes the way of ingestion: what is about to happen is written down in SQL, Delta's commit decides, the ledger seals it, and then the
intent is done. Whoever stops in between leaves an intent, and the next one asks the table what became of it. The intents belong to a
location of their own, which is no place of logs, so that the table keeps a number for it too.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import msgspec

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.intents import left_behind, signed, told
from mlsec_dagster.audit.legal_hold import Hold, active_holds, covering
from mlsec_dagster.audit.seals import Commit, Why, expected_files, seal, sealed_entries
from mlsec_dagster.audit.trail import Head, Trail, TrailConflictError
from mlsec_dagster.errors import StoreError, VerificationError
from mlsec_dagster.storage import log_positions
from mlsec_dagster.storage.log_positions import OURS, Intent

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.storage.database import Database

_HOLD_SECONDS: Final = 900.0
_CONFLICTS: Final = 20


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one commit is to do, and what an intent says of it.

    Attributes:
        why: What for.
        files: Files to put in.
        removed: Files to take out, as they were sealed.
        reason: For people.
    """

    why: Why
    files: list[TrailFile]
    removed: list[TrailFile]
    reason: str | None = None

    @property
    def sources(self) -> list[str]:
        """The logs that are touched."""
        return sorted({file.source for file in (*self.files, *self.removed)})


class _Files(msgspec.Struct, frozen=True):
    """What every intent has, an ingestion's too."""

    files: list[TrailFile]
    removed: list[TrailFile] = []


@dataclass(frozen=True, slots=True)
class View:
    """The trail at one version, beside what the ledger says of it.

    Attributes:
        files: What is in the table, by path.
        sealed: What has to be in it, with digests.
        removed: When a file was taken out by a sealed commit, seconds since the epoch, by path.
        pending: Files of commits that may be under way.
        newest: When the newest commit was sealed, seconds since the epoch.
        holds: Legal holds.
    """

    head: Head
    files: dict[str, TrailFile]
    sealed: dict[str, TrailFile]
    removed: dict[str, float]
    pending: frozenset[str]
    newest: float
    holds: list[Hold]

    def held(self, source: str, day: str) -> Hold | None:
        """The hold that covers this log and day, if any."""
        return covering(self.holds, source, day)

    def difference(self, path: str) -> str | None:
        """What a file of the table is not as it was sealed in, as far as the table's log tells: a sentence, or None if it is."""
        sealed, listed = self.sealed.get(path), self.files[path]
        if sealed is None:
            return f"The file {path} is part of the trail, and no statement says who put it there."
        if msgspec.structs.replace(listed, digest=sealed.digest) != sealed:
            return f"The table's log tells other days, sizes or times of the file {path} than were sealed."
        return None

    def clock(self, now: float | None) -> float:
        """Seconds since the epoch, by this machine's clock if nobody gives them. A clock that is behind what was sealed is not believed.

        Raises:
            StoreError: It is.
        """
        now = seconds_now() if now is None else now
        if now < self.newest:
            raise StoreError(
                f"The clock of this machine is {self.newest - now:,.0f} s behind the newest sealed commit of the trail, so ages cannot be "
                "told. Set the clock right; nothing was deleted."
            )
        return now


class Upkeep:
    """Upkeep of one trail.

    Args:
        database: Where intents are.
        trail: The trail.
        ledger: Says what has to be in it, and seals what is done. With a witness, it is compared with that first.
    """

    def __init__(self, database: "Database", trail: Trail, ledger: "Ledger") -> None:
        self.database = database
        self.trail = trail
        self.ledger = ledger
        self.uri = f"{OURS}upkeep:{trail.uri}"
        self._location = -1
        self._holder = uuid4().hex

    @contextmanager
    def turn(self) -> Generator[None]:
        """One at a time. That nothing is lost does not depend on it: it spares double work.

        Raises:
            StoreError: Somebody else is at it.
            LedgerError: The ledger was rolled back, as its witness tells.
        """
        if self.ledger.witness is not None:
            self.ledger.witness_now()
        with self.database.write() as connection:
            self._location = log_positions.location_id(connection, self.uri)
        self.renew()
        try:
            self.recover()
            yield
        finally:
            with self.database.write() as connection:
                log_positions.give_back(connection, self._location, self._holder)

    def renew(self) -> None:
        """Stay at it; to be called now and then.

        Raises:
            StoreError: Somebody else is at it, perhaps because this process was taken for dead.
        """
        with self.database.write() as connection:
            if not log_positions.take(connection, self._location, self._holder, _HOLD_SECONDS):
                raise StoreError(
                    f"Somebody else is at the upkeep of the trail {self.trail.uri} now, or was and was killed: "
                    f"try again, {_HOLD_SECONDS / 60:.0f} minutes later at most."
                )

    def recover(self) -> int:
        """Find out what became of what somebody left between intent and done, and finish it. Returns how many commits were sealed."""
        sealed = 0
        for intent, said, version in left_behind(self.database, self.ledger, self.trail, self.uri, self._location):
            change = msgspec.msgpack.decode(said, type=Change)
            if version is not None:
                self._finish(intent.attempt, intent.number, version, change)
                sealed += 1
            else:
                self._lose(intent.attempt, change)
        return sealed

    def look(self) -> View:
        """The trail as it is now.

        Raises:
            VerificationError: The table is not the one that was sealed, is older, or has commits that nobody signed for: nothing may be
                deleted from it, for it might be all that is left.
            LedgerError: The ledger is not what was signed.
        """
        for _ in range(_CONFLICTS):
            # In this order: of a commit that is in the table's log, the intent was there before, and its seal before the intent was done.
            head = self.trail.open()
            files = {file.path: file for file in head.files()}
            attempts = head.attempts()
            with self.database.read() as connection:
                intents = log_positions.all_open_intents(connection)
            entries = sealed_entries(self.ledger, self.trail.uri)
            commits = [commit for commit, _ in entries]
            newest = max((commit.version for commit in commits), default=0)
            if newest <= head.version or self.trail.open().version < newest:
                break  # Else somebody has committed and sealed in between, and nothing was rolled back.
        else:
            raise StoreError(
                f"The trail {self.trail.uri} is written to all the time, so that it could not be compared with its seals; later."
            )
        known = {commit.attempt for commit in commits} | {intent.attempt for intent in intents}
        unsigned = sorted(version for version, attempt in attempts.items() if attempt not in known)
        if unsigned or newest > head.version or {commit.table for commit in commits} - {head.identity}:
            what = (
                f"version {unsigned[0]} of the table was sealed by nobody"
                if unsigned
                else f"the table is at version {head.version}, and version {newest} was sealed"
                if newest > head.version
                else "the table is not the one that was sealed"
            )
            raise VerificationError(
                f"The trail {self.trail.uri} is not what the ledger says ({what}), so nothing of it is touched. See `mlsec verify`."
            )
        removed = {path: at for commit, at in entries for path in commit.removed}
        pending = frozenset(
            file.path
            for intent in intents
            for content in (msgspec.msgpack.decode(told(intent.content), type=_Files),)
            for file in (*content.files, *content.removed)
        )
        holds = active_holds(self.ledger, self.trail)
        return View(head, files, expected_files(commits), removed, pending, max((at for _, at in entries), default=0.0), holds)

    def put(self, change: Change, attempt: str) -> int:
        """Commit a change and seal it. Returns the table's new version.

        Somebody else may commit to the same sources meanwhile. That does no harm as long as what is taken out is still there: then it is
        tried again from the newer version.

        Args:
            change: What is to be done.
            attempt: Its identity, also part of the names of its files.

        Raises:
            TrailConflictError: Some of what was to be taken out is gone already. The files that were written are deleted.
            VerificationError: A legal hold covers some of it. The files that were written are deleted.
            StoreError: A store cannot be written. If the commit happened all the same, the next turn seals it.
        """
        number: int | None = None
        for _ in range(_CONFLICTS):
            head = self.trail.open()
            there = {file.path for file in head.files()}
            if any(file.path not in there for file in change.removed):
                break
            if change.why != "compacted" and (hold := self._hold_on(change)) is not None:
                self._lose(attempt, change)
                raise VerificationError(f"The legal hold {hold.name} was set meanwhile and covers some of it; nothing was done.")
            if number is None:
                number = head.number(self.uri) + 1
                said = signed(self.ledger, self.trail, self.uri, attempt, number, msgspec.msgpack.encode(change))
                with self.database.write() as connection:
                    log_positions.record_intent(connection, self._location, Intent(attempt, number, said))
            elif head.number(self.uri) >= number:
                break  # This process was taken for dead.
            try:
                version = head.commit(
                    attempt=attempt,
                    why=change.why,
                    sources=change.sources,
                    added=change.files,
                    removed=change.removed,
                    batch=(self.uri, number),
                )
            except TrailConflictError:
                continue
            self._finish(attempt, number, version, change)
            return version
        self._lose(attempt, change)
        raise TrailConflictError(f"The trail {self.trail.uri} was changed by somebody else meanwhile; nothing was done.")

    def destroy_removed(self) -> list[str]:
        """Delete, at once, every file that a sealed commit took out of the table, unless it is held. Returns their paths."""
        gone = self.left_behind(self.look())
        for path in gone:
            self.trail.storage.destroy(path)
        return gone

    def left_behind(self, view: View) -> list[str]:
        """Paths of the files in the storage that a sealed commit took out of the table, and that no hold covers."""
        return [
            path
            for path, _, _ in self.trail.storage.listed()
            if path in view.removed and path not in view.files and path not in view.sealed and not self.holding(view, path)
        ]

    @staticmethod
    def holding(view: View, path: str) -> Hold | None:
        """The hold that covers a file, by its path."""
        source, day, _ = path.split("/")
        return view.held(source.removeprefix("source="), day.removeprefix("day="))

    def _hold_on(self, change: Change) -> Hold | None:
        """A hold that covers some of what is to be taken out; asked for again, as it may have been set since somebody looked."""
        holds = active_holds(self.ledger, self.trail)
        return next((hold for file in change.removed if (hold := covering(holds, file.source, file.day)) is not None), None)

    def _finish(self, attempt: str, number: int, version: int, change: Change) -> None:
        commit = Commit(
            table=self.trail.open().identity,
            version=version,
            attempt=attempt,
            why=change.why,
            location=self.uri,
            number=number,
            added=change.files,
            removed=[file.path for file in change.removed],
            reason=change.reason,
        )
        seal(self.ledger, self.trail, commit)
        if change.why == "erased":
            # Before it is done: an erasure whose old files are still there is none.
            self.destroy_removed()
        with self.database.write() as connection:
            log_positions.settle(connection, self._location, attempt, "done")

    def _lose(self, attempt: str, change: Change) -> None:
        with self.database.write() as connection:
            log_positions.settle(connection, self._location, attempt, "lost")
        for file in change.files:
            self.trail.storage.remove(file.path)


def new_attempt() -> str:
    """An identity for a commit."""
    return uuid4().hex


def seconds_now() -> float:
    """Seconds since the epoch, by this machine's clock."""
    return time.time()
