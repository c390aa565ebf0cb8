"""What a project knows of its artifacts, from wherever it is known: where they lie, and which of them are models.

    Knowledge(locations=(("s3://lake/raw/2026-01-01", Artifact("dataset", asset="raw", partition="2026-01-01", by="materialization")),))

`mlsec_dagster.audit.registry` reads it from an MLflow registry, `mlsec_dagster.sensors.artifact_locations` from Dagster.
"""

from collections.abc import Mapping

import msgspec

from mlsec_dagster.audit.artifacts import Artifact


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What one source of knowledge tells.

    Attributes:
        locations: (URI of a file, folder or table, what lies there). Of two claims to one place the first one counts.
        models: Asset key -> the model that the asset is.
        registered: Names of the registered models.
        aliases: (registered model, alias or stage in small letters) -> the version that has it now.
        digests: Digest of contents, as the log writes it -> what has these contents.
        unseen: What could not be seen, a sentence each. What stands here is missing above.
    """

    locations: tuple[tuple[str, Artifact], ...] = ()
    models: Mapping[str, str] = {}
    registered: frozenset[str] = frozenset()
    aliases: Mapping[tuple[str, str], str] = {}
    digests: Mapping[str, Artifact] = {}
    unseen: tuple[str, ...] = ()
