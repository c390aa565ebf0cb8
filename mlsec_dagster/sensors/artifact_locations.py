"""Where a project's assets lie: from what their materializations report, from the ledger, and from the definitions.

    project = ProjectArtifacts(defs)
    state = project.read(instance)            # the newest materialization of each partition, the newest first, as many as `limit` allows
    state = project.read(instance, state)     # only what was materialized since, and more of what was there before
    artifacts = ArtifactMap(...).knowing(state.knowledge)

A materialization tells its place by the metadata `dagster/uri`, `uri`, `path`, `table_uri` or `model_uri`, as the IO managers of Dagster,
dagster-aws and dagster-polars and many assets do. The IO managers of dagster-gcp and dagster-azure report a path without its bucket; that
is told by their configuration. A table of a database (`dagster/table_name`) lies in no place that a log of a storage names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.knowledge import Knowledge
from mlsec_dagster.audit.locations import locate
from mlsec_dagster.integrity.statements import ADOPTION, WRITE
from mlsec_dagster.sensors.io_manager_places import StoredAt, stored_at

if TYPE_CHECKING:
    from mlsec_dagster.integrity.ledger import Ledger

PLACES = ("dagster/uri", "uri", "path", "table_uri", "model_uri")
"""Metadata that tells where something lies, in small letters. Each counts: one may be a path without its bucket, and another the URI."""

TABLE = "dagster/table_name"

MODEL_KINDS = frozenset(
    (
        *("mlflow", "model", "sklearn", "scikitlearn", "scikit-learn", "pytorch", "torch", "tensorflow", "keras", "onnx", "jax"),
        *("xgboost", "lightgbm", "catboost", "huggingface", "transformers", "safetensors"),
    )
)
"""Kinds (`kinds={"sklearn"}`, the tag `dagster/kind/sklearn`) of assets that are models."""

_PER_QUERY = 1000
_KEPT = 16  # Places that are remembered of one partition: an asset that writes to a new path each time would otherwise fill the memory.

Subject = tuple[str, str | None]
"""Asset key as text, and partition."""

Mark = tuple[int, float]
"""Storage id and timestamp of a materialization."""


@dataclass(frozen=True)
class ProjectState:
    """What has been read so far. It is kept in the process; where it was lost, reading begins anew.

    Attributes:
        seen: Asset -> storage id and timestamp of the materialization up to which it was read. Some databases give the id of what was
            wiped away to what comes next.
        waiting: (storage id, asset) of materializations that are still to be read, in the order in which they will be.
        places: Asset and partition -> (storage id, URI) of where it lies and lay, the newest first.
        sealed: The same by write statements of the ledger: (place in the ledger, URI).
        sealed_until: Asset -> place in the ledger from which on its statements are to be read.
        sealed_size: Size of the ledger that was read to its end.
        sealed_all: Whether that is the whole ledger.
        tables: Assets that only report the name of a table.
        unplaced: Assets that report a path which leads nowhere that can be told, each with the path.
        fixed: What the definitions tell: (URI, artifact).
        models: Asset key -> the model that it is.
        pending: Assets with materializations that were not looked at yet.
    """

    seen: Mapping[str, Mark] = field(default_factory=dict[str, Mark])
    waiting: tuple[tuple[int, str], ...] = ()
    places: Mapping[Subject, tuple[tuple[int, str], ...]] = field(default_factory=dict[Subject, tuple[tuple[int, str], ...]])
    sealed: Mapping[Subject, tuple[tuple[int, str], ...]] = field(default_factory=dict[Subject, tuple[tuple[int, str], ...]])
    sealed_until: Mapping[str, int] = field(default_factory=dict[str, int])
    sealed_size: int = 0
    sealed_all: bool = True
    tables: frozenset[str] = frozenset()
    unplaced: Mapping[str, str] = field(default_factory=dict[str, str])
    fixed: tuple[tuple[str, Artifact], ...] = ()
    models: Mapping[str, str] = field(default_factory=dict[str, str])
    pending: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be read."""
        return not self.waiting and not self.pending and self.sealed_all

    @cached_property
    def knowledge(self) -> Knowledge:
        """The same for an `ArtifactMap`: first what the ledger says, then materializations, the newest first, then the definitions."""
        unseen: list[str] = []
        if not self.complete:
            unseen.append(
                f"{len(self.waiting):,} materializations and those of {self.pending:,} assets are still to be read"
                f"{'' if self.sealed_all else ', and a part of the ledger'}; accesses to where they lie may be unresolved until then."
            )
        if self.tables:
            unseen.append(f"Only names of tables, which no log of a storage names, are reported by {_some(self.tables)}.")
        if self.unplaced:
            told = {f"{asset} ({path})" for asset, path in self.unplaced.items()}
            unseen.append(f"A path that leads nowhere without its bucket is reported by {_some(told)}: report `dagster/uri` instead.")
        return Knowledge(
            locations=(*_claims(self.sealed, "ledger"), *_claims(self.places, "materialization"), *self.fixed),
            models=self.models,
            unseen=tuple(unseen),
        )


