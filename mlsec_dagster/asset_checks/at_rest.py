"""The `dataset_hash_at_rest` check: an asset of another code location, verified after the fact and again while it lies in storage.

It knows the other location by Dagster's event log alone: which partitions were materialized, and where each materialization says that its
data lies. One unpartitioned evaluation speaks for all partitions, and its verdict is that of the worst.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import dagster as dg

from mlsec_dagster import _compat
from mlsec_dagster.asset_checks.examination import Examination, Finding, HashCheckSettings
from mlsec_dagster.asset_checks.stored import StoredAsset
from mlsec_dagster.integrity.statements import ADOPTION, SEAL
from mlsec_dagster.integrity.verdicts import Materialization, Verdict, visible
from mlsec_dagster.presentation import MAX_ROWS, plain
from mlsec_dagster.sealing import subject_name

if TYPE_CHECKING:
    from mlsec_dagster.integrity.entries import Entry

CHECK_NAME = "dataset_hash_at_rest"
"""Not `dataset_hash`: two code locations whose checks share asset and name would overwrite each other's evaluations."""

PARTITIONS_PER_RUN = 500


def build_at_rest_check(
    key: dg.AssetKey, settings: HashCheckSettings, *, automation_condition: dg.AutomationCondition[Any]
) -> dg.AssetChecksDefinition:
    """One check on an asset that some other code location materializes."""
    spec = dg.AssetCheckSpec(
        CHECK_NAME,
        asset=key,
        automation_condition=automation_condition,
        description=(
            f"Verified from another code location, after the fact: what is stored is what that location's own ledger holds (policy: "
            f"{settings.policy}). Speaks for every materialized partition."
        ),
        metadata={"mlsec/policy": settings.policy},
    )

    @dg.multi_asset_check(name=f"{key.to_python_identifier()}_{CHECK_NAME}", specs=[spec])
    def dataset_hash_at_rest(context) -> Iterator[Any]:
        step_context = context.op_execution_context.get_step_execution_context()
        asset = StoredAsset(
            key,
            step_context,
            check_name=CHECK_NAME,
            resolver=settings.resolver,
            store=settings.store,
            signer=settings.signer,
        )
        yield _evaluate(Examination(asset, settings))
        yield dg.Output(None, output_name=spec.get_python_identifier())

    return dataset_hash_at_rest


@dataclass(frozen=True, slots=True)
class _Plan:
    """What one run looks at, and what it leaves for the next.

    Attributes:
        look_at: Partitions to verify now; those never verified first, the newest of them first, then those that failed, then the ones whose
            verification lies back longest.
        unseen: Partitions with a materialization that nobody has verified yet and that this run does not reach.
        failed: Partitions that failed, were not materialized since, and that this run does not reach.
        total: Partitions materialized so far.
    """

    look_at: Sequence[str | None]
    unseen: Sequence[str | None]
    failed: Sequence[str | None]
    total: int


def _plan(latest: Mapping[str | None, int], entries: Mapping[str | None, Entry], limit: int) -> _Plan:
    """Decide what to look at.

    Args:
        latest: Partition -> storage id of its latest materialization.
        entries: Partition -> the newest SEAL or ADOPTION about it.
        limit: How many partitions one run verifies at most.
    """
    unseen, failed, passed = [], [], []
    for partition, storage_id in sorted(latest.items(), key=lambda item: -item[1]):
        entry = entries.get(partition)
        if entry is None or entry.statement.predicate_type != SEAL or entry.statement.predicate.get("storage_id") != storage_id:
            unseen.append(partition)
        elif entry.statement.predicate.get("verdict") == "passed":
            passed.append(partition)
        else:
            failed.append(partition)
    passed.sort(key=lambda partition: entries[partition].recorded_at)
    look_at = [*unseen, *failed, *passed][:limit]
    left = max(0, limit - len(unseen))
    return _Plan(look_at, unseen[limit:], failed[left:], len(latest))


def _evaluate(examination: Examination) -> _compat.AssetCheckEvaluation:
    """Verify what is due. Never raises: what could not be done is a failed evaluation that says so."""
    try:
        latest = _latest(examination)
        if not latest:
            return examination.evaluation(None, None, Finding(Verdict(False, _unknown(examination), "unverifiable")))
        entries = examination.seals().ledger.latest_by_partition(examination.asset, list(latest), (SEAL, ADOPTION))
        plan = _plan(latest, entries, PARTITIONS_PER_RUN)
    except Exception as error:
        return examination.evaluation(None, None, examination.stopped(None, error))
    looked_at = {partition: examination.examine(partition) for partition in plan.look_at}
    examination.witness()
    if list(latest) == [None]:
        return examination.evaluation(None, *looked_at[None])
    return _together(examination, plan, looked_at)


