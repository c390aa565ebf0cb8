"""What the UI shows of one day of the audit trail."""

from __future__ import annotations

from typing import Any

import dagster as dg

from mlsec_dagster.audit.querying import DaySummary
from mlsec_dagster.audit.times import rfc3339
from mlsec_dagster.presentation import cell

_ROWS = 50


def day_metadata(summary: DaySummary) -> dict[str, Any]:
    """The day in one sentence, its accesses by artifact and principal, its top readers and its first-time readers."""
    firsts = summary.first_reads_count
    denied = f", {summary.denied:,} denied" if summary.denied else ""
    unresolved = f" {summary.unresolved:,} accesses are unresolved." if summary.unresolved else ""
    quarantined = f" {summary.quarantined:,} records could not be read and are kept as text." if summary.quarantined else ""
    metadata: dict[str, Any] = {
        "the day": (
            f"{summary.events:,} accesses by {summary.principals:,} principals{denied}, {summary.bytes_out:,} bytes out; "
            f"{firsts:,} {'principal reads' if firsts == 1 else 'times a principal reads'} something for the first time."
            f"{unresolved}{quarantined}"
        ),
        "dagster/row_count": summary.events + summary.quarantined + summary.erased,
        "denied": summary.denied,
        "bytes out": summary.bytes_out,
    }
    if summary.first_reads:
        metadata["first-time readers"] = _table(
            {"principal": "string", "artifact": "string", "first (UTC)": "string", "reads": "int", "bytes": "int"},
            [
                (cell(each.principal), cell(each.artifact), rfc3339(each.time)[11:19], each.reads, each.bytes_out)
                for each in summary.first_reads
            ],
        )
    if summary.accesses:
        metadata["accesses"] = _table(
            {"artifact": "string", "principal": "string", "accesses": "int", "denied": "int", "bytes": "int"},
            [
                (
                    cell(each.artifact or "(none or unresolved)"),
                    cell(each.principal or "(nobody)"),
                    each.accesses,
                    each.denied,
                    each.bytes_out,
                )
                for each in summary.accesses
            ],
        )
    if summary.readers:
        metadata["top readers"] = _table(
            {"principal": "string", "reads": "int", "bytes": "int"},
            [(cell(each.principal or "(nobody)"), each.reads, each.bytes_out) for each in summary.readers],
        )
    return metadata


def _table(columns: dict[str, str], rows: list[tuple[Any, ...]]) -> dg.TableMetadataValue:
    schema = dg.TableSchema(columns=[dg.TableColumn(name, kind) for name, kind in columns.items()])
    return dg.MetadataValue.table([dg.TableRecord(dict(zip(columns, row, strict=True))) for row in rows[:_ROWS]], schema)
