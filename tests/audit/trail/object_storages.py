"""Object storages that a trail can lie in, each a process of its own: Delta Lake waits for them without letting other threads run.

with moto_s3() as storage:
    trail = storage.trail("name")
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlsec_dagster.audit.trail import Trail
from tests.audit.places.storages import AZURITE_ACCOUNT, AZURITE_KEY, azurite, blob_client

AZURITE_PORT = 10_000
"""delta-rs looks for the emulator there only."""


@dataclass
class ObjectStorage:
    """Where trails can lie.

    Attributes:
        uri: What the URI of a trail begins with.
        options: Delta Lake's storage options.
        client: The vendor's own, for what others do there.
        bucket: Bucket or container.
    """

    uri: str
    options: dict[str, str]
    client: Any
    bucket: str

    def trail(self, name: str) -> Trail:
        return Trail(f"{self.uri}/{name}", self.options)

    def keys(self, prefix: str) -> list[str]:
        raise NotImplementedError

    def read(self, key: str) -> bytes:
        raise NotImplementedError

    def write(self, key: str, data: bytes) -> None:
        raise NotImplementedError

    def delete(self, key: str) -> None:
        raise NotImplementedError


class _S3(ObjectStorage):
    def keys(self, prefix: str) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", ())]

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)


class _Blobs(ObjectStorage):
    def _blob(self, key: str) -> Any:
        return self.client.get_blob_client(self.bucket, key)

    def keys(self, prefix: str) -> list[str]:
        return [each.name for each in self.client.get_container_client(self.bucket).list_blobs(name_starts_with=prefix)]

    def read(self, key: str) -> bytes:
        return self._blob(key).download_blob().readall()

    def write(self, key: str, data: bytes) -> None:
        self._blob(key).upload_blob(data, overwrite=True)

    def delete(self, key: str) -> None:
        self._blob(key).delete_blob()


@contextmanager
def moto_s3() -> Iterator[ObjectStorage]:
    """An S3 with an empty bucket, gone with the context."""
    import boto3
    from botocore.config import Config

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as server:
        try:
            until = time.monotonic() + 60
            while not listening(port):
                assert server.poll() is None, f"moto's server ended with {server.returncode}"
                assert time.monotonic() < until, "moto's server does not answer"
                time.sleep(0.05)  # As `azurite` does: nothing tells when a server listens.
            keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
            client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", config=Config(connect_timeout=5), **keys)
            client.create_bucket(Bucket="security")
            options = {
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": url,
                "AWS_ALLOW_HTTP": "true",
            }
            yield _S3("s3://security", options, client, "security")
        finally:
            server.kill()


def listening(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as asked:
        asked.settimeout(1)
        return asked.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def azurite_blobs(executable: str, home: Path) -> Iterator[ObjectStorage]:
    """An Azure Blob storage with an empty container, gone with the context."""
    with azurite(executable, home, port=AZURITE_PORT) as url:
        client = blob_client(url)
        client.create_container("security")
        options = {
            "AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURE_STORAGE_ALLOW_HTTP": "true",
        }
        yield _Blobs(f"abfss://security@{AZURITE_ACCOUNT}.dfs.core.windows.net", options, client, "security")
