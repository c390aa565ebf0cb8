r"""Upkeep of the audit trail: compact, retain, hold, erase, and what pseudonyms stand for.

\b
  mlsec trail compact
  mlsec trail retain --keep aws.cloudtrail=400 --default 180
  mlsec trail hold set case-17 --source aws.cloudtrail --reason "subpoena of June"
  mlsec trail erase --email ann@example.com --reference DSR-2026-118 --dry-run
  mlsec trail reveal pseudonym:v1:…
"""

import getpass
import os
import socket
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mlsec_dagster.cli.output import Progress, say, say_json
from mlsec_dagster.cli.settings import Settings, ledger_options, signer_options, trail_option
from mlsec_dagster.errors import ConfigurationError, MlsecError, SigningKeyError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Generator

    from mlsec_dagster.audit.erasure import Found
    from mlsec_dagster.audit.pseudonyms import Pseudonyms
    from mlsec_dagster.audit.upkeep import Upkeep
    from mlsec_dagster.audit.vacuum import Vacuumed

SHOWN: Final = 20
"""Days that are listed."""

KEYS_VARIABLE: Final = "MLSEC_PSEUDONYM_KEYS"
_DAY: Final = 86_400.0

_Command = TypeVar("_Command", bound=Callable[..., Any])


def key_options(command: _Command) -> _Command:
    """`--pseudonym-keys`."""
    return click.option(
        "--pseudonym-keys",
        "key_file",
        metavar="FILE",
        envvar=f"{KEYS_VARIABLE}_FILE",
        type=click.Path(dir_okay=False),
        help=f"Keys of the pseudonyms. [default: what {KEYS_VARIABLE} holds in base64]",
        show_envvar=True,
    )(command)


@contextmanager
def _upkeep(settings: Settings, uri: str | None, signer: str | None, public_key: str | None) -> "Generator[Upkeep]":
    """The upkeep of the trail, its ledger open for writing; afterwards the witness has what was sealed."""
    from mlsec_dagster.audit.upkeep import Upkeep

    ledger = settings.open_writing(settings.ring(signer, public_key))
    yield Upkeep(ledger.database, settings.trail(uri), ledger)
    try:
        if ledger.witness is not None:
            ledger.witness_now()
    except MlsecError as error:
        say(f"Sealed, but it has not reached the witness: {error}", error=True, style="yellow")


def pseudonyms_of(file: str | None) -> "Pseudonyms | None":
    """Pseudonyms by the keys of a file, else of the environment; None if there are none."""
    from mlsec_dagster.audit.pseudonym_keys import PseudonymKeys
    from mlsec_dagster.audit.pseudonyms import Pseudonyms

    if file is not None:
        return Pseudonyms(PseudonymKeys.from_file(file))
    return Pseudonyms(PseudonymKeys.from_environment(KEYS_VARIABLE)) if os.environ.get(KEYS_VARIABLE) else None


