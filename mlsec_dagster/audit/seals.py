"""What the trail holds, sealed: each commit is a statement in the ledger that names its files and their digests.

    seal(ledger, trail, commit)
    for problem in verify_trail(ledger, trail):
        print(problem.sentence)

The ledger holds digests only. What was taken out on purpose (compaction, retention, erasure) is a statement too, so that only what
nobody signed for is a problem.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import LedgerError, StoreError, UnverifiableError
from mlsec_dagster.integrity.statements import Statement

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger

TRAIL: Final = "urn:mlsec:trail-commit:v1"
TRAIL_ASSET: Final = "mlsec:trail"
"""The subject of all statements about trails; its partition is the trail's address. No Dagster asset can have it."""

Why = Literal["ingested", "compacted", "expired", "erased"]


class Commit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one commit did to the trail.

    Attributes:
        table: Identity of the Delta table.
        version: Its version afterwards.
        attempt: Identity of the commit, as in the table's own metadata.
        why: What it was for.
        location: URI of where the log objects lie, for what was ingested.
        number: Number of that location's batch.
        added: Files that were put in, with digests.
        removed: Files that were taken out.
        reason: For people: who asked for an erasure, which retention.
    """

    table: str
    version: int
    attempt: str
    why: Why
    location: str | None = None
    number: int | None = None
    added: list[TrailFile] = []
    removed: list[str] = []
    reason: str | None = None


class TrailProblem(msgspec.Struct, frozen=True):
    """Something about the trail that nobody signed for.

    Attributes:
        kind: "edited", "dropped", "inserted", "rolled back" or "exchanged"; "unsealed" for a commit of ours whose seal is still due.
        path: The file, if it is about one.
        sentence: What happened and what to do.
    """

    kind: Literal["edited", "dropped", "inserted", "rolled back", "exchanged", "unsealed"]
    path: str | None
    sentence: str


def statement_of(trail_uri: str, commit: Commit) -> Statement:
    """The statement that seals a commit."""
    predicate: dict[str, Any] = msgspec.to_builtins(commit)
    return Statement(TRAIL_ASSET, trail_uri, TRAIL, {}, predicate)


def seal(ledger: "Ledger", trail: Trail, commit: Commit) -> None:
    """Seal a commit. Sealing one twice does no harm.

    Raises:
        StoreError: The ledger cannot be written.
        LedgerError: It is not what was signed.
    """
    ledger.append([statement_of(trail.uri, commit)])


def sealed_commits(ledger: "Ledger", trail_uri: str) -> list[Commit]:
    """Every sealed commit of a trail, in the order in which they were sealed.

    Raises:
        LedgerError: A statement is not what was signed, or cannot be read.
    """
    return [commit for commit, _ in sealed_entries(ledger, trail_uri)]


def sealed_entries(ledger: "Ledger", trail_uri: str) -> list[tuple[Commit, float]]:
    """As `sealed_commits`, each with the time at which it was sealed, seconds since the epoch by the writer's clock."""
    commits: list[tuple[Commit, float]] = []
    for entry in ledger.history(TRAIL_ASSET, trail_uri, {TRAIL}):
        try:
            commits.append((msgspec.convert(dict(entry.statement.predicate), Commit), entry.recorded_at))
        except msgspec.ValidationError as error:
            raise LedgerError(f"Entry {entry.index} of the ledger is about a trail and cannot be read ({error}).") from error
    return commits


