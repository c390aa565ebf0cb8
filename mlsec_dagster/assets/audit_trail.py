"""The audit trail as an asset: a partition for each day, and a check that says how far it can be relied on.

    defs = dg.Definitions.merge(existing_defs, mlsec.build_audit_trail_definitions())

`guard(defs, audit=[…])` and `AuditLogComponent` add it by themselves.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.audit.completeness import Watermark, watermarks
from mlsec_dagster.audit.times import rfc3339
from mlsec_dagster.errors import ConfigurationError, MlsecError
from mlsec_dagster.presentation import plain
from mlsec_dagster.resources import AuditTrail, SecurityStore, Signer, open_store
from mlsec_dagster.schedules.trail_upkeep import build_trail_upkeep

KEY = dg.AssetKey("audit_trail")
CHECK = "log_completeness"

PARTITIONS = dg.DailyPartitionsDefinition(start_date="2015-01-01", end_offset=1)

_ROWS = 100


def build_audit_trail_definitions(
    *, trail: AuditTrail | None = None, store: SecurityStore | None = None, signer: Signer | None = None
) -> dg.Definitions:
    """The `audit_trail` asset, its `log_completeness` check, and a nightly job that keeps the trail small and within its retention.

    Nothing materializes the asset but the sensors of `build_audit_log_sensor`. The check looks at what they know, and can be run or
    scheduled like any other; the sensors evaluate it too.

    Args:
        trail: Where the trail lies, and how long its rows are kept.
        store: Where the ledger is, and with it how far each log was read.
        signer: What signs.

    Returns:
        dg.Definitions: One asset, one check, one job and its schedule.
    """
    spec = dg.AssetSpec(
        KEY,
        partitions_def=PARTITIONS,
        description="Who touched which dataset and which model, from the platforms' own logs: a day each. `mlsec trail` looks into it.",
        group_name="security",
        kinds={"deltalake"},
    )

    def log_completeness(context) -> dg.AssetCheckResult:
        try:
            marks = watermarks(open_store(context.instance, store, signer).database, time.time_ns() // 1000)
        except MlsecError as error:
            return dg.AssetCheckResult(passed=False, description=plain(f"The logs' positions could not be read: {error}", 1000))
        passed, sentence, metadata = verdict(marks)
        return dg.AssetCheckResult(passed=passed, description=sentence, metadata=metadata)

    log_completeness.settings = (store, signer)  # type: ignore[attr-defined]
    check = dg.asset_check(
        asset=KEY,
        name=CHECK,
        description="Every log is read to its end, none has gone quiet, nothing that was read is gone or rewritten.",
    )(log_completeness)
    job, schedule = build_trail_upkeep(trail=trail, store=store, signer=signer)
    return dg.Definitions(assets=[spec], asset_checks=[check], jobs=[job], schedules=[schedule])


def has_audit_trail(defs: dg.Definitions, store: SecurityStore | None, signer: Signer | None) -> bool:
    """Whether these definitions have the asset and the check already: Dagster takes each of them once.

    Raises:
        ConfigurationError: They do, and their check looks into another ledger.
    """
    for check in [*(defs.asset_checks or []), *(defs.assets or [])]:
        if isinstance(check, dg.AssetsDefinition) and dg.AssetCheckKey(KEY, CHECK) in check.check_keys:
            if _said(*getattr(_compat.function_of(check), "settings", (None, None))) != _said(store, signer):
                raise ConfigurationError(
                    "This project has an audit trail already, with another store or signer; its log_completeness check would not see what "
                    "is read with these: give all audit logs of a project the same `store` and `signer`."
                )
            return True
    return False


def _said(store: SecurityStore | None, signer: Signer | None) -> list[dict[str, Any]]:
    """What settings say, whichever objects they are."""
    return [{name: str(getattr(each, name)) for name in type(each).model_fields} for each in (store or SecurityStore(), signer or Signer())]


def evaluation(marks: Sequence[Watermark]) -> _compat.AssetCheckEvaluation:
    """The check's evaluation, for whoever knows the watermarks already."""
    passed, sentence, metadata = verdict(marks)
    return _compat.AssetCheckEvaluation(
        asset_key=KEY, check_name=CHECK, passed=passed, description=sentence, metadata=metadata, severity=dg.AssetCheckSeverity.ERROR
    )


