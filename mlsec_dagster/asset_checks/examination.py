"""One execution of a `dataset_hash` check: hold what is stored (`stored.py`) against ledger and policy, seal the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import evaluation
from mlsec_dagster.asset_checks.known import Known
from mlsec_dagster.asset_checks.stored import Look, Resolver, StoredAsset, same_bytes
from mlsec_dagster.errors import ConfigurationError, LimitExceededError, MlsecError, UnverifiableError
from mlsec_dagster.integrity import verdicts
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.statements import ADOPTION, SEAL, WRITE
from mlsec_dagster.integrity.verdicts import Materialization, Policy, Verdict, as_sentence, visible
from mlsec_dagster.io_managers.storage import Stored
from mlsec_dagster.presentation import evaluation_metadata, plain
from mlsec_dagster.resources import SecurityStore, Signer
from mlsec_dagster.sealing import statement, subject_name

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry

CHECK_NAME = "dataset_hash"


@dataclass(frozen=True, slots=True)
class HashCheckSettings:
    """What one `dataset_hash` check does.

    Attributes:
        policy: `tracked`, `append_only` or `immutable`.
        pinned: For `immutable`: a digest (`sha256:…`), or the path of a SHA256SUMS file.
        severity: Severity of a failure.
        blocking: Whether a failure keeps downstream from running in the same run.
        resolver: Overrides where self-written assets lie.
        columns: Declared columns by role (`label`, `time`, `ignore`, `sensitive`), shown and validated.
        store: The ledger's database.
        signer: The key.
    """

    policy: Policy = "tracked"
    pinned: str | None = None
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
    blocking: bool = True
    resolver: Resolver | None = None
    columns: Mapping[str, Sequence[str]] | None = None
    store: SecurityStore | None = None
    signer: Signer | None = None


def pins(pinned: str) -> frozenset[str]:
    """The digests of which stored files must each be one."""
    algorithm, separator, value = pinned.partition(":")
    if separator and algorithm in {"sha256", "blake3"}:
        if len(value) != 64 or any(c not in "0123456789abcdef" for c in value):
            raise ConfigurationError(f"{pinned!r} is not a digest: expected {algorithm}: and 64 hexadecimal digits in lower case.")
        return frozenset({pinned})
    from mlsec_dagster.integrity.files import read_sha256sums

    return frozenset(f"sha256:{digest.removeprefix('sha256:')}" for digest in read_sha256sums(pinned).values())


@dataclass(frozen=True, slots=True)
class Finding:
    """What one evaluation found, and what its seal records of it."""

    verdict: Verdict
    manifest: Manifest | None = None
    location: str | None = None
    first_seen: str | None = None
    reference: Entry | None = None
    entry: int | None = None


class Examination:
    """One execution of the check: everything that its evaluations have in common."""

    def __init__(self, asset: StoredAsset, settings: HashCheckSettings) -> None:
        self.stored_asset = asset
        self.key = asset.key
        self.check_name = asset.check_name
        self.asset = asset.name
        self.settings = settings
        self.step_context = asset.step_context
        self.instance = asset.instance
        self.seals = asset.seals
        self.witness = asset.witness

    def examine(self, partition: str | None) -> tuple[Materialization | None, Finding]:
        """Verify one subject. Never raises: whatever goes wrong is a failed verdict that says so."""
        subject = subject_name(self.asset, partition)
        materialization: Materialization | None = None
        try:
            materialization = self.stored_asset.materialization(partition)
            return materialization, self._verify(partition, subject, materialization)
        except Exception as error:
            return materialization, self.stopped(partition, error)

    def stopped(self, partition: str | None, error: Exception) -> Finding:
        """What is found where the verification could not be done, or the check itself went wrong."""
        return Finding(Verdict(False, self.stored_asset.could_not(partition, error), "unverifiable"))

    # The verification

    def _verify(self, partition: str | None, subject: str, materialization: Materialization | None) -> Finding:
        seals = self.seals()
        if materialization is None and not self.stored_asset.external:
            return Finding(Verdict(False, self.stored_asset.never_materialized(partition), "unverifiable"))
        # A pin may be in another digest than the seal's, which only the bytes can be held against.
        with self.stored_asset.look(partition, materialization, whole=bool(self.settings.pinned)) as look:
            known, reference, stored = look.known, look.reference, look.stored
            if stored is None:
                cause = "unverifiable" if look.nowhere_to_look else "missing"
                return Finding(Verdict(False, self.stored_asset.missing(look, partition), cause))
            overtaken = [f"Run {look.later} has written it since; this verdict is about what that run wrote."] if look.later else []
            sealed = seals.manifest(reference, name="sealed") if reference else None
            earlier = known.earlier(self.settings.policy, materialization)
            previous = seals.manifest_of(earlier) if earlier else None
            manifest, notes = _read_table(stored, sealed, previous, self.settings.pinned)
            notes = [*overtaken, *notes]
            if reference is None:
                finding = self._first_sight(partition, subject, materialization, look, stored, manifest)
            else:
                finding = Finding(Verdict(True, ""), manifest, stored.location, first_seen=_first_seen(reference), reference=reference)
            if finding.verdict.passed:
                written = sealed
                if sealed is not None and sealed.content_root is None and sealed.files_root == stored.manifest.files_root:
                    # The writer could not state the content (of a lazy frame, of a lossy container), but the bytes are its own.
                    written = replace(sealed, table=manifest.table)
                finding = replace(finding, verdict=self._judge(subject, finding, written, manifest, previous, notes))
        return self._seal(partition, materialization, finding, sealed, known)

    def _first_sight(
        self,
        partition: str | None,
        subject: str,
        materialization: Materialization | None,
        look: Look,
        stored: Stored,
        manifest: Manifest,
    ) -> Finding:
        """Data without a statement about its materialization: adopted, sealed as first seen here, or refused."""
        if self.stored_asset.is_adoptable(materialization):
            self.seals().adopt(
                self.asset,
                {partition: (manifest, stored.location)},
                reason="first checked by a guarded project",
                adopted_by=f"run {self.step_context.run_id}",
            )
            sentence = (
                f"{subject} was there before it was guarded. It is adopted as it is and trusted from now on; "
                f"what happened to it earlier cannot be known. The next check of the same data passes."
            )
            return Finding(Verdict(False, sentence, "adopted"), manifest, stored.location, first_seen="adoption")
        if materialization is not None and self.stored_asset.went_past_the_guard(look, partition, materialization):
            return Finding(
                Verdict(False, verdicts.unsealed(subject, materialization), "unsealed"), manifest, stored.location, first_seen="check"
            )
        return Finding(Verdict(True, ""), manifest, stored.location, first_seen="check")

    def _judge(
        self,
        subject: str,
        finding: Finding,
        sealed: Manifest | None,
        manifest: Manifest,
        previous: Manifest | None,
        notes: Sequence[str],
    ) -> Verdict:
        failed_input = self._failed_input(finding.reference)
        if failed_input:
            return Verdict(
                False, f"{subject} was made from {failed_input}, which failed its own verification: materialize both again.", "input"
            )
        verdict = verdicts.judge(
            subject=subject,
            policy=self.settings.policy,
            sealed=sealed,
            stored=manifest,
            previous=previous,
            pinned=pins(self.settings.pinned) if self.settings.pinned else (),
        )
        if verdict.passed and finding.first_seen == "check" and finding.reference is None:
            verdict = replace(
                verdict,
                sentence=f"{subject} is sealed as it was first seen by this check; whether it changed before that cannot be known.",
            )
        return replace(verdict, warnings=(*notes, *self._missing_columns(manifest)))

    def _failed_input(self, reference: Any) -> str | None:
        """An input that the materialization read and whose own verification has failed since; None if there is none."""
        inputs = reference.statement.predicate.get("inputs") or [] if reference else []
        by_asset: dict[str, dict[str | None, Any]] = {}
        for read in inputs:
            by_asset.setdefault(read["asset"], {})[read["partition"]] = read
        for asset, reads in by_asset.items():
            latest = self.seals().ledger.latest_by_partition(asset, list(reads), (SEAL,))
            for partition, entry in latest.items():
                predicate = entry.statement.predicate
                if (
                    predicate.get("verdict") == "failed"
                    and predicate.get("cause") != "unverifiable"
                    and same_bytes(predicate, reads[partition])
                ):
                    return subject_name(asset, partition)
        return None

    def _missing_columns(self, manifest: Manifest) -> Iterator[str]:
        if manifest.table is None:
            return
        present = {column.name for column in manifest.table.columns}
        for role, columns in (self.settings.columns or {}).items():
            for column in columns:
                if column not in present:
                    yield f"The declared {role} column {plain(column)} is not in the data."

    # The outcome

    def _seal(
        self, partition: str | None, materialization: Materialization | None, finding: Finding, sealed: Manifest | None, known: Known
    ) -> Finding:
        """Record the verdict. A verdict that could not be recorded did not pass."""
        if finding.manifest is None or finding.verdict.cause == "adopted":
            return finding
        predicate = {
            "run_id": materialization.run_id if materialization else None,
            "storage_id": materialization.storage_id if materialization else None,
            "timestamp": materialization.timestamp if materialization else None,
            "checked_by": self.step_context.run_id,
            "verdict": "passed" if finding.verdict.passed else "failed",
            "cause": finding.verdict.cause,
            "reason": finding.verdict.sentence,
            "policy": self.settings.policy,
            "blocking": self.settings.blocking and self.settings.severity == dg.AssetCheckSeverity.ERROR,
            "first_seen": finding.first_seen,
            "sealed": (sealed or finding.manifest).digest,
            "previous": known.previous(materialization),
            "first": known.first(finding.manifest.digest if finding.verdict.passed else None),
            "location": finding.location,
            "io_manager": finding.reference.statement.predicate.get("io_manager") if finding.reference else None,
        }
        receipt = self.seals().append([statement(SEAL, self.asset, partition, finding.manifest, predicate)], [finding.manifest])
        return replace(finding, entry=receipt.entries[0].index)

    def evaluation(self, partition: str | None, materialization: Materialization | None, finding: Finding) -> _compat.AssetCheckEvaluation:
        """The evaluation that tells a finding. Never raises: one that cannot be told in full is told as failed."""
        try:
            return self._told(partition, materialization, finding, self._metadata(materialization, finding))
        except Exception as error:
            return self._told(partition, materialization, self.stopped(partition, error), {})

    def _metadata(self, materialization: Materialization | None, finding: Finding) -> dict[str, Any]:
        manifest = finding.manifest
        facts = {
            "policy": self.settings.policy,
            "content digest": manifest.content_root if manifest else None,
            "file digest": manifest.files_root if manifest else None,
            "ledger entry": None if finding.entry is None else f"{finding.entry} (mlsec ledger show {finding.entry})",
            "sealed": {"writer": "when it was written", "check": "first seen at check", "adoption": "adopted"}.get(
                finding.first_seen or ""
            ),
            "rollback of the ledger": self._rollback(),
        }
        return evaluation_metadata(
            difference=finding.verdict.difference,
            warnings=finding.verdict.warnings,
            facts=facts,
            materialization_run=materialization.run_id if materialization else None,
        )

    def _told(
        self, partition: str | None, materialization: Materialization | None, finding: Finding, metadata: dict[str, Any]
    ) -> _compat.AssetCheckEvaluation:
        verdict = finding.verdict
        contradiction = self.stored_asset.contradiction
        if contradiction is not None and (verdict.passed or verdict.cause == "adopted"):
            sentence = f"{subject_name(self.asset, partition)} could not be verified: {as_sentence(contradiction)}"
            verdict = Verdict(False, sentence, "unverifiable")
        return evaluation(
            self.key,
            self.check_name,
            passed=verdict.passed,
            sentence=verdict.sentence,
            severity=dg.AssetCheckSeverity.WARN if verdict.cause == "adopted" else self.settings.severity,
            blocking=self.settings.blocking,
            partition=partition,
            materialization=materialization,
            metadata=metadata,
        )

    def _rollback(self) -> str | None:
        """What keeps a rollback of the whole ledger from being excluded; None if nothing does."""
        if not self.stored_asset.witnessed:
            return "not verifiable: no witness is configured"
        silence = self.stored_asset.silence
        return f"not verifiable: {visible(silence)}" if silence else None


def _first_seen(reference: Any) -> str:
    return {WRITE: "writer", ADOPTION: "adoption"}.get(reference.statement.predicate_type, "check")


def _read_table(stored: Stored, sealed: Manifest | None, previous: Manifest | None, pinned: str | None) -> tuple[Manifest, list[str]]:
    """The manifest of what is stored, with the content of the table in it, read from the very bytes that were hashed.

    Content is stated in the sealed schema. What cannot be stated in it differs; where the bytes are nevertheless those that the writer
    sealed (an IO manager that stores another schema than it is given), that is noted, and the bytes alone are the comparison.
    """
    from mlsec_dagster.integrity.files import hash_path
    from mlsec_dagster.integrity.tables import table_grid

    manifest = stored.manifest
    sealed_table = sealed.table if sealed is not None else None
    notes = list(sealed_table.losses) if sealed_table is not None else []
    same_bytes = sealed is not None and manifest.files_root is not None and sealed.files_root == manifest.files_root
    if stored.copy is None:
        return replace(manifest, table=sealed_table if same_bytes else None), notes
    if pinned and not pinned.startswith("blake3:"):
        manifest = replace(manifest, files=hash_path(stored.copy, "sha256"))
    try:
        if not _holds_table(stored.copy):
            return replace(manifest, table=sealed_table if same_bytes else None), notes
        table = table_grid(stored.copy, schema=sealed_table, previous=previous.table if previous is not None else None)
    except MlsecError as error:
        if sealed is not None and not same_bytes:
            return manifest, [*notes, f"Which rows differ cannot be said: {as_sentence(error)}"]
        if sealed is None or isinstance(error, DamagedTableError | LimitExceededError):
            raise
        notes.append(
            f"The stored bytes are those that were written; their values could not be compared with the one in memory: {as_sentence(error)}"
        )
        return replace(manifest, table=sealed_table), notes
    if same_bytes and sealed_table is not None and not (table.columns or sealed_table.columns):
        return replace(manifest, table=sealed_table), notes  # how many rows a table without columns has, no file can say
    if same_bytes and sealed_table is not None and table.columns != sealed_table.columns:
        notes.append("The IO manager stores other columns or types than the value in memory has, so only the bytes were compared.")
        return replace(manifest, table=sealed_table), notes
    return replace(manifest, table=table), notes


class DamagedTableError(UnverifiableError):
    """A file is named as a table and holds none."""


def _holds_table(copy: Path) -> bool:
    """Whether a file is a table, or a directory holds nothing but parts of one; anything else is verified as files.

    Raises:
        DamagedTableError: A file is named as a table and is none: it was cut short or damaged, whoever sealed it.
    """
    from mlsec_dagster.integrity.containers import table_format, table_parts

    try:
        parts = table_parts(copy) if copy.is_dir() else [copy]
    except UnverifiableError:
        return False
    formats = {part: table_format(part) for part in parts}
    for part, found in formats.items():
        if found is None and part.suffix.lower() in _TABLE_SUFFIXES and not _encrypted(part):
            size = part.stat().st_size
            what = f"holds no whole table ({size:,} bytes): it was cut short or damaged" if size else "is empty"
            raise DamagedTableError(f"{part.name} {what}; find out why it was written so, and materialize it again")
    return all(formats.values())


_TABLE_SUFFIXES = {".parquet", ".feather", ".arrow"}


def _encrypted(part: Path) -> bool:
    """Whether it is a Parquet file with an encrypted footer, whose bytes are all that can be compared."""
    with part.open("rb") as file:
        return file.read(4) == b"PARE"
