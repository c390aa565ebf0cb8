"""Datasets of a pipeline that has no guard at all, verified from the security team's own code location."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mlsec_dagster as mlsec
from mlsec_dagster import definitions
from mlsec_dagster.asset_checks import at_rest
from mlsec_dagster.errors import ConfigurationError

WEEKS = [f"week-{number}" for number in range(6)]


class Pipeline:
    """The other code location: it writes files for itself and reports their paths."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        folder.mkdir()

        @dg.asset
        def rates() -> dg.MaterializeResult:
            return self._write("rates")

        @dg.asset(partitions_def=dg.StaticPartitionsDefinition(WEEKS))
        def flights(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return self._write(context.partition_key)

        self.folder, self.assets = folder, {"rates": rates, "flights": flights}

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def _write(self, name: str) -> dg.MaterializeResult:
        self.file(name).write_text("flight,late\n" + "".join(f"{number},{number % 2}\n" for number in range(100)))
        return dg.MaterializeResult(metadata={"path": str(self.file(name))})

    def run(self, asset: str, *partitions: str) -> None:
        for partition in partitions or (None,):
            assert dg.materialize([self.assets[asset]], instance=self.instance, partition_key=partition).success

    def tamper(self, name: str, row: int = 7) -> None:
        lines = self.file(name).read_text().splitlines(keepends=True)
        lines[row + 1] = f"{row},0\n" if lines[row + 1].endswith(",1\n") else f"{row},1\n"
        self.file(name).write_text("".join(lines))


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    """An event log in memory: these tests make many runs, and it is the ledger that has to be on disk."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def pipeline(tmp_path: Path, instance: dg.DagsterInstance) -> Pipeline:
    return Pipeline(tmp_path / "data", instance)


Check = Callable[..., dg.AssetCheckEvaluation]


@pytest.fixture
def check(instance: dg.DagsterInstance, dagster_home: Path) -> Check:
    def run(dataset: str | mlsec.Dataset) -> dg.AssetCheckEvaluation:
        """A run of the security location alone: it has none of the pipeline's assets."""
        defs = mlsec.build_security_definitions(datasets=[dataset])
        assert not [asset for asset in defs.assets or [] if not isinstance(asset, dg.AssetChecksDefinition)]
        result = defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance)
        (evaluation,) = result.get_asset_check_evaluations()
        assert result.success
        return evaluation

    return run


def table(evaluation: dg.AssetCheckEvaluation) -> dict[str, str]:
    value = evaluation.metadata["partitions"]
    assert isinstance(value, dg.TableMetadataValue)
    return {str(record.data["partition"]): str(record.data["verdict"]) for record in value.records}


