"""A real MLflow server with the plugin, driven by MLflow's own client: what was done is what the log tells."""

import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from stat import S_IMODE
from uuid import uuid4

import click
import pytest

from mlsec_dagster.audit.events import AuditEvent
from mlsec_dagster.audit.ocsf import from_ocsf, to_ocsf
from mlsec_dagster.demo.registry import ADMIN, Registry, running_registry
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.mlflow_app.application import prepare
from tests.audit.ocsf_schema import problems
from tests.mlflow_app.asgi import records
from tests.mlflow_app.conftest import ENTRY_POINT, ROOT

if any(importlib.util.find_spec(name) is None for name in ("mlflow", "flask_wtf")):
    pytest.skip("needs mlflow[auth]: mlsec-dagster[mlflow] brings it", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
CONTENT = os.urandom(200_000)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, entry_point: dict[str, str]) -> Iterator[Registry]:
    with running_registry(tmp_path_factory.mktemp("registry"), ["alice", "bob"], workers=2, environment=entry_point) as registry:
        yield registry


class Model:
    """A version of a model that alice registered, with one file of 200,000 bytes."""

    def __init__(self, registry: Registry, directory: Path) -> None:
        self.name = f"churn-{uuid4().hex[:8]}"
        file = directory / "model.pkl"
        file.write_bytes(CONTENT)
        with registry.acting_as("alice") as client:
            self.experiment = client.create_experiment(self.name)
            run = client.create_run(self.experiment)
            self.run = run.info.run_id
            client.log_artifact(self.run, str(file), "model")
            client.create_registered_model(self.name)
            self.version = client.create_model_version(self.name, f"{run.info.artifact_uri}/model", self.run).version
        self.path = f"/api/2.0/mlflow-artifacts/artifacts/{self.experiment}/{self.run}/artifacts/model/model.pkl"


