"""The clouds' pickle IO managers against servers that answer over HTTP: nothing that was replaced is unpickled, nothing else changes."""

import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import dagster as dg
import pytest

from tests.guard.projects import RAN
from tests.guard.sameness import Run, Twins, at_home

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    yield
    RAN.clear()


class Bomb:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.trace,))


PARTS = dg.StaticPartitionsDefinition(["a", "b"])


def assets() -> list[Any]:
    @dg.asset
    def raw() -> dict[str, int]:
        return {"a": 1}

    @dg.asset
    def features(raw: dict[str, int]) -> dict[str, int]:
        RAN.append("features")
        return {**raw, "b": 2}

    @dg.asset(partitions_def=PARTS)
    def daily(context: dg.AssetExecutionContext) -> str:
        return context.partition_key

    @dg.asset(key_prefix=["deep", "er"])
    def whole(daily: dict[str, str]) -> list[str]:
        return sorted(daily.values())

    return [raw, features, daily, whole]


def assert_left_alone_and_guarded(
    home: Path, template: Path, resources: Callable[[str], dict[str, Any]], replace: Callable[[str, bytes], None]
) -> None:
    """Both sides behave alike; then the guarded side's object is replaced, and its consumer does not run.

    Args:
        home: A directory of the test's own.
        template: A Dagster home to copy.
        resources: Makes the project's resources, storing below a prefix.
        replace: Overwrites an object, given its key.
    """

    def build(base: Path) -> dg.Definitions:
        return dg.Definitions(assets=assets(), resources=resources("same"))

    project = Twins(home, build, ["raw", "features", "daily", "deep/er/whole"], template)
    project.assert_defined_alike()
    runs = [Run(select=["raw", "features"]), *(Run(select=["daily"], partition=key) for key in "ab"), Run(select=["deep/er/whole"])]
    project.assert_run_alike(*runs)
    project.assert_load_alike("deep/er/whole")
    project.assert_load_alike("daily", partition_key="b")
    project.assert_every_check_passed(5)
    locations = {entry["asset"]: entry for entry in sealed(project)}
    assert all(file.version for file in locations["raw"]["files"])

    RAN.clear()
    trace = home / "exploded"
    replace("same/raw", pickle.dumps(Bomb(trace)))
    side = project.guarded
    with pytest.raises(AssertionError, match="raw is not what run"), at_home(side.home):
        Run(select=["features"]).execute(side.defs, side.instance)
    assert RAN == []
    assert not trace.exists()


def sealed(project: Twins) -> list[dict[str, Any]]:
    """What the writers sealed, with the files of each manifest."""
    from mlsec_dagster.resources import open_store
    from mlsec_dagster.sealing import Seals

    with at_home(project.guarded.home):
        seals = Seals(open_store(project.guarded.instance), project.guarded.instance)
        return [
            {"asset": asset, "files": seals.manifest(entry).files}
            for asset in seals.ledger.assets()
            for entry in seals.ledger.history(asset)
            if entry.statement.predicate_type == "urn:mlsec:dataset-write:v1"
        ]


