"""What guard promises: sealed at write, checked, verified at read, and the project left alone otherwise."""

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.integrity.files import hash_path
from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.statements import SEAL, WRITE
from mlsec_dagster.integrity.tables import table_grid
from mlsec_dagster.resources import open_store
from mlsec_dagster.sealing import Seals, statement
from tests.guard.projects import RAN, Project, flights, parquet_project

DAYS = ["2013-01-01", "2013-01-02", "2013-01-03"]


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    yield
    RAN.clear()


def test_a_clean_run_passes_and_seals_every_guarded_asset(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    result = project.run()
    assert result.success
    evaluations = result.get_asset_check_evaluations()
    assert {(e.asset_key.to_user_string(), e.passed) for e in evaluations} == {("raw", True), ("features", True)}
    assert all(e.blocking for e in evaluations)
    assert {entry.statement.asset for entry in project.entries()} >= {"raw", "features"}


def test_each_evaluation_is_bound_to_the_materialization_it_verified(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    result = project.run()
    for evaluation in result.get_asset_check_evaluations():
        latest = instance.get_latest_materialization_event(evaluation.asset_key)
        assert evaluation.target_materialization_data is not None
        assert latest is not None
        assert evaluation.target_materialization_data.run_id == latest.run_id


def test_an_altered_file_is_not_loaded_by_a_job_that_selects_only_the_consumer(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert project.run().success
    RAN.clear()
    frame = pd.read_parquet(tmp_path / "raw.parquet")
    frame.loc[3, "delayed"] = not frame.loc[3, "delayed"]
    frame.to_parquet(tmp_path / "raw.parquet")

    result = project.run("features")

    assert not result.success
    assert RAN == []
    message = result.failure_message("features")
    assert "raw is not what run" in message
    assert "delayed" in message


def test_bytes_altered_between_write_and_check_keep_downstream_from_running(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    def attack(asset: str) -> None:
        if asset == "raw":
            frame = pd.read_parquet(tmp_path / "raw.parquet")
            frame.loc[0, "distance"] += 1
            frame.to_parquet(tmp_path / "raw.parquet")

    project = parquet_project(tmp_path, instance, after_write=attack)
    result = project.run()

    assert not result.success
    assert "features" not in RAN
    (evaluation,) = [e for e in result.get_asset_check_evaluations() if e.asset_key == dg.AssetKey("raw")]
    assert not evaluation.passed
    assert "distance" in str(evaluation.description)
    changes = evaluation.metadata["changes"].value
    assert any(record.data["name"] == "distance" for record in changes.records)


def test_a_pickle_that_was_replaced_is_not_unpickled(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    @dg.asset
    def model() -> dict[str, int]:
        return {"weights": 1}

    @dg.asset
    def scores(model: dict[str, int]) -> int:
        RAN.append("scores")
        return model["weights"]

    project = Project(dg.Definitions(assets=[model, scores]), instance, ["model"])
    assert project.run().success
    RAN.clear()
    path = Path(instance.storage_directory()) / "model"
    path.write_bytes(pickle.dumps(Bomb()))

    result = project.run("scores")

    assert not result.success
    assert RAN == []
    assert not (tmp_path / "exploded").exists()


def test_a_materialization_past_the_guard_is_refused_and_named(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert project.run().success
    RAN.clear()
    assert dg.materialize(
        [a for a in project.plain.assets or [] if a.key.to_user_string() == "raw"],
        instance=instance,
        resources=dict(project.plain.resources or {}),
    ).success
    RAN.clear()

    result = project.run("features")

    assert not result.success
    assert RAN == []
    assert "without being sealed" in result.failure_message("features")


def test_data_from_before_the_guard_is_adopted_with_a_warning_and_then_held_to(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert dg.materialize(list(project.plain.assets or []), instance=instance, resources=dict(project.plain.resources or {})).success
    RAN.clear()

    result = project.run("features")

    assert result.success
    assert RAN == ["features"]
    (frame := pd.read_parquet(tmp_path / "raw.parquet")).loc[0, "distance"] = -1
    frame.to_parquet(tmp_path / "raw.parquet")
    RAN.clear()
    assert not project.run("features").success
    assert RAN == []


def test_the_first_check_of_old_data_warns_and_the_second_passes(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert dg.materialize(list(project.plain.assets or []), instance=instance, resources=dict(project.plain.resources or {})).success

    (first,) = project.check("raw").get_asset_check_evaluations()
    (second,) = project.check("raw").get_asset_check_evaluations()

    assert (first.passed, first.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "adopted" in str(first.description)
    assert second.passed


def test_an_unknown_key_is_an_error_at_load_time_that_suggests_the_nearest() -> None:
    @dg.asset
    def raw_flights() -> int:
        return 1

    with pytest.raises(ConfigurationError, match=r"no asset 'raw_flihgts'.*Did you mean 'raw_flights'"):
        mlsec.guard(dg.Definitions(assets=[raw_flights]), datasets=["raw_flihgts"])


def test_a_job_grows_by_exactly_our_checks(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    before = {node.name for node in project.plain.resolve_implicit_global_asset_job_def().nodes}
    after = {node.name for node in project.guarded.resolve_implicit_global_asset_job_def().nodes}
    assert after - before == {f"{name}_{check}" for name in ("raw", "features") for check in ("dataset_hash", "distribution_stability")}
    assert before <= after


def test_a_stability_check_that_a_project_has_already_is_kept_and_no_second_one_is_built(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    project = parquet_project(tmp_path, instance)
    own = mlsec.build_distribution_stability_checks(assets=[dg.AssetKey("raw")], blocking=True, severity=dg.AssetCheckSeverity.ERROR)
    guarded = mlsec.guard(dg.Definitions.merge(project.plain, dg.Definitions(asset_checks=own)), datasets=["raw", "features"])
    checks = guarded.resolve_asset_graph()
    assert {(key.asset_key.to_user_string(), key.name): checks.get(key).blocking for key in checks.asset_check_keys} == {
        ("raw", "dataset_hash"): True,
        ("raw", "distribution_stability"): True,
        ("features", "dataset_hash"): True,
        ("features", "distribution_stability"): False,
    }


def test_append_only_refuses_a_rewritten_row_and_accepts_new_ones(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    rows = {"n": 100, "seed": 1}

    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        frame = flights(200).head(rows["n"])
        if rows["seed"] == 2:
            frame.loc[5, "distance"] = 0
        return frame

    project = parquet_project(tmp_path, instance, assets=[raw], datasets=[mlsec.Dataset(key="raw", policy="append_only")])
    assert project.run().success
    rows["n"] = 150
    assert project.run().success
    rows["seed"] = 2
    result = project.run()
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "append-only" in str(evaluation.description)
    assert "distance" in str(evaluation.description)


def test_immutable_holds_to_the_first_seal(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    size = [10]

    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(size[0])

    project = parquet_project(tmp_path, instance, assets=[raw], datasets=[mlsec.Dataset(key="raw", policy="immutable")])
    assert project.run().success
    assert project.run().success
    size[0] = 11
    result = project.run()
    assert not result.success
    assert "immutable" in str(result.get_asset_check_evaluations()[0].description)


def test_partitions_are_sealed_and_verified_one_by_one(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    days = dg.DailyPartitionsDefinition("2013-01-01", end_date="2013-01-04")

    @dg.asset(partitions_def=days, io_manager_key="parquet")
    def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return flights(10, seed=int(context.partition_key[-2:]))

    @dg.asset(io_manager_key="parquet")
    def features(raw: dict[str, pd.DataFrame]) -> pd.DataFrame:
        RAN.append("features")
        return pd.concat(raw.values(), ignore_index=True)

    project = parquet_project(tmp_path, instance, assets=[raw, features], datasets=["raw", "features"])
    for day in DAYS:
        result = project.run("raw", partition=day)
        assert result.success
        (evaluation,) = result.get_asset_check_evaluations()
        assert evaluation.passed
        assert evaluation.partition == day
    assert project.run("features").success
    RAN.clear()
    target = tmp_path / "raw" / "2013-01-02.parquet"
    target.write_bytes((tmp_path / "raw" / "2013-01-01.parquet").read_bytes())

    result = project.run("features")

    assert not result.success
    assert RAN == []
    assert r"raw[2013-01-02] is not what run" in result.failure_message("features")


def two_partitions_of_which_some_may_be_missing(base: Path, instance: dg.DagsterInstance) -> Project:
    parts = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(partitions_def=parts, io_manager_key="parquet")
    def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return flights(10)

    @dg.asset(io_manager_key="parquet", ins={"raw": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def features(raw: dict[str, pd.DataFrame]) -> pd.DataFrame:
        RAN.append("features")
        return pd.concat(raw.values(), ignore_index=True)

    return parquet_project(base, instance, assets=[raw, features], datasets=["raw"])


def test_a_partition_that_nobody_materialized_is_not_read(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = two_partitions_of_which_some_may_be_missing(tmp_path, instance)
    assert project.run("raw", partition="a").success
    assert project.run("features").success
    RAN.clear()
    flights(10, seed=9).to_parquet(tmp_path / "raw" / "b.parquet")

    result = project.run("features")

    assert not result.success
    assert RAN == []
    assert "never materialized" in result.failure_message("features")


def test_a_sealed_partition_that_vanished_is_missed_even_where_missing_ones_are_allowed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    project = two_partitions_of_which_some_may_be_missing(tmp_path, instance)
    assert project.run("raw", partition="a").success
    assert project.run("raw", partition="b").success
    (tmp_path / "raw" / "b.parquet").unlink()
    result = project.run("features")
    assert not result.success
    assert RAN == []
    assert "nothing is stored for it any more" in result.failure_message("features")


def test_a_backfill_of_twelve_partitions_in_one_run_has_twelve_evaluations(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    parts = dg.StaticPartitionsDefinition([f"p{i:02}" for i in range(12)])

    @dg.asset(partitions_def=parts, backfill_policy=dg.BackfillPolicy.single_run())
    def raw(context: dg.AssetExecutionContext) -> None:
        for key in context.partition_keys:
            flights(10, seed=int(key[1:])).to_parquet(tmp_path / f"{key}.parquet")
            context.add_asset_metadata({"path": str(tmp_path / f"{key}.parquet")}, partition_key=key)

    @dg.asset(partitions_def=parts, deps=[raw], backfill_policy=dg.BackfillPolicy.single_run())
    def features(context: dg.AssetExecutionContext) -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    result = project.run(partitions=("p00", "p11"))
    assert result.success
    evaluations = result.get_asset_check_evaluations()
    assert sorted(e.partition or "" for e in evaluations) == parts.get_partition_keys()
    assert all(e.passed for e in evaluations)
    assert RAN == ["features"]


def test_without_a_home_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        project = parquet_project(tmp_path, instance)
        result = project.run()
    assert not result.success
    assert not (tmp_path / "raw.parquet").exists()
    assert "DAGSTER_HOME" in result.failure_message("raw")


def test_a_check_that_a_later_run_overtakes_is_about_what_that_run_wrote(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Two runs overlap: the second has written and sealed, and its materialization is not recorded yet, when the first is checked."""
    project = parquet_project(tmp_path, instance, datasets=["raw"])
    assert project.run("raw").success
    entry = project.entries()[0]
    flights(1000, seed=2).to_parquet(tmp_path / "raw.parquet")
    seals = Seals(open_store(instance), instance)
    written = Manifest(files=hash_path(tmp_path / "raw.parquet"), table=table_grid(tmp_path / "raw.parquet"))
    predicate = {"run_id": "another", "io_manager": "ParquetIOManager", "location": entry.statement.predicate["location"]}
    seals.append([statement(WRITE, "raw", None, written, predicate)], [written])

    (evaluation,) = project.check("raw").get_asset_check_evaluations()

    assert evaluation.passed
    assert "Run another has written it since" in evaluation.metadata["to know"].value


def test_a_new_process_does_not_read_by_a_ledger_that_was_rolled_back(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """Ledger, storage and Dagster's own database all go back to an earlier, properly sealed state; only the witness remembers."""
    store = mlsec.SecurityStore(witness=str(tmp_path / "witness"), witness_every_minutes=0)
    project = parquet_project(tmp_path / "data", instance, datasets=["raw"], store=store)
    assert project.run().success
    home = Path(instance.root_directory)
    shutil.copytree(home, tmp_path / "earlier")
    shutil.copytree(tmp_path / "data", tmp_path / "earlier_data")
    assert project.run().success
    open_store(instance, store).close()
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "earlier", home)
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(tmp_path / "earlier_data", tmp_path / "data")
    RAN.clear()

    fresh = mlsec.SecurityStore(witness=str(tmp_path / "witness"), witness_every_minutes=0)
    with dg.DagsterInstance.get() as later:
        result = parquet_project(tmp_path / "data", later, datasets=["raw"], store=fresh).run("features")

    assert not result.success
    assert RAN == []
    assert "rolled back" in result.failure_message("features")


def test_a_failed_check_of_the_latest_materialization_counts_though_a_later_run_has_begun_to_write(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    project = parquet_project(tmp_path, instance, datasets=["raw"])
    assert project.run("raw").success
    passed = next(entry for entry in reversed(project.entries()) if entry.statement.predicate_type == SEAL)
    seals = Seals(open_store(instance), instance)
    manifest = seals.manifest(passed)
    failed = {**passed.statement.predicate, "verdict": "failed", "cause": "policy", "reason": "Earlier rows changed.", "blocking": True}
    failed.pop("ledger", None)
    seals.append([statement(SEAL, "raw", None, manifest, failed)], [manifest])
    seals.append([statement(WRITE, "raw", None, manifest, {"run_id": "another", "io_manager": "ParquetIOManager"})], [manifest])

    expectation = seals.expectations(dg.AssetKey("raw"), [None])[None]

    assert expectation.standing.refused
    assert "Earlier rows changed" in expectation.standing.sentence
