"""How far each log object was read, and what was about to be put into the trail, in the database.

with database.write() as connection:
    record_intent(connection, Intent(attempt, location, number, content))
…                                                     # the trail's commit decides
with database.write() as connection:
    settle(connection, attempt, "done", positions)    # both or neither
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from mlsec_dagster.storage.object_keys import as_key, as_stored
from mlsec_dagster.storage.queries import ROWS_PER_QUERY, put
from mlsec_dagster.storage.tables import log_locations, log_objects, trail_batches

KEPT_BATCHES: Final = 100
"""Batches that are kept behind the newest of a location, for people who look for what went wrong."""


OURS: Final = "mlsec:"
"""What the URI of a location begins with that is no place of logs: work on the trail itself has intents too."""

NEVER_SEEN: Final = ""
"""Version of an object that was never there, though something that is trusted names it."""


class Position(NamedTuple):
    """How far one log object was read.

    Attributes:
        object: Its key.
        version: Version that was read; see `LogObject`.
        size: Its size then, in bytes as stored.
        modified: When it was last written, microseconds since the epoch.
        consumed: Bytes whose rows are in the trail: of an object that grows the place to go on from, else all or nothing.
        rows: Rows of it that are in the trail or were known already. Where it is not complete, the rows to pass over.
        complete: Whether all of this version was read.
        digest: "blake3:…" of its bytes as stored, where it was read in one go.
        seam: "blake3:…" of the last bytes before `consumed`, of an object that grows.
        origin: What stays while it grows, see `LogObject`.
        content: SHA-256 of its decompressed content, hexadecimal, where digest files are verified that name it. Of a digest file itself it
            is there once that file was verified.
    """

    object: str
    version: str
    size: int
    modified: int
    consumed: int
    rows: int
    complete: bool
    digest: str | None = None
    seam: str | None = None
    origin: str = ""
    content: str | None = None


class Intent(NamedTuple):
    """What is about to be put into the trail, all of it or nothing.

    Attributes:
        attempt: Its identity, also part of its files' names and of the trail's commit.
        number: Place among the batches of its location.
        content: What it will leave behind; the caller's encoding.
    """

    attempt: str
    number: int
    content: bytes


def location_id(connection: Connection, uri: str) -> int:
    """The number of a location, given to it when it is first seen. Called within a write transaction."""
    found = connection.execute(select(log_locations.c.id).where(log_locations.c.uri == uri)).scalar()
    if found is None:
        made = connection.execute(insert(log_locations).values(uri=uri, state="{}"))
        found = made.inserted_primary_key[0] if made.inserted_primary_key else None
    return int(found or 0)


def known_location(connection: Connection, uri: str) -> tuple[int, str] | None:
    """Number and state of a location, or None if it was never read."""
    row = connection.execute(select(log_locations.c.id, log_locations.c.state).where(log_locations.c.uri == uri)).one_or_none()
    return None if row is None else (int(row.id), str(row.state))


def all_locations(connection: Connection) -> Sequence[tuple[int, str, str]]:
    """Number, URI and state of every location that logs are read from, by URI."""
    query = select(log_locations.c.id, log_locations.c.uri, log_locations.c.state).order_by(log_locations.c.uri)
    query = query.where(~log_locations.c.uri.startswith(OURS, autoescape=True))
    return [(int(row.id), str(row.uri), str(row.state)) for row in connection.execute(query)]


def take(connection: Connection, location: int, holder: str, seconds: float) -> bool:
    """Whether nobody else reads the location; then it is the holder's for so long, or until `give_back`."""
    now = time.time()
    free = (log_locations.c.holder.is_(None)) | (log_locations.c.holder == holder) | (log_locations.c.held_until < now)
    # A hold of the far future is of a clock that was wrong, and binds nobody.
    free |= log_locations.c.held_until > now + 24 * 3600
    taken = connection.execute(
        update(log_locations).where(log_locations.c.id == location, free).values(holder=holder, held_until=now + seconds)
    )
    return taken.rowcount == 1


def give_back(connection: Connection, location: int, holder: str) -> None:
    """Let others read the location."""
    connection.execute(
        update(log_locations).where(log_locations.c.id == location, log_locations.c.holder == holder).values(holder=None, held_until=None)
    )


def positions_of(connection: Connection, location: int, objects: Collection[str]) -> dict[str, Position]:
    """Positions of these objects, as far as there are any."""
    found: dict[str, Position] = {}
    wanted = list(objects)
    for start in range(0, len(wanted), ROWS_PER_QUERY):
        some = [as_stored(key) for key in wanted[start : start + ROWS_PER_QUERY]]
        query = _POSITIONS.where(log_objects.c.location == location, log_objects.c.object.in_(some))
        found.update((position.object, position) for position in map(_position, connection.execute(query).all()))
    return found


