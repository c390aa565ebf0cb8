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


def facts(key: dg.AssetKey, definition: Definition | None) -> tuple[dg.PartitionsDefinition | None, str | None]:
    """The partitions of an asset and the key of its IO manager, as far as its definition tells."""
    if definition is None:
        return None, None
    if isinstance(definition, dg.SourceAsset):
        return definition.partitions_def, definition.get_io_manager_key()
    spec = definition.get_asset_spec(key)
    if definition.is_executable:
        return spec.partitions_def, definition.get_io_manager_key_for_asset_key(key)
    return spec.partitions_def, spec.metadata.get("dagster/io_manager_key")


def is_external(definition: Definition | None) -> bool:
    """Whether nothing here materializes the asset. Asked of its definition: in a job that leaves it out, it looks external."""
    return isinstance(definition, dg.SourceAsset) or (definition is not None and not definition.is_materializable)


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
    """
    partitions_def, io_manager_key = facts(key, definition)
    with _compat.disable_dagster_warnings():
        spec = dg.AssetCheckSpec(
            name, asset=key, blocking=blocking, partitions_def=partitions_def, description=description, metadata=metadata
        )

    @dg.multi_asset_check(
        name=f"{key.to_python_identifier()}_{name}",
        specs=[spec],
        required_resource_keys={io_manager_key} if io_manager_key else set(),
        # An IO manager that is bound on the asset is nowhere else to be had.
        resource_defs=definition.resource_defs if definition is not None and io_manager_key in definition.resource_defs else None,
    )
    def check(context) -> Iterator[Any]:
        yield from evaluate(context)
        # Evaluations alone are no output, and the step would raise without one.
        yield dg.Output(None, output_name=spec.get_python_identifier())

    return check


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
