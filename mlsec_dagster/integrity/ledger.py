"""The ledger: an append-only Merkle log of signed statements in a database.

    ledger = open_ledger("sqlite:////srv/mlsec/ledger.db", signer=KeyRing.from_file(key), trust=Trust({fingerprint}))
    receipt = ledger.append([Statement("raw/flights", "2013-01", WRITE, {"blake3": "5c9d…"}, {"run_id": run_id})])
    entry = ledger.latest("raw/flights", "2013-01", {WRITE, SEAL})

Whoever holds the database but no key can destroy entries; he cannot make one, change one or move one without being noticed.
Before it appends, a writer rebuilds the edge of the tree and compares it with the newest *signed* checkpoint: an edited
store makes it stop, it never puts its signature over somebody else's change.
"""

import secrets
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from mlsec_dagster.errors import ConfigurationError, LedgerError, SigningKeyError
from mlsec_dagster.integrity import exports, witnessing
from mlsec_dagster.integrity.checkpoints import Checkpoint, sign_checkpoint
from mlsec_dagster.integrity.entries import Entry, Receipt, Row
from mlsec_dagster.integrity.keys import CHECKPOINTS, KeyRing, PublicKey, SigningKey, public_key, role_for
from mlsec_dagster.integrity.knowledge import HINT, Knowledge, node_reader, read_manifest
from mlsec_dagster.integrity.merkle import Frontier, consistency_proof, inclusion_proof, load_frontier, verify_consistency
from mlsec_dagster.integrity.sealing import Draft, sealed_in_order
from mlsec_dagster.integrity.statements import KEYS, KEYS_ASSET, OWN_SUBJECTS, Position, Statement
from mlsec_dagster.integrity.trust import KeyBook, KeyChange, SignedKeyChange, Trust
from mlsec_dagster.integrity.witness import Witness

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from mlsec_dagster.storage.database import Database

_REMEMBERED_SUBJECTS: Final = 10_000

