"""The rows of one log object, from where they were read to the last time.

An object that does not change is read as a whole; bytes that were read before under another name are not read again. An object that
grows is read from its last position to its last whole line, if the bytes before that position are still what they were.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import msgspec
from blake3 import blake3

from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.sources.lines import SEAM, WholeLines
from mlsec_dagster.audit.sources.streams import ContentHash
from mlsec_dagster.storage.log_positions import NEVER_SEEN, Position

_AT_ONCE: Final = 32 << 20
"""Bytes (as stored) of an object that is held in memory, so that it is known for a copy before it is parsed."""

_STALE_SECONDS: Final = 3600.0
"""After so long without growth an unfinished last line is taken for all that there will be."""


@dataclass(slots=True)
class Reading:
    """One object while it is read; may go on over several batches.

    Attributes:
        found: The object.
        rows: Its rows; iterate it once. Raises `ObjectChangedError` if the object changes meanwhile.
        taken: Rows that were taken since `consumed`, those of earlier ticks included; the caller counts them.
        consumed: Bytes whose rows were all taken when `rows` began.
        rewritten: It is not the object that was read before under this name.
        copy: Its bytes were read before under another name; it yields no rows.
        look_again: Its last line is unfinished, and nothing about the object would change if its writer had died: when that has to be taken
            for all that there will be, seconds since the epoch. None where there is no such line.
        content: Takes the hash that digest files have of it, while it is read; None where none are verified.
    """

    found: LogObject
    source: LogSource
    position: Position | None
    known_copy: Callable[[str], int | None]
    content: ContentHash | None = None
    taken: int = 0
    consumed: int = 0
    rewritten: bool = False
    copy: bool = False
    look_again: float | None = None
    digest: str | None = None
    seam: str | None = None
    _after: int | None = None
    _seam_after: str | None = None
    _rows: Iterator[AuditEvent | Quarantined] = field(init=False)

    def __post_init__(self) -> None:
        self._rows = self._grown() if self.source.layout.grows(self.found.key) else self._unchanging()

    def __iter__(self) -> Iterator[AuditEvent | Quarantined]:
        return self._rows

    @property
    def before(self) -> Position:
        """Where it stands when reading ends in the middle: to be begun again at the same byte, passing over the rows that were taken."""
        return self._position(self.consumed, self.taken, self.seam, complete=False)

    @property
    def after(self) -> Position:
        """Where it stands once all rows were taken."""
        if self._after is None:
            return self._position(self.found.size, self.taken, None, complete=True)
        return self._position(self._after, 0, self._seam_after, complete=self.look_again is None)

    def _position(self, consumed: int, rows: int, seam: str | None, *, complete: bool) -> Position:
        found = self.found
        digest = self.digest if complete else None
        content = self.content.sha256 if complete and self.content is not None else None
        return Position(found.key, found.version, found.size, found.modified, consumed, rows, complete, digest, seam, found.origin, content)

    # --- an object that does not change

    def _unchanging(self) -> Iterator[AuditEvent | Quarantined]:
        found, position = self.found, self.position
        same = position is not None and position.version == found.version
        self.rewritten = position is not None and position.version != NEVER_SEEN and not same
        skip = position.rows if position is not None and same and not position.complete else 0
        pieces: bytes | Iterable[bytes] = self.source.place.read(found)
        if found.size <= _AT_ONCE:
            pieces = b"".join(pieces)
            self.digest = f"blake3:{blake3(pieces).hexdigest()}"
            rows = None if skip else self.known_copy(self.digest)
            if rows is not None:
                self.copy, self.taken = True, rows
                return
        self.taken = skip
        hashed = {} if self.content is None else {"content": self.content}
        yield from islice(self.source.layout.read(pieces, **hashed), skip, None)

    # --- an object that grows

    def _grown(self) -> Iterator[AuditEvent | Quarantined]:
        found, position = self.found, self.position
        start = skip = 0
        before = b""
        if position is not None:
            before = self._bytes_before(position.consumed) if position.consumed <= found.size else b""
            if position.consumed == 0 or _seam(before) == position.seam:
                start, self.seam = position.consumed, position.seam
                skip = position.rows if not position.complete else 0
            else:
                # Another file may have taken its name, as logs are rotated; the same one is not written anew.
                self.rewritten, before = bool(found.origin) and found.origin == position.origin, b""
        self.consumed, self.taken = start, skip
        whole = WholeLines(self.source.place.read(found, start), last=before)
        for row in islice(self.source.layout.read(whole), skip, None):
            yield _moved(row, start)
        self._after = start + whole.consumed
        self._seam_after = _seam(whole.last)
        if whole.rest.strip():
            stale = found.modified / 1e6 + _STALE_SECONDS
            if stale >= time.time():
                self.look_again = stale
                return
            for row in self.source.layout.read(whole.rest):
                yield _moved(row, self._after)

    def _bytes_before(self, end: int) -> bytes:
        """What lies before a position, as it is now."""
        start = max(0, end - SEAM)
        return b"".join(self.source.place.read(msgspec.structs.replace(self.found, size=end), start)) if end else b""


def _seam(data: bytes) -> str:
    return f"blake3:{blake3(data).hexdigest()}"


def _moved(row: AuditEvent | Quarantined, start: int) -> AuditEvent | Quarantined:
    return msgspec.structs.replace(row, offset=row.offset + start) if start and isinstance(row, Quarantined) else row
