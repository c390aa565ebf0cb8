"""The logs that a sensor can tail, as a user names them.

    mlsec.CloudTrail(bucket="org-trail", prefix="AWSLogs/o-1/", accounts=["123456789012"])
    mlsec.GCPAuditLogs(bucket="audit-sink")
    mlsec.AzureMonitor(bucket="insights-logs-storageread")
    mlsec.MLflow(directory="/var/log/mlflow-audit")

Each lies in a bucket, which is read with the credentials of the project's own resource, or in a local directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Final, Literal

import dagster as dg

from mlsec_dagster.audit.layouts import (
    AzureLayout,
    CloudTrailLayout,
    GCPLayout,
    KubernetesLayout,
    Layout,
    MLflowLayout,
    S3AccessLayout,
    WandBLayout,
)
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.objects import Place
from mlsec_dagster.audit.places import AzureBlobs, Directory, GCSBucket, S3Bucket
from mlsec_dagster.errors import ConfigurationError

Cloud = Literal["aws", "gcp", "azure"]

_RESOURCES: dict[Cloud, str] = {"aws": "s3", "gcp": "gcs", "azure": "adls2"}
_RESOURCE_TYPES: dict[Cloud, str] = {"aws": "S3Resource", "gcp": "GCSResource", "azure": "ADLS2Resource"}
# What the client of each has and those of the others have not.
_TOLD_BY: dict[Cloud, str] = {"aws": "get_paginator", "gcp": "list_blobs", "azure": "get_container_client"}
_ACCOUNT: Final = re.compile(r"\d{12}", re.ASCII)
_CATEGORY: Final = re.compile(r"[a-z0-9-]+", re.ASCII)


def _require(name: str, given: object, pattern: re.Pattern[str], expected: str) -> None:
    """Raises if this is no sequence of texts of that form."""
    each_fits = (
        not isinstance(given, str)
        and isinstance(given, Iterable)
        and all(isinstance(each, str) and pattern.fullmatch(each) for each in given)
    )
    if not each_fits:
        raise ConfigurationError(f"{name}={given!r}: expected {expected}.")


class ResourceKey(str):
    """Key of a resource, which says what is missing where it is.

    Dagster's daemon looks for the resources of a sensor before it runs it, and of one that is not there says KeyError and this, no more.
    """

    __slots__ = ("lacking",)
    lacking: str

    def __repr__(self) -> str:
        return self.lacking


@dataclass(frozen=True)
class AuditLog:
    """What is the same for all of them.

    Attributes:
        bucket: Bucket that the log is delivered to; on Azure the container, or "*" for all of the account's that hold such logs.
        prefix: Where it begins there.
        directory: Local directory in place of a bucket.
        resource_key: Key of the resource with the credentials: by default "s3" (an `S3Resource`), "gcs" (`GCSResource`) or "adls2"
            (`ADLS2Resource`).
    """

    kind: ClassVar[str]
    # Of each log, or a property where it depends on what the user says.
    _cloud: ClassVar[Any]
    _layout: ClassVar[Any]
    # What the names of Azure's containers begin with where all of an account are meant.
    _containers: ClassVar[str] = ""

    _: KW_ONLY
    bucket: str | None = None
    prefix: str = ""
    directory: str | None = None
    resource_key: str | None = None

    def __post_init__(self) -> None:
        for name in ("bucket", "prefix", "directory", "resource_key"):
            if isinstance(given := getattr(self, name), dg.EnvVar):  # It is a text by its class and refuses to be read as one.
                raise ConfigurationError(
                    f"{name}=EnvVar({given.env_var_name!r}): where a log lies has to be known when the project loads: give "
                    f"os.environ[{given.env_var_name!r}]."
                )
        if (self.bucket is None) == (self.directory is None):
            raise ConfigurationError(f"{type(self).__name__} lies in a bucket or in a directory: name one of them, and only one.")
        if self.directory is not None and (self.prefix or self.resource_key):
            raise ConfigurationError(f"{type(self).__name__} in a directory has neither a prefix nor a resource: leave them out.")
        if self.directory is not None and (not str(self.directory) or "://" in str(self.directory)):
            # An empty name would be the directory of the process.
            raise ConfigurationError(
                f"{str(self.directory)!r} is no local directory: give the path of one, or bucket and prefix in its place where "
                f"{type(self).__name__} lies in a bucket."
            )
        if self.bucket == "*" and not self._containers:
            raise ConfigurationError(f"{type(self).__name__} lies in one bucket: give its name. '*' is for the containers of AzureMonitor.")
        if self.bucket is not None and (not self.bucket or "/" in self.bucket):
            raise ConfigurationError(
                f"{self.bucket!r} is no name of a bucket: give {type(self).__name__} the name alone, and what comes behind it as prefix."
            )

    @property
    def required_resource_keys(self) -> set[str]:
        """Keys of the resources that it needs."""
        if self.directory is not None:
            return set()
        key = self.resource_key or _RESOURCES[self._cloud]
        found = ResourceKey(key)
        found.lacking = (
            f"{type(self).__name__} at {self.bucket!r} is read with the resource {key!r}, which this project does not have: add "
            f"resources={{{key!r}: {_RESOURCE_TYPES[self._cloud]}(…)}} to its definitions, or name another one as resource_key."
        )
        return {found}

    @property
    def lies_at(self) -> tuple[str, ...]:
        """Where it lies, as far as that can be told without connecting: two logs of one place cannot be told apart there."""
        if self.directory is not None:
            return ("disk", os.path.realpath(self.directory))
        # Names of buckets are unique, those of Azure's containers are so within an account.
        account = (self.resource_key or "") if self._cloud == "azure" else ""
        return (self._cloud, account, str(self.bucket), self._folder.strip("/"))

    def open(self, resources: Any) -> LogSource:
        """The log, to be read.

        Args:
            resources: Has the resource as an attribute of its key.

        Raises:
            ConfigurationError: The directory is not there, or the resource.
            MissingExtraError: The cloud's client is not installed.
        """
        return LogSource(self._place(resources), self._layout)

    def _place(self, resources: Any) -> Place:
        if self.bucket is None:
            return Directory(str(self.directory))
        (key,) = self.required_resource_keys
        given = getattr(resources, key, None)
        if given is None:
            raise ConfigurationError(repr(key))
        # Dagster hands out these resources as the client itself, unless they are asked for by their type.
        if self._cloud == "azure":
            client = getattr(given, "blob_client", given)
        else:
            client = given.get_client() if hasattr(given, "get_client") else given
        if not hasattr(client, _TOLD_BY[self._cloud]):
            raise ConfigurationError(
                f"{type(self).__name__} at {self.bucket!r} is read with the resource '{key}', which gives a {type(client).__name__}: "
                f"expected that of a {_RESOURCE_TYPES[self._cloud]}. Give that one this key, or name its own as resource_key."
            )
        if self._cloud == "azure":
            return AzureBlobs(client, None if self.bucket == "*" else self.bucket, self._folder, containers=self._containers)
        return (S3Bucket if self._cloud == "aws" else GCSBucket)(client, self.bucket, self._folder)

    @property
    def _folder(self) -> str:
        """Below which the log lies."""
        return self.prefix


@dataclass(frozen=True)
class CloudTrail(AuditLog):
    """AWS CloudTrail, as a trail delivers it: S3, SageMaker, STS, Bedrock and all others.

    Its digest files, where log file validation is on, are verified as they come.

    Attributes:
        accounts: Account numbers to read; empty for all.
        public_keys: Files with CloudTrail's public keys (DER) by fingerprint. Those that are not here are fetched with the credentials
            that boto3 finds in the environment, which need cloudtrail:ListPublicKeys.
    """

    kind = "cloudtrail"
    _cloud = "aws"

    _: KW_ONLY
    accounts: Sequence[str] = ()
    public_keys: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        super().__post_init__()
        # An account that is no text, or a mistyped one, would match no log object, and nothing would be read.
        _require("accounts", self.accounts, _ACCOUNT, "account numbers as texts of 12 digits, such as ['123456789012']")

    @property
    def _layout(self) -> Layout:
        return CloudTrailLayout(accounts=frozenset(self.accounts))


@dataclass(frozen=True)
class S3AccessLogs(AuditLog):
    """Amazon S3 server access logs. `prefix` is the destination prefix as configured, with or without a "/" at its end."""

    kind = "s3_access"
    _cloud = "aws"

    @property
    def _folder(self) -> str:
        folder = self.prefix.rpartition("/")[0]  # A prefix may end in the middle of names.
        return f"{folder}/" if folder else ""

    @property
    def _layout(self) -> Layout:
        return S3AccessLayout(prefix=self.prefix.rpartition("/")[2])


@dataclass(frozen=True)
class GCPAuditLogs(AuditLog):
    """Google Cloud Audit Logs in the bucket of a sink: Cloud Storage, Vertex AI."""

    kind = "gcp"
    _cloud = "gcp"
    _layout = GCPLayout()


@dataclass(frozen=True)
class AzureMonitor(AuditLog):
    """Azure Monitor's diagnostic logs in a storage account: Blob storage, Azure Machine Learning. `bucket` is the container.

    Attributes:
        categories: Categories to read, in small letters ("storageread", "amlmodelsevent"); empty for all.
    """

    kind = "azure"
    _cloud = "azure"
    _containers = "insights-logs-"  # Whoever may write to another one of the account writes no log.

    _: KW_ONLY
    categories: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        _require("categories", self.categories, _CATEGORY, "categories in small letters, such as ['storageread']")

    @property
    def _layout(self) -> Layout:
        return AzureLayout(categories=frozenset(self.categories))


@dataclass(frozen=True)
class _AnyCloud(AuditLog):
    """A log that its owner puts where he likes.

    Attributes:
        cloud: Whose the bucket is: "aws", "gcp" or "azure".
    """

    _: KW_ONLY
    cloud: Cloud = "aws"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cloud not in _RESOURCES:
            raise ConfigurationError(f"There is no cloud {self.cloud!r}; expected one of {', '.join(_RESOURCES)}.")

    @property
    def _cloud(self) -> Cloud:
        return self.cloud


@dataclass(frozen=True)
class MLflow(_AnyCloud):
    """The log of `mlflow server --app-name mlsec-audit`: its directory, or the bucket that its files are shipped to."""

    kind = "mlflow"
    _layout = MLflowLayout()


@dataclass(frozen=True)
class WeightsAndBiases(_AnyCloud):
    """Audit logs of a Weights & Biases instance, in the instance's own bucket."""

    kind = "wandb"
    _layout = WandBLayout()


@dataclass(frozen=True)
class Kubernetes(_AnyCloud):
    """Kubernetes audit events, one to a line: Kubeflow, KServe, secrets and volumes."""

    kind = "kubernetes"
    _layout = KubernetesLayout()


LOGS: dict[str, type[AuditLog]] = {
    each.kind: each for each in (CloudTrail, S3AccessLogs, GCPAuditLogs, AzureMonitor, MLflow, WeightsAndBiases, Kubernetes)
}
"""By the name that a defs.yaml has for each."""
