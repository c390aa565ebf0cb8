"""`mlsec keys`: make, replace, withdraw and list the keys of a ledger."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlsec_dagster.cli.output import say, say_json
from mlsec_dagster.cli.settings import KEY_FILE_TRUST, Settings, ledger_options, signer_options
from mlsec_dagster.errors import ConfigurationError, MlsecError, SigningKeyError

if TYPE_CHECKING:
    from mlsec_dagster.integrity.keys import SigningKey
    from mlsec_dagster.integrity.ledger import Ledger


@click.group()
def keys() -> None:
    """Make, replace, withdraw and list the keys that seal the ledger.

    \b
      mlsec keys new                                     # once; pin the fingerprint that it prints, away from this machine
      mlsec keys rotate --reason yearly
      mlsec keys revoke SHA256:5c9d… --reason "laptop lost"
    """  # noqa: D301 - click's mark for text that is not to be wrapped


@keys.command()
@click.option(
    "--path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), help="Where to. [default: HOME/mlsec/keys/mlsec.pem]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ledger_options
def new(settings: Settings, path: Path | None, as_json: bool) -> None:
    """Create an Ed25519 key file that only this account can read, and print its fingerprint.

    Pin the fingerprint where whoever can write to the ledger's database cannot: in the configuration of the verifying machine, or on paper.

    \b
      mlsec keys new
      mlsec keys new --path /etc/mlsec/keys/security-team.pem
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.integrity.keys import create_key_file

    file = path or settings.key_file()
    try:
        key = create_key_file(file)
    except FileExistsError as error:
        raise ConfigurationError(
            f"There is a key at {file} already, which is left as it is: replace it with `mlsec keys rotate`, or give --path."
        ) from error
    _print_key(key.fingerprint, file, as_json)


