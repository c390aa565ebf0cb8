"""Looking at the trail: rows that match, and what one day came to.

    trail = Trail("/srv/mlsec/trail")
    for batch in rows(trail, Filter(artifact="fraud/3", principal="arn:aws:iam::*", since=instant("7d"))):
        print(events_of(batch))
    summary(trail, "2026-05-01").first_reads

Days and sources are left out by the files' paths before anything is opened. What is asked for goes to DuckDB as parameters only. Whether
the files are what was sealed, only `mlsec_dagster.audit.seals.verify_trail` tells.
"""

# pyarrow brings no types of its own.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import re
import time as clock
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

import msgspec
import pyarrow as pa

from mlsec_dagster.audit.events import ACTIONS, SOURCES
from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.scanning import batches, chunks, connected, listed
from mlsec_dagster.audit.schema import SCHEMA
from mlsec_dagster.audit.times import EPOCH, microseconds, rfc3339
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import ConfigurationError

LISTED: Final = 100
"""Entries of each list of a `DaySummary`, at most; its numbers count all."""

OUTCOMES: Final = ("success", "failure", "denied", "unknown")
KINDS: Final = ("event", "quarantined", "erased")

_AGO: Final = re.compile(r"(\d{1,6})([mhdw])", re.ASCII)
_FIRST_INSTANT: Final = microseconds("0001-01-01T00:00:00Z")
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows are meant; None for any. What is asked of an event's members, a quarantined row never answers.

    Attributes:
        artifact: Asset key, model, or "model/version": as it was resolved, or as the log names the model.
        principal: Principal, name of it, or role; with "*" at its end, what they begin with.
        since: Not earlier than this, microseconds since the epoch.
        until: Earlier than this, microseconds since the epoch.
        operation: In the source's words ("GetObject").
        action: In ours ("read").
        source: The log ("aws.cloudtrail").
        outcome: "success", "failure", "denied" or "unknown".
        address: Where from, exactly.
        kind: "event", "quarantined" or "erased".
        unresolved: Only accesses to contents of which nothing tells what they are.
    """

    artifact: str | None = None
    principal: str | None = None
    since: int | None = None
    until: int | None = None
    operation: str | None = None
    action: str | None = None
    source: str | None = None
    outcome: str | None = None
    address: str | None = None
    kind: str | None = None
    unresolved: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (
            ("source", self.source, SOURCES),
            ("action", self.action, ACTIONS),
            ("outcome", self.outcome, OUTCOMES),
            ("kind", self.kind, KINDS),
        ):
            if value is not None and value not in known:
                raise ConfigurationError(f"There is no {what} {value!r} in an audit trail; expected one of {', '.join(known)}.")
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ConfigurationError(
                f"Nothing lies between {rfc3339(self.since)[:19]}Z and {rfc3339(self.until)[:19]}Z: `since` has to be earlier than `until`."
            )


class Accesses(msgspec.Struct, frozen=True):
    """Accesses of one principal to one artifact on one day.

    Attributes:
        artifact: Asset key or model; None if it is not known.
        principal: Who; None if the log does not tell.
        accesses: How many.
        denied: Of these, refused for lack of rights.
        bytes_out: Bytes that went to the principal, as far as logs tell.
    """

    artifact: str | None
    principal: str | None
    accesses: int
    denied: int
    bytes_out: int


class Reader(msgspec.Struct, frozen=True):
    """What one principal read on one day.

    Attributes:
        principal: Who; None if the log does not tell.
        reads: Reads that were not refused and did not fail.
        bytes_out: Bytes that they brought, as far as logs tell.
    """

    principal: str | None
    reads: int
    bytes_out: int


class FirstRead(msgspec.Struct, frozen=True):
    """A principal that read an artifact and had not on any earlier day of the trail.

    Attributes:
        artifact: Asset key or model.
        principal: Who.
        time: The first time, microseconds since the epoch.
        reads: How often, that day.
        bytes_out: Bytes, that day, as far as logs tell.
    """

    artifact: str
    principal: str
    time: int
    reads: int
    bytes_out: int


class DaySummary(msgspec.Struct, frozen=True, kw_only=True):
    """One day of the trail. Lists hold the first `LISTED` each, the largest first.

    Attributes:
        day: "2026-05-01" (UTC).
        events: Accesses.
        denied: Of these, refused for lack of rights.
        unresolved: Of these, to contents of which nothing tells what they are.
        quarantined: Records that are no event.
        erased: Rows that were erased.
        principals: Different principals.
        bytes_out: Bytes to clients, as far as logs tell.
        bytes_in: Bytes from clients.
        first: Time of the earliest access, microseconds since the epoch.
        last: Time of the latest.
        accesses: By artifact and principal.
        readers: Who read most bytes.
        first_reads: Who read what for the first time.
        first_reads_count: How many there are.
    """

    day: str
    events: int = 0
    denied: int = 0
    unresolved: int = 0
    quarantined: int = 0
    erased: int = 0
    principals: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    first: int | None = None
    last: int | None = None
    accesses: list[Accesses] = []
    readers: list[Reader] = []
    first_reads: list[FirstRead] = []
    first_reads_count: int = 0


def instant(text: str, now: float | None = None) -> int:
    """A point in time as people write it: RFC 3339, a day ("2026-05-01"), or how long ago ("90m", "24h", "7d", "2w").

    Args:
        text: What they wrote.
        now: Seconds since the epoch, for the latter.

    Returns:
        Microseconds since the epoch.

    Raises:
        ConfigurationError: It is none.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        moment = round((clock.time() if now is None else now) * 1e6) - int(ago[1]) * _UNITS[ago[2]] * 1_000_000
        return max(moment, _FIRST_INSTANT)
    try:
        return microseconds(f"{text.strip()}T00:00:00Z" if re.fullmatch(r"\d{4}-\d\d-\d\d", text.strip(), re.ASCII) else text.strip())
    except ValueError as error:
        raise ConfigurationError(
            f"{text[:60]!r} is no point in time ({error}); write one like 2026-05-01T12:00:00Z, 2026-05-01, or how long ago: 90m, 24h, 7d."
        ) from error


