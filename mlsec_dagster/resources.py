"""Where seals are kept and what signs them, as Dagster resources.

mlsec.guard(defs, datasets=["raw_flights"])                                     # SQLite and a key file under $DAGSTER_HOME/mlsec/
mlsec.guard(
defs,
datasets=["raw_flights"],
store=mlsec.SecurityStore(url=dg.EnvVar("MLSEC_STORE_URL"), witness="s3://audit-bucket/checkpoints"),
signer=mlsec.Signer(uri="gcpkms:projects/…"),
)
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from mlsec_dagster.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from mlsec_dagster.audit.pseudonyms import Pseudonyms
    from mlsec_dagster.audit.trail import Trail
    from mlsec_dagster.integrity.keys import SigningKey
    from mlsec_dagster.integrity.ledger import Ledger

LOCAL_EXECUTORS = frozenset({"in_process", "multiprocess", "multi_or_in_process_executor", "execute_in_process_executor"})


class SecurityStore(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]
    """The database that holds the ledger, and the witness that makes a rollback of it visible."""

    url: str | None = Field(
        default=None,
        description="SQLAlchemy URL of the ledger's database. Default: an SQLite file, $DAGSTER_HOME/mlsec/ledger.db.",
    )
    witness: str | None = Field(
        default=None,
        description="URI (a directory, or any fsspec URI such as s3://bucket/prefix) outside the database owner's reach, to which"
        " checkpoints also go. Without one a rollback of the whole ledger cannot be excluded, and every verification says so.",
    )
    witness_every_minutes: float = Field(
        default=10.0, description="A checkpoint goes to the witness at most this often, and after every run."
    )
    trusted_keys: list[str] = Field(
        default_factory=list,
        description="Fingerprints (SHA256:…) of the keys from which trust starts. Default: the signer's own key, which protects against"
        " whoever can write to storage or the database, not against whoever can read the key file.",
    )


class Signer(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]
    """The key that seals statements and signs checkpoints."""

    uri: str | None = Field(
        default=None,
        description="securesystemslib signer URI (a key file, a cloud KMS, an HSM). Default: an Ed25519 key file that is created with mode"
        " 0600 at $DAGSTER_HOME/mlsec/keys/mlsec.pem.",
    )
    public_key: str | None = Field(default=None, description="Path of the public key (PEM). Needed for every uri but a key file's.")
    checkpoints_uri: str | None = Field(default=None, description="A key of its own for checkpoints. Default: the same key.")
    checkpoints_public_key: str | None = Field(default=None, description="Path of that key's public half (PEM).")


class AuditTrail(dg.ConfigurableResource):  # pyright: ignore[reportMissingTypeArgument]
    """Where the audit trail lies: a Delta table that sensors write and people query."""

    uri: str | None = Field(
        default=None,
        description="Directory, or s3://, gs:// or abfss:// URI. Default: $DAGSTER_HOME/mlsec/trail.",
    )
    storage_options: dict[str, str] = Field(
        default_factory=dict,
        description="Delta Lake's storage options (region, endpoint, credentials). Default: what the environment has.",
    )
    pseudonym_keys: str | None = Field(
        default=None,
        description="Path of a key file (`mlsec trail pseudonyms new`) by which e-mail addresses, IP addresses and user agents are replaced"
        " before they are stored. Once set it has to stay set. Default: they are stored as the logs tell them.",
    )
    keep_days: dict[str, int] = Field(
        default_factory=dict,
        description="Days that rows are kept, by log (`aws.cloudtrail`), and under `default` for all others. Default: for ever.",
    )


def open_pseudonyms(trail: AuditTrail | None) -> "Pseudonyms | None":
    """What replaces persons in the trail, if its settings ask for it.

    Raises:
        SigningKeyError: The key file is missing, readable by others, or none.
    """
    path = _value(trail.pseudonym_keys) if trail is not None else None
    if path is None:
        return None
    from mlsec_dagster.audit.pseudonym_keys import PseudonymKeys
    from mlsec_dagster.audit.pseudonyms import Pseudonyms

    return Pseudonyms(PseudonymKeys.from_file(path))


def open_trail(instance: dg.DagsterInstance | None, trail: AuditTrail | None = None, store: SecurityStore | None = None) -> "Trail":
    """The trail that these settings name.

    Raises:
        StoreError: It would not outlive the process.
        ConfigurationError: The ledger is in a database elsewhere, and where the trail goes is not said; or it is no absolute path.
    """
    from mlsec_dagster.audit.trail import Trail, default_uri

    trail = trail or AuditTrail()
    uri = _value(trail.uri)
    if uri is None and store is not None and not (_value(store.url) or "sqlite").startswith("sqlite"):
        raise ConfigurationError(
            "The ledger is in a database that several machines share, so the trail cannot be a directory of one of them: name "
            "where it goes, trail=AuditTrail(uri='s3://…')."
        )
    if uri is not None and "://" not in uri and not Path(uri).is_absolute():
        raise ConfigurationError(
            f"The trail's directory {uri!r} would be another one wherever a process is started: give an absolute path, or an s3://, gs:// "
            "or abfss:// URI."
        )
    options = {name: str(_value(value)) for name, value in trail.storage_options.items()}
    return Trail(uri or default_uri(security_home(instance)), options)


def security_home(instance: dg.DagsterInstance | None) -> Path:
    """The directory of the embedded defaults, `$DAGSTER_HOME/mlsec`.

    Raises:
        StoreError: If there is no home that outlives the run.
    """
    home = os.environ.get("DAGSTER_HOME")
    if not home and instance is not None and instance.is_persistent:
        root = instance.root_directory
        home = None if Path(root).name.startswith(".tmp_dagster_home") else root
    if not home:
        raise StoreError(
            "There is no place for the ledger that outlives this run: DAGSTER_HOME is not set, and no store is configured. "
            "Set DAGSTER_HOME to a directory that stays, or pass store=SecurityStore(url=…)."
        )
    return Path(home) / "mlsec"


def open_store(
    instance: dg.DagsterInstance | None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
    *,
    executor: str | None = None,
) -> "Ledger":
    """The ledger that these settings name, opened once per process.

    Args:
        instance: The Dagster instance, which decides where the embedded defaults lie.
        store: Settings of the database and the witness; None for the defaults.
        signer: Settings of the key; None for the defaults.
        executor: Name of the run's executor, to refuse a pod's own disk.

    Raises:
        StoreError: If the store would not outlive the run, cannot be reached, or was written by a newer version.
        SigningKeyError: If the key is missing, readable by others, or wrong.
        LedgerError: If the witness says that the ledger was rolled back or forked.
    """
    store, signer = store or _DEFAULT_STORE, signer or _DEFAULT_SIGNER
    url = _value(store.url)
    if (url is None or url.startswith("sqlite")) and instance is not None:
        _refuse_a_disk_of_its_own(instance, executor)
    home = security_home(instance) if url is None or signer.uri is None else None
    key = (os.getpid(), home, id(store), id(signer))
    if key not in _OPEN:
        # The settings are kept with the ledger, so that their ids stay theirs.
        _OPEN[key] = (_open(home, store, signer), store, signer)
    return _OPEN[key][0]


_DEFAULT_STORE, _DEFAULT_SIGNER = SecurityStore(), Signer()
_OPEN: dict[object, tuple["Ledger", SecurityStore, Signer]] = {}


def _value(setting: str | None) -> str | None:
    """A setting, or the value of the environment variable that it names."""
    return setting.get_value() if isinstance(setting, dg.EnvVar) else setting


def _open(home: Path | None, store: SecurityStore, signer: Signer) -> "Ledger":
    from mlsec_dagster.integrity.keys import KeyRing, load_key_uri
    from mlsec_dagster.integrity.ledger import open_ledger
    from mlsec_dagster.integrity.trust import Trust
    from mlsec_dagster.integrity.witness import Witness

    url, key_uri, checkpoints_uri, witness = _value(store.url), _value(signer.uri), _value(signer.checkpoints_uri), _value(store.witness)
    sealing = (
        load_key_uri(key_uri, public_key=_pem(_value(signer.public_key)))
        if key_uri
        else _default_key(home, begun=url is None and _under(home, "ledger.db").exists())
    )
    checkpoints = load_key_uri(checkpoints_uri, public_key=_pem(_value(signer.checkpoints_public_key))) if checkpoints_uri else None
    ring = KeyRing(sealing, checkpoints=checkpoints)
    if url is None:
        _under(home, "").mkdir(mode=0o700, parents=True, exist_ok=True)
    ledger = open_ledger(
        url or f"sqlite:///{_under(home, 'ledger.db')}",
        signer=ring,
        trust=Trust([str(_value(key)) for key in store.trusted_keys] or list(ring.publics)),
        witness=Witness(witness, interval_minutes=store.witness_every_minutes) if witness else None,
    )
    _refuse_a_ledger_that_the_witness_contradicts(ledger)
    return ledger


def _refuse_a_ledger_that_the_witness_contradicts(ledger: "Ledger") -> None:
    """Ask the witness once per process, before anything is read or written: a ledger that was rolled back vouches for earlier data.

    A witness that cannot be reached stops nothing; each check says that a rollback cannot be excluded then.

    Raises:
        LedgerError: The ledger was rolled back or forked.
    """
    from mlsec_dagster.integrity.witnessing import compare

    if ledger.witness is not None:
        with suppress(StoreError):
            compare(ledger)


def _default_key(home: Path | None, *, begun: bool) -> "SigningKey":
    """The key file of the home, made on first use. A ledger that has begun has its key: a new one in its place would only hide the loss."""
    from mlsec_dagster.integrity.keys import load_key_file, load_or_create_key_file

    path = _under(home, "keys/mlsec.pem")
    return load_key_file(path) if begun else load_or_create_key_file(path)


def _under(home: Path | None, name: str) -> Path:
    if home is None:
        raise StoreError("There is no home for the embedded defaults.")
    return home / name


def _pem(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _refuse_a_disk_of_its_own(instance: dg.DagsterInstance, executor: str | None) -> None:
    """SQLite is a file on the disk of whoever runs the step; where a launcher or executor starts other machines, it is gone with them."""
    launcher = type(instance.run_launcher).__name__
    if launcher not in {"DefaultRunLauncher", "SyncInMemoryRunLauncher"} or (executor is not None and executor not in LOCAL_EXECUTORS):
        raise StoreError(
            f"An SQLite ledger would lie on the disk of the machine that runs one step, and {launcher} with the executor "
            f"{executor or 'of the job'} may start another machine for the next: pass store=SecurityStore(url='postgresql+psycopg://…')."
        )