def _latest(examination: Examination) -> Mapping[str | None, int]:
    partitions = _compat.materialized_partitions(examination.instance, examination.key)
    if partitions:
        return dict(partitions.items())
    records = examination.instance.fetch_materializations(examination.key, limit=1).records
    return {None: records[0].storage_id} if records else {}


def _unknown(examination: Examination) -> str:
    """A key of another code location that was never materialized cannot be told from a typing error; the sentence says both."""
    names = [key.to_user_string() for key in examination.instance.get_asset_keys() if key != examination.key]
    near = get_close_matches(examination.asset, names, n=1, cutoff=0.0)
    hint = f" The nearest asset that Dagster knows is {near[0]!r}." if near else ""
    return (
        f"No asset {examination.asset!r} has ever been materialized, so there is nothing to verify: if its name is mistyped in the "
        f"datasets of this code location, nothing guards the asset that was meant; correct it.{hint} If it is new, materialize it."
    )


_CAUSES = ("ok", "adopted", "unverifiable", "input", "policy", "unsealed", "missing", "altered")
"""From good to bad."""


def _together(
    examination: Examination, plan: _Plan, looked_at: Mapping[str | None, tuple[Materialization | None, Finding]]
) -> _compat.AssetCheckEvaluation:
    """One evaluation for all partitions, bound to the materialization of the worst; where all are as good, to the newest."""

    def badness(item: tuple[str | None, tuple[Materialization | None, Finding]]) -> tuple[int, int]:
        materialization, finding = item[1]
        return _CAUSES.index(finding.verdict.cause), materialization.storage_id if materialization else 0

    ranked = sorted(looked_at.items(), key=badness, reverse=True)
    _, (materialization, worst) = ranked[0]
    bad = [partition for partition, (_, finding) in ranked if not finding.verdict.passed]
    sentences: list[str] = []
    if bad or plan.failed:
        sentences.append(f"{len(bad) + len(plan.failed)} of {plan.total} partitions of {examination.asset} did not pass.")
        sentences += [worst.verdict.sentence] if bad else [_not_again(examination, plan.failed)]
    if plan.unseen:
        sentences.append(
            f"{len(plan.unseen)} partitions are still to be verified for the first time: one run verifies {PARTITIONS_PER_RUN}, "
            f"and the next continues."
        )
    if not sentences:
        sentences.append(
            f"All {plan.total} materialized partitions of {examination.asset} are what was sealed; {len(ranked)} were read just now."
        )
    new = sum(finding.verdict.passed and finding.first_seen == "check" and finding.reference is None for _, (_, finding) in ranked)
    if new:
        sentences.append(f"{new} were seen for the first time; whether they changed between their writing and this look cannot be known.")
    passed = not (bad or plan.failed or plan.unseen)
    verdict = replace(worst.verdict, passed=passed, sentence=" ".join(sentences))
    evaluation = examination.evaluation(None, materialization, replace(worst, verdict=verdict))
    only_waiting = not plan.failed and all(looked_at[partition][1].verdict.cause == "adopted" for partition in bad)
    return _compat.AssetCheckEvaluation(
        asset_key=evaluation.asset_key,
        check_name=evaluation.check_name,
        passed=evaluation.passed,
        severity=dg.AssetCheckSeverity.WARN if only_waiting and not passed else examination.settings.severity,
        description=evaluation.description,
        metadata={**evaluation.metadata, "partitions": _table(ranked, plan.total)},
        target_materialization_data=evaluation.target_materialization_data,
        blocking=evaluation.blocking,
    )


def _not_again(examination: Examination, failed: Sequence[str | None]) -> str:
    return f"{subject_name(examination.asset, failed[0])} failed when it was last read, and was not materialized since."


def _table(ranked: Sequence[tuple[str | None, tuple[Materialization | None, Finding]]], total: int) -> dg.TableMetadataValue:
    records = [
        dg.TableRecord(
            {
                "partition": visible(str(partition))[:200],
                "verdict": "passed" if finding.verdict.passed else finding.verdict.cause,
                "what happened": plain(finding.verdict.sentence, limit=400),
                "materialized by": materialization.run_id if materialization else "",
                "ledger entry": "" if finding.entry is None else str(finding.entry),
            }
        )
        for partition, (materialization, finding) in ranked[:MAX_ROWS]
    ]
    columns = [
        dg.TableColumn("partition", "string", description=f"the worst first; {len(ranked)} of {total} were read in this run"),
        *(dg.TableColumn(name, "string") for name in ("verdict", "what happened", "materialized by", "ledger entry")),
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns=columns))
