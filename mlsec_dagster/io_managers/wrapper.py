"""The wrapper: sealed at write, verified at read, and otherwise the IO manager that it wraps."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.errors import LossyContainerError, MlsecError, UnverifiableError, VerificationError
from mlsec_dagster.integrity.comparison import Difference
from mlsec_dagster.integrity.containers import table_format
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.statements import WRITE
from mlsec_dagster.integrity.tables import TableGrid, table_grid
from mlsec_dagster.integrity.verdicts import as_sentence
from mlsec_dagster.io_managers.database import DatabaseStorage
from mlsec_dagster.io_managers.objects import OBJECT_CLIENTS, ObjectStorage
from mlsec_dagster.io_managers.opaque import OpaqueStorage, reported_location
from mlsec_dagster.io_managers.paths import PathStorage, inner_manager
from mlsec_dagster.io_managers.storage import Storage, Stored, Subject, keeps_nothing
from mlsec_dagster.sealing import Expectation, Seals, partitions_of, statement

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry

OpenSeals = Callable[[dg.DagsterInstance, str | None], Seals]
"""Opens the ledger for an instance and the name of the run's executor."""


IN_MEMORY = frozenset({("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table"), ("pyarrow", "RecordBatch")})

Guarded = Mapping[dg.AssetKey, bool]
"""The guarded assets, each with whether it is external: nothing in this code location materializes it."""


def storage_of(manager: Any, row_key: Callable[[], bytes]) -> Storage:
    """How to look at what an IO manager stores, chosen by what it is built on.

    Args:
        manager: An IO manager or input manager, not wrapped.
        row_key: Gives the secret key of multiset hashes; called only where a database table is hashed.
    """
    inner = inner_manager(manager)
    if isinstance(inner, _compat.UPathIOManager):
        for cls in type(inner).__mro__:
            if cls.__name__ in OBJECT_CLIENTS:
                return ObjectStorage(manager, inner, OBJECT_CLIENTS[cls.__name__])
        return PathStorage(manager, inner)
    if isinstance(manager, _compat.DbIOManager):
        return DatabaseStorage(manager, row_key)
    return OpaqueStorage(manager)


class SealedIOManager(dg.IOManager):
    """Seals what the wrapped IO manager writes and verifies what it reads, for guarded assets only.

    Every attribute that is not one of the two verbs is the wrapped IO manager's own.
    """

    def __init__(self, wrapped: Any, guarded: Guarded, open_seals: OpenSeals) -> None:
        self.wrapped = wrapped
        self._guarded = guarded
        self._open_seals = open_seals
        self._storage: Storage | None = None
        if inspect.isgeneratorfunction(getattr(wrapped, "handle_output", None)):  # an input manager has none
            self.handle_output = self._handle_output  # Dagster asks of the function itself whether it is a generator

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "wrapped"), name)

    def __repr__(self) -> str:
        return f"SealedIOManager({self.wrapped!r})"

    def storage(self, seals: Seals) -> Storage:
        """How to look at what the wrapped IO manager stores."""
        if self._storage is None:
            self._storage = storage_of(self.wrapped, seals.row_key)
        return self._storage

    def handle_output(self, context: dg.OutputContext, obj: Any) -> Any:
        events = list(self._handle_output(context, obj))
        return events[0] if events else None

    def _handle_output(self, context: dg.OutputContext, obj: Any) -> Iterator[Any]:
        if not context.has_asset_key or context.asset_key not in self._guarded:
            yield from _write(self.wrapped, context, obj)
            return
        # The ledger is asked first: data that could not be sealed is not written.
        seals = self._seals(context)
        seals.ledger.checkpoint()
        grid, losses = _grid_of_value(obj)
        reported = yield from _write(self.wrapped, context, obj)
        partitions = partitions_of(context)
        location = reported_location(reported) if len(partitions) == 1 else None
        storage = self.storage(seals)
        contents: dict[str | None, tuple[Manifest, str | None]] = {}
        for partition in partitions:
            subject = _subject(context, context, partition, location)
            stored = _examine_written(storage, subject, grid)
            if stored is not None:
                contents[partition] = stored
        if not contents:
            return
        step_context = context.step_context
        predicate = {
            "run_id": context.run_id,
            "step_key": context.step_key,
            "io_manager": type(self.wrapped).__name__,
            "how": storage.how,
            "code_version": _code_version(step_context, context.asset_key),
            "inputs": list(_READS.get((context.run_id, context.step_key), {}).values()),
            "losses": losses,
            "value_root": grid.root if grid is not None else None,
        }
        asset = context.asset_key.to_user_string()
        seals.append(
            [
                statement(WRITE, asset, partition, manifest, {**predicate, "location": where})
                for partition, (manifest, where) in contents.items()
            ],
            [manifest for manifest, _ in contents.values()],
        )
        if len(contents) == 1:
            manifest = next(iter(contents.values()))[0]
            if not keeps_nothing(manifest.files_root):
                _compat.set_data_version(context, str(grid.root if grid is not None else manifest.content_root or manifest.files_root))

    def load_input(self, context: dg.InputContext) -> Any:
        if not context.has_asset_key or context.asset_key not in self._guarded:
            return self.wrapped.load_input(context)
        partitions = partitions_of(context)
        if not partitions:
            return self.wrapped.load_input(context)
        seals = self._seals(context)
        storage = self.storage(seals)
        external = self._guarded[context.asset_key]
        expectations = seals.expectations(context.asset_key, partitions, external=external)
        output_context = context.upstream_output or context
        subjects = {
            partition: _subject(context, output_context, partition, _sealed_location(expectations[partition])) for partition in partitions
        }
        reads: dict[str | None, dict[str, Any]] = {}

        def verify(partition: str | None, stored: Stored | None) -> None:
            expectation = expectations[partition]
            if stored is None:
                if expectation.entry is not None:
                    raise VerificationError(
                        f"{expectation.subject} was sealed by run {expectation.entry.statement.predicate.get('run_id', '?')}, "
                        f"but nothing is stored for it any more: restore it or materialize it again."
                    )
                return
            if expectation.standing.kind == "adoptable":
                _adopt(seals, expectation, stored, context)
                expectations.update(seals.expectations(context.asset_key, [partition], external=external))
            else:
                verify_stored(seals, expectation, stored)
            reads[partition] = {
                "asset": expectation.asset,
                "partition": partition,
                "files_root": stored.manifest.files_root,
                "content_root": stored.manifest.content_root,
            }

        value = storage.load(context, subjects, verify)
        step_context = _compat.step_context(context)
        if step_context is not None:
            for other in [key for key in _READS if key[0] != step_context.run_id]:
                del _READS[other]
            read_by_step = _READS.setdefault((step_context.run_id, step_context.step.key), {})
            read_by_step.update({(read["asset"], partition): read for partition, read in reads.items()})
        return value

    def _seals(self, context: dg.InputContext | dg.OutputContext) -> Seals:
        step_context = _compat.step_context(context)
        executor = step_context.job_def.executor_def.name if step_context is not None else None
        return self._open_seals(_compat.instance_of(context), executor)


