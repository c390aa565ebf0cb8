"""The ledger: an append-only Merkle log of signed statements in a database.

    ledger = open_ledger("sqlite:////srv/mlsec/ledger.db", signer=KeyRing.from_file(key), trust=Trust({fingerprint}))
    receipt = ledger.append([Statement("raw/flights", "2013-01", WRITE, {"blake3": "5c9d…"}, {"run_id": run_id})])
    entry = ledger.latest("raw/flights", "2013-01", {WRITE, SEAL})

Whoever holds the database but no key can destroy entries; he cannot make one, change one or move one without being noticed.
Before it appends, a writer rebuilds the edge of the tree and compares it with the newest *signed* checkpoint: an edited
store makes it stop, it never puts its signature over somebody else's change.
"""

import os
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlsec_dagster.errors import ConfigurationError, LedgerError, SigningKeyError, StoreError
from mlsec_dagster.integrity.checkpoints import Checkpoint, parse_checkpoint, sign_checkpoint, signed_by
from mlsec_dagster.integrity.entries import Entry, Finding, Receipt, Row, envelope_bytes, examine, key_change, leaf_data, pae
from mlsec_dagster.integrity.keys import CHECKPOINTS, KeyRing, PublicKey, SigningKey, role_for
from mlsec_dagster.integrity.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    inclusion_rows,
    leaf_hash,
    load_frontier,
    verify_consistency,
    verify_inclusion,
)
from mlsec_dagster.integrity.statements import KEYS, KEYS_ASSET, Position, Statement, sealed_payload
from mlsec_dagster.integrity.trust import KeyBook, Trust, readable_keys
from mlsec_dagster.integrity.witness import Witness

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mlsec_dagster.storage.database import Database

_CHUNK: Final = 500
_REMEMBERED_SUBJECTS: Final = 10_000
_MAX_MANIFEST: Final = 1 << 30
_Item = TypeVar("_Item")
_HINT: Final = "Run `mlsec verify` to see what was done to the ledger; restore it from a backup."


class EveryPartition(Enum):
    """The type of `ANY`."""

    ANY = "any"


ANY: Final = EveryPartition.ANY
"""In place of a partition: all of them, and entries without one."""


def open_ledger(url: str, *, signer: KeyRing | None, trust: Trust, witness: Witness | None = None) -> "Ledger":
    """Open the ledger in a database, creating or migrating it where it is opened for writing.

    Args:
        url: SQLAlchemy URL: a SQLite file or PostgreSQL.
        signer: Keys to append with; None opens the ledger for reading only.
        trust: The pinned keys.
        witness: Where checkpoints also go.

    Raises:
        StoreError: Cannot be reached, does not exist (reading only), or was written by a newer version.
        ConfigurationError: The URL is none.
    """
    from mlsec_dagster.storage.database import Database

    return Ledger(Database(url, read_only=signer is None), signer=signer, trust=trust, witness=witness)


