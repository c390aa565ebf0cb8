"""What may have been committed to a trail and is not sealed yet, as the database tells: somebody stopped, or is about to.

    verify_trail(ledger, trail, due=due_files(ledger.database).added)

The database is not signed. So this never makes a file one that was sealed: it only tells "not yet" from "by nobody that we know of".
"""

from typing import TYPE_CHECKING

import msgspec

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.intents import told

if TYPE_CHECKING:
    from mlsec_dagster.storage.database import Database


class _Intended(msgspec.Struct, frozen=True):
    """What matters here of what an intent says."""

    files: list[TrailFile] = []
    removed: list[TrailFile] = []


class Due(msgspec.Struct, frozen=True):
    """Files of commits that may have happened, of any trail.

    Attributes:
        added: Digests, by path, of those that were about to be put in.
        leaving: Paths of those that were about to be taken out.
    """

    added: dict[str, str]
    leaving: frozenset[str]


def due_files(database: "Database") -> Due:
    """What was about to be put into a trail or taken out of it.

    Raises:
        StoreError: The database cannot be read.
    """
    from mlsec_dagster.storage.log_positions import all_open_intents

    added: dict[str, str] = {}
    leaving: set[str] = set()
    with database.read() as connection:
        intents = all_open_intents(connection)
    for intent in intents:
        try:
            content = msgspec.msgpack.decode(told(intent.content), type=_Intended)
        except (msgspec.DecodeError, msgspec.ValidationError):
            continue  # Nobody can say what it meant: then its files are as unknown as any.
        added.update((file.path, file.digest) for file in content.files)
        leaving.update(file.path for file in content.removed)
    return Due(added, frozenset(leaving))
