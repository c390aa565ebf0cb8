"""What one tick of an audit log may do, and what it did.

report = ingestion.tick(Budget(seconds=40))
report.days, report.behind
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from mlsec_dagster.audit.batches import Tally
from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.times import latest_credible

_MODIFIED: Final = attrgetter("modified")


@dataclass(slots=True)
class Budget:
    """How much one tick may do. It stops between records, and the next one goes on there.

    Args:
        seconds: Time, from when the budget is made.
        records: Records that are read.
    """

    seconds: float = 40.0
    records: int = 5_000_000
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    @property
    def spent(self) -> bool:
        """Whether it is time to stop."""
        return self.records <= 0 or time.monotonic() >= self._end


@dataclass(slots=True)
class Report:
    """What one tick did.

    Attributes:
        held_elsewhere: Somebody else reads this location now, and nothing was done.
        listed: Objects that were listed.
        ignored: Of these, objects that are no log of this kind.
        read: Objects that were read to their end, or as far as they had grown.
        copies: Of these, objects whose bytes had been read under another name.
        tally: What came of their rows.
        commits: Commits to the trail.
        days: Days ("2026-05-01") that have new rows, with how many.
        rewritten: Objects that are other than they were when they were read, which no log does.
        changed: Objects that changed while they were read; they are read again.
        behind: Objects that are still to be read.
        recovered: Batches that an earlier tick had left between commit and done.
        incomplete: Objects that end in the middle.
        missing: Objects that were read, are not there any more, and are too young for a lifecycle rule.
        newest_object: When the newest object that was listed and is one of this log was written, microseconds since the epoch; those of
            the future aside.
        reconciled: Everything was listed and compared.
    """

    held_elsewhere: bool = False
    listed: int = 0
    ignored: int = 0
    read: int = 0
    copies: int = 0
    tally: Tally = field(default_factory=Tally)
    commits: int = 0
    days: dict[str, int] = field(default_factory=dict[str, int])
    rewritten: list[str] = field(default_factory=list[str])
    changed: list[str] = field(default_factory=list[str])
    incomplete: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    newest_object: int | None = None
    reconciled: bool = False
    behind: int = 0
    recovered: int = 0

    def saw(self, listed: int, newest: int) -> None:
        """Count objects that were listed, the newest of this log written then; those that are no log do not tell that it goes on."""
        self.listed += listed
        self.newest_object = max(self.newest_object or 0, newest) or None


def newest_of(objects: Sequence[LogObject]) -> int:
    """When the newest of them was written, microseconds since the epoch, those of the future aside; 0 if there is none."""
    newest, credible = max(map(_MODIFIED, objects), default=0), latest_credible()
    if newest > credible:
        newest = max((each for each in map(_MODIFIED, objects) if each <= credible), default=0)
    return newest
