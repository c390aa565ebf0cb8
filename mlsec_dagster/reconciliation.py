"""Dagster's materializations held against the ledger: what was written, and never sealed or never checked?

    found = reconcile(ledger, instance)
    for gap in found.gaps:
        print(gap.kind, gap.sentence)

    with Verified() as verified:                        # after a verification, which authenticates every entry anyway
        verification = verify_ledger(ledger, each=verified.add)
        if verified.complete(verification):
            found = reconcile(ledger, instance, verified=verified)

Whoever can change the pipeline's code can take the guard off. What is materialized then stands in Dagster's event log and not in the
ledger; this is where the two are compared. Both sides are read in pages and joined in a scratch database on disk, one asset at a time,
so that memory stays the same however long the history.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import dagster as dg

from mlsec_dagster.integrity import verdicts
from mlsec_dagster.integrity.statements import ADOPTION, SEAL, WRITE
from mlsec_dagster.sealing import SUBJECT_STATEMENTS, subject_name

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry
    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.integrity.verification import Verification

MAX_GAPS: Final = 1_000
"""Gaps that are told one by one; `Reconciliation.counts` counts all of them."""

_PAGE: Final = 1_000
_RUNS: Final = 500

_COLUMNS: Final = (
    "position INTEGER PRIMARY KEY, type TEXT, partition TEXT, run_id TEXT, storage_id INTEGER, at REAL, recorded_at REAL, "
    "verdict TEXT, cause TEXT, reason TEXT"
)
_NAMES: Final = ", ".join(column.split()[0] for column in _COLUMNS.split(", "))

Kind = Literal["unsealed", "unchecked", "failed"]


@dataclass(frozen=True, slots=True)
class Gap:
    """One materialization that is not what it should be.

    Attributes:
        kind: `unsealed` (materialized, and no statement speaks for it), `failed` (its last check failed), or `unchecked` (sealed when it
            was written, but its check never ran).
        level: `problem`, or `warning` for `unchecked`: nothing is known against the data, but somebody left the check out.
        asset: Asset key as text.
        partition: Partition key, or None.
        run_id: Run that wrote it, if any did.
        storage_id: Id of the event in Dagster's event log, if it is there.
        timestamp: When it was materialized, seconds since the epoch, if known.
        entry: The ledger's entry that says so, for `failed`.
        sentence: What happened and what to do.
    """

    kind: Kind
    level: Literal["problem", "warning"]
    asset: str
    partition: str | None
    run_id: str | None
    storage_id: int | None
    timestamp: float | None
    sentence: str
    entry: int | None = None


@dataclass(slots=True)
class Reconciliation:
    """The outcome of one comparison.

    Attributes:
        assets: Assets that the ledger speaks of.
        materializations: Materializations in Dagster's event log since each was first sealed or adopted.
        gaps: The first `MAX_GAPS` that are not what they should be.
        counts: How many there are of each kind.
        notes: What is worth knowing and is nobody's fault by itself.
    """

    assets: int = 0
    materializations: int = 0
    gaps: list[Gap] = field(default_factory=list)
    counts: dict[Kind, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, gap: Gap) -> None:
        """Count a gap, and keep it while there is room."""
        self.counts[gap.kind] = self.counts.get(gap.kind, 0) + 1
        if len(self.gaps) < MAX_GAPS:
            self.gaps.append(gap)


class Verified:
    """What a verification has read and found intact, kept on disk until it is compared: no entry is authenticated twice."""

    def __init__(self) -> None:
        self.checkpoint: tuple[str, int, bytes] | None = None
        """Origin, size and root of the ledger that was walked through."""
        self.since: dict[str, float] = {}
        """When the first entry about each asset was recorded."""
        self._waiting: list[tuple[Any, ...]] = []
        # An empty name is a database of its own on disk, gone when it is closed.
        self._scratch = sqlite3.connect("", isolation_level=None)
        self._scratch.executescript(f"CREATE TABLE verified (asset TEXT, {_COLUMNS}); BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.close()

    def add(self, entry: "Entry") -> None:
        """Keep an entry that was authenticated, in the order of the ledger."""
        asset = entry.statement.asset
        self.since.setdefault(asset, entry.recorded_at)
        if entry.statement.predicate_type in SUBJECT_STATEMENTS:
            self._waiting.append((asset, *_statement_row(entry)))
            if len(self._waiting) >= _PAGE:
                self._flush()

    def complete(self, verification: "Verification") -> bool:
        """Say how the verification ended. Returns whether what was added counts: only as part of an intact ledger, all of it."""
        if not verification.intact or not 0 < verification.checked == verification.size:
            return False
        self.checkpoint = verification.origin, verification.size, verification.root
        self._flush()
        self._scratch.execute("CREATE INDEX verified_asset ON verified (asset, position)")
        return True

    def rows(self, asset: str) -> Iterator[tuple[Any, ...]]:
        """The statements about an asset, oldest first."""
        yield from self._scratch.execute(f"SELECT {_NAMES} FROM verified WHERE asset = ? ORDER BY position", (asset,))  # noqa: S608

    def _flush(self) -> None:
        self._scratch.executemany("INSERT INTO verified VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._waiting)
        self._waiting.clear()


def reconcile(
    ledger: "Ledger",
    instance: dg.DagsterInstance,
    *,
    verified: Verified | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Reconciliation:
    """Compare every asset of the ledger with Dagster's event log.

    Args:
        ledger: The ledger; its entries are authenticated while they are read.
        instance: The Dagster instance that materializes these assets.
        verified: What a verification of this ledger has just read and found intact: only what came since is read from the ledger.
        progress: Called now and then with what is being read, and how many of them have been.

    Raises:
        LedgerError: The ledger is not what was signed.
        StoreError: It cannot be read.
    """
    tell = progress or (lambda *_: None)
    found = Reconciliation()
    if verified is not None and verified.checkpoint is not None:
        ledger.require_continuation(*verified.checkpoint)
    for asset in ledger.assets():
        found.assets += 1
        # An empty name is a database of its own on disk, gone when it is closed.
        with closing(sqlite3.connect("")) as scratch:
            scratch.executescript(_SCHEMA)
            # The event log first: the statement about a write stands in the ledger before Dagster logs the materialization.
            since = verified.since.get(asset) if verified is not None else None
            for page in _materializations(instance, asset, ledger.guarded_since(asset) if since is None else since):
                scratch.executemany("INSERT INTO materialization VALUES (?, ?, ?, ?)", page)
                found.materializations += len(page)
                tell(f"materializations of {asset}", found.materializations)
            _load_statements(scratch, ledger, asset, verified, tell)
            _compare(scratch, instance, asset, found)
    return found


_SCHEMA: Final = f"""
CREATE TABLE materialization (storage_id INTEGER PRIMARY KEY, partition TEXT, run_id TEXT, at REAL);
CREATE TABLE statement ({_COLUMNS});
CREATE INDEX materialization_subject ON materialization (partition, storage_id);
CREATE INDEX materialization_run ON materialization (run_id, partition);
CREATE INDEX statement_subject ON statement (partition, position);
CREATE INDEX statement_run ON statement (run_id, partition, type);
CREATE INDEX statement_adoption ON statement (partition, recorded_at) WHERE type = 'adoption';
"""

_UNCOVERED = """
SELECT * FROM (
    SELECT storage_id, partition, run_id, at,
        EXISTS (SELECT 1 FROM statement s WHERE s.run_id = m.run_id AND s.partition IS m.partition AND s.type = 'write') AS written,
        EXISTS (SELECT 1 FROM statement s WHERE s.run_id = m.run_id AND s.partition IS m.partition AND s.type = 'seal'
                AND s.storage_id = m.storage_id AND abs(s.at - m.at) < 0.001 AND s.cause IS NOT 'unsealed') AS checked,
        EXISTS (SELECT 1 FROM statement s WHERE s.type = 'adoption' AND s.partition IS m.partition AND s.recorded_at >= m.at) AS adopted,
        NOT EXISTS (SELECT 1 FROM materialization n WHERE n.partition IS m.partition AND n.storage_id > m.storage_id) AS newest
    FROM materialization m
) WHERE NOT checked AND NOT adopted ORDER BY storage_id
"""
# A check that found a materialization without a seal records that too (cause `unsealed`), which does not make it sealed.

_FAILED = """
SELECT position, partition, run_id, storage_id, at, reason FROM statement s
WHERE type = 'seal' AND verdict = 'failed' AND cause IS NOT 'unsealed'
    AND NOT EXISTS (SELECT 1 FROM statement n WHERE n.partition IS s.partition AND n.position > s.position)
