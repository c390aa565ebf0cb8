"""The second half of the drill: a real MLflow server, a colleague who takes the model once, and somebody who takes every version.

    with Registered(project) as registered:         # starts the server beside what else is going on
        sweep = registered.play()

Nobody tells the product about the registry's layout: the log of the server and the registry itself do.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import dagster as dg

from mlsec_dagster.demo.project import DrillError, Project, mlsec_command
from mlsec_dagster.demo.registry import ADMIN, Registry, running_registry
from mlsec_dagster.errors import MlsecError

MODEL = "delay_model"
VERSIONS = 4
COLLEAGUE = "casey"
STRANGER = "sam"


@dataclass(frozen=True, slots=True)
class Taken:
    """What one user took, as the trail tells it.

    Attributes:
        user: Who.
        versions: Versions of the model of which contents were read.
        reads: How many reads of contents.
        bytes: Bytes that went to the user.
        complete: Whether that is all that the user really received.
    """

    user: str
    versions: tuple[str, ...]
    reads: int
    bytes: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """What came of it.

    Attributes:
        colleague: Who took one version.
        stranger: Who took them all.
        seconds: From the last byte to the last row in the trail.
        look: Where to look.
    """

    colleague: Taken
    stranger: Taken
    seconds: float
    look: tuple[str, ...]

    @property
    def seen(self) -> bool:
        """Whether the trail has all of it: who, which versions, every byte."""
        every = tuple(str(number) for number in range(1, VERSIONS + 1))
        return self.colleague.complete and self.stranger.complete and self.stranger.versions == every and len(self.colleague.versions) == 1


def audit_directory(home: Path) -> Path:
    """Where the demo's MLflow server writes its log."""
    return home / "registry" / "audit"


class Registered:
    """A project whose model is in a registry of its own. The server starts while other things happen."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._stack = ExitStack()
        self._thread = ThreadPoolExecutor(1)
        place = running_registry(project.home / "registry", [COLLEAGUE, STRANGER], workers=1)
        self._starting: Future[Registry] = self._thread.submit(self._stack.enter_context, place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        self._stack.close()

    def play(self) -> Sweep:
        """Register the model, have it taken, tick the sensor, and ask the trail.

        Raises:
            DrillError: The server or the sensor failed, which no attacker had touched.
        """
        try:
            registry = self._starting.result()
            with _quiet():
                self._register(registry)
                took = {
                    COLLEAGUE: self._take(registry, COLLEAGUE, [VERSIONS]),
                    STRANGER: self._take(registry, STRANGER, range(1, VERSIONS + 1)),
                }
            done = perf_counter()
            with _registry_known(registry), _quiet():
                tick(self._project, "mlflow_audit_log")
            events = self._reads()
        except MlsecError as error:
            raise DrillError(str(error)) from error
        told = {user: _taken(user, [event for event in events if event.principal == user], size) for user, size in took.items()}
        return Sweep(told[COLLEAGUE], told[STRANGER], perf_counter() - done, self._look())

    def _register(self, registry: Registry) -> None:
        """The model that the drill has trained, in versions as a year would bring them."""
        with registry.acting_as(ADMIN) as client:
            run = client.create_run(client.create_experiment("flights"))
            client.create_registered_model(MODEL)
            for number in range(1, VERSIONS + 1):
                folder = f"model-{number}"
                copy = self._project.home / "registry" / "model.pkl"
                shutil.copyfile(Path(self._project.instance.storage_directory()) / MODEL, copy)
                client.log_artifact(run.info.run_id, str(copy), folder)
                client.create_model_version(MODEL, f"{run.info.artifact_uri}/{folder}", run.info.run_id)
            client.set_registered_model_alias(MODEL, "champion", str(VERSIONS))

    def _take(self, registry: Registry, user: str, versions: Any) -> int:
        """Download versions as a user does; returns the bytes that came."""
        from mlflow.artifacts import download_artifacts

        size = 0
        with registry.acting_as(user):
            for version in versions:
                target = self._project.home / "registry" / user / str(version)
                target.mkdir(parents=True)
                download_artifacts(f"models:/{MODEL}/{version}", dst_path=str(target))
                size += sum(path.stat().st_size for path in target.rglob("model.pkl"))
        return size

    def _reads(self) -> list[_Read]:
        """Reads of the model's contents, as the trail has them, each with the version that it was resolved to."""
        from mlsec_dagster.audit.querying import Filter, rows
        from mlsec_dagster.resources import open_trail

        found: list[_Read] = []
        for batch in rows(open_trail(self._project.instance), Filter(artifact=MODEL, action="read", outcome="success")):
            found += [
                _Read(row["principal"], row["artifact_version"], row["bytes_out"] or 0)
                for row in batch.to_pylist()
                if row["plane"] == "data"
            ]
        return found

    def _look(self) -> tuple[str, ...]:
        home = self._project.home
        shown = home.relative_to(Path.cwd()) if home.is_relative_to(Path.cwd()) else home
        return (
            f"{mlsec_command()} trail --home {shown} --artifact {MODEL} --action read",
            "Assets > audit_trail, the newest partition",
        )


@dataclass(frozen=True, slots=True)
class _Read:
    principal: str | None
    version: str | None
    bytes: int


def _taken(user: str, reads: list[_Read], size: int) -> Taken:
    contents = [read for read in reads if read.bytes]
    versions = tuple(sorted({read.version for read in contents if read.version}, key=int))
    total = sum(read.bytes for read in contents)
    return Taken(user, versions, len(contents), total, complete=total >= size > 0)


def tick(project: Project, sensor: str) -> None:
    """One tick of a sensor, as Dagster's daemon would have it.

    Raises:
        DrillError: It has failed.
    """
    definition = next(each for each in project.guarded.sensors or [] if each.name == sensor)
    repository = project.guarded.get_repository_def()
    context = dg.build_sensor_context(instance=project.instance, repository_def=repository, sensor_name=sensor)
    try:
        result = definition.evaluate_tick(context)  # type: ignore[union-attr]
    except MlsecError as error:
        raise DrillError(f"The sensor {sensor} failed: {error}") from error
    for event in result.asset_events:
        project.instance.report_runless_asset_event(event)


@contextmanager
def _quiet() -> Iterator[None]:
    """The drill tells its own story."""
    bar = os.environ.get("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.environ.pop("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR")
        if bar is not None:
            os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = bar


@contextmanager
def _registry_known(registry: Registry) -> Iterator[None]:
    """The registry's address and login in the environment, where sensors look for them."""
    wanted = {
        "MLFLOW_TRACKING_URI": registry.url,
        "MLFLOW_TRACKING_USERNAME": ADMIN,
        "MLFLOW_TRACKING_PASSWORD": registry.credentials[ADMIN],
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
