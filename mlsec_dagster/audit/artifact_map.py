"""The translator: what a project knows of its artifacts, asked for each access.

    artifacts = ArtifactMap(
        templates={"s3://ml-prod/models/{model}/{version}/": "model", "s3://lake/{asset}/{partition}/": "dataset"},
        environments={"s3://ml-prod/": "production"},
        models=["delay_model"],
    )
    artifacts.artifact(event)   # Artifact("model", model="delay_model", version="3", environment="production", by="template")
    artifacts = artifacts.knowing(materialized, registered)   # a new map, with what Dagster and MLflow know

A map never changes, so that answers are remembered and its `digest` says which map resolved a row. To decide differently, override
one of its small methods: each takes an `Access` or a `Location`. `docs/artifacts.md` has an example, and the precedence.
"""

import copy
import logging
import unicodedata
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any, Final, Self, TypeVar, cast

import msgspec
from blake3 import blake3

from mlsec_dagster.audit.artifacts import Artifact, known_kind
from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.knowledge import Knowledge
from mlsec_dagster.audit.locations import Access, Location, accessed, locate
from mlsec_dagster.audit.prefixes import LEDGER, LOCATION, MATERIALIZATION, REGISTRY, PrefixTree, completed
from mlsec_dagster.audit.templates import Kind, Templates
from mlsec_dagster.errors import ConfigurationError

NONE: Final = Artifact("none")
UNRESOLVED: Final = Artifact("unresolved")

