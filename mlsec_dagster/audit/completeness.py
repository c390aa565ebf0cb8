"""How far a log can be relied on: complete up to when, how late, what was not read, what cannot be seen.

    for mark in watermarks(database, now):
        print(mark.sentence, mark.problems)

"Complete up to T" means: every object that was there when the log was last listed was read, and the platform delivers a record within so
long of its access, as its vendor says. No vendor promises it. Only CloudTrail's digest files prove it; up to where they were verified is
told apart.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from mlsec_dagster.audit.events import Source
from mlsec_dagster.audit.layouts import LAYOUTS
from mlsec_dagster.audit.state import LocationState
from mlsec_dagster.audit.times import rfc3339

if TYPE_CHECKING:
    from mlsec_dagster.storage.database import Database

NOT_READ_FOR: Final = timedelta(minutes=15)
"""A location whose sensor has not come to the end of its list for so long is reported."""

_NEVER_TOLD: Final[Mapping[Source, tuple[str, ...]]] = {
    "aws.s3_access": ("S3 delivers these logs as best it can: a record may never come, and its absence proves nothing",),
    "kubernetes.audit": ("what the audit policy leaves out, and contents of volumes once they are mounted",),
    "mlflow.audit": ("artifacts that clients read from the store itself (no proxy, presigned URLs): read the store's own log too",),
    "wandb.audit": ("reference artifacts, whose files lie in your own buckets: read those buckets' logs too",),
}
_CONTENTS: Final[Mapping[Source, str]] = {
    "aws.cloudtrail": "S3 data events",
    "gcp.audit": "Data Access audit logs (DATA_READ)",
    "azure.monitor": "StorageRead",
}
_SHOWN: Final = 5


class Watermark(msgspec.Struct, frozen=True, kw_only=True):
    """What can be said of one log.

    Attributes:
        uri: Where it lies.
        source: Which.
        complete_to: Every access before is in the trail, as far as the vendor delivers in time: microseconds since the epoch; None if the
            log was never read to its end.
        proven_to: The same, proven by digest files; None for logs that have none, or where they were not verified.
        late: Seconds between `complete_to` and now.
        newest: Time of the newest event, microseconds since the epoch.
        counts: Events, duplicates, quarantined, unresolved.
        unresolved: Where the unresolved accesses were, with how many; not all of them.
        not_observable: What cannot be seen in this log, a clause each.
        problems: What a person has to look at, a sentence each. Empty: nothing.
    """

    uri: str
    source: Source
    complete_to: int | None
    proven_to: int | None
    late: float | None
    newest: int | None
    counts: dict[str, int]
    unresolved: dict[str, int]
    not_observable: list[str]
    problems: list[str]

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        if self.complete_to is None:
            return f"{self.uri}: not read to its end yet."
        proven = f", proven up to {rfc3339(self.proven_to)[:19]}Z" if self.proven_to is not None else ""
        told = f"complete up to {rfc3339(self.complete_to)[:19]}Z{proven}, late by {timedelta(seconds=round(self.late or 0))}"
        counts = f"{self.counts['events']:,} events, {self.counts['quarantined']:,} quarantined, {self.counts['unresolved']:,} unresolved"
        unseen = f"; not observable: {'; '.join(self.not_observable)}" if self.not_observable else ""
        return f"{self.uri}: {told}, {counts}{unseen}."


def watermarks(database: "Database", now: int) -> list[Watermark]:
    """The watermark of every location that was ever read, by URI.

    Args:
        database: Where positions are.
        now: Microseconds since the epoch.

    Raises:
        StoreError: The database cannot be read.
    """
    from mlsec_dagster.storage.log_positions import all_locations

    with database.read() as connection:
        located = all_locations(connection)
    states = [(uri, LocationState.read(state)) for _, uri, state in located]
    return [watermark(uri, state, now) for uri, state in states if state.source in LAYOUTS]


def watermark(uri: str, state: LocationState, now: int) -> Watermark:
    """What a location's state says."""
    source: Source = next(source for source in LAYOUTS if source == state.source)
    layout = LAYOUTS[source]
    complete = None if state.listed_at is None else min(state.listed_at, now) - layout.late // timedelta(microseconds=1)
    return Watermark(
        uri=uri,
        source=source,
        complete_to=complete,
        proven_to=state.proven_to,
        late=None if complete is None else (now - complete) / 1e6,
        newest=state.last,
        counts={
            "events": state.events,
            "duplicates": state.duplicates,
            "quarantined": state.quarantined,
            "unresolved": state.unresolved,
        },
        unresolved=state.unresolved_sample,
        not_observable=_not_observable(source, state),
        problems=[*_problems(source, state, now)],
    )


