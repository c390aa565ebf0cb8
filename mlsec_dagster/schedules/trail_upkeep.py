"""The daily upkeep of the audit trail: small files are merged, days that are over their retention go, what was replaced is deleted.

It comes with `build_audit_trail_definitions`. `mlsec trail compact` and `mlsec trail retain` do the same by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from mlsec_dagster.audit.compaction import compact
from mlsec_dagster.audit.retention import Retention, expire
from mlsec_dagster.audit.upkeep import Upkeep
from mlsec_dagster.audit.vacuum import vacuum
from mlsec_dagster.errors import MlsecError
from mlsec_dagster.presentation import plain
from mlsec_dagster.resources import AuditTrail, SecurityStore, Signer, open_store, open_trail

NAME = "audit_trail_upkeep"
CRON = "17 3 * * *"


def build_trail_upkeep(
    *, trail: AuditTrail | None = None, store: SecurityStore | None = None, signer: Signer | None = None
) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """A job that keeps the trail small and within its retention, and a schedule that runs it every night.

    The job fails, naming the file, if a file of the trail is not what was sealed; that day is left as it is.

    Args:
        trail: Where the trail lies, and how long its rows are kept.
        store: Where the ledger is.
        signer: What signs its commits.

    Raises:
        ConfigurationError: It is to be kept for no number of days, or something that is no log is.
    """
    days = dict(trail.keep_days if trail is not None else {})
    default = days.pop("default", None)
    retention = Retention(days, default) if days or default is not None else None  # A mistake in it is told now and not at night.

    @dg.op(name="keep_up", description="Merge small files, let go of what is over its retention, delete what was replaced.")
    def keep_up(context) -> Iterator[Any]:
        try:
            ledger = open_store(context.instance, store, signer)
            kept = open_trail(context.instance, trail, store)
            if not kept.exists():
                context.log.info(f"There is no audit trail at {kept.uri} yet.")
                yield dg.Output(None)
                return
            upkeep = Upkeep(ledger.database, kept, ledger)
            merged = compact(upkeep)
            gone = expire(upkeep, retention) if retention is not None else None
            cleaned = vacuum(upkeep)
            silence = ledger.witness_if_due()
        except MlsecError as error:
            raise dg.Failure(plain(str(error), 2_000)) from error
        if silence is not None:
            context.log.warning(silence)
        refused = [*merged.refused, *(gone.refused if gone is not None else [])]
        if refused:
            raise dg.Failure(plain(" ".join(refused), 2_000))
        metadata: dict[str, Any] = {
            "files before": merged.before,
            "files after": merged.after,
            "expired days": sum(len(each) for each in gone.days.values()) if gone is not None else 0,
            "expired rows": sum(gone.rows.values()) if gone is not None else 0,
            "deleted files": len(cleaned.deleted),
        }
        yield dg.Output(None, metadata=metadata)

    @dg.job(name=NAME, description="Keeps the audit trail small and within its retention.")
    def upkeep_job() -> None:
        keep_up()

    schedule = dg.ScheduleDefinition(job=upkeep_job, cron_schedule=CRON, default_status=dg.DefaultScheduleStatus.RUNNING)
    return upkeep_job, schedule