Subject = tuple[str, str | None]


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
        self._known = Knowledge(trust, signer.publics if signer else {})
        self._stored_keys: set[str] = set()
        self._stored_ring: KeyRing | None = None
        # The newest entry per subject, good as long as nobody else has appended since `_last_note`.
        self._last: dict[Subject, int | None] = {}
        self._last_note = ""

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
        from mlsec_dagster.storage.database import INTEGRITY_ERRORS

        with self._known.lock():
            try:
                with self.database.write() as connection:
                    head = self._known.refresh(connection)
                    if head is None or head.note != self._last_note:
                        self._last = {}
                    frontier = self._known.edge(connection, head)
                    chosen = choose(frontier.size)
                    changes = self._require_trust(chosen, ring, frontier.size)
                    publics = self._new_publics(chosen, changes, ring)
                    if publics or manifests:
                        self._store_contents(connection, publics, manifests)
                    receipt, last = self._write(connection, head, frontier, chosen, ring)
            except INTEGRITY_ERRORS:
                raise LedgerError(
                    f"An entry or a checkpoint beyond the newest signed checkpoint is in the way: it was inserted. {HINT}"
                ) from None
            self._known.remember(receipt.checkpoint, frontier, publics, changes)
            self._stored_keys |= publics.keys()
            self._stored_ring = ring
            if len(self._last) > _REMEMBERED_SUBJECTS:
                self._last = {}
            self._last.update(last)  # Only now: what was not committed is nobody's predecessor.
            self._last_note = receipt.checkpoint.note
            return receipt

    def _write(
        self,
        connection: "Connection",
        head: Checkpoint | None,
        frontier: Frontier,
        chosen: Sequence[tuple[Statement, SigningKey]],
        ring: KeyRing,
    ) -> tuple[Receipt, dict[Subject, int | None]]:
        from mlsec_dagster.storage.queries import insert_rows
        from mlsec_dagster.storage.tables import checkpoints, entries

        origin = head.origin if head else self.trust.origin or f"mlsec-dagster/{secrets.token_hex(16)}"
        now, size = time.time(), frontier.size + len(chosen)
        last = self._previous(connection, {(statement.asset, statement.partition) for statement, _ in chosen}, frontier.size)
        drafts: list[Draft] = []
        for index, (statement, key) in enumerate(chosen, frontier.size):
            subject = statement.asset, statement.partition
            drafts.append(Draft(statement, Position(index, origin, last[subject], now, size), key))
            last[subject] = index
        written: list[Entry] = []
        for piece, leaves in sealed_in_order(drafts):
            rows: list[tuple[Any, ...]] = []
            for (said, place, key), (payload, signature, leaf) in zip(piece, leaves, strict=True):
                index, previous, name, kind = place.index, place.previous, key.public.fingerprint, said.predicate_type
                nodes = frontier.push(leaf)
                rows.append((index, said.asset, said.partition, kind, said.run_id, previous, name, payload, signature, nodes))
                written.append(Entry(index, said, name, now, previous, size))
            insert_rows(connection, entries, rows)
        checkpoint = sign_checkpoint(origin, size, frontier.root(), ring.key_for(CHECKPOINTS))
        insert_rows(connection, checkpoints, [(size, checkpoint.note)])
        return Receipt(tuple(written), checkpoint), last

    def _ring(self) -> KeyRing:
        if self.signer is None:
            raise SigningKeyError(f"The ledger in {self.database.name} is open for reading only; appending needs a signing key.")
        return self.signer

    def _require_trust(self, chosen: Sequence[tuple[Statement, SigningKey]], ring: KeyRing, start: int) -> tuple[SignedKeyChange, ...]:
        """Refuse to write what no reader would accept. Returns the changes of keys among the statements."""
        changes = tuple(
            SignedKeyChange(index, key.fingerprint, KeyChange.from_statement(statement))
            for index, (statement, key) in enumerate(chosen, start)
            if statement.predicate_type == KEYS
        )
        book = self._known.book_with(changes)
        wanted = {(key.fingerprint, role_for(said.predicate_type)) for said, key in chosen if said.predicate_type != KEYS}
        refusals = [book.refusal(fingerprint, role, start) for fingerprint, role in wanted]
        refusals += [book.refused.get(change.index) for change in changes]
        refusals.append(book.refusal(ring.key_for(CHECKPOINTS).fingerprint, CHECKPOINTS, start + len(chosen) - 1))
        for refusal in filter(None, refusals):
            raise SigningKeyError(
                f"Nothing was recorded: what would be written now {refusal[1]}. "
                f"Use the right key, pin its fingerprint, or let it in with `mlsec keys rotate`."
            )
        return changes

    def _previous(self, connection: "Connection", subjects: Collection[Subject], size: int) -> dict[Subject, int | None]:
        """Newest entry about each subject. A wrong answer by an edited store is found by `verify_ledger`."""
        known = {subject: self._last[subject] for subject in subjects if subject in self._last}
        if len(known) == len(subjects):
            return known
        from mlsec_dagster.storage.queries import newest_positions

        unknown = [subject for subject in subjects if subject not in known]
        return {**dict.fromkeys(unknown), **newest_positions(connection, unknown, before=size), **known}

    def _new_publics(
        self, chosen: Sequence[tuple[Statement, SigningKey]], changes: Sequence[SignedKeyChange], ring: KeyRing
    ) -> dict[str, PublicKey]:
        """The public keys that readers will need and that this process has not stored yet."""
        if not changes and ring is self._stored_ring:
            return {key.fingerprint: key.public for _, key in chosen if key.fingerprint not in self._stored_keys}
        publics = {**ring.publics, **{key.fingerprint: key.public for _, key in chosen}}
        publics.update({signed.change.fingerprint: public_key(signed.change.spki) for signed in changes})
        return {name: key for name, key in publics.items() if name not in self._stored_keys}

    def _store_contents(self, connection: "Connection", publics: Mapping[str, PublicKey], manifests: Iterable[bytes]) -> None:
        from mlsec_dagster.integrity.digests import hash_bytes
        from mlsec_dagster.storage.queries import put
        from mlsec_dagster.storage.tables import manifests as manifest_table
        from mlsec_dagster.storage.tables import public_keys

        put(connection, public_keys, [{"fingerprint": name, "spki": key.spki} for name, key in publics.items()])
        for content in manifests:
            put(connection, manifest_table, [{"digest": hash_bytes(content), "content": zlib.compress(content, 1)}])

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
        from mlsec_dagster.storage.queries import newest_positions

        with self.database.read() as connection:
            head = self._known.refresh(connection)
            if head is None:
                return None
            found = newest_positions(connection, [(asset, partition)], before=head.size, types=types, run_id=run_id)
            entry = next(iter(self._known.entries(connection, head, found.values())), None)
            if entry is not None:
                _require_subject(entry, asset, {partition}, types)
                if run_id is not None and entry.statement.run_id != run_id:
                    raise LedgerError(f"The store answered with run {entry.statement.run_id!r} when asked for {run_id!r}. {HINT}")
            return entry

    def latest_by_partition(self, asset: str, partitions: Collection[str | None], types: Collection[str]) -> dict[str | None, Entry]:
        """The newest entry of each partition that has one; as `latest`, for many partitions with few queries."""
        from mlsec_dagster.storage.queries import newest_positions

        with self.database.read() as connection:
            head = self._known.refresh(connection)
            if head is None:
                return {}
            found = newest_positions(connection, [(asset, partition) for partition in partitions], before=head.size, types=types)
            entries = self._known.entries(connection, head, found.values())
            asked = set(partitions)
            for entry in entries:
                _require_subject(entry, asset, asked, types)
            return {entry.statement.partition: entry for entry in entries}

    def history(
        self,
        asset: str,
        partition: str | EveryPartition | None = ANY,
        types: Collection[str] | None = None,
        *,
        start: int = 0,
    ) -> Iterator[Entry]:
        """All entries about an asset, oldest first, each authenticated as by `latest`.

        Every statement names the one before it about its subject, so an entry hidden in the middle is noticed. With a `start`, only
        the entries at that place and later: for who has authenticated those before it.

        Raises:
            LedgerError: An entry is not what was signed, or one is missing.
        """
        from sqlalchemy import select

        from mlsec_dagster.storage.queries import ROWS_PER_QUERY
        from mlsec_dagster.storage.tables import entries

        before: dict[str | None, int] = {}
        end = start - 1
        while True:
            with self.database.read() as connection:
                head = self._known.refresh(connection)
                if head is None:
                    return
                query = select(entries.c.position).where(entries.c.asset == asset, entries.c.position > end, entries.c.position < head.size)
                if not isinstance(partition, EveryPartition):
                    query = query.where(entries.c.partition.is_(None) if partition is None else entries.c.partition == partition)
                positions = list(connection.execute(query.order_by(entries.c.position).limit(ROWS_PER_QUERY)).scalars())
                found = self._known.entries(connection, head, positions)
            for entry in found:
                _require_subject(entry, asset, None if isinstance(partition, EveryPartition) else {partition}, None)
                known = before.get(entry.statement.partition)
                # What lies before `start` was not read here; that such a predecessor is named is all that can be seen.
                if entry.previous != known and not (known is None and entry.previous is not None and entry.previous < start):
                    raise LedgerError(
                        f"Entry {entry.previous} about {asset!r} is missing from its history: "
                        f"its row was removed or its index changed. {HINT}"
                    )
                before[entry.statement.partition] = end = entry.index
                if types is None or entry.statement.predicate_type in types:
                    yield entry
            if len(found) < ROWS_PER_QUERY:
                return

    def recent(self, asset: str, partition: str | None, count: int) -> list[Entry]:
        """The newest entries about a subject, newest first, at most `count`, each authenticated as by `latest`.

        Every statement names the one before it about its subject, so an entry hidden between two others is noticed.

        Raises:
            LedgerError: An entry is not what was signed, or one is missing.
        """
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import entries

        with self.database.read() as connection:
            head = self._known.refresh(connection)
            if head is None:
                return []
            query = select(entries.c.position).where(entries.c.asset == asset, entries.c.position < head.size)
            query = query.where(entries.c.partition.is_(None) if partition is None else entries.c.partition == partition)
            positions = list(connection.execute(query.order_by(entries.c.position.desc()).limit(count)).scalars())
            found = self._known.entries(connection, head, positions)[::-1]
        for place, entry in enumerate(found):
            _require_subject(entry, asset, {partition}, None)
            if place + 1 < len(found) and entry.previous != found[place + 1].index:
                raise LedgerError(
                    f"Entry {entry.previous} about {asset!r} is missing from its history: its row was removed or its index changed. {HINT}"
                )
        return found

    def guarded_since(self, asset: str) -> float | None:
        """When the first entry about an asset, any partition, was recorded: seconds since the epoch, None if there is none.

        Authenticated as by `latest`. Not seen: that all entries of the partitions that came first were hidden.

        Raises:
            LedgerError: The first entry is not what was signed, or names one before it.
        """
        from mlsec_dagster.storage.queries import FIRST_OF_ASSET

        with self.database.read() as connection:
            head = self._known.refresh(connection)
            if head is None:
                return None
            position = connection.execute(FIRST_OF_ASSET, {"asset": asset, "before": head.size}).scalar()
            if position is None:
                return None
            entry = self._known.entries(connection, head, [position])[0]
        _require_subject(entry, asset, None, None)
        if entry.previous is not None:
            raise LedgerError(f"Entry {entry.previous} about {asset!r} is missing: its row was removed or its index changed. {HINT}")
        return entry.recorded_at

    def entry(self, index: int) -> Entry:
        """The entry at one place, authenticated as by `latest`."""
        with self.database.read() as connection:
            head = self._known.refresh(connection)
            if head is None or not 0 <= index < head.size:
                raise LedgerError(f"There is no entry {index} in a ledger of {head.size if head else 0} entries.")
            return self._known.entries(connection, head, [index])[0]

    def assets(self) -> list[str]:
        """Asset keys that the ledger speaks of, sorted. From the index alone, for display and suggestions."""
        return [name for name in self.subjects() if not name.startswith(OWN_SUBJECTS)]

    def subjects(self, prefix: str = "") -> list[str]:
        """Everything that the ledger speaks of and that begins with `prefix`, sorted: assets, and what is ours. As `assets`."""
        from sqlalchemy import func, select

        from mlsec_dagster.storage.tables import entries

        names: list[str] = []
        with self.database.read() as connection:
            name = connection.execute(select(func.min(entries.c.asset))).scalar()
            while name is not None:  # One step per asset through the index, however long the ledger.
                names.append(name)
                name = connection.execute(select(func.min(entries.c.asset)).where(entries.c.asset > name)).scalar()
        return [name for name in names if name.startswith(prefix)]  # Not by the database, whose collation may pass over punctuation.

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
            return self._known.refresh(connection)

    def book(self) -> KeyBook:
        """The keys that are trusted in this ledger now."""
        with self.database.read() as connection:
            self._known.refresh(connection)
            return self._known.book

    def inclusion_proof(self, index: int, size: int) -> list[bytes]:
        """RFC 9162 audit path of an entry in the tree of the first `size` entries."""
        with self.database.read() as connection:
            return inclusion_proof(index, self._within(connection, size), node_reader(connection))

    def consistency_proof(self, old: int, new: int) -> list[bytes]:
        """RFC 9162 proof that the first `old` entries are a prefix of the first `new`."""
        with self.database.read() as connection:
            return consistency_proof(old, self._within(connection, new), node_reader(connection))

    def root_at(self, size: int) -> bytes:
        """Root over the first `size` entries, by the stored hashes; compare it with a signed one."""
        with self.database.read() as connection:
            return load_frontier(self._within(connection, size), node_reader(connection)).root()

    def _within(self, connection: "Connection", size: int) -> int:
        head = self._known.refresh(connection)
        if size > (head.size if head else 0):
            raise LedgerError(f"The ledger has {head.size if head else 0} entries, not {size}.")
        return size

    def require_continuation(self, origin: str, size: int, root: bytes) -> None:
        """Make sure that the ledger is now what it was at this size, or that and more.

        Raises:
            LedgerError: It is another ledger, a shorter one, or one with another history.
        """
        with self.database.read() as connection:
            head = self._known.refresh(connection)
            if head is None or head.origin != origin or head.size < size:
                raise LedgerError(
                    f"The ledger {origin!r} had {size} entries and "
                    f"{f'is {head.origin!r} with {head.size}' if head else 'is empty'} now: it was rolled back or replaced. {HINT}"
                )
            proof = consistency_proof(size, head.size, node_reader(connection))
        if not verify_consistency(size, head.size, proof, root, head.root):
            raise LedgerError(f"The ledger of {head.size} entries does not contain the {size} verified before: it was forked. {HINT}")

    def public_key(self, fingerprint: str) -> PublicKey:
        """A public key by its fingerprint, from the store, checked against it.

        Raises:
            SigningKeyError: The store does not have it.
        """
        with self.database.read() as connection:
            found = self._known.public_keys(connection, [fingerprint])
        if fingerprint not in found:
            raise SigningKeyError(f"The public key {fingerprint} is not in the store {self.database.name}; restore it from a backup.")
        return found[fingerprint]

    def export(self, index: int) -> dict[str, Any]:
        """One entry as a document that `exports.verify_export` checks with nothing but a pinned fingerprint.

        Raises:
            LedgerError: There is no such entry, or it is not what was signed.
        """
        from sqlalchemy import or_, select

        from mlsec_dagster.storage.tables import entries

        with self.database.read() as connection:
            head = self._known.refresh(connection)
            if head is None or not 0 <= index < head.size:
                raise LedgerError(f"There is no entry {index} in a ledger of {head.size if head else 0} entries.")
            self._known.entries(connection, head, [index])
            wanted = or_(entries.c.position == index, entries.c.asset == KEYS_ASSET)
            query = select(entries).where(wanted, entries.c.position < head.size).order_by(entries.c.position)
            rows: Sequence[Row] = connection.execute(query).all()  # pyright: ignore[reportAssignmentType]
            parts = {row.position: exports.proven(row, inclusion_proof(row.position, head.size, node_reader(connection))) for row in rows}
            changes = [part for row in rows if row.asset == KEYS_ASSET for part in (parts[row.position],)]
            keys = self._known.public_keys(connection, {*self._known.book.keys, *(row.key for row in rows)})
        return exports.compose(head, parts[index], changes, keys)

    # --- the witness

    def witness_now(self) -> None:
        """Compare with the witness and hand it the newest checkpoint. See `witnessing.publish`."""
        witnessing.publish(self)

    def witness_if_due(self) -> str | None:
        """As `witness_now`, at most once per interval of the witness. See `witnessing.publish_if_due`."""
        return witnessing.publish_if_due(self)


def _require_subject(entry: Entry, asset: str, partitions: Collection[str | None] | None, types: Collection[str] | None) -> None:
    """A store is not believed to have found what it was asked for: its owner may have exchanged tables, views and collations."""
    said = entry.statement
    if (
        said.asset != asset
        or (partitions is not None and said.partition not in partitions)
        or (types is not None and said.predicate_type not in types)
    ):
        raise LedgerError(
            f"The store answered with entry {entry.index}, which is about another subject, when asked about {asset!r}. {HINT}"
        )
