r"""Persons in the audit trail: erase one, and tell what pseudonyms stand for.

\b
  mlsec trail erase --email ann@example.com --reference DSR-2026-118 --dry-run
  mlsec trail reveal pseudonym:v1:…
  mlsec trail pseudonyms new keys.json
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from mlsec_dagster.cli.output import Progress, counted, say, say_json
from mlsec_dagster.cli.settings import Settings, ledger_options, signer_options, trail_option
from mlsec_dagster.cli.trail_upkeep import opened_upkeep
from mlsec_dagster.errors import ConfigurationError, SigningKeyError, VerificationError

if TYPE_CHECKING:
    from mlsec_dagster.audit.erasure import Found
    from mlsec_dagster.audit.pseudonyms import Pseudonyms

SHOWN: Final = 20
"""Days that are listed."""

KEYS_VARIABLE: Final = "MLSEC_PSEUDONYM_KEYS"

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


def pseudonyms_of(file: str | None) -> "Pseudonyms | None":
    """Pseudonyms by the keys of a file, else of the environment; None if there are none."""
    from mlsec_dagster.audit.pseudonym_keys import PseudonymKeys
    from mlsec_dagster.audit.pseudonyms import Pseudonyms

    if file is not None:
        return Pseudonyms(PseudonymKeys.from_file(file))
    return Pseudonyms(PseudonymKeys.from_environment(KEYS_VARIABLE)) if os.environ.get(KEYS_VARIABLE) else None


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
    with Progress() as progress, opened_upkeep(settings, trail_uri, signer, signer_public_key) as upkeep:
        found = find(upkeep, person, mentions=mentions, progress=progress)
        if not as_json:
            _say_found(found, mentions)
        if found.holds:
            raise VerificationError(f"{found.holds[0]} Nothing was erased; lift the hold first, if it may be.")
        report = None
        # Rows that expired or were erased before are in no version in force, and their files are there until the grace is over.
        if (found.rows or found.left_behind) and not dry_run:
            words = f"erase {found.rows}"
            if not yes and click.prompt(f"This cannot be undone. Type '{words}' to go on", default="", show_default=False) != words:
                raise click.Abort
            report = work(upkeep, person, reason=str(reference).strip(), mentions=mentions, progress=progress)
    if as_json:
        days = [{"source": source, "day": day, "rows": rows} for (source, day), rows in sorted(found.days.items())]
        document = {"dry_run": dry_run, "own": found.own, "quarantined": found.quarantined, "mentions": found.mentions, "days": days}
        document["files_left_behind"] = found.left_behind
        if report is not None:
            document |= {"erased": report.found.rows, "files_deleted": report.deleted, "orphans": report.orphans, "kept": report.kept}
        say_json(document)
        return
    if report is not None:
        say(f"{report.found.rows:,} rows were erased and {counted(report.deleted, 'file')} deleted; that is sealed.", style="green")
        if report.orphans:
            say(
                f"{counted(report.orphans, 'file')} that no commit names lie in the storage, left by processes that were killed or being "
                "written now, and may hold such rows: `mlsec trail compact` deletes them once they are a week old.",
                style="yellow",
            )
        if report.kept:
            say(f"{counted(report.kept, 'file')} that were replaced before stay because of a hold.", style="yellow")


def _say_found(found: "Found", mentions: bool) -> None:
    for (source, day), rows in sorted(found.days.items())[:SHOWN]:
        say(f"{source}  {day}  {counted(rows, 'row')}")
    if len(found.days) > SHOWN:
        say(f"… and {len(found.days) - SHOWN:,} more days")
    unread = f"{counted(found.quarantined, 'record')} that could not be read and {'names' if found.quarantined == 1 else 'name'} the person"
    say(f"{counted(found.own, 'access', 'accesses')} by the person, {unread}.")
    if found.mentions:
        say(
            f"{counted(found.mentions, 'access', 'accesses')} by others name the person"
            + ("." if mentions else " and stay; see --mentions.")
        )
    if found.left_behind:
        say(
            f"{counted(found.left_behind, 'file')} that were taken out of the trail before still lie in the storage, and may hold such "
            "rows: erasing deletes them too."
        )
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


@click.group()
def pseudonyms() -> None:
    """Keys of pseudonyms, and what to search for."""


@pseudonyms.command()
@click.argument("file", type=click.Path(dir_okay=False))
def new(file: str) -> None:
    """Make a key FILE. Keep a copy where it is safe: without it nobody can reveal a pseudonym, or tell accesses that come again."""
    from mlsec_dagster.audit.pseudonym_keys import create_pseudonym_keys

    keys = create_pseudonym_keys(file)
    say(f"Made {file} with the key {next(iter(keys.keys)).hex()}. Back it up now.", style="green")


@pseudonyms.command()
@click.argument("file", type=click.Path(dir_okay=False))
def rotate(file: str) -> None:
    """Put a new key into FILE, for pseudonyms from now on. The old ones can still be revealed."""
    from mlsec_dagster.audit.pseudonym_keys import add_pseudonym_key

    keys = add_pseudonym_key(file)
    say(f"The key {next(iter(keys.keys)).hex()} is the newest of {len(keys.keys)} in {file} now. Back it up.", style="green")


@pseudonyms.command("of")
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
