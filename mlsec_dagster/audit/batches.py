"""A batch: rows of log objects, compared with what the trail has, and written as files that one commit puts into it.

batch = Batch(trail, location="s3://org-trail/AWSLogs", source="aws.cloudtrail", translator=translator, writing=ThreadPoolExecutor(1))
batch.add(rows, log_object, modified)      # any number of times
batch.finish()                             # the files are on the disk now, and in nobody's table
…                                          # the intent is written down
batch.commit()
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pyarrow as pa

from mlsec_dagster.audit.artifacts import Artifact, Translator
from mlsec_dagster.audit.events import AuditEvent, Quarantined, Source
from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.known import KnownKeys, remember
from mlsec_dagster.audit.pseudonyms import Pseudonyms
from mlsec_dagster.audit.rows import DAY, access_key, event_lines, event_table, quarantine_key, quarantine_table
from mlsec_dagster.audit.times import latest_credible, rfc3339
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.audit.writing import Part
from mlsec_dagster.errors import StoreError

_CHUNK: Final = 128  # Events that are compared at once: no more than a processor keeps close.
_ROW_GROUP: Final = 16_384
_ROW_GROUP_BYTES: Final = 16 << 20
_QUARANTINED: Final = 64  # Each may hold a quarter of a megabyte.
_OPEN_FILES: Final = 32
_SAMPLE: Final = 50

_FAILED: Final = Artifact("unresolved", by="error")


@dataclass(slots=True)
class _RowGroup:
    """Events that will be written at once, as text: as Python's objects they would take several times the memory."""

    lines: list[bytes] = field(default_factory=list[bytes])
    artifacts: list[Artifact] = field(default_factory=list[Artifact])
    keys: list[bytes] = field(default_factory=list[bytes])
    objects: list[str] = field(default_factory=list[str])
    days: list[Any] = field(default_factory=list[Any])
    size: int = 0

    @property
    def full(self) -> bool:
        return len(self.keys) >= _ROW_GROUP or self.size >= _ROW_GROUP_BYTES

    def add(self, lines: bytes, artifacts: list[Artifact], keys: list[bytes], objects: list[str], days: Any) -> None:
        self.lines.append(lines)
        self.artifacts += artifacts
        self.keys += keys
        self.objects += objects
        self.days.append(days)
        self.size += len(lines)

    def table(self, ingested: int) -> pa.Table:
        lines = b"".join(self.lines)
        self.lines.clear()
        return event_table(lines, self.artifacts, self.keys, self.objects, ingested)


@dataclass(slots=True)
class Tally:
    """What came of the rows of a batch.

    Attributes:
        events: New accesses.
        duplicates: Records of accesses that were known, or that came twice in the batch.
        quarantined: New rows that are no event.
        unresolved: New accesses of which nothing tells what they are about.
        unresolved_sample: Where: container and object, with how many; not all of them.
        translator_error: The first error that the translator raised, if it did.
        first: Time of the earliest new event, microseconds since the epoch.
        last: Time of the latest; those of the future aside.
        data_events: New events that touched contents.
    """

    events: int = 0
    duplicates: int = 0
    quarantined: int = 0
    unresolved: int = 0
    data_events: int = 0
    first: int | None = None
    last: int | None = None
    unresolved_sample: dict[str, int] = field(default_factory=dict[str, int])
    translator_error: str | None = None

    def add(self, more: "Tally") -> None:
        """Count another's too."""
        self.events += more.events
        self.duplicates += more.duplicates
        self.quarantined += more.quarantined
        self.unresolved += more.unresolved
        self.data_events += more.data_events
        for where, count in more.unresolved_sample.items():
            self.unresolved_sample[where] = self.unresolved_sample.get(where, 0) + count
        self.translator_error = self.translator_error or more.translator_error
        self.first = min((each for each in (self.first, more.first) if each is not None), default=None)
        self.last = max((each for each in (self.last, more.last) if each is not None), default=None)