class ProjectArtifacts:
    """A project whose assets are to be found in logs."""

    def __init__(
        self,
        project: dg.Definitions | dg.RepositoryDefinition | None = None,
        *,
        models: Mapping[str, str] | Collection[str] = (),
        datasets: Collection[str] = (),
        limit: int = 5000,
    ) -> None:
        """Looks at the definitions.

        Args:
            project: The definitions, or in a sensor `context.repository_def`; without them only materializations are read.
            models: Keys of assets that are models whatever their kinds; as a mapping, with the names that they are registered under.
            datasets: Keys of assets that are data whatever their kinds.
            limit: Materializations, and statements of the ledger, that one reading takes at most.
        """
        self._limit = limit
        assets, resources = _parts(project)
        self._stored: dict[str, StoredAt] = {}
        fixed: list[tuple[str, Artifact]] = []
        found: dict[str, str] = {}
        for key, asset in assets.items():
            name = key.to_user_string()
            spec = asset.specs_by_key.get(key)
            if spec is not None and MODEL_KINDS & {kind.lower() for kind in spec.kinds}:
                found[name] = name
            told = _text((spec.metadata if spec is not None else {}).get("dagster/uri"))
            if told is not None and locate(told) is not None:
                fixed.append((told, Artifact("dataset", asset=name, by="definition")))
            stored = stored_at(asset, key, resources)
            if stored is not None:
                self._stored[name] = stored
                fixed.append((stored.uri(key), Artifact("dataset", asset=name, by="io_manager")))
        for name in datasets:
            found.pop(name, None)
        self._models = found | (dict(models) if isinstance(models, Mapping) else {name: name for name in models})
        self._fixed = tuple(sorted(fixed, key=lambda each: each[0]))

    def read(self, instance: dg.DagsterInstance, state: ProjectState | None = None, *, ledger: Ledger | None = None) -> ProjectState:
        """What is known after one more reading of at most `limit` materializations.

        Args:
            instance: Whose event log is read.
            state: What an earlier reading gave.
            ledger: Where guarded assets were sealed. Its statements are signed, which metadata is not, and therefore count first.

        Raises:
            LedgerError: A statement of the ledger is not what was signed.
        """
        state = state or ProjectState()
        if (state.fixed, state.models) != (self._fixed, self._models):
            state = replace(state, fixed=self._fixed, models=self._models)
        state = self._materialized(instance, state)
        return state if ledger is None else self._sealed(ledger, state)

    def _materialized(self, instance: dg.DagsterInstance, state: ProjectState) -> ProjectState:
        seen, waiting, budget = dict(state.seen), list(state.waiting), self._limit
        places, unplaced, tables = dict(state.places), dict(state.unplaced), set(state.tables)
        changed = _changed(instance, seen)
        if not changed and not waiting:
            return state
        for last, asset in changed:
            if budget <= 0:
                break
            key = dg.AssetKey.from_user_string(asset)
            if asset not in seen or last[0] <= seen[asset][0]:
                ids = set(_compat.materialized_partitions(instance, key).values()) | {last[0]}
                waiting += [(storage_id, asset) for storage_id in ids]
                seen[asset] = last
                budget -= 1
                continue
            records = instance.fetch_materializations(
                dg.AssetRecordsFilter(asset_key=key, after_storage_id=seen[asset][0]), limit=budget, ascending=True
            ).records
            budget -= max(1, len(records))
            for record in records:
                seen[asset] = (record.storage_id, record.timestamp)
                self._note(asset, record, places, unplaced, tables)
            if not records:
                seen[asset] = last  # It was wiped meanwhile.
        waiting.sort(reverse=True)
        now, later = waiting[: max(0, budget)], waiting[max(0, budget) :]
        ids_of: dict[str, list[int]] = {}
        for storage_id, asset in now:
            ids_of.setdefault(asset, []).append(storage_id)
        for asset, ids in ids_of.items():
            for start in range(0, len(ids), _PER_QUERY):
                some = _compat.materializations_by_storage_id(
                    instance, dg.AssetKey.from_user_string(asset), ids[start : start + _PER_QUERY]
                )
                for record in some.values():
                    self._note(asset, record, places, unplaced, tables)
        return replace(
            state,
            seen=seen,
            waiting=tuple(later),
            places=places,
            unplaced=unplaced,
            tables=frozenset(tables),
            pending=sum(1 for last, asset in changed if seen.get(asset) != last),
        )

    def _note(self, asset: str, record: Any, places: dict[Subject, Any], unplaced: dict[str, str], tables: set[str]) -> None:
        materialization = record.asset_materialization
        if materialization is None:
            return
        metadata = {name.lower(): _text(value) for name, value in materialization.metadata.items()}
        told = [text for name in PLACES if (text := metadata.get(name))]
        uris = [text for text in told if locate(text) is not None]
        for path in told:
            if ":" not in path and locate(path) is None:
                _complete(uris, path, self._stored.get(asset))
        subject = (asset, record.partition_key)
        if uris:
            _add(places, subject, record.storage_id, uris)
            unplaced.pop(asset, None)
        elif told and subject not in places:
            unplaced[asset] = told[0][:200]
        elif not told and metadata.get(TABLE):
            tables.add(asset)

    def _sealed(self, ledger: Ledger, state: ProjectState) -> ProjectState:
        head = ledger.checkpoint()
        size = 0 if head is None else head.size
        if size == state.sealed_size and state.sealed_all:
            return state
        sealed, until, budget = dict(state.sealed), dict(state.sealed_until), self._limit
        for asset in ledger.assets():
            if budget <= 0:
                break
            for entry in ledger.history(asset, types=(WRITE, ADOPTION), start=until.get(asset, 0)):
                until[asset] = entry.index + 1
                location = entry.statement.predicate.get("location")
                if isinstance(location, str) and location:
                    uri = (
                        location if locate(location) is not None or asset not in self._stored else self._stored[asset].below_root(location)
                    )
                    if locate(uri) is not None:
                        _add(sealed, (asset, entry.statement.partition), entry.index, [uri])
                budget -= 1
                if budget <= 0:
                    break
        return replace(state, sealed=sealed, sealed_until=until, sealed_size=size, sealed_all=budget > 0)


