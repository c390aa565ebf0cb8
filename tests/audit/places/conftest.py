"""Each of the four storages, really there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.audit.places.storages import S3, Blobs, CloudStorage, Disk, Storage, azurite, azurite_executable, blob_client, cloud_storage


@pytest.fixture(scope="session")
def azurite_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an Azure Blob storage."""
    executable = azurite_executable()
    if executable is None:
        pytest.skip("needs Azurite: `npm install azurite`, and name its azurite-blob in MLSEC_AZURITE if it is not found")
    with azurite(executable, tmp_path_factory.mktemp("azurite")) as url:
        yield url


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    root = tmp_path / "logs"
    root.mkdir()
    return Disk(root)


@pytest.fixture
def s3(s3_bucket: str) -> S3:
    return S3(s3_bucket)


@pytest.fixture(scope="module")
def gcs_client() -> Iterator[Any]:
    """A client of a Google Cloud Storage, which takes half a second to stop."""
    with pytest.MonkeyPatch.context() as patched, cloud_storage(patched.setitem) as client:
        yield client


@pytest.fixture
def gcs(gcs_client: Any) -> CloudStorage:
    return CloudStorage(gcs_client)


@pytest.fixture
def blobs(azurite_url: str) -> Blobs:
    return Blobs(blob_client(azurite_url))


@pytest.fixture(params=["disk", "s3", "gcs", "blobs"])
def storage(request: pytest.FixtureRequest) -> Storage:
    """Each of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["disk", "blobs"])
def growing(request: pytest.FixtureRequest) -> Any:
    """Those where an object can grow in place."""
    return request.getfixturevalue(request.param)
