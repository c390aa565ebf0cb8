"""The pickle IO managers of dagster-aws, dagster-gcp and dagster-azure."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.integrity.digests import hash_bytes
from mlsec_dagster.integrity.files import FileEntry, native_entry
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.io_managers.paths import PathStorage
from mlsec_dagster.io_managers.storage import Stored, Subject


class ObjectStorage(PathStorage):
    """One object per subject, which the IO manager reads into memory in one piece.

    The object is fetched once and hashed; the IO manager is then handed those bytes instead of its client. `FileEntry.version` records the
    store's own version of the object (an S3 version id, a GCS generation, an ADLS ETag). The store gives each write a new one, which no
    writer can choose, so an object that still has the version that was sealed is not downloaded to be looked at again. In an S3 bucket
    that keeps no versions, the SHA-256 that S3 has of the full object does the same: it refuses an upload whose body has another one.
    """

    how = "the object is fetched once, and the bytes that were hashed are the bytes that the IO manager reads"

    def __init__(self, manager: Any, upath_manager: _compat.UPathIOManager, client: ObjectClient) -> None:
        super().__init__(manager, upath_manager)
        self._client = client

    @contextmanager
    def examine(self, subject: Subject) -> Iterator[Stored | None]:
        sealed = subject.sealed
        if sealed is not None and sealed.version is not None:
            path = self._path(subject)
            if self._client.version(self._upath_manager, path.as_posix()) == sealed.version:
                yield Stored(Manifest(files=(sealed,)), None, str(path))
                return
        with super().examine(subject) as stored:
            yield stored

    def _fetch(self, path: Any) -> tuple[tuple[FileEntry, ...], Path]:
        data, version = self._client.fetch(self._upath_manager, path.as_posix())
        self._copies += 1
        target = self._private / str(self._copies) / "object"
        target.parent.mkdir(mode=0o700)
        target.write_bytes(data)
        return (FileEntry(path="", size=len(data), digest=hash_bytes(data), version=version),), target

    def _read_copy(self, original: Any, context: dg.InputContext, path: Any, copied: Path) -> Any:
        pinned = copy.copy(original)
        self._client.pin(pinned, copied.read_bytes())
        shutil.rmtree(copied.parent, ignore_errors=True)
        return pinned.load_from_path(context=context, path=path)


@dataclass(frozen=True, slots=True)
class ObjectClient:
    """How one cloud's pickle IO manager fetches an object, and how to give it bytes instead.

    `fetch(manager, key)` returns (bytes, the store's version of them) and raises FileNotFoundError; `version(manager, key)` asks for the
    version alone, None if there is no object or the store has no name for its bytes that can be relied upon; `pin(manager, bytes)`
    replaces the manager's client by one that holds nothing but those bytes.
    """

    fetch: Callable[[Any, str], tuple[bytes, str | None]]
    version: Callable[[Any, str], str | None]
    pin: Callable[[Any, bytes], None]


class _Bytes:
    """Stands where a client stood, and answers every read with the same verified bytes."""

    def __init__(self, data: bytes, **attributes: Any) -> None:
        self._data = data
        self.__dict__.update(attributes)

    def get_object(self, **_: Any) -> dict[str, Any]:  # S3
        return {"Body": io.BytesIO(self._data)}

    def blob(self, _key: str) -> _Bytes:  # GCS
        return self

    def download_as_bytes(self) -> bytes:
        return self._data

    def get_file_client(self, _path: str) -> _Bytes:  # ADLS
        return self

    def download_file(self) -> io.BytesIO:
        stream = io.BytesIO(self._data)
        stream.readall = stream.read  # type: ignore[attr-defined]
        return stream


def _fetch_s3(manager: Any, key: str) -> tuple[bytes, str | None]:
    try:
        response = manager.s3.get_object(Bucket=manager.bucket, Key=key, ChecksumMode="ENABLED")
    except manager.s3.exceptions.NoSuchKey as error:
        raise FileNotFoundError(f"s3://{manager.bucket}/{key}") from error
    data, version = response["Body"].read(), _s3_version(response)
    if version is not None and version.startswith("sha256:") and version != hash_bytes(data, "sha256"):
        version = None  # what the store says is not so; only the bytes count
    return data, version


def _version_s3(manager: Any, key: str) -> str | None:
    try:
        return _s3_version(manager.s3.head_object(Bucket=manager.bucket, Key=key, ChecksumMode="ENABLED"))
    except manager.s3.exceptions.ClientError:
        return None


def _s3_version(response: Mapping[str, Any]) -> str | None:
    """The version id; where a bucket keeps no versions ("null" or none), the full object's SHA-256, if it was uploaded with one.

    Not the ETag, nor a CRC: an MD5 can be collided on purpose, and a CRC by anybody.
    """
    version = response.get("VersionId")
    if version not in (None, "null"):
        return str(version)
    entry = native_entry("", response)
    return None if entry is None else entry.digest


def _fetch_gcs(manager: Any, key: str) -> tuple[bytes, str | None]:
    blob = manager.bucket_obj.get_blob(key)
    if blob is None:
        raise FileNotFoundError(f"gs://{manager.bucket}/{key}")
    return blob.download_as_bytes(if_generation_match=blob.generation), str(blob.generation)


def _version_gcs(manager: Any, key: str) -> str | None:
    blob = manager.bucket_obj.get_blob(key)
    return None if blob is None else str(blob.generation)


def _fetch_adls(manager: Any, key: str) -> tuple[bytes, str | None]:
    client = manager.file_system_client.get_file_client(key)
    try:
        stream = client.download_file()
    except Exception as error:
        if type(error).__name__ == "ResourceNotFoundError":
            raise FileNotFoundError(key) from error
        raise
    return stream.readall(), str(stream.properties.get("etag"))


def _version_adls(manager: Any, key: str) -> str | None:
    try:
        return str(manager.file_system_client.get_file_client(key).get_file_properties().get("etag"))
    except Exception as error:
        if type(error).__name__ == "ResourceNotFoundError":
            return None
        raise


def _pin_s3(manager: Any, data: bytes) -> None:
    manager.s3 = _Bytes(data, exceptions=manager.s3.exceptions)


def _pin_gcs(manager: Any, data: bytes) -> None:
    manager.bucket_obj = _Bytes(data)


def _pin_adls(manager: Any, data: bytes) -> None:
    manager.file_system_client = _Bytes(data)


OBJECT_CLIENTS: Mapping[str, ObjectClient] = {
    "PickledObjectS3IOManager": ObjectClient(_fetch_s3, _version_s3, _pin_s3),
    "PickledObjectGCSIOManager": ObjectClient(_fetch_gcs, _version_gcs, _pin_gcs),
    "PickledObjectADLS2IOManager": ObjectClient(_fetch_adls, _version_adls, _pin_adls),
}
