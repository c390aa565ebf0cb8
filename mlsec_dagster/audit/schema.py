"""The columns of the trail, one row for each event and each quarantined record.

The first columns say what row it is, then come the members of `AuditEvent` under their own names, then what the access was about
(`Artifact`), then what a quarantined row holds (`Quarantined`).
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from typing import Final

import msgspec
import pyarrow as pa

from mlsec_dagster.audit.events import AuditEvent

_INTEGERS: Final = {"port": pa.int32(), "bytes_out": pa.int64(), "bytes_in": pa.int64()}
_TIMES: Final = {"time", "logged"}
_INSTANT: Final = pa.timestamp("us", tz="UTC")

PARTITIONS: Final = ("source", "day")
"""What the table is partitioned by: the log, and the day of `time` (UTC)."""

EVENT_COLUMNS: Final = tuple(field.name for field in msgspec.structs.fields(AuditEvent))


def _event_field(name: str) -> pa.Field:
    return pa.field(name, _INSTANT if name in _TIMES else _INTEGERS.get(name, pa.string()))


SCHEMA: Final = pa.schema(
    [
        pa.field("day", pa.date32()),
        pa.field("kind", pa.string()),  # "event", "quarantined", or "erased": what was there is gone, that it was there is not
        pa.field("key", pa.binary()),  # 16 bytes that tell two accesses apart; see `mlsec_dagster.audit.rows`
        *(_event_field(name) for name in EVENT_COLUMNS),
        pa.field("artifact_kind", pa.string()),
        pa.field("artifact_asset", pa.string()),
        pa.field("artifact_partition", pa.string()),
        pa.field("artifact_model", pa.string()),
        pa.field("artifact_version", pa.string()),
        pa.field("environment", pa.string()),
        pa.field("resolved_by", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("raw", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("rest", pa.bool_()),
        pa.field("log_object", pa.string()),  # URI of the log object that the row was read from
        pa.field("ingested", _INSTANT),
    ]
)
