"""All of it, put on an existing project in one call.

    import mlsec_dagster as mlsec

    defs = mlsec.guard(existing_defs, datasets=["raw_flights", "training_set"])

From then on every materialization of these assets is sealed when it is written, checked by a blocking `dataset_hash` check, verified
again before anything reads it, and compared with those before it by a `distribution_stability` check. The rest of the project stays as it
was: jobs grow by the checks and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.dataset_hash import HashCheckSettings, Resolver, build_dataset_hash_check, is_external, validate_settings
from mlsec_dagster.asset_checks.distribution_stability import CHECK_NAME as STABILITY
from mlsec_dagster.asset_checks.distribution_stability import StabilityCheckSettings, build_distribution_stability_check
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.integrity.verdicts import Policy
from mlsec_dagster.io_managers.wrapper import Guarded, OpenSeals, is_wrapped, wrap
from mlsec_dagster.resources import AuditTrail, SecurityStore, Signer, open_store
from mlsec_dagster.sealing import Seals

if TYPE_CHECKING:
    from mlsec_dagster.audit.artifact_map import ArtifactMap
    from mlsec_dagster.audit.artifacts import Translator
    from mlsec_dagster.audit.registry import MlflowRegistry
    from mlsec_dagster.sensors.log_sources import AuditLog


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One guarded asset with settings of its own; what is left out is taken from `guard`.

    Attributes:
        key: The asset.
        policy: `tracked`, `append_only` or `immutable`.
        pinned: For `immutable`: a digest (`sha256:…`), or the path of a SHA256SUMS file.
        label: Column that a model is to predict.
        time: Column that holds the time of a row.
        ignore: Columns that may change freely from one materialization to the next; their bytes are sealed all the same.
        sensitive: Columns whose values must not be shown.
        false_alarms: How often a materialization in which nothing changed may alarm.
    """

    key: dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition | dg.SourceAsset
    policy: Policy | None = None
    pinned: str | None = None
    label: str | None = None
    time: str | None = None
    ignore: Sequence[str] | None = None
    sensitive: Sequence[str] | None = None
    false_alarms: float | None = None


def guard(
    defs: dg.Definitions,
    *,
    datasets: Sequence[dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition | dg.SourceAsset | Dataset] = (),
    audit: Sequence["AuditLog | dg.SensorDefinition"] = (),
    policy: Policy = "tracked",
    label: str | None = None,
    time: str | None = None,
    ignore: Sequence[str] = (),
    sensitive: Sequence[str] = (),
    false_alarms: float = 0.01,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    blocking: bool = True,
    resolver: Resolver | None = None,
    artifacts: "ArtifactMap | Translator | None" = None,
    registry: "str | MlflowRegistry | None" = None,
    trail: AuditTrail | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
) -> dg.Definitions:
    """Returns the same definitions with these assets guarded, and these audit logs tailed.

    Guard a project as a whole and once: after `Definitions.merge`, with all of its datasets. Resources of what is merged with it later are
    not wrapped, and reads through them are not verified.

    Args:
        defs: The project's definitions.
        datasets: The assets to guard: keys or definitions, or a `Dataset` for one with settings of its own.
        audit: Logs to tail into the audit trail, such as `CloudTrail(bucket="…")`, or sensors of `build_audit_log_sensor`.
        policy: `tracked` (content may change, but only by a materialization), `append_only` (earlier rows never change) or `immutable`.
        label: Column that a model is to predict, in every dataset that does not name its own. Without it, flipped labels are not seen.
        time: Column that holds the time of a row.
        ignore: Columns that may change freely.
        sensitive: Columns whose values must not be shown.
        false_alarms: How often a materialization in which nothing changed may alarm. Defaults to 0.01, one in a hundred.
        severity: The severity of a failed `dataset_hash` check. Defaults to ERROR. `distribution_stability` warns.
        blocking: Whether a failed `dataset_hash` check blocks downstream assets in the same run. Defaults to True.
            `distribution_stability` does not block. A project may have one that does, of `build_distribution_stability_checks`;
            its asset is then given no second one.
        resolver: Says where assets lie that write for themselves and do not report it.
        artifacts: Says what an access in a log is about where the project and its MLflow registry do not tell.
        registry: Tracking URI of that MLflow registry. Default: MLFLOW_TRACKING_URI, if it is set.
        trail: Where the audit trail lies. Default: `$DAGSTER_HOME/mlsec/trail`.
        store: Where the ledger is. Default: SQLite under `$DAGSTER_HOME/mlsec/`.
        signer: What signs. Default: an Ed25519 key file under `$DAGSTER_HOME/mlsec/keys/`.

    Returns:
        dg.Definitions: With a `dataset_hash` and a `distribution_stability` check per dataset, and every IO manager wrapped; with a sensor
            for each log, and the `audit_trail` asset.

    Raises:
        ConfigurationError: A key that is not in `defs` (the nearest one is suggested), an unknown policy, a dataset given twice,
            definitions that are guarded already, or something else than `Definitions`.
    """
    _require_definitions(defs)
    if audit:
        from mlsec_dagster.sensors.audit_log import build_audit_definitions

        logs = build_audit_definitions(audit, beside=defs, artifacts=artifacts, registry=registry, trail=trail, store=store, signer=signer)
        defs = dg.Definitions.merge(defs, logs)
        if not datasets:
            return defs
    _require_unguarded(defs)
    declared = [dataset if isinstance(dataset, Dataset) else Dataset(key=dataset) for dataset in datasets]
    keyed = [(key, dataset) for dataset in declared for key in _compat.keys_of(dataset.key)]
    known = _compat.assets_by_key(defs)
    require_known([key for key, _ in keyed], known)

    defaults = HashCheckSettings(
        policy=policy,
        severity=severity,
        blocking=blocking,
        resolver=resolver,
        columns=columns_by_role(label, time, ignore, sensitive),
        store=store,
        signer=signer,
    )
    own = stability_checks_of(defs)
    checks = [
        check
        for key, dataset in keyed
        for check in checks_of(key, known[key], dataset, defaults, false_alarms)
        if not own.intersection(check.check_keys)
    ]

    def open_seals(instance: dg.DagsterInstance, executor: str | None) -> Seals:
        return Seals(open_store(instance, store, signer, executor=executor), instance)

    guarded = {key: is_external(known[key]) for key, _ in keyed}
    return with_guarded_io_managers(defs, guarded, open_seals, checks)


