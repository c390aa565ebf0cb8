"""Guarding a project changes nothing else: what is defined grows by our checks, clean runs record the same events, values stay equal."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from tests.guard.projects import ParquetIOManager, flights
from tests.guard.sameness import CHECKS, Run, Twins, at_home


@pytest.fixture
def twins(tmp_path: Path, home_template: Path) -> Any:
    def make(build: Any, datasets: Any) -> Twins:
        return Twins(tmp_path, build, datasets, home_template)

    return make


def test_unpartitioned_assets_with_metadata_tags_and_keys_of_several_components(twins: Any) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.asset(key=["lake", "raw", "flights"], metadata={"owner": "team"}, tags={"tier": "1"}, group_name="raw", kinds={"parquet"})
        def raw() -> dg.Output[pd.DataFrame]:
            frame = flights(50)
            return dg.Output(frame, metadata={"rows": len(frame), "head": dg.MetadataValue.md("x")}, tags={"quality": "good"})

        @dg.asset(ins={"table": dg.AssetIn(["lake", "raw", "flights"])}, code_version="3", key_prefix="lake", owners=["me@example.com"])
        def features(context: dg.AssetExecutionContext, table: pd.DataFrame) -> pd.DataFrame:
            context.add_output_metadata({"columns": 5})
            context.log_event(dg.AssetObservation(asset_key=["lake", "raw", "flights"], metadata={"seen": len(table)}))
            return table

        @dg.asset(deps=[features])
        def report(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return dg.MaterializeResult(metadata={"pages": 2}, tags={"kind": "pdf"})

        return dg.Definitions(assets=[raw, features, report], resources={"io_manager": ParquetIOManager(base_dir=str(base))})

    project = twins(build, ["lake/raw/flights", ["lake", "features"]])
    project.assert_defined_alike()
    project.assert_run_alike()
    project.assert_load_alike("lake/raw/flights")
    project.assert_load_alike("lake/features", python_type=pd.DataFrame)
    project.assert_every_check_passed(2)


MULTI = dg.MultiPartitionsDefinition(
    {"day": dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-03"), "shop": dg.StaticPartitionsDefinition(["a/b", "c d"])}
)


@pytest.mark.parametrize(
    ("partitions", "keys"),
    [
        (dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-03"), ["2024-01-01", "2024-01-02"]),
        pytest.param(
            dg.HourlyPartitionsDefinition("2024-01-01-00:00", end_date="2024-01-01-02:00"),
            ["2024-01-01-00:00", "2024-01-01-01:00"],
            marks=pytest.mark.slow,
        ),
        pytest.param(dg.StaticPartitionsDefinition(["north", "süd / west"]), ["north", "süd / west"], marks=pytest.mark.slow),
        pytest.param(
            MULTI,
            [dg.MultiPartitionKey({"day": "2024-01-01", "shop": "a/b"}), dg.MultiPartitionKey({"day": "2024-01-02", "shop": "c d"})],
            marks=pytest.mark.slow,
        ),
        pytest.param(dg.DynamicPartitionsDefinition(name="customers"), ["c1", "c2"], marks=pytest.mark.slow),
    ],
    ids=["daily", "hourly", "static", "multi", "dynamic"],
)
def test_partitioned_assets(twins: Any, partitions: dg.PartitionsDefinition[Any], keys: list[str]) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.asset(partitions_def=partitions)
        def raw(context: dg.AssetExecutionContext) -> dict[str, Any]:
            return {"key": str(context.partition_key)}

        @dg.asset(partitions_def=partitions)
        def features(raw: dict[str, Any]) -> dict[str, Any]:
            return {**raw, "n": 1}

        mapping = dg.SpecificPartitionsPartitionMapping(keys)

        @dg.asset(ins={"features": dg.AssetIn(partition_mapping=mapping)})
        def whole(features: dict[str, Any]) -> list[str]:
            return sorted(features)

        job = dg.define_asset_job("partitioned", ["raw", "features"], partitions_def=partitions)
        schedules = [dg.build_schedule_from_partitioned_job(job)] if isinstance(partitions, dg.TimeWindowPartitionsDefinition) else []
        return dg.Definitions(
            assets=[raw, features, whole],
            jobs=[job],
            schedules=schedules,
            resources={"io_manager": dg.FilesystemIOManager(base_dir=str(base))},
        )

    project = twins(build, ["raw", "features"])
    for side in project.sides.values():
        side.instance.add_dynamic_partitions("customers", keys)
    project.assert_defined_alike()
    project.assert_run_alike(*(Run(job="partitioned", partition=key) for key in keys), Run(select=["whole"]))
    for key in keys:
        project.assert_load_alike("features", partition_key=key)
    project.assert_every_check_passed(4)


@pytest.mark.slow
def test_a_range_of_partitions_in_one_run(twins: Any) -> None:
    daily = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")

    def build(base: Path) -> dg.Definitions:
        from dagster_duckdb_pandas import DuckDBPandasIOManager

        settings = {"partitions_def": daily, "backfill_policy": dg.BackfillPolicy.single_run(), "metadata": {"partition_expr": "day"}}

        @dg.asset(**settings)
        def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
            return pd.DataFrame({"day": pd.to_datetime(context.partition_keys), "n": range(len(context.partition_keys))})

        @dg.asset(**settings)
        def features(raw: pd.DataFrame) -> pd.DataFrame:
            return raw.assign(m=raw["n"] * 2)

        return dg.Definitions(
            assets=[raw, features], resources={"io_manager": DuckDBPandasIOManager(database=str(base / "db.duckdb"), schema="shop")}
        )

    project = twins(build, ["raw", "features"])
    project.assert_defined_alike()
    run = Run(tags={"dagster/asset_partition_range_start": "2024-01-01", "dagster/asset_partition_range_end": "2024-01-03"})
    project.assert_run_alike(run)
    project.assert_load_alike("features", partition_key="2024-01-02", python_type=pd.DataFrame)
    project.assert_every_check_passed(6)


@pytest.mark.slow
def test_multi_assets_graph_assets_and_assets_with_checks_of_their_own(twins: Any) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.multi_asset(
            outs={name: dg.AssetOut(is_required=False) for name in ("left", "right", "never")},
            can_subset=True,
        )
        def both(context: dg.AssetExecutionContext) -> Iterator[Any]:
            for key in ("left", "right"):
                if dg.AssetKey(key) in context.selected_asset_keys:
                    yield dg.Output({"side": key}, output_name=key, metadata={"side": key})

        @dg.multi_asset(outs={"train": dg.AssetOut(), "test": dg.AssetOut(metadata={"share": 0.2})})
        def split(left: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
            return {"t": left}, {"e": left}

        @dg.op
        def one(left: dict[str, Any]) -> dict[str, Any]:
            return {**left, "one": 1}

        @dg.op(out={"a": dg.Out(), "b": dg.Out()})
        def two(value: dict[str, Any]) -> tuple[dict[str, Any], int]:
            return value, 2

        @dg.graph_asset
        def from_graph(left: dict[str, Any]) -> dict[str, Any]:
            return one.alias("again")(one(left))

        @dg.graph_multi_asset(outs={"first": dg.AssetOut(), "second": dg.AssetOut()})
        def from_graph_too(left: dict[str, Any]) -> dict[str, Any]:
            a, b = two(one(left))
            return {"first": a, "second": b}

        @dg.asset(check_specs=[dg.AssetCheckSpec("positive", asset="checked", blocking=True), dg.AssetCheckSpec("small", asset="checked")])
        def checked(from_graph: dict[str, Any]) -> Iterator[Any]:
            yield dg.Output(1, metadata={"n": 1})
            yield dg.AssetCheckResult(check_name="positive", passed=True)
            yield dg.AssetCheckResult(check_name="small", passed=False, severity=dg.AssetCheckSeverity.WARN)

        @dg.asset
        def after(checked: int) -> int:
            return checked + 1

        @dg.asset_check(asset="checked", blocking=True)
        def loads_it(checked: int) -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=checked == 1, metadata={"value": checked})

        return dg.Definitions(assets=[both, split, from_graph, from_graph_too, checked, after], asset_checks=[loads_it])

    guarded = ["left", "right", "train", "test", "from_graph", "first", "second", "checked", "after"]
    project = twins(build, guarded)
    project.assert_defined_alike()
    project.assert_run_alike(Run(), Run(select=["left"]), Run(select=["from_graph", "checked"]))
    for name in guarded:
        project.assert_load_alike(name)
    project.assert_every_check_passed(len(guarded) + 3)


def test_external_source_and_observable_assets(twins: Any) -> None:
    def build(base: Path) -> dg.Definitions:
        (base / "landed").write_bytes(b"\x80\x04K\x07.")  # the pickle of 7

        @dg.observable_source_asset(io_manager_key="files")
        def watched() -> dg.DataVersion:
            return dg.DataVersion("v1")

        @dg.multi_observable_source_asset(specs=[dg.AssetSpec("seen")])
        def observed() -> Iterator[dg.ObserveResult]:
            yield dg.ObserveResult(asset_key="seen", metadata={"n": 1}, data_version=dg.DataVersion("s1"))

        external = dg.AssetSpec("upstream", metadata={"dagster/io_manager_key": "files", "note": "n"})
        landed = dg.SourceAsset("landed", io_manager_key="files", description="lands by itself")

        @dg.asset
        def features(landed: int) -> int:
            return landed + 1

        @dg.asset(deps=["upstream", watched, "seen"])
        def report() -> None: ...

        return dg.Definitions(
            assets=[external, landed, watched, observed, features, report],
            resources={"files": dg.FilesystemIOManager(base_dir=str(base))},
            jobs=[dg.define_asset_job("observe", dg.AssetSelection.assets("watched"))],
        )

    project = twins(build, ["landed", "features"])
    project.assert_defined_alike()
    project.assert_run_alike(Run(select=["features", "report"]), Run(job="observe"))
    assert project.assert_load_alike("features") == 8
    assert project.assert_load_alike("landed") == 7


def test_io_managers_bound_on_assets_and_jobs_and_managers_for_inputs(twins: Any) -> None:
    def build(base: Path) -> dg.Definitions:
        own = dg.FilesystemIOManager(base_dir=str(base / "own"))
        shared = dg.fs_io_manager.configured({"base_dir": str(base / "shared")})

        @dg.input_manager(config_schema={"scale": dg.Field(int, default_value=1)}, required_resource_keys={"factor"})
        def scaled(context: dg.InputContext) -> int:
            return pickle.loads((base / "own" / "raw").read_bytes()) * context.resources.factor * context.resource_config["scale"]

        @dg.asset(resource_defs={"own": own.get_resource_definition()}, io_manager_key="own")
        def raw() -> int:
            return 20

        @dg.asset(io_manager_def=shared)
        def bound() -> int:
            return 4

        @dg.asset(ins={"raw": dg.AssetIn(input_manager_key="own")}, resource_defs={"own": own.get_resource_definition()})
        def by_key(raw: int) -> int:
            return raw + 1

        @dg.asset(ins={"raw": dg.AssetIn(input_manager_key="scaled", metadata={"note": "x"})})
        def by_function(raw: int) -> int:
            return raw + 2

        @dg.op(out=dg.Out(io_manager_key="elsewhere"))
        def consume(raw: int) -> int:
            return raw * 2

        @dg.op
        def after(value: int) -> int:
            return value

        @dg.job(resource_defs={"own": own.get_resource_definition(), "elsewhere": dg.mem_io_manager}, tags={"team": "x"})
        def reads_raw() -> None:
            after(consume(raw.to_source_asset()))

        @dg.op(required_resource_keys={"factor"})
        def seven(context: dg.OpExecutionContext) -> int:
            return 7 * context.resources.factor

        @dg.job
        def plain_job() -> None:
            after.alias("it")(seven())

        @dg.sensor(job=reads_raw)
        def new_files(context: dg.SensorEvaluationContext) -> dg.RunRequest:
            return dg.RunRequest()

        @dg.sensor(jobs=[reads_raw, plain_job])
        def both(context: dg.SensorEvaluationContext) -> None: ...

        @dg.asset_sensor(asset_key=dg.AssetKey("raw"), job=plain_job)
        def on_raw(context: dg.SensorEvaluationContext, event: Any) -> None: ...

        @dg.run_failure_sensor(monitored_jobs=[reads_raw])
        def on_failure(context: dg.RunFailureSensorContext) -> None: ...

        @dg.schedule(cron_schedule="@daily", job=plain_job)
        def nightly(context: dg.ScheduleEvaluationContext) -> dict[str, Any]:
            return {}

        return dg.Definitions(
            assets=[raw, bound, by_key, by_function],
            jobs=[reads_raw, plain_job, dg.define_asset_job("all_of_it", tags={"a": "b"})],
            schedules=[
                dg.ScheduleDefinition(name="hourly", job=reads_raw, cron_schedule="@hourly"),
                dg.ScheduleDefinition(name="assets_daily", target=dg.AssetSelection.assets("raw"), cron_schedule="@daily"),
                nightly,
            ],
            sensors=[new_files, both, on_raw, on_failure, dg.AutomationConditionSensorDefinition("auto", target="*")],
            resources={"factor": dg.ResourceDefinition.hardcoded_resource(3), "scaled": scaled},
        )

    project = twins(build, ["raw", "bound"])
    project.assert_defined_alike()
    project.assert_run_alike(Run(), Run(job="reads_raw"), Run(job="plain_job"), Run(job="all_of_it"))
    assert project.assert_load_alike("raw") == 20
    project.assert_every_check_passed(4)

    # Wherever its IO manager is bound, whoever reads what was replaced does not run.
    side = project.guarded
    (side.home / "data" / "own" / "raw").write_bytes(pickle.dumps(21))
    for run in (Run(select=["by_key"]), Run(select=["by_function"]), Run(job="reads_raw")):
        with at_home(side.home), pytest.raises(AssertionError, match="raw is not what run"):
            run.execute(side.defs, side.instance)


def test_jobs_that_leave_checks_out_stay_without_them(twins: Any) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.asset(group_name="g")
        def raw() -> int:
            return 1

        @dg.asset(group_name="g")
        def features(raw: int) -> int:
            return raw

        return dg.Definitions(
            assets=[raw, features],
            jobs=[
                dg.define_asset_job("without", dg.AssetSelection.all() - dg.AssetSelection.all_asset_checks()),
                dg.define_asset_job("one", dg.AssetSelection.assets("features").without_checks()),
                dg.define_asset_job("group", dg.AssetSelection.groups("g"), config={"execution": {"config": {"in_process": {}}}}),
            ],
        )

    project = twins(build, ["raw", "features"])
    project.assert_defined_alike()
    names = {job.name: {node.name for node in job.nodes} for job in project.guarded.defs.get_repository_def().get_all_jobs()}
    assert names["without"] == {"raw", "features"}
    assert names["one"] == {"features"}
    assert names["group"] == {"raw", "features", *(f"{name}_{check}" for name in ("raw", "features") for check in CHECKS)}
    project.assert_run_alike(Run(job="without"), Run(job="one"))
    project.assert_every_check_passed(0)


def test_values_are_loaded_outside_a_run(twins: Any) -> None:
    def build(base: Path) -> dg.Definitions:
        @dg.asset
        def raw() -> int:
            return 1

        return dg.Definitions(assets=[raw])

    project = twins(build, ["raw"])
    project.assert_run_alike()
    for side in project.sides.values():
        with at_home(side.home), side.defs.get_asset_value_loader() as loader:
            assert loader.load_asset_value("raw") == 1
    (project.guarded.home / "storage" / "raw").write_bytes(b"\x80\x04K\x02.")
    with at_home(project.guarded.home), pytest.raises(Exception, match="raw is not what run"):
        project.guarded.load("raw")
    assert os.environ.get("DAGSTER_HOME") is None
    with pytest.raises(Exception, match="set DAGSTER_HOME, or pass instance="):
        project.guarded.defs.load_asset_value("raw")