class Ledger:
    """One ledger, for any number of threads; a forked process may go on using it. Made by `open_ledger`."""

    def __init__(self, database: "Database", *, signer: KeyRing | None, trust: Trust, witness: Witness | None) -> None:
        self.database = database
        self.signer = signer
        self.trust = trust
        self.witness = witness
        self._process = os.getpid()
        self._guard = threading.RLock()
        self._head: Checkpoint | None = None
        self._frontier = Frontier()
        self._book = trust.resolve(())
        self._book_end: int | None = None
        self._keys: dict[str, PublicKey] = {}
        self._stored_keys: set[str] = set()
        self._last: dict[tuple[str, str | None], int | None] = {}

    def __repr__(self) -> str:
        return f"Ledger({self.database.name!r}, {'reading only' if self.signer is None else 'for writing'})"

    def close(self) -> None:
        """Close the database connections of this process."""
        self.database.close()

    # --- writing

    def append(self, statements: Iterable[Statement], manifests: Iterable[bytes] = ()) -> Receipt:
        """Seal statements: one durable transaction that ends in one signed checkpoint. All of them or none.

        Args:
            statements: What to record, in order; at least one.
            manifests: Contents to keep by their BLAKE3 address, for statements that name them.

        Raises:
            SigningKeyError: The ledger is open for reading only, or the key is not trusted (any more) for this.
            LedgerError: The stored ledger is not what was signed. Nothing is appended to it.
            StoreError: The store cannot be written. Nothing was recorded.
        """
        ring = self._ring()
        chosen = [(statement, ring.key_for(role_for(statement.predicate_type))) for statement in statements]
        if not chosen:
            raise ConfigurationError("There is nothing to append: give at least one statement.")
        if any(statement.predicate_type == KEYS or statement.asset == KEYS_ASSET for statement, _ in chosen):
            raise ConfigurationError("Keys are changed with `rotation.rotate` and `rotation.revoke`, not with plain statements.")
        return self.append_signed(lambda _: chosen, ring, manifests)

    def append_signed(
        self, choose: Callable[[int], Sequence[tuple[Statement, SigningKey]]], ring: KeyRing, manifests: Iterable[bytes] = ()
    ) -> Receipt:
        """Append statements each under a key of its own. For `rotation`; everybody else calls `append`.

        Args:
            choose: Given the size of the ledger before, the statements and who signs them.
            ring: Signs the checkpoint; its public keys are stored.
            manifests: As in `append`.
        """
        from sqlalchemy.exc import IntegrityError

        with self._lock():
            try:
                with self.database.write() as connection:
                    head = self._refresh(connection)
                    frontier = self._load_edge(connection, head)
                    chosen = choose(frontier.size)
                    self._require_trust(chosen, ring, frontier.size)
                    self._store_contents(connection, [*(key.public for _, key in chosen), *ring.publics.values()], manifests)
                    receipt, last = self._write(connection, head, frontier, chosen, ring)
            except IntegrityError:
                raise LedgerError(
                    f"An entry or a checkpoint beyond the newest signed checkpoint is in the way: it was inserted. {_HINT}"
                ) from None
            self._head, self._frontier = receipt.checkpoint, frontier
            self._last = {} if len(self._last) > _REMEMBERED_SUBJECTS else self._last
            self._last.update(last)
            self._stored_keys.update(ring.publics, (key.fingerprint for _, key in chosen))
            return receipt

    def _write(
        self,
        connection: "Connection",
        head: Checkpoint | None,
        frontier: Frontier,
        chosen: Sequence[tuple[Statement, SigningKey]],
        ring: KeyRing,
    ) -> tuple[Receipt, dict[tuple[str, str | None], int | None]]:
        from mlsec_dagster.storage.database import insert_rows
        from mlsec_dagster.storage.tables import checkpoints, entries

        origin = head.origin if head else self.trust.origin or f"mlsec-dagster/{secrets.token_hex(16)}"
        now, size = time.time(), frontier.size + len(chosen)
        last = self._previous(connection, {(statement.asset, statement.partition) for statement, _ in chosen}, frontier.size)
        sealed: list[Entry] = []
        rows: list[tuple[Any, ...]] = []
        for index, (statement, key) in enumerate(chosen, frontier.size):
            asset, partition, kind = statement.asset, statement.partition, statement.predicate_type
            previous = last[asset, partition]
            last[asset, partition] = index
            payload = sealed_payload(statement, Position(index, origin, previous, now, size))
            fingerprint, signature = key.public.fingerprint, key.sign(pae(payload))
            nodes = frontier.push(leaf_hash(envelope_bytes(payload, fingerprint, signature)))
            rows.append((index, asset, partition, kind, statement.run_id, previous, fingerprint, payload, signature, nodes))
            sealed.append(Entry(index, statement, fingerprint, now, previous))
            if len(rows) == _CHUNK:
                insert_rows(connection, entries, rows)
                rows = []
        if rows:
            insert_rows(connection, entries, rows)
        checkpoint = sign_checkpoint(origin, size, frontier.root(), ring.key_for(CHECKPOINTS))
        insert_rows(connection, checkpoints, [(size, checkpoint.note)])
        return Receipt(tuple(sealed), checkpoint), last

    def _ring(self) -> KeyRing:
        if self.signer is None:
            raise SigningKeyError(f"The ledger in {self.database.name} is open for reading only; appending needs a signing key.")
        return self.signer

    def _require_trust(self, chosen: Sequence[tuple[Statement, SigningKey]], ring: KeyRing, start: int) -> None:
        """Refuse to write what no reader would accept."""
        wanted = {(key.fingerprint, role_for(s.predicate_type)) for s, key in chosen if s.predicate_type != KEYS}
        refusals = [self._book.refusal(fingerprint, role, start) for fingerprint, role in wanted]
        if all(s.predicate_type != KEYS for s, _ in chosen):
            refusals.append(self._book.refusal(ring.key_for(CHECKPOINTS).fingerprint, CHECKPOINTS, start))
        for refusal in filter(None, refusals):
            raise SigningKeyError(
                f"Nothing was recorded: an entry written now {refusal[1]}. Pin its fingerprint, let it in with `mlsec keys rotate`, or use the right key."
            )

    def _previous(
        self, connection: "Connection", subjects: Collection[tuple[str, str | None]], size: int
    ) -> dict[tuple[str, str | None], int | None]:
        """Newest entry about each subject. A wrong answer by an edited store is found by `verify_ledger`."""
        from mlsec_dagster.storage.database import newest_positions

        known = {subject: self._last[subject] for subject in subjects if subject in self._last}
        unknown = [subject for subject in subjects if subject not in known]
        return {**dict.fromkeys(unknown), **newest_positions(connection, unknown, before=size), **known}

    def _store_contents(self, connection: "Connection", publics: Iterable[PublicKey], manifests: Iterable[bytes]) -> None:
        from mlsec_dagster.integrity.digests import hash_bytes
        from mlsec_dagster.storage.database import put
        from mlsec_dagster.storage.tables import manifests as manifest_table
        from mlsec_dagster.storage.tables import public_keys

        new = {key.fingerprint: key.spki for key in publics if key.fingerprint not in self._stored_keys}
        put(connection, public_keys, [{"fingerprint": name, "spki": spki} for name, spki in new.items()])
        for content in manifests:
            put(connection, manifest_table, [{"digest": hash_bytes(content), "content": zlib.compress(content, 1)}])

    # --- what this process knows of the ledger

    def _lock(self) -> threading.RLock:  # pyright: ignore[reportInvalidTypeForm]
        if self._process != os.getpid():  # A thread of the parent may have held the lock when it forked.
            self._guard = threading.RLock()
            self._process = os.getpid()
        return self._guard

    def _refresh(self, connection: "Connection") -> Checkpoint | None:
        """The newest checkpoint, verified; must be the first read of its transaction.

        A process never goes back: the tree that it has seen must be a prefix of what it is shown now.

        Raises:
            LedgerError: Not signed by a trusted key, of another ledger, or smaller than or different from what was seen.
        """
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import checkpoints, entries

        with self._lock():
            row = connection.execute(select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)).one_or_none()
            if row is None:
                if self._head is not None:
                    raise LedgerError(f"The ledger had {self._head.size} entries and is empty now: it was rolled back. {_HINT}")
                if connection.execute(select(entries.c.position).limit(1)).one_or_none() is not None:
                    raise LedgerError(f"The ledger has entries but no checkpoint: its checkpoints were removed. {_HINT}")
                return None
            if self._head is not None and row.note == self._head.note:
                return self._head
            head = parse_checkpoint(str(row.note))
            self._compare_with_memory(connection, row.size, head)
            book, end = self._load_book(connection, head)
            self._require_signed(connection, head, book)
            self._head, self._book, self._book_end, self._last = head, book, end, {}
            return head

    def _compare_with_memory(self, connection: "Connection", size: object, head: Checkpoint) -> None:
        if size != head.size or head.size < 1:
            raise LedgerError(f"The checkpoint stored for size {size} is one of size {head.size}: it was put in its place. {_HINT}")
        expected = self._head.origin if self._head else self.trust.origin
        if expected is not None and head.origin != expected:
            raise LedgerError(f"This is the ledger {head.origin!r}, expected {expected!r}: another ledger was put in its place. {_HINT}")
        if self._head is None:
            return
        if head.size < self._head.size:
            raise LedgerError(f"The ledger had {self._head.size} entries and has {head.size} now: it was rolled back. {_HINT}")
        proof = consistency_proof(self._head.size, head.size, lambda indexes: read_nodes(connection, indexes))
        if not verify_consistency(self._head.size, head.size, proof, self._head.root, head.root):
            raise LedgerError(
                f"The ledger of {head.size} entries does not contain the {self._head.size} seen before: it was forked. {_HINT}"
            )

    def _require_signed(self, connection: "Connection", head: Checkpoint, book: KeyBook) -> None:
        signer = signed_by(head, self._public_keys(connection, book.keys).values())
        if signer is None:
            raise LedgerError(f"The newest checkpoint, of size {head.size}, is not signed by any trusted key. {_HINT}")
        refusal = book.refusal(signer.fingerprint, CHECKPOINTS, head.size - 1)
        if refusal is not None:
            raise LedgerError(f"The newest checkpoint, of size {head.size}, {refusal[1]}. {_HINT}")

    def _load_book(self, connection: "Connection", head: Checkpoint) -> tuple[KeyBook, int | None]:
        """The trusted keys at `head`; what a keys statement says counts only if the tree holds it."""
        from sqlalchemy import func, select

        from mlsec_dagster.storage.tables import entries

        mine = (entries.c.asset == KEYS_ASSET, entries.c.position < head.size)
        end = connection.execute(select(func.max(entries.c.position)).where(*mine)).scalar()
        if self._head is not None and end == self._book_end:
            return self._book, end
        rows: Sequence[Row] = connection.execute(select(entries).where(*mine).order_by(entries.c.position)).all()  # pyright: ignore[reportAssignmentType]
        keys = self._public_keys(connection, {str(row.key) for row in rows})
        self._require_included(connection, head, rows)
        changes = [key_change(row, head.origin, keys) for row in rows]
        for row, change in zip(rows, changes, strict=True):
            if isinstance(change, Finding):
                raise LedgerError(f"Entry {row.position}, which changes the trusted keys, {change.sentence}. {_HINT}")
        return self.trust.resolve(change for change in changes if not isinstance(change, Finding)), end

    def _load_edge(self, connection: "Connection", head: Checkpoint | None) -> Frontier:
        """A copy of the frontier at `head`, whose root is the signed one."""
        size, root = (head.size, head.root) if head else (0, EMPTY_ROOT)
        if self._frontier.size == size and self._frontier.root() == root:
            return self._frontier.copy()
        edge = load_frontier(size, lambda indexes: read_nodes(connection, indexes))
        if edge.root() != root:
            raise LedgerError(
                f"The stored tree of {size} entries has another root than its signed checkpoint: entries were altered. {_HINT}"
            )
        return edge

    def _public_keys(self, connection: "Connection", fingerprints: Iterable[str]) -> dict[str, PublicKey]:
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import public_keys

        if self.signer is not None:
            self._keys.update(self.signer.publics)
        wanted = set(fingerprints)
        missing = wanted - self._keys.keys()
        if missing:
            found = connection.execute(select(public_keys).where(public_keys.c.fingerprint.in_(missing)))
            self._keys.update(readable_keys({row.fingerprint: row.spki for row in found}))
        return {name: self._keys[name] for name in wanted if name in self._keys}

    # --- reading

    def latest(self, asset: str, partition: str | None, types: Collection[str], run_id: str | None = None) -> Entry | None:
        """The newest entry about a subject, authenticated.

        It is signed by a key trusted for its role, its index columns say what its statement says, and the newest signed
        checkpoint includes it. Not seen: a newer entry that somebody hides by editing *its* index columns, and a ledger that
        was rolled back as a whole. Against the first, give the `run_id` of the materialization that you expect; against both
        there are `verify_ledger` and a witness.

        Args:
            asset: Asset key as text.
            partition: Partition key, or None.
            types: Predicate types that count.
            run_id: Only entries whose predicate names this run.

        Raises:
            LedgerError: The entry or the checkpoint is not what was signed.
            StoreError: The store cannot be read.
        """
        from mlsec_dagster.storage.database import newest_positions

        with self.database.read() as connection:
            head = self._refresh(connection)
            if head is None:
                return None
            found = newest_positions(connection, [(asset, partition)], before=head.size, types=types, run_id=run_id)
            return next(iter(self._entries(connection, head, list(found.values()))), None)

    def latest_by_partition(self, asset: str, partitions: Collection[str | None], types: Collection[str]) -> dict[str | None, Entry]:
        """The newest entry of each partition that has one; as `latest`, for many partitions with few queries."""
        from mlsec_dagster.storage.database import newest_positions

        with self.database.read() as connection:
            head = self._refresh(connection)
            if head is None:
                return {}
            found = newest_positions(connection, [(asset, partition) for partition in partitions], before=head.size, types=types)
            return {entry.statement.partition: entry for entry in self._entries(connection, head, list(found.values()))}

    def history(self, asset: str, partition: str | None | EveryPartition = ANY, types: Collection[str] | None = None) -> Iterator[Entry]:
        """All entries about an asset, oldest first, each authenticated as by `latest`.

        Every statement names the one before it about its subject, so an entry hidden in the middle is noticed.

        Raises:
            LedgerError: An entry is not what was signed, or one is missing.
        """
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import entries

        before: dict[str | None, int] = {}
        end = -1
        while True:
            with self.database.read() as connection:
                head = self._refresh(connection)
                if head is None:
                    return
                query = select(entries.c.position).where(entries.c.asset == asset, entries.c.position > end, entries.c.position < head.size)
                if not isinstance(partition, EveryPartition):
                    query = query.where(entries.c.partition.is_(None) if partition is None else entries.c.partition == partition)
                positions = list(connection.execute(query.order_by(entries.c.position).limit(_CHUNK)).scalars())
                found = self._entries(connection, head, positions)
            for entry in found:
                if entry.previous != before.get(entry.statement.partition):
                    raise LedgerError(
                        f"Entry {entry.previous} about {asset!r} is missing from its history: its row was removed or its index changed. {_HINT}"
                    )
                before[entry.statement.partition] = end = entry.index
                if types is None or entry.statement.predicate_type in types:
                    yield entry
            if len(found) < _CHUNK:
                return

    def guarded_since(self, asset: str) -> float | None:
        """When the first entry about an asset, any partition, was recorded: seconds since the epoch, None if there is none.

        Authenticated as by `latest`. Not seen: that all entries of the partitions that came first were hidden.

        Raises:
            LedgerError: The first entry is not what was signed, or names one before it.
        """
        from sqlalchemy import func, select

        from mlsec_dagster.storage.tables import entries

        with self.database.read() as connection:
            head = self._refresh(connection)
            if head is None:
                return None
            position = connection.execute(select(func.min(entries.c.position)).where(entries.c.asset == asset, entries.c.position < head.size)).scalar()
            if position is None:
                return None
            entry = self._entries(connection, head, [position])[0]
        if entry.previous is not None:
            raise LedgerError(f"Entry {entry.previous} about {asset!r} is missing: its row was removed or its index changed. {_HINT}")
        return entry.recorded_at

    def entry(self, index: int) -> Entry:
        """The entry at one place, authenticated as by `latest`."""
        with self.database.read() as connection:
            head = self._refresh(connection)
            if head is None or not 0 <= index < head.size:
                raise LedgerError(f"There is no entry {index} in a ledger of {head.size if head else 0} entries.")
            return self._entries(connection, head, [index])[0]

    def assets(self) -> list[str]:
        """Asset keys that the ledger speaks of, sorted. From the index alone, for display and suggestions."""
        from sqlalchemy import func, select

        from mlsec_dagster.storage.tables import entries

        names: list[str] = []
        with self.database.read() as connection:
            name = connection.execute(select(func.min(entries.c.asset))).scalar()
            while name is not None:  # One step per asset through the index, however long the ledger.
                names.append(name)
                name = connection.execute(select(func.min(entries.c.asset)).where(entries.c.asset > name)).scalar()
        return [name for name in names if name != KEYS_ASSET]

    def manifest(self, digest: str) -> bytes:
        """A stored content by its address, checked against it.

        Raises:
            LedgerError: It is missing or is not what the address says.
        """
        with self.database.read() as connection:
            return read_manifest(connection, digest)

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, its signature verified; None for an empty ledger."""
        with self.database.read() as connection:
            return self._refresh(connection)

    def book(self) -> KeyBook:
        """The keys that are trusted in this ledger now."""
        with self.database.read() as connection:
            self._refresh(connection)
            return self._book

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """RFC 9162 audit path of an entry in the tree of the first `size` entries."""
        with self.database.read() as connection:
            return inclusion_proof(index, self._within(connection, size), lambda indexes: read_nodes(connection, indexes))

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """RFC 9162 proof that the first `old` entries are a prefix of the first `new`."""
        with self.database.read() as connection:
            return consistency_proof(old, self._within(connection, new), lambda indexes: read_nodes(connection, indexes))

    def root_at(self, size: int) -> bytes:
        """Root over the first `size` entries, by the stored hashes; compare it with a signed one."""
        with self.database.read() as connection:
            return load_frontier(self._within(connection, size), lambda indexes: read_nodes(connection, indexes)).root()

    def _within(self, connection: "Connection", size: int) -> int:
        head = self._refresh(connection)
        if size > (head.size if head else 0):
            raise LedgerError(f"The ledger has {head.size if head else 0} entries, not {size}.")
        return size

    def _entries(self, connection: "Connection", head: Checkpoint, positions: Sequence[int]) -> list[Entry]:
        """The entries at these places, in order, authenticated against `head`."""
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import entries

        found: list[Entry] = []
        for some in _chunks(sorted(positions)):
            rows: Sequence[Row] = connection.execute(select(entries).where(entries.c.position.in_(some)).order_by(entries.c.position)).all()  # pyright: ignore[reportAssignmentType]
            missing = set(some) - {row.position for row in rows}
            if missing:
                raise LedgerError(f"Entry {min(missing)} is missing: it was removed. {_HINT}")
            keys = self._public_keys(connection, {str(row.key) for row in rows})
            for row in rows:
                entry = examine(row, row.position, head.origin, self._book, keys)
                if isinstance(entry, Finding):
                    raise LedgerError(f"Entry {row.position} {entry.sentence}. {_HINT}")
                found.append(entry)
            self._require_included(connection, head, rows)
        return found

    def _require_included(self, connection: "Connection", head: Checkpoint, rows: Sequence[Row]) -> None:
        nodes = read_nodes(connection, {index for row in rows for index in inclusion_rows(row.position, head.size)})
        for row in rows:
            data = leaf_data(row)
            proof = inclusion_proof(row.position, head.size, lambda indexes: {index: nodes[index] for index in indexes if index in nodes})
            if data is None or not verify_inclusion(leaf_hash(data), row.position, head.size, proof, head.root):
                raise LedgerError(
                    f"Entry {row.position} is not part of the signed checkpoint of size {head.size}: it or its neighbours were altered. {_HINT}"
                )

    # --- the witness

    def witness_now(self) -> None:
        """Hand the newest checkpoint to the witness, after comparing the ledger with what the witness has.

        Raises:
            ConfigurationError: There is no witness.
            LedgerError: The witness has seen another or a longer ledger: forked or rolled back.
            StoreError: The witness cannot be reached. The ledger itself is complete.
        """
        if self.witness is None:
            raise ConfigurationError(
                "No witness is configured, so a rollback of the ledger cannot be noticed. Name a place outside the database owner's reach."
            )
        with self.database.read() as connection:
            head = self._refresh(connection)
            known = self._public_keys(connection, self._book.keys)
        if head is None:
            return
        for seen in self.witness.newest():
            if seen.size > head.size and (now := self.checkpoint()) is not None:
                head = now  # Another process appended and witnessed in the meantime, unless it was rolled back.
            if seen.size <= head.size and self.root_at(seen.size) == seen.root:
                continue
            noted = self.witness.read(seen)
            if noted is None or signed_by(noted, known.values()) is None:
                continue  # Not by us: whoever can write to the witness can put rubbish there, `verify_ledger` tells of it.
            if seen.size > head.size:
                raise LedgerError(
                    f"The witness has a checkpoint of size {seen.size}, but the ledger has {head.size} entries: it was rolled back. {_HINT}"
                )
            raise LedgerError(f"The witness has another root for size {seen.size} than the ledger: it was forked. {_HINT}")
        self.witness.publish(head)
        if not self.database.read_only:
            self._note_witnessed(head.size)

    def witness_if_due(self) -> str | None:
        """Call `witness_now` if there is a witness and its last checkpoint is older than its interval.

        Returns:
            None, or one sentence why the witness could not be reached; the ledger is complete all the same.

        Raises:
            LedgerError: Forked or rolled back.
        """
        if self.witness is None or not self._witness_due(self.witness.interval_seconds):
            return None
        try:
            self.witness_now()
        except StoreError as error:
            return str(error)
        return None

    def _witness_due(self, interval: float) -> bool:
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import notes

        with self.database.read() as connection:
            if self._refresh(connection) is None:
                return False
            value = connection.execute(select(notes.c.value).where(notes.c.name == "witnessed")).scalar()
        try:
            return not 0 <= time.time() - float(str(value)) < interval
        except ValueError:
            return True

    def _note_witnessed(self, size: int) -> None:
        from mlsec_dagster.storage.database import put
        from mlsec_dagster.storage.tables import notes

        with self.database.write() as connection:
            put(connection, notes, [{"name": "witnessed", "value": str(time.time())}])


def read_nodes(connection: "Connection", indexes: Collection[int]) -> Mapping[int, bytes]:
    """Stored subtree hashes of entries; what is missing or no bytes is left out."""
    from sqlalchemy import select

    from mlsec_dagster.storage.tables import entries

    found: dict[int, bytes] = {}
    for some in _chunks(sorted(indexes)):
        rows = connection.execute(select(entries.c.position, entries.c.nodes).where(entries.c.position.in_(some)))
        found.update((row.position, row.nodes) for row in rows if isinstance(row.nodes, bytes))
    return found


def read_manifest(connection: "Connection", digest: str) -> bytes:
    """A content by its address. See `Ledger.manifest`."""
    from sqlalchemy import select

    from mlsec_dagster.integrity.digests import hash_bytes
    from mlsec_dagster.storage.tables import manifests

    stored = connection.execute(select(manifests.c.content).where(manifests.c.digest == digest)).scalar()
    if stored is None:
        raise LedgerError(f"The manifest {digest} is missing from the store: it was removed. {_HINT}")
    algorithm = digest.partition(":")[0]
    try:
        inflate = zlib.decompressobj()
        content = inflate.decompress(stored, _MAX_MANIFEST)
        good = inflate.eof and not inflate.unused_data and algorithm in ("blake3", "sha256") and hash_bytes(content, algorithm) == digest
    except (zlib.error, TypeError):
        good, content = False, b""
    if not good:
        raise LedgerError(f"The manifest {digest} is not what its address says: it was altered. {_HINT}")
    return content


def _chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _CHUNK):
        yield items[start : start + _CHUNK]