def checks_of(
    key: dg.AssetKey, definition: dg.AssetsDefinition | dg.SourceAsset | None, dataset: Dataset, defaults: HashCheckSettings, rate: float
) -> list[dg.AssetChecksDefinition]:
    """The checks of one dataset: its bytes, and its distribution.

    Args:
        key: The asset.
        definition: Its definition, if it is of this code location.
        dataset: Its own settings.
        defaults: What it leaves out.
        rate: False-alarm rate, unless it names its own.

    Raises:
        ConfigurationError: A setting that cannot be right.
    """
    settings = settings_of(dataset, defaults)
    columns = {role: list(names) for role, names in (settings.columns or {}).items()}
    stability = StabilityCheckSettings(
        label=next(iter(columns["label"]), None),
        time=next(iter(columns["time"]), None),
        ignore=columns["ignore"],
        sensitive=columns["sensitive"],
        false_alarms=rate if dataset.false_alarms is None else dataset.false_alarms,
        resolver=settings.resolver,
        store=settings.store,
        signer=settings.signer,
    )
    return [build_dataset_hash_check(key, definition, settings), build_distribution_stability_check(key, definition, stability)]


def stability_checks_of(defs: dg.Definitions) -> set[dg.AssetCheckKey]:
    """The `distribution_stability` checks that a project has already."""
    declared = [check for check in defs.asset_checks or [] if isinstance(check, dg.AssetsDefinition)]
    return {key for check in declared for key in check.check_keys if key.name == STABILITY}


def columns_by_role(label: str | None, time: str | None, ignore: Sequence[str], sensitive: Sequence[str]) -> dict[str, Sequence[str]]:
    """Declared columns, by what they are to the checks."""
    return {"label": [label] if label else [], "time": [time] if time else [], "ignore": list(ignore), "sensitive": list(sensitive)}


def settings_of(dataset: Dataset, defaults: HashCheckSettings) -> HashCheckSettings:
    """What one dataset's check does: its own settings, and the defaults for what it leaves out.

    Raises:
        ConfigurationError: A policy or a pin that cannot be right.
    """
    own = {
        "label": [dataset.label] if dataset.label else None,
        "time": [dataset.time] if dataset.time else None,
        "ignore": dataset.ignore,
        "sensitive": dataset.sensitive,
    }
    columns = {**(defaults.columns or {}), **{role: names for role, names in own.items() if names is not None}}
    settings = replace(defaults, policy=dataset.policy or defaults.policy, pinned=dataset.pinned, columns=columns)
    validate_settings(settings)
    return settings


def require_known(keys: Sequence[dg.AssetKey], known: Mapping[dg.AssetKey, Any]) -> None:
    """Refuse keys that are not in a project, and suggest the nearest: a check on them would guard nothing.

    Raises:
        ConfigurationError: No keys, an unknown one, or one given twice.
    """
    if not keys:
        raise ConfigurationError(
            "guard() was given no datasets and no audit logs: name at least one asset, e.g. datasets=['training_set'], or one log, e.g. "
            "audit=[mlsec.CloudTrail(bucket='…')]."
        )
    names = [key.to_user_string() for key in known]
    for key in keys:
        if key not in known:
            near = get_close_matches(key.to_user_string(), names, n=1, cutoff=0.0)
            hint = f" Did you mean {near[0]!r}?" if near else " The project defines no assets."
            raise ConfigurationError(
                f"There is no asset {key.to_user_string()!r} in these definitions, so guarding it would guard nothing.{hint}"
            )
    repeated = sorted({key.to_user_string() for key in keys if keys.count(key) > 1})
    if repeated:
        raise ConfigurationError(f"These datasets are given twice: {', '.join(repeated)}. Name each one once.")


