"""A real MLflow server with an audit log, for as long as it is needed.

    with running_registry(Path("registry"), ["alice", "bob"]) as registry:
        with registry.acting_as("alice") as client:
            client.create_registered_model("churn")
        for row in registry.accesses():
            ...

It listens on this machine only, keeps everything below the directory, and says nothing; what it would say is in `server.log`.
"""

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.sources import mlflow as mlflow_log
from mlsec_dagster.errors import MlsecError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ADMIN = "admin"
_HOST = "127.0.0.1"


class RegistryError(MlsecError):
    """The demo's MLflow server did not start, or did not do what it was asked."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A running server.

    Attributes:
        url: Where it listens.
        audit_directory: Where its log is.
        credentials: Password of each user, `ADMIN` among them.
        process: Id of the process that started it, and of its process group.
        output: What it says.
    """

    url: str
    audit_directory: Path
    credentials: Mapping[str, str] = field(repr=False)
    process: int
    output: Path

    @contextmanager
    def acting_as(self, user: str | None, *, password: str | None = None) -> Iterator["MlflowClient"]:
        """MLflow in this process talks to this server as this user; None for nobody.

        Yields:
            A client.
        """
        import mlflow

        names = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password or (self.credentials[user] if user else None)}
        # Naming a server puts it into the environment too, where everybody in this process would find it afterwards.
        before = {name: os.environ.get(name) for name in (*names, "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
        _set(names)
        mlflow.set_tracking_uri(self.url)
        mlflow.set_registry_uri(self.url)
        try:
            yield mlflow.MlflowClient(self.url)
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
            mlflow.set_registry_uri(None)  # type: ignore[arg-type]  # As before the first call.
            _set(before)

    def accesses(self) -> list[AuditEvent | Quarantined]:
        """What its log tells so far, in order of time."""
        rows = [row for path in sorted(self.audit_directory.glob("*.jsonl")) for row in mlflow_log.read(path.read_bytes())]
        return sorted(rows, key=lambda row: row.time if isinstance(row, AuditEvent) else 0)

    def ask(self, method: str, path: str, body: object = None, *, user: str = ADMIN) -> bytes:
        """One request of its REST API.

        Raises:
            urllib.error.HTTPError: It refuses.
        """
        login = base64.b64encode(f"{user}:{self.credentials[user]}".encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"Basic {login}"}, method=method)  # noqa: S310 our own server
        if data is not None:
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.read()


@contextmanager
def running_registry(
    directory: Path,
    users: Sequence[str],
    *,
    workers: int = 2,
    default_permission: str = "READ",
    environment: Mapping[str, str] | None = None,
    patience: float = 120,
) -> Iterator[Registry]:
    """Starts a server with `--app-name mlsec-audit`, and stops it and all its processes in the end.

    Args:
        directory: Of everything it keeps; is made.
        users: Names of users beside `ADMIN`; each gets a password of its own.
        workers: Server processes.
        default_permission: What a user may do with what is not his: "READ", "EDIT", "MANAGE" or "NO_PERMISSIONS".
        environment: More of it, for the server.
        patience: Seconds to wait until it serves.

    Raises:
        RegistryError: It did not start.
    """
    directory = directory.absolute()
    audit, artifacts = directory / "audit", directory / "artifacts"
    for place in (directory, audit, artifacts):
        place.mkdir(parents=True, exist_ok=True)
    audit.chmod(0o700)
    credentials = {user: secrets.token_urlsafe(18) for user in (ADMIN, *users)}
    settings = directory / "auth.ini"
    # Passwords are slow to test, by design; this server remembers for a minute which it has tested.
    settings.write_text(
        f"[mlflow]\ndefault_permission = {default_permission}\ndatabase_uri = sqlite:///{directory}/auth.db\nadmin_username = {ADMIN}\n"
        "auth_cache_ttl_seconds = 60\n"
    )
    port = _free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "mlsec-audit", "--host", _HOST, "--port", str(port)),
        *("--workers", str(workers), "--backend-store-uri", f"sqlite:///{directory}/mlflow.db"),
        *("--artifacts-destination", str(artifacts), "--serve-artifacts"),
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_", "MLSEC_", "UVICORN_"))}
    output = directory / "server.log"
    with output.open("ab") as said:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={
                **inherited,
                "MLFLOW_AUTH_CONFIG_PATH": str(settings),
                "MLFLOW_AUTH_ADMIN_PASSWORD": credentials[ADMIN],
                "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLSEC_MLFLOW_AUDIT_DIR": str(audit),
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        registry = Registry(f"http://{_HOST}:{port}", audit, credentials, process.pid, output)
        _wait_until_it_serves(process, registry, patience)
        for user in users:
            registry.ask("POST", "/api/2.0/mlflow/users/create", {"username": user, "password": credentials[user]})
        yield registry
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process that leads a group, and all of the group: asked first, then made to."""
    for sign, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        until = time.monotonic() + patience
        while _group_lives(process):
            if sign is not None:
                try:
                    os.killpg(process.pid, sign)
                except ProcessLookupError:
                    break
                sign = None
            if time.monotonic() > until:
                break
            time.sleep(0.05)
    process.wait()


def _group_lives(process: "subprocess.Popen[bytes]") -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_until_it_serves(process: "subprocess.Popen[bytes]", registry: Registry, patience: float) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(f"{registry.url}/health", timeout=5):  # noqa: S310
                return
        except OSError as error:
            if process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
                continue
            last = registry.output.read_text(errors="replace").strip().splitlines()[-5:]
            raise RegistryError(
                f"The MLflow server did not start; its last words, in {registry.output}: {' '.join(last)[-800:]}"
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