def _not_observable(source: Source, state: LocationState) -> list[str]:
    told: list[str] = [*_NEVER_TOLD.get(source, ())]
    if source in _CONTENTS and state.events and not state.data_events:
        told.append(
            f"no access to contents is among {state.events:,} events: {_CONTENTS[source]} are switched off, or nobody has read anything"
        )
    return [*told, *state.unproven]


def _problems(source: Source, state: LocationState, now: int) -> list[str]:
    problems: list[str] = []
    quiet = LAYOUTS[source].quiet
    if state.listed_at is None:
        problems.append("It was never read to its end. Look at the ticks of its sensor.")
    elif now - state.listed_at > NOT_READ_FOR // timedelta(microseconds=1):
        since = rfc3339(state.listed_at)[:19]
        behind = f", {state.behind:,} log objects wait" if state.behind else ""
        problems.append(f"It was last read to its end at {since}Z{behind}. Look at the ticks of its sensor.")
    newest = max((each for each in (state.newest_object, state.last) if each is not None), default=None)
    if newest is None and state.listed_at is not None and (state.events or state.quarantined):
        problems.append("All its log objects and events are of the future, so whether it is quiet cannot be told. Check the clocks.")
    elif newest is None and state.listed_at is not None:
        problems.append(
            "There is no log object at all; what is not called as this log's objects are does not count. Check the address, and that the "
            "log is switched on."
        )
    elif newest is not None and now - newest > quiet // timedelta(microseconds=1):
        problems.append(
            f"It has been quiet since {rfc3339(newest)[:19]}Z, longer than {_hours(quiet)}. Check that nobody has switched it off."
        )
    if state.quarantined and not (state.events or state.duplicates):
        problems.append(
            f"None of its {state.quarantined:,} records could be read. Check that it is a log of this kind: `mlsec trail --kind "
            f"quarantined --source {source} --json` tells why."
        )
    problems += about_objects(state).values()
    problems += [*state.findings, *state.silent]
    if state.more_findings:
        more = ", ".join(f"{count:,} {kind}" for kind, count in sorted(state.more_findings.items()))
        problems.append(f"Verifying digest files has found more than is listed here: {more}.")
    if state.translator_error:
        problems.append(f"The artifact translator raises errors ({state.translator_error}); those accesses are unresolved.")
    return problems


def about_objects(state: LocationState) -> dict[str, str]:
    """What is wrong with log objects: by the state's member that names them, a sentence."""
    told = {
        "missing": "once read, now gone from where it lay: somebody has deleted evidence, or a lifecycle rule did",
        "rewritten": "no longer what was read, which this log never does: somebody has rewritten it",
        "incomplete": "ending in the middle: what was behind that was never delivered, or cut off",
    }
    return {name: f"{_listed(names)} {what}." for name, what in told.items() if (names := getattr(state, name))}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} log object{'s' if len(names) != 1 else ''} ({', '.join(names[:_SHOWN])}{more})"


def _hours(span: timedelta) -> str:
    hours = span / timedelta(hours=1)
    return f"{hours:.0f} hours" if hours != 1 else "an hour"
