"""Seal every Dagster dataset when it is written; verify it before it is used.

    import mlsec_dagster as mlsec

    defs = mlsec.guard(existing_defs, datasets=["raw_flights", "training_set"])

The names below are resolved when they are first used, so that importing a part of the package does not import all of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlsec_dagster.asset_checks.dataset_hash import build_dataset_hash_checks
    from mlsec_dagster.asset_checks.distribution_stability import build_distribution_stability_checks
    from mlsec_dagster.asset_checks.expectations import build_expectation_checks
    from mlsec_dagster.assets.audit_trail import build_audit_trail_definitions
    from mlsec_dagster.audit.artifact_map import ArtifactMap
    from mlsec_dagster.audit.artifacts import Artifact
    from mlsec_dagster.components.audit_logs.component import AuditLogComponent
    from mlsec_dagster.components.dataset_checks.component import DatasetChecksComponent, load_from_defs_folder
    from mlsec_dagster.components.expectation_checks.component import ExpectationChecksComponent
    from mlsec_dagster.definitions import build_security_definitions
    from mlsec_dagster.guarding import Dataset, guard
    from mlsec_dagster.resources import AuditTrail, SecurityStore, Signer
    from mlsec_dagster.sensors.audit_log import build_audit_log_sensor
    from mlsec_dagster.sensors.log_sources import AzureMonitor, CloudTrail, GCPAuditLogs, Kubernetes, MLflow, S3AccessLogs, WeightsAndBiases

_HOMES = {
    "Artifact": "mlsec_dagster.audit.artifacts",
    "ArtifactMap": "mlsec_dagster.audit.artifact_map",
    "AuditLogComponent": "mlsec_dagster.components.audit_logs.component",
    "AuditTrail": "mlsec_dagster.resources",
    "AzureMonitor": "mlsec_dagster.sensors.log_sources",
    "CloudTrail": "mlsec_dagster.sensors.log_sources",
    "Dataset": "mlsec_dagster.guarding",
    "DatasetChecksComponent": "mlsec_dagster.components.dataset_checks.component",
    "ExpectationChecksComponent": "mlsec_dagster.components.expectation_checks.component",
    "GCPAuditLogs": "mlsec_dagster.sensors.log_sources",
    "Kubernetes": "mlsec_dagster.sensors.log_sources",
    "MLflow": "mlsec_dagster.sensors.log_sources",
    "S3AccessLogs": "mlsec_dagster.sensors.log_sources",
    "SecurityStore": "mlsec_dagster.resources",
    "Signer": "mlsec_dagster.resources",
    "WeightsAndBiases": "mlsec_dagster.sensors.log_sources",
    "build_audit_log_sensor": "mlsec_dagster.sensors.audit_log",
    "build_audit_trail_definitions": "mlsec_dagster.assets.audit_trail",
    "build_dataset_hash_checks": "mlsec_dagster.asset_checks.dataset_hash",
    "build_distribution_stability_checks": "mlsec_dagster.asset_checks.distribution_stability",
    "build_expectation_checks": "mlsec_dagster.asset_checks.expectations",
    "build_security_definitions": "mlsec_dagster.definitions",
    "guard": "mlsec_dagster.guarding",
    "load_from_defs_folder": "mlsec_dagster.components.dataset_checks.component",
}

__all__ = [
    "Artifact",
    "ArtifactMap",
    "AuditLogComponent",
    "AuditTrail",
    "AzureMonitor",
    "CloudTrail",
    "Dataset",
    "DatasetChecksComponent",
    "ExpectationChecksComponent",
    "GCPAuditLogs",
    "Kubernetes",
    "MLflow",
    "S3AccessLogs",
    "SecurityStore",
    "Signer",
    "WeightsAndBiases",
    "build_audit_log_sensor",
    "build_audit_trail_definitions",
    "build_dataset_hash_checks",
    "build_distribution_stability_checks",
    "build_expectation_checks",
    "build_security_definitions",
    "guard",
    "load_from_defs_folder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
