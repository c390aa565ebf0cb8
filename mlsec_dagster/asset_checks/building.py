"""What every check of one asset is made of: its definition, and evaluations that are about the very materialization that was looked at.

def evaluate(context):
    yield evaluation(key, NAME, passed=True, sentence="…", …)

check = build_check(key, definition, evaluate, name=NAME, description="…", blocking=True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.integrity.verdicts import Materialization
from mlsec_dagster.presentation import plain

Definition = dg.AssetsDefinition | dg.SourceAsset

Resolver = Callable[[dg.AssetKey, dg.AssetMaterialization | None], Any]
"""Says where an asset lies that wrote for itself: a path, a URI, or a table (an Ibis or DuckDB relation); None for "not here"."""


def facts(key: dg.AssetKey, definition: Definition | None) -> tuple[dg.PartitionsDefinition | None, str | None]:
    """The partitions of an asset and the key of its IO manager, as far as its definition tells."""
    if definition is None:
        return None, None
    if isinstance(definition, dg.SourceAsset):
        return definition.partitions_def, definition.get_io_manager_key()
    # An external asset that names no IO manager is loaded by the default one, so that is where its data lies.
    return definition.get_asset_spec(key).partitions_def, definition.get_io_manager_key_for_asset_key(key)


def is_external(definition: Definition | None) -> bool:
    """Whether nothing here materializes the asset. Asked of its definition: in a job that leaves it out, it looks external."""
    return isinstance(definition, dg.SourceAsset) or (definition is not None and not definition.is_materializable)


def writes_itself(key: dg.AssetKey, definition: Definition | None) -> bool:
    """Whether the asset is materialized here, and its IO manager is never handed what it makes."""
    return isinstance(definition, dg.AssetsDefinition) and not is_external(definition) and _compat.bypasses_io_manager(definition, key)


def partitions_of_check(context: Any, partitions_def: dg.PartitionsDefinition | None) -> list[str | None]:
    """The partitions that a check is to look at."""
    return [str(key) for key in context.op_execution_context.partition_keys] if partitions_def is not None else [None]


Evaluate = Callable[[Any], Iterable[_compat.AssetCheckEvaluation]]
"""Called with the check's execution context; yields an evaluation for each partition. It catches what goes wrong: a check that raises
leaves no evaluation, and a missing one reads like a passed one."""


def build_check(
    key: dg.AssetKey,
    definition: Definition | None,
    evaluate: Evaluate,
    *,
    name: str,
    description: str,
    blocking: bool,
    metadata: Mapping[str, Any] | None = None,
    resolver: Resolver | None = None,
) -> dg.AssetChecksDefinition:
    """One check on one asset that looks at stored bytes, and never has its value loaded through the IO manager.

    Args:
        key: The asset.
        definition: Gives its partitions and IO manager, if it is of this code location.
        evaluate: What the check does.
        name: The check's name.
        description: What it says of itself.
        blocking: Whether a failure blocks downstream assets in the same run.
        metadata: Shown with the check.
        resolver: Where the asset lies, as the check was told; `resolver_of` finds it again.
    """
    partitions_def, io_manager_key = facts(key, definition)
    with _compat.disable_dagster_warnings():
        spec = dg.AssetCheckSpec(
            name, asset=key, blocking=blocking, partitions_def=partitions_def, description=description, metadata=metadata
        )

    def check(context) -> Iterator[Any]:
        yield from evaluate(context)
        # Evaluations alone are no output, and the step would raise without one.
        yield dg.Output(None, output_name=spec.get_python_identifier())

    check.resolver = resolver  # type: ignore[attr-defined]
    return dg.multi_asset_check(
        name=f"{key.to_python_identifier()}_{name}",
        specs=[spec],
        required_resource_keys={io_manager_key} if io_manager_key else set(),
        # An IO manager that is bound on the asset is nowhere else to be had.
        resource_defs=definition.resource_defs if definition is not None and io_manager_key in definition.resource_defs else None,
    )(check)


def resolver_of(check: dg.AssetsDefinition | None) -> Resolver | None:
    """The resolver that a check was built with, for those who look at its asset outside a run."""
    return getattr(_compat.function_of(check), "resolver", None) if check is not None else None


def evaluation(
    key: dg.AssetKey,
    check_name: str,
    *,
    passed: bool,
    sentence: str,
    severity: dg.AssetCheckSeverity,
    blocking: bool,
    partition: str | None,
    materialization: Materialization | None,
    metadata: Mapping[str, Any],
) -> _compat.AssetCheckEvaluation:
    """An evaluation of the very materialization that was looked at; Dagster itself would take whatever is the latest when it is recorded.

    Args:
        key: The asset.
        check_name: The check's name.
        passed: The outcome.
        sentence: The description, which may hold text from data.
        severity: Of a failure.
        blocking: The spec's own value: left out, Dagster lets downstream run.
        partition: The partition, or None.
        materialization: What was looked at; None if there was none.
        metadata: Shown with the evaluation.
    """
    return _compat.AssetCheckEvaluation(
        asset_key=key,
        check_name=check_name,
        passed=passed,
        severity=severity,
        description=plain(sentence, limit=2000),
        metadata=metadata,
        target_materialization_data=_compat.AssetCheckEvaluationTargetMaterializationData(
            storage_id=materialization.storage_id, run_id=materialization.run_id, timestamp=materialization.timestamp
        )
        if materialization
        else None,
        blocking=blocking,
        partition=partition,
    )