def rows(trail: Trail, wanted: Filter, limit: int | None = None) -> Iterator[pa.RecordBatch]:
    """Rows that match, newest first, with the columns of `SCHEMA`, in memory that does not grow with the trail.

    Days are gone through from the newest on, a few at a time; those are sorted, on disk where memory does not do.

    Args:
        trail: The trail.
        wanted: Which rows.
        limit: At most so many; None for all.

    Yields:
        Batches of at most some thousand rows.

    Raises:
        UnverifiableError: There is no trail, or its table lists a file that no writer of ours made.
        StoreError: It cannot be reached or read.
    """
    files = [file for file in listed(trail) if _may_hold(file, wanted)]
    if not files or limit == 0:
        return
    parts, values = _condition(wanted)
    with connected(trail) as (connection, table):
        left = limit

        def ask(query: str) -> Iterator[pa.RecordBatch]:
            known = {**bound, **values, "limit": left}
            return batches(trail, connection, query, {name: known[name] for name in _PARAMETER.findall(query)})

        for chunk in chunks(trail, files):
            with table(chunk) as (source, bound, numbered):
                query = _query_across(ask, source, parts, left) if numbered and _across(parts) else _query(source, parts, left)
                for batch in ask(query) if query else ():
                    yield batch
                    left = None if left is None else left - batch.num_rows
            if left == 0:
                return


