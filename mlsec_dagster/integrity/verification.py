"""Is the ledger what was signed? If not: which entry is the first bad one, and what was done to it?

    verification = verify_ledger(ledger, progress=lambda done, total: ...)
    verification.first                 # Problem(index=41, kind="altered", sentence="Entry 41 …"), or None
    verification.rollback              # "verified", "not verifiable" or "rolled back"

One pass over all entries in constant memory. Every statement was signed together with its place, so each entry is judged by
itself; every transaction ended in a signed checkpoint, so whatever escapes that is located to its transaction. Who holds no
key can still take away the end of the ledger together with its checkpoints: that is what the witness is for, and without one
the result says "not verifiable".
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from mlsec_dagster.errors import LedgerError, StoreError
from mlsec_dagster.integrity.checkpoints import Checkpoint, parse_checkpoint, signed_by
from mlsec_dagster.integrity.entries import Finding, Row, examine, key_change, leaf_data, signed_position
from mlsec_dagster.integrity.keys import CHECKPOINTS, PublicKey
from mlsec_dagster.integrity.knowledge import read_manifest
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.integrity.merkle import HASH_BYTES, Frontier, leaf_hash
from mlsec_dagster.integrity.statements import KEYS_ASSET, read_payload
from mlsec_dagster.integrity.trust import KeyBook, readable_keys
from mlsec_dagster.integrity.witness import Witness, Witnessed

if TYPE_CHECKING:
    from sqlalchemy import Connection

Rollback = Literal["verified", "not verifiable", "rolled back"]
Kind = Literal["altered", "removed", "inserted", "reordered", "truncated", "rolled back", "forked", "wrong key", "revoked key"]

_ROWS: Final = 1000
_MAX_PROBLEMS: Final = 20
_STRUCTURAL: Final = frozenset({"removed", "inserted", "reordered", "truncated"})


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        index: The entry; for a checkpoint, the last entry that it covers. None where it is not about one place.
        kind: What was done, see `Kind`.
        sentence: What was found, and where, for people.
    """

    index: int | None
    kind: Kind
    sentence: str


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of `verify_ledger`.

    Attributes:
        origin: Identity of the ledger; empty if it has no readable checkpoint.
        size: Entries by the newest checkpoint.
        checked: Entries that were looked at; less than `size` when the pass ended at a structural problem.
        problems: Everything found, by place; at most `_MAX_PROBLEMS`.
        rollback: Whether the end of the ledger can have been taken away, as far as the witness reaches.
        rollback_sentence: The same for people: up to which size it was compared, or why it could not be.
        witnessed_size: Largest checkpoint of the witness that a trusted key signed, or None.
        witness_age_seconds: Age of the witness's newest checkpoint, by the witness's clock, or None.
    """

    origin: str
    size: int
    checked: int
    problems: tuple[Problem, ...]
    rollback: Rollback
    rollback_sentence: str
    witnessed_size: int | None = None
    witness_age_seconds: float | None = None

    @property
    def first(self) -> Problem | None:
        """The first bad entry, or None."""
        return self.problems[0] if self.problems else None

    @property
    def intact(self) -> bool:
        """True if nothing is wrong. Says nothing about `rollback`: look at both."""
        return not self.problems


def verify_ledger(
    ledger: Ledger, *, progress: Callable[[int, int], None] | None = None, max_witness_age_seconds: float | None = None
) -> Verification:
    """Verify every entry, checkpoint, manifest and index column of a ledger, and compare it with its witness.

    Args:
        ledger: Opened for reading or writing; its trust and its witness are used. What it has verified before is not.
        progress: Called with (entries done, entries in total).
        max_witness_age_seconds: An older witness counts as "not verifiable".

    Raises:
        StoreError: The store cannot be read.
    """
    seen = _read_witness(ledger.witness)
    with ledger.database.read() as connection:
        return _Pass(ledger, connection, seen, progress, max_witness_age_seconds).run()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the witness answered."""

    checkpoints: tuple[Witnessed, ...] = ()
    silence: str = ""


def _read_witness(witness: Witness | None) -> _Seen:
    if witness is None:
        return _Seen(silence="no witness is configured, so that the end of the ledger could have been taken away unseen")
    try:
        found = tuple(witness.all())
    except StoreError as error:
        return _Seen(silence=str(error))
    return _Seen(found, "" if found else f"the witness {witness.name} has no checkpoint yet")


