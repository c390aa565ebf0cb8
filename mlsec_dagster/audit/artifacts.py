"""Which dataset or model is this access about?"""

from typing import Literal, Protocol

import msgspec

from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.errors import ConfigurationError


class Artifact(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an access was about, in the words of the project.

    Attributes:
        kind: Training data or a model; "unresolved" if an access to contents could not be told, "none" if the event is about neither.
        asset: Dagster asset key as text, parts joined by "/".
        partition: Its partition.
        model: Registered model.
        version: Version of the model, or of the asset where storage tells one.
        environment: "production", "staging", …, as the translator was told.
        by: What told: "location" (of the user), "registry", "ledger", "materialization", "io_manager" or "definition" (of the asset),
            "template", or "event".
    """

    kind: Literal["dataset", "model", "unresolved", "none"]
    asset: str | None = None
    partition: str | None = None
    model: str | None = None
    version: str | None = None
    environment: str | None = None
    by: str | None = None


def known_kind(artifact: Artifact) -> Artifact:
    """The artifact that somebody wrote down, whose kind Python itself does not look at.

    Raises:
        ConfigurationError: It is no kind that can be said of a place.
    """
    if artifact.kind not in ("dataset", "model", "none"):
        raise ConfigurationError(f"There is no kind of artifact {artifact.kind!r}; expected dataset, model or none.")
    return artifact


class Translator(Protocol):
    """Says which artifact an event is about."""

    def artifact(self, event: AuditEvent) -> Artifact:
        """Never raises: what it cannot tell is "unresolved"."""
        ...
