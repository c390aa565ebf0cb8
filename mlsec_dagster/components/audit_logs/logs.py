"""How a defs.yaml names a log: by its kind, and where it lies.

    logs:
      - cloudtrail: {bucket: org-trail, prefix: AWSLogs/o-1/, accounts: ["123456789012"]}
      - mlflow: {directory: /var/log/mlflow-audit}

The kind is a key and no value, so that tools know which attributes go with it, and say which of them is wrong.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from pydantic import Field, model_validator

from mlsec_dagster.components.base import Attributes
from mlsec_dagster.sensors.log_sources import LOGS, AuditLog, Cloud


class PlaceAttributes(Attributes):
    """Where a log lies: in a bucket or in a directory."""

    bucket: str | None = Field(None, description="Bucket that the log is delivered to; on Azure the container, or * for all of them.")
    prefix: str = Field("", description="Where it begins there.")
    directory: str | None = Field(None, description="Local directory in place of a bucket.")
    resource_key: str | None = Field(None, description="The project's resource with the credentials. Default: s3, gcs or adls2.")
    name: str | None = Field(None, description="Name of the sensor. Default: the kind, and _audit_log.")


class CloudTrailAttributes(PlaceAttributes):
    """AWS CloudTrail, as a trail delivers it."""

    accounts: list[str] = Field(default_factory=list, description="Account numbers to read, in quotes; left out, all of them.")


class AzureMonitorAttributes(PlaceAttributes):
    """Azure Monitor's diagnostic logs in a storage account."""

    categories: list[str] = Field(default_factory=list, description="Categories to read, in small letters; left out, all of them.")


class AnyCloudAttributes(PlaceAttributes):
    """A log that its owner puts where he likes."""

    cloud: Cloud = Field("aws", description="Whose the bucket is: aws, gcp or azure.")


class LogAttributes(Attributes):
    """One log: its kind, and under that where it lies."""

    cloudtrail: CloudTrailAttributes | None = Field(None, description="AWS CloudTrail.")
    s3_access: PlaceAttributes | None = Field(None, description="Amazon S3 server access logs.")
    gcp: PlaceAttributes | None = Field(None, description="Google Cloud Audit Logs in the bucket of a sink.")
    azure: AzureMonitorAttributes | None = Field(None, description="Azure Monitor: Blob storage, Azure Machine Learning.")
    mlflow: AnyCloudAttributes | None = Field(None, description="The log of mlflow server --app-name mlsec-audit.")
    wandb: AnyCloudAttributes | None = Field(None, description="Audit logs of a Weights & Biases instance.")
    kubernetes: AnyCloudAttributes | None = Field(None, description="Kubernetes audit events.")

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for kind in given:
            if kind not in LOGS:
                near = get_close_matches(str(kind), LOGS, n=1, cutoff=0.0)[0]
                raise ValueError(f"There is no audit log {kind!r}. Did you mean {near!r}? Known are {', '.join(LOGS)}.")
        said = [kind for kind, place in given.items() if place is not None]
        if len(given) != 1 or not said:
            found = " and ".join(given) if len(given) > 1 else "no place"
            raise ValueError(
                f"Expected one kind of log and where it lies, such as mlflow: {{directory: /var/log/mlflow-audit}}; found {found}."
            )
        return given

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        resolved = handler.resolve_ref_schema(schema)
        del resolved["additionalProperties"]  # Of an unknown kind, tools say by this which ones there are.
        resolved.update(propertyNames={"enum": list(LOGS)}, minProperties=1, maxProperties=1)
        return schema

    @property
    def kind(self) -> str:
        """Which log it is."""
        return next(kind for kind in LOGS if getattr(self, kind) is not None)

    @property
    def place(self) -> PlaceAttributes:
        """Where it lies."""
        return getattr(self, self.kind)

    def log(self) -> AuditLog:
        """The log.

        Raises:
            ConfigurationError: It lies nowhere, or in a bucket and in a directory.
        """
        return LOGS[self.kind](**self.place.model_dump(exclude={"name"}))