def verdict(marks: Sequence[Watermark]) -> tuple[bool, str, dict[str, Any]]:
    """Whether the logs can be relied on, one sentence, and the table of them."""
    wrong = [(mark, problem) for mark in marks for problem in mark.problems]
    if not marks:
        return False, "No log was ever read: start an audit log sensor.", {}
    if wrong:
        first = f"{plain(wrong[0][0].uri)}: {plain(wrong[0][1], 500)}"
        sentence = first if len(wrong) == 1 else f"{len(wrong)} problems; the first: {first}"
    else:
        latest = max((mark.late or 0.0) for mark in marks)
        sentence = f"{len(marks)} log{'s are' if len(marks) > 1 else ' is'} complete but for the last {_duration(latest)}."
    metadata: dict[str, Any] = {"logs": _table(marks)}
    if wrong:
        metadata["problems"] = _clauses("problem", [(mark.uri, problem) for mark, problem in wrong])
    unseen = [(mark.uri, clause) for mark in marks for clause in mark.not_observable]
    if unseen:
        metadata["not observable"] = _clauses("not observable", unseen)
    unresolved = [(where, count) for mark in marks for where, count in mark.unresolved.items()]
    if unresolved:
        metadata["unresolved"] = _unresolved_table(sorted(unresolved, key=lambda each: -each[1]))
    return not wrong, sentence, metadata


def _table(marks: Sequence[Watermark]) -> dg.TableMetadataValue:
    """A row for each log; few and narrow columns, for the UI's page has room for no more beside its lists."""
    proven = any(mark.proven_to is not None for mark in marks)
    columns = [
        dg.TableColumn("log", "string"),
        dg.TableColumn("complete up to", "string", description="UTC; as far as its vendor delivers in time"),
        *([dg.TableColumn("proven up to", "string", description="UTC; by the digest files that the vendor signs")] if proven else []),
        dg.TableColumn("newest event", "string", description="UTC; time of the newest event"),
        dg.TableColumn("late by", "string"),
        dg.TableColumn("events", "int"),
        dg.TableColumn("quarantined", "int", description="records that could not be read, kept as text"),
        dg.TableColumn("unresolved", "int", description="accesses of which nothing tells what they are about"),
    ]
    records = [
        dg.TableRecord(
            {
                "log": f"{mark.source} {plain(mark.uri)}",
                "complete up to": _instant(mark.complete_to),
                **({"proven up to": _instant(mark.proven_to)} if proven else {}),
                "newest event": _instant(mark.newest),
                "late by": _duration(mark.late) if mark.late is not None else "",
                "events": mark.counts["events"],
                "quarantined": mark.counts["quarantined"],
                "unresolved": mark.counts["unresolved"],
            }
        )
        for mark in marks[:_ROWS]
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns=columns))


def _clauses(what: str, told: Sequence[tuple[str, str]]) -> dg.TableMetadataValue:
    """What is to be said of logs, a row for each clause."""
    schema = dg.TableSchema(columns=[dg.TableColumn("log", "string"), dg.TableColumn(what, "string")])
    records = [dg.TableRecord({"log": plain(uri), what: plain(clause, 1000)}) for uri, clause in told[:_ROWS]]
    return dg.MetadataValue.table(records, schema)


def _unresolved_table(unresolved: Sequence[tuple[str, int]]) -> dg.TableMetadataValue:
    schema = dg.TableSchema(columns=[dg.TableColumn("where", "string"), dg.TableColumn("accesses", "int")])
    return dg.MetadataValue.table(
        [dg.TableRecord({"where": plain(where), "accesses": count}) for where, count in unresolved[:_ROWS]], schema
    )


def _instant(time: int | None) -> str:
    return "" if time is None else rfc3339(time)[:19].replace("T", " ")


def _duration(seconds: float) -> str:
    for name, unit in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}s"
    return f"{max(seconds, 0):.0f} seconds"
