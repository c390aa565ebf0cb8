"""What an MLflow registry knows of models: names, versions, where they lie, aliases and stages.

    registry = MlflowRegistry("https://mlflow.example.com")
    state = registry.read()          # the newest versions first, as many as the limits allow
    state = registry.read(state)     # what came since, and more of what is older
    artifacts = artifacts.knowing(state.knowledge)

A registry that cannot be reached is told in `knowledge.unseen`, and what was known of it before stays known. So do versions that were
deleted: accesses to them may still be logged.

https://mlflow.org/docs/latest/api_reference/python_api/mlflow.client.html
"""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.knowledge import Knowledge
from mlsec_dagster.audit.redaction import redact
from mlsec_dagster.errors import MissingExtraError

_PAGE: Final = 200
_PATIENCE: Final = 5.0
_NEWEST_FIRST: Final = ["last_updated_timestamp DESC", "name ASC", "version_number DESC"]


class Version(msgspec.Struct, frozen=True):
    """One version of a registered model.

    Attributes:
        model: Its registered model.
        version: Its number, as text.
        places: URIs of where its files lie: the source that it was registered with, and where that leads.
        run: The run that it came out of.
        stage: Its stage in small letters, if it has one.
        created: Milliseconds since the epoch.
        updated: The same, of its last change.
    """

    model: str
    version: str
    places: tuple[str, ...]
    run: str | None
    stage: str | None
    created: int
    updated: int


class RegistryState(msgspec.Struct, frozen=True, kw_only=True):
    """What has been read so far; kept in the process, and read again from the start where it was lost.

    Attributes:
        registry: The registry's URI, without secrets.
        versions: (model, version) -> the version.
        aliases: Registered model -> its aliases, each with its version.
        complete: Whether everything up to `until` was read.
        until: Milliseconds since the epoch: the last change of a version that a pass which came to its end began with.
        beginning: The same of the pass that is under way.
        token: Where that pass goes on; None if it begins anew.
        problems: What could not be seen this time, a sentence each.
    """

    registry: str
    versions: Mapping[tuple[str, str], Version] = {}
    aliases: Mapping[str, Mapping[str, str]] = {}
    complete: bool = False
    until: int = 0
    beginning: int = 0
    token: str | None = None
    problems: tuple[str, ...] = ()

    @property
    def knowledge(self) -> Knowledge:
        """The same for an `ArtifactMap`. Of two versions with one source, which a copy has too, the older one keeps it."""
        oldest_first = sorted(self.versions.values(), key=lambda each: (each.created, each.model, _number(each.version)))
        aliases = {(each.model, each.stage): each.version for each in sorted(oldest_first, key=_by_number) if each.stage}
        aliases |= {(model, alias): version for model, own in self.aliases.items() for alias, version in own.items()}
        return Knowledge(
            locations=tuple(
                (place, Artifact("model", model=each.model, version=each.version, by="registry"))
                for each in oldest_first
                for place in each.places
            ),
            registered=frozenset(self.aliases) | frozenset(each.model for each in oldest_first),
            aliases=aliases,
            unseen=self.problems,
        )


