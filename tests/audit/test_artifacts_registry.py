"""A real MLflow registry, in its database: what is registered is known, bounded and incrementally, and what cannot be seen is told."""

import http.server
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlsec_dagster.audit import registry
from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.registry import MlflowRegistry, RegistryState
from tests.audit.test_artifacts import event, mlflow

# MLflow counts its users by a client of its own.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty registry, to be copied: making its tables takes seconds."""
    file = tmp_path_factory.mktemp("registry") / "empty.db"
    assert MlflowRegistry(f"sqlite:///{file}").read().complete
    return file


@pytest.fixture(scope="module")
def database(empty: Path) -> str:
    """A registry; tests share it and use models of their own."""
    return f"sqlite:///{shutil.copy(empty, empty.with_name('mlflow.db'))}"


@pytest.fixture
def client(database: str) -> Iterator[Any]:
    import mlflow
    from mlflow import MlflowClient

    mlflow.set_tracking_uri(database)
    yield MlflowClient(database, database)  # Others in this process may have set a registry.
    mlflow.set_tracking_uri(None)


def register(client: Any, name: str, *sources: str) -> None:
    client.create_registered_model(name)
    for source in sources:
        client.create_model_version(name, source=source)


def test_versions_aliases_and_stages_are_known(client: Any, database: str) -> None:
    register(client, "churn", "s3://ml/churn/1", "s3://ml/churn/2")
    client.set_registered_model_alias("churn", "champion", "1")
    client.transition_model_version_stage("churn", "2", "Production")
    state = MlflowRegistry(database).read()
    assert state.complete
    assert state.problems == ()
    artifacts = ArtifactMap(knowledge=[state.knowledge])
    found = artifacts.artifact(event(container="ml", object="churn/2/model.pkl"))
    assert found == Artifact("model", model="churn", version="2", by="registry")
    for name, version in {"champion": "1", "Production": "2", "production": "2", "2": "2", "other": "other"}.items():
        asked = mlflow("model-versions/get", model="churn", model_version=name)
        assert artifacts.artifact(asked).version == version


def test_a_logged_model_is_found_where_it_lies_and_where_the_server_proxies_it(client: Any, database: str) -> None:
    experiment = client.create_experiment("proxied", artifact_location="mlflow-artifacts:/7")
    run = client.create_run(experiment)
    logged = client.create_logged_model(experiment, name="lg", source_run_id=run.info.run_id)
    register(client, "logged", logged.model_uri, f"{run.info.artifact_uri}/model")
    state = MlflowRegistry(database, artifacts="s3://ml-root/artifacts/").read()
    artifacts = ArtifactMap(knowledge=[state.knowledge])
    for access in (
        event(source="mlflow.audit", container="mlflow-artifacts", object=f"7/models/{logged.model_id}/artifacts/MLmodel"),
        event(source="mlflow.audit", container=f"7/models/{logged.model_id}", object="MLmodel"),
        event(container="ml-root", object=f"artifacts/7/models/{logged.model_id}/artifacts/MLmodel"),
    ):
        assert (artifacts.artifact(access).model, artifacts.artifact(access).version) == ("logged", "1")
    below_run = event(source="mlflow.audit", container=f"7/{run.info.run_id}", object="model/MLmodel")
    assert (artifacts.artifact(below_run).model, artifacts.artifact(below_run).version) == ("logged", "2")
    assert artifacts.artifact(event(source="mlflow.audit", container=f"7/{run.info.run_id}", object="plot.png")).kind == "unresolved"


def test_a_copy_does_not_take_the_files_of_the_original(client: Any, database: str) -> None:
    register(client, "original", "s3://ml/original/1")
    client.copy_model_version("models:/original/1", "copied")
    artifacts = ArtifactMap(knowledge=[MlflowRegistry(database).read().knowledge])
    assert artifacts.artifact(event(container="ml", object="original/1/x")).model == "original"


def test_a_reading_is_bounded_and_the_next_one_goes_on(client: Any, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register(client, "many", *(f"s3://ml/many/{i}" for i in range(7)))
    monkeypatch.setattr(registry, "_PAGE", 2)
    source = MlflowRegistry(database, limit=2)
    state, readings = source.read(), 1
    while not state.complete:
        assert any("older ones follow" in problem for problem in state.problems)
        state, readings = source.read(state), readings + 1
    assert readings >= 4
    assert {version for model, version in state.versions if model == "many"} == {str(i) for i in range(1, 8)}
    client.create_model_version("many", source="s3://ml/many/new")
    state = source.read(state)
    assert ("many", "8") in state.versions


def test_what_was_deleted_stays_known(client: Any, database: str) -> None:
    register(client, "gone", "s3://ml/gone/1")
    source = MlflowRegistry(database)
    state = source.read()
    client.delete_registered_model("gone")
    artifacts = ArtifactMap(knowledge=[source.read(state).knowledge])
    assert artifacts.artifact(event(container="ml", object="gone/1/x")).model == "gone"


def test_a_registry_that_cannot_be_reached_is_told_and_keeps_what_was_known(client: Any, database: str) -> None:
    register(client, "kept", "s3://ml/kept/1")
    known = MlflowRegistry(database).read()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://alice:hunter2@127.0.0.1:{unused.getsockname()[1]}"
    state = MlflowRegistry(address).read()
    assert state.knowledge.locations == ()
    assert "could not be read" in state.knowledge.unseen[0]
    assert "hunter2" not in state.knowledge.unseen[0]
    later = MlflowRegistry(address).read(known)
    assert ("kept", "1") in later.versions
    assert ArtifactMap(knowledge=[later.knowledge]).unseen == later.problems != ()


def test_a_server_that_is_no_registry_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        state = MlflowRegistry(f"http://127.0.0.1:{server.server_address[1]}").read()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "could not be read" in state.problems[0]


def test_a_registry_of_another_time_reads_from_the_start(empty: Path) -> None:
    state = MlflowRegistry(f"sqlite:///{empty}").read(RegistryState(registry="x"))
    assert state.complete
    assert state.knowledge.locations == ()