@keys.command()
@click.option("--reason", metavar="TEXT", required=True, help="Why; recorded in the ledger.")
@click.option(
    "--trusted-up-to", metavar="ENTRIES", type=click.IntRange(min=0), help="After a theft: trust the old key for so many entries only."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ledger_options
def rotate(settings: Settings, reason: str, trusted_up_to: int | None, as_json: bool) -> None:
    """Replace the key file by a new key, which the old one signs in and which then revokes the old one.

    The old key's file stays beside the new one as retired-<fingerprint>.pem; destroy it when you like. What it signed stays verifiable.
    Runs that are going on keep signing with the old key and fail to seal: rotate between runs.

    \b
      mlsec keys rotate --reason yearly
      mlsec keys rotate --reason stolen --trusted-up-to 4000
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
    from mlsec_dagster.integrity.rotation import rotate as rotate_keys

    file = settings.key_file()
    old = KeyRing.from_file(file)
    # Every step can be interrupted and taken up again: the new key waits beside the old one until the ledger knows it.
    waiting, retired = file.with_name("next.pem"), file.with_name(f"retired-{old.fingerprint.removeprefix('SHA256:')[:16]}.pem")
    fresh = load_or_create_key_file(waiting)
    ledger = settings.open_writing(old)
    if not _took_over(ledger, fresh, old.fingerprint):
        rotate_keys(ledger, KeyRing(fresh), reason=reason, trusted_size=trusted_up_to)
    _publish(ledger)
    if not retired.exists():
        os.link(file, retired)
    waiting.replace(file)
    _print_key(fresh.fingerprint, file, as_json, replaces=old.fingerprint, retired=retired)


def _took_over(ledger: "Ledger", fresh: "SigningKey", old: str) -> bool:
    """Whether an interrupted rotation got as far as the ledger."""
    book = ledger.book()
    before = book.keys.get(old)
    return fresh.fingerprint in book.keys and before is not None and before.until is not None


@keys.command()
@click.argument("fingerprint")
@click.option("--reason", metavar="TEXT", required=True, help="Why; recorded in the ledger.")
@click.option(
    "--trusted-up-to",
    metavar="ENTRIES",
    type=click.IntRange(min=0),
    help="Trust what it signed before this entry. [default: as far as the witness saw]",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@signer_options
@ledger_options
def revoke(
    settings: Settings,
    fingerprint: str,
    reason: str,
    trusted_up_to: int | None,
    yes: bool,
    signer: str | None,
    signer_public_key: str | None,
) -> None:
    """Withdraw a key: what it signed after the last witnessed checkpoint is not trusted.

    Signed with the key in use, which therefore cannot revoke itself: `mlsec keys rotate` does that.

    \b
      mlsec keys revoke SHA256:5c9d… --reason "laptop lost" --witness s3://audit-bucket/mlsec
      mlsec keys revoke SHA256:5c9d… --reason "laptop lost" --trusted-up-to 4000
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    from mlsec_dagster.integrity.rotation import last_witnessed_size
    from mlsec_dagster.integrity.rotation import revoke as revoke_key
    from mlsec_dagster.integrity.trust import Trust

    Trust({fingerprint})  # refuses what is no fingerprint
    ledger = settings.open_writing(settings.ring(signer, signer_public_key))
    if trusted_up_to is None and ledger.witness is None:
        raise ConfigurationError(
            "Without a witness nobody knows which entries were there before the key was lost: give --witness URI, or "
            "--trusted-up-to ENTRIES with the number of the first entry that you do not trust (`mlsec ledger show`)."
        )
    size = last_witnessed_size(ledger) if trusted_up_to is None else trusted_up_to
    checkpoint = ledger.checkpoint()
    after = max((checkpoint.size if checkpoint else 0) - size, 0)
    if not yes:
        click.confirm(f"Trust what {fingerprint} signed up to entry {size} of {size + after}, and nothing after it?", abort=True, err=True)
    entry = revoke_key(ledger, fingerprint, reason=reason, trusted_size=size).entries[0]
    _publish(ledger)
    say(f"{fingerprint} is revoked from entry {size} on (ledger entry {entry.index}). Take it out of every --key and MLSEC_TRUSTED_KEYS.")


@keys.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@ledger_options
def show(settings: Settings, as_json: bool) -> None:
    """List the keys that are trusted: roles, since when, revoked or not, and which is pinned.

    \b
      mlsec keys show
      mlsec keys show --store postgresql+psycopg://reader@db/mlsec --key SHA256:5c9d…
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    here = _key_here(settings)
    trust, source = settings.trust()
    listed: list[dict[str, Any]] = []
    if settings.store is None and not (settings.require_home("The default ledger") / "mlsec" / "ledger.db").exists():
        listed = [
            {"fingerprint": name, "roles": sorted(roles), "since": 0, "until": None, "added_by": None}
            for name, roles in trust.pinned.items()
        ]
    else:
        opened, _ = settings.open_reading()
        listed = [
            {"fingerprint": key.fingerprint, "roles": sorted(key.roles), "since": key.since, "until": key.until, "added_by": key.added_by}
            for key in sorted(opened.book().keys.values(), key=lambda key: (key.since, key.fingerprint))
        ]
    for key in listed:
        key["pinned"] = key["fingerprint"] in trust.pinned and source != KEY_FILE_TRUST
        key["on_this_machine"] = key["fingerprint"] == here
    if as_json:
        say_json({"trust": source, "keys": listed})
        return
    say(f"trust: {source}")
    for key in listed:
        marks = [mark for mark, holds in (("pinned", key["pinned"]), ("key file on this machine", key["on_this_machine"])) if holds]
        state = f"revoked from entry {key['until']} on" if key["until"] is not None else f"trusted since entry {key['since']}"
        say(f"{key['fingerprint']}  {', '.join(key['roles'])}  {state}{'  (' + ', '.join(marks) + ')' if marks else ''}")


def _key_here(settings: Settings) -> str | None:
    from mlsec_dagster.integrity.keys import load_key_file

    if settings.home is None or not settings.key_file().exists():
        return None
    try:
        return load_key_file(settings.key_file()).fingerprint
    except SigningKeyError:
        if not settings.pinned:
            raise
        return None


def _publish(ledger: "Ledger") -> None:
    """A change of keys that no witness has seen could be rolled back."""
    if ledger.witness is not None:
        try:
            ledger.witness_now()
        except MlsecError as error:
            say(f"Recorded, but it has not reached the witness: {error}", error=True, style="yellow")


def _print_key(fingerprint: str, file: Path, as_json: bool, *, replaces: str | None = None, retired: Path | None = None) -> None:
    if as_json:
        say_json({"fingerprint": fingerprint, "file": str(file), "replaces": replaces, "retired_file": str(retired) if retired else None})
        return
    say(fingerprint)
    say(f"The key is in {file} (mode 0600). Pin this fingerprint away from this machine: --key, or MLSEC_TRUSTED_KEYS.", error=True)
    if replaces:
        say(f"It replaces {replaces}, kept in {retired}. Pin the new fingerprint in its place.", error=True)
