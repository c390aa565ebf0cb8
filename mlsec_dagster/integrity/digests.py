"""BLAKE3 and SHA-256 digests of bytes and streams.

    >>> hash_bytes(b"")
    'blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262'

A digest is always written with its algorithm in front, so that a reader never has to guess, and so that a digest of one
algorithm can never be mistaken for one of the other.
"""

import contextlib
import hashlib
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import BinaryIO, Literal, Protocol

from mlsec_dagster.errors import ConfigurationError, UnverifiableError

Algorithm = Literal["blake3", "sha256"]
ALGORITHMS: tuple[Algorithm, ...] = ("blake3", "sha256")
DIGEST_SIZE = 32

# Two buffers, one being filled while the other is hashed. They are reused, so their bytes never leave the cache: that is
# what makes a plain `read` as fast as a memory map, without a map's danger (see `docs/manifests.md`, "Reading files").
READ_BUFFER = 4 << 20
# Below this a second thread and the other cores cost more than they bring.
ONE_THREAD_BELOW = 1 << 20


class Hasher(Protocol):
    """What hashlib and blake3 objects have in common."""

    def update(self, data: "bytes | bytearray | memoryview", /) -> object:
        """Appends bytes."""
        ...

    def digest(self) -> bytes:
        """Returns the digest of all bytes so far."""
        ...


_pool_pid: int | None = None


def new_hasher(algorithm: str = "blake3", *, size: int | None = None) -> Hasher:
    """Returns an empty hasher; for BLAKE3 one that uses all cores when `size` (bytes, None if unknown) makes it worthwhile.

    Raises:
        ConfigurationError: The algorithm is neither "blake3" nor "sha256".
    """
    if algorithm == "sha256":
        return hashlib.sha256()
    if algorithm != "blake3":
        raise ConfigurationError(f"digest algorithm {algorithm!r} is unknown; use one of {', '.join(ALGORITHMS)}")
    import blake3

    return blake3.blake3(max_threads=1 if size is not None and size < ONE_THREAD_BELOW else _threads())


def _threads() -> int:
    """All cores, except in a forked child: its copy of the thread pool has no threads left and would wait for ever."""
    import blake3

    global _pool_pid
    if _pool_pid is None:
        _pool_pid = os.getpid()
    return blake3.blake3.AUTO if _pool_pid == os.getpid() else 1


def digest_text(algorithm: str, digest: bytes) -> str:
    """Returns "<algorithm>:<hex>"."""
    return f"{algorithm}:{digest.hex()}"


def parse_digest(text: str) -> tuple[str, bytes]:
    """Takes "<algorithm>:<hex>" apart.

    Raises:
        UnverifiableError: It is not a digest of a known algorithm and of the right length.
    """
    algorithm, _, digits = text.partition(":")
    try:
        digest = bytes.fromhex(digits)
    except ValueError:
        digest = b""
    if algorithm not in ALGORITHMS or len(digest) != DIGEST_SIZE or digest.hex() != digits:
        raise UnverifiableError(f"{text[:100]!r} is not a digest; expected 'blake3:' or 'sha256:' and 64 lowercase hexadecimal digits")
    return algorithm, digest


def hash_bytes(data: "bytes | bytearray | memoryview", algorithm: str = "blake3") -> str:
    """Returns the digest text of bytes in memory."""
    hasher = new_hasher(algorithm, size=len(data))
    hasher.update(data)
    return digest_text(algorithm, hasher.digest())


def hash_stream(file: BinaryIO, algorithm: str = "blake3") -> tuple[int, str]:
    """Hashes a binary file object from where it stands to its end, in constant memory.

    Returns:
        The number of bytes read and their digest text.
    """
    return hash_reads(_reader(file), algorithm)


def _reader(file: BinaryIO) -> Callable[[memoryview], int]:
    readinto = getattr(file, "readinto", None)
    if readinto is not None:
        return lambda buffer: readinto(buffer) or 0

    def read(buffer: memoryview) -> int:
        data = file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    return read


def hash_reads(
    read_into: Callable[[memoryview], int],
    algorithm: str = "blake3",
    *,
    size: int | None = None,
    also: Callable[[memoryview], object] | None = None,
) -> tuple[int, str]:
    """Hashes whatever `read_into(buffer) -> bytes read` delivers until it returns 0, reading ahead in a second thread.

    Args:
        read_into: Fills a buffer and says how many bytes it put there; called from one other thread.
        algorithm: "blake3" or "sha256".
        size: The expected number of bytes, if known; only used to avoid threads for small input.
        also: Is given each piece too, after it was hashed and before its buffer is used again.

    Returns:
        The number of bytes and their digest text. What `read_into` or `also` raises is raised here.
    """
    hasher = new_hasher(algorithm, size=size)
    total = 0
    if size is not None and size < ONE_THREAD_BELOW:
        buffer = memoryview(bytearray(size + 1))
        while count := read_into(buffer):
            hasher.update(buffer[:count])
            if also is not None:
                also(buffer[:count])
            total += count
        return total, digest_text(algorithm, hasher.digest())

    free: SimpleQueue[memoryview | None] = SimpleQueue()
    full: SimpleQueue[tuple[memoryview, int] | BaseException] = SimpleQueue()

    def read_ahead() -> None:
        try:
            while (buffer := free.get()) is not None:
                count = read_into(buffer)
                full.put((buffer, count))
                if not count:
                    return
        except BaseException as error:  # handed over, and raised in the thread that waits for the data
            full.put(error)

    for buffer in _buffers():
        free.put(buffer)
    thread = threading.Thread(target=read_ahead, name="mlsec-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = full.get()
            if isinstance(item, BaseException):
                raise item
            buffer, count = item
            if not count:
                return total, digest_text(algorithm, hasher.digest())
            hasher.update(buffer[:count])
            if also is not None:
                also(buffer[:count])
            total += count
            free.put(buffer)
    finally:
        free.put(None)
        thread.join()


def _buffers() -> Sequence[memoryview]:
    """Two page-aligned buffers in huge pages where the system has them (a third fewer address translations)."""
    memory = mmap.mmap(-1, 2 * READ_BUFFER)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages: slower, not wrong
            memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)
    return view[:READ_BUFFER], view[READ_BUFFER:]


def framed(*parts: bytes) -> bytes:
    """Joins byte strings so that no two different sequences give the same bytes: each behind its length (8 bytes, little-endian)."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Returns the Merkle tree hash of RFC 9162, section 2.1.1, with BLAKE3 in the place of SHA-256 (32 bytes)."""
    import blake3

    if not leaves:
        return blake3.blake3(b"").digest()
    # Left-to-right pairing with an odd last node carried up gives the same tree as the RFC's recursive split.
    level = [blake3.blake3(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        paired = [blake3.blake3(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = paired + level[-1:] if len(level) % 2 else paired
    return level[0]
