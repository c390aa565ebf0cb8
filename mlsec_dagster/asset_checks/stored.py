"""What is stored for an asset, verified: how every check gets at the data that it judges.

    asset = StoredAsset.of_check(context, key, definition, store=store, signer=signer)
    with asset.verified(partition) as data:
        data.copy          # a private copy of the very bytes that were hashed (a file or a directory), or
        data.relation      # the table in its warehouse (a DuckDB relation, an Ibis table), or
        data.value()       # what a pickling IO manager wrote, loaded only now that its bytes are known
    # only here, behind the `with`, may a conclusion be drawn: leaving it can still find that a table changed meanwhile

Nothing is deserialised before it was hashed and found to be what the ledger says; what is read is the private copy, so nobody can change it
between the look and the use. `building.py` makes a check of it.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import Definition, Resolver, facts, is_external, writes_itself
from mlsec_dagster.asset_checks.known import Known
from mlsec_dagster.errors import LedgerError, MlsecError, UnverifiableError, VerificationError
from mlsec_dagster.integrity import verdicts
from mlsec_dagster.integrity.files import hash_path
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.statements import WRITE
from mlsec_dagster.integrity.verdicts import Materialization, as_sentence
from mlsec_dagster.io_managers.opaque import OpaqueStorage, private_copy, reported_location, resolved_place
from mlsec_dagster.io_managers.paths import PathStorage
from mlsec_dagster.io_managers.storage import Storage, Stored, Subject, keeps_nothing
from mlsec_dagster.io_managers.wrapper import SealedIOManager, locate, storage_of
from mlsec_dagster.resources import SecurityStore, Signer, open_store
from mlsec_dagster.sealing import Seals, latest_materializations, subject_name

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry


_EXTRAS: Final = {
    "adlfs": "azure",
    "gcsfs": "gcp",
    "great_expectations": "gx",
    "pandas": "pandas",
    "polars": "polars",
    "pyspark": "spark",
    "s3fs": "aws",
}
"""Library -> the extra that brings it."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a subject, not yet judged.

    Attributes:
        known: What the ledger says about it.
        reference: The statement that speaks for its materialization; None if there is none.
        event: The materialization as Dagster recorded it.
        stored: What lies in storage; None if nothing does.
        later: Run that has written these very bytes since, its materialization not yet recorded.
    """

    known: Known
    reference: Entry | None
    event: dg.AssetMaterialization | None
    stored: Stored | None
    later: str | None = None

    @property
    def unreachable_table(self) -> str | None:
        """The table that the materialization reports while nothing lies where we can look."""
        table = self.event.metadata.get("dagster/table_name") if self.event and self.reference is None and self.stored is None else None
        return None if table is None else str(table.value)

    @property
    def nowhere_to_look(self) -> bool:
        """Whether nothing was found because nobody says where it lies, which is no loss of data."""
        return self.reference is None and self.stored is None and (self.event is None or self.unreachable_table is not None)


@dataclass(frozen=True, slots=True)
class VerifiedData:
    """The data of one subject, as it may be used while the context lasts.

    Attributes:
        subject: Its name for sentences.
        materialization: What Dagster says was written last, which evaluations are pinned to; None for an external asset without any.
        manifest: Digests of what was found.
        seal: The statement that it agrees with; None if nothing in the ledger speaks for it, which only callers that ask for it get.
        copy: A private copy of the very bytes that were hashed; None for a table in a warehouse.
        relation: The table in its warehouse; None for files.
        location: Where it lies.
        pickled: Whether one of Dagster's pickling IO managers wrote it.
        notes: Sentences that a reader of the verdict should know.
    """

    subject: str
    materialization: Materialization | None
    manifest: Manifest
    seal: Entry | None
    copy: Path | None
    relation: Any | None
    location: str | None
    pickled: bool
    notes: tuple[str, ...] = ()

    def value(self) -> Any:
        """What a pickling IO manager wrote, loaded from the bytes that were verified.

        Raises:
            UnverifiableError: It is no such pickle, or nothing in the ledger speaks for it: loading one runs what its writer put there.
        """
        if not self.pickled or self.copy is None:
            raise UnverifiableError(f"{self.subject} was not written by an IO manager that pickles, so it is not loaded as a pickle.")
        if self.seal is None:
            raise UnverifiableError(
                f"{self.subject} is a pickle without a seal, and loading a pickle runs whatever its writer put there: guard the asset and "
                f"materialize it, trust it with `mlsec adopt`, or keep it as Parquet."
            )
        with self.copy.open("rb") as file:
            return pickle.load(file)  # noqa: S301 - these very bytes are the ones that our ledger vouches for


class StoredAsset:
    """One asset, as the checks of one step see it: what was written, where it lies, and what the ledger says of it.

    Args:
        key: The asset.
        step_context: The step that looks.
        partitions_def: The asset's partitions, or None.
        io_manager_key: The resource under which its IO manager is known, or None.
        manager: That IO manager, or None.
        external: Whether nothing in this code location materializes it.
        writes_itself: Whether its IO manager is never handed what it makes.
        check_name: For the log.
        resolver: Overrides where a self-written asset lies.
        store: The ledger's database.
        signer: The key.
    """

    def __init__(
        self,
        key: dg.AssetKey,
        step_context: Any,
        *,
        partitions_def: dg.PartitionsDefinition | None = None,
        io_manager_key: str | None = None,
        manager: Any = None,
        external: bool = False,
        writes_itself: bool = False,
        check_name: str = "check",
        resolver: Resolver | None = None,
        store: SecurityStore | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.key = key
        self.name = key.to_user_string()
        self.partitions_def = partitions_def
        self.io_manager_key = io_manager_key
        self.manager = manager
        self.external = external
        self.writes_itself = writes_itself
        self.check_name = check_name
        self.resolver = resolver
        self.step_context = step_context
        self.instance: dg.DagsterInstance = step_context.instance
        self._store = store
        self._signer = signer
        self._seals: Seals | None = None
        self.silence: str | None = None
        """What the witness, or its absence, leaves open; set by `witness`."""
        self.contradiction: str | None = None
        """How the witness contradicts the ledger, on which no verdict can rest then; set by `witness`."""

    @classmethod
    def of_check(cls, context: Any, key: dg.AssetKey, definition: Definition | None, **settings: Any) -> StoredAsset:
        """The asset that the check running under `context` is about; `settings` as for the class."""
        partitions_def, io_manager_key = facts(key, definition)
        return cls(
            key,
            context.op_execution_context.get_step_execution_context(),
            partitions_def=partitions_def,
            io_manager_key=io_manager_key,
            manager=getattr(context.op_execution_context.resources, io_manager_key) if io_manager_key else None,
            external=is_external(definition),
            writes_itself=writes_itself(key, definition),
            **settings,
        )

    # What is known

    def seals(self) -> Seals:
        if self._seals is None:
            ledger = open_store(self.instance, self._store, self._signer, executor=self.step_context.job_def.executor_def.name)
            self._seals = Seals(ledger, self.instance)
        return self._seals

    @property
    def witnessed(self) -> bool:
        """Whether a witness watches over the ledger that was opened."""
        return self._seals is not None and self._seals.ledger.witness is not None

    def witness(self) -> None:
        """Compare the ledger with its witness, and hand it a checkpoint, if that is due; to be called before the evaluations are made.

        A ledger that the witness contradicts was rolled back or forked, and no verdict rests on it. A witness that is down loses no
        verdict: each evaluation says that a rollback cannot be excluded.
        """
        if self._seals is None or self._seals.ledger.witness is None:
            return
        try:
            self.silence = self._seals.ledger.witness_if_due()
        except LedgerError as error:
            self.contradiction = str(error)
        except MlsecError as error:
            self.silence = str(error)
        except Exception as error:
            self.step_context.log.exception(f"{self.check_name} on {self.name}: the witness")
            self.silence = f"The witness could not be asked ({type(error).__name__})."
        if self.silence:
            self.step_context.log.warning(self.silence)

    def materialization(self, partition: str | None) -> Materialization | None:
        """What Dagster says was written last."""
        if partition is not None or self.partitions_def is None:
            return latest_materializations(self.instance, self.key, [partition]).get(partition)
        return None

    def event(self, materialization: Materialization | None) -> dg.AssetMaterialization | None:
        """The materialization with what it reported."""
        if materialization is None:
            return None
        records = _compat.materializations_by_storage_id(self.instance, self.key, [materialization.storage_id])
        record = records.get(materialization.storage_id)
        return record.asset_materialization if record else None

    # What is there

    @contextmanager
    def look(self, partition: str | None, materialization: Materialization | None, *, whole: bool = False) -> Iterator[Look]:
        """Look at what is stored for a materialization, without judging it.

        Args:
            partition: The partition, or None.
            materialization: What is looked at.
            whole: Fetch the bytes even from an object store that says that they are still the version that was sealed.
        """
        known = Known.read(self.seals(), self.name, partition, materialization)
        handed_nothing = known.write is not None and keeps_nothing(known.write.statement.predicate.get("files_root"))
        if handed_nothing:
            known = known.of_what_it_wrote_itself()
        reference = known.reference(materialization)
        event = self.event(materialization)
        with self._stored(partition, reference, event, handed_nothing=handed_nothing, whole=whole) as stored:
            later = known.overtaken(reference) if reference and stored is not None else None
            if later is not None and stored is not None and same_bytes(later.statement.predicate, roots(stored.manifest)):
                yield Look(known, later, event, stored, str(later.statement.predicate.get("run_id")))
            else:
                yield Look(known, reference, event, stored)

    def _stored(
        self, partition: str | None, reference: Entry | None, event: dg.AssetMaterialization | None, *, handed_nothing: bool, whole: bool
    ) -> AbstractContextManager[Stored | None]:
        """Look at what is stored: through the IO manager that wrote it, else at the place that the materialization reports."""
        location = reference.statement.predicate.get("location") if reference else None
        storage = None if handed_nothing else self._storage()
        if reference is not None and reference.statement.predicate.get("io_manager") and storage is not None:
            sealed = None if whole else self.seals().manifest(reference, name="sealed")
            return storage.examine(self._subject(partition, location, sealed))
        if self.resolver is not None:
            resolved = self.resolver(self.key, event)
            if resolved is not None:
                return resolved_place(resolved, self.seals().row_key)
        reported = reported_location(event.metadata) if event else None
        if storage is not None and not isinstance(storage, OpaqueStorage) and (reported is None or "://" in reported):
            return _kept(storage, self._subject(partition, location), reported if self.external else None)
        if reported or location:
            where = str(reported or location)
            pickled = isinstance(storage, PathStorage) and storage.pickles_at(self._subject(partition, location), where)
            return private_copy(where, pickled=pickled)
        table = event.metadata.get("dagster/table_name") if event else None
        raise UnverifiableError(
            f"it is not known where {self.name} is stored: "
            + ("its IO manager was handed None, and " if handed_nothing else "")
            + "its materialization reports "
            + (
                f"the table {table.value}, which this check cannot reach by itself; pass resolver= with a relation for it."
                if table
                else "neither `path` nor `dagster/uri`; report one of them, return the value through an IO manager, or pass resolver=."
            )
        )

    def _storage(self) -> Storage | None:
        if self.manager is None:
            return None
        if isinstance(self.manager, SealedIOManager):
            return self.manager.storage(self.seals())
        return self._own_storage

    @cached_property
    def _own_storage(self) -> Storage:
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

    def went_past_the_guard(self, look: Look, partition: str | None, materialization: Materialization | None) -> bool:
        """Whether data without a seal ought to have one: its writer sealed before, or its IO manager is one that seals."""
        if materialization is None or look.reference is not None or look.stored is None:
            return False
        return look.known.write is not None or self._held_by_wrapped_manager(partition, look.stored)

    def is_adoptable(self, materialization: Materialization | None) -> bool:
        """Whether the asset was not guarded yet when this was written: unsealed, and nobody's fault."""
        since = self.seals().ledger.guarded_since(self.name)
        before = since is None or (materialization is not None and materialization.timestamp < since)
        return before and (materialization is None or materialization.run_id != self.step_context.run_id)

    def _held_by_wrapped_manager(self, partition: str | None, stored: Stored) -> bool:
        """Whether the IO manager that is guarded now keeps this data: then it would have sealed it, had the guard been on.

        An IO manager may be there for readers only, as of dbt's models: nobody hands it what the asset writes for itself. Nor does
        anybody here hand it an external asset; whether another code location does, and seals it, the ledger tells.
        """
        if self.writes_itself or not isinstance(self.manager, SealedIOManager):
            return False
        if self.external and next(self.seals().ledger.history(self.name, types=(WRITE,)), None) is None:
            return False
        storage = self.manager.storage(self.seals())
        if isinstance(storage, OpaqueStorage):
            return False
        with storage.examine(self._subject(partition, None)) as kept:
            return kept is not None and kept.location == stored.location

    def missing(self, look: Look, partition: str | None) -> str:
        """The sentence about a materialization for which nothing was found."""
        subject = subject_name(self.name, partition)
        table = look.unreachable_table
        if table is not None:
            return (
                f"{subject} could not be verified: its materialization reports the table {table}, which this check cannot reach by itself; "
                f"pass resolver= with a relation for it."
            )
        if look.nowhere_to_look:
            return (
                f"{subject} could not be verified: it is external, the IO manager that would load it keeps nothing for it, and no "
                f"materialization reports where it lies; report `path` or `dagster/uri`, or pass resolver=."
            )
        sentence = f"{subject} was materialized, but nothing is stored for it: restore it or materialize it again."
        if look.reference is None:
            sentence += " If it writes for itself, let it report `path` or `dagster/uri`, or pass resolver=."
        return sentence

    def never_materialized(self, partition: str | None) -> str:
        """The sentence about a subject that there is nothing to say about."""
        return f"{subject_name(self.name, partition)} was never materialized, so there is nothing to verify: materialize it."

    # What of it may be used

    @contextmanager
    def verified(self, partition: str | None, *, unsealed: bool = False) -> Iterator[VerifiedData]:
        """The stored data of one subject, held against what was sealed for its materialization.

        It has no effect on the ledger: what nobody has sealed or adopted yet stays so. Draw conclusions only after the context was left.

        Args:
            partition: The partition, or None.
            unsealed: Also yield data for which nothing in the ledger speaks, with `seal` None: that of a project without a guard, that from
                before the guard, and that which a `dataset_hash` check without a guard has yet to see. Its pickles stay unread.

        Raises:
            VerificationError: It is not what was sealed; the witness contradicts the ledger; or it went past the guard.
            UnverifiableError: It could not be looked at: never materialized, missing, unreachable, unsealed though that was not asked for,
                or (on leaving the context) a table that changed while it was read.
        """
        subject = subject_name(self.name, partition)
        materialization = self.materialization(partition)
        if materialization is None and not self.external:
            raise UnverifiableError(self.never_materialized(partition))
        self.seals()
        self.witness()
        if self.contradiction is not None:
            raise VerificationError(self.contradiction)
        with self.look(partition, materialization, whole=True) as look:
            stored = look.stored
            if stored is None:
                raise UnverifiableError(self.missing(look, partition))
            if look.reference is not None:
                self._require_sealed(subject, look.reference, stored)
            elif (
                materialization is not None
                and not self.is_adoptable(materialization)
                and self.went_past_the_guard(look, partition, materialization)
            ):
                raise VerificationError(verdicts.unsealed(subject, materialization))
            elif not unsealed:
                raise UnverifiableError(f"{subject} has no seal to hold the stored bytes against: guard it, and materialize it again.")
            notes = (f"Run {look.later} has written it since; this verdict is about what that run wrote.",) if look.later else ()
            yield VerifiedData(
                subject=subject,
                materialization=materialization,
                manifest=stored.manifest,
                seal=look.reference,
                copy=stored.copy,
                relation=stored.relation,
                location=stored.location,
                pickled=stored.pickled,
                notes=notes,
            )
            if stored.relation is not None and not stored.snapshot:
                self._require_unchanged(subject, stored)

    def _require_unchanged(self, subject: str, stored: Stored) -> None:
        """Raise if a table that no transaction holds still is another one than before it was read."""
        from mlsec_dagster.integrity.warehouse import multiset_digest

        if multiset_digest(stored.relation, self.seals().row_key()).root != stored.manifest.content_root:
            raise UnverifiableError(f"{subject} changed while it was read, so nothing can be said of it: run the check again.")

    def _require_sealed(self, subject: str, reference: Entry, stored: Stored) -> None:
        """Raise unless what is stored is what `reference` says."""
        sealed = self.seals().manifest(reference, name="sealed")
        found = _in_the_digest_of(sealed, stored)
        if sealed.files_root and found.files_root:
            same = sealed.files_root == found.files_root
        elif sealed.content_root and found.content_root:
            same = sealed.content_root == found.content_root
        else:
            raise UnverifiableError(
                f"{subject} was sealed in another form than it is read in, so it could not be verified: materialize it again."
            )
        if not same:
            difference = locate(sealed, stored)
            raise VerificationError(
                f"{subject} is not what was written: {as_sentence(difference.sentence)} Storage changed while Dagster did not write it. "
                f"Keep the stored files as evidence, look up who wrote to them, and materialize it again."
            )

    # What is told of it

    def could_not(self, partition: str | None, error: Exception, *, quoting: bool = True) -> str:
        """The sentence of an evaluation that could not be made, which is no statement about the data; unexpected errors are logged.

        Args:
            partition: The partition, or None.
            error: What went wrong.
            quoting: Whether an unexpected error's message may be shown; False where it may quote values of the data.
        """
        subject = subject_name(self.name, partition)
        if isinstance(error, MlsecError):
            return f"{subject} could not be verified: {as_sentence(error)}"
        kind = type(error).__name__
        library = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if library in _EXTRAS:
            return (
                f"{subject} could not be verified: it takes {library}, which is not installed where the check runs; "
                f"install mlsec-dagster[{_EXTRAS[library]}]."
            )
        if quoting:
            self.step_context.log.error(f"{self.check_name} on {subject}", exc_info=error)
        else:
            frames = "".join(traceback.format_tb(error.__traceback__))
            self.step_context.log.error(f"{self.check_name} on {subject}: {kind}, its message withheld\n{frames}")
        what = f"{kind}: {error}" if str(error) and quoting else kind
        return (
            f"{subject} could not be verified, because the check stopped with {as_sentence(what)} "
            f"This is no statement about the data; the log of this step has the traceback."
        )


def same_bytes(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two statements, or a statement and the `roots` of a manifest, are about the same data."""
    return any(one.get(name) and one.get(name) == other.get(name) for name in ("files_root", "content_root"))


def roots(manifest: Manifest) -> dict[str, Any]:
    """The digests by which statements name a manifest."""
    return {"files_root": manifest.files_root, "content_root": manifest.content_root}


def _in_the_digest_of(sealed: Manifest, stored: Stored) -> Manifest:
    """What was found, its files hashed as those of `sealed` were: a seal beside a SHA-256 pin has digests of that kind."""
    kinds = {entry.digest.partition(":")[0] for entry in sealed.files}
    found = {entry.digest.partition(":")[0] for entry in stored.manifest.files}
    if stored.copy is None or kinds != {"sha256"} or found == kinds:
        return stored.manifest
    return replace(stored.manifest, files=hash_path(stored.copy, "sha256"))


@contextmanager
def _kept(storage: Storage, subject: Subject, reported: str | None) -> Iterator[Stored | None]:
    """What an IO manager keeps; for an external asset of which it keeps nothing, what lies at the place that was reported."""
    with storage.examine(subject) as stored:
        if stored is not None or reported is None:
            yield stored
            return
    with private_copy(reported) as stored:
        yield stored