@pytest.mark.parametrize("legacy", [False, True], ids=["configurable", "legacy"])
def test_s3(tmp_path: Path, home_template: Path, s3_bucket: str, legacy: bool) -> None:
    import boto3
    from dagster_aws.s3 import S3PickleIOManager, S3Resource, s3_pickle_io_manager, s3_resource

    def resources(prefix: str) -> dict[str, Any]:
        if legacy:
            settings = {"s3_bucket": s3_bucket, "s3_prefix": prefix}
            return {"io_manager": s3_pickle_io_manager.configured(settings), "s3": s3_resource}
        return {"io_manager": S3PickleIOManager(s3_resource=S3Resource(), s3_bucket=s3_bucket, s3_prefix=prefix)}

    def replace(key: str, data: bytes) -> None:
        boto3.client("s3").put_object(Bucket=s3_bucket, Key=key, Body=data)

    assert_left_alone_and_guarded(tmp_path, home_template, resources, replace)


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a Google Cloud Storage that keeps objects in memory and answers over HTTP."""
    from gcp_storage_emulator.server import create_server
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="lake")
    server.start()
    host, port = server._api._httpd.server_address[:2]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
    yield storage.Client(project="test", credentials=AnonymousCredentials())
    server.stop()


@pytest.mark.parametrize("legacy", [False, True], ids=["configurable", "legacy"])
def test_gcs(tmp_path: Path, home_template: Path, gcs: Any, legacy: bool) -> None:
    from dagster_gcp.gcs import GCSPickleIOManager, GCSResource, gcs_pickle_io_manager, gcs_resource

    def resources(prefix: str) -> dict[str, Any]:
        if legacy:
            settings = {"gcs_bucket": "lake", "gcs_prefix": prefix}
            return {"io_manager": gcs_pickle_io_manager.configured(settings), "gcs": gcs_resource.configured({"project": "test"})}
        return {"io_manager": GCSPickleIOManager(gcs=GCSResource(project="test"), gcs_bucket="lake", gcs_prefix=prefix)}

    def replace(key: str, data: bytes) -> None:
        gcs.bucket("lake").blob(key).upload_from_string(data)

    assert_left_alone_and_guarded(tmp_path, home_template, resources, replace)


class DataLake(BaseHTTPRequestHandler):
    """As much of Azure Data Lake Storage Gen2 as its SDK needs to create, lease, append to, flush, read and look at files.

    After https://learn.microsoft.com/rest/api/storageservices/data-lake-storage-gen2 and, for reads and leases, the Blob service's API.
    """

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    pending: dict[str, bytes]

    def log_message(self, *_: Any) -> None: ...

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        path = self._path()
        known = {"ETag": f'"0x{hash(self.files[path]) & 0xFFFFFFFF:X}"'} if path in self.files else {}
        length = {} if self.command == "HEAD" and headers and "Content-Length" in headers else {"Content-Length": str(len(body))}
        sent = {"x-ms-version": "2023-01-03", "Last-Modified": "Tue, 01 Jan 2013 00:00:00 GMT", **known, **length, **(headers or {})}
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/").partition("/")[2]

    def _query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_PUT(self) -> None:
        self._body()
        path, query = self._path(), self._query()
        if query.get("comp") == "lease":
            acquired = self.headers["x-ms-lease-action"] == "acquire"
            self._answer(201 if acquired else 200, {"x-ms-lease-id": self.headers.get("x-ms-proposed-lease-id") or "lease"})
        else:
            self.files[path] = b""
            self._answer(201)

    def do_PATCH(self) -> None:
        path, query, body = self._path(), self._query(), self._body()
        if query["action"] == "append":
            self.pending[path] = self.pending.get(path, b"")[: int(query["position"])] + body
            self._answer(202)
        else:
            self.files[path] = self.pending.pop(path, b"")[: int(query["position"])]
            self._answer(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, query = self._path(), self._query()
        if query.get("restype") == "container":
            self._answer(200)
        elif path not in self.files:
            self._answer(404, {"x-ms-error-code": "BlobNotFound"})
        else:
            data = self.files[path]
            end = f"bytes 0-{len(data) - 1}/{len(data)}"
            ranged = {"Content-Range": end} if self.command == "GET" else {"Content-Length": str(len(data))}
            self._answer(206 if self.command == "GET" else 200, {"x-ms-blob-type": "BlockBlob", **ranged}, data)


@pytest.fixture
def data_lake() -> Iterator[tuple[str, type[DataLake]]]:
    handler = type("OwnDataLake", (DataLake,), {"files": {}, "pending": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("legacy", [False, True], ids=["configurable", "legacy"])
def test_adls(tmp_path: Path, home_template: Path, data_lake: Any, legacy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.storage.blob import BlobServiceClient
    from azure.storage.filedatalake import DataLakeServiceClient
    from dagster_azure.adls2 import (
        ADLS2PickleIOManager,
        ADLS2Resource,
        ADLS2SASToken,
        adls2_pickle_io_manager,
        adls2_resource,
    )
    from dagster_azure.adls2 import (
        resources as module,
    )

    url, lake = data_lake
    # The package builds https addresses of Azure itself from an account's name.
    monkeypatch.setattr(module, "create_adls2_client", lambda *_args, **_kwargs: DataLakeServiceClient(url, credential=None))
    monkeypatch.setattr(module, "create_blob_client", lambda *_args, **_kwargs: BlobServiceClient(url, credential=None))

    def resources(prefix: str) -> dict[str, Any]:
        if legacy:
            settings = {"adls2_file_system": "lake", "adls2_prefix": prefix}
            account = adls2_resource.configured({"storage_account": "test", "credential": {"sas": "none"}})
            return {"io_manager": adls2_pickle_io_manager.configured(settings), "adls2": account}
        adls2 = ADLS2Resource(storage_account="test", credential=ADLS2SASToken(token="none"))
        return {"io_manager": ADLS2PickleIOManager(adls2=adls2, adls2_file_system="lake", adls2_prefix=prefix)}

    def replace(key: str, data: bytes) -> None:
        assert key in lake.files
        lake.files[key] = data

    assert_left_alone_and_guarded(tmp_path, home_template, resources, replace)