class Batch:
    """Rows on their way into the trail, of one location. Nothing is in the trail before `commit`.

    Args:
        trail: Where they go.
        location: URI of where the log objects lie.
        source: The log.
        translator: Says which artifact an access is about.
        writing: One thread, on which files are written while the next rows are read; no other batch uses it meanwhile. It is the caller's,
            for several batches one after another: a new thread for each would take memory of its own each time.
        pseudonyms: Replace what tells persons, if they are to be replaced.

    Attributes:
        attempt: Its identity.
        number: Its place among the batches of its location.
        tally: What came of the rows so far.
        files: What was written, once finished.
        intended: Whether it is written down that it is about to be committed, and not that it was refused.
    """

    def __init__(
        self,
        trail: Trail,
        *,
        location: str,
        source: Source,
        translator: Translator,
        writing: ThreadPoolExecutor,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self.location = location
        self.source: Source = source
        self.attempt = uuid4().hex
        self.tally = Tally()
        self.files: list[TrailFile] = []
        self.intended = False
        self._head = trail.open(create=True)
        self.number = self._head.number(location) + 1
        self._storage = trail.storage
        self._known = KnownKeys(self._head.files(), trail.storage.open, self._head.identity)
        self._translator = translator
        self._pseudonyms = pseudonyms
        self._ingested = time.time_ns() // 1000
        self._seen: set[bytes] = set()
        self._events: list[AuditEvent] = []
        self._objects: list[str] = []
        self._quarantined: list[tuple[Quarantined, str, int]] = []
        self._open: dict[int, Part] = {}
        self._parts = 0
        self._group = _RowGroup()
        self._writing = writing
        self._pending: list[Future[None]] = []

    @property
    def rows(self) -> int:
        """New rows so far, and rows that were not looked at yet."""
        return len(self._seen) + len(self._events) + len(self._quarantined)

    def add(self, rows: Iterable[AuditEvent | Quarantined], log_object: str, modified: int) -> None:
        """Take in what a reader yielded, in any number of calls; what is known already is counted and left out.

        Args:
            rows: Any number; what is not yet a full chunk is held in memory.
            log_object: URI of the object that they were read from.
            modified: When that was last written, microseconds since the epoch.

        Raises:
            StoreError: They cannot be written.
        """
        for row in rows:
            if isinstance(row, AuditEvent):
                self._events.append(row)
            else:
                self._quarantined.append((row, log_object, modified))
        self._objects += [log_object] * (len(self._events) - len(self._objects))
        if len(self._events) >= _CHUNK:
            self._take_events()
        if len(self._quarantined) >= _QUARANTINED:
            self._take_quarantined()

    def finish(self) -> None:
        """Write the files to their end.

        Raises:
            StoreError: They cannot be written.
        """
        self._take_events()
        self._write_group()
        self._take_quarantined()
        self._submit(self._close_all, pending=0)
        pa.default_memory_pool().release_unused()  # It may be a long time to the next batch.
        self.files.sort(key=lambda file: file.path)

    def commit(self) -> int | None:
        """Put the files into the trail. Returns its new version, or None if there was nothing new.

        Raises:
            TrailConflictError: Somebody else has written to the same source meanwhile: begin again.
            StoreError: The trail cannot be written.
        """
        if not self.files:
            return None
        return self._head.commit(
            attempt=self.attempt, why="ingested", sources=[self.source], added=self.files, batch=(self.location, self.number)
        )

    def abandon(self) -> None:
        """Delete what was written."""
        for pending in self._pending:
            pending.cancel()
        wait(self._pending)
        for part in self._open.values():
            part.sink.close()
        for path in {*(file.path for file in self.files), *(part.path for part in self._open.values())}:
            self._storage.remove(path)
        self._open.clear()

    # --- rows

    def _take_events(self) -> None:
        events, objects = self._events, self._objects
        self._events, self._objects = [], []
        if not events:
            return
        keys = [access_key(event) for event in events]
        times = np.fromiter((event.time for event in events), np.int64, len(events))
        keys, kept = self._new(keys, times)
        if not kept:
            return
        if len(kept) < len(events):
            events, keys, objects = [events[at] for at in kept], [keys[at] for at in kept], [objects[at] for at in kept]
            times = times[kept]
        artifacts = [self._artifact(event) for event in events]
        if self._pseudonyms is not None:
            events = [self._pseudonyms.event(event) for event in events]
        self._count(events, artifacts, times)
        lines = event_lines(events)
        if isinstance(lines, bytes):
            self._group.add(lines, artifacts, keys, objects, times // DAY)
            if self._group.full:
                self._write_group()
        else:
            self._write(partial(event_table, lines, artifacts, keys, objects, self._ingested), times // DAY)

    def _write_group(self) -> None:
        group, self._group = self._group, _RowGroup()
        if group.keys:
            self._write(partial(group.table, self._ingested), np.concatenate(group.days))

    def _take_quarantined(self) -> None:
        taken, self._quarantined = self._quarantined, []
        if not taken:
            return
        keys = [quarantine_key(row, log_object) for row, log_object, _ in taken]
        keys, kept = self._new(keys, np.fromiter((modified for *_, modified in taken), np.int64, len(taken)))
        if not kept:
            return
        self.tally.quarantined += len(kept)
        rows, objects, times = zip(*(taken[index] for index in kept), strict=True)
        if self._pseudonyms is not None:
            rows = [self._pseudonyms.quarantined(row) for row in rows]
        table = partial(quarantine_table, rows, [keys[index] for index in kept], objects, times, self._ingested)
        self._write(table, np.array(times, np.int64) // DAY)

    def _new(self, keys: list[bytes], times: Any) -> tuple[list[bytes], list[int]]:
        """The keys as they are stored, and places of the rows that neither the trail nor this batch has, each key once."""
        found = self._known.among(self.source, keys, times)
        if self._pseudonyms is not None:
            # Rows of before there were pseudonyms are known by the plain key.
            keys = [self._pseudonyms.key(key) for key in keys]
            found |= self._known.among(self.source, keys, times)
        known = found.tolist()
        kept: list[int] = []
        seen = self._seen
        for index, key in enumerate(keys):
            if known[index] or key in seen:
                continue
            seen.add(key)
            kept.append(index)
        self.tally.duplicates += len(keys) - len(kept)
        return keys, kept

    def _artifact(self, event: AuditEvent) -> Artifact:
        try:
            return self._translator.artifact(event)
        except Exception as error:  # It may be a user's own. What it cannot tell is unresolved, and the row is kept.
            self.tally.translator_error = self.tally.translator_error or f"{type(error).__name__}: {error}"[:300]
            return _FAILED

    def _count(self, events: Sequence[AuditEvent], artifacts: Sequence[Artifact], times: Any) -> None:
        tally = self.tally
        first, last, credible = int(times.min()), int(times.max()), latest_credible()
        tally.events += len(events)
        tally.first = first if tally.first is None else min(tally.first, first)
        if last > credible:
            last = max((each for each in times.tolist() if each <= credible), default=tally.last)
        tally.last = last if tally.last is None or last is None else max(tally.last, last)
        for event, artifact in zip(events, artifacts, strict=True):
            if event.plane == "data":
                tally.data_events += 1
            if artifact.kind == "unresolved":
                tally.unresolved += 1
                where = "/".join(part for part in (event.container, event.object) if part)[:300]
                if where in tally.unresolved_sample or len(tally.unresolved_sample) < _SAMPLE:
                    tally.unresolved_sample[where] = tally.unresolved_sample.get(where, 0) + 1

    # --- files

    def _write(self, table: Callable[[], pa.Table], days: Any) -> None:
        self._submit(lambda: self._write_days(table(), days))

    def _submit(self, work: Callable[[], None], *, pending: int = 1) -> None:
        """Have work done on the writing thread, while the next rows are read."""
        self._pending.append(self._writing.submit(work))
        while len(self._pending) > pending:
            try:
                self._pending[0].result()  # It stays there until then, so that `abandon` waits for it whatever happens here.
                del self._pending[0]
            except OSError as error:
                raise StoreError(
                    f"The trail's files cannot be written to {self._storage.uri} ({error}). Nothing was recorded, and nothing is lost: "
                    "make room or mend the connection; the next tick reads the same log objects again."
                ) from error

    # What follows happens on the writing thread.

    def _write_days(self, table: pa.Table, days: Any) -> None:
        if (days == days[0]).all():
            self._write_day(int(days[0]), table)
            return
        for day in np.unique(days):
            self._write_day(int(day), table.filter(pa.array(days == day)))

    def _write_day(self, day: int, table: pa.Table) -> None:
        if day not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._close(next(iter(self._open)))
            text = rfc3339(day * DAY)[:10]
            self._parts += 1
            path = f"source={self.source}/day={text}/{self.attempt}-{self._parts}.parquet"
            self._open[day] = Part(path, text, self._storage.create(path))
        self._open[day].write(table)

    def _close(self, day: int) -> None:
        part = self._open[day]  # It stays there until it is whole, so that `abandon` finds it.
        self.files.append(part.close(self.source))
        del self._open[day]
        remember(self._head.identity, part.path, np.concatenate(part.keys))

    def _close_all(self) -> None:
        for day in list(self._open):
            self._close(day)