def who() -> str:
    """Who is at the keyboard, as the ledger keeps it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number != 1 else f"1 {what.removesuffix('s')}"


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

    with Progress() as progress, _upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
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
            days = _count(len(report.days), "days")
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
    with Progress() as progress, _upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
        progress("looking for days that are due")
        plan = expire(upkeep, retention, most=most, dry_run=True)
        if not as_json:
            for source, days in plan.days.items():
                rows = f"{plan.rows[source]:,} rows"
                say(f"{source}: {_count(len(days), 'days')}, {days[0]} to {days[-1]}, {rows} {'would ' if dry_run else ''}go")
            for (source, hold), days in plan.held.items():
                say(f"{source}: {_count(len(days), 'days')} stay because of the hold {hold}", style="yellow")
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

    with _upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
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

    with _upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
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


@click.command()
@click.option("--principal", "principals", metavar="ID", multiple=True, help="Who it was, as the log says it, whole (ARN, user name).")
@click.option("--name", "names", metavar="NAME", multiple=True, help="The name beside it, whole.")
@click.option("--email", "emails", metavar="ADDRESS", multiple=True, help="An e-mail address, anywhere in who it was.")
@click.option("--address", "addresses", metavar="IP", multiple=True, help="An IP address that was this person's alone.")
@click.option("--mentions", is_flag=True, help="Also others' accesses that have the person in some text.")
@click.option("--reference", metavar="TEXT", help="Of the request, for the ledger, which keeps it for ever. Never the name.")
@click.option("--dry-run", is_flag=True, help="Only say how many rows on which days, and whether a hold stops it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; needs --yes or --dry-run.")
@key_options
@signer_options
@trail_option
@ledger_options
def erase(
    settings: Settings,
    trail_uri: str | None,
    principals: tuple[str, ...],
    names: tuple[str, ...],
    emails: tuple[str, ...],
    addresses: tuple[str, ...],
    mentions: bool,
    reference: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
    key_file: str | None,
    signer: str | None,
    signer_public_key: str | None,
) -> None:
    """Erase a person's rows: they stay as rows, and tell of nobody any more.

    With the keys of the pseudonyms, rows that have pseudonyms are found too. The files that held the rows are deleted at once; backups and
    versions that the storage keeps are yours to delete. What you give here stays in your shell's history.

    \b
      mlsec trail erase --email ann@example.com --dry-run
      mlsec trail erase --email ann@example.com --principal arn:aws:iam::123456789012:user/ann --reference DSR-2026-118
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.audit.erasure import erase as work
    from mlsec_dagster.audit.erasure import find
    from mlsec_dagster.audit.persons import Person

    if as_json and not (yes or dry_run):
        raise click.UsageError("--json cannot ask: give --yes too, once you have seen what --dry-run says.")
    if not dry_run and not (reference or "").strip():
        raise click.UsageError("--reference is missing: give the number of the request, or --dry-run.")
    person = Person(principals=principals, names=names, emails=emails, addresses=addresses)
    if (pseudonyms := pseudonyms_of(key_file)) is not None:
        person = person.with_pseudonyms(pseudonyms)
    if reference is not None and person.in_text(reference):
        raise ConfigurationError("The reference names the person, and the ledger would keep that for ever. Give a number instead.")
    with Progress() as progress, _upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
        found = find(upkeep, person, mentions=mentions, progress=progress)
        if not as_json:
            _say_found(found, mentions)
        if found.holds:
            raise VerificationError(f"{found.holds[0]} Nothing was erased; lift the hold first, if it may be.")
        report = None
        if found.rows and not dry_run:
            words = f"erase {found.rows}"
            if not yes and click.prompt(f"This cannot be undone. Type '{words}' to go on", default="", show_default=False) != words:
                raise click.Abort
            report = work(upkeep, person, reason=str(reference).strip(), mentions=mentions, progress=progress)
    if as_json:
        days = [{"source": source, "day": day, "rows": rows} for (source, day), rows in sorted(found.days.items())]
        document = {"dry_run": dry_run, "own": found.own, "quarantined": found.quarantined, "mentions": found.mentions, "days": days}
        if report is not None:
            document |= {"erased": report.found.rows, "files_deleted": report.deleted, "orphans": report.orphans, "kept": report.kept}
        say_json(document)
        return
    if report is not None:
        say(f"{report.found.rows:,} rows were erased and {_count(report.deleted, 'files')} deleted; that is sealed.", style="green")
        if report.orphans:
            say(
                f"{_count(report.orphans, 'files')} that no commit names lie in the storage, left by processes that were killed or being "
                "written now, and may hold such rows: `mlsec trail compact` deletes them once they are a week old.",
                style="yellow",
            )
        if report.kept:
            say(f"{_count(report.kept, 'files')} that were replaced before stay because of a hold.", style="yellow")