_READS: dict[tuple[str, str], dict[tuple[str, str | None], dict[str, Any]]] = {}
"""(run id, step key) -> what that step read last of each subject, verified; part of the statement about everything that it writes."""


def verify_stored(seals: Seals, expectation: Expectation, stored: Stored) -> None:
    """Raise unless what is stored is what was sealed.

    Raises:
        VerificationError: It was looked at, and it differs; the sentence says where.
        UnverifiableError: There is no common digest to compare.
    """
    expectation.require()
    entry = expectation.entry
    if keeps_nothing(stored.manifest.files_root) and expectation.materialization is not None:
        # A check's later seal is about what the asset wrote for itself; that its IO manager was handed None, its writer sealed.
        run_id = expectation.materialization.run_id
        entry = seals.ledger.latest(expectation.asset, expectation.partition, (WRITE,), run_id=run_id) or entry
    if entry is None:
        raise UnverifiableError(f"{expectation.subject} has no seal to hold the stored bytes against.")
    sealed = entry.statement.predicate
    found = stored.manifest
    if sealed.get("files_root") and (found.files_root or not found.content_root):
        same = sealed["files_root"] == found.files_root
    elif sealed.get("content_root") and found.content_root:
        same = sealed["content_root"] == found.content_root
    else:
        raise UnverifiableError(
            f"{expectation.subject} was sealed in another form than it is read in, so it could not be verified: materialize it again."
        )
    if not same and not _written_since(seals, expectation, entry, stored):
        difference = locate(seals.manifest(entry, name="sealed"), stored)
        raise VerificationError(
            f"{expectation.subject} is not what run {sealed.get('run_id') or 'at its adoption'} sealed: {as_sentence(difference.sentence)} "
            f"It was not loaded. Keep the stored data as evidence, find out who wrote to it, and materialize it again."
        )


def _written_since(seals: Seals, expectation: Expectation, entry: Entry, stored: Stored) -> bool:
    """Whether a later run wrote and sealed these very bytes, though Dagster has no materialization of it: not yet, or it was killed."""
    newest = seals.ledger.latest(expectation.asset, expectation.partition, (WRITE,))
    if newest is None or newest.index <= entry.index:
        return False
    sealed, found = newest.statement.predicate, stored.manifest
    if sealed.get("files_root") or found.files_root:
        return sealed.get("files_root") == found.files_root
    return bool(found.content_root) and sealed.get("content_root") == found.content_root


