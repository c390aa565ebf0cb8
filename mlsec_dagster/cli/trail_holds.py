r"""Legal holds on the audit trail.

\b
  mlsec trail hold set case-17 --source aws.cloudtrail --reason "subpoena of June"
  mlsec trail hold list
  mlsec trail hold lift case-17 --reason "closed"
"""

import click

from mlsec_dagster.cli.output import say, say_json
from mlsec_dagster.cli.settings import Settings, ledger_options, signer_options, trail_option, who
from mlsec_dagster.cli.trail_upkeep import opened_upkeep


@click.group()
def hold() -> None:
    """Legal holds: what nobody may delete, not by expiry, not by erasure, not by vacuum."""


@hold.command("set")
@click.argument("name")
@click.option("--source", "sources", metavar="SOURCE", multiple=True, help="A log that it covers. May be repeated. [default: all]")
@click.option("--first", metavar="DAY", help="First day that it covers. [default: from the beginning]")
@click.option("--last", metavar="DAY", help="Last day that it covers. [default: whatever comes]")
@click.option("--reason", metavar="TEXT", required=True, help="On what grounds; kept in the ledger for ever with your name.")
@signer_options
@trail_option
@ledger_options
def set_(
    settings: Settings,
    trail_uri: str | None,
    name: str,
    sources: tuple[str, ...],
    first: str | None,
    last: str | None,
    reason: str,
    signer: str | None,
    signer_public_key: str | None,
) -> None:
    """Set the hold NAME. Name a case, not a person: the ledger cannot forget."""
    from mlsec_dagster.audit.legal_hold import Hold, set_hold

    with opened_upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
        upkeep.trail.open()  # A hold on a trail that is not there, by a mistyped address, would protect nothing.
        new = Hold(name=name, who=who(), why=reason, sources=list(sources), first=first, last=last)
        set_hold(upkeep.ledger, upkeep.trail, new)
    say(f"From now on nothing is deleted that is under {new}.", style="green")


@hold.command()
@click.argument("name")
@click.option("--reason", metavar="TEXT", required=True, help="Why; kept in the ledger for ever with your name.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@signer_options
@trail_option
@ledger_options
def lift(
    settings: Settings, trail_uri: str | None, name: str, reason: str, yes: bool, signer: str | None, signer_public_key: str | None
) -> None:
    """Lift the hold NAME: what it covered may be deleted again."""
    from mlsec_dagster.audit.legal_hold import lift_hold

    with opened_upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
        if not yes:
            click.confirm(f"Lift the hold {name}, as {who()}? What it covers may be deleted by the next retention.", abort=True)
        lifted = lift_hold(upkeep.ledger, upkeep.trail, name, who=who(), why=reason)
    say(f"Lifted: {lifted}.", style="green")


@hold.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@trail_option
@ledger_options
def list_(settings: Settings, trail_uri: str | None, as_json: bool) -> None:
    """List the holds that are set. Needs no private key."""
    import msgspec

    from mlsec_dagster.audit.legal_hold import active_holds

    opened, _ = settings.open_reading()
    holds = active_holds(opened, settings.trail(trail_uri))
    if as_json:
        say_json(msgspec.to_builtins(holds))
        return
    for each in holds:
        say(each)
    if not holds:
        say("There is no hold.")
