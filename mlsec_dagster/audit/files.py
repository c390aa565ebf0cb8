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
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote, urlsplit

import msgspec
import pyarrow as pa
from blake3 import blake3

from mlsec_dagster.errors import StoreError

_PIECE: Final = 1 << 20

IN_PARTITION: Final = re.compile(r"source=[a-z0-9_.]+/day=\d{4}-\d{2}-\d{2}/[\w-]+\.parquet")
"""What the path of a file of the trail looks like: nothing else is ever deleted."""


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
        """Take the next bytes; once closed, none: Arrow still hands over what it held of a file that was given up."""
        view = memoryview(data)
        if self.closed:
            return view.nbytes
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
            # Not through Arrow: it hands over buffers of its own, and Delta Lake takes only `bytes`.
            return Sink(_Stream(self._remote._handler.open_output_stream(path, None)))
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

    def listed(self) -> Iterator[tuple[str, int, float]]:
        """Path, size in bytes and time of writing (seconds since the epoch) of every Parquet file in the folders of the partitions.

        Whether they are part of the table or not. Links are not followed, for they may lead out of it.

        Raises:
            StoreError: The storage cannot be listed.
        """
        try:
            for path, size, written in self._listed_local() if self.root is not None else self._listed_remote():
                if IN_PARTITION.fullmatch(path):
                    yield path, size, written
        except OSError as error:
            raise StoreError(f"The trail's files in {self.uri} cannot be listed ({error}).") from error

    def _listed_local(self) -> Iterator[tuple[str, int, float]]:
        root = os.fspath(self.root or "")
        for folder in _folders(root):
            for day in _folders(folder.path):
                with os.scandir(day.path) as inside:
                    for each in inside:
                        if each.is_file(follow_symlinks=False):
                            status = each.stat(follow_symlinks=False)
                            yield f"{folder.name}/{day.name}/{each.name}", status.st_size, status.st_mtime

    def _listed_remote(self) -> Iterator[tuple[str, int, float]]:
        from pyarrow import fs

        found = fs.PyFileSystem(self._remote).get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
        for each in found:
            if each.type == fs.FileType.File and each.mtime_ns:
                yield each.path.lstrip("/"), each.size, each.mtime_ns / 1e9

    def destroy(self, path: str) -> None:
        """Delete a file of a partition, and make sure that it is gone.

        Raises:
            StoreError: It is still there, or the path leads out of the table.
        """
        if not IN_PARTITION.fullmatch(path):
            raise StoreError(f"The path {path!r} is no file of a partition of the trail, and was not deleted.")
        if self.root is not None and (self.root / path).parent.resolve() != self.root.resolve() / path.rpartition("/")[0]:
            raise StoreError(f"The path {path!r} leads through a link out of the trail, and was not deleted. Remove the link.")
        self.remove(path)
        try:
            self.open(path).close()
        except FileNotFoundError:
            if self.root is not None and (self.root / path).parent.is_dir():
                self._sync(self.root / path, only_folder=True)
            return
        except OSError as error:
            raise StoreError(f"Whether the trail's file {path} is gone cannot be told ({error}). Run it again.") from error
        raise StoreError(
            f"The trail's file {path} could not be deleted from {self.uri}. Give this process the right to delete; run it again."
        )

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
        self._sync(self.root / path)

    @staticmethod
    def _sync(file: Path, *, only_folder: bool = False) -> None:
        for target in (file.parent,) if only_folder else (file, file.parent):
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


class _Stream:
    """A stream of Delta Lake's, which takes only `bytes`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: memoryview) -> None:
        self._stream.write(bytes(data))

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def _folders(path: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as inside:
            return [each for each in inside if each.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def local_path(uri: str) -> Path | None:
    """The directory that a path or file:// URI means; None for storage elsewhere."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    return None if "://" in uri else Path(uri).absolute()