def locate(sealed: Manifest, stored: Stored) -> Difference:
    """Where stored data differs from its seal: files, and for tables also columns and row blocks."""
    table = None
    if sealed.table is not None and stored.copy is not None:
        try:
            if stored.copy.is_dir() or table_format(stored.copy):
                table = table_grid(stored.copy, previous=sealed.table)
        except MlsecError:
            table = None  # the file comparison alone is the answer then
    return sealed.compare(Manifest(files=stored.manifest.files, table=table, multiset=stored.manifest.multiset))


def _write(manager: Any, context: dg.OutputContext, obj: Any) -> Iterator[Any]:
    """Let the wrapped manager write, in either form that Dagster allows; returns the metadata that it reported."""
    reported: dict[str, Any] = {}

    def note(event: Any) -> None:
        reported.update(context.get_logged_metadata())
        if isinstance(event, dict):
            reported.update(event)
        elif isinstance(event, dg.AssetMaterialization):
            reported.update(event.metadata)

    if inspect.isgeneratorfunction(manager.handle_output):
        for event in manager.handle_output(context, obj):
            note(event)
            yield event
        note(None)
    else:
        event = manager.handle_output(context, obj)
        note(event)
        if event:
            yield event
    return reported


def _grid_of_value(value: Any) -> tuple[TableGrid | None, list[str]]:
    """The content of the value in memory, taken before the IO manager can touch it.

    Only of values that are wholly in memory: a lazy frame would be computed twice, and a stream be gone before it is written.
    """
    if not any((cls.__module__.partition(".")[0], cls.__name__) in IN_MEMORY for cls in type(value).__mro__):
        return None, []
    try:
        grid = table_grid(value)
    except LossyContainerError as error:
        return None, [str(error)]
    except UnverifiableError as error:
        return None, [f"The value in memory has no content root: {error}"]
    return grid, list(grid.losses)


def _examine_written(storage: Storage, subject: Subject, grid: TableGrid | None) -> tuple[Manifest, str | None] | None:
    """What was written, as the digests of its bytes joined to the content of the value in memory."""
    if isinstance(storage, OpaqueStorage) and subject.location is None:
        return None if grid is None else (Manifest(table=grid), None)
    with storage.examine(subject) as stored:
        if stored is None:
            return None
        if stored.manifest.multiset is not None:
            return stored.manifest, stored.location  # a table in a database has no row order, so no grid will be read from it again
        return Manifest(files=stored.manifest.files, table=grid), stored.location


def _adopt(seals: Seals, expectation: Expectation, stored: Stored, context: dg.InputContext) -> None:
    step_context = _compat.step_context(context)
    seals.adopt(
        expectation.asset,
        {expectation.partition: (stored.manifest, stored.location)},
        reason="first read by a guarded project",
        adopted_by="an asset value loader" if step_context is None else f"run {step_context.run_id}",
    )
    context.log.warning(
        f"{expectation.subject} was there before it was guarded: adopted as it is, trusted from now on. "
        f"What happened to it before today cannot be known."
    )


def _sealed_location(expectation: Expectation) -> str | None:
    return expectation.entry.statement.predicate.get("location") if expectation.entry else None


def _code_version(step_context: Any, asset_key: dg.AssetKey) -> str | None:
    layer = step_context.job_def.asset_layer
    return layer.get(asset_key).code_version if layer.has(asset_key) else None


def _subject(context: dg.InputContext | dg.OutputContext, output_context: Any, partition: str | None, location: str | None) -> Subject:
    return Subject(
        asset_key=context.asset_key,
        partition=partition,
        partitions_def=context.asset_partitions_def if partition is not None else None,
        definition_metadata=output_context.definition_metadata or {},
        resource_config=context.resource_config,
        resources=context.resources,
        instance=_compat.instance_of(context),
        location=location,
    )


def wrap(definition: dg.ResourceDefinition, guarded: Guarded, open_seals: OpenSeals) -> dg.ResourceDefinition:
    """A copy of an IO manager's definition whose manager seals and verifies."""
    wrapped = _compat.with_resource_fn(definition, lambda manager: SealedIOManager(manager, guarded, open_seals))
    _WRAPPED.add(wrapped)
    return wrapped


def is_wrapped(resource: object) -> bool:
    """Whether a resource is an IO manager that seals and verifies already."""
    return isinstance(resource, dg.ResourceDefinition) and resource in _WRAPPED


_WRAPPED: weakref.WeakSet[dg.ResourceDefinition] = weakref.WeakSet()
