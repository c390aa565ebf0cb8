"""IO managers of tables: DuckDB with pandas and Polars, Polars files; and a graph of dynamic outputs behind one asset."""

from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pytest

from tests.guard.sameness import Run, Twins

pytestmark = pytest.mark.slow

PARTS = dg.StaticPartitionsDefinition(["a", "b"])


def frames(frame: type, partition_expr: str | None = None) -> list[Any]:
    """Assets whose values are of this type, one of them partitioned."""
    metadata = {"partition_expr": partition_expr} if partition_expr else {}

    def raw() -> Any:
        pl.set_random_seed(1)  # dagster-polars reports a sample of the rows
        return frame({"n": [1, 2, 3], "name": ["x", None, "z"]})

    def features(raw: Any) -> Any:
        pl.set_random_seed(1)
        return raw[["n"]] if isinstance(raw, pd.DataFrame) else raw.select("n")

    def daily(context: dg.AssetExecutionContext) -> Any:
        pl.set_random_seed(1)
        return frame({"part": [context.partition_key] * 2, "n": [1, 2]})

    for function in (raw, features, daily):
        function.__annotations__["return"] = frame
    features.__annotations__["raw"] = frame
    return [dg.asset(raw), dg.asset(features), dg.asset(daily, partitions_def=PARTS, metadata=metadata)]


RUNS = [Run(select=["raw", "features"]), Run(select=["daily"], partition="a"), Run(select=["daily"], partition="b")]


# dagster-duckdb-polars reads through a method that DuckDB 2 no longer has, with the guard or without it.
POLARS = pytest.mark.skipif(not hasattr(duckdb.DuckDBPyConnection, "arrow"), reason="dagster-duckdb-polars cannot read with this DuckDB")


@pytest.mark.parametrize("kind", ["pandas", pytest.param("polars", marks=POLARS), pytest.param("legacy polars", marks=POLARS)])
def test_duckdb(tmp_path: Path, home_template: Path, kind: str) -> None:
    def build(base: Path) -> dg.Definitions:
        from dagster_duckdb_pandas import DuckDBPandasIOManager
        from dagster_duckdb_polars import DuckDBPolarsIOManager, duckdb_polars_io_manager

        settings = {"database": str(base / "db.duckdb"), "schema": "shop"}
        manager = {
            "pandas": lambda: DuckDBPandasIOManager(**settings),
            "polars": lambda: DuckDBPolarsIOManager(**settings),
            "legacy polars": lambda: duckdb_polars_io_manager.configured(settings),
        }[kind]()
        frame = pd.DataFrame if kind == "pandas" else pl.DataFrame
        unchecked = dg.define_asset_job("unchecked", dg.AssetSelection.assets("raw", "features").without_checks())
        return dg.Definitions(assets=frames(frame, "part"), resources={"io_manager": manager}, jobs=[unchecked])

    project = Twins(tmp_path, build, ["raw", "features", "daily"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike(Run(job="unchecked"), *RUNS)
    kept = pd.DataFrame if kind == "pandas" else pl.DataFrame
    project.assert_load_alike("features", python_type=kept)
    project.assert_load_alike("daily", python_type=kept, partition_key="b")
    project.assert_every_check_passed(4)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_polars_files(tmp_path: Path, home_template: Path, lazy: bool) -> None:
    def build(base: Path) -> dg.Definitions:
        from dagster_polars import PolarsParquetIOManager

        frame = pl.LazyFrame if lazy else pl.DataFrame
        return dg.Definitions(assets=frames(frame), resources={"io_manager": PolarsParquetIOManager(base_dir=str(base))})

    project = Twins(tmp_path, build, ["raw", "features", "daily"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike(*RUNS)
    project.assert_load_alike("features", python_type=pl.DataFrame)
    project.assert_load_alike("daily", python_type=pl.DataFrame, partition_key="b")
    project.assert_every_check_passed(4)


def test_a_graph_of_dynamic_outputs_with_retries_behind_one_asset(tmp_path: Path, home_template: Path) -> None:
    def build(base: Path) -> dg.Definitions:
        tried: list[int] = []

        @dg.asset
        def raw() -> list[int]:
            return [1, 2, 3]

        @dg.op(out=dg.DynamicOut())
        def split(raw: list[int]) -> Any:
            for number in raw:
                yield dg.DynamicOutput(number, mapping_key=str(number))

        @dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
        def double(number: int) -> int:
            tried.append(number)
            if tried == [1]:
                raise RuntimeError("once")
            return number * 2

        @dg.op
        def collect(numbers: list[int]) -> list[int]:
            return numbers

        @dg.graph_asset(kinds={"python"})
        def doubled(raw: list[int]) -> list[int]:
            return collect(split(raw).map(double).collect())

        return dg.Definitions(assets=[raw, doubled], jobs=[dg.define_asset_job("nightly", tags={"dagster/max_retries": "1"})])

    project = Twins(tmp_path, build, ["raw", "doubled"], home_template)
    project.assert_defined_alike()
    project.assert_run_alike(Run(job="nightly"))
    assert project.assert_load_alike("doubled") == [2, 4, 6]
    project.assert_every_check_passed(2)
