"""`mlsec trail acknowledge`: somebody has looked at what was wrong with a log."""

import time
from typing import Any

import click

from mlsec_dagster.cli.output import say
from mlsec_dagster.cli.settings import Settings, ledger_options, signer_options, trail_option, who
from mlsec_dagster.errors import ConfigurationError


@click.command()
@click.argument("location")
@click.option("--reason", metavar="TEXT", required=True, help="What came of looking; kept in the ledger for ever with your name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@signer_options
@trail_option
@ledger_options
def acknowledge(
    settings: Settings, trail_uri: str | None, location: str, reason: str, yes: bool, signer: str | None, signer_public_key: str | None
) -> None:
    """Take problems off the log at LOCATION once somebody has looked at them.

    Log objects that are gone, rewritten or incomplete, and what CloudTrail's digest files do not confirm, stay a problem until then. Who
    looked, at what and with which outcome is sealed in the ledger. A log that is quiet or not read stays a problem as long as it is.

    \b
      mlsec trail sources                                       # shows locations and their problems
      mlsec trail acknowledge s3://org-trail/ --reason "test account was closed, ticket 4711"
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.audit.completeness import watermarks
    from mlsec_dagster.audit.findings import acknowledge as take_off
    from mlsec_dagster.audit.seals import TRAIL_ASSET
    from mlsec_dagster.integrity.statements import Statement

    ledger = settings.open_writing(settings.ring(signer, signer_public_key))
    mark = next((each for each in watermarks(ledger.database, time.time_ns() // 1000) if each.uri == location), None)
    if mark is None:
        raise ConfigurationError(f"No log was ever read at {location}; `mlsec trail sources` lists those that were.")
    for problem in mark.problems:
        say(f"problem: {problem}", style="yellow")
    if not mark.problems:
        say("There is no problem.")
        return
    if not yes:
        click.confirm(f"Looked at, as {who()}?", abort=True)
    # First said, then done: what is off the list was looked at by somebody, whatever happens in between.
    said: dict[str, Any] = {"location": location, "problems": list(mark.problems), "who": who(), "why": reason}
    ledger.append([Statement(TRAIL_ASSET, settings.trail(trail_uri).uri, "urn:mlsec:trail-acknowledgement:v1", {}, said)])
    gone = take_off(ledger.database, location, mark.problems)
    if ledger.witness is not None:
        ledger.witness_now()
    left = len(mark.problems) - len(gone)
    say(f"{len(gone)} taken off." + (f" {left} stay: they are about how things are now." if left else ""), style="green")
