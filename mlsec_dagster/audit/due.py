"""What may have been committed to a trail and is not sealed yet, as the database tells: somebody stopped, or is about to.

    verify_trail(ledger, trail, due=due_files(ledger.database))

The database is not signed. So this never makes a file one that was sealed: it only tells "not yet" from "by nobody that we know of".
"""

from typing import TYPE_CHECKING

import msgspec

from mlsec_dagster.audit.files import TrailFile

if TYPE_CHECKING:
    from mlsec_dagster.storage.database import Database


class _Intended(msgspec.Struct, frozen=True):
    """What matters here of what an intent says."""

    files: list[TrailFile] = []


def due_files(database: "Database") -> dict[str, str]:
    """Digests, by path, of files that were about to be put into a trail.

    Raises:
        StoreError: The database cannot be read.
    """
    from mlsec_dagster.storage.log_positions import all_open_intents

    due: dict[str, str] = {}
    with database.read() as connection:
        intents = all_open_intents(connection)
    for intent in intents:
        try:
            content = msgspec.msgpack.decode(intent.content, type=_Intended)
        except (msgspec.DecodeError, msgspec.ValidationError):
            continue  # Nobody can say what it meant: then its files are as unknown as any.
        due.update((file.path, file.digest) for file in content.files)
    return due