def _say_found(found: "Found", mentions: bool) -> None:
    for (source, day), rows in sorted(found.days.items())[:SHOWN]:
        say(f"{source}  {day}  {_count(rows, 'rows')}")
    if len(found.days) > SHOWN:
        say(f"… and {len(found.days) - SHOWN:,} more days")
    say(
        f"{_count(found.own, 'accesses')} by the person, {_count(found.quarantined, 'records')} that could not be read and name the person."
    )
    if found.mentions:
        say(f"{_count(found.mentions, 'accesses')} by others name the person" + ("." if mentions else " and stay; see --mentions."))
    for sentence in found.holds:
        say(sentence, style="yellow")


@click.command()
@click.argument("tokens", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@key_options
def reveal(tokens: tuple[str, ...], as_json: bool, key_file: str | None) -> None:
    """Tell what pseudonyms stand for, in texts that have any."""
    pseudonyms = _require_keys(key_file)
    values = {
        token: pseudonyms.revealed(token) if " " in token or not token.startswith("pseudonym:") else pseudonyms.reveal(token)
        for token in tokens
    }
    if as_json:
        say_json(values)
        return
    for value in values.values():
        say(value)


@click.group("pseudonyms")
def pseudonyms_group() -> None:
    """Keys of pseudonyms, and what to search for."""


@pseudonyms_group.command()
@click.argument("file", type=click.Path(dir_okay=False))
def new(file: str) -> None:
    """Make a key FILE. Keep a copy where it is safe: without it nobody can reveal a pseudonym, or tell accesses that come again."""
    from mlsec_dagster.audit.pseudonym_keys import create_pseudonym_keys

    keys = create_pseudonym_keys(file)
    say(f"Made {file} with the key {next(iter(keys.keys)).hex()}. Back it up now.", style="green")


@pseudonyms_group.command()
@click.argument("file", type=click.Path(dir_okay=False))
def rotate(file: str) -> None:
    """Put a new key into FILE, for pseudonyms from now on. The old ones can still be revealed."""
    from mlsec_dagster.audit.pseudonym_keys import add_pseudonym_key

    keys = add_pseudonym_key(file)
    say(f"The key {next(iter(keys.keys)).hex()} is the newest of {len(keys.keys)} in {file} now. Back it up.", style="green")


@pseudonyms_group.command("of")
@click.argument("value")
@key_options
def of_(value: str, key_file: str | None) -> None:
    """Tell what stands for VALUE in the trail, a line for each key."""
    for token in _require_keys(key_file).of(value):
        say(token)


def _require_keys(file: str | None) -> "Pseudonyms":
    found = pseudonyms_of(file)
    if found is None:
        raise SigningKeyError(f"There are no keys of pseudonyms: give --pseudonym-keys FILE, or set {KEYS_VARIABLE}.")
    return found


def _cleaned(report: "Vacuumed") -> dict[str, Any]:
    return {"deleted": report.deleted, "deleted_bytes": report.bytes, "held_files": len(report.held), "waiting_files": report.waiting}


def _say_cleaned(report: "Vacuumed", dry_run: bool) -> None:
    if report.deleted:
        would = "would be" if dry_run else "were"
        say(f"{_count(len(report.deleted), 'files')} that are no part of the trail any more, {report.bytes:,} bytes, {would} deleted.")
    if report.waiting:
        say(f"{_count(report.waiting, 'files')} that are no part of the trail any more wait for the end of the grace.")
    if report.held:
        say(f"{_count(len(report.held), 'files')} that are no part of the trail any more stay because of a hold.", style="yellow")


def _refuse(sentences: list[str]) -> None:
    for sentence in sentences[1:]:
        say(sentence, error=True, style="red")
    if sentences:
        raise VerificationError(sentences[0])


def add_to(group: click.Group) -> None:
    """Put the commands into a group."""
    for command in (compact, retain, hold, erase, reveal, pseudonyms_group):
        group.add_command(command)
