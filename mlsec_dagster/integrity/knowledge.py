"""What a process knows of a ledger: the newest checkpoint that it has verified, the trusted keys, the edge of the tree.

Everything that is read from the store passes here. A process never goes back: what it has seen once must be a prefix of
whatever the store shows it later.
"""

import os
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.checkpoints import Checkpoint, parse_checkpoint, signed_by
from mlsec_dagster.integrity.entries import Entry, Finding, Row, examine, key_change, leaf_data
from mlsec_dagster.integrity.keys import CHECKPOINTS, PublicKey
from mlsec_dagster.integrity.merkle import (
    EMPTY_ROOT,
    Frontier,
    NodeReader,
    consistency_proof,
    inclusion_proof,
    inclusion_rows,
    leaf_hash,
    load_frontier,
    verify_consistency,
    verify_inclusion,
)
from mlsec_dagster.integrity.statements import KEYS_ASSET
from mlsec_dagster.integrity.trust import KeyBook, SignedKeyChange, Trust, readable_keys

if TYPE_CHECKING:
    from sqlalchemy import Connection

HINT: Final = "Run `mlsec verify` to see what was done to the ledger; restore it from a backup."
_MAX_MANIFEST: Final = 1 << 30


class Knowledge:
    """Verified facts about one ledger, kept between transactions.

    Args:
        trust: The pinned keys.
        publics: Public keys that are known without the store: those of the process's own ring.
    """

    def __init__(self, trust: Trust, publics: Mapping[str, PublicKey]) -> None:
        self.trust = trust
        self.head: Checkpoint | None = None
        self.book = trust.resolve(())
        self._changes: tuple[SignedKeyChange, ...] = ()
        self._edge, self._edge_root = Frontier(), EMPTY_ROOT
        self._keys = dict(publics)
        self._process = os.getpid()
        self._guard = threading.RLock()

    def lock(self) -> AbstractContextManager[object]:
        """Held while a transaction begins or the facts change. A forked child gets one of its own."""
        if self._process != os.getpid():  # A thread of the parent may have held the lock when it forked.
            self._guard = threading.RLock()
            self._process = os.getpid()
        return self._guard

    def refresh(self, connection: "Connection") -> Checkpoint | None:
        """The newest checkpoint, verified; must be the first read of its transaction.

        A process never goes back: the tree that it has seen must be a prefix of what it is shown now.

        Raises:
            LedgerError: Not signed by a trusted key, of another ledger, or smaller than or different from what was seen.
        """
        from mlsec_dagster.storage.queries import newest_checkpoint

        with self.lock():
            row = newest_checkpoint(connection)
            if row is None:
                from mlsec_dagster.storage.tables import entries

                if self.head is not None:
                    raise LedgerError(f"The ledger had {self.head.size} entries and is empty now: it was rolled back. {HINT}")
                if connection.execute(entries.select().limit(1)).one_or_none() is not None:
                    raise LedgerError(f"The ledger has entries but no checkpoint: its checkpoints were removed. {HINT}")
                return None
            size, note = row
            if self.head is not None and note == self.head.note:
                return self.head
            head = parse_checkpoint(str(note))
            self._compare_with_memory(connection, size, head)
            changes = self._load_changes(connection, head)
            book = self.trust.resolve(changes)
            self._require_signed(connection, head, book)
            self.head, self.book, self._changes = head, book, changes
            return head

    def _compare_with_memory(self, connection: "Connection", size: object, head: Checkpoint) -> None:
        if size != head.size or head.size < 1:
            raise LedgerError(f"The checkpoint stored for size {size} is one of size {head.size}: it was put in its place. {HINT}")
        expected = self.head.origin if self.head else self.trust.origin
        if expected is not None and head.origin != expected:
            raise LedgerError(f"This is the ledger {head.origin!r}, expected {expected!r}: another ledger was put in its place. {HINT}")
        if self.head is None:
            return
        if head.size < self.head.size:
            raise LedgerError(f"The ledger had {self.head.size} entries and has {head.size} now: it was rolled back. {HINT}")
        proof = consistency_proof(self.head.size, head.size, node_reader(connection))
        if not verify_consistency(self.head.size, head.size, proof, self.head.root, head.root):
            raise LedgerError(f"The ledger of {head.size} entries does not contain the {self.head.size} seen before: it was forked. {HINT}")

    def _require_signed(self, connection: "Connection", head: Checkpoint, book: KeyBook) -> None:
        signer = signed_by(head, self.public_keys(connection, book.keys).values())
        if signer is None:
            raise LedgerError(f"The newest checkpoint, of size {head.size}, is not signed by any trusted key. {HINT}")
        refusal = book.refusal(signer.fingerprint, CHECKPOINTS, head.size - 1)
        if refusal is not None:
            raise LedgerError(f"The newest checkpoint, of size {head.size}, {refusal[1]}. {HINT}")

    def _load_changes(self, connection: "Connection", head: Checkpoint) -> tuple[SignedKeyChange, ...]:
        """The changes of keys up to `head`; what a keys statement says counts only if the tree holds it."""
        from mlsec_dagster.storage.queries import LAST_OF_ASSET
        from mlsec_dagster.storage.tables import entries

        end = connection.execute(LAST_OF_ASSET, {"asset": KEYS_ASSET, "before": head.size}).scalar()
        if end == (self._changes[-1].index if self._changes else None):
            return self._changes
        query = entries.select().where(entries.c.asset == KEYS_ASSET, entries.c.position < head.size)
        rows: Sequence[Row] = connection.execute(query.order_by(entries.c.position)).all()  # pyright: ignore[reportAssignmentType]
        keys = self.public_keys(connection, {str(row.key) for row in rows})
        self._require_included(connection, head, rows)
        changes: list[SignedKeyChange] = []
        for row in rows:
            change = key_change(row, head.origin, keys)
            if isinstance(change, Finding):
                raise LedgerError(f"Entry {row.position}, which changes the trusted keys, {change.sentence}. {HINT}")
            changes.append(change)
        self._keys.update(readable_keys({signed.change.fingerprint: signed.change.spki for signed in changes}))
        return tuple(changes)

    def book_with(self, changes: Sequence[SignedKeyChange]) -> KeyBook:
        """The trusted keys as they would be after further changes."""
        return self.trust.resolve((*self._changes, *changes)) if changes else self.book

    def edge(self, connection: "Connection", head: Checkpoint | None) -> Frontier:
        """A copy of the frontier at `head`, whose root is the signed one."""
        size, root = (head.size, head.root) if head else (0, EMPTY_ROOT)
        if self._edge.size == size and self._edge_root == root:
            return self._edge.copy()
        edge = load_frontier(size, node_reader(connection))
        if edge.root() != root:
            raise LedgerError(
                f"The stored tree of {size} entries has another root than its signed checkpoint: entries were altered. {HINT}"
            )
        return edge

    def public_keys(self, connection: "Connection", fingerprints: Iterable[str]) -> dict[str, PublicKey]:
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import public_keys

        wanted = set(fingerprints)
        missing = wanted - self._keys.keys()
        if missing:
            found = connection.execute(select(public_keys).where(public_keys.c.fingerprint.in_(missing)))
            self._keys.update(readable_keys({row.fingerprint: row.spki for row in found}))
        return {name: self._keys[name] for name in wanted if name in self._keys}

    def entries(self, connection: "Connection", head: Checkpoint, positions: Iterable[int]) -> list[Entry]:
        """The entries at these places, in order, authenticated against `head`.

        Raises:
            LedgerError: One of them is missing or not what was signed.
        """
        from mlsec_dagster.storage.queries import ROWS_PER_QUERY, read_entries

        found: list[Entry] = []
        wanted = sorted(positions)
        for start in range(0, len(wanted), ROWS_PER_QUERY):
            some = wanted[start : start + ROWS_PER_QUERY]
            stored = {row.position: row for row in read_entries(connection, some)}
            missing = [position for position in some if position not in stored]
            if missing:
                raise LedgerError(f"Entry {missing[0]} is missing: it was removed. {HINT}")
            rows: Sequence[Row] = [stored[position] for position in some]
            keys = self.public_keys(connection, {str(row.key) for row in rows})
            for row in rows:
                entry = examine(row, row.position, head.origin, self.book, keys)
                if isinstance(entry, Finding):
                    raise LedgerError(f"Entry {row.position} {entry.sentence}. {HINT}")
                found.append(entry)
            self._require_included(connection, head, rows)
        return found

    def _require_included(self, connection: "Connection", head: Checkpoint, rows: Sequence[Row]) -> None:
        nodes = node_reader(connection)({index for row in rows for index in inclusion_rows(row.position, head.size)})
        for row in rows:
            data = leaf_data(row)
            proof = inclusion_proof(row.position, head.size, lambda indexes: {index: nodes[index] for index in indexes if index in nodes})
            if data is None or not verify_inclusion(leaf_hash(data), row.position, head.size, proof, head.root):
                raise LedgerError(
                    f"Entry {row.position} is not part of the signed checkpoint of size {head.size}: "
                    f"it or its neighbours were altered. {HINT}"
                )

    def remember(self, head: Checkpoint, edge: Frontier, publics: Mapping[str, PublicKey], changes: Sequence[SignedKeyChange]) -> None:
        """Take over what this process itself has just committed."""
        if changes:
            self.book, self._changes = self.book_with(changes), (*self._changes, *changes)
        self.head, self._edge, self._edge_root = head, edge, head.root
        self._keys.update(publics)


def node_reader(connection: "Connection") -> NodeReader:
    """Reads the stored hashes that proofs are made of."""
    from mlsec_dagster.storage.queries import read_nodes

    return lambda indexes: read_nodes(connection, indexes)


def read_manifest(connection: "Connection", digest: str) -> bytes:
    """A content by its address. See `Ledger.manifest`."""
    from sqlalchemy import select

    from mlsec_dagster.integrity.digests import hash_bytes
    from mlsec_dagster.storage.tables import manifests

    stored = connection.execute(select(manifests.c.content).where(manifests.c.digest == digest)).scalar()
    if stored is None:
        raise LedgerError(f"The manifest {digest} is missing from the store: it was removed. {HINT}")
    algorithm = digest.partition(":")[0]
    try:
        inflate = zlib.decompressobj()
        content = inflate.decompress(stored, _MAX_MANIFEST)
        good = inflate.eof and not inflate.unused_data and algorithm in ("blake3", "sha256") and hash_bytes(content, algorithm) == digest
    except (zlib.error, TypeError):
        good, content = False, b""
    if not good:
        raise LedgerError(f"The manifest {digest} is not what its address says: it was altered. {HINT}")
    return content
