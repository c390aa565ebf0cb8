"""Digests of files and directories, and private copies that are hashed while they are made.

    >>> hash_path("data/flights")                                            # doctest: +SKIP
    (FileEntry(path='part-0.parquet', size=1834, digest='blake3:…'), …)

Only regular files and directories can be sealed. A symbolic link, a FIFO, a socket or a device is refused: what a reader gets
from one is decided elsewhere and later. Nothing here follows a link (below the path's own parent) or waits for a FIFO's other
end, and everything is opened relative to the directory's descriptor, so that swapping a directory for a link halfway leads nowhere.
"""

import errno
import os
import re
import stat
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlsec_dagster.errors import UnverifiableError
from mlsec_dagster.integrity.digests import digest_text, new_hasher, parse_digest
from mlsec_dagster.integrity.parallel_reads import ParallelReader

# O_NONBLOCK keeps a FIFO from blocking the open; for a regular file it means nothing.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OPEN_DIRECTORY = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_DEPTH = 100
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class FileEntry:
    r"""One file of a dataset.

    Attributes:
        path: Relative to the dataset, with "/" between names; "" when the dataset is a single file. Bytes that are not UTF-8 are
            written as \xNN and a backslash as two, so that different names never look the same.
        size: In bytes.
        digest: "blake3:<hex>" or "sha256:<hex>" of the content.
        version: The object store's own name for these exact bytes (an S3 version id, a GCS generation; "sha256:<hex>" where it
            keeps no versions but computed that), if there is one. It is no part of any root.
    """

    path: str
    size: int
    digest: str
    version: str | None = None


def hash_file(path: str | os.PathLike[str], algorithm: str = "blake3") -> FileEntry:
    """Hashes one regular file, on all cores.

    Args:
        path: A file; not a link to one.
        algorithm: "blake3" (default) or "sha256".

    Returns:
        An entry with `path` "".

    Raises:
        UnverifiableError: It is missing, unreadable, no regular file, or changed while it was read.
    """
    with _reading(path), _opened(path, _OPEN_FILE) as descriptor:
        return _file(descriptor, "", None, algorithm, path=path)


@contextmanager
def open_unchanging(path: str | os.PathLike[str]) -> Generator[int, None, None]:
    """Opens one regular file for reading, and on leaving makes sure that it is still the same file with the same content.

    Yields:
        The file descriptor.

    Raises:
        UnverifiableError: It is missing, unreadable or no regular file; or, at the end, it was changed or replaced meanwhile.
    """
    with ExitStack() as stack:
        with _reading(path):
            descriptor = stack.enter_context(_opened(path, _OPEN_FILE))
            before = _regular(descriptor, path)
        yield descriptor
        with _reading(path):
            _require_unchanged(before, descriptor, path, shown=path)


def hash_path(path: str | os.PathLike[str], algorithm: str = "blake3") -> tuple[FileEntry, ...]:
    """Hashes a file, or every file below a directory.

    Returns:
        For a file one entry with `path` ""; for a directory its files sorted by path. Empty directories leave no entry.

    Raises:
        UnverifiableError: The path is missing or unreadable, or it is or contains something that is no regular file or directory
            (a symbolic link, FIFO, device or socket), or something changed while it was read.
    """
    return _walk(path, None, algorithm)


def copy_and_hash(path: str | os.PathLike[str], target: str | os.PathLike[str], algorithm: str = "blake3") -> tuple[FileEntry, ...]:
    """Copies a file or directory to a private place and hashes each byte as it is copied.

    Whoever then reads `target` reads exactly the bytes that were hashed, whatever happens to `path` meanwhile. Directories are
    created with mode 0700 and files with 0600.

    Args:
        path: A file or directory, as for `hash_path`.
        target: Where the copy goes; must not exist yet. Missing parents are created, privately.
        algorithm: "blake3" (default) or "sha256".

    Returns:
        The same entries as `hash_path(path)`.

    Raises:
        UnverifiableError: As `hash_path`; or `target` exists or cannot be written (disk full). A partial copy may remain then.
    """
    return _walk(path, Path(target), algorithm)