@pytest.fixture(scope="module")
def model(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(registry, tmp_path_factory.mktemp("model"))


def await_only(registry: Registry, wanted: Callable[[AuditEvent], bool]) -> AuditEvent:
    """The one access that is wanted, as soon as it is in the log."""
    until = time.monotonic() + 20
    while True:
        found = [row for row in registry.accesses() if isinstance(row, AuditEvent) and wanted(row)]
        if found or time.monotonic() > until:
            assert len(found) == 1, [
                (row.principal, row.operation, row.request) for row in registry.accesses() if isinstance(row, AuditEvent)
            ]
            return found[0]
        time.sleep(0.02)


def raw(registry: Registry, method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """A request that no client would send; the whole answer."""
    host, port = registry.url.removeprefix("http://").split(":")
    request = "\r\n".join(
        [f"{method} {path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request.encode("latin-1") + b"\r\n\r\n" + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def login(user: str, password: str) -> str:
    return f"Authorization: Basic {b64encode(f'{user}:{password}'.encode()).decode()}"


def test_the_package_declares_the_entry_point_that_is_tested() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["mlflow.app"]
    assert declared == dict([ENTRY_POINT])


def test_who_acted_as_somebody_leaves_no_registry_behind_for_others_in_this_process(registry: Registry) -> None:
    import mlflow

    before = dict(os.environ)
    with registry.acting_as("alice"):
        assert mlflow.get_registry_uri() == registry.url
    assert dict(os.environ) == before
    mlflow.set_tracking_uri("sqlite:////nowhere/own.db")
    try:
        assert mlflow.get_registry_uri() == "sqlite:////nowhere/own.db"  # And not mlflow.db in the working directory.
    finally:
        mlflow.set_tracking_uri(None)
    assert dict(os.environ) == before


def test_an_upload_is_told_with_its_run_and_every_byte(registry: Registry, model: Model) -> None:
    event = await_only(registry, lambda row: row.action == "write" and row.container == f"{model.experiment}/{model.run}")
    assert (event.principal, event.principal_type, event.status, event.outcome) == ("alice", "basic", "200", "success")
    assert (event.object, event.bytes_in, event.plane) == ("model/model.pkl", 200_000, "data")
    assert event.user_agent is not None
    assert event.user_agent.startswith("mlflow-python-client/")
    assert event.address == "127.0.0.1"


def test_a_registration_is_told_with_the_version_that_came_of_it(registry: Registry, model: Model) -> None:
    event = await_only(registry, lambda row: row.operation == "POST model-versions/create" and row.model == model.name)
    assert (event.principal, event.model_version, event.action) == ("alice", "1", "create")
    assert event.object == f"mlflow-artifacts:/{model.experiment}/{model.run}/artifacts/model"


def test_a_download_by_alias_is_told_step_by_step(registry: Registry, model: Model, tmp_path: Path) -> None:
    import mlflow

    with registry.acting_as("alice") as client:
        client.set_registered_model_alias(model.name, "latest-good", model.version)
    with registry.acting_as("bob"):
        place = mlflow.artifacts.download_artifacts(f"models:/{model.name}@latest-good", dst_path=str(tmp_path / "got"))
    assert (Path(place) / "model.pkl").read_bytes() == CONTENT
    download = await_only(registry, lambda row: row.principal == "bob" and row.object == "model/model.pkl" and row.bytes_out == 200_000)
    assert (download.action, download.plane, download.outcome, download.status) == ("read", "data", "success", "200")
    assert download.container == f"{model.experiment}/{model.run}"
    asked = await_only(registry, lambda row: row.principal == "bob" and row.operation == "GET registered-models/alias")
    assert (asked.model, asked.model_version, asked.resource) == (model.name, "1", f"models:/{model.name}@latest-good")
    where = await_only(registry, lambda row: row.principal == "bob" and row.operation == "GET model-versions/get-download-uri")
    assert (where.model, where.model_version) == (model.name, "1")


def test_promotions_are_told_with_what_became_of_which_version(registry: Registry, model: Model) -> None:
    with registry.acting_as("alice") as client:
        client.set_registered_model_alias(model.name, "champion", model.version)
        client.transition_model_version_stage(model.name, model.version, "Production")
        client.delete_registered_model_alias(model.name, "champion")
        client.set_model_version_tag(model.name, model.version, "approved", "yes")
    promoted = await_only(registry, lambda row: row.action == "promote" and row.resource == f"models:/{model.name}@champion")
    assert (promoted.principal, promoted.model, promoted.model_version, promoted.outcome) == ("alice", model.name, "1", "success")
    staged = await_only(registry, lambda row: row.operation == "POST model-versions/transition-stage")
    assert (staged.action, staged.resource, staged.model_version) == ("promote", f"models:/{model.name}/Production", "1")
    assert await_only(registry, lambda row: row.operation == "DELETE registered-models/alias").action == "update"
    assert await_only(registry, lambda row: row.operation == "POST model-versions/set-tag").model_version == "1"


def test_deletions_are_told(registry: Registry, tmp_path: Path) -> None:
    other = Model(registry, tmp_path)
    with registry.acting_as("alice") as client:
        client.delete_model_version(other.name, other.version)
        client.delete_registered_model(other.name)
        client.delete_run(other.run)
    version = await_only(registry, lambda row: row.operation == "DELETE model-versions/delete")
    assert (version.principal, version.action, version.model, version.model_version) == ("alice", "delete", other.name, "1")
    assert await_only(registry, lambda row: row.operation == "DELETE registered-models/delete" and row.model == other.name).status == "200"
    assert await_only(registry, lambda row: row.operation == "POST runs/delete").container == other.run


# A bearer token on tracking routes is left out: MLflow 3.17 answers 500 to it.
@pytest.mark.parametrize(
    ("route", "credentials"),
    [(route, credentials) for route in ("tracking", "artifacts") for credentials in ("none", "wrong", "unknown")]
    + [("artifacts", "bearer")],
)
def test_a_401_is_still_a_401_and_nobody_is_believed(registry: Registry, model: Model, route: str, credentials: str) -> None:
    path = model.path if route == "artifacts" else f"/api/2.0/mlflow/registered-models/get?name={model.name}"
    headers = {
        "none": [],
        "wrong": [login("alice", "not her password")],
        "unknown": [login("mallory", "anything at all")],
        "bearer": ["Authorization: Bearer " + registry.credentials["alice"]],
    }[credentials]
    mark = uuid4().hex
    answer = raw(registry, "GET", path, f"User-Agent: {mark}", *headers)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert CONTENT[:64] not in answer
    event = await_only(registry, lambda row: row.user_agent == mark)
    assert (event.outcome, event.status, event.principal, event.principal_name, event.principal_type) == ("denied", "401", None, None, None)
    assert event.object == ("model/model.pkl" if route == "artifacts" else None)
    assert event.model == (model.name if route == "tracking" else None)


def test_a_403_is_still_a_403_and_told_without_a_user(registry: Registry, model: Model, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    with registry.acting_as("bob") as client, pytest.raises(MlflowException, match="403"):
        client.set_registered_model_alias(model.name, "mine", model.version)
    promotion = await_only(registry, lambda row: row.action == "promote" and row.outcome == "denied")
    assert (promotion.principal, promotion.principal_name, promotion.model) == (None, "bob", model.name)
    mark = uuid4().hex
    answer = raw(
        *(registry, "PUT", model.path, login("bob", registry.credentials["bob"]), f"User-Agent: {mark}"),
        body=b"another model",
    )
    assert answer.startswith(b"HTTP/1.1 403 ")
    event = await_only(registry, lambda row: row.user_agent == mark)
    assert (event.outcome, event.principal, event.principal_name, event.object) == ("denied", None, "bob", "model/model.pkl")
    with registry.acting_as("alice") as client:
        assert Path(client.download_artifacts(model.run, "model/model.pkl", str(tmp_path))).read_bytes() == CONTENT


def test_the_ways_of_the_user_interface_to_a_file_are_told(registry: Registry, model: Model) -> None:
    ways = {
        f"/get-artifact?run_uuid={model.run}&path=model/model.pkl": (model.run, None, None),
        f"/model-versions/get-artifact?name={model.name}&version=1&path=model.pkl": ("mlflow-artifacts", model.name, "1"),
        model.path.replace("/api/", "/ajax-api/"): (f"{model.experiment}/{model.run}", None, None),
    }
    for way, expected in ways.items():
        assert registry.ask("GET", way, user="bob") == CONTENT
        event = await_only(registry, lambda row, way=way: row.request == way)
        assert (event.action, event.plane, event.bytes_out, event.principal) == ("read", "data", 200_000, "bob"), way
        assert (event.container, event.model, event.model_version) == expected


def test_a_disguised_path_is_told_as_the_file_that_was_served(registry: Registry, model: Model) -> None:
    served = 0
    disguises = (
        "mod%0Ael.pkl",
        "%256dodel.pkl",
        "%25256dodel.pkl",
        "model.pkl%3F",
        ".%2Fmodel.pkl",
        "%2Fmodel.pkl",
        "model.pkl%3B",
        "%09model.pkl",
    )
    for disguise in disguises:
        mark = uuid4().hex
        path = model.path.replace("model.pkl", disguise)
        answer = raw(registry, "GET", path, login("bob", registry.credentials["bob"]), f"User-Agent: {mark}")
        event = await_only(registry, lambda row, mark=mark: row.user_agent == mark)
        if CONTENT in answer:
            served += 1
            assert (event.container, event.object) == (f"{model.experiment}/{model.run}", "model/model.pkl"), disguise
    assert served > 2


def test_a_multipart_upload_is_told_where_the_storage_does_not_know_it_too(registry: Registry, model: Model) -> None:
    for step in ("create", "complete", "abort"):
        path = f"/api/2.0/mlflow-artifacts/mpu/{step}/{model.experiment}/{model.run}/artifacts/model"
        body = {"path": "big.bin", "num_parts": 2} if step == "create" else {"path": "big.bin", "upload_id": "1", "parts": []}
        with pytest.raises(urllib.error.HTTPError):
            registry.ask("POST", path, body, user="alice")
        event = await_only(registry, lambda row, step=step: row.operation == f"POST mlflow-artifacts/mpu/{step}")
        assert (event.principal, event.action, event.plane, event.outcome) == ("alice", "write", "data", "failure")
        assert (event.container, event.object) == (f"{model.experiment}/{model.run}", "model/big.bin")


def test_a_client_that_leaves_in_the_middle_of_a_model_took_what_it_took(registry: Registry, model: Model) -> None:
    size = 64 << 20
    path = model.path.replace("model.pkl", "large.bin")
    mark = uuid4().hex
    assert raw(registry, "PUT", path, login("alice", registry.credentials["alice"]), body=bytes(size)).startswith(b"HTTP/1.1 200 ")
    assert await_only(registry, lambda row: row.action == "write" and row.object == "model/large.bin").bytes_in == size
    host, port = registry.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        asked = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: {mark}\r\n{login('bob', registry.credentials['bob'])}\r\n\r\n"
        connection.sendall(asked.encode())
        taken = 0
        while taken < 1 << 20:
            taken += len(connection.recv(65536))
    event = await_only(registry, lambda row: row.user_agent == mark)
    assert (event.principal, event.status) == ("bob", "200")
    assert event.bytes_out is not None
    assert taken - 4096 <= event.bytes_out < size


def test_a_crafted_request_is_one_line_without_escapes(registry: Registry) -> None:
    mark = uuid4().hex
    raw(
        registry,
        "GET",
        f"/api/2.0/mlflow/%0a%1b[2J/{mark}?a=%0d%0a&sig=s3cr3tvalue",
        "User-Agent: \x9b31m\tevil",
        "X-Forwarded-For: 10.0.0.1\x9b",
    )
    event = await_only(registry, lambda row: mark in (row.request or ""))
    assert event.principal is None
    lines = [line for path in registry.audit_directory.iterdir() for line in path.read_bytes().split(b"\n") if mark.encode() in line]
    assert len(lines) == 1
    assert all(0x20 <= byte < 0x7F for byte in lines[0])
    assert b"s3cr3tvalue" not in lines[0]


def test_every_access_is_told_once_by_the_worker_that_served_it_in_a_file_of_its_own(registry: Registry) -> None:
    marks = [uuid4().hex for _ in range(60)]

    def ask(mark: str) -> bytes:
        return raw(
            registry,
            "GET",
            "/api/2.0/mlflow/experiments/get?experiment_id=0",
            f"User-Agent: {mark}",
            login(ADMIN, registry.credentials[ADMIN]),
        )

    with ThreadPoolExecutor(8) as threads:
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in threads.map(ask, marks))
    for mark in marks:
        assert await_only(registry, lambda row, mark=mark: row.user_agent == mark).principal == ADMIN
    files = [*registry.audit_directory.iterdir()]
    servers = [{json.loads(line)["server"] for line in path.read_bytes().splitlines()} for path in files]
    assert all(len(server) == 1 for server in servers)
    assert len(set.union(*servers)) == len(files) == 2
    assert {S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_all_that_was_told_is_valid_ocsf_and_comes_back(registry: Registry, model: Model) -> None:
    events = [row for row in registry.accesses() if isinstance(row, AuditEvent)]
    assert len(events) == len(registry.accesses()) > 4
    for event in events:
        assert problems(to_ocsf(event)) == []
        assert from_ocsf(to_ocsf(event)) == event


def test_no_password_is_anywhere_in_the_log(registry: Registry) -> None:
    registry.ask("POST", "/api/2.0/mlflow/users/create", {"username": "carol", "password": "carols-very-own-and-rather-long-password"})
    await_only(
        registry,
        lambda row: (
            row.operation == "POST users/create"
            and row.bytes_in == len('{"username": "carol", "password": "carols-very-own-and-rather-long-password"}')
        ),
    )
    data = b"".join(path.read_bytes() for path in registry.audit_directory.iterdir())
    for secret in ("carols-very-own-and-rather-long-password", *registry.credentials.values()):
        assert secret.encode() not in data
        for user in registry.credentials:
            assert b64encode(f"{user}:{secret}".encode()) not in data


def test_what_is_missing_is_found_before_there_is_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLSEC_MLFLOW_AUDIT_DIR", raising=False)
    monkeypatch.delitem(sys.modules, "mlsec_dagster.mlflow_app.entry", raising=False)
    with click.Context(click.Command("server")) as context:  # As `mlflow server` imports it.
        context.params["app_name"] = "mlsec-audit"
        with pytest.raises(click.ClickException, match="MLSEC_MLFLOW_AUDIT_DIR"):
            importlib.import_module("mlsec_dagster.mlflow_app.entry")


@pytest.mark.parametrize("option", ["gunicorn_opts", "waitress_opts"])
def test_a_server_that_would_bypass_the_wrapper_is_refused(option: str) -> None:
    with pytest.raises(ConfigurationError, match="leave --gunicorn-opts and --waitress-opts away"):
        prepare({option: "--timeout 60"})


def bare(entry_point: dict[str, str], **variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_", "MLSEC_"))}
    return {**inherited, **entry_point, "MLFLOW_DISABLE_TELEMETRY": "true", **variables}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("directory", "sentence"),
    [
        ("absent", "MLSEC_MLFLOW_AUDIT_DIR={} cannot be used (No such file or directory)"),
        ("log", "MLSEC_MLFLOW_AUTH=none says that everybody"),
    ],
)
def test_a_server_that_cannot_log_or_authenticate_says_so_and_does_not_start(
    tmp_path: Path, entry_point: dict[str, str], directory: str, sentence: str
) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    place = str(tmp_path / directory)
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "mlsec-audit"),
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
    ]
    environment = bare(entry_point, MLSEC_MLFLOW_AUDIT_DIR=place)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert sentence.format(place) in done.stderr
    assert "Traceback" not in done.stderr
    assert "Uvicorn running" not in done.stderr


@pytest.mark.slow
def test_without_authentication_the_server_serves_and_logs_everybody_as_anonymous(tmp_path: Path, entry_point: dict[str, str]) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    code = """
import asyncio, httpx
from mlsec_dagster.mlflow_app.entry import create_app
app = create_app()
async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        return await client.get("/", auth=("alice", "made up"))
print(asyncio.run(ask()).status_code)
"""
    environment = bare(entry_point, MLSEC_MLFLOW_AUDIT_DIR=str(tmp_path / "log"), MLSEC_MLFLOW_AUTH="none")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "200", done.stderr
    (record,) = records(tmp_path / "log")
    assert (record.status, record.user, record.auth) == (200, None, "anonymous")
