"""Rows of the trail as Arrow: what a reader yields, which artifact it is about, and the key that tells two accesses apart.

keys = [access_key(event) for event in events]
table = event_table(events, artifacts, keys, log_objects, ingested)
…
events_of(batch), quarantined_of(batch)      # and back
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import re
from collections.abc import Sequence
from hashlib import blake2b
from operator import attrgetter
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv

from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.schema import EVENT_COLUMNS, SCHEMA

KEY_BYTES: Final = 16
DAY: Final = 86_400_000_000
"""Microseconds."""

FILE_SCHEMA: Final = pa.schema([field for field in SCHEMA if field.name not in {"source", "day"}])
"""The columns within a file of the trail: those that it is partitioned by are told by its path."""


def _plain(kind: pa.DataType) -> pa.DataType:
    """What a value is written as: points in time are whole microseconds."""
    return pa.int64() if pa.types.is_timestamp(kind) else kind


_ARTIFACT: Final = tuple(
    (column, attrgetter(name))
    for column, name in {
        "artifact_kind": "kind",
        "artifact_asset": "asset",
        "artifact_partition": "partition",
        "artifact_model": "model",
        "artifact_version": "version",
        "environment": "environment",
        "resolved_by": "by",
    }.items()
)
_WRITTEN: Final = tuple(name for name in EVENT_COLUMNS if name != "source")
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(AuditEvent)
# Arrow reads CSV five times as fast as JSON. An array of texts, integers and nulls on a line of its own is CSV, if no text has other
# escapes than those of quotes and of the escape itself; the first field and the last have a bracket each.
_OTHER_ESCAPE: Final = re.compile(rb"\\[^\"\\]")
_READING: Final = pv.ReadOptions(use_threads=False, block_size=1 << 20, column_names=AuditEvent.__struct_fields__)
_PARSING: Final = pv.ParseOptions(double_quote=False, escape_char="\\")
_CONVERTING: Final = pv.ConvertOptions(
    include_columns=list(_WRITTEN),
    column_types={name: pa.string() if name == _WRITTEN[-1] else _plain(FILE_SCHEMA.field(name).type) for name in _WRITTEN},
    null_values=["null", "null]"],
    strings_can_be_null=True,
    quoted_strings_can_be_null=False,
)
_QUARANTINE: Final = ("reason", "raw", "size", "offset", "rest")


def access_key(event: AuditEvent) -> bytes:
    """16 bytes: the source's own identity of the record, with when, what and who.

    The latter three are the same in every delivery of one record. They are part of the key because some identities are chosen by the
    client (Kubernetes takes an `Audit-ID` header): whoever uses one again for another access is not passed over as known.
    """
    text = f"{event.source}\0{event.id}\0{event.time}\0{event.operation}\0{event.principal}"
    data = text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass")
    return blake2b(data, digest_size=KEY_BYTES).digest()


def quarantine_key(row: Quarantined, log_object: str) -> bytes:
    """16 bytes: the same bytes at the same place of the same log object."""
    text = f"{row.source}\0{log_object}\0{row.offset}\0{row.id}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def event_lines(events: Sequence[AuditEvent]) -> bytes | Sequence[AuditEvent]:
    """The events' own members as lines of text, which `event_table` takes from any thread; the events where one has no such form.

    A member by its name from a Python object costs as much as half of the parsing; written as text at once, and read again by Arrow while
    the next events are parsed, it is nearly free.
    """
    try:
        return _ENCODER.encode_lines(events)
    except (UnicodeEncodeError, OverflowError, ValueError):
        return events


def event_table(
    events: Sequence[AuditEvent] | bytes, artifacts: Sequence[Artifact], keys: Sequence[bytes], log_objects: Sequence[str], ingested: int
) -> pa.Table:
    """Events as rows of the trail, in their order.

    Args:
        events: At least one, all of one source; or their `event_lines`.
        artifacts: What each was about.
        keys: The key of each.
        log_objects: URI of the object that each was read from.
        ingested: Now, microseconds since the epoch.
    """
    count = len(keys)
    columns = _columns_of_lines(events, count) if isinstance(events, bytes) else _columns_of(events)
    columns |= {name: list(map(get, artifacts)) for name, get in _ARTIFACT}
    columns["kind"] = pa.repeat("event", count)
    columns["key"] = keys
    columns["log_object"] = log_objects
    columns["ingested"] = pa.repeat(pa.scalar(ingested, _type("ingested")), count)
    return _table(columns, count)


def _columns_of(events: Sequence[AuditEvent]) -> dict[str, Any]:
    return {name: [getattr(event, name) for event in events] for name in _WRITTEN}


def _columns_of_lines(lines: bytes, count: int) -> dict[str, Any]:
    if b"\\" not in lines or _OTHER_ESCAPE.search(lines) is None:
        try:
            table = pv.read_csv(pa.BufferReader(lines), _READING, _PARSING, _CONVERTING)
            if table.num_rows == count:
                columns: dict[str, Any] = {name: table.column(name) for name in _WRITTEN}
                columns[_WRITTEN[-1]] = pc.utf8_rtrim(columns[_WRITTEN[-1]], "]")
                return {name: column if column.type == _type(name) else column.cast(_type(name)) for name, column in columns.items()}
        except pa.ArrowInvalid:  # A number that is larger than any column, or a text that is larger than a block.
            pass
    return _columns_of(_DECODER.decode_lines(lines))


def quarantine_table(
    rows: Sequence[Quarantined], keys: Sequence[bytes], log_objects: Sequence[str], times: Sequence[int], ingested: int
) -> pa.Table:
    """Quarantined records as rows of the trail.

    Args:
        rows: At least one, all of one source.
        keys: The key of each.
        log_objects: URI of the object that each was read from.
        times: When that object was last written, microseconds since the epoch: of the record itself no time is known.
        ingested: Now, microseconds since the epoch.
    """
    count = len(rows)
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in ("id", *_QUARANTINE)}
    columns["kind"] = pa.repeat("quarantined", count)
    columns["key"] = keys
    columns["time"] = times
    columns["log_object"] = log_objects
    columns["ingested"] = pa.repeat(pa.scalar(ingested, _type("ingested")), count)
    return _table(columns, count)


def events_of(batch: Any) -> list[AuditEvent]:
    """The events among rows of the trail (a record batch or table with its columns), in their order, as `event_table` was given them.

    A text that is no Unicode and a number beyond its column's width were changed when they were stored.
    """
    rows = batch.filter(pc.equal(batch.column("kind"), "event"))
    columns = [_python(rows.column(name)) for name in EVENT_COLUMNS]
    return [AuditEvent(*values) for values in zip(*columns, strict=True)]


def quarantined_of(batch: Any) -> list[Quarantined]:
    """The quarantined records among rows of the trail, in their order, as `quarantine_table` was given them."""
    rows = batch.filter(pc.equal(batch.column("kind"), "quarantined"))
    names = ("source", "id", *_QUARANTINE)
    columns = [_python(rows.column(name)) for name in names]
    return [Quarantined(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _python(column: Any) -> list[Any]:
    """Values as the structs hold them: points in time are whole microseconds."""
    return (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()


def _table(columns: dict[str, Any], count: int) -> pa.Table:
    arrays = [_array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type) for field in FILE_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=FILE_SCHEMA)


def _array(values: Any, kind: pa.DataType) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values, kind)
    except (UnicodeEncodeError, pa.ArrowInvalid, OverflowError):
        return pa.array([_storable(value, kind) for value in values], kind)


def _storable(value: Any, kind: pa.DataType) -> Any:
    """Lone surrogates are no Unicode, and a number may be larger than any genuine one: neither may keep a row out of the trail."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        width = 31 if kind == pa.int32() else 63
        return min(max(value, -(1 << width)), (1 << width) - 1)
    return value


def _type(name: str) -> pa.DataType:
    return FILE_SCHEMA.field(name).type