def all_positions(connection: Connection, location: int, prefix: str = "") -> Iterator[Position]:
    """Positions of all objects whose key begins with `prefix`, in no order, a page at a time."""
    query = _POSITIONS.where(log_objects.c.location == location)
    if prefix:
        query = query.where(log_objects.c.object.startswith(as_stored(prefix), autoescape=True))
    for row in connection.execution_options(yield_per=10_000).execute(query):
        yield _position(row)


def complete_versions(connection: Connection, location: int) -> Iterator[tuple[str, str, int]]:
    """Key, version and size of every object that was read completely, in no order, a page at a time."""
    query = select(log_objects.c.object, log_objects.c.version, log_objects.c.size)
    query = query.where(log_objects.c.location == location, log_objects.c.complete == 1)
    for key, version, size in connection.execution_options(yield_per=10_000).execute(query):
        yield as_key(key), version, size


def rows_of_copy(connection: Connection, location: int, digest: str) -> int | None:
    """How many rows an object with these bytes had that was read completely, in the same location; None if there is none."""
    query = select(log_objects.c.rows).where(
        log_objects.c.digest == digest, log_objects.c.complete == 1, log_objects.c.location == location
    )
    return connection.execute(query.limit(1)).scalar()


def record_intent(connection: Connection, location: int, intent: Intent) -> None:
    """Write down what is about to be put into the trail, before it is."""
    connection.execute(
        insert(trail_batches).values(
            attempt=intent.attempt,
            location=location,
            number=intent.number,
            state="intended",
            begun=time.time(),
            content=intent.content,
        )
    )


def open_intents(connection: Connection, location: int) -> list[Intent]:
    """What was about to be put into the trail, by somebody who may have stopped then."""
    query = (
        select(trail_batches)
        .where(trail_batches.c.location == location, trail_batches.c.state == "intended")
        .order_by(trail_batches.c.number, trail_batches.c.begun)
    )
    return [Intent(str(row.attempt), int(row.number), bytes(row.content)) for row in connection.execute(query)]


def all_open_intents(connection: Connection) -> list[Intent]:
    """What was about to be put into the trail, of all locations."""
    query = select(trail_batches).where(trail_batches.c.state == "intended")
    return [Intent(str(row.attempt), int(row.number), bytes(row.content)) for row in connection.execute(query)]


def settle(connection: Connection, location: int, attempt: str, state: str, positions: Iterable[Position] = ()) -> bool:
    """Say what became of an intent, and how far its objects were read, in the caller's transaction.

    Returns:
        Whether that is news.
    """
    mine = (trail_batches.c.attempt == attempt) & (trail_batches.c.state == "intended")
    if connection.execute(update(trail_batches).where(mine).values(state=state)).rowcount != 1:
        return False
    record_positions(connection, location, positions)
    newest = select(trail_batches.c.number).where(trail_batches.c.location == location).order_by(trail_batches.c.number.desc()).limit(1)
    number = connection.execute(newest).scalar()
    if number is not None:
        old = (trail_batches.c.location == location) & (trail_batches.c.state != "intended")
        connection.execute(delete(trail_batches).where(old, trail_batches.c.number < number - KEPT_BATCHES))
    return True


def record_positions(connection: Connection, location: int, positions: Iterable[Position]) -> None:
    """Write down how far objects were read."""
    rows = [
        {"location": location, **position._asdict(), "object": as_stored(position.object), "complete": int(position.complete)}
        for position in positions
    ]
    for start in range(0, len(rows), ROWS_PER_QUERY):
        put(connection, log_objects, rows[start : start + ROWS_PER_QUERY])


def forget_objects(connection: Connection, location: int, objects: Collection[str]) -> None:
    """Forget how far these objects were read."""
    wanted = list(objects)
    for start in range(0, len(wanted), ROWS_PER_QUERY):
        some = log_objects.c.object.in_(wanted[start : start + ROWS_PER_QUERY])
        connection.execute(delete(log_objects).where(log_objects.c.location == location, some))


def read_state(connection: Connection, location: int) -> str:
    """The location's state, JSON."""
    return str(connection.execute(select(log_locations.c.state).where(log_locations.c.id == location)).scalar_one())


def write_state(connection: Connection, location: int, state: str) -> None:
    """Replace the location's state."""
    connection.execute(update(log_locations).where(log_locations.c.id == location).values(state=state))


_POSITIONS: Final = select(*(log_objects.c[name] for name in Position._fields))


def _position(row: Any) -> Position:
    return Position(
        as_key(str(row.object)),
        str(row.version),
        int(row.size),
        int(row.modified),
        int(row.consumed),
        int(row.rows),
        bool(row.complete),
        row.digest,
        row.seam,
        row.origin or "",
        row.content,
    )
