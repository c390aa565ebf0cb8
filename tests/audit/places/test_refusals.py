"""What storages refuse becomes a sentence that says what to do, and holds no secret."""

import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import escape

import pytest

from mlsec_dagster.audit.objects import LogObject, ObjectChangedError, Place
from mlsec_dagster.audit.places import AzureBlobs, GCSBucket, S3Bucket
from mlsec_dagster.audit.places.failures import failure
from mlsec_dagster.errors import ConfigurationError, MissingExtraError, StoreError
from tests.audit.places.storages import blob_client

SECRET = "SEKRET0123456789"
FOUND = LogObject("key", "1", 5, 0)


class Refusing(BaseHTTPRequestHandler):
    """A storage that answers everything with one status and code, and repeats the request with its signature, as real ones do."""

    protocol_version = "HTTP/1.1"
    status = 500
    code = ""

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        text = escape(f"Signature={SECRET} of {self.path}")
        if self.headers.get("x-ms-version"):
            body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>{text}</Message></Error>".encode()
        elif self.headers.get("x-goog-api-client"):
            body = f'{{"error": {{"code": {self.status}, "message": "{text}"}}}}'.encode()
        else:
            body = f"<Error><Code>{self.code}</Code><Message>{text}</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("Content-Type", "application/json" if body.startswith(b"{") else "application/xml")
        self.send_header("x-ms-error-code", self.code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET


@pytest.fixture
def refusing() -> Iterator[tuple[str, type[Refusing]]]:
    handler = type("OwnRefusing", (Refusing,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()
    server.server_close()


def bucket(url: str) -> S3Bucket:
    import boto3
    from botocore.config import Config

    keys = {"aws_access_key_id": "AKIAEXAMPLE", "aws_secret_access_key": SECRET, "aws_session_token": SECRET}
    settings = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=2)
    return S3Bucket(boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=settings, **keys), "logs")


def cloud_storage(url: str) -> GCSBucket:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
    return GCSBucket(client, "logs")


def blobs(url: str) -> AzureBlobs:
    return AzureBlobs(blob_client(f"{url}/account?sv=1&sig={SECRET}"), "logs")


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlsec_dagster.audit.places.gcs._PATIENCE", 0.1)


@pytest.mark.parametrize("make", [bucket, cloud_storage, blobs])
@pytest.mark.parametrize(
    ("status", "codes", "told"),
    [
        (503, ("SlowDown", "ServerBusy"), "is throttled by the storage. Nothing is lost"),
        (429, ("TooManyRequests", "TooManyRequests"), "is throttled by the storage. Nothing is lost"),
        (401, ("ExpiredToken", "InvalidAuthenticationInfo"), "credentials are absent or expired. Renew"),
        (403, ("AccessDenied", "AuthorizationFailure"), "credentials do not allow it. Grant"),
    ],
)
def test_a_refusal_says_what_to_do_and_no_secret(refusing: Any, make: Any, status: int, codes: tuple[str, str], told: str) -> None:
    url, handler = refusing
    handler.status, handler.code = status, codes[make is blobs]
    place: Place = make(url)
    for ask in (
        lambda: [*place.list()],
        lambda: [*place.folders()],
        lambda: [*place.read(FOUND)],
        lambda: place.metadata(FOUND),
    ):
        with pytest.raises(StoreError) as caught:
            ask()
        assert told in str(caught.value)
        assert not isinstance(caught.value, ObjectChangedError)
        assert str(caught.value).startswith(place.uri)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert SECRET not in shown
        assert SECRET.encode() not in pickle.dumps(str(caught.value))


def test_credentials_that_expired_are_told_though_the_status_is_400(refusing: Any) -> None:
    url, handler = refusing
    handler.status, handler.code = 400, "ExpiredToken"
    with pytest.raises(StoreError, match=r"absent or expired.*\(code: ExpiredToken\)"):
        [*bucket(url).list()]


def test_an_archived_object_is_told(refusing: Any) -> None:
    url, handler = refusing
    handler.status, handler.code = 403, "InvalidObjectState"
    with pytest.raises(StoreError, match="archive tier"):
        [*bucket(url).read(FOUND)]
    handler.status, handler.code = 409, "BlobArchived"
    with pytest.raises(StoreError, match="archive tier"):
        [*blobs(url).read(FOUND)]


def test_no_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    client = boto3.Session().client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"absent or expired.*NoCredentialsError"):
        [*S3Bucket(client, "logs").list()]


@pytest.mark.parametrize("make", [bucket, cloud_storage])
def test_a_storage_that_does_not_answer_is_told(make: Any) -> None:
    with pytest.raises(StoreError, match="could not be reached"):
        [*make("http://127.0.0.1:1").list()]


@pytest.mark.slow
def test_an_azure_that_does_not_answer_is_told() -> None:
    with pytest.raises(StoreError, match="could not be reached"):  # Its client waits a quarter of a minute before it tries again.
        [*blobs("http://127.0.0.1:1").list()]


class Breaking(Refusing):
    """A storage whose answers end in the middle."""

    def do_GET(self) -> None:
        self.send_response(206)
        for name, value in {
            "Content-Length": "5",
            "Content-Range": "bytes 0-4/5",
            "ETag": '"1"',
            "Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT",
            "x-ms-blob-type": "BlockBlob",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"12")
        self.close_connection = True


def test_an_answer_that_ends_in_the_middle_is_no_object() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Breaking)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    try:
        with pytest.raises(StoreError, match=r"s3://logs/key"):
            [*bucket(f"http://127.0.0.1:{server.server_address[1]}").read(FOUND)]
        with pytest.raises(StoreError, match=r"gs://logs/key"):
            [*cloud_storage(f"http://127.0.0.1:{server.server_address[1]}").read(FOUND)]
    finally:
        server.shutdown()
        server.server_close()


