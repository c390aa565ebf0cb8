"""Was the end of the ledger taken away, or its history replaced? Only the witness knows."""

import time
from typing import Literal

from mlsec_dagster.errors import LedgerError, StoreError
from mlsec_dagster.integrity.checkpoints import signed_by
from mlsec_dagster.integrity.keys import CHECKPOINTS
from mlsec_dagster.integrity.merkle import Frontier
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.walk import Judge, Problem
from mlsec_dagster.integrity.witness import Witness, Witnessed

Rollback = Literal["verified", "not verifiable", "rolled back"]


class WitnessComparison:
    """Compares a ledger with its witness while the ledger is walked through.

    It asks the witness at once, before the ledger is read: what was witnessed by then, the ledger must have.

    Args:
        witness: The witness, if there is one.
        trust: The pinned keys.
    """

    def __init__(self, witness: Witness | None, trust: Trust) -> None:
        self.problems: list[Problem] = []
        self.size: int | None = None
        self.age: float | None = None
        self._witness = witness
        self._trust = trust
        self._judge: Judge | None = None
        self._seen: dict[int, list[Witnessed]] = {}
        self._agreed: Witnessed | None = None
        self._silence = ""
        if witness is None:
            self._silence = "no witness is configured, so that the end of the ledger could have been taken away unseen"
            return
        try:
            for one in witness.all():
                self._seen.setdefault(one.size, []).append(one)
        except StoreError as error:
            self._silence = str(error)
        else:
            self._silence = "" if self._seen else f"the witness {witness.name} has no checkpoint yet"

    def judge_by(self, judge: Judge) -> None:
        """Say which keys count, before `at_size`."""
        self._judge = judge

    def at_size(self, edge: Frontier) -> None:
        """Compare what was witnessed at the size of this frontier."""
        for one in self._seen.get(edge.size, ()):
            if one.root == edge.root():
                self._agreed = one
            elif self._counts(one):
                sentence = f"The witness has another root for size {one.size} than the ledger: the history up to there was replaced."
                self.problems.append(Problem(one.size - 1, "forked", sentence))

    def conclude(self, size: int, max_age: float | None) -> tuple[Rollback, str]:
        """The verdict over a ledger of this size, and its sentence.

        Args:
            size: Entries of the ledger.
            max_age: An older witness, in seconds, gives no assurance.
        """
        try:
            self._compare_longer(size)
            genuine = self._agreed if self._agreed is not None and self._counts(self._agreed) else None
        except StoreError as error:
            return "not verifiable", f"Rollback: not verifiable. {error}"
        if genuine is not None:
            self.size = genuine.size
            self.age = time.time() - genuine.at if genuine.at is not None else None
        if self.problems:
            return "rolled back", "Rollback: the witness has seen another history than this one."
        if self._silence:
            return "not verifiable", f"Rollback: not verifiable, {self._silence}."
        if genuine is None:
            return "not verifiable", "Rollback: not verifiable, the witness has no checkpoint of this ledger that a trusted key signed."
        if max_age is not None and (self.age is None or self.age > max_age):
            old = "of unknown age" if self.age is None else f"{self.age / 60:.0f} minutes old"
            return "not verifiable", (
                f"Rollback: not verifiable, the witness's newest checkpoint is {old}; allowed are {max_age / 60:.0f} minutes."
            )
        rest = size - genuine.size
        later = f"; the {rest} entries after it are not witnessed yet" if rest else ""
        return "verified", f"Rollback: excluded up to entry {genuine.size - 1} by the witness{later}."

    def _compare_longer(self, size: int) -> None:
        for longer in sorted((longer for longer in self._seen if longer > size), reverse=True):
            if any(self._counts(one) for one in self._seen[longer]):
                sentence = f"The witness has a checkpoint of size {longer}, but the ledger has {size} entries: it was rolled back."
                self.problems.append(Problem(size, "rolled back", sentence))
                return

    def _counts(self, one: Witnessed) -> bool:
        """Whether a trusted key signed what the witness has. Where a pinned key is gone from the store, it counts unseen."""
        checkpoint = self._witness.read(one) if self._witness is not None else None
        if checkpoint is None or self._judge is None:
            return False
        if any(pinned not in self._judge.keys for pinned in self._trust.pinned):
            return True
        try:
            signer = signed_by(checkpoint, self._judge.trusted)
        except LedgerError:
            return False
        return signer is not None and self._judge.book.refusal(signer.fingerprint, CHECKPOINTS, one.size - 1) is None