def native_entry(path: str, info: Mapping[str, object]) -> FileEntry | None:
    """Takes the digest that an object store computed itself, which saves the download.

    Only a SHA-256 over the full object counts (S3 `ChecksumSHA256` as in a HeadObject answer with `ChecksumMode="ENABLED"`).
    An ETag, an MD5 and a CRC can be collided on purpose, and a composite checksum ("…-3") is a hash of part hashes.

    Args:
        path: The entry's path.
        info: The store's metadata: `ChecksumSHA256`, `ChecksumType`, `ContentLength` (or `size`), `VersionId`.

    Returns:
        The entry, or None where the store has nothing that can be relied upon: download and hash then.
    """
    import base64
    import binascii

    checksum, kind = info.get("ChecksumSHA256"), info.get("ChecksumType", "FULL_OBJECT")
    size, version = info.get("ContentLength", info.get("size")), info.get("VersionId")
    if not isinstance(checksum, str) or kind != "FULL_OBJECT" or not isinstance(size, int):
        return None
    try:
        digest = base64.b64decode(checksum, validate=True)
    except binascii.Error:
        return None
    if len(digest) != 32:
        return None
    return FileEntry(path, size, digest_text("sha256", digest), version if isinstance(version, str) and version != "null" else None)


def read_sha256sums(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads a SHA256SUMS file as `sha256sum` writes it (plain, binary, escaped and --tag lines).

    Returns:
        Digest text ("sha256:<hex>") by file name, in the file's order. Names are as in `FileEntry.path`.

    Raises:
        UnverifiableError: It cannot be read, is empty, has a line of another form, or names one file twice with different digests.
    """
    with _reading(path):
        lines = Path(path).read_bytes().split(b"\n")
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        line = line.removesuffix(b"\r")
        if not line or line.startswith(b"#"):
            continue
        match = _SUM_LINE.fullmatch(line)
        if match is None:
            raise UnverifiableError(f"{path}, line {number}: expected '<64 hexadecimal digits>  <file name>', found {line[:80]!r}")
        escaped, digits, name = match["escaped"], match["digits"] or match["tag_digits"], match["name"] or match["tag_name"]
        if escaped:
            name = re.sub(rb"\\([nr\\])", lambda found: {b"n": b"\n", b"r": b"\r", b"\\": b"\\"}[found[1]], name)
        text, key = f"sha256:{digits.decode().lower()}", entry_name(name.removeprefix(b"./"))
        parse_digest(text)
        if sums.setdefault(key, text) != text:
            raise UnverifiableError(f"{path}, line {number}: {key!r} is listed twice with different digests; remove one of the lines")
    if not sums:
        raise UnverifiableError(f"{path} lists no file; expected lines of '<64 hexadecimal digits>  <file name>'")
    return sums


_SUM_LINE = re.compile(
    rb"(?P<escaped>\\)?(?:(?P<digits>[0-9a-fA-F]{64}) [ *](?P<name>.+)"
    rb"|SHA256 \((?P<tag_name>.+)\) = (?P<tag_digits>[0-9a-fA-F]{64}))",
    re.DOTALL,
)


def entry_name(name: bytes) -> str:
    r"""Returns a file name's bytes as text, injectively: a backslash doubled, bytes that are not UTF-8 as \xNN."""
    return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


@contextmanager
def _reading(path: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Turns an OSError into one sentence that says what could not be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise UnverifiableError(f"{error.filename or path} does not exist; materialize it again, or correct the path") from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise UnverifiableError(_refused(path, stat.S_IFLNK)) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UnverifiableError(f"{path} could not be copied: {error.strerror}; free some space in the temporary directory") from error
        raise UnverifiableError(f"{path} cannot be read ({error.strerror}); check that it is intact and readable by this user") from error


@contextmanager
def _opened(path: str | os.PathLike[str] | bytes, flags: int, *, inside: int | None = None) -> Generator[int, None, None]:
    descriptor = os.open(path, flags, 0o600, dir_fd=inside)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFDIR: "a directory where a file is expected",
}


def _refused(path: object, mode: int) -> str:
    kind = _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")
    return f"{path} is {kind}, and only regular files and directories can be verified; replace it by the file that it stands for"


def _walk(path: str | os.PathLike[str], target: Path | None, algorithm: str) -> tuple[FileEntry, ...]:
    with _reading(path):
        if target is not None:
            for parent in reversed([parent for parent in target.parents if not parent.exists()]):
                parent.mkdir(mode=0o700, exist_ok=True)
        mode = Path(path).lstat().st_mode
        if stat.S_ISDIR(mode):
            with _opened(path, _OPEN_DIRECTORY) as descriptor:
                entries = list(_directory(descriptor, b"", target, algorithm, root=Path(path)))
            return tuple(sorted(entries, key=lambda entry: entry.path.encode()))
        if not stat.S_ISREG(mode):
            raise UnverifiableError(_refused(path, mode))
        with _opened(path, _OPEN_FILE) as descriptor:
            return (_file(descriptor, "", target, algorithm, path=path),)


def _directory(descriptor: int, prefix: bytes, target: Path | None, algorithm: str, root: Path) -> Iterator[FileEntry]:
    shown = root / entry_name(prefix)
    if prefix.count(b"/") >= _MAX_DEPTH:
        raise UnverifiableError(f"{root} is nested more than {_MAX_DEPTH} directories deep; is it what you meant to verify?")
    if target is not None:
        target.mkdir(mode=0o700)
    before = os.fstat(descriptor)
    for name in os.listdir(descriptor):
        raw, copy = os.fsencode(name), None if target is None else target / name
        mode = os.stat(raw, dir_fd=descriptor, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            with _opened(raw, _OPEN_DIRECTORY, inside=descriptor) as child:
                yield from _directory(child, prefix + raw + b"/", copy, algorithm, root)
        elif stat.S_ISREG(mode):
            with _opened(raw, _OPEN_FILE, inside=descriptor) as child:
                yield _file(child, entry_name(prefix + raw), copy, algorithm, path=raw, inside=descriptor, shown=shown / entry_name(raw))
        else:
            raise UnverifiableError(_refused(shown / entry_name(raw), mode))
    after = os.fstat(descriptor)
    if (before.st_mtime_ns, before.st_ctime_ns) != (after.st_mtime_ns, after.st_ctime_ns):
        raise UnverifiableError(f"{shown} changed while it was being read (files were added, removed or renamed); {_AGAIN}")


_AGAIN = "verify again when nothing writes to it, or verify a private copy (copy_and_hash)"


def _file(
    descriptor: int,
    name: str,
    target: Path | None,
    algorithm: str,
    *,
    path: str | os.PathLike[str] | bytes,
    inside: int | None = None,
    shown: object = None,
) -> FileEntry:
    shown = path if shown is None else shown
    before = _regular(descriptor, shown)

    hasher, size = new_hasher(algorithm, size=before.st_size), 0
    with ExitStack() as stack:
        out = None if target is None else stack.enter_context(_opened(target, _CREATE))
        reader = stack.enter_context(ParallelReader(descriptor, before.st_size))
        while piece := reader.read():
            hasher.update(piece)
            size += len(piece)
            if out is not None:
                _write_all(out, piece)
    _require_unchanged(before, descriptor, path, inside=inside, shown=shown, size=size)
    return FileEntry(name, size, digest_text(algorithm, hasher.digest()))


def _regular(descriptor: int, shown: object) -> os.stat_result:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UnverifiableError(_refused(shown, status.st_mode))
    return status


def _require_unchanged(
    before: os.stat_result,
    descriptor: int,
    path: str | os.PathLike[str] | bytes,
    *,
    inside: int | None = None,
    shown: object,
    size: int | None = None,
) -> None:
    after = os.fstat(descriptor)
    if _identity(before) != _identity(after) or size not in (None, before.st_size):
        sizes = f"{before.st_size:,} bytes before, {after.st_size:,} after"
        raise UnverifiableError(f"{shown} changed while it was being read ({sizes}); {_AGAIN}")
    if _identity(os.stat(path, dir_fd=inside, follow_symlinks=False)) != _identity(before):
        raise UnverifiableError(f"{shown} was replaced by another file while it was being read; {_AGAIN}")


def _identity(status: os.stat_result) -> tuple[int, ...]:
    # The modification time can be set back by whoever owns the file, the change time cannot.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
