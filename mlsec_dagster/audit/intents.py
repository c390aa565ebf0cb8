"""What is about to happen to the trail, signed, so that only what a writer of ours began is ever finished and sealed.

    content = signed(ledger, trail, location_uri, attempt, number, encoded)
    …                                                        # in the database, which anybody may have written to
    for intent, said, version in left_behind(database, ledger, trail, location_uri, location): …

Whoever finds an intent that somebody left seals what it says, or deletes the files that it names. If it were not signed, who can write to
the database would have rows sealed that nobody ingested, rows taken out "by retention", and any file deleted.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import msgspec
from blake3 import blake3

from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import SigningKeyError
from mlsec_dagster.integrity.keys import SEALING
from mlsec_dagster.storage import log_positions
from mlsec_dagster.storage.log_positions import Intent

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.storage.database import Database

# No envelope and no checkpoint of the ledger begins like this, which the same key signs.
_DOMAIN: Final = b"mlsec trail intent v1\n"


class _Signed(msgspec.Struct, frozen=True):
    content: bytes
    key: str
    signature: bytes


def signed(ledger: "Ledger | None", trail: Trail, location: str, attempt: str, number: int, content: bytes) -> bytes:
    """What an intent says, signed by whoever will seal it; as it is where nothing is sealed.

    Args:
        ledger: Whose signer signs.
        trail: That it is about.
        location: URI of the location.
        attempt: Identity of the commit.
        number: Of the batch.
        content: What it says.
    """
    if ledger is None or ledger.signer is None:
        return content
    key = ledger.signer.key_for(SEALING)
    return msgspec.msgpack.encode(_Signed(content, key.fingerprint, key.sign(_statement(trail, location, attempt, number, content))))


def told(content: bytes) -> bytes:
    """What an intent says, whoever says it."""
    wrapped = _unwrapped(content)
    return content if wrapped is None else wrapped.content


def is_signed(ledger: "Ledger | None", trail: Trail, location: str, intent: Intent) -> bool:
    """Whether a key that may seal now has signed this very intent; so is everything where nothing is sealed.

    Raises:
        LedgerError: The ledger is not what was signed.
    """
    if ledger is None:
        return True
    wrapped = _unwrapped(intent.content)
    if wrapped is None:
        return False
    newest = ledger.checkpoint()
    if ledger.book().refusal(wrapped.key, SEALING, 0 if newest is None else newest.size) is not None:
        return False
    try:
        # A writer's first intent is older than its first entry, and with that its key comes into the store.
        own = {} if ledger.signer is None else ledger.signer.publics
        public = own.get(wrapped.key) or ledger.public_key(wrapped.key)
    except SigningKeyError:
        return False
    return public.verifies(wrapped.signature, _statement(trail, location, intent.attempt, intent.number, wrapped.content))


def left_behind(
    database: "Database", ledger: "Ledger | None", trail: Trail, uri: str, location: int
) -> Iterator[tuple[Intent, bytes, int | None]]:
    """Intents that somebody left before they were done: each with what it says, and with the version that its commit made.

    A version of None means that there is no such commit and never can be. Of intents that are not signed nothing is sealed or deleted: they
    are settled as lost, and if there is such a commit, `mlsec verify` names it.

    Args:
        database: Where intents are.
        ledger: Whose keys sign.
        trail: That they are about.
        uri: Of the location.
        location: Its id in the database.

    Raises:
        StoreError: The trail or the database cannot be read or written.
        LedgerError: The ledger is not what was signed.
    """
    with database.read() as connection:
        found = log_positions.open_intents(connection, location)
    intents = [intent for intent in found if is_signed(ledger, trail, uri, intent)]
    if unsigned := {intent.attempt for intent in found} - {intent.attempt for intent in intents}:
        with database.write() as connection:
            for attempt in unsigned:
                log_positions.settle(connection, location, attempt, "lost")
    for number in sorted({intent.number for intent in intents}):
        tried = {intent.attempt: intent for intent in intents if intent.number == number}
        committed = trail.fate(uri, number, list(tried))
        for attempt, intent in tried.items():
            yield intent, told(intent.content), committed[1] if committed is not None and committed[0] == attempt else None


def _unwrapped(content: bytes) -> _Signed | None:
    try:
        return msgspec.msgpack.decode(content, type=_Signed)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


def _statement(trail: Trail, location: str, attempt: str, number: int, content: bytes) -> bytes:
    return _DOMAIN + json.dumps([trail.uri, location, attempt, number, blake3(content).hexdigest()]).encode()
