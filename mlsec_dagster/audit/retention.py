"""Retention: how long the rows of each log are kept.

    expire(upkeep, Retention({"aws.cloudtrail": 400}, default=180))

Whole days go, by the clock of this machine, which may be wrong: so nothing is judged by a clock that is behind the newest sealed commit,
and if more than half of a source's days would go at once, somebody has to say that this is meant. The rows leave the table at once and the
storage with `vacuum`. With them goes what tells their accesses from new ones: whoever reads log objects again that are older than the
retention, by a deep reconcile or after positions were forgotten, puts their rows back, until the next expiry.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from mlsec_dagster.audit.events import SOURCES
from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.legal_hold import Hold
from mlsec_dagster.audit.upkeep import Change, Upkeep, View, new_attempt
from mlsec_dagster.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Retention:
    """How long rows are kept.

    Args:
        days: Days by source; the day of the access counts.
        default: Days of the other sources; None keeps them for ever.

    Raises:
        ConfigurationError: A source that there is not, or less than a day.
    """

    days: Mapping[str, int]
    default: int | None = None

    def __post_init__(self) -> None:
        for source, days in self.days.items():
            if source not in SOURCES:
                raise ConfigurationError(f"There is no source {source!r}; expected some of {', '.join(SOURCES)}.")
            if days < 1:
                raise ConfigurationError(f"Rows of {source} cannot be kept for {days} days; expected 1 or more.")
        if self.default is not None and self.default < 1:
            raise ConfigurationError(f"Rows cannot be kept for {self.default} days; expected 1 or more, or None for ever.")

    def first_kept(self, source: str, now: float) -> tuple[str, str] | None:
        """The first day that is kept, and the rule that says so; None if all are."""
        days = self.days.get(source, self.default)
        if days is None:
            return None
        rule = f"retention of {source}: {days} days" if source in self.days else f"default retention: {days} days"
        try:
            return (datetime.fromtimestamp(now, UTC).date() - timedelta(days=days)).isoformat(), rule
        except OverflowError:
            return None


@dataclass(slots=True)
class Expired:
    """What an expiry did, or would do.

    Attributes:
        days: Days that went, by source.
        rows: Rows that went, by source.
        held: Days that are due and stay, by source and hold.
        refused: Sentences about sources that were left alone.
    """

    days: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    rows: dict[str, int] = field(default_factory=dict[str, int])
    held: dict[tuple[str, str], list[str]] = field(default_factory=dict[tuple[str, str], list[str]])
    refused: list[str] = field(default_factory=list[str])


def expire(upkeep: Upkeep, retention: Retention, *, now: float | None = None, most: bool = False, dry_run: bool = False) -> Expired:
    """Take out the days that are over the retention, one commit for each source.

    Args:
        upkeep: Of the trail.
        retention: How long rows are kept.
        now: Seconds since the epoch.
        most: Whether more than half of a source's days may go at once.
        dry_run: Only say what would go.

    Raises:
        VerificationError: The table as a whole is not what was sealed.
        StoreError: The clock is behind, or a store cannot be reached.
        TrailConflictError: Somebody else took out some of the files meanwhile.
    """
    report = Expired()
    with upkeep.turn():
        view = upkeep.look()
        now = view.clock(now)
        for source in sorted({_sealed(view, path).source for path in view.files}):
            due = _due(view, source, retention, now, report, most=most)
            if due is None:
                continue
            files, reason = due
            if not dry_run:
                upkeep.renew()
                upkeep.put(Change(why="expired", files=[], removed=files, reason=reason), new_attempt())
            report.days[source] = sorted({file.day for file in files})
            report.rows[source] = sum(file.rows for file in files)
    return report


def _due(view: View, source: str, retention: Retention, now: float, report: Expired, *, most: bool) -> tuple[list[TrailFile], str] | None:
    limit = retention.first_kept(source, now)
    if limit is None:
        return None
    first, rule = limit
    files = [file for path in view.files if (file := _sealed(view, path)).source == source]
    old = [file for file in files if file.day < first]
    # What nobody signed for stays where it can be looked at, and so does what the table's log tells otherwise than it was sealed.
    wrong = {file.path: told for file in old if file.path not in view.pending and (told := view.difference(file.path)) is not None}
    report.refused += [f"{told} It stays." for told in wrong.values()]
    holds: dict[str, Hold | None] = {day: view.held(source, day) for day in {file.day for file in old}}
    for day, hold in sorted(holds.items()):
        if hold is not None:
            report.held.setdefault((source, hold.name), []).append(day)
    going = [file for file in old if file.path in view.sealed and file.path not in wrong and holds[file.day] is None]
    days, all_days = {file.day for file in going}, {file.day for file in files}
    if not going:
        return None
    if 2 * len(days) > len(all_days) and not most:
        report.refused.append(
            f"By the clock of this machine {len(days)} of the {len(all_days)} days of {source} are older than {rule} allows, "
            f"all before {first}. That is more than half, so nothing was taken out: check the clock, and if it is right, take them out "
            "with `mlsec trail retain --most`."
        )
        return None
    return going, f"{rule}; days before {first}"


def _sealed(view: View, path: str) -> TrailFile:
    """A file of the table as it was sealed: the table's log could tell an old day of a new file, and have it taken out."""
    return view.sealed.get(path, view.files[path])
