"""Logs with one record to a line, among them those that grow while they are read.

    whole = WholeLines(chunks_from(offset))
    rows = list(azure.read(whole))
    offset += whole.consumed  # where to go on

The unfinished last line comes next time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from mlsec_dagster.audit.events import AuditEvent, Quarantined, Source
from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.redaction import clean_again
from mlsec_dagster.audit.sources.streams import inflate, quarantine
from mlsec_dagster.errors import UnverifiableError

Row = AuditEvent | Quarantined
SEAM = 4096
"""Bytes before a position by which it is known again that what was read has not changed."""
UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)
"""What one record can make its parser raise. UnicodeError is a ValueError."""
_TEXTS = tuple(
    field.name
    for field in msgspec.structs.fields(AuditEvent)
    if field.name not in {"source", "action", "plane", "outcome"} and "str" in str(field.type)
)


Parser = Callable[[bytes], Iterable[AuditEvent]]
Splitter = Callable[[bytes], "list[msgspec.Raw] | None"]


def read_lines(
    data: bytes | Iterable[bytes], source: Source, parse: Parser, limits: Limits, *, split: Splitter | None = None
) -> Iterator[Row]:
    """One or more rows for each line that is not empty.

    Args:
        data: The log object.
        source: The log.
        parse: Gets a record, without the end of its line, and may raise what is `UNREADABLE`.
        limits: For lines and decompression.
        split: Gives the records of a line that holds several, as they are delivered in a batch, and None for one that is a record.
    """
    tail = kept = b""
    offset = skipped = 0  # Of `tail` in the stream; bytes of an overlong line that were let go, all but `kept`.
    try:
        for piece in inflate(data, limits):
            *lines, tail = (tail + piece).split(b"\n")
            for line in lines:
                if skipped:
                    yield _overlong(source, kept, offset - skipped, limits, skipped + len(line))
                    skipped, kept = 0, b""
                else:
                    yield from _line(line, source, parse, offset, limits, split)
                offset += len(line) + 1
            if len(tail) > limits.record_bytes or (skipped and tail):
                kept = kept or tail[: limits.kept_bytes]
                skipped += len(tail)
                offset += len(tail)
                tail = b""
    except UnverifiableError as error:
        reason = f"The log object {error}."
        yield quarantine(source, kept or tail, reason, offset - skipped, limits, size=skipped + len(tail), rest=True)
        return
    if skipped:
        yield _overlong(source, kept, offset - skipped, limits, skipped)
    elif tail:
        yield from _line(tail, source, parse, offset, limits, split)


def _line(line: bytes, source: Source, parse: Parser, offset: int, limits: Limits, split: Splitter | None) -> Iterator[Row]:
    line = line.removesuffix(b"\r")
    if not line.strip():
        return
    if len(line) > limits.record_bytes:
        yield _overlong(source, line, offset, limits, len(line))
        return
    try:
        records = split(line) if split is not None else None
    except UNREADABLE as error:
        yield quarantine(source, line, f"The line is no event: {error}.", offset, limits)
        return
    if records is None:
        yield from _record(line, "line", source, parse, offset, limits)
        return
    at = 0
    for raw in map(bytes, records):
        at = line.index(raw, at)
        yield from _record(raw, "record", source, parse, offset + at, limits)
        at += len(raw)


def _record(raw: bytes, word: str, source: Source, parse: Parser, offset: int, limits: Limits) -> Iterator[Row]:
    try:
        events = [*parse(raw)]
    except UNREADABLE as error:
        yield quarantine(source, raw, f"The {word} is no event: {error}.", offset, limits)
        return
    yield from map(_without_secrets, events)


def _without_secrets(event: AuditEvent) -> AuditEvent:
    """Done here, for every text, so that no format can forget one."""
    changed: dict[str, str] = {}
    for name in _TEXTS:
        text: str | None = getattr(event, name)
        if text is not None and (kept := clean_again(text)) != text:
            changed[name] = kept
    return msgspec.structs.replace(event, **changed) if changed else event


def _overlong(source: Source, kept: bytes, offset: int, limits: Limits, size: int) -> Quarantined:
    reason = f"The line has {size:,} bytes or more; the limit is record_bytes={limits.record_bytes:,}."
    return quarantine(source, kept, reason, offset, limits, size=size)


@dataclass
class WholeLines:
    """Passes pieces on up to their last newline, and tells how many bytes that was.

    For uncompressed logs that grow in place, such as Azure's PT1H.json: read from the last position, and go on from
    `consumed` bytes behind it. An unfinished line is held in memory until its newline comes; one that is longer than a record may be
    is passed on in parts, for the reader to refuse.

    Attributes:
        pieces: The bytes from the last position on.
        last: The last bytes that were passed on, at most `SEAM`; to begin with, those before the position.
        longest: Bytes of the longest line that is held.
        consumed: Bytes passed on so far, all of them in whole lines.
        rest: The unfinished line at the end.
    """

    pieces: Iterable[bytes]
    last: bytes = b""
    longest: int = DEFAULT_LIMITS.record_bytes
    consumed: int = field(default=0, init=False)
    rest: bytes = field(default=b"", init=False)

    def __iter__(self) -> Iterator[bytes]:
        held: list[bytes] = []
        size = 0
        for piece in self.pieces:
            end = piece.rfind(b"\n") + 1
            if not end and size + len(piece) > self.longest:
                end = len(piece)
            if end:
                whole = b"".join((*held, piece[:end]))
                held.clear()
                size = 0
                self.consumed += len(whole)
                self.last = whole[-SEAM:] if len(whole) >= SEAM else (self.last + whole)[-SEAM:]
                yield whole
            if end < len(piece):
                held.append(piece[end:])
                size += len(piece) - end
        self.rest = b"".join(held)
