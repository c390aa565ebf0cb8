"""The `dataset_hash` check: is what is stored what was sealed, and does it keep to its policy?

    checks = mlsec.build_dataset_hash_checks(assets=[raw_flights], policy="append_only", blocking=True)

The check reads stored bytes only, never the value through an IO manager. Its evaluation is bound to the very materialization that was
verified, and everything it finds, passed or failed, is sealed in the ledger. `docs/verdicts.md` tells the rules; `examination.py` does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.building import build_check, facts, is_external, partitions_of_check
from mlsec_dagster.asset_checks.examination import CHECK_NAME, Examination, HashCheckSettings, pins
from mlsec_dagster.asset_checks.stored import Resolver, StoredAsset
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.integrity.verdicts import Policy
from mlsec_dagster.resources import SecurityStore, Signer

__all__ = ["HashCheckSettings", "Resolver", "build_dataset_hash_check", "build_dataset_hash_checks", "is_external", "validate_settings"]


def build_dataset_hash_checks(
    *,
    assets: Sequence[dg.AssetKey | str | Sequence[str] | dg.AssetsDefinition | dg.SourceAsset],
    policy: Policy = "tracked",
    pinned: str | None = None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    blocking: bool = True,
    resolver: Resolver | None = None,
    store: SecurityStore | None = None,
    signer: Signer | None = None,
) -> Sequence[dg.AssetChecksDefinition]:
    """Returns one `dataset_hash` check for each asset.

    A check passes if the bytes in storage are those that were sealed for the materialization it verifies, and the asset keeps to its
    policy. It fails when they differ, when the policy is broken, when an input of the asset failed its own verification, and when the
    verification could not be done. By itself it protects what comes after it in the same run; `mlsec_dagster.guard` also verifies each
    read.

    Args:
        assets: The assets to check. Give definitions rather than keys where you have them: with a definition the check knows the
            partitions and the IO manager; with a key alone it goes by the location that the asset's materialization reports.
        policy: `tracked` (content may change, but only by a materialization), `append_only` (earlier rows never change, as far as rows
            have an order) or `immutable` (content never changes).
        pinned: For `immutable`: the digest (`sha256:…` or `blake3:…`) that the asset must have, or the path of a SHA256SUMS file.
            Default: the first seal.
        severity: The severity if a check fails. Defaults to ERROR.
        blocking: Whether a failure blocks downstream assets in the same run. Defaults to True.
        resolver: For assets that write for themselves and report neither `path` nor `dagster/uri`: called with the asset key and its
            materialization, returns a path, a URI, or a table (an Ibis or DuckDB relation).
        store: Where the ledger is. Default: SQLite under `$DAGSTER_HOME/mlsec/`.
        signer: What signs. Default: an Ed25519 key file under `$DAGSTER_HOME/mlsec/keys/`.

    Returns:
        Sequence[AssetChecksDefinition]: One definition for each asset: a blocking definition over several assets would block downstream of
        all of them when one fails.

    Raises:
        ConfigurationError: An unknown policy, or a pin that does not go with it.

    Examples:
        .. code-block:: python

            checks = mlsec.build_dataset_hash_checks(assets=[raw_flights], policy="append_only")
    """
    _compat.ensure_no_duplicate_assets(assets)
    settings = HashCheckSettings(
        policy=policy, pinned=pinned, severity=severity, blocking=blocking, resolver=resolver, store=store, signer=signer
    )
    validate_settings(settings)
    checks: list[dg.AssetChecksDefinition] = []
    for asset in assets:
        definition = asset if isinstance(asset, (dg.AssetsDefinition, dg.SourceAsset)) else None
        for key in _compat.keys_of(asset):
            checks.append(build_dataset_hash_check(key, definition, settings))
    return checks


def validate_settings(settings: HashCheckSettings) -> None:
    """Refuse what cannot be right before anything runs.

    Raises:
        ConfigurationError: An unknown policy, or a pin that is none or does not go with the policy.
    """
    if settings.policy not in get_args(Policy):
        raise ConfigurationError(f"There is no policy {settings.policy!r}: choose one of {', '.join(get_args(Policy))}.")
    if settings.pinned and settings.policy != "immutable":
        raise ConfigurationError(f"A pinned digest goes with policy='immutable', not with {settings.policy!r}: change one of the two.")
    if settings.pinned:
        pins(settings.pinned)


def build_dataset_hash_check(
    key: dg.AssetKey, definition: dg.AssetsDefinition | dg.SourceAsset | None, settings: HashCheckSettings
) -> dg.AssetChecksDefinition:
    """One check on one asset; `definition` gives its partitions and IO manager, if it is of this code location."""
    partitions_def, _ = facts(key, definition)

    def evaluate(context: Any) -> Iterator[Any]:
        asset = StoredAsset.of_check(
            context,
            key,
            definition,
            check_name=CHECK_NAME,
            resolver=settings.resolver,
            store=settings.store,
            signer=settings.signer,
        )
        examination = Examination(asset, settings)
        try:
            partitions = partitions_of_check(context, partitions_def)
        except Exception as error:
            found = {None: (None, examination.stopped(None, error))}
        else:
            found = {partition: examination.examine(partition) for partition in partitions}
        examination.witness()
        for partition, (materialization, finding) in found.items():
            yield examination.evaluation(partition, materialization, finding)

    return build_check(
        key,
        definition,
        evaluate,
        name=CHECK_NAME,
        description=(
            f"Stored bytes are those that were sealed when they were written (policy: {settings.policy}); "
            "a failure names the files, columns and rows that differ."
        ),
        blocking=settings.blocking,
        metadata={
            "mlsec/policy": settings.policy,
            **{f"mlsec/{role}": list(names) for role, names in (settings.columns or {}).items() if names},
        },
        resolver=settings.resolver,
    )
