"""The ledger as Dagster's steps use it: what may be read, what was written, what a check found.

Shared by the IO manager wrapper, the `dataset_hash` check and the command line, so that all three reach the same verdicts
(`integrity/verdicts.py`) over the same statements.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.errors import SigningKeyError, VerificationError
from mlsec_dagster.integrity import verdicts
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.statements import ADOPTION, SEAL, WRITE, Statement

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Entry, Ledger, Receipt

SUBJECT_STATEMENTS = (WRITE, SEAL, ADOPTION)


def subject_name(asset: str, partition: str | None) -> str:
    """How sentences name a subject: `raw_flights` or `raw_flights[2013-01-07]`."""
    return asset if partition is None else f"{asset}[{partition}]"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What a subject's stored bytes are held against.

    Attributes:
        asset: Asset key as text, components joined by `/`.
        partition: Partition key, or None.
        standing: Whether a seal speaks for the latest materialization.
        entry: The newest statement about the subject, verified against the ledger; None if there is none.
        materialization: What Dagster says was written last.
    """

    asset: str
    partition: str | None
    standing: verdicts.Standing
    entry: Entry | None
    materialization: verdicts.Materialization | None

    @property
    def subject(self) -> str:
        """The subject's name for sentences."""
        return subject_name(self.asset, self.partition)

    def require(self) -> None:
        """Raise unless the subject may be read.

        Raises:
            VerificationError: With the reason.
        """
        if self.standing.refused:
            raise VerificationError(self.standing.sentence)


class Seals:
    """One ledger together with the Dagster instance whose materializations it speaks about."""

    def __init__(self, ledger: Ledger, instance: dg.DagsterInstance) -> None:
        self.ledger = ledger
        self.instance = instance

    def row_key(self) -> bytes:
        """The secret key of multiset hashes: 32 bytes that only the holder of the sealing key can compute.

        An Ed25519 signature is deterministic (RFC 8032), so the signature of a constant, hashed, is a secret that needs no file of its own.

        Raises:
            SigningKeyError: The ledger is open for reading only, or its key is not Ed25519.
        """
        ring = self.ledger.signer
        if ring is None or ring.sealing.public.algorithm != "ed25519":
            raise SigningKeyError(
                "Rows of a database table are hashed under a secret derived from the sealing key, which must be Ed25519 and at hand: "
                "use an Ed25519 key, or verify this table where that key is."
            )
        return hashlib.sha256(ring.sealing.sign(b"mlsec-dagster row key v1")).digest()

    def expectations(
        self, asset_key: dg.AssetKey, partitions: Sequence[str | None], *, external: bool = False
    ) -> dict[str | None, Expectation]:
        """What to hold each partition against; a constant number of queries, however many partitions there are."""
        asset = asset_key.to_user_string()
        entries = self.ledger.latest_by_partition(asset, list(partitions), SUBJECT_STATEMENTS)
        written = latest_materializations(self.instance, asset_key, partitions)
        guarded_since = None if len(entries) == len(partitions) else self.ledger.guarded_since(asset)
        found: dict[str | None, Expectation] = {}
        for partition in partitions:
            entry, materialization = entries.get(partition), written.get(partition)
            if (
                entry is not None
                and materialization is not None
                and not verdicts.speaks_for(entry.statement, entry.recorded_at, materialization)
            ):
                # The newest statement is about another materialization, as happens when runs overlap; what its own run said comes first.
                entry = self.ledger.latest(asset, partition, (WRITE, SEAL), run_id=materialization.run_id) or entry
            standing = verdicts.stand(
                entry.statement.predicate_type if entry else None,
                entry.statement.predicate if entry else None,
                entry.recorded_at if entry else None,
                materialization,
                subject=subject_name(asset, partition),
                guarded_since=guarded_since,
                external=external,
            )
            found[partition] = Expectation(asset, partition, standing, entry, materialization)
        return found

    def manifest(self, entry: Entry, name: str = "manifest") -> Manifest:
        """The manifest that a statement names under `name` or, where it does not, as its own; its content address checked."""
        predicate = entry.statement.predicate
        return self.manifest_of(str(predicate.get(name) or predicate["manifest"]))

    def manifest_of(self, digest: str) -> Manifest:
        """A manifest by its digest, checked."""
        return Manifest.from_bytes(self.ledger.manifest(digest))

    def append(self, statements: Sequence[Statement], manifests: Sequence[Manifest]) -> Receipt:
        """Append statements in one transaction with one signed checkpoint."""
        return self.ledger.append(statements, [manifest.to_bytes() for manifest in manifests])

    def adopt(self, asset: str, contents: Mapping[str | None, tuple[Manifest, str | None]], *, reason: str, adopted_by: str) -> Receipt:
        """Trust data as it is from now on, visibly: partition -> (what is stored, where).

        Raises:
            LedgerError: The witness has seen a longer or another ledger. Whoever deletes the ledger could otherwise have anything adopted.
            StoreError: The witness could not be asked, or the store cannot be written. Nothing was adopted.
        """
        if self.ledger.witness is not None:
            self.ledger.witness_now()
        now = time.time()
        statements = [
            statement(
                ADOPTION,
                asset,
                partition,
                manifest,
                {"trusted_from": verdicts.when(now), "reason": reason, "adopted_by": adopted_by, "location": location},
            )
            for partition, (manifest, location) in contents.items()
        ]
        return self.append(statements, [manifest for manifest, _ in contents.values()])


def latest_materializations(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, partitions: Sequence[str | None]
) -> dict[str | None, verdicts.Materialization]:
    """Partition -> its latest materialization in Dagster's event log; at most two queries, however many partitions there are."""
    if list(partitions) == [None]:
        records = instance.fetch_materializations(asset_key, limit=1).records
        return {None: _materialization(records[0])} if records else {}
    keys = [partition for partition in partitions if partition is not None]
    ids = _compat.latest_storage_ids(instance, asset_key, keys)
    records_by_id = _compat.materializations_by_storage_id(instance, asset_key, list(ids.values()))
    return {partition: _materialization(records_by_id[i]) for partition, i in ids.items() if i in records_by_id}


def statement(predicate_type: str, asset: str, partition: str | None, manifest: Manifest, predicate: Mapping[str, Any]) -> Statement:
    """A statement about one subject whose digests are those of `manifest`."""
    digests: dict[str, str] = {}
    if manifest.files_root:
        algorithm, _, value = manifest.files_root.partition(":")
        digests[algorithm] = value
    if manifest.content_root:
        digests["content"] = manifest.content_root.partition(":")[2]
    roots = {"manifest": manifest.digest, "files_root": manifest.files_root, "content_root": manifest.content_root}
    return Statement(asset=asset, partition=partition, predicate_type=predicate_type, digests=digests, predicate={**roots, **predicate})


def _materialization(record: Any) -> verdicts.Materialization:
    return verdicts.Materialization(run_id=record.run_id, storage_id=record.storage_id, timestamp=record.timestamp)


def partitions_of(context: dg.InputContext | dg.OutputContext) -> list[str | None]:
    """The partition keys that a context is about, as text also where they have several dimensions; `[None]` for an unpartitioned asset."""
    return [str(key) for key in context.asset_partition_keys] if context.has_asset_partitions else [None]