class MlflowRegistry:
    """A registry to read: through its server, or in its database."""

    def __init__(self, uri: str, *, artifacts: str | None = None, limit: int = 2000, seconds: float = 10.0) -> None:
        """Names a registry.

        Args:
            uri: Tracking URI of MLflow: "https://…", or of a database. Credentials are MLflow's own (`MLFLOW_TRACKING_USERNAME`, …).
            artifacts: URI under which the server keeps the artifacts that it proxies (`mlflow server --artifacts-destination`), so that
                accesses past the server are told, too.
            limit: Versions that one reading takes at most, and registered models.
            seconds: After this time a reading asks for nothing more, and the next one goes on.
        """
        self.uri = uri
        self._artifacts = artifacts.rstrip("/") if artifacts is not None else None
        self._limit = limit
        self._seconds = seconds
        self._client: Any = None

    def read(self, state: RegistryState | None = None) -> RegistryState:
        """What is known after one more reading. Never raises because of the registry: `problems` tells what it hid.

        Raises:
            MissingExtraError: MLflow is not installed.
        """
        state = state or RegistryState(registry=redact(self.uri))
        client = self._connected()
        try:
            _ask_health(self.uri)
            return self._read(client, state)
        except Exception as error:  # MLflow, requests, SQLAlchemy and sockets each have errors of their own
            problem = (
                f"The MLflow registry {state.registry} could not be read ({type(error).__name__}: {redact(str(error))[:200]}); models and "
                f"versions that were registered since it was read last are not known."
            )
            return msgspec.structs.replace(state, problems=(problem,))

    def _connected(self) -> Any:
        if self._client is None:
            try:
                from mlflow import MlflowClient
            except ImportError as error:
                raise MissingExtraError("Reading an MLflow registry needs MLflow: pip install 'mlsec-dagster[mlflow]'.") from error
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def _read(self, client: Any, state: RegistryState) -> RegistryState:
        deadline = time.monotonic() + self._seconds
        problems: list[str] = []
        aliases = dict(state.aliases)
        every = False
        for model in self._models(client, deadline):
            if model is None:
                every = True
                break
            aliases[model.name] = {str(alias): str(version) for alias, version in model.aliases.items()}
        if not every:
            problems.append(
                f"The MLflow registry {state.registry} has more than {len(aliases):,} models; aliases of the others are not known."
            )

        versions = dict(state.versions)
        token, beginning, complete = state.token, state.beginning, False
        for _ in range(max(1, self._limit // _PAGE)):
            page = client.search_model_versions(max_results=_PAGE, order_by=_NEWEST_FIRST, page_token=token)
            if token is None:
                beginning = max((int(each.last_updated_timestamp) for each in page), default=0)
            for each in page:
                known = versions.get((each.name, str(each.version)))
                if known is None or known.updated != int(each.last_updated_timestamp):
                    versions[each.name, str(each.version)] = self._version(client, each, problems)
            token = _text(page.token)
            # One page is read beyond what is known: changes of one millisecond may stand on both sides of its edge.
            if token is None or all(int(each.last_updated_timestamp) < state.until for each in page):
                complete = True
                break
            if time.monotonic() > deadline:
                break
        if not complete:
            problems.append(f"Of the MLflow registry {state.registry} {len(versions):,} versions are read so far; older ones follow.")
        return msgspec.structs.replace(
            state,
            versions=versions,
            aliases=aliases,
            complete=complete,
            until=beginning if complete else state.until,
            beginning=beginning,
            token=None if complete else token,
            problems=tuple(problems),
        )

    def _models(self, client: Any, deadline: float) -> Iterator[Any]:
        """Registered models, and None behind the last of them."""
        token: str | None = None
        for _ in range(max(1, self._limit // _PAGE)):
            page = client.search_registered_models(max_results=_PAGE, page_token=token)
            yield from page
            token = _text(page.token)
            if token is None:
                yield None
                return
            if time.monotonic() > deadline:
                return

    def _version(self, client: Any, found: Any, problems: list[str]) -> Version:
        model, version, source = str(found.name), str(found.version), str(found.source or "")
        places = [source]
        if source.startswith("models:"):  # A logged model, or the version that this one was copied from: the registry knows where it lies.
            try:
                places.append(str(client.get_model_version_download_uri(model, version)))
            except Exception as error:
                problems.append(
                    f"Where version {version} of the model {model!r} lies, the MLflow registry did not tell ({type(error).__name__})."
                )
        if self._artifacts is not None:
            for place in tuple(places):
                scheme, _, rest = place.partition(":")
                if scheme == "mlflow-artifacts":
                    below = rest[2:].partition("/")[2] if rest.startswith("//") else rest.lstrip("/")
                    places.append(f"{self._artifacts}/{below}")
        stage = _text(found.current_stage)
        return Version(
            model=model,
            version=version,
            # "models:/name/version" names a version and is no place of its own.
            places=tuple(
                dict.fromkeys(place for place in places if place and (not place.startswith("models:") or place.startswith("models:/m-")))
            ),
            run=_text(found.run_id),
            stage=stage.lower() if stage is not None and stage != "None" else None,
            created=int(found.creation_timestamp),
            updated=int(found.last_updated_timestamp),
        )


def _ask_health(uri: str) -> None:
    """Raises soon if no server answers; MLflow's own client tries again for minutes, and a sensor has one.

    https://mlflow.org/docs/latest/self-hosting/architecture/tracking-server/ (`/health`)
    """
    if not uri.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(uri.rstrip("/") + "/health", timeout=_PATIENCE):  # noqa: S310 - http or https
            return
    except urllib.error.HTTPError:
        return  # Whatever it says, it is there.


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode()
    return value if isinstance(value, str) and value else None


def _number(version: str) -> tuple[int, str]:
    return (int(version) if version.isdecimal() else -1, version)


def _by_number(version: Version) -> tuple[int, str]:
    return _number(version.version)
