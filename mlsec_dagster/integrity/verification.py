"""Is the ledger what was signed? If not: which entry is the first bad one, and what was done to it?

    verification = verify_ledger(ledger, progress=lambda done, total: ...)
    verification.first                 # Problem(index=41, kind="altered", sentence="Entry 41 …"), or None
    verification.rollback              # "verified", "not verifiable" or "rolled back"

Who holds no key can still take away the end of the ledger together with its checkpoints: that is what the witness is for,
and without one the result says "not verifiable". How entries are judged: `walk`; how the witness is compared: `rollback`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.checkpoints import Checkpoint, parse_checkpoint, signed_by
from mlsec_dagster.integrity.entries import Entry, Finding, key_change
from mlsec_dagster.integrity.keys import CHECKPOINTS, PublicKey
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.integrity.rollback import Rollback, WitnessComparison
from mlsec_dagster.integrity.statements import KEYS_ASSET
from mlsec_dagster.integrity.trust import Trust, readable_keys
from mlsec_dagster.integrity.walk import MAX_PROBLEMS, Judge, Kind, Problem, Walk

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["Kind", "Problem", "Rollback", "Verification", "verify_ledger"]


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of `verify_ledger`.

    Attributes:
        origin: Identity of the ledger; empty if it has no readable checkpoint.
        size: Entries by the newest checkpoint.
        checked: Entries that were looked at; less than `size` when the pass ended at a structural problem.
        problems: Everything found, by place; at most `MAX_PROBLEMS`.
        rollback: Whether the end of the ledger can have been taken away, as far as the witness reaches.
        rollback_sentence: The same for people: up to which size it was compared, or why it could not be.
        witnessed_size: Largest checkpoint of the witness that a trusted key signed, or None.
        witness_age_seconds: Age of the witness's newest checkpoint, by the witness's clock, or None.
        root: RFC 9162 root over the entries that were looked at.
    """

    origin: str
    size: int
    checked: int
    problems: tuple[Problem, ...]
    rollback: Rollback
    rollback_sentence: str
    witnessed_size: int | None = None
    witness_age_seconds: float | None = None
    root: bytes = b""

    @property
    def first(self) -> Problem | None:
        """The first bad entry, or None."""
        return self.problems[0] if self.problems else None

    @property
    def intact(self) -> bool:
        """True if nothing is wrong. Says nothing about `rollback`: look at both."""
        return not self.problems


def verify_ledger(
    ledger: Ledger,
    *,
    progress: Callable[[int, int], None] | None = None,
    max_witness_age_seconds: float | None = None,
    each: Callable[[Entry], None] | None = None,
) -> Verification:
    """Verify every entry, checkpoint, manifest and index column of a ledger, and compare it with its witness.

    Args:
        ledger: Opened for reading or writing; its trust and its witness are used. What it has verified before is not.
        progress: Called with (entries done, entries in total).
        max_witness_age_seconds: An older witness counts as "not verifiable".
        each: Called with every entry that is what its signature says, in order. Until the verification is `intact` that proves little:
            the checkpoint that covers the entry comes behind it.

    Raises:
        StoreError: The store cannot be read.
    """
    witness = WitnessComparison(ledger.witness, ledger.trust)
    with ledger.database.read() as connection:
        judge, problems = _judge(connection, ledger)
        witness.judge_by(judge)
        walk = Walk(connection, judge, witness.at_size, progress, each)
        expected = ledger.trust.origin
        if expected is not None and judge.size and judge.origin != expected:
            sentence = f"This is the ledger {judge.origin!r}, expected {expected!r}: another ledger was put in its place."
            problems.append(Problem(None, "forked", sentence))
        else:
            walk.entries()
        walk.rest()
    rollback, sentence = witness.conclude(judge.size, max_witness_age_seconds)
    found = sorted([*problems, *walk.problems, *witness.problems], key=lambda problem: -1 if problem.index is None else problem.index)
    shown = tuple(found[:MAX_PROBLEMS])
    return Verification(judge.origin, judge.size, walk.checked, shown, rollback, sentence, witness.size, witness.age, walk.root)


def _judge(connection: "Connection", ledger: Ledger) -> tuple[Judge, list[Problem]]:
    """What the ledger is judged by: its newest checkpoint that a trusted key signed, and why newer ones are none."""
    from sqlalchemy import select

    from mlsec_dagster.storage.tables import checkpoints

    keys = _public_keys(connection, ledger)
    newest: Judge | None = None
    problems: list[Problem] = []
    below = (1 << 63) - 1
    while len(problems) < MAX_PROBLEMS:
        query = select(checkpoints).where(checkpoints.c.size < below).order_by(checkpoints.c.size.desc()).limit(1)
        row = connection.execute(query).one_or_none()
        if row is None:
            break
        below = row.size
        try:
            checkpoint = parse_checkpoint(str(row.note))
            judge = _judge_by(connection, checkpoint, ledger.trust, keys)
            newest = newest or judge
            signer = signed_by(checkpoint, judge.trusted)
        except LedgerError as error:
            problems.append(Problem(row.size - 1, "altered", f"The checkpoint of size {row.size} was altered: {error}"))
            continue
        if checkpoint.size != row.size:
            sentence = f"In place of the checkpoint of size {row.size} stands one of size {checkpoint.size}."
            problems.append(Problem(row.size - 1, "altered", sentence))
        elif signer is None:
            sentence = f"The checkpoint of size {row.size} is not signed by any trusted key."
            problems.append(Problem(row.size - 1, "wrong key", sentence))
        elif (refusal := judge.book.refusal(signer.fingerprint, CHECKPOINTS, row.size - 1)) is not None:
            kind: Any = refusal[0]
            problems.append(Problem(row.size - 1, kind, f"The checkpoint of size {row.size} {refusal[1]}."))
        else:
            return judge, problems
    # None is trusted: the pin is another's, or all were exchanged. The walk says so from the first entry on.
    nothing = Judge("", 0, ledger.trust.resolve(()), keys)
    return (nothing, problems) if newest is None else (newest, [])


def _judge_by(connection: "Connection", checkpoint: Checkpoint, trust: Trust, keys: dict[str, PublicKey]) -> Judge:
    from sqlalchemy import select

    from mlsec_dagster.storage.tables import entries

    mine = (entries.c.asset == KEYS_ASSET, entries.c.position < checkpoint.size)
    rows: Any = connection.execute(select(entries).where(*mine).order_by(entries.c.position))
    changes = [key_change(row, checkpoint.origin, keys) for row in rows]
    book = trust.resolve(change for change in changes if not isinstance(change, Finding))
    return Judge(checkpoint.origin, checkpoint.size, book, keys)


def _public_keys(connection: "Connection", ledger: Ledger) -> dict[str, PublicKey]:
    from sqlalchemy import select

    from mlsec_dagster.storage.tables import public_keys

    blobs = {str(row.fingerprint): row.spki for row in connection.execute(select(public_keys)) if isinstance(row.spki, bytes)}
    return {**readable_keys(blobs), **(ledger.signer.publics if ledger.signer else {})}