def summary(trail: Trail, day: str) -> DaySummary:
    """What one day came to.

    Args:
        trail: The trail.
        day: "2026-05-01" (UTC).

    Raises:
        UnverifiableError: There is no trail, or its table lists a file that no writer of ours made.
        StoreError: It cannot be reached or read.
    """
    files = listed(trail)
    today, earlier = [file for file in files if file.day == day], [file for file in files if file.day < day]
    if not today:
        return DaySummary(day=day)
    with connected(trail) as (connection, table):

        def ask(query: str, more: dict[str, Any] | None = None) -> list[dict[str, Any]]:
            return [row for batch in batches(trail, connection, query, {**bound, **(more or {})}) for row in batch.to_pylist()]

        with table(today) as (source, bound, _):
            totals = ask(_TOTALS.format(source=source))[0]
            accesses = ask(_ACCESSES.format(source=source))
            readers = ask(_READERS.format(source=source))
            connection.execute(f"CREATE TEMP TABLE today AS {_FIRST.format(source=source)}", bound)
        # What is remembered of earlier days is only who is there again today.
        for chunk in chunks(trail, earlier):
            with table(chunk) as (source, bound, _):
                connection.execute(f"CREATE OR REPLACE TEMP TABLE again AS {_AGAIN.format(source=source)}", bound)
                connection.execute(
                    "DELETE FROM today USING again WHERE today.artifact = again.artifact AND today.principal = again.principal"
                )
        bound = {}
        first_reads = ask(f"SELECT * FROM today ORDER BY bytes_out DESC, reads DESC, artifact, principal LIMIT {LISTED}")  # noqa: S608
        count = ask("SELECT count(*) AS number FROM today")[0]["number"]
    return msgspec.convert(
        {
            "day": day,
            **totals,
            "accesses": accesses,
            "readers": readers,
            "first_reads": first_reads,
            "first_reads_count": count,
        },
        DaySummary,
    )


_ARTIFACT: Final = "coalesce(artifact_asset, artifact_model, model)"
_READ: Final = "kind = 'event' AND action = 'read' AND outcome IN ('success', 'unknown')"
_OUT: Final = "coalesce(sum(bytes_out), 0)::BIGINT AS bytes_out"
_TOTALS: Final = """SELECT count(*) FILTER (kind = 'event') AS events,
    count(*) FILTER (outcome = 'denied') AS denied,
    count(*) FILTER (artifact_kind = 'unresolved') AS unresolved,
    count(*) FILTER (kind = 'quarantined') AS quarantined,
    count(*) FILTER (kind = 'erased') AS erased,
    count(DISTINCT principal) AS principals,
    coalesce(sum(bytes_out), 0)::BIGINT AS bytes_out,
    coalesce(sum(bytes_in), 0)::BIGINT AS bytes_in,
    epoch_us(min(time) FILTER (kind = 'event')) AS first,
    epoch_us(max(time) FILTER (kind = 'event')) AS last
FROM {source}"""
_ACCESSES: Final = f"""SELECT {_ARTIFACT} AS artifact, principal, count(*) AS accesses,
    count(*) FILTER (outcome = 'denied') AS denied, {_OUT}
FROM {{source}} WHERE kind = 'event' GROUP BY ALL ORDER BY accesses DESC, artifact, principal LIMIT {LISTED}"""  # noqa: S608
_READERS: Final = f"""SELECT principal, count(*) AS reads, {_OUT}
FROM {{source}} WHERE {_READ} GROUP BY ALL ORDER BY bytes_out DESC, reads DESC, principal LIMIT {LISTED}"""  # noqa: S608
_FIRST: Final = f"""SELECT {_ARTIFACT} AS artifact, principal, epoch_us(min(time)) AS time, count(*) AS reads, {_OUT}
FROM {{source}} WHERE {_READ} AND {_ARTIFACT} IS NOT NULL AND principal IS NOT NULL GROUP BY ALL"""  # noqa: S608
_AGAIN: Final = f"""SELECT DISTINCT artifact, principal
FROM (SELECT {_ARTIFACT} AS artifact, principal FROM {{source}} WHERE {_READ}) SEMI JOIN today USING (artifact, principal)"""  # noqa: S608


def _may_hold(file: TrailFile, wanted: Filter) -> bool:
    if wanted.source is not None and file.source != wanted.source:
        return False
    if wanted.since is not None and file.day < rfc3339(wanted.since)[:10]:
        return False
    return wanted.until is None or file.day <= rfc3339(wanted.until)[:10]


_PARAMETER: Final = re.compile(r"\$(\w+)", re.ASCII)

Parts = list[list[str]]
"""What DuckDB is to compare: all of the parts must hold, and of each part one of its alternatives."""


