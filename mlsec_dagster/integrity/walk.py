"""One pass over the whole ledger, in constant memory: every entry, checkpoint, manifest and index column.

Every statement was signed together with its place, so each entry is judged by itself. Every transaction ended in a signed
checkpoint, so that what escapes the first test is located to its transaction.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.checkpoints import parse_checkpoint, signed_by
from mlsec_dagster.integrity.entries import Entry, Finding, Row, examine, leaf_data, signed_position
from mlsec_dagster.integrity.keys import CHECKPOINTS, PublicKey
from mlsec_dagster.integrity.knowledge import read_manifest
from mlsec_dagster.integrity.merkle import HASH_BYTES, Frontier, leaf_hash
from mlsec_dagster.integrity.statements import read_payload
from mlsec_dagster.integrity.trust import KeyBook

if TYPE_CHECKING:
    from sqlalchemy import Connection

Kind = Literal["altered", "removed", "inserted", "reordered", "truncated", "rolled back", "forked", "wrong key", "revoked key"]

MAX_PROBLEMS: Final = 20
_ROWS: Final = 1000
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


class Judge(NamedTuple):
    """What a ledger is judged by.

    Attributes:
        origin: Its identity.
        size: Number of its entries, by the newest checkpoint.
        book: The trusted keys.
        keys: Public keys by fingerprint, trusted or not.
    """

    origin: str
    size: int
    book: KeyBook
    keys: dict[str, PublicKey]

    @property
    def trusted(self) -> list[PublicKey]:
        """The public keys that the book speaks of, as far as they are known."""
        return [self.keys[name] for name in self.book.keys if name in self.keys]


class Walk:
    """One pass. Call `entries`, then `rest`; `problems` and `checked` tell the outcome.

    Args:
        connection: In one transaction throughout.
        judge: What is right.
        at_size: Called with every size and the frontier there.
        progress: Called with (entries done, entries in total).
        each: Called with every entry that is what its signature says.
    """

    def __init__(
        self,
        connection: "Connection",
        judge: Judge,
        at_size: Callable[[Frontier], None],
        progress: Callable[[int, int], None] | None,
        each: Callable[[Entry], None] | None = None,
    ) -> None:
        self.connection = connection
        self.origin, self.size, self.book, self.keys = judge
        self.judge = judge
        self.problems: list[Problem] = []
        self.checked = 0
        self._at_size = at_size
        self._progress = progress
        self._each = each
        self._edge = Frontier()
        self._boundary = 0
        self._unreadable = False
        self._good_manifests: set[str] = set()

    @property
    def root(self) -> bytes:
        """Root over the entries that were walked."""
        return self._edge.root()

    def entries(self) -> None:
        """All entries in order. A structural problem ends it, for behind it nothing is where it belongs."""
        checkpoints = _Ahead(self._checkpoints())
        for rows in self._rows():
            named: list[tuple[int, str]] = []
            for row in rows:
                index = self._edge.size
                if row.position != index:
                    self._add(index, *self._gap(index, row))
                    return
                problem = self._entry(row, index, named)
                if problem is not None and (problem.kind in _STRUCTURAL or len(self.problems) >= MAX_PROBLEMS):
                    return
                self.checked += 1
                self._transaction_ends(checkpoints)
                self._at_size(self._edge)
            self._check_manifests(named)
            if self._progress is not None:
                self._progress(self.checked, self.size)
        if self._edge.size < self.size and not self._unreadable:
            self._add(
                self._edge.size,
                "truncated",
                f"The ledger ends before entry {self._edge.size}, but its newest checkpoint covers {self.size} entries: "
                "its end was cut off.",
            )

    def rest(self) -> None:
        """What lies behind the newest checkpoint, and whether the statements name each other in the right order."""
        self._beyond_the_end()
        if not self.problems:
            self._chains()

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
                if self.connection.dialect.name != "sqlite":
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

        for index in range(self._edge.size, self.size):
            try:
                rows: Any = self.connection.execute(select(entries).where(entries.c.position == index)).all()
            except DBAPIError as error:
                self._unreadable = True
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
            self._edge.push(stored if len(stored) == HASH_BYTES else leaf.ljust(HASH_BYTES, b"\0"))
            return problem
        nodes = self._edge.push(leaf)
        self._boundary = max(self._boundary, found.size)
        manifest = found.statement.predicate.get("manifest")
        if isinstance(manifest, str):
            named.append((index, manifest))
        if row.nodes != nodes and not self.problems:
            sentence = f"Entry {index} is as it was signed, but the tree hashes stored with it are not its own: they were altered."
            return self._add(index, "altered", sentence)
        if self._each is not None:
            self._each(found)
        return None

    def _transaction_ends(self, checkpoints: "_Ahead") -> None:
        """Every statement says where its transaction ends: there a checkpoint must be, and nowhere else."""
        size = self._edge.size
        while checkpoints.next is not None and checkpoints.next[0] < size:
            misplaced, _ = checkpoints.take(checkpoints.next)
            self._add(misplaced - 1, "inserted", f"There is a checkpoint of size {misplaced}, where none was signed.")
        if checkpoints.next is not None and checkpoints.next[0] == size:
            self._checkpoint(*checkpoints.take(checkpoints.next))
        elif size == self._boundary:
            self._add(size - 1, "removed", f"The checkpoint of size {size}, with which a transaction ended, was removed.")

    def _check_manifests(self, named: Sequence[tuple[int, str]]) -> None:
        for index, digest in named:
            if digest in self._good_manifests:
                continue
            try:
                read_manifest(self.connection, digest)
            except LedgerError as error:
                kind = "removed" if "missing" in str(error) else "altered"
                self._add(index, kind, f"Entry {index} names a manifest that is not there as it was recorded. {error}")
                continue
            if len(self._good_manifests) >= _ROWS:
                self._good_manifests.clear()
            self._good_manifests.add(digest)

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
            signer = signed_by(checkpoint, self.judge.trusted)
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
        elif size < self._boundary:
            sentence = f"There is a checkpoint of size {size}, but the transaction of its last entry was signed to end at {self._boundary}."
            self._add(index, "inserted", sentence)
        elif checkpoint.root != self._edge.root() and not any(
            problem.index is not None and problem.index < size for problem in self.problems
        ):
            sentence = f"The entries up to {index} have another root than their signed checkpoint: one of the last transaction was altered."
            self._add(index, "altered", sentence)

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

    def _add(self, index: int | None, kind: Kind, sentence: str) -> Problem:
        self.problems.append(Problem(index, kind, sentence))
        return self.problems[-1]


class _Ahead:
    """An iterator whose next item can be looked at before it is taken."""

    def __init__(self, items: Iterator[tuple[int, str]]) -> None:
        self._items = items
        self.next = next(items, None)

    def take(self, item: tuple[int, str]) -> tuple[int, str]:
        """Go on behind `item`, which is `next`."""
        self.next = next(self._items, None)
        return item
