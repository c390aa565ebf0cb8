"""Storages that really answer, each with what a writer of logs does there."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from mlsec_dagster.audit.objects import Place
from mlsec_dagster.audit.places import AzureBlobs, Directory, GCSBucket, S3Bucket

# Microsoft's published key of the emulator's one account; it opens nothing else.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Storage(Protocol):
    """What a writer does."""

    def place(self, prefix: str = "") -> Place: ...
    def put(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None: ...
    def delete(self, key: str) -> None: ...


class Disk:
    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, prefix: str = "") -> Directory:
        return Directory(self.root / prefix)

    def put(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        # As a writer does that replaces: another file takes the name.
        (path.parent / ".new").write_bytes(data)
        (path.parent / ".new").replace(path)

    def append(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(data)

    def delete(self, key: str) -> None:
        (self.root / key).unlink()


class S3:
    def __init__(self, bucket: str) -> None:
        import boto3

        self.client = boto3.client("s3")
        self.bucket = bucket

    def place(self, prefix: str = "") -> S3Bucket:
        return S3Bucket(self.client, self.bucket, prefix)

    def put(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data, Metadata=metadata or {})

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)


class CloudStorage:
    def __init__(self, client: Any) -> None:
        self.client = client
        self.bucket = client.create_bucket(f"logs-{uuid4().hex}")

    def place(self, prefix: str = "") -> GCSBucket:
        return GCSBucket(self.client, self.bucket.name, prefix, page_size=7)

    def put(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None:
        blob = self.bucket.blob(key)
        blob.metadata = metadata
        blob.upload_from_string(data)

    def delete(self, key: str) -> None:
        self.bucket.blob(key).delete()


class Blobs:
    def __init__(self, client: Any) -> None:
        self.client = client
        self.container = client.create_container(f"insights-logs-{uuid4().hex}")

    def place(self, prefix: str = "") -> AzureBlobs:
        return AzureBlobs(self.client, self.container.container_name, prefix, page_size=7)

    def put(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None:
        self.container.upload_blob(key, data, overwrite=True, metadata=metadata)

    def append(self, key: str, data: bytes) -> None:
        blob = self.container.get_blob_client(key)
        if not blob.exists():
            blob.create_append_blob()
        if data:
            blob.append_block(data)

    def delete(self, key: str) -> None:
        self.container.delete_blob(key)


@contextmanager
def cloud_storage(setitem: Callable[[Any, Any, Any], None]) -> Iterator[Any]:
    """A client of a Google Cloud Storage that keeps objects in memory and answers over HTTP.

    The emulator knows neither pages nor preconditions nor start offsets, so they are put before it, as the documentation has them:
    https://cloud.google.com/storage/docs/json_api/v1/objects/list and https://cloud.google.com/storage/docs/request-preconditions

    Args:
        setitem: Sets an item of a mapping until the test is over.
    """
    from gcp_storage_emulator import server as emulator
    from gcp_storage_emulator.handlers import objects
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    def listed(request: Any, response: Any, store: Any, *rest: Any, **more: Any) -> None:
        objects.ls(request, response, store, *rest, **more)
        if response.status != 200:
            return
        import json

        answer = json.loads(response._content)
        ask = {name: values[0] for name, values in request.query.items()}
        found = [(item["name"], "items", item) for item in answer["items"]]
        found += [(prefix, "prefixes", prefix) for prefix in answer["prefixes"]]
        found = sorted((each for each in found if each[0] >= ask.get("startOffset", "")), key=lambda each: each[0].encode())
        first, size = int(ask.get("pageToken", 0)), int(ask.get("maxResults", 1000))
        page: dict[str, Any] = {"kind": "storage#objects"}
        for _, kind, each in found[first : first + size]:
            page.setdefault(kind, []).append(each)
        if first + size < len(found):
            page["nextPageToken"] = str(first + size)
        response.json(page)

    def guarded(handler: Any) -> Any:
        def handle(request: Any, response: Any, store: Any, *rest: Any, **more: Any) -> None:
            from http import HTTPStatus

            wanted = request.query.get("ifGenerationMatch")
            try:
                current = store.get_file_obj(request.params["bucket_name"], request.params["object_id"])["generation"]
            except Exception:
                current = None
            if wanted and current is not None and wanted[0] != current:
                response.status = HTTPStatus.PRECONDITION_FAILED
            else:
                handler(request, response, store, *rest, **more)

        return handle

    for _, handlers in emulator.HANDLERS:
        if handlers.get("GET") is objects.ls:
            setitem(handlers, "GET", listed)
        elif handlers.get("GET") in {objects.get, objects.download}:
            setitem(handlers, "GET", guarded(handlers["GET"]))
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    host, port = server._api._httpd.server_address[:2]
    try:
        yield storage.Client(project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": f"http://{host}:{port}"})
    finally:
        server.stop()


def azurite_executable() -> str | None:
    """Azurite's blob server: named by MLSEC_AZURITE, on the PATH, or below a node_modules of the project or of ~/.cache."""
    named = os.environ.get("MLSEC_AZURITE")
    if named:
        return named
    places = [Path("node_modules/.bin"), *Path.home().glob(".cache/*/node_modules/.bin")]
    for name in ("azurite-blob", "azurite"):
        found = shutil.which(name) or next((str(place / name) for place in places if (place / name).exists()), None)
        if found:
            return found
    return None


@contextmanager
def azurite(executable: str, home: Path, *, port: int = 0, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The URL of an Azure Blob storage that keeps blobs in memory; gone when the context ends.

    Args:
        executable: Azurite, or its blob server alone.
        home: A directory to start it in.
        port: Where to listen; any that is free if 0. delta-rs looks for the emulator on 10000 only.
        certificate: A certificate and its key, to answer over TLS.
    """
    ports = {}
    for service in ("blob",) if executable.endswith("azurite-blob") else ("blob", "queue", "table"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", port if service == "blob" else 0))
            ports[service] = free.getsockname()[1]
    arguments = ["--silent", "--loose", "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
    for service, port in ports.items():
        arguments += [f"--{service}Host", "127.0.0.1", f"--{service}Port", str(port)]
    if certificate is not None:
        arguments += ["--cert", str(certificate[0]), "--key", str(certificate[1])]
    process = subprocess.Popen(
        [executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=home
    )
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None, f"{executable} ended with {process.returncode}"
            with socket.socket() as attempt:
                attempt.settimeout(1)
                if attempt.connect_ex(("127.0.0.1", ports["blob"])) == 0:
                    break
            assert time.monotonic() < until, f"{executable} does not answer"
            time.sleep(0.05)
        yield f"http{'s' if certificate else ''}://127.0.0.1:{ports['blob']}/{AZURITE_ACCOUNT}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def blob_client(url: str, **settings: Any) -> Any:
    """A client as `ADLS2Resource.blob_client` gives it."""
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient(url, credential={"account_name": AZURITE_ACCOUNT, "account_key": AZURITE_KEY}, **settings)


def now() -> int:
    return int(datetime.now(UTC).timestamp() * 1_000_000)