def _condition(wanted: Filter) -> tuple[Parts, dict[str, Any]]:
    """What DuckDB is to compare, and the values that it is given apart from that."""
    parts: Parts = []
    values: dict[str, Any] = {}

    def equal(column: str, value: object) -> None:
        if value is not None:
            parts.append([f"{column} = ${column}"])
            values[column] = value

    for column in ("kind", "operation", "action", "outcome", "address"):
        equal(column, getattr(wanted, column))
    equal("artifact_kind", "unresolved" if wanted.unresolved else None)
    if wanted.since is not None:
        parts.append(["time >= $since"])
        values["since"] = EPOCH + timedelta(microseconds=wanted.since)
    if wanted.until is not None:
        parts.append(["time < $until"])
        values["until"] = EPOCH + timedelta(microseconds=wanted.until)
    if wanted.artifact is not None:
        either = ["artifact_model = $artifact", "artifact_asset = $artifact", "model = $artifact"]
        values["artifact"] = wanted.artifact
        name, slash, version = wanted.artifact.rpartition("/")
        if slash:
            either += ["artifact_model = $name AND artifact_version = $version", "model = $name AND model_version = $version"]
            values |= {"name": name, "version": version}
        parts.append(either)
    if wanted.principal is not None:
        form = "starts_with({0}, $principal)" if wanted.principal.endswith("*") else "{0} = $principal"
        values["principal"] = wanted.principal.removesuffix("*")
        parts.append([form.format(column) for column in ("principal", "principal_name", "role")])
    return parts, values


def _across(parts: Parts) -> bool:
    return any(len(part) > 1 for part in parts)


def _where(parts: Parts) -> str:
    return " AND ".join(f"({' OR '.join(part)})" for part in parts) or "true"


_COLUMNS: Final = ", ".join(f'"{name}"' for name in SCHEMA.names)
_MOST_PLACES: Final = 100_000


def _newest(limit: int | None) -> str:
    return f"ORDER BY time DESC, key{'' if limit is None else ' LIMIT $limit'}"


def _query(source: str, parts: Parts, limit: int | None) -> str:
    return f"SELECT {_COLUMNS} FROM {source} WHERE {_where(parts)} {_newest(limit)}"  # noqa: S608


def _query_across(ask: Callable[[str], Iterator[pa.RecordBatch]], source: str, parts: Parts, limit: int | None) -> str | None:
    """The query for alternatives in several columns; None if no row matches.

    Comparisons of one column are made while a file is read, and what fails them is not decoded. Alternatives in several columns are not
    among them, so that all columns of all rows would be. Hence the rows are counted first, from the few columns that are compared: mostly
    one of the alternatives holds for all that match, and asking for it alone finds them. Nothing comes in between, for the files of a trail
    are written once.
    """
    counts = ", ".join(f"count(*) FILTER ({each})" for part in parts if len(part) > 1 for each in part)
    query = f"SELECT count(*), {counts} FROM {source} WHERE {_where(parts)}"  # noqa: S608
    found, *told = (column[0].as_py() for batch in ask(query) for column in batch.columns)
    if not found:
        return None
    held = iter(told)
    parts = [_enough(part, [next(held) == found for _ in part]) if len(part) > 1 else part for part in parts]
    last = limit if limit is not None and limit < found else None
    few = min(found, last or found) <= _MOST_PLACES
    if not few or (last is None and not _across(parts)):
        return _query(source, parts, last)
    # Where only some of the rows are wanted, or no alternative is enough, their places come first, from the same few columns.
    places = f"SELECT filename, file_row_number FROM {source} WHERE {_where(parts)} {_newest(last) if last else ''}"  # noqa: S608
    return f"SELECT {_COLUMNS} FROM {source} SEMI JOIN ({places}) USING (filename, file_row_number) {_newest(None)}"  # noqa: S608


def _enough(alternatives: list[str], holds_for_all: list[bool]) -> list[str]:
    """One of the alternatives if it holds for all rows that match, else all of them."""
    return next(([each] for each, holds in zip(alternatives, holds_for_all, strict=True) if holds), alternatives)
