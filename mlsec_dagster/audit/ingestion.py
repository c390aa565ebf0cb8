"""From log objects into the trail, each access once.

    ingestion = Ingestion(database, trail, source, ledger=ledger)
    report = ingestion.tick(Budget(seconds=40))

What holds it together, in this order:

1. Rows are compared with the trail at one version and written as files that are in nobody's table.
2. The intent is written down in SQL: the batch's number, its files with their digests, and how far its objects will have been read.
3. One commit puts the files into the table, together with the batch's number; Delta Lake refuses it if anybody else has touched the
   source since step 1.
4. The ledger seals the commit.
5. The positions are written, and with them that the batch is done.

Whoever stops anywhere leaves an intent or nothing. The next one asks the table whether that batch's number is in it: then it seals and
writes the positions, else it reads the objects again. The order of times, names and deliveries does not matter to any of this, nor does
the clock.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import msgspec

from mlsec_dagster.audit.artifacts import Translator
from mlsec_dagster.audit.batches import Batch
from mlsec_dagster.audit.committing import Committing
from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.objects import LogObject, ObjectChangedError, Place
from mlsec_dagster.audit.pseudonyms import Pseudonyms
from mlsec_dagster.audit.queues import Everything, Queue
from mlsec_dagster.audit.reading import Reading
from mlsec_dagster.audit.sources.streams import ContentHash
from mlsec_dagster.audit.state import LocationState, with_more
from mlsec_dagster.audit.ticks import Budget, Report, newest_of
from mlsec_dagster.audit.trail import Trail, TrailConflictError
from mlsec_dagster.errors import StoreError
from mlsec_dagster.storage import log_positions
from mlsec_dagster.storage.log_positions import Position

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.storage.database import Database

BATCH_ROWS: Final = 125_000
"""Rows that one commit puts into the trail, about: what is known of them is held in memory until then."""

_CONFLICTS: Final = 5
_REFUSALS: Final = 3
"""Objects one after another that cannot be read, after which the place is taken for refusing them all."""
_HOLD_SECONDS: Final = 120.0
_ASKED_AT_ONCE: Final = 500
_TAKEN_AT_ONCE: Final = 128
_KEPT_FOR: Final = 30 * 86_400_000_000
"""Microseconds. Log objects that are younger are not expected to be deleted by a lifecycle rule."""
_SHOWN: Final = 50
_LOOKED_AT_ONCE: Final = 1000
_VERSION: Final = attrgetter("key", "version", "size")


class _UnreadableError(Exception):
    """An object could not be read; `reason` says why, and is what the tick raises in the end."""

    def __init__(self, reason: StoreError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Ingestion:
    """The reading of one location into one trail. Keep it between ticks: it remembers what it need not ask for again.

    Args:
        database: Where positions are.
        trail: Where rows go.
        source: Where log objects lie, and how they are read.
        translator: Says which artifact an access is about.
        ledger: Seals commits; None leaves them unsealed.
        batch_rows: Rows of one commit, about.
        pseudonyms: Replace what tells persons, if they are to be replaced.
    """

    def __init__(
        self,
        database: "Database",
        trail: Trail,
        source: LogSource,
        translator: Translator,
        *,
        ledger: "Ledger | None" = None,
        batch_rows: int = BATCH_ROWS,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self.database = database
        self.trail = trail
        self.source = source
        self.translator = translator
        self.ledger = ledger
        self.batch_rows = batch_rows
        self.pseudonyms = pseudonyms
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="mlsec-trail")
        self._location = -1
        self._settled: set[int] = set()
        self._ignored: set[int] = set()
        self._unfinished: list[tuple[float, int]] = []
        self._together: dict[int, int] = {}
        self._refused: set[int] = set()
        self._loaded = False
        self._everything: Everything | None = None
        self._digests = False

    @property
    def place(self) -> Place:
        """Where the log objects lie."""
        return self.source.place

    def tick(self, budget: Budget) -> Report:
        """List the window, read what is new, commit it, until nothing is left or the budget is spent.

        Raises:
            StoreError: A store, the trail or the place cannot be reached. What was committed before stays.
        """
        report = Report()
        with self.database.read() as connection:
            known = log_positions.known_location(connection, self.place.uri)
            if known is not None:
                self._location = known[0]
            interrupted = known is not None and bool(log_positions.open_intents(connection, known[0]))
        state = LocationState() if known is None else LocationState.read(known[1])
        self._load_settled()
        self._look_again()
        listed_at = time.time_ns() // 1000
        waiting = self._waiting_in_window(state.newest_object, report)
        # Where nothing is to be done nobody is kept from doing it: most ticks hold nothing and write once.
        if (waiting or interrupted or known is None) and not self._held(lambda: self._read_waiting(waiting, budget, report), report):
            return report
        self._change_state(
            lambda now: msgspec.structs.replace(
                now,
                source=self.source.source,
                listed_at=now.listed_at if report.behind or report.changed else listed_at,
                newest_object=max(filter(None, (now.newest_object, report.newest_object)), default=None),
                behind=report.behind,
                rewritten=with_more(now.rewritten, report.rewritten),
            )
        )
        return report

    def reconcile(self, budget: Budget) -> Report:
        """List everything, in as many calls as it takes: read what no window has shown, and find what is gone.

        What has been listed is remembered here between calls, so a process that starts anew begins anew. `Report.reconciled` says that it
        came to the end.

        Raises:
            StoreError: As `tick`.
        """
        report = Report()
        try:
            self._held(lambda: self._reconcile(budget, report), report)
        except BaseException:
            # What was listed and not read, or not listed any more, this pass would never come back to.
            self._everything = None
            raise
        return report

    def state(self) -> LocationState:
        """What is known of this location.

        Raises:
            StoreError: The database cannot be read.
        """
        with self.database.read() as connection:
            known = log_positions.known_location(connection, self.place.uri)
        return LocationState() if known is None else LocationState.read(known[1])

    def _held(self, work: Callable[[], object], report: Report) -> bool:
        """Work while nobody else reads this location; returns False, and says so, if somebody does."""
        holder = uuid4().hex
        with self.database.write() as connection:
            self._location = log_positions.location_id(connection, self.place.uri)
            if not log_positions.take(connection, self._location, holder, _HOLD_SECONDS):
                report.held_elsewhere = True
                return False
        try:
            self._committing().recover(report)
            self._load_settled()
            self._digests = self.state().digests
            work()
        finally:
            with self.database.write() as connection:
                log_positions.give_back(connection, self._location, holder)
        return True

    def _reconcile(self, budget: Budget, report: Report) -> None:
        everything = self._everything = self._everything or Everything(self.place.list())
        more = True
        while more and not budget.spent:
            some = list(islice(everything.objects, _LOOKED_AT_ONCE))
            more = bool(some)
            everything.seen.update(hash(found.key) for found in some)
            everything.waiting += self._unsettled(some, report)
            report.saw(len(some), newest_of(self._of_this_log(some)))
            if more and len(everything.waiting) < _ASKED_AT_ONCE and not budget.spent:
                continue
            everything.waiting, refused = self._read_all(everything.waiting, budget, report)
            everything.refused += refused
            if refused and everything.waiting:
                raise refused[0]  # Several in a row: it is the storage, and not one object.
        if more or everything.waiting:
            return
        self._everything = None
        if everything.refused:
            raise everything.refused[0]
        report.reconciled = True
        oldest = time.time_ns() // 1000 - _KEPT_FOR
        with self.database.read() as connection:
            known = log_positions.all_positions(connection, self._location)
            report.missing = [each.object for each in known if hash(each.object) not in everything.seen and each.modified > oldest]
        self._change_state(
            lambda now: msgspec.structs.replace(
                now, reconciled_at=everything.begun, missing=report.missing[-_SHOWN:], rewritten=with_more(now.rewritten, report.rewritten)
            )
        )

    # --- what is to be read

    def _load_settled(self) -> None:
        if not self._loaded and self._location >= 0:
            with self.database.read() as connection:
                self._settled.update(map(hash, log_positions.complete_versions(connection, self._location)))
            self._loaded = True

    def _look_again(self) -> None:
        """Objects whose last line has been unfinished for long are to be read once more, though they are what they were."""
        now = time.time()
        if due := {version for when, version in self._unfinished if when < now}:
            self._unfinished = [each for each in self._unfinished if each[1] not in due]
            self._settled -= due
            self._together.clear()

    def _waiting_in_window(self, newest: int | None, report: Report) -> list[LogObject]:
        """Objects of the window that are to be read, the oldest first."""
        found: list[LogObject] = []
        listing, together = iter(self.source.window(newest)), dict[int, int]()
        while some := list(islice(listing, _LOOKED_AT_ONCE)):
            # Mostly all of them are settled, and were listed one behind the other the last time too: then a single look tells. Sums can no
            # more be made alike from outside than hashes themselves, which are other ones in each process.
            total = sum(map(hash, map(_VERSION, some)))
            latest = self._together.get(total)
            new: list[LogObject] = []
            if latest is None:
                new = self._unsettled(some, report)
                latest = newest_of(self._of_this_log(some))
            if not new:
                together[total] = latest
            found += new
            report.saw(len(some), latest)
        self._together = together
        found.sort(key=lambda each: (each.modified, each.key))
        return found

    def _unsettled(self, some: list[LogObject], report: Report) -> list[LogObject]:
        """Those of them that are to be read."""
        # What is settled was read to its end in this very version, which nothing can undo; but see `_look_again`.
        if self._settled.issuperset(map(hash, map(_VERSION, some))):
            return []
        return [each for each in some if hash(_VERSION(each)) not in self._settled and self._belongs(each, report)]

    def _belongs(self, found: LogObject, report: Report) -> bool:
        if self.source.layout.belongs(found.key):
            return True
        report.ignored += 1
        self._settled.add(hash(_VERSION(found)))
        self._ignored.add(hash(_VERSION(found)))
        return False

    def _of_this_log(self, some: list[LogObject]) -> list[LogObject]:
        """Those of them that are objects of this log, once it was looked which are unsettled."""
        if not self._ignored or self._ignored.isdisjoint(map(hash, map(_VERSION, some))):
            return some
        return [each for each in some if hash(_VERSION(each)) not in self._ignored]

    # --- reading

    def _read_waiting(self, waiting: list[LogObject], budget: Budget, report: Report) -> None:
        """Read them, and raise what kept some of them from being read once the others are in the trail."""
        refused = self._read_all(waiting, budget, report)[1]
        if refused:
            raise refused[0]

    def _read_all(self, waiting: list[LogObject], budget: Budget, report: Report) -> tuple[list[LogObject], list[StoreError]]:
        """Read objects; returns those that were not begun, and what kept others from being read.

        Whoever can write one object that nobody may read would otherwise stop the reading of all. So those that were refused come last
        the next time.
        """
        queue = Queue(sorted(waiting, key=self._was_refused))
        conflicts = 0
        while queue and not budget.spent and queue.refusals < _REFUSALS:
            place = queue.place
            try:
                self._read_batch(queue, budget, report)
                conflicts = 0
            except TrailConflictError:
                conflicts += 1
                if conflicts >= _CONFLICTS:
                    raise
                queue.back_to(place)
        report.behind = len(queue) + len(queue.refused)
        return [*queue.following(len(queue))], [*queue.refused.values()]

    def _was_refused(self, found: LogObject) -> bool:
        return hash((found.key, found.version)) in self._refused

    def _read_batch(self, queue: Queue, budget: Budget, report: Report) -> None:
        """One batch, of as many objects as it holds."""
        batch = Batch(
            self.trail,
            location=self.place.uri,
            source=self.source.source,
            translator=self.translator,
            writing=self._writing,
            pseudonyms=self.pseudonyms,
        )
        done: list[Reading] = []
        positions: list[Position] = []
        incomplete: list[str] = []
        changed: list[str] = []
        try:
            while queue and batch.rows < self.batch_rows and queue.refusals < _REFUSALS and not (budget.spent and positions):
                reading = queue.reading or self._begin(queue)
                if reading is None:
                    queue.next()  # Somebody else was faster.
                    continue
                try:
                    whole = self._take_rows(batch, reading, budget, incomplete)
                except ObjectChangedError:
                    # Listed again next time. The rows that came are whole ones, and stay.
                    changed.append(reading.found.key)
                    queue.next()
                    continue
                except _UnreadableError as caught:
                    self._refused.add(hash((reading.found.key, reading.found.version)))
                    queue.refuse(caught.reason)
                    if budget.spent:
                        break
                    continue
                queue.refusals = 0
                if whole:
                    done.append(reading)
                    positions.append(reading.after)
                    queue.next()
                else:
                    queue.reading = reading
                    positions.append(reading.before)
                    break
            batch.tally.duplicates += sum(reading.taken for reading in done if reading.copy)
            batch.finish()
            self._committing().put(batch, positions, incomplete, report)
        except BaseException:
            queue.reading = None
            # Once it is intended its files may be in the trail, whatever was raised: only `recover` finds that out.
            if not batch.intended:
                batch.abandon()
            raise
        for position in positions:
            if position.complete:
                self._settle(position)
        for reading in done:
            if reading.look_again is not None:
                version = hash(_VERSION(reading.found))
                self._settled.add(version)
                self._unfinished.append((reading.look_again, version))
        report.read += len(done)
        report.copies += sum(reading.copy for reading in done)
        report.rewritten += [reading.found.key for reading in done if reading.rewritten]
        report.changed += changed
        report.incomplete += incomplete

    def _begin(self, queue: Queue) -> Reading | None:
        """Begin with the next object, where it was left; None if it was read meanwhile."""
        found = queue.current
        if found.key not in queue.known:
            asked = [each.key for each in queue.following(_ASKED_AT_ONCE)]
            with self.database.read() as connection:
                queue.known = {**dict.fromkeys(asked), **log_positions.positions_of(connection, self._location, asked)}
        position = queue.known[found.key]
        if position is not None and position.complete and (position.version, position.size) == (found.version, found.size):
            self._settle(position)
            return None
        return Reading(found, self.source, position, self._rows_of_copy, ContentHash() if self._digests else None)

    def _take_rows(self, batch: Batch, reading: Reading, budget: Budget, incomplete: list[str]) -> bool:
        """Put rows of an object into the batch. Returns whether it was read as far as it goes."""
        found = reading.found
        uri = f"{self.place.uri}{found.key}"
        rows = iter(reading)
        while taken := self._taken(rows):
            batch.add(taken, uri, found.modified)
            reading.taken += len(taken)
            budget.records -= len(taken)
            incomplete += [found.key for row in taken if isinstance(row, Quarantined) and row.rest]
            if len(taken) == _TAKEN_AT_ONCE and (batch.rows >= self.batch_rows or budget.spent):
                return False
        return True

    @staticmethod
    def _taken(rows: Iterator[AuditEvent | Quarantined]) -> list[AuditEvent | Quarantined]:
        try:
            return list(islice(rows, _TAKEN_AT_ONCE))
        except ObjectChangedError:
            raise
        except StoreError as error:
            raise _UnreadableError(error) from None

    def _rows_of_copy(self, digest: str) -> int | None:
        """Rows of an object with these bytes that was read before, here; None for none."""
        with self.database.read() as connection:
            return log_positions.rows_of_copy(connection, self._location, digest)

    # --- writing down

    def _committing(self) -> Committing:
        return Committing(self.database, self.trail, self.place.uri, self._location, self.ledger)

    def _settle(self, position: Position) -> None:
        self._settled.add(hash((position.object, position.version, position.size)))

    def _change_state(self, change: Callable[[LocationState], LocationState]) -> None:
        with self.database.write() as connection:
            before = log_positions.read_state(connection, self._location)
            after = change(LocationState.read(before)).written()
            if after != before:
                log_positions.write_state(connection, self._location, after)