_REMEMBERED: Final = 1 << 15
_LONG: Final = 512  # Longer texts are not remembered, so that memory stays bounded whatever stands in a log.
_FILES: Final = frozenset({"s3", "gs", "azure", "mlflow"})
_BY_NAME: Final = frozenset({"model-versions", "registered-models"})
_ASKS: Final = frozenset({"read", "list", "invoke"})
_RANKS: Final = {"registry": REGISTRY, "ledger": LEDGER}

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class ArtifactMap:
    """Says which artifact an event is about. Never changes once it is made; equal to a map that was made of the same."""

    def __init__(
        self,
        *,
        locations: Mapping[str, Artifact | str] | None = None,
        templates: Mapping[str, Kind | Artifact] | None = None,
        environments: Mapping[str, str] | None = None,
        models: Mapping[str, str] | Iterable[str] = (),
        digests: Mapping[str, Artifact | str] | None = None,
        knowledge: Iterable[Knowledge] = (),
    ) -> None:
        """Makes a map.

        Args:
            locations: URI of a file, folder, table or container -> what lies there: an artifact, or the key of an asset as text.
                `Artifact("none")` says that it is neither data nor a model (logs, for one).
            templates: URI with `{names}` -> "dataset", "model" or an artifact made of the names; see `mlsec_dagster.audit.templates`.
            environments: URI of a container or folder -> environment of all that lies there. The longest one counts.
            models: Keys of the assets that are models; as a mapping, with the name of the registered model.
            digests: Digest of contents, as the log writes it -> what has these contents.
            knowledge: What is known from elsewhere, the first one first.

        Raises:
            ConfigurationError: A URI leads nowhere, or two templates match the same paths.
        """
        named = cast("Mapping[str, str]", models) if isinstance(models, Mapping) else {name: name for name in models}
        self._declared = dict(named)
        self._given = tuple((location, _given(artifact)) for location, artifact in _located(locations or {}))
        self._templates = Templates(templates or {})
        self._environments = _located(environments or {})
        self._digests = {digest: _given(artifact) for digest, artifact in (digests or {}).items()}
        self._knowledge = tuple(knowledge)
        self._build()

    def knowing(self, *knowledge: Knowledge) -> Self:
        """The same map with this knowledge in place of what it had; the very same one, which remembers its answers, if that is no news."""
        if knowledge == self._knowledge:
            return self
        other = copy.copy(self)
        other._knowledge = knowledge
        other.__dict__.pop("digest", None)
        other._build()
        return other

    def artifact(self, event: AuditEvent) -> Artifact:
        """What an event is about. Never raises: an access to contents that cannot be told is "unresolved"."""
        operation, name, resource, model = event.operation, event.object, event.resource, event.model
        length = len(operation) + len(name or "") + len(resource or "") + len(model or "")
        return (self._remembered if length < _LONG else self._decide_safely)(
            event.source,
            event.service,
            operation,
            event.action,
            event.plane,
            event.container,
            name,
            event.object_version,
            resource,
            event.resource_type,
            model,
            event.model_version,
            event.digest,
        )

    # What may be overridden.

    def places(self, access: Access) -> tuple[Location, ...] | None:
        """Where an access took place: nothing if it names no place, None if it cannot be told. Of several readings the deepest counts."""
        return accessed(access)

    def by_location(self, location: Location) -> tuple[Artifact | None, int]:
        """The artifact that a location lies in, and how many components of it tell so."""
        found, depth = self._tree.find(location)
        template, longer = self.by_template(location)
        if template is not None and longer > depth:
            return (completed(template, found) if found is not None else template), longer
        return found, depth

    def by_template(self, location: Location) -> tuple[Artifact | None, int]:
        """The artifact that the most special template tells, and how many components the template has."""
        found, depth = self._templates.match(location)
        return (None if found is None else self._as_model(found)), depth

    def by_name(self, access: Access) -> Artifact | None:
        """The model that the event itself names, as it is registered."""
        model, version = access.model, access.model_version
        if not model:
            return None
        by = "event"
        if access.source == "mlflow.audit":
            if model not in self._registered and access.action != "create":
                # Some databases behind a registry do not tell case, accents or spaces at the end apart.
                model = self._folded.get(_fold(model)) or model
            if model in self._registered:
                by = "registry"
            if version and access.action in _ASKS and not version.isdecimal():
                version = self._aliases.get((model, version)) or self._aliases.get((model, version.lower())) or version
        return Artifact("model", model=model, version=version, by=by)

    def by_digest(self, access: Access) -> Artifact | None:
        """What is known to have these contents. Asked last: who uploads chooses contents, and with them the digest."""
        return self._known_digests.get(access.digest) if access.digest is not None else None

    def environment(self, location: Location | None, artifact: Artifact) -> str | None:
        """The environment of what was accessed; None if nothing tells."""
        if artifact.environment is not None:
            return artifact.environment
        found = self._surroundings.find(location)[0] if location is not None else None
        if found is not None:
            return found.environment
        return self._environment_of_version.get((artifact.model, artifact.version)) if artifact.kind == "model" else None

    def settings(self) -> object:
        """What a subclass decides by besides its code, for the digest: anything that JSON can carry."""
        return None

    # What decides, and what remembers.

    def _decide(self, access: Access) -> Artifact:
        places = self.places(access)
        found, location = None, places[0] if places else None
        # Where MLflow's server goes by a name, a path is below that; where it goes by a path, a name that is added to it means nothing.
        by_name = access.source != "mlflow.audit" or access.object is None or access.resource_type in _BY_NAME
        if by_name and access.source == "mlflow.audit":
            found = self.by_name(access)
        if found is None and places is not None:
            deepest = -1
            for place in places:
                candidate, depth = self.by_location(place)
                if candidate is not None and depth > deepest:
                    found, location, deepest = candidate, place, depth
            found = found or (self.by_name(access) if by_name else None) or self.by_digest(access)
        if found is None:
            named = places is None or any(place.store in _FILES and place.parts for place in places)
            found = UNRESOLVED if named or access.plane == "data" or access.model else NONE
        version = found.version or self._version(access, location, found)
        environment = self.environment(location, found)
        if version == found.version and environment == found.environment:
            return found
        return msgspec.structs.replace(found, version=version, environment=environment)

    def _version(self, access: Access, location: Location | None, found: Artifact) -> str | None:
        """The version that storage tells of a dataset, and a registry of a model. A model's file has versions of its own."""
        if found.kind == "model" and location is not None and location.store not in _FILES:
            return access.model_version or access.object_version
        return access.object_version if found.kind == "dataset" else None

    def _decide_safely(self, *access: Any) -> Artifact:
        try:
            return self._decide(Access(*access))
        except Exception:
            _log.warning("%s could not decide what an access is about; it is unresolved", type(self).__qualname__, exc_info=True)
            return UNRESOLVED

    def _build(self) -> None:
        """Everything that is looked up, out of what was given and what is known."""
        self._models = self._declared
        self._known_digests: dict[str, Artifact] = {}
        self._aliases: dict[tuple[str, str], str] = {}
        registered: set[str] = set()
        for each in self._knowledge:
            self._models = {**each.models, **self._models}
            registered |= each.registered
            self._aliases = {**each.aliases, **self._aliases}
            self._known_digests = {**each.digests, **self._known_digests}
        self._known_digests = {digest: self._as_model(artifact) for digest, artifact in {**self._known_digests, **self._digests}.items()}
        self._registered = frozenset(registered)
        self._folded = _unambiguous(registered)
        self._surroundings = PrefixTree()
        for location, environment in self._environments:
            self._surroundings.add(location, Artifact("none", environment=environment), LOCATION)
        self._environment_of_version: dict[tuple[str | None, str | None], str] = {}
        self._tree = PrefixTree()
        unplaced: list[str] = []
        for location, artifact in self._given:
            self._tree.add(location, self._as_model(artifact), LOCATION)
        for rank in (REGISTRY, LEDGER, MATERIALIZATION):
            for each in self._knowledge:
                for uri, artifact in each.locations:
                    if _RANKS.get(artifact.by or "", MATERIALIZATION) != rank:
                        continue
                    location = locate(uri)
                    if location is None or not location.parts:  # A whole bucket is nobody's but the user's to give away.
                        unplaced.append(uri)
                        continue
                    self._tree.add(location, self._as_model(artifact), rank)
                    around = self._surroundings.find(location)[0] if artifact.model is not None else None
                    if around is not None and around.environment is not None:
                        self._environment_of_version.setdefault((artifact.model, artifact.version), around.environment)
        self.unplaced: tuple[str, ...] = tuple(unplaced)
        """Locations that are known and lead nowhere that can be told, so that accesses to them stay unresolved."""
        self.unseen: tuple[str, ...] = tuple(sentence for each in self._knowledge for sentence in each.unseen)
        """What those who know could not see, a sentence each."""
        self._remembered = lru_cache(maxsize=_REMEMBERED)(self._decide_safely)

    def _as_model(self, artifact: Artifact) -> Artifact:
        """An artifact of an asset that is a model, as the model."""
        if artifact.asset is None or artifact.kind not in {"dataset", "model"} or artifact.asset not in self._models:
            return artifact
        return msgspec.structs.replace(artifact, kind="model", model=artifact.model or self._models[artifact.asset])

    # What it is.

    @cached_property
    def digest(self) -> str:
        """Over everything that decides, as "blake3:<hex>": two maps with one digest give the same answers, today and tomorrow."""
        what = [
            f"{type(self).__module__}.{type(self).__qualname__}",
            self.settings(),
            sorted(self._given),
            [(each.uri, each.target) for each in self._templates.all],
            sorted(self._environments),
            sorted(self._models.items()),
            sorted((digest, artifact) for digest, artifact in self._known_digests.items()),
            sorted(self._registered),
            sorted(self._aliases.items()),
            [each.locations for each in self._knowledge],
        ]
        return f"blake3:{blake3(msgspec.json.encode(what)).hexdigest()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ArtifactMap) and type(other) is type(self) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        known = sum(len(each.locations) for each in self._knowledge)
        return (
            f"{type(self).__name__}({len(self._given)} locations, {len(self._templates.all)} templates, {known} known, {self.digest[:19]})"
        )


