"""BLAKE3 and SHA-256 digests of bytes and streams.

    >>> hash_bytes(b"")
    'blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262'

A digest is always written with its algorithm in front, so that a reader never has to guess, and so that a digest of one
algorithm can never be mistaken for one of the other.
"""

import hashlib
import os
from collections.abc import Sequence
from typing import BinaryIO, Literal, Protocol

from mlsec_dagster.errors import ConfigurationError, UnverifiableError

Algorithm = Literal["blake3", "sha256"]
ALGORITHMS: tuple[Algorithm, ...] = ("blake3", "sha256")
DIGEST_SIZE = 32

STREAM_BYTES = 4 << 20
# Below this the other cores cost more than they bring.
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
    hasher, total = new_hasher(algorithm), 0
    while data := file.read(STREAM_BYTES):
        hasher.update(data)
        total += len(data)
    return total, digest_text(algorithm, hasher.digest())


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