@dataclass
class _Pass:
    """One verification: what it knows so far."""

    ledger: Ledger
    connection: "Connection"
    seen: _Seen
    progress: Callable[[int, int], None] | None
    max_witness_age: float | None
    problems: list[Problem] = field(default_factory=list[Problem])
    origin: str = ""
    size: int = 0
    checked: int = 0
    edge: Frontier = field(default_factory=Frontier)
    keys: dict[str, PublicKey] = field(default_factory=dict[str, PublicKey])
    book: KeyBook = field(init=False)
    witnessed: dict[int, list[Witnessed]] = field(default_factory=dict[int, "list[Witnessed]"])
    confirmed: Witnessed | None = None
    history_replaced: bool = False
    boundary: int = 0
    unreadable: bool = False
    good_manifests: set[str] = field(default_factory=set[str])

    def run(self) -> Verification:
        for one in self.seen.checkpoints:
            self.witnessed.setdefault(one.size, []).append(one)
        self._read_keys()
        newest = self._newest_checkpoint()
        if newest is not None:
            self.origin, self.size = newest.origin, newest.size
        self._read_book()
        if self._compare_origin():
            self._walk()
        self._beyond_the_end()
        self._chains()
        return self._result()

    # --- what everything else is judged by

    def _read_keys(self) -> None:
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import public_keys

        blobs = {str(row.fingerprint): row.spki for row in self.connection.execute(select(public_keys)) if isinstance(row.spki, bytes)}
        self.keys = {**readable_keys(blobs), **(self.ledger.signer.publics if self.ledger.signer else {})}

    def _newest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that can be read; the walk judges all of them, this one only sets the size."""
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import checkpoints

        for row in self.connection.execute(select(checkpoints).order_by(checkpoints.c.size.desc())):
            try:
                return parse_checkpoint(str(row.note))
            except LedgerError:
                self._add(int(row.size) - 1, "altered", f"The checkpoint of size {row.size} cannot be read: it was altered.")
        return None

    def _read_book(self) -> None:
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import entries

        rows: Any = self.connection.execute(select(entries).where(entries.c.asset == KEYS_ASSET).order_by(entries.c.position))
        changes = [key_change(row, self.origin, self.keys) for row in rows]
        self.book = self.ledger.trust.resolve(change for change in changes if not isinstance(change, Finding))

    def _compare_origin(self) -> bool:
        expected = self.ledger.trust.origin
        if expected is not None and self.origin != expected and self.size:
            self._add(None, "forked", f"This is the ledger {self.origin!r}, expected {expected!r}: another ledger was put in its place.")
            return False
        return True

    # --- the walk

    def _walk(self) -> None:
        """All entries in order. A structural problem ends it, for behind it nothing is where it belongs."""
        checkpoints = _Ahead(self._checkpoints())
        for rows in self._rows():
            named: list[tuple[int, str]] = []
            for row in rows:
                index = self.edge.size
                if row.position != index:
                    self._add(index, *self._gap(index, row))
                    return
                problem = self._entry(row, index, named)
                if problem is not None and (problem.kind in _STRUCTURAL or len(self.problems) >= _MAX_PROBLEMS):
                    return
                self.checked += 1
                self._transaction_ends(checkpoints)
                for one in self.witnessed.get(self.edge.size, ()):
                    self._compare_witness(one, self.edge.root())
            self._check_manifests(named)
            if self.progress is not None:
                self.progress(self.checked, self.size)
        if self.edge.size < self.size and not self.unreadable:
            self._add(
                self.edge.size,
                "truncated",
                f"The ledger ends before entry {self.edge.size}, but its newest checkpoint covers {self.size} entries: "
                "its end was cut off.",
            )

    def _rows(self) -> Iterator[Sequence[Row]]:
        from sqlalchemy import select
        from sqlalchemy.exc import DBAPIError

        from mlsec_dagster.storage.tables import entries

        query = select(entries).where(entries.c.position < self.size).order_by(entries.c.position).limit(_ROWS)
        last = -1 << 62
        while True:
            try:
                rows: Any = self.connection.execute(query.where(entries.c.position > last)).all()
            except DBAPIError:
                if self.ledger.database.kind != "sqlite":
                    raise
                yield from self._readable_rows()  # SQLite lets anybody store bytes that are no text in a text column.
                return
            if not rows:
                return
            last = rows[-1].position
            yield rows

    def _readable_rows(self) -> Iterator[Sequence[Row]]:
        """One by one up to the row that the driver cannot read."""
        from sqlalchemy import select
        from sqlalchemy.exc import DBAPIError

        from mlsec_dagster.storage.tables import entries

        for index in range(self.edge.size, self.size):
            try:
                rows: Any = self.connection.execute(select(entries).where(entries.c.position == index)).all()
            except DBAPIError as error:
                self.unreadable = True
                self._add(index, "altered", f"Entry {index} cannot be read ({error.orig}): a column was altered.")
                return
            if not rows:
                return
            yield rows

    def _checkpoints(self) -> Iterator[tuple[int, str]]:
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import checkpoints

        last = -1 << 62
        while True:
            query = select(checkpoints).where(checkpoints.c.size > last).order_by(checkpoints.c.size).limit(_ROWS)
            rows = self.connection.execute(query).all()
            if not rows:
                return
            last = rows[-1].size
            yield from ((row.size, str(row.note)) for row in rows)

    def _entry(self, row: Row, index: int, named: list[tuple[int, str]]) -> Problem | None:
        found = examine(row, index, self.origin, self.book, self.keys)
        data = leaf_data(row)
        leaf = leaf_hash(data) if data is not None else b""
        if isinstance(found, Finding):
            problem = self._add(index, *self._what_happened(row, index, found))
            # Go on with the hash that was stored, so that later checkpoints can still agree.
            stored = row.nodes[:HASH_BYTES] if isinstance(row.nodes, bytes) else b""
            self.edge.push(stored if len(stored) == HASH_BYTES else leaf.ljust(HASH_BYTES, b"\0"))
            return problem
        nodes = self.edge.push(leaf)
        self.boundary = max(self.boundary, found.size)
        manifest = found.statement.predicate.get("manifest")
        if isinstance(manifest, str):
            named.append((index, manifest))
        if row.nodes != nodes and not self.problems:
            sentence = f"Entry {index} is as it was signed, but the tree hashes stored with it are not its own: they were altered."
            return self._add(index, "altered", sentence)
        return None

    def _transaction_ends(self, checkpoints: "_Ahead") -> None:
        """Every statement says where its transaction ends: there a checkpoint must be, and nowhere else."""
        size = self.edge.size
        while checkpoints.next is not None and checkpoints.next[0] < size:
            misplaced, _ = checkpoints.take(checkpoints.next)
            self._add(misplaced - 1, "inserted", f"There is a checkpoint of size {misplaced}, where none was signed.")
        if checkpoints.next is not None and checkpoints.next[0] == size:
            self._checkpoint(*checkpoints.take(checkpoints.next))
        elif size == self.boundary:
            self._add(size - 1, "removed", f"The checkpoint of size {size}, with which a transaction ended, was removed.")

    def _check_manifests(self, named: Sequence[tuple[int, str]]) -> None:
        for index, digest in named:
            if digest in self.good_manifests:
                continue
            try:
                read_manifest(self.connection, digest)
            except LedgerError as error:
                kind = "removed" if "missing" in str(error) else "altered"
                self._add(index, kind, f"Entry {index} names a manifest that is not there as it was recorded. {error}")
                continue
            if len(self.good_manifests) >= _ROWS:
                self.good_manifests.clear()
            self.good_manifests.add(digest)

    def _what_happened(self, row: Row, index: int, found: Finding) -> tuple[Kind, str]:
        """Name what was done from what stands here and where the entry that belongs here stands now."""
        kind: Any = found.kind
        said = f"Entry {index} {found.sentence}."
        if kind not in ("altered", "reordered", "inserted"):
            return kind, said
        signed = signed_position(row, self.keys)
        here = None if isinstance(signed, Finding) or signed[1].origin != self.origin else signed[1].index
        if here == index:
            return kind, said
        there = self._where_is(index, index)
        if here is not None and here > index and there is None:
            return "removed", f"Entry {index} was removed: in its place stands the statement that was signed as entry {here}."
        if there == index + 1 and (here is None or here < index or self._where_is(here, index) is not None):
            return "inserted", f"Entry {index} was inserted: the statement that was signed as entry {index} now stands at {there}."
        if there is not None and here is not None:
            return (
                "reordered",
                f"Entry {index} was reordered: it now stands at {there}, and in its place stands what was signed as entry {here}.",
            )
        if here is not None and here < index:
            return "altered", f"Entry {index} was replaced by a copy of entry {here}; what was signed as entry {index} is gone."
        return kind, said

    def _where_is(self, wanted: int, behind: int) -> int | None:
        """Where the statement signed as entry `wanted` stands now, behind a place. Only the first finding is worth a long search."""
        return self._scan(behind + 1, behind + 3 if self.problems else None, wanted)

    def _scan(self, start: int, end: int | None, wanted: int) -> int | None:
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import entries

        last = start - 1
        while True:
            query = select(entries).where(entries.c.position > last).order_by(entries.c.position).limit(_ROWS)
            rows: Any = self.connection.execute(query if end is None else query.where(entries.c.position < end)).all()
            if not rows:
                return None
            for row in rows:
                try:
                    position = read_payload(row.payload)[1] if isinstance(row.payload, bytes) else None
                except LedgerError:
                    continue
                if position is not None and position.index == wanted and not isinstance(signed_position(row, self.keys), Finding):
                    return row.position
            last = rows[-1].position

    def _gap(self, index: int, row: Row) -> tuple[Kind, str]:
        if not isinstance(row.position, int) or row.position < index:
            return "inserted", f"A row was inserted before entry {index}, at position {row.position!r}, where no entry can be."
        missing = f"Entry {index} was" if row.position == index + 1 else f"Entries {index} to {row.position - 1} were"
        return "removed", f"{missing} removed: the next entry in the store is {row.position}."

    def _checkpoint(self, size: int, note: str) -> None:
        """Judge one stored checkpoint against the entries up to it, which were just walked."""
        index = size - 1
        try:
            checkpoint = parse_checkpoint(note)
            signer = self._signer(checkpoint)
        except LedgerError as error:
            self._add(index, "altered", f"The checkpoint of size {size} was altered: {error}")
            return
        if (checkpoint.size, checkpoint.origin) != (size, self.origin):
            sentence = f"In place of the checkpoint of size {size} stands one of size {checkpoint.size} of {checkpoint.origin!r}."
            self._add(index, "altered", sentence)
        elif signer is None:
            self._add(index, "wrong key", f"The checkpoint of size {size} is not signed by any trusted key.")
        elif (refusal := self.book.refusal(signer.fingerprint, CHECKPOINTS, index)) is not None:
            kind: Any = refusal[0]
            self._add(index, kind, f"The checkpoint of size {size} {refusal[1]}.")
        elif size < self.boundary:
            sentence = f"There is a checkpoint of size {size}, but the transaction of its last entry was signed to end at {self.boundary}."
            self._add(index, "inserted", sentence)
        elif checkpoint.root != self.edge.root() and not any(
            problem.index is not None and problem.index < size for problem in self.problems
        ):
            sentence = f"The entries up to {index} have another root than their signed checkpoint: one of the last transaction was altered."
            self._add(index, "altered", sentence)

    def _signer(self, checkpoint: Checkpoint) -> PublicKey | None:
        return signed_by(checkpoint, [self.keys[name] for name in self.book.keys if name in self.keys])

    # --- after the walk

    def _beyond_the_end(self) -> None:
        """Rows that no checkpoint covers: inserted, or left over when their checkpoint was taken away."""
        from sqlalchemy import select

        from mlsec_dagster.storage.tables import entries

        query = select(entries).where(entries.c.position >= self.size).order_by(entries.c.position).limit(1)
        row: Any = self.connection.execute(query).one_or_none()
        if row is None:
            return
        found = examine(row, row.position, self.origin, self.book, self.keys) if self.origin else signed_position(row, self.keys)
        if isinstance(found, Finding):
            self._add(
                row.position,
                "inserted",
                f"Entry {row.position} was inserted behind the newest checkpoint, of size {self.size}: it {found.sentence}.",
            )
        else:
            self._add(
                row.position,
                "truncated",
                f"Entry {row.position} is signed, but the checkpoint that covered it was removed: the newest is of size {self.size}.",
            )

    def _chains(self) -> None:
        """Whether every statement names the one before it about its subject. The database does it along its index."""
        if self.problems:
            return
        from sqlalchemy import func, select

        from mlsec_dagster.storage.tables import entries

        before = func.lag(entries.c.position).over(partition_by=(entries.c.asset, entries.c.partition), order_by=entries.c.position)
        chain = select(entries.c.position, entries.c.previous, before.label("before")).subquery()
        wrong = select(chain).where(chain.c.previous.is_distinct_from(chain.c.before)).order_by(chain.c.position).limit(1)
        row = self.connection.execute(wrong).one_or_none()
        if row is not None:
            sentence = (
                f"Entry {row.position} was signed as the successor of entry {row.previous} about its subject, "
                f"but that is entry {row.before}: "
            )
            self._add(row.position, "altered", sentence + "the index of the ledger was altered while it was written.")

    # --- the witness

    def _compare_witness(self, one: Witnessed, root: bytes) -> None:
        if one.root == root:
            self.confirmed = one
        elif self._counts(one):
            self.history_replaced = True
            self._add(
                one.size - 1,
                "forked",
                f"The witness has another root for size {one.size} than the ledger: the history up to there was replaced.",
            )

    def _counts(self, one: Witnessed) -> bool:
        """Whether a trusted key signed what the witness has. Where a pinned key is gone from the store, it counts unseen."""
        checkpoint = self.ledger.witness.read(one) if self.ledger.witness is not None else None
        if checkpoint is None:
            return False
        if any(pinned not in self.keys for pinned in self.ledger.trust.pinned):
            return True
        try:
            signer = self._signer(checkpoint)
        except LedgerError:
            return False
        return signer is not None and self.book.refusal(signer.fingerprint, CHECKPOINTS, one.size - 1) is None

    def _longer(self) -> None:
        for size in sorted((size for size in self.witnessed if size > self.size), reverse=True):
            if any(self._counts(one) for one in self.witnessed[size]):
                self.history_replaced = True
                sentence = f"The witness has a checkpoint of size {size}, but the ledger has {self.size} entries: it was rolled back."
                self._add(self.size, "rolled back", sentence)
                return

    def _rollback(self) -> tuple[Rollback, str, int | None, float | None]:
        try:
            self._longer()
            genuine = self.confirmed if self.confirmed is not None and self._counts(self.confirmed) else None
        except StoreError as error:
            return "not verifiable", f"Rollback: not verifiable, {error}", None, None
        age = time.time() - genuine.at if genuine is not None and genuine.at is not None else None
        size = genuine.size if genuine is not None else None
        if self.history_replaced:
            return "rolled back", "Rollback: the witness has seen another history than this one.", size, age
        if self.seen.silence:
            return "not verifiable", f"Rollback: not verifiable, {self.seen.silence}.", None, None
        if genuine is None:
            return (
                "not verifiable",
                "Rollback: not verifiable, the witness has no checkpoint of this ledger that a trusted key signed.",
                None,
                None,
            )
        if self.max_witness_age is not None and (age is None or age > self.max_witness_age):
            old = "of unknown age" if age is None else f"{age / 60:.0f} minutes old"
            limit = f"allowed are {self.max_witness_age / 60:.0f} minutes"
            return "not verifiable", f"Rollback: not verifiable, the witness's newest checkpoint is {old}, {limit}.", size, age
        rest = self.size - genuine.size
        later = f"; the {rest} entries after it are not witnessed yet" if rest else ""
        return "verified", f"Rollback: excluded up to entry {genuine.size - 1} by the witness{later}.", size, age

    def _result(self) -> Verification:
        rollback, sentence, size, age = self._rollback()
        problems = sorted(self.problems, key=lambda problem: -1 if problem.index is None else problem.index)
        return Verification(self.origin, self.size, self.checked, tuple(problems[:_MAX_PROBLEMS]), rollback, sentence, size, age)

    def _add(self, index: int | None, kind: Kind, sentence: str) -> Problem:
        problem = Problem(index, kind, sentence)
        self.problems.append(problem)
        return problem


class _Ahead:
    """An iterator whose next item can be looked at before it is taken."""

    def __init__(self, items: Iterator[tuple[int, str]]) -> None:
        self._items = items
        self.next = next(items, None)

    def take(self, item: tuple[int, str]) -> tuple[int, str]:
        """Go on behind `item`, which is `next`."""
        self.next = next(self._items, None)
        return item
