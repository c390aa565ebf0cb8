"""Logs that are one JSON array of records, read in bounded memory at the speed of decoding it whole.

A piece of the stream is cut where a record ends, and decoded as an array of its own. Whether the cut was right, the decoder
says: one within a string or a nested value leaves a bracket or a quote open. Only if a piece does not decode are its records
looked at one by one, so that a broken one costs nobody but itself.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any, Final, Generic, TypeVar

import msgspec

from mlsec_dagster.audit.events import AuditEvent, Quarantined, Source
from mlsec_dagster.audit.limits import Limits
from mlsec_dagster.audit.sources.lines import UNREADABLE, Row
from mlsec_dagster.audit.sources.streams import PIECE, ContentHash, inflate, quarantine
from mlsec_dagster.errors import UnverifiableError

Record = TypeVar("Record")

_HEAD: Final = re.compile(rb"\s*(?:\{\s*\"\w{1,64}\"\s*:\s*)?\[\s*")
_FIRST: Final = re.compile(rb"\{\s*\"(?:[^\"\\]|\\.){0,128}\"\s*:")
_ANY: Final = re.compile(rb"\}\s{0,64},\s{0,64}(?=\{)")
_TOKEN: Final = re.compile(rb"\"(?:[^\"\\]++|\\.)*+(?:\"|\Z)|[{}\[\]]", re.DOTALL)
_SEPARATORS: Final = b", \t\r\n"
_BLANK: Final = re.compile(rb"[, \t\r\n]*+")
_HEAD_BYTES: Final = 4096
_TAIL: Final = 64 << 10
_ATTEMPTS: Final = 8
_OPERATION: Final = attrgetter("operation")
_SYNTAX: Final = msgspec.json.Decoder(list[msgspec.Raw])


class Format(Generic[Record]):
    """What the records of a log are, and how one becomes an event.

    Args:
        source: The log.
        record: Struct of one record, as strict as can be.
        event: Makes an event of it; may raise what is `UNREADABLE`.
        lenient: Struct to try where a record is no `record`; for logs whose members change their type with the service.
        whole: Struct with members that only records of a few operations need, which would cost all the others time.
        operations: Those operations.
        further: Makes a second event of a `whole` record that tells of two accesses, and None of all others.
    """

    def __init__(
        self,
        source: Source,
        record: type[Record],
        event: Callable[[Record], AuditEvent],
        lenient: type[Any] | None = None,
        *,
        whole: type[Record] | None = None,
        operations: frozenset[str] = frozenset(),
        further: Callable[[Record, AuditEvent], AuditEvent | None] | None = None,
    ) -> None:
        self.source: Source = source
        self.event = event
        self.batch = msgspec.json.Decoder(list[record])
        self.whole_batch = self.batch if whole is None else msgspec.json.Decoder(list[whole])
        self.one = msgspec.json.Decoder(record if whole is None else whole)
        self.lenient = msgspec.json.Decoder(lenient) if lenient is not None else self.one
        self.operations = operations
        self.further = further

    def parse(self, raw: bytes) -> list[AuditEvent]:
        """The events of one record."""
        try:
            record = self.one.decode(raw)
        except msgspec.ValidationError:
            record = self.lenient.decode(raw)
        return self.events(record)

    def events(self, record: Record) -> list[AuditEvent]:
        """The events of one record that was decoded."""
        first = self.event(record)
        second = self.further(record, first) if self.further is not None else None
        return [first] if second is None else [first, second]


def read_array(data: bytes | Iterable[bytes], form: Format[Record], limits: Limits, content: ContentHash | None = None) -> Iterator[Row]:
    """One row for each record of `[…]` or `{"Records": […]}`, whatever the member is called. `content` hashes what is read, meanwhile."""
    return chain.from_iterable(_parts(data, form, limits, content))  # Rows are many: what hands them on had better not be Python's.


def _parts(data: bytes | Iterable[bytes], form: Format[Record], limits: Limits, content: ContentHash | None) -> Iterator[Iterable[Row]]:
    window = _Window(limits)
    pieces = inflate(data, limits)
    if content is not None:
        pieces = content.of(pieces)
    reason: str | None = None
    try:
        for piece in pieces:
            window.add(piece)
            if window.between is None and len(window.buffer) > _HEAD_BYTES:
                break
            offset, part = window.offset, window.cut()
            if part and window.between is not None:
                yield _records(part, offset, form, window.alike, limits)
            elif len(window.buffer) > limits.record_bytes:
                yield from ((row,) for row in _overlong(window, pieces, form.source, limits))
    except UnverifiableError as error:
        reason = f"The log object {error}."
    yield _last(window, reason, form, limits)


class _Window:
    """Bytes that were read and not yet cut into whole records.

    Attributes:
        buffer: The bytes.
        offset: Where they begin in the stream.
        between: Where one record ends and the next begins: records of a log begin alike. None until the first is seen.
        alike: The same, where the end of the one is missing.
    """

    def __init__(self, limits: Limits) -> None:
        self.buffer = b""
        self.offset = 0
        self.between: re.Pattern[bytes] | None = None
        self.alike: re.Pattern[bytes] = _ANY
        self._limits = limits

    def add(self, piece: bytes) -> None:
        """Take in the next bytes of the stream."""
        self.buffer += piece
        if self.between is None and (head := _HEAD.match(self.buffer)) is not None:
            first = _FIRST.match(self.buffer, head.end())
            if first is not None:
                alike = rb",\s{0,64}(?=" + re.escape(first[0]) + rb")"
                self.between, self.alike = re.compile(rb"\}\s{0,64}" + alike), re.compile(alike)
                self.drop(head.end())

    def drop(self, count: int) -> None:
        """Let go of the first bytes."""
        self.buffer = self.buffer[count:]
        self.offset += count

    def cut(self) -> bytes:
        """As many whole records as the buffer holds, once it holds enough of them; else nothing."""
        if self.between is None or len(self.buffer) < PIECE:
            return b""
        for start in (max(0, len(self.buffer) - _TAIL), 0):
            ends = [*self.between.finditer(self.buffer, start)]
            if ends:
                return self._take(ends[-1])
        if len(self.buffer) <= self._limits.record_bytes:
            return b""
        # Records that do not begin alike: any object's end may be a record's; the decoder tells.
        for last in [*_ANY.finditer(self.buffer, max(0, len(self.buffer) - _TAIL))][: -_ATTEMPTS - 1 : -1]:
            if _whole(self.buffer[: last.start() + 1]):
                return self._take(last)
        return b""

    def _take(self, last: re.Match[bytes]) -> bytes:
        part = self.buffer[: last.start() + 1]
        self.drop(last.end())
        return part


def _end(buffer: bytes) -> int | None:
    """Where the array ends, if these are the last bytes of one."""
    stripped = buffer.rstrip()
    stripped = stripped.removesuffix(b"}").rstrip() if not stripped.endswith(b"]") else stripped
    return len(stripped) - 1 if stripped.endswith(b"]") else None


def _whole(part: bytes) -> bool:
    """Whether these are records, none of them open."""
    try:
        _SYNTAX.decode(b"[" + part + b"]")
    except UNREADABLE:
        return False
    return True


def _records(part: bytes, offset: int, form: Format[Record], alike: re.Pattern[bytes], limits: Limits) -> Iterable[Row]:
    array = b"[" + part + b"]"
    try:
        events = [*map(form.event, form.batch.decode(array))]
        if form.operations.isdisjoint(map(_OPERATION, events)):
            return events
        return [*chain.from_iterable(map(form.events, form.whole_batch.decode(array)))]
    except UNREADABLE:
        return chain.from_iterable(_rows(part[start:end], offset + start, form, limits) for start, end in _bounds(part, alike))


def _overlong(window: _Window, pieces: Iterator[bytes], source: Source, limits: Limits) -> Iterator[Row]:
    """Let go of a record that is too long, up to where the next one begins or the array ends."""
    offset, kept = window.offset, window.buffer[: limits.kept_bytes]
    following = failed = None
    while following is None and window.between is not None:
        window.drop(max(0, len(window.buffer) - _TAIL))
        try:
            window.add(next(pieces))
        except StopIteration:
            break
        except UnverifiableError as error:
            failed = error
            break
        following = window.between.search(window.buffer)
    end = _end(window.buffer) if failed is None and following is None else None
    window.drop(following.end() if following is not None else end if end is not None else len(window.buffer))
    size = window.offset - offset
    reason = f"The record has {size:,} bytes or more; the limit is record_bytes={limits.record_bytes:,}."
    yield quarantine(source, kept, reason, offset, limits, size=size)
    if failed is not None:
        raise failed


def _rows(raw: bytes, offset: int, form: Format[Record], limits: Limits) -> Sequence[Row]:
    try:
        return form.parse(raw)
    except UNREADABLE as error:
        return [quarantine(form.source, raw, f"The record is no event: {error}.", offset, limits)]


def _bounds(part: bytes, alike: re.Pattern[bytes]) -> list[tuple[int, int]]:
    """Where each record begins and ends: as the decoder sees it, or if it cannot, as far as brackets tell."""
    try:
        raws = _SYNTAX.decode(b"[" + part + b"]")
    except UNREADABLE:
        starts = [start for match in alike.finditer(part) if (start := match.end())]
        return [bound for start, end in pairwise((0, *starts, len(part))) for bound in _values(part, start, end)]
    bounds: list[tuple[int, int]] = []
    end = 0
    for raw in raws:
        start = part.index(raw, end)
        end = start + len(bytes(raw))
        bounds.append((start, end))
    return bounds


def _values(part: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Whole objects one behind the other, and then what is none."""
    depth = 0
    start = _blank_end(part, start, end)
    for token in _TOKEN.finditer(part, start, end):
        if depth == 0 and token.start() != start:
            break
        depth += {b"{": 1, b"[": 1, b"}": -1, b"]": -1}.get(token[0], 0)
        if depth == 0:
            yield start, token.end()
            start = _blank_end(part, token.end(), end)
    rest = part[start:end].rstrip(_SEPARATORS)
    if rest:
        yield start, start + len(rest)


def _blank_end(part: bytes, start: int, end: int) -> int:
    blank = _BLANK.match(part, start, end)
    return start if blank is None else blank.end()


def _last(window: _Window, reason: str | None, form: Format[Record], limits: Limits) -> Iterator[Row]:
    buffer, offset = window.buffer, window.offset
    end = _end(buffer) if reason is None else None
    if window.between is None:
        head = _HEAD.match(buffer)
        if reason is None and (not buffer.strip() or (head is not None and end is not None and head.end() >= end)):
            return  # Nothing in it.
        yield quarantine(form.source, buffer, reason or "The log object is no JSON array of records.", offset, limits, rest=True)
        return
    part = buffer if end is None else buffer[:end]
    rows = [*_records(part, offset, form, window.alike, limits)] if part else []
    if end is not None and (not rows or isinstance(rows[-1], AuditEvent) or _whole(part)):
        yield from rows
        return
    reason = reason or "The log object ends in the middle of its array."
    last = rows.pop() if rows and isinstance(rows[-1], Quarantined) else quarantine(form.source, b"", reason, offset + len(buffer), limits)
    yield from rows
    yield msgspec.structs.replace(last, reason=reason, rest=True)
