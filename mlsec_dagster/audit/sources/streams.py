"""The bytes of a log object, decompressed piece by piece; and quarantine for what is none of its records."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Final

from blake3 import blake3

from mlsec_dagster.audit.events import Quarantined, Source
from mlsec_dagster.audit.limits import Limits
from mlsec_dagster.audit.redaction import redact
from mlsec_dagster.errors import LimitExceededError, UnverifiableError


def _inflater() -> Any:
    """zlib, or ISA-L's twin of it, which is twice as fast and not there for every kind of processor."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


PIECE: Final = 256 << 10  # With what becomes of it, no more than a processor keeps close.
_ZLIB: Final = _inflater()
_COMPRESSED: Final = 64 << 10  # What it could not take yet it copies, so it is given little at a time.
_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK\x03\x04"
_BOM: Final = b"\xef\xbb\xbf"


def inflate(data: bytes | Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    """The decompressed bytes in pieces of `PIECE` to twice as many bytes, the last one aside, whether they were gzip (RFC 1952) or not.

    Raises:
        LimitExceededError: More comes out than the limits allow. What was within them has been yielded before.
        UnverifiableError: A gzip stream is damaged or ends in the middle, or this is a zip archive.
    """
    gathered: list[bytes] = []
    size = 0
    try:
        for piece in _decompressed(data, limits):
            gathered.append(piece)
            size += len(piece)
            if size >= PIECE:
                yield b"".join(gathered)
                gathered.clear()
                size = 0
    except UnverifiableError:
        if gathered:
            yield b"".join(gathered)
        raise
    if gathered:
        yield b"".join(gathered)


class ContentHash:
    """SHA-256 of a log object's decompressed content, taken while somebody else reads it.

    Attributes:
        sha256: Hexadecimal, once all of it was read and nothing was wrong with it; None before.
    """

    def __init__(self) -> None:
        self.sha256: str | None = None

    def of(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces, each hashed as it passes."""
        hashed = hashlib.sha256()
        for piece in pieces:
            hashed.update(piece)
            yield piece
        self.sha256 = hashed.hexdigest()


def _decompressed(data: bytes | Iterable[bytes], limits: Limits) -> Iterator[bytes]:
    pieces = filter(None, iter((data,)) if isinstance(data, bytes) else iter(data))
    first = next(pieces, b"")
    while 0 < len(first) < 4 and (more := next(pieces, b"")):
        first += more
    if first.startswith(_ZIP):
        raise UnverifiableError("is a zip archive; expected text or gzip")
    if first.startswith(_GZIP):
        yield from _gunzip(_slices(first, pieces, _COMPRESSED), limits)
        return
    decoded = 0
    for piece in _slices(first.removeprefix(_BOM), pieces, PIECE):
        decoded += len(piece)
        if decoded > limits.decoded_bytes:
            raise _exceeded(f"has {decoded:,} bytes or more", "decoded_bytes", limits.decoded_bytes)
        yield piece


def _slices(first: bytes, rest: Iterator[bytes], size: int) -> Iterator[bytes]:
    for piece in chain((first,), rest):
        if len(piece) <= size:
            yield piece
        else:
            yield from (piece[start : start + size] for start in range(0, len(piece), size))


def _gunzip(pieces: Iterator[bytes], limits: Limits) -> Iterator[bytes]:
    encoded = decoded = 0
    member = _ZLIB.decompressobj(wbits=31)
    for piece in pieces:
        encoded += len(piece)
        while piece:
            if member.eof:  # Another member follows, or the zeros that fill a block.
                piece = piece.lstrip(b"\0")
                if not piece:
                    break
                member = _ZLIB.decompressobj(wbits=31)
            try:
                out = member.decompress(piece, PIECE)
            except _ZLIB.error as error:
                raise UnverifiableError(f"is damaged gzip behind {decoded:,} decompressed bytes ({error})") from error
            decoded += len(out)
            if decoded > limits.decoded_bytes:
                raise _exceeded(f"decompresses to {decoded:,} bytes or more", "decoded_bytes", limits.decoded_bytes)
            if decoded > limits.ratio_from and decoded > limits.ratio * encoded:
                raise _exceeded(f"decompresses to {decoded // encoded:,} times its size or more", "ratio", limits.ratio)
            if out:
                yield out
            piece = member.unused_data if member.eof else member.unconsumed_tail
    if not member.eof and (out := member.flush()):
        yield out
    if not member.eof:
        raise UnverifiableError(f"is gzip that ends in the middle, behind {decoded:,} decompressed bytes")


def _exceeded(what: str, limit: str, allowed: int) -> LimitExceededError:
    return LimitExceededError(f"{what}; the limit is {limit}={allowed:,}. If the log is genuine, pass larger limits")


def digest(data: bytes) -> str:
    """The identity of bytes that bring none: "blake3:<hex>" over all of them, before redaction."""
    return f"blake3:{blake3(data).hexdigest()}"


def quarantine(
    source: Source, raw: bytes, reason: str, offset: int, limits: Limits, *, size: int | None = None, rest: bool = False
) -> Quarantined:
    """A row for bytes that are no event; `size` where they stand for more than themselves.

    NULs are left out of a text that is full of them, or has a secret between them.
    """
    delivered = raw[: limits.kept_bytes].decode("utf-8", "backslashreplace")
    text, bare = redact(delivered), delivered.replace("\0", "")
    # In UTF-16, as some shells write, every other byte is NUL: no secret would be seen as one, nor a person be found.
    if bare and len(bare) < len(delivered) and (4 * len(bare) < 3 * len(delivered) or redact(bare) != bare):
        text = redact(bare)
    return Quarantined(
        source=source,
        id=digest(raw),
        reason=redact(reason),
        raw=text,
        size=len(raw) if size is None else size,
        offset=offset,
        rest=rest,
    )