def test_only_a_plain_word_is_taken_for_a_code() -> None:
    assert "sig=" not in str(failure("other", "s3://logs/", "https://host/?sig=abc"))
    assert "(code: SlowDown)" in str(failure("throttled", "s3://logs/", "SlowDown"))


def test_more_than_a_thousand_objects_are_found_on_s3(s3: Any) -> None:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    for number in range(1003):  # Behind the server's back, which takes a tenth of the time.
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(s3.bucket, f"{number:05}", b"")
    found = [found.key for found in s3.place().list()]
    assert found == [f"{number:05}" for number in range(1003)]
    assert [found.key for found in s3.place().list(after="00999")] == ["01000", "01001", "01002"]
    asked: list[str] = []
    s3.client.meta.events.register("before-send.s3.ListObjectsV2", lambda request, **_: asked.append(request.url))
    listing = s3.place().list()
    assert asked == []
    next(listing)
    assert len(asked) == 1  # The second page is not asked for before it is wanted.
    assert len([*listing]) == 1002
    assert len(asked) == 2


def test_credentials_that_expire_between_two_pages_are_told_and_what_was_listed_stays(s3: Any) -> None:
    from botocore.awsrequest import AWSResponse

    for number in range(4):
        s3.put(f"{number}", b"x")
    asked: list[str] = []

    class Raw:
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield f"<Error><Code>ExpiredToken</Code><Message>{SECRET}</Message></Error>".encode()

    def expire(request: Any, **_: Any) -> Any:
        asked.append(request.url)
        return AWSResponse(request.url, 400, {}, Raw()) if len(asked) > 1 else None

    def two(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 2

    s3.client.meta.events.register("provide-client-params.s3.ListObjectsV2", two)
    s3.client.meta.events.register("before-send.s3.ListObjectsV2", expire)
    listing = s3.place().list()
    assert [next(listing).key, next(listing).key] == ["0", "1"]
    with pytest.raises(StoreError, match="absent or expired") as caught:
        next(listing)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_all_containers_of_an_account_are_folders(blobs_account: Any) -> None:
    client, names = blobs_account
    place = AzureBlobs(client, page_size=2)
    assert {*names} <= {*place.folders()}
    assert [*place.folders(f"{names[0]}/")] == ["resourceId="]
    [found] = place.list(f"{names[0]}/")
    assert found.key == f"{names[0]}/resourceId=/y=2026/PT1H.json"
    assert b"".join(place.read(found)) == names[0].encode()
    assert {each.key.split("/")[0] for each in place.list(names[0][:20])} >= {names[0]}
    assert {each.key.split("/")[0] for each in place.list()} >= {*names}
    assert place.uri == "abfss://devstoreaccount1/"
    with pytest.raises(ConfigurationError, match="Name the container"):
        AzureBlobs(client, prefix="x/")


def test_of_an_account_only_containers_of_the_given_beginning_are_looked_into(blobs_account: Any) -> None:
    client, names = blobs_account
    lake = client.create_container(f"lake-{names[0][-8:]}").container_name
    client.get_container_client(lake).upload_blob("resourceId=/y=2026/PT1H.json", b"planted")
    assert lake in {*AzureBlobs(client).folders()}
    place = AzureBlobs(client, containers="insights-logs-")
    for prefix in ("", "i", "insights-logs-storage"):
        found = {each.key.split("/")[0] for each in place.list(prefix)}
        assert found & {*names, lake} == {name for name in names if name.startswith(prefix)}
    assert lake not in {*place.folders()}
    assert [*place.list(f"{lake}/"), *place.list("lake"), *place.folders(f"{lake}/")] == []


@pytest.fixture
def blobs_account(azurite_url: str) -> Any:
    from uuid import uuid4

    client = blob_client(azurite_url)
    names = [f"insights-logs-{kind}-{uuid4().hex[:8]}" for kind in ("storageread", "storagewrite", "amlmodelsevent")]
    for name in names:
        client.create_container(name).upload_blob("resourceId=/y=2026/PT1H.json", name.encode())
    return client, names


CLIENTS = {
    "botocore": (S3Bucket, "aws"),
    "google.api_core": (GCSBucket, "gcp"),
    "azure.core": (AzureBlobs, "azure"),
}


@pytest.mark.parametrize("package", CLIENTS)
def test_a_client_that_is_not_installed_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    place, extra = CLIENTS[package]
    monkeypatch.setitem(sys.modules, f"{package}.exceptions", None)
    with pytest.raises(MissingExtraError, match=rf"install mlsec-dagster\[{extra}\]"):
        place(object(), "logs")


def test_no_client_is_imported_before_it_is_given() -> None:
    code = (
        "import sys, mlsec_dagster.audit.places, mlsec_dagster.audit.layouts, mlsec_dagster.audit.digest_chains; "
        "clients = ('boto3', 'botocore', 'google.cloud', 'google.auth', 'azure.core', 'requests', 'dagster'); "
        "print([name for name in clients if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
