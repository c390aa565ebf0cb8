"""How far CloudTrail's digest files were verified, in the database.

with database.write() as connection:
    if replace_chain(connection, location, before, after):    # Nobody else was faster.
        name_objects(connection, location, keys)

Whether a digest file itself was verified is in its position (`log_positions`), under its own key.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, delete, select, update

from mlsec_dagster.storage.object_keys import as_key, as_stored
from mlsec_dagster.storage.queries import ROWS_PER_QUERY, put
from mlsec_dagster.storage.tables import digest_chains, log_objects


class Chain(NamedTuple):
    """Where the verification of one chain of digest files stands.

    Attributes:
        chain: Account, region and trail; see `digest_files.chain_of`.
        object: Key below the place of the last digest file that was verified.
        sha256: Its hash.
        signature: Its signature.
        since: From when on log files were verified, microseconds since the epoch.
        start: When the last one begins.
        end: When it ends.
        proven: Up to when nothing is missing; stays where something is.
        broken: Something was found, so that `proven` stays until somebody has looked.
        gone: The last digest file was told as gone.
    """

    chain: str
    object: str
    sha256: str
    signature: str
    since: int
    start: int
    end: int
    proven: int
    broken: bool = False
    gone: bool = False


def all_chains(connection: Connection, location: int) -> dict[str, Chain]:
    """Every chain of a location of which a digest file was ever verified, by name."""
    rows = connection.execute(_CHAINS.where(digest_chains.c.location == location).order_by(digest_chains.c.chain)).all()
    return {str(row.chain): _chain(row) for row in rows}


def replace_chain(connection: Connection, location: int, before: Chain | None, after: Chain) -> bool:
    """Write down where a chain stands, in the caller's transaction, if it still stands where the caller began.

    Returns:
        Whether it did.
    """
    mine = (digest_chains.c.location == location) & (digest_chains.c.chain == after.chain)
    row = connection.execute(_CHAINS.where(mine)).one_or_none()
    if (None if row is None else _chain(row)) != before:
        return False
    put(connection, digest_chains, [{"location": location, **after._asdict(), "broken": int(after.broken), "gone": int(after.gone)}])
    return True


def forget_chain(connection: Connection, location: int, chain: str) -> None:
    """Expect nothing of a chain any more."""
    connection.execute(delete(digest_chains).where(digest_chains.c.location == location, digest_chains.c.chain == chain))


def record_contents(connection: Connection, location: int, contents: Mapping[tuple[str, str], str]) -> None:
    """Write down what log objects were found to hold, by (key, version): hashes that need not be computed again."""
    for (key, version), content in contents.items():
        mine = (log_objects.c.location == location) & (log_objects.c.object == as_stored(key)) & (log_objects.c.version == version)
        connection.execute(update(log_objects).where(mine).values(content=content))


def name_objects(connection: Connection, location: int, keys: Iterable[str], *, named: bool = True) -> None:
    """Write down that digest files that were verified name these objects; or else that it was told that none does."""
    wanted = [as_stored(key) for key in keys]
    for start in range(0, len(wanted), ROWS_PER_QUERY):
        some = log_objects.c.object.in_(wanted[start : start + ROWS_PER_QUERY])
        connection.execute(update(log_objects).where(log_objects.c.location == location, some).values(named=int(named)))


def unnamed_objects(connection: Connection, location: int, since: int, until: int) -> list[tuple[str, int]]:
    """Keys of objects that no digest file has named yet, and when they were written, within a time; the oldest first."""
    times = (log_objects.c.modified >= since) & (log_objects.c.modified < until)
    query = select(log_objects.c.object, log_objects.c.modified).where(
        log_objects.c.location == location, log_objects.c.named.is_(None), times
    )
    return [
        (as_key(str(row.object)), int(row.modified))
        for row in connection.execute(query.order_by(log_objects.c.modified, log_objects.c.object))
    ]


_CHAINS: Final = select(*(digest_chains.c[name] for name in Chain._fields))


def _chain(row: Any) -> Chain:
    return Chain(
        str(row.chain),
        str(row.object),
        str(row.sha256),
        str(row.signature),
        int(row.since),
        int(row.start),
        int(row.end),
        int(row.proven),
        bool(row.broken),
        bool(row.gone),
    )
