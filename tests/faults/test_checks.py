"""How a verdict acts: which failures keep what comes after from running, and that every due evaluation is there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from tests.faults.claims import (
    RAW,
    assert_blocked_between_write_and_check,
    assert_check_fails,
    assert_clean,
    assert_clear,
    assert_refused_at_read,
    evaluation_of,
    said,
)
from tests.faults.projects import own_writer, reconciled, verified
from tests.guard.projects import RAN, ParquetIOManager, Project, flights, parquet_project

TWELVE = [f"p{month:02}" for month in range(1, 13)]


# Blocking and severity


class Shrinking:
    """A project whose append-only data loses its earlier rows in the second run, and a consumer that reads it, and one that does not."""

    def __init__(self, instance: dg.DagsterInstance, base: Path, **options: Any) -> None:
        self.seed = 1

        @dg.asset(io_manager_key="parquet")
        def raw() -> pd.DataFrame:
            return flights(100, seed=self.seed)

        @dg.asset
        def features(raw: pd.DataFrame) -> None:
            RAN.append("features")

        @dg.asset(deps=[raw])
        def report() -> None:
            RAN.append("report")

        defs = dg.Definitions(assets=[raw, features, report], resources={"parquet": ParquetIOManager(base_dir=str(base))})
        self.project = Project(defs, instance, [mlsec.Dataset(key="raw", policy="append_only")], options)
        assert self.project.run().success
        RAN.clear()
        self.seed = 2


def test_a_blocking_failure_blocks_this_run_and_the_next_reader(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    shrinking = Shrinking(instance, tmp_path)
    result = shrinking.project.run()
    assert not result.success
    assert not evaluation_of(result).passed
    assert RAN == []
    result = shrinking.project.run("features")
    assert not result.success
    assert RAN == []
    assert "failed its last dataset_hash check" in result.failure_message("features")
    shrinking.seed = 1
    assert shrinking.project.run().success
    assert sorted(RAN) == ["features", "report"]


@pytest.mark.parametrize("options", [{"blocking": False}, {"severity": dg.AssetCheckSeverity.WARN}], ids=["not blocking", "severity WARN"])
def test_a_failure_that_shall_only_be_told_is_told_and_blocks_nobody(
    instance: dg.DagsterInstance, tmp_path: Path, options: dict[str, Any]
) -> None:
    shrinking = Shrinking(instance, tmp_path, **options)
    result = shrinking.project.run()
    assert result.success
    evaluation = evaluation_of(result)
    assert not evaluation.passed
    assert evaluation.blocking is options.get("blocking", True)
    assert evaluation.severity == options.get("severity", dg.AssetCheckSeverity.ERROR)
    assert sorted(RAN) == ["features", "report"]
    RAN.clear()
    assert shrinking.project.run("features").success
    assert RAN == ["features"]


@pytest.mark.parametrize("options", [{"blocking": False}, {"severity": dg.AssetCheckSeverity.WARN}], ids=["not blocking", "severity WARN"])
def test_altered_bytes_are_not_read_even_where_the_check_only_tells(
    instance: dg.DagsterInstance, tmp_path: Path, options: dict[str, Any]
) -> None:
    """What a check may let through is a broken policy. Bytes that nobody sealed are never deserialised."""
    shrinking = Shrinking(instance, tmp_path, **options)
    shrinking.seed = 1
    shrinking.project.after_write = lambda asset: flights(100, seed=666).to_parquet(tmp_path / "raw.parquet") if asset == "raw" else None
    result = shrinking.project.run()
    assert not result.success
    assert not evaluation_of(result).passed
    assert RAN == ["report"]  # it only depends, and reads nothing through us
    assert "raw is not what" in result.failure_message("features")


def test_a_write_past_the_guard_does_not_become_good_by_being_checked_twice(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance, blocking=False)
    assert_clean(project)
    raw = [asset for asset in project.plain.assets or [] if asset.key == RAW]  # type: ignore[union-attr]
    assert dg.materialize(raw, instance=instance, resources=dict(project.plain.resources or {})).success
    for _ in range(3):
        assert_check_fails(project, "without being sealed")
        assert_refused_at_read(project, "without being sealed")
    assert_clean(project)


# Errors of the check itself


def _raise(error: BaseException) -> Callable[..., Any]:
    def fails(*_: Any, **__: Any) -> Any:
        raise error

    return fails


ENGINE = RuntimeError("engine ![x](y) broke\x1b[31m")


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("mlsec_dagster.integrity.verdicts.judge", ENGINE),
        ("mlsec_dagster.integrity.verdicts.judge", MemoryError()),
        ("mlsec_dagster.asset_checks.stored.latest_materializations", ENGINE),
        ("mlsec_dagster.asset_checks.stored.open_store", ENGINE),
        ("mlsec_dagster.asset_checks.known.Known.read", ENGINE),
        ("mlsec_dagster.asset_checks.examination.evaluation_metadata", ENGINE),
        ("mlsec_dagster.asset_checks.dataset_hash.partitions_of_check", ENGINE),
    ],
    ids=["judge", "out of memory", "event log", "store", "ledger", "metadata", "partitions"],
)
def test_an_error_inside_the_check_is_a_failed_evaluation_and_no_statement_about_the_data(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    project = own_writer(instance, tmp_path / "own.parquet")
    assert_clean(project)
    with monkeypatch.context() as broken:
        broken.setattr(place, _raise(error))
        result = project.run()
        assert not result.success
        assert RAN == []
        evaluation = evaluation_of(result)
        assert not evaluation.passed
        assert evaluation.blocking
        assert type(error).__name__ in said(evaluation)
        assert "no statement about the data" in said(evaluation)
        assert "\x1b" not in said(evaluation)
        assert_clear(said(evaluation))
    assert_clean(project)
    verified(instance)


def test_a_resolver_that_fails_or_points_nowhere_is_a_failed_evaluation(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    answers: list[Any] = [_raise(ValueError("no such bucket")), lambda: str(tmp_path / "nowhere"), lambda: 42, lambda: tmp_path / "own"]

    @dg.asset
    def raw() -> None:
        (tmp_path / "own").write_text("data")

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"], {"resolver": lambda _key, _event: answers[0]()})
    for says in ("no such bucket", "nothing is stored", "42"):
        result = project.run()
        assert not result.success
        assert RAN == []
        assert not evaluation_of(result).passed
        assert says in said(evaluation_of(result)) or says == "42"
        assert_clear(said(evaluation_of(result)))
        del answers[0]
    assert_clean(project)


def test_an_asset_that_does_not_say_where_it_lies_fails(instance: dg.DagsterInstance) -> None:
    @dg.asset
    def raw() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata={"dagster/table_name": "a.b.c"})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    result = project.run()
    assert not result.success
    assert RAN == []
    assert "a.b.c" in said(evaluation_of(result))
    assert "resolver=" in said(evaluation_of(result))


# The check alone


def test_the_check_alone_passes_fails_and_heals_without_a_materialization(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert_check_fails(project, "raw was never materialized")
    assert_clean(project)
    original = (tmp_path / "raw.parquet").read_bytes()
    assert evaluation_of(project.check("raw")).passed
    (tmp_path / "raw.parquet").write_bytes(b"")
    assert_check_fails(project, "raw is not what was written")
    (tmp_path / "raw.parquet").write_bytes(original)
    result = project.run("features")
    assert not result.success  # the last verdict about it still is that it failed
    assert RAN == []
    assert evaluation_of(project.check("raw")).passed
    assert project.run("features").success
    assert RAN == ["features"]


def test_a_partition_that_was_never_materialized_fails_its_check_and_is_not_read(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    parts = dg.StaticPartitionsDefinition(["a", "b"])

    @dg.asset(partitions_def=parts, io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(10)

    @dg.asset(partitions_def=parts, io_manager_key="parquet")
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        RAN.append("features")
        return raw

    project = parquet_project(tmp_path, instance, assets=[raw, features])
    assert project.run(partition="a").success
    RAN.clear()
    evaluation = evaluation_of(project.check("raw", partition="b"))
    assert (evaluation.passed, evaluation.partition) == (False, "b")
    assert "raw[b] was never materialized" in said(evaluation)
    (tmp_path / "raw" / "b.parquet").write_bytes((tmp_path / "raw" / "a.parquet").read_bytes())  # planted
    result = project.run("features", partition="b")
    assert not result.success
    assert RAN == []
    assert "never materialized" in result.failure_message("features")
    evaluation = evaluation_of(project.check("raw", partition="b"))
    assert not evaluation.passed
    assert project.run(partition="b").success
    assert RAN == ["features"]


def test_a_partitioned_check_without_a_partition_says_so(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["a"]), io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(10)

    project = parquet_project(tmp_path, instance, assets=[raw], datasets=["raw"])
    assert project.run(partition="a").success
    result = project.check("raw")
    assert not result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert_clear(said(evaluation))


# Backfills


@pytest.mark.slow
def test_twelve_partitions_in_one_run_through_duckdb_are_sealed_and_held_one_by_one(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    import duckdb
    from dagster_duckdb_pandas import DuckDBPandasIOManager

    database = str(tmp_path / "warehouse.duckdb")
    parts = dg.StaticPartitionsDefinition(TWELVE)

    @dg.asset(partitions_def=parts, backfill_policy=dg.BackfillPolicy.single_run(), metadata={"partition_expr": "part"})
    def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.concat([flights(20, seed=i).assign(part=key) for i, key in enumerate(context.partition_keys)])

    @dg.asset(partitions_def=parts, backfill_policy=dg.BackfillPolicy.single_run())
    def features(context: dg.AssetExecutionContext, raw: pd.DataFrame) -> None:
        assert len(raw) == 20 * len(context.partition_keys)
        RAN.append("features")

    defs = dg.Definitions(assets=[raw, features], resources={"io_manager": DuckDBPandasIOManager(database=database, schema="main")})
    project = Project(defs, instance, ["raw"])

    def tamper(asset: str = "raw") -> None:
        if asset == "raw":
            with duckdb.connect(database) as connection:
                connection.execute("UPDATE main.raw SET distance = distance + 1 WHERE part = 'p07'")

    result = project.run(partitions=("p01", "p12"))
    assert result.success
    evaluations = result.get_asset_check_evaluations()
    assert {e.partition: e.passed for e in evaluations} == dict.fromkeys(TWELVE, True)
    assert len({e.target_materialization_data.storage_id for e in evaluations}) == 12
    assert RAN == ["features"]
    RAN.clear()

    tamper()
    result = project.run("features", partitions=("p01", "p12"))
    assert not result.success
    assert RAN == []
    assert "raw[p07] is not what" in result.failure_message("features")

    project.after_write = tamper
    result = project.run(partitions=("p01", "p12"))
    assert not result.success
    assert RAN == []
    verdicts = {e.partition: e.passed for e in result.get_asset_check_evaluations()}
    assert verdicts == {key: key != "p07" for key in TWELVE}
    project.after_write = None
    assert project.run(partitions=("p01", "p12")).success
    assert RAN == ["features"]
    reconciled(instance)


def test_twelve_self_written_partitions_in_one_run_are_sealed_and_held_one_by_one(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    parts = dg.StaticPartitionsDefinition(TWELVE)
    lost: set[str] = set()

    @dg.asset(partitions_def=parts, backfill_policy=dg.BackfillPolicy.single_run())
    def raw(context: dg.AssetExecutionContext) -> None:
        for key in context.partition_keys:
            path = tmp_path / f"{key}.csv"
            flights(5).to_csv(path, index=False)
            if key in lost:
                path.unlink()
            context.log_event(dg.AssetMaterialization("raw", partition=key, metadata={"path": str(path)}))

    @dg.asset(deps=[raw], partitions_def=parts, backfill_policy=dg.BackfillPolicy.single_run())
    def features() -> None:
        RAN.append("features")

    project = Project(
        dg.Definitions(assets=[raw, features]),
        instance,
        ["raw"],
        {"resolver": lambda _key, event: tmp_path / f"{event.partition}.csv"},
    )
    result = project.run(partitions=("p01", "p12"))
    assert result.success
    assert {e.partition: e.passed for e in result.get_asset_check_evaluations()} == dict.fromkeys(TWELVE, True)
    assert RAN == ["features"]
    RAN.clear()
    lost.add("p03")
    result = project.run(partitions=("p01", "p12"))
    assert not result.success
    assert RAN == []
    assert {e.partition for e in result.get_asset_check_evaluations() if not e.passed} == {"p03"}
    lost.clear()
    assert project.run(partitions=("p01", "p12")).success


# Retries


def test_a_retried_step_is_sealed_as_it_was_written_last_and_names_each_input_once(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    attempts = {"raw": 0, "features": 0}

    class Unsteady(ParquetIOManager):
        def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: Any) -> None:
            name = context.asset_key.path[-1]
            attempts[name] += 1
            if attempts[name] % 2:
                Path(str(path)).write_bytes(b"half of it")
                raise ConnectionError("the network went away")
            super().dump_to_path(context, obj, path)

    @dg.asset(io_manager_key="parquet", retry_policy=dg.RetryPolicy(max_retries=1))
    def raw() -> pd.DataFrame:
        return flights(100, seed=attempts["raw"])

    @dg.asset(io_manager_key="parquet", retry_policy=dg.RetryPolicy(max_retries=1))
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        RAN.append("features")
        return raw

    defs = dg.Definitions(assets=[raw, features], resources={"parquet": Unsteady(base_dir=str(tmp_path))})
    project = Project(defs, instance, ["raw", "features"])
    result = project.run()
    assert result.success
    assert all(e.passed for e in result.get_asset_check_evaluations())
    assert RAN == ["features", "features"]
    (written,) = [e.statement for e in project.entries() if e.statement.asset == "features" and "inputs" in e.statement.predicate]
    assert [read["asset"] for read in written.predicate["inputs"]] == ["raw"]


def test_a_write_that_failed_for_good_leaves_what_it_left_unread(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    fails = [False]

    class Unsteady(ParquetIOManager):
        def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: Any) -> None:
            super().dump_to_path(context, obj, path)
            if fails[0]:
                raise ConnectionError("the network went away after the write")

    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(100, seed=2 if fails[0] else 1)

    @dg.asset
    def features(raw: pd.DataFrame) -> None:
        RAN.append("features")

    defs = dg.Definitions(assets=[raw, features], resources={"parquet": Unsteady(base_dir=str(tmp_path))})
    project = Project(defs, instance, ["raw"])
    assert_clean(project)
    fails[0] = True
    assert not project.run().success
    assert RAN == []
    result = project.run("features")
    assert not result.success
    assert RAN == []
    fails[0] = False
    assert_clean(project)


def test_the_check_is_retried_like_any_step_without_a_second_verdict(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """A failed blocking check is a failed step; a later run of the check alone gives a verdict of its own."""
    project = parquet_project(tmp_path, instance)
    assert_blocked_between_write_and_check(project, lambda: (tmp_path / "raw.parquet").write_bytes(b""), "raw is not what")
    assert_check_fails(project, "raw is not what")
    assert_clean(project)
    verified(instance)
    reconciled(instance)