def test_a_file_changed_after_its_run_is_found_though_the_pipeline_has_no_guard(pipeline: Pipeline, check: Check) -> None:
    pipeline.run("rates")
    adopted = check("rates")
    assert (adopted.passed, adopted.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "was there before it was guarded" in str(adopted.description)
    assert check("rates").passed

    pipeline.tamper("rates", row=7)
    found = check("rates")
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "Storage changed while Dagster did not write it" in str(found.description)
    assert "'late'" in str(found.description)

    # It stays found, until Dagster writes the dataset anew.
    assert not check("rates").passed
    pipeline.run("rates")
    assert check("rates").passed


def test_an_evaluation_is_bound_to_the_materialization_that_was_verified(pipeline: Pipeline, check: Check) -> None:
    pipeline.run("rates")
    check("rates")
    pipeline.run("rates")
    target = check("rates").target_materialization_data
    (record,) = pipeline.instance.fetch_materializations(dg.AssetKey("rates"), limit=1).records
    assert target is not None
    assert (target.storage_id, target.run_id) == (record.storage_id, record.run_id)


def test_one_evaluation_speaks_for_all_partitions_with_the_verdict_of_the_worst(pipeline: Pipeline, check: Check) -> None:
    pipeline.run("flights", "week-0")
    check("flights")
    pipeline.run("flights", "week-1", "week-2")
    evaluation = check("flights")
    assert evaluation.passed
    assert "All 3 materialized partitions" in str(evaluation.description)
    assert "2 were seen for the first time" in str(evaluation.description)

    # Where all are as good as each other, it is bound to the newest: Dagster asks whether that one was checked.
    written = pipeline.instance.get_latest_storage_id_by_partition(dg.AssetKey("flights"), dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert evaluation.target_materialization_data is not None
    assert evaluation.target_materialization_data.storage_id == written["week-2"]

    pipeline.tamper("week-1")
    evaluation = check("flights")
    assert not evaluation.passed
    assert "1 of 3 partitions" in str(evaluation.description)
    assert "week-1" in str(evaluation.description)
    assert table(evaluation) == {"week-1": "altered", "week-0": "passed", "week-2": "passed"}
    assert evaluation.target_materialization_data is not None
    assert evaluation.target_materialization_data.storage_id == written["week-1"]


def test_a_partition_that_vanished_is_found(pipeline: Pipeline, check: Check) -> None:
    pipeline.run("flights", "week-0", "week-1")
    check("flights")
    pipeline.file("week-0").unlink()
    assert table(check("flights")) == {"week-0": "missing", "week-1": "passed"}


def test_work_is_bounded_and_what_is_left_is_said_and_done_by_the_next_runs(
    pipeline: Pipeline, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_rest, "PARTITIONS_PER_RUN", 2)
    pipeline.run("flights", "week-0")
    check("flights")
    check("flights")
    pipeline.run("flights", *WEEKS[1:])
    for left in (3, 1):
        evaluation = check("flights")
        assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert f"{left} partitions are still to be verified" in str(evaluation.description)
        assert len(table(evaluation)) == 2
    assert check("flights").passed


def test_a_failure_is_not_forgotten_by_a_run_that_does_not_reach_it(
    pipeline: Pipeline, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.run("flights", "week-0")
    check("flights")
    check("flights")
    pipeline.tamper("week-0")
    assert not check("flights").passed
    monkeypatch.setattr(at_rest, "PARTITIONS_PER_RUN", 1)
    pipeline.run("flights", "week-1")
    evaluation = check("flights")
    assert table(evaluation) == {"week-1": "passed"}
    assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "flights\\[week-0\\] failed when it was last read" in str(evaluation.description)


@given(
    st.dictionaries(st.sampled_from(WEEKS), st.sampled_from(["unseen", "passed", "failed", "stale"]), min_size=1),
    st.integers(1, 8),
)
def test_every_partition_is_looked_at_or_counted_as_left(states: dict[str, str], limit: int) -> None:
    from types import SimpleNamespace as Stub

    def entry(state: str, storage_id: int) -> Stub:
        about = {"storage_id": storage_id - (state == "stale"), "verdict": "failed" if state == "failed" else "passed"}
        return Stub(statement=Stub(predicate_type=at_rest.SEAL, predicate=about), recorded_at=float(storage_id))

    latest = {week: 10 * number for number, week in enumerate(states)}
    entries = {week: entry(state, latest[week]) for week, state in states.items() if state != "unseen"}
    plan = at_rest._plan(latest, entries, limit)
    looked_at = set(plan.look_at)
    assert len(plan.look_at) == min(limit, len(states))
    assert set(plan.unseen) == {week for week, state in states.items() if state in ("unseen", "stale")} - looked_at
    assert set(plan.failed) == {week for week, state in states.items() if state == "failed"} - looked_at


def test_a_key_that_no_location_materializes_fails_and_names_the_nearest(pipeline: Pipeline, check: Check) -> None:
    pipeline.run("rates")
    evaluation = check("rate")
    assert not evaluation.passed
    assert "No asset 'rate' has ever been materialized" in str(evaluation.description)
    assert "nearest asset that Dagster knows is 'rates'" in str(evaluation.description)


def test_append_only_holds_against_the_pipeline_itself(pipeline: Pipeline, check: Check) -> None:
    pipeline.run("rates")
    dataset = mlsec.Dataset(key="rates", policy="append_only")
    check(dataset)
    assert check(dataset).passed

    # Whoever owns the pipeline rewrites an old row and lets Dagster materialize it: nothing in its own location would object.
    @dg.asset(name="rates")
    def rewritten() -> dg.MaterializeResult:
        pipeline.tamper("rates")
        return dg.MaterializeResult(metadata={"path": str(pipeline.file("rates"))})

    dg.materialize([rewritten], instance=pipeline.instance)
    evaluation = check(dataset)
    assert not evaluation.passed
    assert "append-only, but earlier rows changed" in str(evaluation.description)


def test_a_resolver_of_the_security_team_counts_more_than_what_the_pipeline_reports(
    pipeline: Pipeline, instance: dg.DagsterInstance, dagster_home: Path
) -> None:
    defs = mlsec.build_security_definitions(
        datasets=["rates"], resolver=lambda key, _: pipeline.folder / "consumed" / f"{key.to_user_string()}.csv"
    )
    job = defs.resolve_implicit_global_asset_job_def()
    pipeline.run("rates")
    (pipeline.folder / "consumed").mkdir()
    consumed = pipeline.folder / "consumed" / "rates.csv"
    consumed.write_text("flight,late\n1,0\n")
    job.execute_in_process(instance=instance)
    assert job.execute_in_process(instance=instance).get_asset_check_evaluations()[0].passed
    consumed.write_text("flight,late\n1,1\n")
    assert not job.execute_in_process(instance=instance).get_asset_check_evaluations()[0].passed


def test_its_ledger_and_key_are_not_the_pipelines(pipeline: Pipeline, check: Check, dagster_home: Path) -> None:
    pipeline.run("rates")
    check("rates")
    own = dagster_home / "mlsec-security"
    assert (own / "ledger.db").exists()
    assert (own / "keys" / "mlsec.pem").stat().st_mode & 0o077 == 0
    assert not (dagster_home / "mlsec").exists()


def test_checks_of_both_locations_stand_side_by_side(pipeline: Pipeline, check: Check, instance: dg.DagsterInstance) -> None:
    (own,) = mlsec.build_dataset_hash_checks(assets=[pipeline.assets["rates"]])
    (at_rest_spec,) = mlsec.build_security_definitions(datasets=["rates"]).asset_checks[0].check_specs  # type: ignore[index, union-attr]
    assert {spec.name for spec in own.check_specs} == {"dataset_hash"}
    assert at_rest_spec.name == "dataset_hash_at_rest"
    assert not at_rest_spec.blocking


def test_the_sensor_asks_at_once_then_after_each_materialization_then_on_its_clock(pipeline: Pipeline, dagster_home: Path) -> None:
    security = mlsec.build_security_definitions(datasets=["rates", "flights"], at_rest_cron="0 * * * *")
    defs = dg.Definitions.merge(security, dg.Definitions(assets=list(pipeline.assets.values())))
    now = datetime(2026, 1, 5, 12, 30, tzinfo=UTC)
    cursor = None

    def requested(at: datetime) -> set[str]:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(defs=defs, instance=pipeline.instance, evaluation_time=at, cursor=cursor)
        cursor = result.cursor
        return {each.key.asset_key.to_user_string() for each in result.results if each.true_subset.size}

    assert requested(now) == {"rates", "flights"}
    assert requested(now + timedelta(seconds=30)) == set()
    pipeline.run("rates")
    assert requested(now + timedelta(seconds=60)) == {"rates"}
    pipeline.run("flights", "week-3")
    assert requested(now + timedelta(seconds=90)) == {"flights"}
    assert requested(now + timedelta(seconds=120)) == set()
    assert requested(now + timedelta(minutes=31)) == {"rates", "flights"}


def test_downstream_that_waits_for_the_check_does_not_run_on_what_failed_it(pipeline: Pipeline, dagster_home: Path) -> None:
    """The condition that `docs/security-location.md` gives: the one way in which a check of another location can hold a run back."""
    verified = dg.AutomationCondition.all_deps_match(dg.AutomationCondition.all_checks_match(dg.AutomationCondition.check_passed()))

    # Not `eager()`, which waits until every partition there can ever be was materialized.
    updated = dg.AutomationCondition.any_deps_updated().since_last_handled()

    @dg.asset(deps=["flights"], automation_condition=updated & verified)
    def model() -> None: ...

    security = mlsec.build_security_definitions(datasets=["flights"])
    check = security.resolve_implicit_global_asset_job_def()
    defs = dg.Definitions.merge(security, dg.Definitions(assets=[pipeline.assets["flights"], model]))
    cursor = None

    def model_requested() -> bool:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(defs=defs, instance=pipeline.instance, cursor=cursor)
        cursor = result.cursor
        return any(each.key == dg.AssetKey("model") and each.true_subset.size for each in result.results)

    pipeline.run("flights", "week-0")
    check.execute_in_process(instance=pipeline.instance)
    assert not model_requested()

    pipeline.run("flights", "week-1")
    assert not model_requested()
    check.execute_in_process(instance=pipeline.instance)
    assert model_requested()

    pipeline.run("flights", "week-2")
    pipeline.file("week-2").unlink()
    check.execute_in_process(instance=pipeline.instance)
    assert not model_requested()


def test_the_sensor_runs_by_default_as_often_as_it_says(dagster_home: Path) -> None:
    (sensor,) = mlsec.build_security_definitions(datasets=["rates"], minimum_interval_seconds=45).sensors or []
    assert isinstance(sensor, dg.AutomationConditionSensorDefinition)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 45


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"datasets": []}, "no datasets"),
        ({"datasets": ["rates", "rates"]}, "given twice"),
        ({"datasets": ["rates"], "policy": "sealed"}, "tracked, append_only, immutable"),
    ],
)
def test_what_cannot_be_right_is_refused_when_it_loads(arguments: dict[str, object], complaint: str, dagster_home: Path) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        mlsec.build_security_definitions(**arguments)  # type: ignore[arg-type]


