"""One execution of a `dataset_hash` check: look at what is stored, hold it against the ledger, seal the verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.known import Known
from mlsec_dagster.errors import ConfigurationError, LedgerError, LimitExceededError, MlsecError, UnverifiableError
from mlsec_dagster.integrity import verdicts
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.statements import ADOPTION, SEAL, WRITE
from mlsec_dagster.integrity.verdicts import Materialization, Policy, Verdict, as_sentence, visible
from mlsec_dagster.io_managers.opaque import OpaqueStorage, private_copy, reported_location, resolved_place
from mlsec_dagster.io_managers.storage import Storage, Stored, Subject, keeps_nothing
from mlsec_dagster.io_managers.wrapper import SealedIOManager, storage_of
from mlsec_dagster.presentation import evaluation_metadata, plain
from mlsec_dagster.resources import SecurityStore, Signer, open_store
from mlsec_dagster.sealing import Seals, latest_materializations, statement, subject_name

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry

CHECK_NAME = "dataset_hash"

Resolver = Callable[[dg.AssetKey, dg.AssetMaterialization | None], Any]
"""Says where an asset lies that wrote for itself: a path, a URI, or a table (an Ibis or DuckDB relation); None for "not here"."""


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

    def __init__(
        self,
        key: dg.AssetKey,
        partitions_def: dg.PartitionsDefinition | None,
        io_manager_key: str | None,
        manager: Any,
        settings: HashCheckSettings,
        step_context: Any,
        *,
        external: bool,
        writes_itself: bool = False,
        check_name: str = CHECK_NAME,
    ) -> None:
        self.key = key
        self.check_name = check_name
        self.asset = key.to_user_string()
        self.partitions_def = partitions_def
        self.settings = settings
        self.external = external
        self.writes_itself = writes_itself
        self.step_context = step_context
        self.instance: dg.DagsterInstance = step_context.instance
        self.manager = manager
        self.io_manager_key = io_manager_key
        self._seals: Seals | None = None
        self._silence: str | None = None
        self._contradiction: str | None = None

    def seals(self) -> Seals:
        if self._seals is None:
            ledger = open_store(
                self.instance, self.settings.store, self.settings.signer, executor=self.step_context.job_def.executor_def.name
            )
            self._seals = Seals(ledger, self.instance)
        return self._seals

    def witness(self) -> None:
        """Compare the ledger with its witness, and hand it a checkpoint, if that is due; to be called before the evaluations are made.

        A ledger that the witness contradicts was rolled back or forked, and no verdict rests on it. A witness that is down loses no
        verdict: each evaluation says that a rollback cannot be excluded.
        """
        if self._seals is None or self._seals.ledger.witness is None:
            return
        try:
            self._silence = self._seals.ledger.witness_if_due()
        except LedgerError as error:
            self._contradiction = str(error)
        except MlsecError as error:
            self._silence = str(error)
        except Exception as error:
            self.step_context.log.exception(f"{self.check_name} on {self.asset}: the witness")
            self._silence = f"The witness could not be asked ({type(error).__name__})."
        if self._silence:
            self.step_context.log.warning(self._silence)

    def examine(self, partition: str | None) -> tuple[Materialization | None, Finding]:
        """Verify one subject. Never raises: whatever goes wrong is a failed verdict that says so."""
        subject = subject_name(self.asset, partition)
        materialization: Materialization | None = None
        try:
            materialization = self._materialization(partition)
            return materialization, self._verify(partition, subject, materialization)
        except MlsecError as error:
            sentence = f"{subject} could not be verified: {as_sentence(error)}"
        except Exception as error:
            return materialization, self.stopped(partition, error)
        return materialization, Finding(Verdict(False, sentence, "unverifiable"))

    def stopped(self, partition: str | None, error: Exception) -> Finding:
        """What is found where the check itself went wrong."""
        subject = subject_name(self.asset, partition)
        self.step_context.log.error(f"{self.check_name} on {subject}", exc_info=error)
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        sentence = (
            f"{subject} could not be verified, because the check stopped with {as_sentence(what)} "
            f"This is no statement about the data; the log of this step has the traceback."
        )
        return Finding(Verdict(False, sentence, "unverifiable"))

    # What is known

    def _materialization(self, partition: str | None) -> Materialization | None:
        if partition is not None or self.partitions_def is None:
            return latest_materializations(self.instance, self.key, [partition]).get(partition)
        return None

    def _storage(self) -> Storage | None:
        if self.manager is None:
            return None
        if isinstance(self.manager, SealedIOManager):
            return self.manager.storage(self.seals())
        return storage_of(self.manager, self.seals().row_key)

    def _subject(self, partition: str | None, location: str | None, sealed: Manifest | None = None) -> Subject:
        layer = self.step_context.job_def.asset_layer
        return Subject(
            asset_key=self.key,
            partition=partition,
            partitions_def=self.partitions_def,
            definition_metadata=layer.get(self.key).metadata if layer.has(self.key) else {},
            resource_config=_compat.resource_config(self.step_context, self.io_manager_key) if self.io_manager_key else None,
            resources=_compat.resources_for(self.step_context, self.io_manager_key) if self.io_manager_key else None,
            instance=self.instance,
            location=location,
            sealed=sealed.files[0] if sealed is not None and len(sealed.files) == 1 else None,
        )

    def _stored(
        self, partition: str | None, reference: Any, event: dg.AssetMaterialization | None, *, writes_itself: bool
    ) -> AbstractContextManager[Stored | None]:
        """Look at what is stored: through the IO manager that wrote it, else at the place that the materialization reports."""
        location = reference.statement.predicate.get("location") if reference else None
        storage = None if writes_itself else self._storage()
        if reference is not None and reference.statement.predicate.get("io_manager") and storage is not None:
            sealed = None if self.settings.pinned else self.seals().manifest(reference, name="sealed")
            return storage.examine(self._subject(partition, location, sealed))
        if self.settings.resolver is not None:
            resolved = self.settings.resolver(self.key, event)
            if resolved is not None:
                return resolved_place(resolved, self.seals().row_key)
        reported = reported_location(event.metadata) if event else None
        if storage is not None and not isinstance(storage, OpaqueStorage) and (reported is None or "://" in reported):
            return _kept(storage, self._subject(partition, location), reported if self.external else None)
        if reported or location:
            return private_copy(str(reported or location))
        table = event.metadata.get("dagster/table_name") if event else None
        raise UnverifiableError(
            f"it is not known where {self.asset} is stored: "
            + ("its IO manager was handed None, and " if writes_itself else "")
            + "its materialization reports "
            + (
                f"the table {table.value}, which this check cannot reach by itself; pass resolver= with a relation for it."
                if table
                else "neither `path` nor `dagster/uri`; report one of them, return the value through an IO manager, or pass resolver=."
            )
        )

    # The verification

    def _verify(self, partition: str | None, subject: str, materialization: Materialization | None) -> Finding:
        seals = self.seals()
        if materialization is None and not self.external:
            return Finding(
                Verdict(False, f"{subject} was never materialized, so there is nothing to verify: materialize it.", "unverifiable")
            )
        known = Known.read(seals, self.asset, partition, materialization)
        writes_itself = known.write is not None and keeps_nothing(known.write.statement.predicate.get("files_root"))
        if writes_itself:
            known = known.of_what_it_wrote_itself()
        reference = known.reference(materialization)
        event = self._event(materialization)
        with self._stored(partition, reference, event, writes_itself=writes_itself) as stored:
            if stored is None:
                return Finding(self._missing(subject, reference, event))
            overtaken: list[str] = []
            later = known.overtaken(reference) if reference else None
            if later is not None and _same_bytes(later.statement.predicate, _roots(stored.manifest)):
                reference = later
                run_id = later.statement.predicate.get("run_id")
                overtaken.append(f"Run {run_id} has written it since; this verdict is about what that run wrote.")
            sealed = seals.manifest(reference, name="sealed") if reference else None
            earlier = known.earlier(self.settings.policy, materialization)
            previous = seals.manifest_of(earlier) if earlier else None
            manifest, notes = _read_table(stored, sealed, previous, self.settings.pinned)
            notes = [*overtaken, *notes]
            if reference is None:
                finding = self._first_sight(partition, subject, materialization, stored, manifest, known)
            else:
                finding = Finding(Verdict(True, ""), manifest, stored.location, first_seen=_first_seen(reference), reference=reference)
            if finding.verdict.passed:
                written = sealed
                if sealed is not None and sealed.content_root is None and sealed.files_root == stored.manifest.files_root:
                    # The writer could not state the content (of a lazy frame, of a lossy container), but the bytes are its own.
                    written = replace(sealed, table=manifest.table)
                finding = replace(finding, verdict=self._judge(subject, finding, written, manifest, previous, notes))
        return self._seal(partition, materialization, finding, sealed, known)

    def _missing(self, subject: str, reference: Any, event: dg.AssetMaterialization | None) -> Verdict:
        table = event.metadata.get("dagster/table_name") if event else None
        if reference is None and table is not None:
            sentence = (
                f"{subject} could not be verified: its materialization reports the table {table.value}, which this check cannot reach "
                f"by itself; pass resolver= with a relation for it."
            )
            return Verdict(False, sentence, "unverifiable")
        if reference is None and event is None:
            sentence = (
                f"{subject} could not be verified: it is external, the IO manager that would load it keeps nothing for it, and no "
                f"materialization reports where it lies; report `path` or `dagster/uri`, or pass resolver=."
            )
            return Verdict(False, sentence, "unverifiable")
        sentence = f"{subject} was materialized, but nothing is stored for it: restore it or materialize it again."
        if reference is None:
            sentence += " If it writes for itself, let it report `path` or `dagster/uri`, or pass resolver=."
        return Verdict(False, sentence, "missing")

    def _event(self, materialization: Materialization | None) -> dg.AssetMaterialization | None:
        if materialization is None:
            return None
        records = _compat.materializations_by_storage_id(self.instance, self.key, [materialization.storage_id])
        record = records.get(materialization.storage_id)
        return record.asset_materialization if record else None

    def _first_sight(
        self,
        partition: str | None,
        subject: str,
        materialization: Materialization | None,
        stored: Stored,
        manifest: Manifest,
        known: Known,
    ) -> Finding:
        """Data without a statement about its materialization: adopted, sealed as first seen here, or refused."""
        seals = self.seals()
        since = seals.ledger.guarded_since(self.asset)
        run_id = self.step_context.run_id
        before_guard = since is None or (materialization is not None and materialization.timestamp < since)
        if before_guard and (materialization is None or materialization.run_id != run_id):
            seals.adopt(
                self.asset,
                {partition: (manifest, stored.location)},
                reason="first checked by a guarded project",
                adopted_by=f"run {run_id}",
            )
            sentence = (
                f"{subject} was there before it was guarded. It is adopted as it is and trusted from now on; "
                f"what happened to it earlier cannot be known. The next check of the same data passes."
            )
            return Finding(Verdict(False, sentence, "adopted"), manifest, stored.location, first_seen="adoption")
        if materialization is not None and (known.write is not None or self._held_by_wrapped_manager(partition, stored)):
            return Finding(
                Verdict(False, verdicts.unsealed(subject, materialization), "unsealed"), manifest, stored.location, first_seen="check"
            )
        return Finding(Verdict(True, ""), manifest, stored.location, first_seen="check")

    def _held_by_wrapped_manager(self, partition: str | None, stored: Stored) -> bool:
        """Whether the IO manager that is guarded now keeps this data: then it would have sealed it, had the guard been on.

        An IO manager may be there for readers only, as of dbt's models: nobody hands it what the asset writes for itself. Nor does
        anybody here hand it an external asset; whether another code location does, and seals it, the ledger tells.
        """
        if self.writes_itself or not isinstance(self.manager, SealedIOManager):
            return False
        if self.external and next(self.seals().ledger.history(self.asset, types=(WRITE,)), None) is None:
            return False
        storage = self.manager.storage(self.seals())
        if isinstance(storage, OpaqueStorage):
            return False
        with storage.examine(self._subject(partition, None)) as kept:
            return kept is not None and kept.location == stored.location

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
                    and _same_bytes(predicate, reads[partition])
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
        if self._contradiction is not None and (verdict.passed or verdict.cause == "adopted"):
            sentence = f"{subject_name(self.asset, partition)} could not be verified: {as_sentence(self._contradiction)}"
            verdict = Verdict(False, sentence, "unverifiable")
        return _compat.AssetCheckEvaluation(
            asset_key=self.key,
            check_name=self.check_name,
            passed=verdict.passed,
            severity=dg.AssetCheckSeverity.WARN if verdict.cause == "adopted" else self.settings.severity,
            description=plain(verdict.sentence, limit=2000),
            metadata=metadata,
            target_materialization_data=_compat.AssetCheckEvaluationTargetMaterializationData(
                storage_id=materialization.storage_id, run_id=materialization.run_id, timestamp=materialization.timestamp
            )
            if materialization
            else None,
            blocking=self.settings.blocking,
            partition=partition,
        )

    def _rollback(self) -> str | None:
        """What keeps a rollback of the whole ledger from being excluded; None if nothing does."""
        if self._seals is None or self._seals.ledger.witness is None:
            return "not verifiable: no witness is configured"
        return f"not verifiable: {visible(self._silence)}" if self._silence else None


def _first_seen(reference: Any) -> str:
    return {WRITE: "writer", ADOPTION: "adoption"}.get(reference.statement.predicate_type, "check")


def _same_bytes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(one.get(name) and one.get(name) == other.get(name) for name in ("files_root", "content_root"))


def _roots(manifest: Manifest) -> dict[str, Any]:
    return {"files_root": manifest.files_root, "content_root": manifest.content_root}


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


@contextmanager
def _kept(storage: Storage, subject: Subject, reported: str | None) -> Iterator[Stored | None]:
    """What an IO manager keeps; for an external asset of which it keeps nothing, what lies at the place that was reported."""
    with storage.examine(subject) as stored:
        if stored is not None or reported is None:
            yield stored
            return
    with private_copy(reported) as stored:
        yield stored
