"""The only file that imports private Dagster names; each line is a public API that we would use if there were one."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from dagster._core.decorator_utils import has_at_least_one_parameter
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluation,
    AssetCheckEvaluationTargetMaterializationData,
)
from dagster._core.definitions.asset_checks.asset_check_factories.utils import (
    assets_to_keys,
    ensure_no_duplicate_asset_checks,
    ensure_no_duplicate_assets,
)
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.definitions.job_definition import default_job_io_manager, default_job_io_manager_with_fs_io_manager_schema
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster._core.events import DagsterEventType
from dagster._core.execution.build_resources import wrap_resources_for_execution
from dagster._core.execution.plan.utils import build_resources_for_manager as _build_resources_for_manager
from dagster._core.storage.db_io_manager import DbIOManager
from dagster._core.storage.input_manager import IInputManagerDefinition
from dagster._core.storage.mem_io_manager import InMemoryIOManager
from dagster._core.storage.upath_io_manager import UPathIOManager
from dagster._utils.warnings import disable_dagster_warnings

from mlsec_dagster.errors import UnverifiableError

__all__ = [
    "DATA_VERSION_TAG",
    "AssetCheckEvaluation",
    "AssetCheckEvaluationTargetMaterializationData",
    "DagsterEventType",
    "DbIOManager",
    "InMemoryIOManager",
    "UPathIOManager",
    "UnresolvedAssetJobDefinition",
    "assets_by_key",
    "assets_to_keys",
    "default_job_io_manager",
    "default_job_io_manager_with_fs_io_manager_schema",
    "disable_dagster_warnings",
    "ensure_no_duplicate_asset_checks",
    "ensure_no_duplicate_assets",
    "has_evaluation",
    "instance_of",
    "is_io_manager_definition",
    "keys_of",
    "latest_storage_ids",
    "materializations_by_storage_id",
    "materialized_partitions",
    "resource_config",
    "resource_definitions",
    "resources_for",
    "set_data_version",
    "step_context",
    "table_slice",
    "upath_locations",
    "with_resource_defs",
    "with_resource_fn",
]


def assets_by_key(defs: dg.Definitions) -> dict[dg.AssetKey, dg.AssetsDefinition]:
    """Asset key -> its definition, for definitions that may lack resources which others add (those of one component, for one)."""
    once = {id(each): each for each in defs.assets or []}.values()
    assets = [dg.AssetsDefinition(specs=[each]) if isinstance(each, dg.AssetSpec) else each for each in once]
    graph = AssetGraph.from_assets([each for each in assets if isinstance(each, dg.AssetsDefinition | dg.SourceAsset)])
    return {key: assets_def for assets_def in graph.assets_defs for key in assets_def.keys}


def keys_of(asset: dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition | dg.SourceAsset) -> list[dg.AssetKey]:
    """The keys that a user means. Text is read as Dagster shows keys: `lake/raw` has two components."""
    return [dg.AssetKey.from_user_string(asset)] if isinstance(asset, str) else list(assets_to_keys([asset]))


def is_io_manager_definition(definition: dg.ResourceDefinition) -> bool:
    """Whether what a definition makes can load inputs or handle outputs."""
    return isinstance(definition, IInputManagerDefinition)


def resource_definitions(resources: Mapping[str, Any]) -> dict[str, dg.ResourceDefinition]:
    """The definitions that Dagster makes of a project's resources."""
    return dict(wrap_resources_for_execution(resources))


def with_resource_fn(definition: dg.ResourceDefinition, wrap: Callable[[Any], Any]) -> dg.ResourceDefinition:
    """A copy of `definition`, of the same type and configuration schema, whose produced value goes through `wrap`.

    Copying keeps everything else (configuration, nested resources, input and output schemas, what the UI shows) as it was.
    """
    original = definition.resource_fn

    def call(init_context: Any) -> Any:
        return original(init_context) if has_at_least_one_parameter(original) else original()  # type: ignore[call-arg]

    @contextmanager
    def managed(init_context: Any) -> Iterator[Any]:
        produced = call(init_context)
        manager = produced if hasattr(produced, "__enter__") else contextmanager(lambda: produced)()
        with manager as value:
            yield wrap(value)

    def plain(init_context: Any) -> Any:
        return wrap(call(init_context))

    resource_fn = managed if _returns_context_manager(original) else plain
    for name in {"__module__", "__name__", "__qualname__", "__doc__"} & set(dir(original)):
        setattr(resource_fn, name, getattr(original, name))  # the UI names a resource by its function
    clone = copy.copy(definition)
    clone._resource_fn = resource_fn
    return clone


