"""The security team's own code location: checks on assets of *other* locations, with a ledger and keys of their own.

    defs = mlsec.build_security_definitions(
        datasets=["raw_flights", mlsec.Dataset(key="reference_rates", policy="immutable")],
        store=mlsec.SecurityStore(url=dg.EnvVar("SECURITY_STORE_URL"), witness="s3://audit-bucket/checkpoints"),
        signer=mlsec.Signer(uri="gcpkms:projects/…"),
    )

Whoever changes the code of the pipeline cannot switch these checks off, nor forge what they sealed. They run after the fact, and cannot
stop a run of the other location. `docs/security-location.md` tells what that protects and what it does not.

The module is a code location itself, configured by the environment: `dagster dev -m mlsec_dagster.definitions`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.at_rest import build_at_rest_check
from mlsec_dagster.asset_checks.dataset_hash import HashCheckSettings, Resolver
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.guarding import Dataset, settings_of
from mlsec_dagster.integrity.keys import load_or_create_key_file
from mlsec_dagster.integrity.verdicts import Policy
from mlsec_dagster.resources import SecurityStore, Signer

SENSOR_NAME = "verify_at_rest"


def build_security_definitions(
    *,
    datasets: Sequence[dg.AssetKey | str | Sequence[str] | Dataset],
    policy: Policy = "tracked",
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    resolver: Resolver | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
    minimum_interval_seconds: int = 30,
    at_rest_cron: str = "0 * * * *",
) -> dg.Definitions:
    """Returns a code location that verifies assets of other code locations with a ledger of its own.

    Each asset gets one `dataset_hash_at_rest` check. It runs when the sensor first sees it, whenever the asset was materialized, and on
    every tick of `at_rest_cron`, when it reads again what it has verified before. It seals what it sees as "first seen at check": a change
    between the writing and this first look cannot be known, every later one is found. What was there before the first run is adopted,
    with a warning. From a materialization to its evaluation it takes at most `minimum_interval_seconds`, plus the time that Dagster needs
    to start a run and the check to read the data; the daemon must be running.

    Args:
        datasets: Keys of assets of other code locations, or a `Dataset` for one with settings of its own. A key that was never
            materialized cannot be told from a typing error when definitions load: its check fails from the first tick on, naming the
            nearest key.
        policy: `tracked`, `append_only` or `immutable`.
        severity: The severity of a failed check. Defaults to ERROR.
        resolver: Says where assets lie. Without it a check reads where the materialization says (`path`, `dagster/uri`), which is the word
            of the code that is not trusted here.
        store: Where this location's ledger is; not the pipeline's. Default: SQLite under `$DAGSTER_HOME/mlsec-security/`.
        signer: What signs; it should be a key that the pipeline's processes cannot read. Default: an Ed25519 key file, made on first load
            under `$DAGSTER_HOME/mlsec-security/keys/`.
        minimum_interval_seconds: How often the sensor looks for materializations.
        at_rest_cron: When everything is verified again, in UTC.

    Raises:
        ConfigurationError: No datasets, an unknown policy, a dataset given twice, or no place for a ledger.
        SigningKeyError: The default key file is readable by others.
    """
    declared = [dataset if isinstance(dataset, Dataset) else Dataset(key=dataset) for dataset in datasets]
    keyed = {key: dataset for dataset in declared for key in _compat.keys_of(dataset.key)}
    if not keyed:
        raise ConfigurationError(
            "build_security_definitions() was given no datasets: name at least one asset, e.g. datasets=['training_set']."
        )
    if len(keyed) < len(declared):
        raise ConfigurationError("A dataset is given twice: name each one once.")
    store, signer = _own_place(store, signer)
    condition = (
        dg.AutomationCondition.initial_evaluation()
        | dg.AutomationCondition.any_deps_updated()
        | dg.AutomationCondition.cron_tick_passed(at_rest_cron)
    ).with_label("first seen, materialized, or due at rest")
    defaults = HashCheckSettings(policy=policy, severity=severity, blocking=False, resolver=resolver, store=store, signer=signer)
    checks = [build_at_rest_check(key, settings_of(dataset, defaults), automation_condition=condition) for key, dataset in keyed.items()]
    sensor = dg.AutomationConditionSensorDefinition(
        SENSOR_NAME,
        target=dg.AssetSelection.checks(*checks),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=minimum_interval_seconds,
        description=(
            f"Verifies datasets of other code locations after the fact: at most {minimum_interval_seconds} s, and the start of a run, "
            f"after they were materialized; and all of them again at {at_rest_cron!r}."
        ),
    )
    return dg.Definitions(asset_checks=checks, sensors=[sensor])


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `build_security_definitions`. The names are none that the pipeline or the command line reads: its ledger is another.

    Raises:
        ConfigurationError: No datasets are named.
    """
    datasets = _listed(environment.get("MLSEC_SECURITY_DATASETS", ""))
    if not datasets:
        raise ConfigurationError(
            "The security code location does not know what to guard: set MLSEC_SECURITY_DATASETS to asset keys separated by commas, or "
            "call mlsec_dagster.build_security_definitions in a module of your own."
        )
    key = environment.get("MLSEC_SECURITY_SIGNER")
    store = SecurityStore(
        url=environment.get("MLSEC_SECURITY_STORE_URL"),
        witness=environment.get("MLSEC_SECURITY_WITNESS"),
        trusted_keys=_listed(environment.get("MLSEC_SECURITY_TRUSTED_KEYS", "")),
    )
    signer = Signer(uri=key, public_key=environment.get("MLSEC_SECURITY_SIGNER_PUBLIC_KEY")) if key else None
    return {"datasets": datasets, "store": store, "signer": signer}


def _own_place(store: SecurityStore | None, signer: Signer | None) -> tuple[SecurityStore, Signer]:
    """These settings, with `$DAGSTER_HOME/mlsec-security/` in place of what they leave open: never the pipeline's own ledger and key."""
    store = store or SecurityStore()
    if store.url is not None and signer is not None and signer.uri is not None:
        return store, signer
    if not os.environ.get("DAGSTER_HOME"):
        raise ConfigurationError(
            "There is no place for a ledger of the security code location's own: set DAGSTER_HOME to a directory that stays, or pass "
            "store=SecurityStore(url=…) and signer=Signer(uri=…)."
        )
    home = Path(os.environ["DAGSTER_HOME"]).expanduser() / "mlsec-security"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if store.url is None:
        store = store.model_copy(update={"url": f"sqlite:///{home / 'ledger.db'}"})
    if signer is None or signer.uri is None:
        key = home / "keys" / "mlsec.pem"
        load_or_create_key_file(key)
        signer = (signer or Signer()).model_copy(update={"uri": f"file2:{key}"})
    return store, signer


def _listed(text: str) -> list[str]:
    return [each for each in re.split(r"[,\s]+", text) if each]


@dg.definitions
def defs() -> dg.Definitions:
    """The code location that the environment describes; see `docs/security-location.md`."""
    return build_security_definitions(**_from_environment(os.environ))
