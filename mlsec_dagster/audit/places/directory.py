"""Logs in a directory of a local disk.

    place = Directory("/var/log/mlflow")
    for found in place.list():
        for piece in place.read(found): ...

Whoever can write below the directory may not lead the reader out of it: symbolic links are never followed, neither as a file nor as
a folder on the way to one, and what is no regular file is neither listed nor opened. How many entries that were is in `skipped`.
"""

import errno
import os
import re
import stat
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.places.failures import PIECE, changed, exactly, failure, printable
from mlsec_dagster.errors import ConfigurationError, StoreError

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # A FIFO must not block before it is looked at.
_ESCAPED: Final = re.compile(r"\\x([89a-f][0-9a-f])")
_GONE: Final = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # ELOOP: a symbolic link stands there.


class Directory:
    r"""A `Place` on a local disk.

    An object's version is its inode and modification time. A file that only grew since it was listed is read up to the size that
    was listed. That its first bytes are still the same cannot be seen from outside, nor can a file that was emptied and has grown
    beyond its old size (`copytruncate`); rotate logs by renaming.

    Names that are no UTF-8 are listed with their bytes as `\xNN`, so that a key can be stored anywhere.

    Args:
        path: The directory. It may itself be a symbolic link, which is followed once, now.

    Attributes:
        uri: "file:///…/".
        skipped: Entries of the latest listing that were neither files nor folders: links, FIFOs, sockets, devices.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._root = Path(path).resolve()
        if not self._root.is_dir():
            # What was given may be relative to wherever the process was started, or begin with a "~" that nobody has expanded.
            named = printable(str(self._root))
            if self._root.is_file():
                raise ConfigurationError(f"{named} is a file: name the directory that the logs lie in.")
            raise ConfigurationError(f"There is no directory {named}. Create it, or name the one that the logs lie in.")
        self.uri = f"{self._root.as_uri().rstrip('/')}/"
        self.skipped = 0

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        """See `Place.list`; in the disk's own order. Holds one open folder and the names of those not visited yet."""
        self.skipped = 0
        first, _, beginning = prefix.rpartition("/")
        pending = [self._stored(f"{first}/" if first else "")]
        while pending:
            folder = pending.pop()
            with self._folder(folder) as descriptor:
                if descriptor is None:
                    continue
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        name = entry.name
                        if beginning and not _text(name).startswith(beginning):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{folder}{name}/")
                            continue
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except OSError:  # It was deleted meanwhile.
                            continue
                        if status.st_mode & 0o170000 != stat.S_IFREG:  # `S_ISREG`, a million times.
                            self.skipped += 1
                            continue
                        key = folder + name
                        if not key.isascii():
                            key = _text(key)
                        if after is None or key > after:
                            time, origin = status.st_mtime_ns, str(status.st_ino)
                            yield LogObject(key, f"{origin}-{time}", status.st_size, time // 1000, origin)
            beginning = ""  # It was about names in the first folder.

    def folders(self, prefix: str = "") -> Iterator[str]:
        """See `Place.folders`."""
        with self._folder(self._stored(prefix)) as descriptor:
            if descriptor is None:
                return
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        yield _text(entry.name)

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        """See `Place.read`."""
        name = self.uri + found.key
        descriptor = self._open(found)
        try:
            yield from exactly(_pieces(descriptor, start, found.size), found, start, name)
            _check(os.fstat(descriptor), found, name)  # What was written while it was read shows now.
        finally:
            os.close(descriptor)

    def metadata(self, found: LogObject) -> Mapping[str, str]:
        """Empty: files have none."""
        os.close(self._open(found))
        return {}

    def _open(self, found: LogObject) -> int:
        """A descriptor of the very file that was listed."""
        name = self.uri + found.key
        error = changed(name)
        # Two names can look alike once bytes are escaped; the inode tells which of them it is.
        for key in dict.fromkeys((found.key, _native(found.key))):
            folder, _, base = key.rpartition("/")
            if "\0" in base:
                continue
            with self._folder(f"{folder}/" if folder else "") as parent:
                if parent is None:
                    continue
                try:
                    descriptor = os.open(base, _FILE, dir_fd=parent)
                except OSError as caught:
                    if caught.errno not in _GONE:
                        raise _translated(caught, name) from None
                    continue
            try:
                _check(os.fstat(descriptor), found, name)
            except StoreError as caught:
                os.close(descriptor)
                error = caught
                continue
            return descriptor
        raise error

    def _stored(self, folder: str) -> str:
        """A folder's name as the disk has it."""
        native = _native(folder)
        if native != folder:
            with self._folder(folder) as descriptor:
                return native if descriptor is None else folder
        return folder

    @contextmanager
    def _folder(self, folder: str) -> Generator[int | None]:
        """A descriptor of a folder below the root, opened name by name so that no link is followed; None if it is not there."""
        names = folder.split("/")[:-1] if folder else []
        if any(name in {"", ".", ".."} or "\0" in name for name in names):
            yield None
            return
        try:
            descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as caught:
            raise (failure("absent", self.uri) if caught.errno in _GONE else _translated(caught, self.uri)) from None
        try:
            for name in names:
                try:
                    inner = os.open(name, _FOLDER, dir_fd=descriptor)
                except OSError as caught:
                    if caught.errno not in _GONE:
                        raise _translated(caught, self.uri + folder) from None
                    break
                os.close(descriptor)
                descriptor = inner
            else:
                yield descriptor
                return
            yield None
        finally:
            os.close(descriptor)


def _pieces(descriptor: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (piece := os.pread(descriptor, min(PIECE, end - start), start)):
        start += len(piece)
        yield piece


def _check(status: os.stat_result, found: LogObject, name: str) -> None:
    """Raise unless this is the file that was listed, or the same grown longer."""
    inode, _, time = found.version.partition("-")
    if not stat.S_ISREG(status.st_mode) or str(status.st_ino) != inode:
        raise changed(name)
    if status.st_size < found.size:
        raise changed(name, f"was cut from {found.size:,} to {status.st_size:,} bytes since it was listed")
    if status.st_size == found.size and str(status.st_mtime_ns) != time:
        raise changed(name, "was written to without growing since it was listed")


def _translated(error: OSError, name: str) -> StoreError:
    code = errno.errorcode.get(error.errno or 0, "OSError")
    return failure("forbidden" if error.errno in {errno.EACCES, errno.EPERM} else "other", name, code)


def _text(name: str) -> str:
    """A name without lone surrogates, which Python has for bytes that are no UTF-8 and no store takes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name


def _native(key: str) -> str:
    r"""A key as the disk has it, if its \xNN stand for bytes."""
    return _ESCAPED.sub(lambda match: os.fsdecode(bytes.fromhex(match[1])), key) if "\\x" in key else key
