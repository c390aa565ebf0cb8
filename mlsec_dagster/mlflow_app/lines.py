"""One line of the log: without secrets, in ASCII, short enough."""

import json
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import msgspec

from mlsec_dagster.audit.redaction import clean_again
from mlsec_dagster.audit.sources.mlflow import Record
from mlsec_dagster.mlflow_app.files import LINE_BYTES

_TEXTS: Final = tuple(
    field.name for field in msgspec.structs.fields(Record) if "str" in str(field.type) and field.name not in {"id", "time"}
)
_ENCODER: Final = msgspec.json.Encoder()


def now() -> str:
    """The time as the log writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def line(record: Record) -> bytes:
    """One line, its end included, of at most `LINE_BYTES`.

    What controls a terminal is escaped, and so is everything else beyond ASCII; a lone surrogate becomes "?".
    """
    for name in _TEXTS:
        text: str | None = getattr(record, name)
        if text is not None:
            kept = clean_again(text if text.isascii() else text.encode(errors="replace").decode())
            if kept is not text:
                setattr(record, name, kept)
    encoded = _encoded(record)
    most = 8192
    while len(encoded) > LINE_BYTES:
        for name in _TEXTS:
            text = getattr(record, name)
            if text is not None and len(text) > most:
                setattr(record, name, text[:most])
        record.shortened = True
        most //= 2
        encoded = _encoded(record)
    return encoded


def dropped(count: int, server: str) -> bytes:
    """The line that tells how many accesses no line tells of."""
    return line(Record(v=1, id=uuid4().hex, time=now(), server=server, dropped=count))


def _encoded(record: Record) -> bytes:
    encoded = _ENCODER.encode(record)
    if not encoded.isascii() or b"\x7f" in encoded:
        members: dict[str, Any] = msgspec.to_builtins(record)
        encoded = json.dumps(members, separators=(",", ":")).replace("\x7f", "\\u007f").encode()
    return encoded + b"\n"
