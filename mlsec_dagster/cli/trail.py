"""`mlsec trail`: who accessed what, as the logs tell; and `mlsec trail sources`: what is known of each log, and what it cannot tell."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlsec_dagster.cli import trail_formats
from mlsec_dagster.cli.output import Progress, say
from mlsec_dagster.cli.settings import Settings, ledger_options, trail_option
from mlsec_dagster.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from mlsec_dagster.audit.completeness import Watermark
    from mlsec_dagster.audit.state import LocationState

TABLE_ROWS: Final = 100
"""Rows of the table that people get; everything else is limited only on request."""

_LISTED: Final = 10


class _ShowByDefault(click.Group):
    """`mlsec trail --artifact fraud` is `mlsec trail show --artifact fraud`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_ShowByDefault)
def trail() -> None:
    """Look at the audit trail: who read, wrote, promoted or deleted which data and which model.

    Without a command, show what matches: `mlsec trail show --help` tells how to choose.

    \b
      mlsec trail --artifact fraud/3 --since 7d
      mlsec trail --principal "arn:aws:iam::123456789012:*" --outcome denied
      mlsec trail --since 24h --json | jq .principal
      mlsec trail sources
    """  # noqa: D301 - click's mark for text that is not to be wrapped


@trail.command()
@click.option("--artifact", metavar="NAME", help="Asset key, model, or MODEL/VERSION.")
@click.option("--principal", metavar="NAME", help="Principal, name of one, or role; with * at its end, what they begin with.")
@click.option("--since", metavar="TIME", help="Not earlier: 2026-05-01, 2026-05-01T12:00:00Z, or how long ago (90m, 24h, 7d).")
@click.option("--until", metavar="TIME", help="Earlier than this.")
@click.option("--operation", metavar="NAME", help="In the log's words: GetObject, …")
@click.option("--action", metavar="NAME", help="In ours: read, list, invoke, write, create, update, delete, promote, connect, other.")
@click.option("--source", metavar="LOG", help="aws.cloudtrail, aws.s3_access, gcp.audit, azure.monitor, kubernetes.audit, …")
@click.option("--outcome", metavar="NAME", help="success, failure, denied or unknown.")
@click.option("--address", metavar="IP", help="Where from, as the log tells.")
@click.option("--kind", metavar="KIND", help="event, quarantined (records that cannot be read) or erased.")
@click.option("--unresolved", is_flag=True, help="Only accesses of which nothing tells what they are about.")
@click.option("--limit", type=click.IntRange(min=1), help=f"At most so many, the newest. [default: {TABLE_ROWS} in the table, else all]")
@click.option("--json", "form", flag_value="json", help="One JSON object a line: every column.")
@click.option("--ocsf", "form", flag_value="ocsf", help="One OCSF 1.8 event a line, for a SIEM.")
@click.option("--csv", "form", flag_value="csv", help="CSV with every column, safe to open in a spreadsheet.")
@click.option("--parquet", metavar="FILE", type=click.Path(dir_okay=False), help="Write a Parquet file with every column, a new one.")
@trail_option
@click.option("--home", metavar="DIR", envvar="DAGSTER_HOME", help="Dagster's home directory.", show_envvar=True)
@click.pass_context
def show(
    ctx: click.Context,
    trail_uri: str | None,
    home: str | None,
    form: str | None,
    parquet: str | None,
    limit: int | None,
    since: str | None,
    until: str | None,
    unresolved: bool,
    **equal: str | None,
) -> None:
    """Show what matches, newest first.

    Whether rows are what was recorded, this does not say: `mlsec verify` does. A quarantined record answers no question about a principal,
    an artifact or an operation; look for those with --kind quarantined.

    \b
      mlsec trail --artifact fraud/3 --since 7d
      mlsec trail --operation GetObject --source aws.cloudtrail --csv > reads.csv
      mlsec trail --since 2026-05-01 --until 2026-06-01 --parquet may.parquet
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.audit.querying import Filter, instant, rows

    if form is not None and parquet is not None:
        raise click.UsageError(f"--{form} and --parquet exclude each other.")
    wanted = Filter(since=instant(since) if since else None, until=instant(until) if until else None, unresolved=unresolved, **equal)
    starred = {name for name, value in equal.items() if value and "*" in (value[:-1] if name == "principal" else value)}
    if starred:  # Else "Nothing matches." would be taken for an answer.
        say(
            f"A * in --{', --'.join(sorted(starred))} stands for itself; it stands for anything only at the end of --principal.", error=True
        )
    opened = Settings(None, None, (), Path(home).expanduser() if home else None).trail(trail_uri)
    people = form is None and parquet is None
    most = TABLE_ROWS if people and limit is None else limit
    # One more than is shown, to know whether there are more.
    found = rows(opened, wanted, most + 1 if most is not None and people else most)
    if parquet is not None:
        with Progress() as progress:
            count = trail_formats.write_parquet(_counted(found, progress), Path(parquet))
        say(f"{count:,} rows written to {parquet}.", error=True)
        return
    try:
        if most is not None and people:
            if trail_formats.print_table(found, most):
                say(f"There are more than these {most:,}{'; choose, or give --limit' if limit is None else ''}.", error=True)
        else:
            _WRITERS[form or ""](found)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough. What is still waiting goes nowhere, instead of into a message when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ctx.exit(0)


_WRITERS: Final[dict[str, Callable[[Iterator["pa.RecordBatch"]], None]]] = {
    "json": trail_formats.print_json,
    "ocsf": trail_formats.print_ocsf,
    "csv": trail_formats.print_csv,
}


def _counted(found: "Iterator[pa.RecordBatch]", progress: Progress) -> "Iterator[pa.RecordBatch]":
    count = 0
    for batch in found:
        count += batch.num_rows
        yield batch
        progress("looking through the trail: rows found", count)


@trail.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@ledger_options
def sources(settings: Settings, as_json: bool) -> None:
    """Show what is known of every place that logs are read from: how much came, how late it is, and what could not be seen.

    \b
      mlsec trail sources
      mlsec trail sources --json | jq 'select(.problems != [])'
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.audit.completeness import watermark
    from mlsec_dagster.audit.layouts import LAYOUTS
    from mlsec_dagster.storage.database import Database
    from mlsec_dagster.storage.log_positions import all_locations

    database = Database(settings.store_url(), read_only=True)
    with database.read() as connection:
        locations = [(uri, state) for _, uri, state in all_locations(connection)]
    if not locations and not as_json:
        say("No log was read yet: the first tick of an audit log sensor does that.")
    for uri, text in locations:
        state = _state(uri, text)
        if state.source not in LAYOUTS:
            continue  # Nothing was read there yet, or it is no log's.
        mark = watermark(uri, state, time.time_ns() // 1000)
        if as_json:
            click.echo(json.dumps(_document(mark, state)))
        else:
            _tell(mark, state)


def _state(uri: str, text: str) -> "LocationState":
    import msgspec

    from mlsec_dagster.audit.state import LocationState

    try:
        return LocationState.read(text)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise StoreError(
            f"What the database holds about {uri} cannot be read ({error}): it was altered, or a newer version wrote it."
        ) from error


def _document(mark: "Watermark", state: "LocationState") -> dict[str, Any]:
    import msgspec

    return {"location": mark.uri, **{name: getattr(mark, name) for name in _TOLD}, "state": msgspec.to_builtins(state)}


_TOLD: Final = ("source", "complete_to", "proven_to", "late", "newest", "counts", "not_observable", "problems")


def _tell(mark: "Watermark", state: "LocationState") -> None:
    from mlsec_dagster.audit.times import rfc3339

    def told(moment: int | None) -> str:
        return "never" if moment is None else rfc3339(moment)[:19] + "Z"

    say(f"{mark.uri}  {mark.source}")
    say(f"    complete up to {told(mark.complete_to)}, proven up to {told(mark.proven_to)}, newest event {told(mark.newest)}")
    say(f"    {state.events:,} accesses, {state.duplicates:,} duplicates passed over")
    say(f"    {state.quarantined:,} records quarantined", style="yellow" if state.quarantined else None)
    say(
        f"    {state.unresolved:,} accesses that nothing tells the artifact of",
        style="yellow" if state.unresolved else None,
    )
    for where, count in list(state.unresolved_sample.items())[:_LISTED]:
        say(f"        {count:,} to {where}")
    say(f"    everything last compared {told(state.reconciled_at)}")
    for problem in mark.problems:
        say(f"    problem: {problem}", style="red")
    for clause in mark.not_observable:
        say(f"    not observable: {clause}", style="yellow")
