"""What every command needs to know: where the ledger is, what is trusted, what signs, which Dagster instance it is about."""

import getpass
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mlsec_dagster.errors import ConfigurationError, SigningKeyError, StoreError

if TYPE_CHECKING:
    from dagster import DagsterInstance

    from mlsec_dagster.audit.trail import Trail
    from mlsec_dagster.integrity.keys import KeyRing
    from mlsec_dagster.integrity.ledger import Ledger
    from mlsec_dagster.integrity.trust import Trust

_Command = TypeVar("_Command", bound=Callable[..., Any])

KEY_FILE_TRUST = "the key file on this machine, not a pinned fingerprint"


def ledger_options(command: _Command) -> _Command:
    """`--store`, `--witness`, `--key` and `--home`; the command is called with them as one `Settings`."""

    @click.option(
        "--store",
        metavar="URL",
        envvar="MLSEC_STORE_URL",
        help="SQLAlchemy URL of the ledger. [default: HOME/mlsec/ledger.db]",
        show_envvar=True,
    )
    @click.option(
        "--witness",
        metavar="URI",
        envvar="MLSEC_WITNESS",
        help="Where checkpoints also go: a directory or an fsspec URI.",
        show_envvar=True,
    )
    @click.option(
        "--key",
        "keys",
        metavar="FINGERPRINT",
        multiple=True,
        help="Pinned key fingerprint, SHA256:…; trust starts here. May be repeated. [env var: MLSEC_TRUSTED_KEYS, separated by commas]",
    )
    @click.option("--home", metavar="DIR", envvar="DAGSTER_HOME", help="Dagster's home directory.", show_envvar=True)
    @click.pass_context
    def wrapped(
        ctx: click.Context, store: str | None, witness: str | None, keys: tuple[str, ...], home: str | None, **arguments: Any
    ) -> Any:
        pinned = keys or tuple(filter(None, re.split(r"[,\s]+", os.environ.get("MLSEC_TRUSTED_KEYS", ""))))
        settings = Settings(store, witness, pinned, Path(home).expanduser() if home else None)
        return ctx.invoke(command, settings=settings, **arguments)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = [*getattr(command, "__click_params__", ()), *wrapped.__click_params__]  # type: ignore[attr-defined]
    return wrapped  # type: ignore[return-value]


def signer_options(command: _Command) -> _Command:
    """`--signer` and `--signer-public-key`, for commands that sign."""
    command = click.option("--signer-public-key", metavar="FILE", envvar="MLSEC_SIGNER_PUBLIC_KEY", help="Public key (PEM) of --signer.")(
        command
    )
    return click.option(
        "--signer",
        metavar="URI",
        envvar="MLSEC_SIGNER",
        help="securesystemslib URI of the signing key. [default: HOME/mlsec/keys/mlsec.pem]",
        show_envvar=True,
    )(command)


def trail_option(command: _Command) -> _Command:
    """`--trail`, as `trail_uri`, for `Settings.trail`."""
    return click.option(
        "--trail",
        "trail_uri",
        metavar="URI",
        envvar="MLSEC_TRAIL",
        help="The audit trail: a directory, s3://…, gs://…, abfss://…. [default: HOME/mlsec/trail]",
        show_envvar=True,
    )(command)


