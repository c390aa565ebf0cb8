"""What a defs.yaml says of artifacts, with the arguments of `ArtifactMap`.

artifacts:
  templates:
    s3://ml-prod/models/{model}/{version}/: model
    s3://lake/curated/{layer}/{table}.parquet: {kind: dataset, asset: "{layer}/{table}"}
  environments: {s3://ml-prod/: production}
  models: {delay_model: delay}
  locations: {s3://org-trail/: {kind: none}}
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, Protocol

from pydantic import Field

from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.components.base import Attributes
from mlsec_dagster.errors import ConfigurationError


class OrObject:
    """Marks an object that something shorter can stand for.

    In the schema these are two branches of if/else and not of anyOf, because only then do tools say which attribute of it is wrong.
    """

    def __get_pydantic_json_schema__(self, core_schema: Any, handler: Any) -> Any:
        shorter, longer = handler(core_schema)["anyOf"]
        return {"if": {"type": "object"}, "then": longer, "else": shorter}


class ArtifactAttributes(Attributes):
    """A dataset, a model, or neither. In a template, texts may have its names in braces."""

    kind: Literal["dataset", "model", "none"] = Field(description="none for what is neither training data nor a model.")
    asset: str | None = Field(None, description="Key of the asset; components are joined by /.")
    partition: str | None = Field(None, description="Its partition.")
    model: str | None = Field(None, description="The registered model.")
    version: str | None = Field(None, description="Its version.")
    environment: str | None = Field(None, description="production, staging, …")


class Located(Protocol):
    """Says in which line of the component a mistake is."""

    def __call__(self, *path: str | int) -> AbstractContextManager[None]: ...


class ArtifactMapAttributes(Attributes):
    """What the project and its registry do not tell of where artifacts lie."""

    templates: dict[str, Annotated[Literal["dataset", "model"] | ArtifactAttributes, OrObject()]] = Field(
        default_factory=dict, description="URI with {names} -> dataset, model, or an artifact that is made of the names."
    )
    environments: dict[str, str] = Field(default_factory=dict, description="URI of a bucket or folder -> environment of what lies there.")
    models: Annotated[list[str] | dict[str, str], OrObject()] = Field(
        default_factory=list, description="Assets that are models; as a mapping, with the name of the registered model."
    )
    locations: dict[str, Annotated[str | ArtifactAttributes, OrObject()]] = Field(
        default_factory=dict, description="URI of a file, folder or bucket -> key of the asset there, or an artifact."
    )
    digests: dict[str, Annotated[str | ArtifactAttributes, OrObject()]] = Field(
        default_factory=dict, description="Digest of contents -> key of the asset that has them, or an artifact."
    )

    def artifact_map(self, located: Located) -> ArtifactMap:
        """The map.

        Args:
            located: Says where a mistake is.

        Raises:
            ConfigurationError: A URI leads nowhere, or two of them are one place.
        """
        templates, locations, digests = (
            {uri: _artifact(what) for uri, what in part.items()} for part in (self.templates, self.locations, self.digests)
        )
        try:
            return ArtifactMap(
                locations=locations, templates=templates, environments=self.environments, models=self.models, digests=digests
            )
        except ConfigurationError:
            _find("templates", templates, lambda some: ArtifactMap(templates=some), located)
            _find("locations", locations, lambda some: ArtifactMap(locations=some), located)
            _find("environments", self.environments, lambda some: ArtifactMap(environments=some), located)
            raise


def _find(part: str, given: dict[str, Any], made_of: Callable[[dict[str, Any]], ArtifactMap], located: Located) -> None:
    """Raises for the first one that does not go with those before it."""
    some: dict[str, Any] = {}
    for uri, what in given.items():
        some[uri] = what
        with located("artifacts", part, uri):
            made_of(some)


def _artifact(given: str | ArtifactAttributes) -> Any:
    return given if isinstance(given, str) else Artifact(**given.model_dump())
