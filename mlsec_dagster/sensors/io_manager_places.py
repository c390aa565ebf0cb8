"""Where the object storage IO managers of Dagster's own packages keep an asset, by their configuration.

Only their very classes are known: what a subclass does with a path cannot be told from outside. Nothing is connected to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

_PREFIX = "dagster"  # What all three have where nothing is configured.


@dataclass(frozen=True, slots=True)
class StoredAt:
    """One IO manager's place.

    Attributes:
        root: URI of the bucket or file system.
        prefix: Where assets begin within it.
    """

    root: str
    prefix: str

    def uri(self, key: dg.AssetKey) -> str:
        """Where an asset lies: the object itself, or the folder of its partitions."""
        return "/".join(part for part in (self.root, self.prefix.strip("/"), *key.path) if part)

    def below_root(self, path: str) -> str:
        """The URI of a path as the IO manager reports it, which has the prefix but not the bucket."""
        return f"{self.root}/{path.lstrip('/')}"


def stored_at(asset: dg.AssetsDefinition, key: dg.AssetKey, resources: Mapping[str, dg.ResourceDefinition]) -> StoredAt | None:
    """Where an asset's IO manager keeps it; None if that cannot be told without asking the storage."""
    if not asset.is_executable:
        return None
    io_manager_key = asset.get_io_manager_key_for_asset_key(key)
    definition = asset.resource_defs.get(io_manager_key) or resources.get(io_manager_key)
    cls = getattr(definition, "configurable_resource_cls", None)
    if definition is None or cls is None:
        return None
    settings = _settings(definition)
    kind = (cls.__module__.partition(".")[0], cls.__name__)
    if kind == ("dagster_aws", "S3PickleIOManager"):
        return _place("s3://{}", settings.get("s3_bucket"), settings.get("s3_prefix", _PREFIX))
    if kind == ("dagster_gcp", "GCSPickleIOManager"):
        return _place("gs://{}", settings.get("gcs_bucket"), settings.get("gcs_prefix", _PREFIX))
    if kind == ("dagster_azure", "ADLS2PickleIOManager"):
        lake = getattr(definition, "nested_resources", {}).get("adls2")
        account, suffix = _plain(getattr(lake, "storage_account", None)), _plain(getattr(lake, "endpoint_suffix", None))
        if account and suffix:
            host = f"abfss://{{}}@{account}.dfs.{suffix}"
            return _place(host, settings.get("adls2_file_system"), settings.get("adls2_prefix", _PREFIX))
    return None


def _place(form: str, container: str | None, prefix: str | None) -> StoredAt | None:
    return StoredAt(form.format(container), prefix) if container and prefix is not None else None


def _settings(definition: dg.ResourceDefinition) -> dict[str, str | None]:
    """The configuration that an IO manager was given in the definitions."""
    schema: Any = definition.config_schema
    given = schema.default_value if schema.default_provided else {}
    return {name: _plain(value) for name, value in given.items()} if isinstance(given, dict) else {}


def _plain(value: Any) -> str | None:
    """A setting as text, also where it is read from the environment."""
    if isinstance(value, dg.EnvVar):
        return value.get_value()
    if isinstance(value, dict):
        return os.environ.get(str(value.get("env")))
    return value if isinstance(value, str) else None