def trail_storage_options() -> dict[str, str] | None:
    """Delta Lake's storage options, from MLSEC_TRAIL_OPTIONS: they may hold secrets, which do not belong on a command line.

    Raises:
        ConfigurationError: It is no JSON object of texts.
    """
    text = os.environ.get("MLSEC_TRAIL_OPTIONS", "").strip()
    if not text:
        return None
    try:
        options = json.loads(text)
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ConfigurationError('MLSEC_TRAIL_OPTIONS is no JSON object of texts; write it like {"AWS_REGION": "eu-west-1"}.')
    return options


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that say which ledger is meant.

    Attributes:
        store: URL of the ledger, or None for the embedded default.
        witness: URI of the witness, or None.
        pinned: Fingerprints from which trust starts; empty to take the key file on this machine.
        home: Dagster's home, or None.
    """

    store: str | None
    witness: str | None
    pinned: tuple[str, ...]
    home: Path | None

    def require_home(self, what_for: str) -> Path:
        """The home directory.

        Raises:
            ConfigurationError: None is named, or it does not exist.
        """
        if self.home is None:
            raise ConfigurationError(f"{what_for} needs Dagster's home: set DAGSTER_HOME, or give --home DIR.")
        if not self.home.is_dir():
            raise ConfigurationError(
                f"There is no directory {self.home}, which --home or DAGSTER_HOME names as Dagster's home: check the path."
            )
        return self.home

    def key_file(self) -> Path:
        """Where the embedded default keeps the signing key."""
        return self.require_home("The default signing key") / "mlsec" / "keys" / "mlsec.pem"

    def store_url(self) -> str:
        """The URL of the ledger."""
        return self.store or f"sqlite:///{self.require_home('The default ledger') / 'mlsec' / 'ledger.db'}"

    def trail(self, uri: str | None) -> "Trail":
        """The audit trail at `uri`, by default the one in the home directory.

        Raises:
            ConfigurationError: Neither is named.
        """
        from mlsec_dagster.audit.trail import Trail, default_uri

        return Trail(uri or default_uri(self.require_home("The default audit trail") / "mlsec"), trail_storage_options())

    def trust(self) -> tuple["Trust", str]:
        """What is trusted, and where that comes from as people read it. Never a key out of the store.

        Raises:
            ConfigurationError: A pinned fingerprint is none.
            SigningKeyError: Nothing is pinned, and there is no key file either.
        """
        from mlsec_dagster.integrity.keys import load_key_file
        from mlsec_dagster.integrity.trust import Trust

        if self.pinned:
            return Trust(self.pinned), f"pinned {', '.join(self.pinned)}"
        file = self.key_file() if self.home else None
        if file is None or not file.exists():
            raise SigningKeyError(
                "No key fingerprint is pinned, and there is no key file on this machine to take one from"
                + (f" ({file})" if file else "")
                + ": give --key FINGERPRINT or set MLSEC_TRUSTED_KEYS to the fingerprint that `mlsec keys new` printed."
            )
        return Trust({load_key_file(file).fingerprint}), KEY_FILE_TRUST

    def open_reading(self) -> tuple["Ledger", str]:
        """The ledger without a private key, and where trust in it comes from."""
        from mlsec_dagster.integrity.ledger import open_ledger
        from mlsec_dagster.integrity.witness import Witness

        url = self.store_url()
        trust, source = self.trust()
        return open_ledger(url, signer=None, trust=trust, witness=Witness(self.witness) if self.witness else None), source

    def open_writing(self, ring: "KeyRing") -> "Ledger":
        """The ledger, to append to with `ring`; trusted are the pinned keys, else those of `ring`."""
        from mlsec_dagster.integrity.ledger import open_ledger
        from mlsec_dagster.integrity.trust import Trust
        from mlsec_dagster.integrity.witness import Witness

        trust = Trust(self.pinned or tuple(ring.publics))
        return open_ledger(self.store_url(), signer=ring, trust=trust, witness=Witness(self.witness) if self.witness else None)

    def ring(self, signer: str | None, public_key: str | None) -> "KeyRing":
        """The keys that sign: those of a URI, else the key file.

        Raises:
            SigningKeyError: Missing, readable by others, or wrong.
        """
        from mlsec_dagster.integrity.keys import KeyRing

        if signer is None:
            return KeyRing.from_file(self.key_file())
        try:
            pem = Path(public_key).read_bytes() if public_key else None
        except OSError as error:
            raise ConfigurationError(f"The public key {public_key} cannot be read: {error.strerror}.") from error
        return KeyRing.from_uri(signer, public_key=pem)

    @contextmanager
    def dagster_instance(self) -> Iterator["DagsterInstance"]:
        """The Dagster instance of the home directory.

        Raises:
            StoreError: It cannot be opened.
        """
        home = str(self.require_home("Dagster's event log").resolve())
        before, logger = os.environ.get("DAGSTER_HOME"), logging.getLogger("dagster")
        level = logger.level
        os.environ["DAGSTER_HOME"] = home
        logger.setLevel(logging.ERROR)  # A home without dagster.yaml is a usual one, and no news here.
        try:
            import dagster as dg

            try:
                instance = dg.DagsterInstance.get()
            except Exception as error:  # Dagster's own, those of its storage, those of its configuration.
                reason = str(error).strip().partition("\n")[0]
                raise StoreError(f"The Dagster instance in {home} cannot be opened ({type(error).__name__}: {reason}).") from error
            with instance:
                yield instance
        finally:
            logger.setLevel(level)
            if before is None:
                del os.environ["DAGSTER_HOME"]
            else:
                os.environ["DAGSTER_HOME"] = before


def who() -> str:
    """Who is at the keyboard, as the ledger keeps it."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def nearest(name: str, known: list[str]) -> str:
    """A hint that names the nearest of the known names, or says that there are none."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.0)
    return f"Did you mean {near[0]!r}?" if near else "There are none yet."