ORDER BY position
"""

_UNKNOWN_WRITES = """
SELECT run_id, count(*) FROM statement s
WHERE type = 'write' AND run_id IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM materialization m WHERE m.run_id = s.run_id AND m.partition IS s.partition)
GROUP BY run_id ORDER BY min(position)
"""


def _materializations(instance: dg.DagsterInstance, asset: str, since: float | None) -> Iterator[list[tuple[Any, ...]]]:
    records = dg.AssetRecordsFilter(asset_key=dg.AssetKey.from_user_string(asset), after_timestamp=since)
    cursor, more = None, True
    while more:
        page = instance.fetch_materializations(records, limit=_PAGE, cursor=cursor, ascending=True)
        yield [(record.storage_id, record.partition_key, record.run_id, record.timestamp) for record in page.records]
        cursor, more = page.cursor, page.has_more


def _load_statements(
    scratch: sqlite3.Connection, ledger: "Ledger", asset: str, verified: Verified | None, tell: Callable[[str, int], None]
) -> None:
    start = verified.checkpoint[1] if verified is not None and verified.checkpoint is not None else 0

    def rows() -> Iterator[tuple[Any, ...]]:
        if verified is not None and start:
            yield from verified.rows(asset)
        for number, entry in enumerate(ledger.history(asset, types=SUBJECT_STATEMENTS, start=start)):
            tell(f"statements about {asset}", number)
            yield _statement_row(entry)

    scratch.executemany("INSERT INTO statement VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows())


_TYPE_NAMES: Final = {WRITE: "write", SEAL: "seal", ADOPTION: "adoption"}


def _statement_row(entry: "Entry") -> tuple[Any, ...]:
    said: Mapping[str, Any] = entry.statement.predicate
    return (
        entry.index,
        _TYPE_NAMES[entry.statement.predicate_type],
        entry.statement.partition,
        said.get("run_id"),
        said.get("storage_id"),
        said.get("timestamp"),
        entry.recorded_at,
        said.get("verdict"),
        said.get("cause"),
        said.get("reason"),
    )


def _compare(scratch: sqlite3.Connection, instance: dg.DagsterInstance, asset: str, found: Reconciliation) -> None:
    sealed_at_write = scratch.execute("SELECT 1 FROM statement WHERE type = 'write' LIMIT 1").fetchone() is not None
    replaced = {"unsealed": 0, "unchecked": 0}
    pending = 0
    for rows in _pages(scratch, _UNCOVERED):
        running = _unfinished(instance, [row[2] for row in rows])
        for storage_id, partition, run_id, at, written, _, _, newest in rows:
            # Where the IO manager seals, every write must be sealed, and one that was replaced since is no less telling. An asset that only
            # its check seals is sealed as often as the check looks.
            if not written and (sealed_at_write or (newest and run_id not in running)):
                found.add(_gap("unsealed", asset, partition, run_id, storage_id, at, replaced=not newest))
            elif run_id in running:
                pending += 1
            elif newest:
                found.add(_gap("unchecked", asset, partition, run_id, storage_id, at))
            else:
                replaced["unchecked" if written else "unsealed"] += 1
    for rows in _pages(scratch, _FAILED):
        for position, partition, run_id, storage_id, at, reason in rows:
            found.add(_gap("failed", asset, partition, run_id, storage_id, at, entry=position, reason=reason))
    if pending:
        found.notes.append(f"{asset}: {pending:,} materialized by runs that are still going on, whose checks may be to come.")
    for kind, count in replaced.items():
        if count:
            found.notes.append(f"{asset}: {count:,} earlier materializations were {kind} and have been replaced since.")
    _note_unknown_runs(scratch, instance, asset, found)


def _note_unknown_runs(scratch: sqlite3.Connection, instance: dg.DagsterInstance, asset: str, found: Reconciliation) -> None:
    wiped = incomplete = 0
    for rows in _pages(scratch, _UNKNOWN_WRITES):
        known = _runs(instance, [run_id for run_id, _ in rows])
        for run_id, count in rows:
            if run_id not in known:
                wiped += count
            elif known[run_id].is_finished:
                incomplete += count
    if wiped:
        found.notes.append(
            f"{asset}: {wiped:,} sealed writes are of runs that Dagster does not know: its event log was wiped, or it is another instance."
        )
    if incomplete:
        found.notes.append(
            f"{asset}: {incomplete:,} sealed writes have no materialization in Dagster: the run ended in between, "
            f"or the asset's history was wiped."
        )


def _gap(
    kind: Kind,
    asset: str,
    partition: str | None,
    run_id: str | None,
    storage_id: int | None,
    at: float | None,
    *,
    replaced: bool = False,
    entry: int | None = None,
    reason: str | None = None,
) -> Gap:
    subject = subject_name(asset, partition)
    written = verdicts.Materialization(run_id or "", storage_id or 0, at or 0.0)
    when = verdicts.when(written.timestamp)
    if kind == "failed":
        sentence = f"{subject} failed its last dataset_hash check (ledger entry {entry}): {reason or 'no reason was recorded.'}"
    elif kind == "unchecked":
        sentence = (
            f"{subject} was sealed when run {written.run_id} wrote it at {when}, but its dataset_hash check never ran, "
            f"as happens when a job leaves its checks out or they are switched off: run the check."
        )
    elif replaced:
        sentence = (
            f"{subject} was materialized by run {written.run_id} at {when} without being sealed, as happens when the guard is "
            f"switched off. It has been replaced since; what was made of it meanwhile is not known. Find out why, and settle it on the "
            f"record with `mlsec adopt`."
        )
    else:
        sentence = verdicts.unsealed(subject, written)
    return Gap(kind, "warning" if kind == "unchecked" else "problem", asset, partition, run_id, storage_id, at, sentence, entry)


def _unfinished(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> set[str]:
    return {run_id for run_id, run in _runs(instance, run_ids).items() if not run.is_finished}


def _runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> dict[str, dg.DagsterRun]:
    wanted = sorted({run_id for run_id in run_ids if run_id})
    records = instance.get_run_records(dg.RunsFilter(run_ids=wanted)) if wanted else ()
    return {record.dagster_run.run_id: record.dagster_run for record in records}


def _pages(scratch: sqlite3.Connection, query: str) -> Iterator[list[tuple[Any, ...]]]:
    cursor = scratch.execute(query)
    while rows := cursor.fetchmany(_RUNS):
        yield rows