def with_guarded_io_managers(
    defs: dg.Definitions, guarded: Guarded, open_seals: OpenSeals, checks: Sequence[dg.AssetChecksDefinition]
) -> dg.Definitions:
    """The definitions with every IO manager wrapped, wherever it is bound: on the project, on an asset, on a job.

    All are wrapped, not only those of guarded assets, because any IO manager or input manager may be the one that reads a guarded asset.
    """
    resources = dict(defs.resources or {})
    # What Dagster itself binds to assets that have none, with the configuration that it takes.
    resources.setdefault("io_manager", _compat.default_job_io_manager_with_fs_io_manager_schema)
    definitions = _compat.resource_definitions(resources)  # kept until the end: what is wrapped is known by its id
    wrapped_definitions: dict[int, dg.ResourceDefinition] = {}

    def wrapped_defs(bound: Mapping[str, dg.ResourceDefinition]) -> dict[str, dg.ResourceDefinition]:
        result: dict[str, dg.ResourceDefinition] = {}
        for name, definition in bound.items():
            if _compat.is_io_manager_definition(definition):
                # The same definition stays the same object, or Dagster would see two resources in conflict under one key.
                wrapped_definitions.setdefault(id(definition), wrap(definition, guarded, open_seals))
                result[name] = wrapped_definitions[id(definition)]
            else:
                result[name] = definition
        return result

    changed_resources = {name: new for name, new in wrapped_defs(definitions).items() if new is not definitions[name]}
    wrapped_resources: dict[str, Any] = {**resources, **changed_resources}
    assets_by_id: dict[int, Any] = {}
    jobs_by_id: dict[int, Any] = {}

    def wrapped_asset(asset: Any) -> Any:
        if not isinstance(asset, dg.AssetsDefinition | dg.SourceAsset) or not asset.resource_defs:
            return asset
        if id(asset) not in assets_by_id:
            assets_by_id[id(asset)] = _compat.with_resource_defs(asset, wrapped_defs(asset.resource_defs))
        return assets_by_id[id(asset)]

    def wrapped_job(job: Any) -> Any:
        if not isinstance(job, dg.JobDefinition):
            return job
        if id(job) not in jobs_by_id:
            bound = dict(job.resource_defs)
            if bound.get("io_manager") is _compat.default_job_io_manager and defs.resources and "io_manager" in defs.resources:
                del bound["io_manager"]  # Dagster puts the project's own in its place
            changed = wrapped_defs(bound)
            if all(changed[name] is bound[name] for name in bound):
                jobs_by_id[id(job)] = job
            else:
                missing = _compat.resource_definitions(wrapped_resources) if job.is_missing_required_resources() else {}
                jobs_by_id[id(job)] = job.with_top_level_resources({**missing, **job.resource_defs, **changed})
        return jobs_by_id[id(job)]

    return dg.Definitions(
        assets=_each(defs.assets, wrapped_asset),
        schedules=_each(defs.schedules, lambda schedule: _with_job(schedule, wrapped_job)),
        sensors=_each(defs.sensors, lambda sensor: _with_jobs(sensor, wrapped_job)),
        jobs=_each(defs.jobs, wrapped_job),
        resources=wrapped_resources,
        executor=defs.executor,
        loggers=defs.loggers,
        asset_checks=[*_each(defs.asset_checks, wrapped_asset), *_each(checks, wrapped_asset)],
        metadata=defs.metadata,
        component_tree=defs.component_tree,
    )


def _require_definitions(defs: object) -> None:
    if not isinstance(defs, dg.Definitions):
        raise ConfigurationError(
            f"guard() takes the Definitions of a project, but was given a {type(defs).__name__}: "
            "guard what a function under @definitions returns; put what a @repository lists into Definitions(assets=…, jobs=…)."
        )


def _require_unguarded(defs: dg.Definitions) -> None:
    if any(is_wrapped(resource) for resource in (defs.resources or {}).values()):
        raise ConfigurationError(
            "These definitions are guarded already: name all datasets in one guard(); "
            "Dataset(key=…, policy=…) gives one settings of its own."
        )


def _each(items: Iterable[Any] | None, change: Any) -> list[Any]:
    return [change(item) for item in items or []]


def _with_job(schedule: Any, wrapped_job: Any) -> Any:
    if isinstance(schedule, dg.ScheduleDefinition) and schedule.target.has_job_def:
        job = wrapped_job(schedule.job)
        return schedule if job is schedule.job else schedule.with_updated_job(job)
    return schedule


def _with_jobs(sensor: Any, wrapped_job: Any) -> Any:
    if any(target.has_job_def for target in sensor.targets):
        jobs = [wrapped_job(job) for job in sensor.jobs]
        if any(new is not old for new, old in zip(jobs, sensor.jobs, strict=True)):
            return sensor.with_updated_jobs(jobs)
    return sensor
