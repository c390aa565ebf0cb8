r"""Upkeep of the audit trail: compact and retain.

\b
  mlsec trail compact
  mlsec trail retain --keep aws.cloudtrail=400 --default 180
"""

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from mlsec_dagster.cli.output import Progress, counted, say, say_json
from mlsec_dagster.cli.settings import Settings, ledger_options, signer_options, trail_option
from mlsec_dagster.errors import MlsecError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from mlsec_dagster.audit.upkeep import Upkeep
    from mlsec_dagster.audit.vacuum import Vacuumed

_DAY: Final = 86_400.0


@contextmanager
def opened_upkeep(settings: Settings, uri: str | None, signer: str | None, public_key: str | None) -> "Generator[Upkeep]":
    """The upkeep of the trail, its ledger open for writing; afterwards the witness has what was sealed."""
    from mlsec_dagster.audit.upkeep import Upkeep

    ledger = settings.open_writing(settings.ring(signer, public_key))
    yield Upkeep(ledger.database, settings.trail(uri), ledger)
    try:
        if ledger.witness is not None:
            ledger.witness_now()
    except MlsecError as error:
        say(f"Sealed, but it has not reached the witness: {error}", error=True, style="yellow")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--grace", metavar="DAYS", type=click.FloatRange(min=0), default=7.0, show_default=True, help="Replaced files stay so long.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@signer_options
@trail_option
@ledger_options
def compact(
    settings: Settings, trail_uri: str | None, dry_run: bool, grace: float, as_json: bool, signer: str | None, signer_public_key: str | None
) -> None:
    """Merge the many small files of each day into few, and delete those that were replaced a while ago.

    Every file is held against its seal before it is merged. One that is not what was sealed is named, its day is left alone, and the exit
    code is 1. Run it daily.
    """
    from mlsec_dagster.audit.compaction import compact as work
    from mlsec_dagster.audit.vacuum import vacuum

    with Progress() as progress, opened_upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
        report = work(upkeep, dry_run=dry_run, progress=progress)
        cleaned = vacuum(upkeep, grace=grace * _DAY, dry_run=dry_run)
    if as_json:
        say_json(
            {
                "dry_run": dry_run,
                "days": [{"source": source, "day": day} for source, day in report.days],
                "files_before": report.before,
                "files_after": report.after,
                "rows": report.rows,
                "later": [{"source": source, "day": day} for source, day in report.later],
                "refused": report.refused,
                **_cleaned(cleaned),
            }
        )
    else:
        would = "would become" if dry_run else "became"
        if report.days:
            days = counted(len(report.days), "day")
            say(f"{report.before:,} files of {days} {would} {report.after:,}, with {report.rows:,} rows.", style="green")
        else:
            say("There is nothing to compact.")
        for source, day in report.later:
            say(f"{source} {day} was changed by somebody else at the same time; next time.", style="yellow")
        _say_cleaned(cleaned, dry_run)
    _refuse(report.refused)


@click.command()
@click.option("--keep", "rules", metavar="SOURCE=DAYS", multiple=True, help="Days that rows of a source are kept. May be repeated.")
@click.option("--default", "default", metavar="DAYS", type=click.IntRange(min=1), help="Days for the other sources. [default: for ever]")
@click.option("--most", is_flag=True, help="It is meant that more than half of a source's days go at once.")
@click.option("--grace", metavar="DAYS", type=click.FloatRange(min=0), default=7.0, show_default=True, help="Files stay so long.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; needs --yes or --dry-run.")
@signer_options
@trail_option
@ledger_options
def retain(
    settings: Settings,
    trail_uri: str | None,
    rules: tuple[str, ...],
    default: int | None,
    most: bool,
    grace: float,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    signer: str | None,
    signer_public_key: str | None,
) -> None:
    """Take out the days that are older than they are kept, and delete their files after the grace.

    \b
      mlsec trail retain --keep aws.cloudtrail=400 --keep mlflow.audit=90 --dry-run
      mlsec trail retain --default 180 --yes
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.audit.retention import Retention, expire
    from mlsec_dagster.audit.vacuum import vacuum

    if as_json and not (yes or dry_run):
        raise click.UsageError("--json cannot ask: give --yes too, once you have seen what --dry-run says.")
    if not rules and default is None:
        raise click.UsageError("Say how long rows are kept: --keep SOURCE=DAYS, or --default DAYS.")
    retention = Retention(dict(map(_rule, rules)), default)
    with Progress() as progress, opened_upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
        progress("looking for days that are due")
        plan = expire(upkeep, retention, most=most, dry_run=True)
        if not as_json:
            for source, days in plan.days.items():
                rows = f"{plan.rows[source]:,} rows"
                say(f"{source}: {counted(len(days), 'day')}, {days[0]} to {days[-1]}, {rows} {'would ' if dry_run else ''}go")
            for (source, hold), days in plan.held.items():
                say(f"{source}: {counted(len(days), 'day')} stay because of the hold {hold}", style="yellow")
        if plan.days and not dry_run:
            if not yes:
                click.confirm("Take these rows out of the trail for good?", abort=True)
            plan = expire(upkeep, retention, most=most)
        cleaned = vacuum(upkeep, grace=grace * _DAY, dry_run=dry_run)
    if as_json:
        held = [{"source": source, "hold": hold, "days": days} for (source, hold), days in plan.held.items()]
        say_json({"dry_run": dry_run, "days": plan.days, "rows": plan.rows, "held": held, "refused": plan.refused, **_cleaned(cleaned)})
    else:
        if not plan.days and not plan.refused:
            say("Nothing is due.")
        elif plan.days and not dry_run:
            say(f"{sum(plan.rows.values()):,} rows were taken out, and that is sealed.", style="green")
        _say_cleaned(cleaned, dry_run)
    _refuse(plan.refused)


def _rule(text: str) -> tuple[str, int]:
    source, _, days = text.partition("=")
    if not days.isdecimal():
        raise click.UsageError(f"--keep {text!r} is no rule; expected one like aws.cloudtrail=400.")
    return source, int(days)


def _cleaned(report: "Vacuumed") -> dict[str, Any]:
    return {"deleted": report.deleted, "deleted_bytes": report.bytes, "held_files": len(report.held), "waiting_files": report.waiting}


def _say_cleaned(report: "Vacuumed", dry_run: bool) -> None:
    if report.deleted:
        would = "would be" if dry_run else "were"
        say(f"{counted(len(report.deleted), 'file')} that are no part of the trail any more, {report.bytes:,} bytes, {would} deleted.")
    if report.waiting:
        say(f"{counted(report.waiting, 'file')} that are no part of the trail any more wait for the end of the grace.")
    if report.held:
        say(f"{counted(len(report.held), 'file')} that are no part of the trail any more stay because of a hold.", style="yellow")


def _refuse(sentences: list[str]) -> None:
    for sentence in sentences[1:]:
        say(sentence, error=True, style="red")
    if sentences:
        raise VerificationError(sentences[0])
