"""Handing checkpoints to the witness, never without comparing first.

compare(ledger)                  # is it the ledger that the witness knows?
publish(ledger)                  # now
sentence = publish_if_due(ledger)    # at most once per interval; a sentence if the witness could not be reached
"""

import time
from typing import TYPE_CHECKING

from mlsec_dagster.errors import ConfigurationError, LedgerError, StoreError
from mlsec_dagster.integrity.checkpoints import Checkpoint, signed_by
from mlsec_dagster.integrity.knowledge import HINT

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger

_NOTE = "witnessed"


def publish(ledger: "Ledger") -> None:
    """Hand the newest checkpoint to the witness, after comparing the ledger with the newest that the witness has.

    Raises:
        ConfigurationError: There is no witness.
        LedgerError: The witness has seen another or a longer ledger: forked or rolled back.
        StoreError: The witness cannot be reached. The ledger itself is complete.
    """
    head = compare(ledger)
    if head is None or ledger.witness is None:
        return
    ledger.witness.publish(head)
    if not ledger.database.read_only:
        _remember(ledger)


def compare(ledger: "Ledger") -> Checkpoint | None:
    """Hold the ledger against the newest checkpoint that the witness has, and hand it nothing.

    Returns:
        The ledger's own newest checkpoint, which continues the witness's; None for an empty ledger that the witness does not know.

    Raises:
        ConfigurationError: There is no witness.
        LedgerError: The witness has seen another or a longer ledger: forked or rolled back.
        StoreError: The witness cannot be reached.
    """
    witness = ledger.witness
    if witness is None:
        raise ConfigurationError(
            "No witness is configured, so a rollback of the ledger cannot be noticed. Name a place outside the database owner's reach."
        )
    # First what was witnessed, then the ledger: what was witnessed by then, the ledger must have.
    newest = witness.newest()
    head = ledger.checkpoint()
    for seen in newest:
        if head is not None and seen.size <= head.size and ledger.root_at(seen.size) == seen.root:
            continue
        noted = witness.read(seen)
        if noted is None or not _signed(ledger, noted):
            continue  # Not ours: whoever can write to the witness can put rubbish there. `verify_ledger` counts it as nothing.
        if head is None or seen.size > head.size:
            size = head.size if head else 0
            raise LedgerError(
                f"The witness has a checkpoint of size {seen.size}, but the ledger has {size} entries: it was rolled back. {HINT}"
            )
        raise LedgerError(f"The witness has another root for size {seen.size} than the ledger: it was forked. {HINT}")
    return head


def publish_if_due(ledger: "Ledger") -> str | None:
    """Call `publish` if there is a witness and it was last called longer ago than the witness's interval.

    Returns:
        None, or one sentence why the witness could not be reached; the ledger is complete all the same.

    Raises:
        LedgerError: Forked or rolled back.
    """
    if ledger.witness is None or not _due(ledger, ledger.witness.interval_seconds):
        return None
    try:
        publish(ledger)
    except StoreError as error:
        return str(error)
    return None


def _signed(ledger: "Ledger", checkpoint: Checkpoint) -> bool:
    keys = [ledger.public_key(name) for name in ledger.book().keys]
    try:
        return signed_by(checkpoint, keys) is not None
    except LedgerError:
        return False


def _due(ledger: "Ledger", interval: float) -> bool:
    """By the store's own note, which spares a question to the witness. Who edits it delays the witness, and its age shows that."""
    from sqlalchemy import select

    from mlsec_dagster.storage.tables import notes

    with ledger.database.read() as connection:
        value = connection.execute(select(notes.c.value).where(notes.c.name == _NOTE)).scalar()
    try:
        return not 0 <= time.time() - float(str(value)) < interval
    except ValueError:
        return True


def _remember(ledger: "Ledger") -> None:
    from mlsec_dagster.storage.queries import put
    from mlsec_dagster.storage.tables import notes

    with ledger.database.write() as connection:
        put(connection, notes, [{"name": _NOTE, "value": str(time.time())}])