def _located(values: Mapping[str, _T]) -> tuple[tuple[Location, _T], ...]:
    found: dict[Location, tuple[str, _T]] = {}
    for uri, value in values.items():
        location = locate(uri)
        if location is None:
            raise ConfigurationError(
                f"The location {uri!r} leads nowhere that can be told: expected an absolute path or a URI such as 's3://bucket/folder/' or "
                "'abfss://container@account.dfs.core.windows.net/folder/', without names that are empty, '.' or '..'."
            )
        if location in found:
            raise ConfigurationError(f"{found[location][0]!r} and {uri!r} are one place; leave one out.")
        found[location] = (uri, value)
    return tuple((location, value) for location, (_, value) in found.items())


def _given(artifact: Artifact | str) -> Artifact:
    if isinstance(artifact, str):
        artifact = Artifact("dataset", asset=artifact)
    known_kind(artifact)
    return artifact if artifact.by is not None else msgspec.structs.replace(artifact, by="location")


def _fold(name: str) -> str:
    """A name as a database that is not strict compares it: case, accents' spelling, width and spaces around do not matter."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()


def _unambiguous(names: Iterable[str]) -> dict[str, str]:
    found: dict[str, str | None] = {}
    for name in sorted(names):
        folded = _fold(name)
        found[folded] = None if folded in found else name
    return {folded: name for folded, name in found.items() if name is not None}
