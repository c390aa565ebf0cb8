"""Vacuum: files that are no part of the trail any more are deleted, after a while.

    report = vacuum(upkeep)

A file goes if a sealed commit took it out longer ago than the grace, or if it never was part of the table and was written longer ago than
that (a process was killed before its commit). A file that the ledger says has to be there never goes, even if the table does not have it
any more: then somebody took it out without a signature, and it is evidence. Nor goes what a legal hold covers, what a commit under way
names, nor anything outside the folders of the partitions.
"""

from dataclasses import dataclass, field
from typing import Final

from mlsec_dagster.audit.upkeep import Upkeep

GRACE_SECONDS: Final = 7 * 86_400.0
"""How long readers may have files open, and ingestions may take from file to commit."""


@dataclass(slots=True)
class Vacuumed:
    """What a vacuum did, or would do.

    Attributes:
        deleted: Paths of files that were deleted.
        bytes: How much that was.
        held: Paths of files that stay because of a hold.
        waiting: Files whose grace is not over.
    """

    deleted: list[str] = field(default_factory=list[str])
    bytes: int = 0
    held: list[str] = field(default_factory=list[str])
    waiting: int = 0


def vacuum(upkeep: Upkeep, *, grace: float = GRACE_SECONDS, now: float | None = None, dry_run: bool = False) -> Vacuumed:
    """Delete files that are no part of the trail any more.

    Args:
        upkeep: Of the trail.
        grace: Seconds that they stay; no less than the longest query and the longest ingestion take.
        now: Seconds since the epoch.
        dry_run: Only say what would be deleted.

    Raises:
        VerificationError: The table as a whole is not what was sealed.
        StoreError: The clock is behind, or a store cannot be reached.
    """
    report = Vacuumed()
    with upkeep.turn():
        # Listed first: whatever is committed from here on is newer than the grace.
        listed = list(upkeep.trail.storage.listed())
        view = upkeep.look()
        now = view.clock(now)
        # Of what never was part of the table only the storage's own clock tells the age, and this machine's may be wrong.
        storage_now = min(now, max((written for _, _, written in listed), default=now))
        for path, size, written in listed:
            if path in view.files or path in view.sealed or path in view.pending:
                continue
            old = view.removed[path] < now - grace if path in view.removed else written < storage_now - grace
            if upkeep.holding(view, path) is not None:
                report.held.append(path)
            elif not old:
                report.waiting += 1
            else:
                if not dry_run:
                    upkeep.trail.storage.destroy(path)
                report.deleted.append(path)
                report.bytes += size
    return report
