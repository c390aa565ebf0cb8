"""What the wrapper asks of a kind of IO manager: where its bytes lie, and how to look at them before it does."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import dagster as dg

from mlsec_dagster.integrity.digests import hash_bytes
from mlsec_dagster.integrity.manifest import FileEntry, Manifest


@dataclass(frozen=True, slots=True)
class Subject:
    """One asset partition, with what an IO manager wants to know about it.

    Attributes:
        asset_key: The asset.
        partition: Its partition key, or None.
        partitions_def: The asset's partitions, or None.
        definition_metadata: The asset's own metadata, from which some IO managers take schema, columns or path.
        resource_config: The configuration under which the IO manager was initialised.
        resources: The resources that the IO manager itself depends on.
        instance: The Dagster instance, for dynamic partitions.
        location: Where the last seal says that it lies, or None.
        sealed: What the last seal says of its one object, or None. An object store that still has that very version saves a download.
    """

    asset_key: dg.AssetKey
    partition: str | None
    partitions_def: dg.PartitionsDefinition | None
    definition_metadata: Mapping[str, Any]
    resource_config: Mapping[str, Any] | None
    resources: Any
    instance: dg.DagsterInstance
    location: str | None = None
    sealed: FileEntry | None = None

    def context(self) -> dg.OutputContext:
        """A context about this one partition, as Dagster builds them for assets that it loads."""
        return dg.build_output_context(
            asset_key=self.asset_key,
            name=self.asset_key.path[-1],
            step_key="none",
            definition_metadata=dict(self.definition_metadata),
            resource_config=self.resource_config,
            resources=self.resources,
            asset_partitions_def=self.partitions_def,
            asset_partition_key_range=None if self.partition is None else dg.PartitionKeyRange(self.partition, self.partition),
            instance=self.instance,
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What lies in storage for one subject.

    Attributes:
        manifest: Digests of the files, or of the rows of a warehouse table.
        copy: A private copy of the very bytes that were hashed, while the context lasts; None if there is none.
        location: Where it lies: a path, a URI, the name of a table.
        relation: The table in its database, while the context lasts (a DuckDB relation, an Ibis table); None for files.
        snapshot: Whether a transaction holds `relation` as it was when it was hashed.
        pickled: Whether the files are what one of Dagster's own pickling IO managers writes: a pickle of the value, and nothing else.
    """

    manifest: Manifest
    copy: Path | None
    location: str | None
    relation: Any = None
    snapshot: bool = False
    pickled: bool = False


def keeps_nothing(files_root: object) -> bool:
    """Whether what an IO manager stored is None, pickled.

    A function that writes for itself and declares no return type returns None, and Dagster hands that to its IO manager: the asset's data
    is elsewhere.
    """
    return files_root in _roots_of_none()


@cache
def _roots_of_none() -> frozenset[str | None]:
    pickles = (pickle.dumps(None, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1))
    return frozenset(Manifest(files=(FileEntry(path="", size=len(data), digest=hash_bytes(data)),)).files_root for data in pickles)


Verify = Callable[[str | None, Stored | None], None]
"""Called with a partition and what is stored for it (None: nothing); raises unless it may be read."""


class Storage(Protocol):
    """One kind of IO manager. `how` says by what means hashing and reading see the same bytes."""

    how: str

    def examine(self, subject: Subject) -> AbstractContextManager[Stored | None]:
        """What is stored for a subject now, or None if nothing is."""
        ...

    def load(self, context: dg.InputContext, subjects: Mapping[str | None, Subject], verify: Verify) -> Any:
        """The IO manager's own value for this input, verified."""
        ...


def load_between_verifications(
    storage: Storage,
    load_input: Callable[[dg.InputContext], Any],
    context: dg.InputContext,
    subjects: Mapping[str | None, Subject],
    verify: Verify,
) -> Any:
    """For storage that the IO manager reads in a way of its own: hash before it reads and once more after."""

    def verify_all() -> None:
        for partition, subject in subjects.items():
            with storage.examine(subject) as stored:
                verify(partition, stored)

    verify_all()
    value = load_input(context)
    verify_all()
    return value