def _parts(
    project: dg.Definitions | dg.RepositoryDefinition | None,
) -> tuple[Mapping[dg.AssetKey, dg.AssetsDefinition], Mapping[str, dg.ResourceDefinition]]:
    """A project's assets and its resources."""
    if project is None:
        return {}, {}
    if isinstance(project, dg.Definitions):
        return _compat.assets_by_key(project), _compat.resource_definitions(project.resources or {})
    return project.assets_defs_by_key, project.get_top_level_resources()


def _changed(instance: dg.DagsterInstance, seen: Mapping[str, Mark]) -> list[tuple[Mark, str]]:
    """(its last materialization, asset) of assets whose last one was not seen, the newest first; one query."""
    changed: list[tuple[Mark, str]] = []
    for record in instance.get_asset_records():
        last, asset = record.asset_entry.last_materialization_record, record.asset_entry.asset_key.to_user_string()
        if last is not None and seen.get(asset) != (last.storage_id, last.timestamp):
            changed.append(((last.storage_id, last.timestamp), asset))
    return sorted(changed, reverse=True)


def _complete(uris: list[str], path: str, stored: StoredAt | None) -> None:
    """A path without its bucket: of one of the URIs, which then may lack the partition (dagster-aws), else of the IO manager's bucket."""
    parts = tuple(path.split("/"))
    for uri in uris:
        location = locate(uri)
        if location is not None and location.parts and parts[: len(location.parts)] == location.parts:
            uris[uris.index(uri)] = "/".join((uri.rstrip("/"), *parts[len(location.parts) :]))
            return
    if stored is not None:
        uris.append(stored.below_root(path))


def _add(places: dict[Subject, Any], subject: Subject, place: int, uris: Collection[str]) -> None:
    newest: dict[str, int] = {uri: at for at, uri in places.get(subject, ())}
    for uri in uris:
        newest[uri] = max(place, newest.get(uri, 0))
    places[subject] = tuple(sorted(((at, uri) for uri, at in newest.items()), reverse=True)[:_KEPT])


def _claims(places: Mapping[Subject, tuple[tuple[int, str], ...]], by: str) -> Iterator[tuple[str, Artifact]]:
    """What lies where, the newest first. A place that several partitions report is their asset's, for it does not tell them apart."""
    partitions: dict[tuple[str, str], set[str | None]] = {}
    newest: dict[tuple[str, str], int] = {}
    for (asset, partition), here in places.items():
        for place, uri in here:
            partitions.setdefault((uri, asset), set()).add(partition)
            newest[uri, asset] = max(place, newest.get((uri, asset), 0))
    for (uri, asset), _ in sorted(newest.items(), key=lambda each: (-each[1], each[0])):
        (first, *others) = partitions[uri, asset]
        yield uri, Artifact("dataset", asset=asset, partition=None if others else first, by=by)


def _text(value: Any) -> str | None:
    """The text of a metadata value of whatever kind (path, URL, text)."""
    text = getattr(value, "value", value)
    return text if isinstance(text, str) and text else None


def _some(names: Collection[str], count: int = 5) -> str:
    shown = sorted(names)[:count]
    return ", ".join(shown) + (f" and {len(names) - count} more" if len(names) > count else "")
