"""Audit logs that are tailed into the trail, declared in a defs.yaml, with the attributes of `guard(audit=…)`.

    type: mlsec_dagster.AuditLogComponent
    attributes:
      logs:
        - cloudtrail: {bucket: org-trail, prefix: AWSLogs/o-1/}
        - mlflow: {directory: /var/log/mlflow-audit}
      registry: http://mlflow:5000

A project may have several: all of them fill one trail, and the first one brings the `audit_trail` asset.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

import dagster as dg
from dagster.components.core.decl import ComponentDecl
from pydantic import Field

from mlsec_dagster.assets.audit_trail import build_audit_trail_definitions, has_audit_trail
from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Translator
from mlsec_dagster.audit.registry import MlflowRegistry
from mlsec_dagster.components.audit_logs.artifacts import ArtifactMapAttributes, OrObject
from mlsec_dagster.components.audit_logs.logs import LogAttributes
from mlsec_dagster.components.audit_logs.scaffolder import AuditLogScaffolder
from mlsec_dagster.components.base import Attributes, SecurityComponent, components_of, definitions_around
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.resources import AuditTrail
from mlsec_dagster.sensors.audit_log import build_audit_log_sensor, require_own_places, sensor_names
from mlsec_dagster.sensors.log_sources import AuditLog


class RegistryAttributes(Attributes):
    """An MLflow registry."""

    uri: str = Field(description="Its tracking URI.")
    artifacts: str | None = Field(None, description="URI under which its server keeps the artifacts that it proxies.")


class TrailAttributes(Attributes):
    """Where the audit trail lies."""

    uri: str | None = Field(None, description="Directory, or s3://, gs:// or abfss:// URI. Default: $DAGSTER_HOME/mlsec/trail.")
    storage_options: dict[str, str] = Field(default_factory=dict, description="Delta Lake's storage options. Default: the environment's.")
    pseudonym_keys: str | None = Field(
        None, description="Path of a key file by which e-mail addresses, IP addresses and user agents are replaced before they are stored."
    )
    keep_days: dict[str, int] = Field(
        default_factory=dict, description="Days that rows are kept, by log (aws.cloudtrail), and under `default` for all others."
    )


@dg.scaffold_with(AuditLogScaffolder)
class AuditLogComponent(SecurityComponent):
    """A sensor for each of these audit logs, which reads every access to data and models into one trail, once.

    The `audit_trail` asset has a partition for each day; its `log_completeness` check says how far the logs can be relied on. Buckets are
    read with the credentials that the project has: its resource s3, gcs or adls2, or the one that `resource_key` names.
    """

    logs: list[LogAttributes] = Field(
        min_length=1, description="Logs to tail: each one by its kind (cloudtrail, s3_access, gcp, azure, mlflow, wandb, kubernetes)."
    )
    artifacts: ArtifactMapAttributes | None = Field(
        None, description="Where datasets and models lie, as far as the project and its MLflow registry do not tell."
    )
    translator: str | None = Field(
        None, description="In place of `artifacts`: Python path (package.module.name) of a translator, such as an ArtifactMap of your own."
    )
    registry: Annotated[str | RegistryAttributes, OrObject()] | None = Field(
        None, description="Tracking URI of an MLflow registry, or an object. Default: MLFLOW_TRACKING_URI, if it is set."
    )
    trail: TrailAttributes | None = Field(None, description="Where the audit trail lies.")
    minimum_interval_seconds: int = Field(60, ge=1, description="Seconds between a sensor's ticks.")
    default_status: Literal["RUNNING", "STOPPED"] = Field("RUNNING", description="Whether the sensors run from the start.")

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        return dg.ComponentTypeSpec(tags=["security", "audit log"], produces=["sensor", "asset", "asset_check"])

    # What it contributes

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """A sensor for each log, and the `audit_trail` asset with its check, unless another part of the project has them.

        Raises:
            ConfigurationError: A log that lies nowhere, or at the place of another; artifacts that lead nowhere; a translator that is none;
                other audit logs of the project with another trail or store. Names file and line.
        """
        in_project = isinstance(context.component_decl, ComponentDecl)
        everyone = components_of(context.component_tree, AuditLogComponent) if in_project else [self]
        before = everyone[: next(place for place, each in enumerate(everyone) if each is self)]
        beside = definitions_around(context) or dg.Definitions()
        self._require_one_trail(before)
        named = self._names(everyone, [each.name for each in beside.sensors or []])
        artifacts, trail, store, signer = self._translator(), self._own_trail(), self.own_store(), self.own_signer()
        registry = self.registry if isinstance(self.registry, str | None) else MlflowRegistry(**self.registry.model_dump())
        sensors = [
            build_audit_log_sensor(
                source=log,
                artifacts=artifacts,
                registry=registry,
                name=name,
                minimum_interval_seconds=self.minimum_interval_seconds,
                default_status=dg.DefaultSensorStatus(self.default_status),
                trail=trail,
                store=store,
                signer=signer,
            )
            for name, log in zip(named, self._logs(before), strict=True)
        ]
        with self.located("store"):
            known = bool(before) or has_audit_trail(beside, store, signer)
        with self.located("trail", "keep_days"):
            asset = dg.Definitions() if known else build_audit_trail_definitions(trail=trail, store=store, signer=signer)
        return dg.Definitions.merge(dg.Definitions(sensors=sensors), asset)

    def audit_logs(self) -> Sequence[AuditLog]:
        """The logs that it tails, in the order in which they are declared.

        Raises:
            ConfigurationError: One lies nowhere, or in a bucket and in a directory; names file and line.
        """
        found: list[AuditLog] = []
        for index, each in enumerate(self.logs):
            with self.located("logs", index, each.kind):
                found.append(each.log())
        return found

    def _logs(self, before: Sequence[AuditLogComponent]) -> Sequence[AuditLog]:
        """The same, none of them at the place of another one of the project."""
        seen = [log for each in before for log in each.audit_logs()]
        own = self.audit_logs()
        for index, log in enumerate(own):
            with self.located("logs", index, self.logs[index].kind):
                require_own_places([*seen, log])
            seen.append(log)
        return own

    def _names(self, everyone: Sequence[AuditLogComponent], around: Sequence[str]) -> list[str]:
        """What the sensors of the logs are called, those of all the project's components taken together."""
        named = [(each, log, said.place.name) for each in everyone for log, said in zip(each.audit_logs(), each.logs, strict=True)]
        taken = [*around, *(name for _, _, name in named if name)]
        free = iter(sensor_names([log for _, log, name in named if not name], taken))
        chosen = [(each, name or next(free)) for each, _, name in named]
        own = [name for each, name in chosen if each is self]
        for index, name in enumerate(own):
            with self.located("logs", index, self.logs[index].kind, "name"):
                if not re.fullmatch(r"[A-Za-z0-9_]+", name):
                    raise ConfigurationError(f"A sensor cannot be called {name!r}: use letters, digits and underscores.")
                if taken.count(name) > 1:
                    raise ConfigurationError(f"There is another sensor called {name!r} in this project: give this one a name of its own.")
        return own

    def _require_one_trail(self, before: Sequence[AuditLogComponent]) -> None:
        """Refuse settings that differ from those of the components before this one."""
        for part in ("trail", "store", "signer"):
            with self.located(part):
                if any(getattr(each, part) != getattr(self, part) for each in before):
                    raise ConfigurationError(
                        f"Another AuditLogComponent of this project has another {part}, but a project has one audit trail: give all of "
                        "them the same `trail`, `store` and `signer`."
                    )

    def _translator(self) -> ArtifactMap | Translator | None:
        if self.artifacts is not None and self.translator is not None:
            with self.located("translator"):
                raise ConfigurationError(
                    "Both `artifacts` and `translator` say what an access is about: give one of them, and what `artifacts` says to the "
                    "ArtifactMap that the translator is."
                )
        if self.artifacts is not None:
            return self.artifacts.artifact_map(self.located)
        found = self.imported("translator", "a translator", "package.module.name")
        with self.located("translator"):
            if found is not None and (isinstance(found, type) or not callable(getattr(found, "artifact", None))):
                is_one = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
                raise ConfigurationError(
                    f"{self.translator} is {is_one}: expected the path of an ArtifactMap, or of another object whose method `artifact` "
                    "says what an event is about."
                )
        return found

    def _own_trail(self) -> AuditTrail | None:
        return AuditTrail(**self.trail.model_dump()) if self.trail else None