def test_without_a_place_of_its_own_it_does_not_load() -> None:
    assert "DAGSTER_HOME" not in os.environ
    with pytest.raises(ConfigurationError, match="no place for a ledger"):
        mlsec.build_security_definitions(datasets=["rates"])


def test_the_environment_configures_the_location(dagster_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="MLSEC_SECURITY_DATASETS"):
        definitions.defs()
    monkeypatch.setenv("MLSEC_SECURITY_DATASETS", "rates, reports/total")
    specs = [spec for check in definitions.defs().asset_checks or [] for spec in check.check_specs]
    assert [spec.asset_key for spec in specs] == [dg.AssetKey("rates"), dg.AssetKey(["reports", "total"])]

    monkeypatch.setenv("MLSEC_SECURITY_STORE_URL", "sqlite:////srv/security.db")
    monkeypatch.setenv("MLSEC_SECURITY_WITNESS", str(tmp_path / "witness"))
    monkeypatch.setenv("MLSEC_SECURITY_TRUSTED_KEYS", "SHA256:ab,SHA256:cd")
    store = definitions._from_environment(os.environ)["store"]
    assert (store.url, store.witness, store.trusted_keys) == (
        "sqlite:////srv/security.db",
        str(tmp_path / "witness"),
        ["SHA256:ab", "SHA256:cd"],
    )
