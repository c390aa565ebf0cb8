"""The files of a trail: where they lie, and their digests while they are written.

files = Files("s3://security/trail", {"AWS_REGION": "eu-west-1"})
with files.create("source=aws.cloudtrail/day=2026-05-01/x.parquet") as sink:
    ...
sink.digest, sink.size
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
from blake3 import blake3

from mlsec_dagster.errors import StoreError

_PIECE: Final = 1 << 20


class TrailFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One Parquet file of the trail.

    Attributes:
        path: Below the table's root, "source=…/day=…/….parquet".
        source: The log that its rows come from.
        day: "2026-05-01", the day of its rows (UTC).
        size: Bytes.
        rows: How many.
        first: Time of its earliest row, microseconds since the epoch; None if it is not told.
        last: Time of its latest row.
        digest: "blake3:<hex>" of its bytes; empty where it is not known.
    """

    path: str
    source: str
    day: str
    size: int
    rows: int
    first: int | None = None
    last: int | None = None
    digest: str = ""


class Sink:
    """A file that is being written, and digested as it is."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._hash = blake3()
        self.size = 0
        self.closed = False

    @property
    def digest(self) -> str:
        """Of what was written, "blake3:<hex>"."""
        return f"blake3:{self._hash.hexdigest()}"

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Take the next bytes."""
        view = memoryview(data)
        self._stream.write(view)
        self._hash.update(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        """Bring it to the disk."""
        if self.closed:
            return
        self.closed = True
        try:
            self._stream.flush()
            with suppress(OSError, ValueError, AttributeError):  # Object storages have no file number, and need none.
                os.fsync(self._stream.fileno())
        finally:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Files:
    """The files below one table's root, on a disk or in an object storage.

    Args:
        uri: A path, a file:// URI, or one that Delta Lake knows (s3://, gs://, abfss://).
        options: Delta Lake's storage options.
    """

    def __init__(self, uri: str, options: dict[str, str] | None) -> None:
        self.uri = uri
        self.options = options
        self.root = local_path(uri)
        self._handler: Any = None

    def create(self, path: str) -> Sink:
        """A new file.

        Raises:
            StoreError: It cannot be created.
        """
        try:
            if self.root is not None:
                target = self.root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                return Sink(open(target, "xb", buffering=0))
            return Sink(self._remote.open_output_stream(path))
        except OSError as error:
            raise StoreError(f"The trail's file {path} cannot be created in {self.uri} ({error}). Nothing was recorded.") from error

    def open(self, path: str) -> Any:
        """A file for random reading; FileNotFoundError if it is gone."""
        if self.root is not None:
            return pa.OSFile(str(self.root / path), "rb")
        return self._remote.open_input_file(path)

    def filesystem(self) -> Any:
        """All of it as a pyarrow file system, paths below the root."""
        from pyarrow import fs

        return fs.SubTreeFileSystem(str(self.root), fs.LocalFileSystem()) if self.root is not None else fs.PyFileSystem(self._remote)

    def digest(self, path: str) -> tuple[str, int]:
        """Digest and size of a file as it is now; FileNotFoundError if it is gone."""
        hashed, size = blake3(), 0
        with self.open(path) as opened:
            while piece := opened.read(_PIECE):
                hashed.update(piece)
                size += len(piece)
        return f"blake3:{hashed.hexdigest()}", size

    def remove(self, path: str) -> None:
        """Delete a file that is no part of the table; one that is gone is no error."""
        with suppress(OSError):
            if self.root is not None:
                (self.root / path).unlink(missing_ok=True)
            else:
                self._remote.delete_file(path)

    def sync(self, path: str) -> None:
        """Bring a file that somebody else wrote to the disk, with the name that its folder has for it."""
        if self.root is None:
            return
        for target in (self.root / path, (self.root / path).parent):
            number = os.open(target, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)

    @property
    def _remote(self) -> Any:
        if self._handler is None:
            from deltalake.fs import DeltaStorageHandler

            self._handler = DeltaStorageHandler(self.uri, self.options)
        return self._handler


def local_path(uri: str) -> Path | None:
    """The directory that a path or file:// URI means; None for storage elsewhere."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    return None if "://" in uri else Path(uri).absolute()
