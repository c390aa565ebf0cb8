"""`mlsec ledger show`: what was recorded, one line each, or one entry whole with its proof."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlsec_dagster.cli.output import say, say_json, visible
from mlsec_dagster.cli.settings import Settings, ledger_options, nearest
from mlsec_dagster.errors import ConfigurationError, LedgerError

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry
    from mlsec_dagster.integrity.ledger import Ledger

_PAGE: Final = 500


@click.group()
def ledger() -> None:
    """Look into the ledger.

    \b
      mlsec ledger show --asset raw_flights --limit 5
      mlsec ledger show 41 --export entry-41.json
    """  # noqa: D301 - click's mark for text that is not to be wrapped


@ledger.command()
@click.argument("index", type=click.IntRange(min=0), required=False)
@click.option("--asset", metavar="KEY", help="Only entries about this asset.")
@click.option("--partition", metavar="KEY", help="Only entries about this partition.")
@click.option("--run", metavar="ID", help="Only entries about what this run wrote.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@click.option(
    "--export",
    "export_to",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="With INDEX: write it to FILE, to be verified without the store.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; with INDEX one document.")
@ledger_options
def show(
    settings: Settings,
    index: int | None,
    asset: str | None,
    partition: str | None,
    run: str | None,
    limit: int,
    export_to: str | None,
    as_json: bool,
) -> None:
    """Show what was recorded, newest first, or the entry INDEX whole with its inclusion proof.

    Every entry is authenticated before it is shown; one that is not what was signed is shown as such, and the exit code is 1.

    \b
      mlsec ledger show --asset raw_flights --partition 2013-01-07
      mlsec ledger show 41
      mlsec ledger show 41 --export entry-41.json      # verify it elsewhere: mlsec verify --export entry-41.json --key SHA256:…
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    if index is None and export_to:
        raise click.UsageError("--export writes one entry: give its INDEX too.")
    if index is not None and (asset or partition or run):
        raise click.UsageError("INDEX names one entry already; leave --asset, --partition and --run out.")
    opened, _ = settings.open_reading()
    if index is not None:
        _show_entry(opened, index, export_to, as_json)
        return
    if asset is not None and asset not in (known := opened.subjects()):
        raise ConfigurationError(f"The ledger has no entry about an asset {asset!r}. {nearest(asset, known)}")
    bad = 0
    for number, position in enumerate(_positions(opened, asset, partition, run)):
        if number == limit:
            break
        try:
            entry = opened.entry(position)
        except LedgerError as error:
            bad += 1
            _say_line({"index": position, "problem": str(error)}) if as_json else say(f"{position:>8}  NOT AS SIGNED  {error}", style="red")
        else:
            _say_line(_document(entry)) if as_json else say(_line(entry))
    if bad:
        raise LedgerError(f"{bad:,} of these entries are not what was signed: run `mlsec verify`.")


def _positions(ledger: "Ledger", asset: str | None, partition: str | None, run: str | None) -> Iterator[int]:
    """Places of the entries that match, newest first, by the index columns; each entry is authenticated when it is read."""
    from sqlalchemy import select

    from mlsec_dagster.storage.tables import entries

    query = select(entries.c.position).order_by(entries.c.position.desc()).limit(_PAGE)
    for column, value in ((entries.c.asset, asset), (entries.c.partition, partition), (entries.c.run_id, run)):
        query = query if value is None else query.where(column == value)
    ledger.checkpoint()  # Before anything is shown: is this a ledger that a trusted key signed?
    page = query
    while True:
        with ledger.database.read() as connection:
            found = list(connection.execute(page).scalars())
        yield from found
        if len(found) < _PAGE:
            return
        page = query.where(entries.c.position < found[-1])


def _line(entry: "Entry") -> str:
    from mlsec_dagster.integrity.verdicts import when

    subject = visible(
        entry.statement.asset if entry.statement.partition is None else f"{entry.statement.asset}[{entry.statement.partition}]", 80
    )
    outcome = visible(_outcome(entry), 60)
    return f"{entry.index:>8}  {when(entry.recorded_at)}  {_type(entry):<8}  {subject:<36}  {outcome:<24}  {entry.key[:19]}…"


def _type(entry: "Entry") -> str:
    name = entry.statement.predicate_type.removeprefix("urn:mlsec:").rpartition(":")[0]
    return visible(name.removeprefix("dataset-") or entry.statement.predicate_type, 24)


def _outcome(entry: "Entry") -> str:
    said = entry.statement.predicate
    if "verdict" in said:
        cause = said.get("cause")
        return f"{said['verdict']}" if cause in (None, "ok") else f"{said['verdict']}: {cause}"
    if "adopted_by" in said:
        return f"by {said['adopted_by']}"
    if "action" in said:
        return f"{said['action']} {str(said.get('fingerprint'))[:19]}…"
    if "why" in said:
        return f"{said['why']}: {len(said.get('added', ())):,} files in, {len(said.get('removed', ())):,} out"
    return "-"


def _document(entry: "Entry") -> dict[str, Any]:
    return {
        "index": entry.index,
        "recorded_at": entry.recorded_at,
        "type": entry.statement.predicate_type,
        "asset": entry.statement.asset,
        "partition": entry.statement.partition,
        "run_id": entry.statement.run_id,
        "verdict": entry.statement.predicate.get("verdict"),
        "cause": entry.statement.predicate.get("cause"),
        "key": entry.key,
    }


def entry_document(entry: "Entry") -> dict[str, Any]:
    """One entry whole, for JSON."""
    return {**_document(entry), "digests": dict(entry.statement.digests), "predicate": dict(entry.statement.predicate)}


def _say_line(document: dict[str, Any]) -> None:
    """One JSON object on one line."""
    click.echo(json.dumps(document))


def _show_entry(ledger: "Ledger", index: int, export_to: str | None, as_json: bool) -> None:
    checkpoint = ledger.checkpoint()
    size = checkpoint.size if checkpoint else 0
    if index >= size:
        raise ConfigurationError(f"There is no entry {index} in a ledger of {size:,} entries; they are counted from 0.")
    entry = ledger.entry(index)
    exported = ledger.export(index)
    if export_to:
        Path(export_to).write_text(json.dumps(exported, indent=2) + "\n", encoding="utf-8")
    if as_json:
        say_json({**entry_document(entry), "proof": exported})
        return
    say(_line(entry))
    for line in json.dumps(entry_document(entry), indent=2).splitlines():
        say(line)
    say("inclusion proof (RFC 9162), then the signed checkpoint that it leads to:")
    for node in exported["entry"]["inclusion_proof"]:
        say(f"    {node}")
    for line in str(exported["checkpoint"]).splitlines():
        say(f"    {line}")
    if export_to:
        say(f"Written to {export_to}. Verify it anywhere with: mlsec verify --export {export_to} --key FINGERPRINT", error=True)
