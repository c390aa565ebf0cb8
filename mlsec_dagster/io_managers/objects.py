"""The pickle IO managers of dagster-aws, dagster-gcp and dagster-azure."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.integrity.digests import hash_bytes
from mlsec_dagster.integrity.manifest import FileEntry
from mlsec_dagster.io_managers.paths import PathStorage


class ObjectStorage(PathStorage):
    """One object per subject, which the IO manager reads into memory in one piece.

    The object is fetched once and hashed; the IO manager is then handed those bytes instead of its client. `FileEntry.version` records the
    store's own version of the object.
    """

    how = "the object is fetched once, and the bytes that were hashed are the bytes that the IO manager reads"

    def __init__(self, manager: Any, upath_manager: _compat.UPathIOManager, client: ObjectClient) -> None:
        super().__init__(manager, upath_manager)
        self._client = client

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

    `fetch(manager, key)` returns (bytes, the store's version of them) and raises FileNotFoundError; `pin(manager, bytes)` replaces the
    manager's client by one that holds nothing but those bytes.
    """

    fetch: Callable[[Any, str], tuple[bytes, str | None]]
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
        response = manager.s3.get_object(Bucket=manager.bucket, Key=key)
    except manager.s3.exceptions.NoSuchKey as error:
        raise FileNotFoundError(f"s3://{manager.bucket}/{key}") from error
    return response["Body"].read(), response.get("VersionId") or response.get("ETag")


def _fetch_gcs(manager: Any, key: str) -> tuple[bytes, str | None]:
    blob = manager.bucket_obj.get_blob(key)
    if blob is None:
        raise FileNotFoundError(f"gs://{manager.bucket}/{key}")
    return blob.download_as_bytes(if_generation_match=blob.generation), str(blob.generation)


def _fetch_adls(manager: Any, key: str) -> tuple[bytes, str | None]:
    client = manager.file_system_client.get_file_client(key)
    try:
        stream = client.download_file()
    except Exception as error:
        if type(error).__name__ == "ResourceNotFoundError":
            raise FileNotFoundError(key) from error
        raise
    return stream.readall(), str(stream.properties.get("etag"))


def _pin_s3(manager: Any, data: bytes) -> None:
    manager.s3 = _Bytes(data, exceptions=manager.s3.exceptions)


def _pin_gcs(manager: Any, data: bytes) -> None:
    manager.bucket_obj = _Bytes(data)


def _pin_adls(manager: Any, data: bytes) -> None:
    manager.file_system_client = _Bytes(data)


OBJECT_CLIENTS: Mapping[str, ObjectClient] = {
    "PickledObjectS3IOManager": ObjectClient(_fetch_s3, _pin_s3),
    "PickledObjectGCSIOManager": ObjectClient(_fetch_gcs, _pin_gcs),
    "PickledObjectADLS2IOManager": ObjectClient(_fetch_adls, _pin_adls),
}