def _returns_context_manager(function: Callable[..., Any]) -> bool:
    import inspect

    return inspect.isgeneratorfunction(inspect.unwrap(function)) or getattr(function, "__name__", "") == "_initialize_and_run_cm"


def with_resource_defs(
    asset: dg.AssetsDefinition | dg.SourceAsset, resource_defs: Mapping[str, dg.ResourceDefinition]
) -> dg.AssetsDefinition | dg.SourceAsset:
    """A copy of an asset's definition with its own bound resources replaced."""
    if isinstance(asset, dg.SourceAsset):
        clone = copy.copy(asset)
        clone.resource_defs = dict(resource_defs)
        return clone
    with disable_dagster_warnings():
        return asset.__class__(**{**asset.get_attributes_dict(), "resource_defs": dict(resource_defs)})


def upath_locations(manager: UPathIOManager, context: dg.InputContext | dg.OutputContext) -> dict[str | None, Any]:
    """Partition key -> the `UPath` at which a `UPathIOManager` keeps it (None for an unpartitioned asset)."""
    if context.has_asset_partitions:
        return {key: path for key, path in manager._get_paths_for_partitions(context).items()}  # noqa: C416 - widens the type of the keys
    return {None: manager._get_path(context)}


def table_slice(manager: DbIOManager, context: dg.InputContext | dg.OutputContext, output_context: dg.OutputContext) -> tuple[Any, Any]:
    """The database client of a `DbIOManager` and the slice (table, partition) that it keeps for this context."""
    return manager._db_client, manager._get_table_slice(context, output_context)


def step_context(context: dg.InputContext | dg.OutputContext) -> Any | None:
    """The step that reads or writes; None outside a run, as when `Definitions.load_asset_value` reads."""
    return context._step_context


def instance_of(context: dg.InputContext | dg.OutputContext) -> dg.DagsterInstance:
    """The instance whose materializations a context is about.

    Raises:
        UnverifiableError: Outside a run, none was given.
    """
    step = step_context(context)
    instance = getattr(context, "_instance", None) if step is None else step.instance
    if instance is None:
        raise UnverifiableError(
            f"{context.asset_key.to_user_string()} is guarded, and whether it may be read is told by its materializations: "
            "set DAGSTER_HOME, or pass instance= to what loads it."
        )
    return instance


def resource_config(step_context: Any, key: str) -> Any:
    """The run configuration under which the resource `key` was initialised."""
    return step_context.resolved_run_config.resources[key].config


def resources_for(step_context: Any, key: str) -> Any:
    """The resources that the resource `key` itself depends on. Given to a context, they spare it from building some of its own."""
    return _build_resources_for_manager(key, step_context)


def set_data_version(context: dg.OutputContext, version: str) -> None:
    """Give the asset being written a data version, unless its own code already gave one."""
    step_context = context.step_context
    if not step_context.has_data_version(context.asset_key):
        step_context.set_data_version(context.asset_key, dg.DataVersion(version))


def latest_storage_ids(instance: dg.DagsterInstance, asset_key: dg.AssetKey, partitions: Sequence[str]) -> Mapping[str, int]:
    """Partition key -> storage id of its latest materialization."""
    return instance.get_latest_storage_id_by_partition(asset_key, DagsterEventType.ASSET_MATERIALIZATION, set(partitions))


def materialized_partitions(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> Mapping[str, int]:
    """Every partition that was ever materialized -> storage id of its latest materialization."""
    return instance.get_latest_storage_id_by_partition(asset_key, DagsterEventType.ASSET_MATERIALIZATION)


def materializations_by_storage_id(instance: dg.DagsterInstance, asset_key: dg.AssetKey, storage_ids: Sequence[int]) -> dict[int, Any]:
    """Storage id -> event record."""
    if not storage_ids:
        return {}
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset_key, storage_ids=list(storage_ids)), limit=len(storage_ids)
    ).records
    return {record.storage_id: record for record in records}


def has_evaluation(instance: dg.DagsterInstance, check_key: dg.AssetCheckKey, name: str, values: Collection[str]) -> bool:
    """Whether a check has an evaluation, among its last hundred, whose metadata entry `name` is one of `values`."""
    for record in instance.event_log_storage.get_asset_check_execution_history(check_key, limit=100):
        event = record.event.dagster_event if record.event is not None else None
        data = event.event_specific_data if event is not None else None
        if isinstance(data, AssetCheckEvaluation) and name in data.metadata and data.metadata[name].value in values:
            return True
    return False
