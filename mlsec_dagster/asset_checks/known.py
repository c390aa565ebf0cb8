"""What the ledger already says about a subject, and what of it speaks for a given materialization."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from mlsec_dagster.integrity.statements import ADOPTION, SEAL, WRITE
from mlsec_dagster.integrity.verdicts import Materialization, Policy
from mlsec_dagster.io_managers.storage import keeps_nothing
from mlsec_dagster.sealing import Seals

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry


@dataclass(frozen=True, slots=True)
class Known:
    """The newest statements about a subject, one of each kind; a constant number of look-ups, however long its history is.

    A SEAL carries forward what later checks need of earlier ones: the digests of the manifest that it was held against (`sealed`), of the
    last accepted manifest of an earlier materialization (`previous`), and of the first accepted one (`first`).
    """

    write: Entry | None
    newest_write: Entry | None
    adoption: Entry | None
    seal: Entry | None

    @classmethod
    def read(cls, seals: Seals, asset: str, partition: str | None, materialization: Materialization | None) -> Known:
        latest = seals.ledger.latest
        newest = latest(asset, partition, (WRITE,))
        write = newest
        if newest and materialization and newest.statement.predicate.get("run_id") != materialization.run_id:
            write = latest(asset, partition, (WRITE,), run_id=materialization.run_id) or newest
        return cls(write, newest, latest(asset, partition, (ADOPTION,)), latest(asset, partition, (SEAL,)))

    def of_what_it_wrote_itself(self) -> Known:
        """The same without the statements that say only that an IO manager was handed None."""
        entries = {field.name: getattr(self, field.name) for field in fields(self)}
        return Known(
            **{
                name: None if entry and keeps_nothing(entry.statement.predicate.get("files_root")) else entry
                for name, entry in entries.items()
            }
        )

    def overtaken(self, reference: Entry) -> Entry | None:
        """What a later run has written since, its materialization not yet recorded; None if nothing."""
        return self.newest_write if self.newest_write is not None and self.newest_write.index > reference.index else None

    def reference(self, materialization: Materialization | None) -> Entry | None:
        """The statement that speaks for a materialization: what its writer sealed, else its adoption, else its first sight by a check."""
        speaking: list[Entry] = []
        if self.write and (materialization is None or self.write.statement.predicate.get("run_id") == materialization.run_id):
            speaking.append(self.write)
        if self.adoption and (materialization is None or self.adoption.recorded_at >= materialization.timestamp):
            speaking.append(self.adoption)
        if speaking:
            return max(speaking, key=lambda entry: entry.index)
        seen = self.seal.statement.predicate if self.seal else {}
        if seen.get("first_seen") == "check" and seen.get("cause") != "unsealed" and self._is_about(materialization):
            return self.seal
        return None

    def earlier(self, policy: Policy, materialization: Materialization | None) -> str | None:
        """Digest of the manifest that an append-only or immutable subject is held against; None if there is none yet."""
        if policy == "tracked":
            return None
        return self.first(None) if policy == "immutable" else self.previous(materialization)

    def previous(self, materialization: Materialization | None) -> str | None:
        """Digest of the last accepted manifest of an earlier materialization."""
        if self.seal is not None:
            if self._is_about(materialization) or not self._passed():
                return self.seal.statement.predicate.get("previous")
            return str(self.seal.statement.predicate["manifest"])
        if self.adoption and materialization is not None and self.adoption.recorded_at < materialization.timestamp:
            return str(self.adoption.statement.predicate["manifest"])
        return None

    def first(self, accepted: str | None) -> str | None:
        """Digest of the first manifest that was ever accepted; `accepted` if that is the one that is being sealed now."""
        if self.seal is not None and self.seal.statement.predicate.get("first"):
            return str(self.seal.statement.predicate["first"])
        return str(self.adoption.statement.predicate["manifest"]) if self.adoption else accepted

    def _passed(self) -> bool:
        return self.seal is not None and self.seal.statement.predicate.get("verdict") == "passed"

    def _is_about(self, materialization: Materialization | None) -> bool:
        return self.seal is not None and self.seal.statement.predicate.get("storage_id") == (
            materialization.storage_id if materialization else None
        )
