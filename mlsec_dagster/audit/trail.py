"""The trail: a Delta table of everything that the logs tell, partitioned by source and day.

    trail = Trail("/srv/mlsec/trail")
    head = trail.open()                    # one version of the table
    head.files()                           # what is in it
    head.commit(added, removed, …)         # refused if anybody else has committed to these sources since

A commit names the sources that it touches. Of two commits that touch one source and were prepared from the same version, Delta Lake
accepts one: so what was found to be new when the rows were compared with the table is still new when they are committed.

https://github.com/delta-io/delta/blob/master/PROTOCOL.md#transaction-identifiers
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from mlsec_dagster.audit.files import Files, TrailFile, local_path
from mlsec_dagster.audit.schema import PARTITIONS, SCHEMA
from mlsec_dagster.audit.times import rfc3339
from mlsec_dagster.errors import ConfigurationError, StoreError, UnverifiableError

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPT: Final = "mlsec.attempt"
WHY: Final = "mlsec.why"

_SCHEMES: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "azure", "adl"})
_MISREAD: Final = re.compile(r"[?#\\\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
_RECENT: Final = 50
_ASKED: Final = 5
_NOBODY: Final = "none-"
_HARMLESS: Final = frozenset({"CREATE TABLE", "VACUUM START", "VACUUM END", "OPTIMIZE CHECKPOINT"})
_CONFIGURATION: Final = {"delta.checkpointInterval": "50"}


class TrailConflictError(StoreError):
    """Somebody else has committed to the same source since the trail was opened. Open it again, and look again at what is new."""


class Trail:
    """One trail.

    Args:
        uri: A directory, or where Delta Lake can write: s3://bucket/prefix, gs://…, abfss://….
        options: Delta Lake's storage options (credentials, region).

    Raises:
        ConfigurationError: It is the URI of something else, or a directory whose name Delta Lake takes for another one.
    """

    def __init__(self, uri: str, options: Mapping[str, str] | None = None) -> None:
        path = local_path(uri)
        if path is None and uri.partition("://")[0] not in _SCHEMES:
            raise ConfigurationError(f"The audit trail cannot lie at {uri!r}: expected a directory, or s3://, gs:// or abfss://.")
        if path is not None and (sign := _MISREAD.search(path.as_posix())) is not None:
            raise ConfigurationError(
                f"The audit trail cannot lie in the directory {str(path)!r}: Delta Lake reads {sign[0]!r} in a path as something else. "
                "Choose a directory without '?', '#', backslashes, control characters and '%' before two hexadecimal digits."
            )
        self.uri = str(path) if path is not None else uri.rstrip("/")
        self.storage = Files(self.uri, dict(options) if options else None)

    def __repr__(self) -> str:
        return f"Trail({self.uri!r})"

    def fate(self, location: str, number: int, attempts: Sequence[str]) -> tuple[str, int] | None:
        """Which attempt at a batch is in the trail, and since which version; None for none, and then none of them can be any more.

        Whoever was about to commit may still be there, and only slow. So the number is taken first: what was prepared from an earlier
        version of the table is refused from then on.

        Args:
            location: Of the batch.
            number: Of the batch.
            attempts: All that there were at it.

        Raises:
            StoreError: The table cannot be read or written, or is written to all the time.
        """
        for _ in range(_ASKED):
            head = self.open(create=True)
            if head.number(location) >= number:
                return head.attempt_of(attempts)
            with suppress(TrailConflictError):
                head.take_number(location, number)
                return None
        raise StoreError(f"The audit trail {self.uri} is written to all the time, so that batch {number} could not be settled; later.")

    def exists(self) -> bool:
        """Whether there is a table."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        try:
            return DeltaTable.is_deltatable(self.uri, self.storage.options)
        except (DeltaError, OSError) as error:
            raise _unreachable(self.uri, error) from error

    def open(self, *, create: bool = False) -> "Head":
        """The table as it is now.

        Args:
            create: Make it where there is none.

        Raises:
            UnverifiableError: There is none.
            StoreError: It cannot be reached or read.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            if create and not DeltaTable.is_deltatable(self.uri, self.storage.options):
                if self.storage.root is not None:
                    self.storage.root.mkdir(parents=True, exist_ok=True, mode=0o700)
                DeltaTable.create(
                    self.uri,
                    schema=SCHEMA,
                    mode="ignore",
                    partition_by=list(PARTITIONS),
                    name="mlsec audit trail",
                    configuration=_CONFIGURATION,
                    storage_options=self.storage.options,
                )
            return Head(self, DeltaTable(self.uri, storage_options=self.storage.options))
        except TableNotFoundError as error:
            raise UnverifiableError(f"There is no audit trail at {self.uri}; the first tick of an audit log sensor makes it.") from error
        except (DeltaError, OSError) as error:
            raise _unreachable(self.uri, error) from error


class Head:
    """One version of the trail, and the only handle through which a commit prepared from it may go."""

    def __init__(self, trail: Trail, table: "DeltaTable") -> None:
        self.trail = trail
        self._table = table
        self.version = table.version()
        self.identity = str(table.metadata().id)

    def number(self, location: str) -> int:
        """Number of the last batch of a location that is in the trail; 0 for none."""
        return self._table.transaction_version(_application(location)) or 0

    def files(self) -> list[TrailFile]:
        """The table's files at this version, by path."""
        table = pa.table(self._table.get_add_actions(flatten=True))
        names = set(table.column_names)

        def column(name: str) -> list[Any]:
            return table.column(name).to_pylist() if name in names else [None] * table.num_rows

        def instants(name: str) -> list[int | None]:
            if name not in names:
                return [None] * table.num_rows
            return table.column(name).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_pylist()

        # As they stand in the table's log, where a path is percent-encoded; ours hold nothing that is.
        listed = zip(
            column("path"),
            column("partition.source"),
            column("partition.day"),
            column("size_bytes"),
            column("num_records"),
            instants("min.time"),
            instants("max.time"),
            strict=True,
        )
        return sorted(
            (TrailFile(path, str(source), str(day), size, rows or 0, first, last) for path, source, day, size, rows, first, last in listed),
            key=lambda file: file.path,
        )

    def alien(self) -> list[str]:
        """What the table's log holds that no writer of ours puts there, and that hides or changes rows for whoever heeds it. For people."""
        from deltalake import Schema

        protocol = self._table.protocol()
        found = [f"feature {feature}" for feature in protocol.reader_features or ()]
        if not found and protocol.min_reader_version > 1:
            found.append(f"protocol version {protocol.min_reader_version}")
        if self._hides_rows():
            found.append("deletion vectors")
        if self._table.schema() != Schema.from_arrow(SCHEMA) or self._table.metadata().partition_columns != list(PARTITIONS):
            found.append("other columns or partitions")
        paths = self._table.get_add_actions(flatten=True)["path"].to_pylist()
        found += [f"file {path} twice" for path, count in Counter(paths).items() if count > 1]
        return found

    def _hides_rows(self) -> bool:
        from deltalake.exceptions import DeltaError

        try:
            return any(batch.num_rows for batch in pa.RecordBatchReader.from_stream(self._table.deletion_vectors()))
        except (DeltaError, OSError, pa.ArrowException):
            return True  # There are some, and they cannot be read.

    def attempt_of(self, among: Sequence[str]) -> tuple[str, int] | None:
        """Which of several attempts at one batch is the one that was committed, and the version that it made; None if none of them is.

        Delta Lake deletes what its log tells of commits after a month. Then files in the table still tell, for they are named after their
        attempt; the version is the newest that is not told any more.

        Args:
            among: The attempts.
        """
        history = self._table.history()
        for commit in history:
            if commit.get(ATTEMPT) in among:
                return str(commit[ATTEMPT]), int(commit["version"])
        oldest = min((int(commit["version"]) for commit in history), default=self.version + 1)
        if oldest > 0:
            for path in self._table.get_add_actions(flatten=True)["path"].to_pylist():
                attempt = str(path).rpartition("/")[2].rpartition("-")[0]
                if attempt in among:
                    return attempt, oldest - 1
        return None

    def attempts(self) -> dict[int, str | None]:
        """Identity of every commit of files that the table's log still tells of, by version; None for a commit that is not ours."""
        told: dict[int, str | None] = {}
        for commit in self._table.history():
            attempt = commit.get(ATTEMPT)
            if attempt is None and commit.get("operation") in _HARMLESS:
                continue
            if attempt is None or not str(attempt).startswith(_NOBODY):
                told[int(commit["version"])] = None if attempt is None else str(attempt)
        return told

    def take_number(self, location: str, number: int) -> None:
        """Commit nothing under a batch's number, so that no attempt at it that was prepared before can be committed any more.

        Raises:
            TrailConflictError: One just was.
            StoreError: The table cannot be written.
        """
        self.commit(attempt=f"{_NOBODY}{number}", why="ingested", sources=(), added=(), batch=(location, number))

    def commit(
        self,
        *,
        attempt: str,
        why: str,
        sources: Sequence[str],
        added: Sequence[TrailFile],
        removed: Sequence[TrailFile] = (),
        batch: tuple[str, int] | None = None,
    ) -> int:
        """Put files into the table and take others out, all of it or nothing. This handle is good for one commit.

        Args:
            attempt: Identity of the commit, in its metadata.
            why: "ingested", "compacted", "expired", "erased".
            sources: The sources that are touched.
            added: Files that were written.
            removed: Files that are in the table at this version.
            batch: Location and number of the batch of log objects that this is.

        Returns:
            The new version.

        Raises:
            TrailConflictError: Somebody else was faster.
            StoreError: It cannot be written.
        """
        from deltalake import CommitProperties, Transaction
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import RemoveAction

        fences = [Transaction(f"mlsec:source:{source}", 0) for source in sorted(set(sources))]
        if batch is not None:
            fences.append(Transaction(_application(batch[0]), batch[1]))
        changes, now = why != "compacted", time.time_ns() // 1_000_000
        actions: list[Any] = [_add_action(file, data_change=changes) for file in added]
        actions += [RemoveAction(file.path, changes, now, size=file.size, partition_values=_place(file)) for file in removed]
        try:
            self._table.create_write_transaction(
                actions,
                "append",
                self._table.schema(),
                partition_by=list(PARTITIONS),
                commit_properties=CommitProperties(
                    custom_metadata={ATTEMPT: attempt, WHY: why}, max_commit_retries=20, app_transactions=fences
                ),
            )
        except CommitFailedError as error:
            raise TrailConflictError(
                f"Somebody else has written to the audit trail {self.trail.uri} meanwhile ({_first_line(error)}); nothing was recorded."
            ) from error
        except (DeltaError, OSError) as error:
            raise StoreError(
                f"The audit trail {self.trail.uri} cannot be written ({_first_line(error)}). Nothing was recorded; the next tick does it."
            ) from error
        version = self._committed(attempt)
        if self.trail.storage.root is not None:
            self.trail.storage.sync(f"_delta_log/{version:020}.json")
        return version

    def _committed(self, attempt: str) -> int:
        """The version that a commit just made: the handle does not move with it, and others may have committed in between."""
        from deltalake.exceptions import DeltaError

        try:
            self._table.update_incremental()
            for limit in (_RECENT, None):
                for commit in self._table.history(limit):
                    if commit.get(ATTEMPT) == attempt:
                        return int(commit["version"])
        except (DeltaError, OSError) as error:
            raise StoreError(
                f"The audit trail {self.trail.uri} was written and cannot be read now ({_first_line(error)}). The next tick seals it."
            ) from error
        raise StoreError(f"The audit trail {self.trail.uri} does not tell of a commit that was just made. The next tick looks again.")


def _application(location: str) -> str:
    return f"mlsec:location:{location}"


def _place(file: TrailFile) -> dict[str, str | None]:
    return {"source": file.source, "day": file.day}


def _add_action(file: TrailFile, *, data_change: bool) -> Any:
    from deltalake.transaction import AddAction

    stats: dict[str, Any] = {"numRecords": file.rows}
    if file.first is not None and file.last is not None:
        stats |= {"minValues": {"time": rfc3339(file.first)}, "maxValues": {"time": rfc3339(file.last)}, "nullCount": {"time": 0}}
    return AddAction(file.path, file.size, _place(file), time.time_ns() // 1_000_000, data_change, json.dumps(stats))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _unreachable(uri: str, error: Exception) -> StoreError:
    return StoreError(f"The audit trail {uri} cannot be reached ({_first_line(error)}). Check its address, network and rights.")


def default_uri(home: Path) -> str:
    """Where the trail lies if nobody says: beside the ledger."""
    return os.fspath(home / "trail")