def verify_trail(
    ledger: "Ledger",
    trail: Trail,
    *,
    due: Mapping[str, str] | None = None,
    leaving: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[TrailProblem]:
    """Compare the trail with what was sealed: every file, byte by byte.

    Args:
        ledger: Where it was sealed; verified by itself, see `verify_ledger`.
        trail: The trail as it is now.
        due: Digests by path of files whose commit may have happened and whose seal is still due, as the database tells.
        leaving: Paths of files that were to be taken out by a commit whose seal is still due.
        progress: Called with (files done, files in total).

    Raises:
        LedgerError: A statement about the trail cannot be read.
        StoreError: The trail cannot be read.
        UnverifiableError: There is no trail where one was sealed, or none of it was ever sealed.
    """
    commits = sealed_commits(ledger, trail.uri)
    if not commits:
        raise UnverifiableError(f"Nothing about a trail at {trail.uri} was ever sealed in this ledger; check the address.")
    head = trail.open()
    files = {file.path: file for file in head.files()}
    problems: list[TrailProblem] = []
    tables = {commit.table for commit in commits}
    if tables != {head.identity}:
        problems.append(
            TrailProblem(
                "exchanged", None, f"The table at {trail.uri} is not the one that was sealed: it has another identity. Restore it."
            )
        )
    newest = max(commit.version for commit in commits)
    if head.version < newest:
        problems.append(
            TrailProblem(
                "rolled back",
                None,
                f"The table at {trail.uri} is at version {head.version}, and version {newest} was sealed: newer commits were taken away. "
                "Restore its _delta_log from a backup.",
            )
        )
    problems += [
        TrailProblem(
            "edited",
            None,
            f"The log of the table at {trail.uri} has {what}, which no writer of this package puts there: other readers may be shown other "
            "rows than were sealed. Restore _delta_log from a backup.",
        )
        for what in head.alien()
    ]
    expected = expected_files(commits)
    for done, (path, sealed) in enumerate(sorted(expected.items()), 1):
        problem = _compare(trail, sealed, files.get(path), path in leaving)
        if problem is not None:
            problems.append(problem)
        if progress is not None:
            progress(done, len(expected))
    for path in sorted(files.keys() - expected.keys()):
        problems.append(_unexpected(trail, path, due or {}))
    return problems


def expected_files(commits: Sequence[Commit]) -> dict[str, TrailFile]:
    """Files that have to be there. In the order of versions, for two writers may seal in another."""
    expected: dict[str, TrailFile] = {}
    for commit in sorted(commits, key=lambda commit: commit.version):
        for path in commit.removed:
            expected.pop(path, None)
        expected.update((file.path, file) for file in commit.added)
    return expected


def _compare(trail: Trail, sealed: TrailFile, listed: TrailFile | None, leaving: bool) -> TrailProblem | None:
    if listed is None and leaving:
        return TrailProblem(
            "unsealed",
            sealed.path,
            f"The file {sealed.path} was taken out of the trail and that is not sealed yet; the next upkeep of the trail does that.",
        )
    if listed is None:
        return TrailProblem(
            "dropped",
            sealed.path,
            f"The file {sealed.path} with {sealed.rows:,} rows was taken out of the trail, and no statement says why. Restore it.",
        )
    try:
        digest, size = trail.storage.digest(sealed.path)
    except FileNotFoundError:
        return TrailProblem(
            "dropped", sealed.path, f"The file {sealed.path} with {sealed.rows:,} rows is gone from the storage. Restore it from a backup."
        )
    except OSError as error:
        raise StoreError(f"The trail's file {sealed.path} cannot be read ({error}), so it could not be verified.") from error
    if digest == sealed.digest and msgspec.structs.replace(listed, digest=digest) != sealed:
        return TrailProblem(
            "edited",
            sealed.path,
            f"The table's log tells other days, sizes or times of the file {sealed.path} than were sealed, so queries may pass over it. "
            "Restore _delta_log from a backup.",
        )
    if digest != sealed.digest:
        return TrailProblem(
            "edited",
            sealed.path,
            f"The file {sealed.path} is not the one that was sealed: {size:,} bytes now, {sealed.size:,} then, with another digest. "
            "Restore it from a backup; its rows prove nothing.",
        )
    return None


def _unexpected(trail: Trail, path: str, due: Mapping[str, str]) -> TrailProblem:
    if path in due:
        try:
            if trail.storage.digest(path)[0] == due[path]:
                return TrailProblem(
                    "unsealed", path, f"The file {path} was committed and is not sealed yet; the next tick of its sensor does that."
                )
        except OSError:
            pass
    return TrailProblem(
        "inserted", path, f"The file {path} is part of the trail, and no statement says who put it there. Its rows prove nothing."
    )
