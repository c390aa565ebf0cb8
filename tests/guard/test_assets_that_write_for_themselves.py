"""Assets whose data an IO manager only reads: dbt's models, a function that declares no value, an asset of somebody else."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pytest
from dagster_duckdb_pandas import DuckDBPandasIOManager

from tests.guard.projects import RAN, Project


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    yield
    RAN.clear()


def build_model(database: Path, factor: int = 1) -> None:
    with duckdb.connect(str(database)) as connection:
        connection.execute("create schema if not exists lake")
        connection.execute(f"create or replace table lake.model as select i * {factor} as a from range(100) numbers(i)")


def spec_alone(build: Callable[[], None]) -> dg.AssetsDefinition:
    @dg.multi_asset(specs=[dg.AssetSpec(["lake", "model"])])  # as dbt's are
    def model() -> Iterator[dg.MaterializeResult]:
        build()
        yield dg.MaterializeResult(asset_key=["lake", "model"])

    return model


def returns_none(build: Callable[[], None]) -> dg.AssetsDefinition:
    @dg.asset(key_prefix="lake")
    def model() -> None:
        build()

    return model


def returns_a_result(build: Callable[[], None]) -> dg.AssetsDefinition:
    @dg.asset(key_prefix="lake")
    def model() -> dg.MaterializeResult:
        build()
        return dg.MaterializeResult()

    return model


def graph_without_a_value(build: Callable[[], None]) -> dg.AssetsDefinition:
    @dg.op
    def make() -> None:
        build()

    @dg.graph_asset(key=["lake", "model"])
    def model() -> Any:
        return make()

    return model


@pytest.mark.parametrize("asset", [spec_alone, returns_none, returns_a_result, graph_without_a_value])
def test_a_table_that_the_io_manager_only_reads_is_first_seen_at_each_check(
    instance: dg.DagsterInstance, tmp_path: Path, asset: Callable[..., Any]
) -> None:
    database = tmp_path / "warehouse.duckdb"
    factors = iter([1, 2])

    @dg.asset(ins={"model": dg.AssetIn(["lake", "model"])})
    def features(model: pd.DataFrame) -> None:
        RAN.append(f"{model['a'].max()}")

    defs = dg.Definitions(
        assets=[asset(lambda: build_model(database, next(factors))), features],
        resources={"io_manager": DuckDBPandasIOManager(database=str(database))},
    )
    project = Project(defs, instance, ["lake/model"])
    for _ in range(2):
        result = project.run()
        (evaluation,) = result.get_asset_check_evaluations()
        assert evaluation.passed, evaluation.description
        assert evaluation.metadata["sealed"].value == "first seen at check"
        assert result.success
    assert RAN == ["99", "198"]

    with duckdb.connect(str(database)) as connection:
        connection.execute("update lake.model set a = 0 where a = 198")
    assert not project.run("features").success
    assert RAN == ["99", "198"]
    (evaluation,) = project.check("lake/model").get_asset_check_evaluations()
    assert not evaluation.passed


@pytest.mark.parametrize("annotation", [pd.DataFrame, Any])
def test_a_table_that_was_handed_over_with_the_guard_off_is_still_refused(
    instance: dg.DagsterInstance, tmp_path: Path, annotation: Any
) -> None:
    def table() -> Any:
        return pd.DataFrame({"a": range(10)})

    table.__annotations__ = {"return": annotation}
    defs = dg.Definitions(
        assets=[dg.asset(table, key_prefix="lake", partitions_def=dg.StaticPartitionsDefinition(["x", "y"]))],
        resources={"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path))},
    )
    project = Project(defs, instance, ["lake/table"])
    assert project.run("lake/table", partition="x").success
    unguarded = defs.resolve_implicit_global_asset_job_def()
    assert unguarded.execute_in_process(instance=instance, partition_key="y").success
    (evaluation,) = project.check("lake/table", "y").get_asset_check_evaluations()
    assert not evaluation.passed
    assert "without being sealed" in str(evaluation.description)


@pytest.mark.parametrize("source", [dg.SourceAsset("raw"), dg.AssetSpec("raw")], ids=["SourceAsset", "AssetSpec"])
def test_an_external_asset_that_names_no_io_manager_lies_with_the_default_one(instance: dg.DagsterInstance, source: Any) -> None:
    @dg.asset
    def features(raw: int) -> None:
        RAN.append("features")

    storage = Path(instance.storage_directory())
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "raw").write_bytes(pickle.dumps(7))
    project = Project(dg.Definitions(assets=[source, features]), instance, ["raw"])
    (evaluation,) = project.check("raw").get_asset_check_evaluations()
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert "It is adopted" in str(evaluation.description)
    assert project.run("features").success
    assert project.check("raw").get_asset_check_evaluations()[0].passed

    (storage / "raw").write_bytes(pickle.dumps(8))
    assert not project.check("raw").get_asset_check_evaluations()[0].passed
    assert not project.run("features").success
    assert RAN == ["features"]


def test_an_external_asset_of_which_nothing_is_known_is_not_verified(instance: dg.DagsterInstance) -> None:
    project = Project(dg.Definitions(assets=[dg.AssetSpec("raw")]), instance, ["raw"])
    (evaluation,) = project.check("raw").get_asset_check_evaluations()
    assert not evaluation.passed
    assert "no materialization reports where it lies" in str(evaluation.description)


def test_an_external_asset_lies_where_it_was_reported_if_the_default_io_manager_keeps_nothing(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    """As one that another code location without a guard materializes: nobody here could have sealed it."""
    file = tmp_path / "raw.csv"
    project = Project(dg.Definitions(assets=[dg.AssetSpec("raw")]), instance, ["raw"])
    for round_, location in enumerate([file.as_uri(), str(file)]):
        file.write_text(f"a\n{round_}\n")
        instance.report_runless_asset_event(dg.AssetMaterialization("raw", metadata={"dagster/uri": location}))
        project.check("raw")
        (evaluation,) = project.check("raw").get_asset_check_evaluations()
        assert evaluation.passed, evaluation.description
    file.write_text("a\n7\n")
    assert not project.check("raw").get_asset_check_evaluations()[0].passed


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed there", "sealed nowhere"])
def test_a_write_of_another_location_is_refused_if_that_location_seals_its_writes(instance: dg.DagsterInstance, sealed: bool) -> None:
    parts = dg.StaticPartitionsDefinition(["x", "y", "z"])

    @dg.asset(partitions_def=parts)
    def raw(context: dg.AssetExecutionContext) -> str:
        return context.partition_key

    there = Project(dg.Definitions(assets=[raw]), instance, ["raw"])
    here = Project(dg.Definitions(assets=[dg.AssetSpec("raw", partitions_def=parts)]), instance, ["raw"])
    for partition in ["x", "y"]:
        job = (there.guarded if sealed else there.plain).resolve_implicit_global_asset_job_def()
        assert job.execute_in_process(instance=instance, partition_key=partition).success
        here.check("raw", partition)
    assert here.check("raw", "y").get_asset_check_evaluations()[0].passed
    assert there.plain.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance, partition_key="z").success
    (evaluation,) = here.check("raw", "z").get_asset_check_evaluations()
    assert evaluation.passed is not sealed, evaluation.description
