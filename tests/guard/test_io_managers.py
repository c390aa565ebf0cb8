"""The IO managers that projects use, each real: what was sealed is read back, what was changed in storage is not."""

import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from mlsec_dagster.io_managers.objects import OBJECT_CLIENTS
from tests.guard.projects import RAN, Project, flights


@pytest.fixture(autouse=True)
def _nothing_ran() -> Iterator[None]:
    RAN.clear()
    yield
    RAN.clear()


def producer_and_consumer(
    make: Callable[[], Any], annotation: Any = pd.DataFrame, *, partitions: dg.PartitionsDefinition | None = None
) -> list[Any]:
    """An asset that returns what `make` gives, and one that reads it."""

    def raw() -> Any:
        return make()

    raw.__annotations__ = {"return": annotation}

    def features(raw: Any) -> None:
        RAN.append(f"features of {type(raw).__name__}")

    features.__annotations__ = {"raw": annotation, "return": None}
    return [dg.asset(raw, partitions_def=partitions) if partitions else dg.asset(raw), dg.asset(features)]


def assert_guarded(project: Project, tamper: Callable[[], None], *, named: str = "raw is not what run") -> None:
    """A clean run passes twice; after tampering the consumer alone does not run, and neither does it after the check."""
    assert project.run().success
    assert len(RAN) == 1
    assert project.run("features").success
    RAN.clear()
    tamper()
    result = project.run("features")
    assert not result.success
    assert RAN == []
    assert named in result.failure_message("features")
    (evaluation,) = project.check("raw").get_asset_check_evaluations()
    assert not evaluation.passed
    assert project.run().success  # materializing again heals


def test_the_default_filesystem_manager(instance: dg.DagsterInstance) -> None:
    project = Project(dg.Definitions(assets=producer_and_consumer(lambda: {"a": 1}, dict)), instance, ["raw"])
    path = Path(instance.storage_directory()) / "raw"
    assert_guarded(project, lambda: path.write_bytes(pickle.dumps({"a": 2})))


def test_a_legacy_definition(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    defs = dg.Definitions(
        assets=producer_and_consumer(lambda: {"a": 1}, dict),
        resources={"io_manager": dg.fs_io_manager.configured({"base_dir": str(tmp_path)})},
    )
    assert_guarded(Project(defs, instance, ["raw"]), lambda: (tmp_path / "raw").write_bytes(pickle.dumps({"a": 2})))


def test_a_generator_resource_with_a_generator_handle_output(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    events: list[str] = []

    class Odd(dg.IOManager):
        def handle_output(self, context: dg.OutputContext, obj: Any) -> Iterator[Any]:
            (tmp_path / "odd.csv").write_text(obj.to_csv(index=False))
            yield {"path": str(tmp_path / "odd.csv"), "rows": len(obj)}

        def load_input(self, context: dg.InputContext) -> Any:
            return pd.read_csv(tmp_path / "odd.csv")

    @dg.io_manager
    def odd(_: Any) -> Iterator[Odd]:
        events.append("opened")
        yield Odd()
        events.append("closed")

    defs = dg.Definitions(assets=producer_and_consumer(lambda: flights(20)), resources={"io_manager": odd})
    project = Project(defs, instance, ["raw"])
    result = project.run()
    assert result.success
    materialization = instance.get_latest_materialization_event(dg.AssetKey("raw"))
    assert materialization is not None
    assert materialization.asset_materialization is not None
    assert materialization.asset_materialization.metadata["rows"].value == 20
    assert events.count("opened") == events.count("closed") > 0
    RAN.clear()
    assert_guarded(project, lambda: (tmp_path / "odd.csv").write_text("carrier\nXX\n"))


def test_a_configurable_manager_that_reports_its_path(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    class Csv(dg.ConfigurableIOManager):
        folder: str

        def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
            path = f"{self.folder}/{context.asset_key.path[-1]}.csv"
            obj.to_csv(path, index=False)
            context.add_output_metadata({"path": path})

        def load_input(self, context: dg.InputContext) -> pd.DataFrame:
            return pd.read_csv(f"{self.folder}/{context.asset_key.path[-1]}.csv")

    defs = dg.Definitions(assets=producer_and_consumer(lambda: flights(20)), resources={"io_manager": Csv(folder=str(tmp_path))})
    assert_guarded(Project(defs, instance, ["raw"]), lambda: (tmp_path / "raw.csv").write_text("carrier\nXX\n"))


def test_a_configurable_manager_that_reports_nothing_is_verified_by_value(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    class Silent(dg.ConfigurableIOManager):
        folder: str

        def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
            obj.to_parquet(f"{self.folder}/{context.asset_key.path[-1]}.parquet")

        def load_input(self, context: dg.InputContext) -> pd.DataFrame:
            return pd.read_parquet(f"{self.folder}/{context.asset_key.path[-1]}.parquet")

    defs = dg.Definitions(assets=producer_and_consumer(lambda: flights(20)), resources={"io_manager": Silent(folder=str(tmp_path))})
    project = Project(defs, instance, ["raw"], {"blocking": False})
    assert project.run().inner.get_asset_check_evaluations()[0].passed is False  # the check cannot see what it cannot find
    assert len(RAN) == 1
    RAN.clear()
    flights(20, seed=2).to_parquet(tmp_path / "raw.parquet")
    result = project.run("features")
    assert not result.success
    assert RAN == []


def test_duckdb(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    import duckdb
    from dagster_duckdb_pandas import DuckDBPandasIOManager

    database = str(tmp_path / "warehouse.duckdb")
    defs = dg.Definitions(
        assets=producer_and_consumer(lambda: flights(50)), resources={"io_manager": DuckDBPandasIOManager(database=database, schema="main")}
    )

    def tamper() -> None:
        with duckdb.connect(database) as connection:
            connection.execute("UPDATE main.raw SET distance = distance + 1 WHERE carrier = 'UA'")

    assert_guarded(Project(defs, instance, ["raw"]), tamper)


@pytest.mark.slow
def test_duckdb_partitions(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    import duckdb
    from dagster_duckdb_pandas import DuckDBPandasIOManager

    database = str(tmp_path / "warehouse.duckdb")
    parts = dg.StaticPartitionsDefinition(["UA", "AA"])

    @dg.asset(partitions_def=parts, metadata={"partition_expr": "carrier"})
    def raw(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return flights(30).assign(carrier=context.partition_key)

    @dg.asset
    def features(raw: pd.DataFrame) -> None:
        RAN.append("features")

    defs = dg.Definitions(assets=[raw, features], resources={"io_manager": DuckDBPandasIOManager(database=database, schema="main")})
    project = Project(defs, instance, ["raw"])
    assert project.run("raw", partition="UA").success
    assert project.run("raw", partition="AA").success
    assert project.run("features").success
    RAN.clear()
    with duckdb.connect(database) as connection:
        connection.execute("UPDATE main.raw SET distance = 0 WHERE carrier = 'AA'")
    result = project.run("features")
    assert not result.success
    assert RAN == []
    assert "raw[AA]" in result.failure_message("features")


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_polars(instance: dg.DagsterInstance, tmp_path: Path, lazy: bool) -> None:
    import polars as pl
    from dagster_polars import PolarsParquetIOManager

    @dg.asset
    def raw() -> pl.DataFrame:
        return pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"]})

    def features(raw: Any) -> None:
        frame = raw.collect() if lazy else raw
        assert frame.height == 3
        RAN.append("features")

    features.__annotations__ = {"raw": pl.LazyFrame if lazy else pl.DataFrame, "return": None}
    defs = dg.Definitions(assets=[raw, dg.asset(features)], resources={"io_manager": PolarsParquetIOManager(base_dir=str(tmp_path))})
    assert_guarded(
        Project(defs, instance, ["raw"]),
        lambda: pl.DataFrame({"a": [1, 2, 4], "b": ["x", None, "z"]}).write_parquet(tmp_path / "raw.parquet"),
    )


def test_s3_never_unpickles_what_was_replaced(instance: dg.DagsterInstance, s3_bucket: str, tmp_path: Path) -> None:
    import boto3
    from dagster_aws.s3 import S3PickleIOManager, S3Resource

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    defs = dg.Definitions(
        assets=producer_and_consumer(lambda: {"a": 1}, dict),
        resources={"io_manager": S3PickleIOManager(s3_resource=S3Resource(), s3_bucket=s3_bucket)},
    )
    assert_guarded(
        Project(defs, instance, ["raw"]),
        lambda: boto3.client("s3").upload_fileobj(io.BytesIO(pickle.dumps(Bomb())), s3_bucket, "dagster/raw"),
    )
    assert not (tmp_path / "exploded").exists()


def test_an_s3_version_that_was_sealed_is_not_downloaded_to_be_checked(
    instance: dg.DagsterInstance, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from dagster_aws.s3 import S3PickleIOManager, S3Resource

    client, fetched = OBJECT_CLIENTS["PickledObjectS3IOManager"], []

    def fetch(manager: Any, key: str) -> tuple[bytes, str | None]:
        fetched.append(key)
        return client.fetch(manager, key)

    monkeypatch.setitem(OBJECT_CLIENTS, "PickledObjectS3IOManager", replace(client, fetch=fetch))  # type: ignore[attr-defined]
    defs = dg.Definitions(
        assets=producer_and_consumer(lambda: flights(10)),
        resources={"io_manager": S3PickleIOManager(s3_resource=S3Resource(), s3_bucket=s3_bucket)},
    )
    project = Project(defs, instance, ["raw"])
    assert project.run("raw").success
    fetched.clear()
    (evaluation,) = project.check("raw").get_asset_check_evaluations()
    assert evaluation.passed
    assert fetched == []
    boto3.client("s3").upload_fileobj(io.BytesIO(pickle.dumps({"a": 2})), s3_bucket, "dagster/raw")
    (evaluation,) = project.check("raw").get_asset_check_evaluations()
    assert not evaluation.passed
    assert fetched == ["dagster/raw"]


@pytest.mark.parametrize(
    ("algorithm", "downloads"),
    [
        ("SHA256", 0),
        pytest.param("CRC32", 1, marks=pytest.mark.slow),
        pytest.param("SHA1", 1, marks=pytest.mark.slow),
        (None, 1),
    ],
    ids=["SHA256", "CRC32", "SHA1", "default"],
)
def test_where_s3_keeps_no_versions_its_own_sha256_and_nothing_weaker_saves_the_download(
    instance: dg.DagsterInstance, s3_bucket: str, monkeypatch: pytest.MonkeyPatch, algorithm: str | None, downloads: int
) -> None:
    import boto3
    from dagster_aws.s3.io_manager import PickledObjectS3IOManager

    s3, bucket = boto3.client("s3"), f"{s3_bucket}-unversioned"
    s3.create_bucket(Bucket=bucket)
    checksum = {"ChecksumAlgorithm": algorithm} if algorithm else {}

    class Uploads(PickledObjectS3IOManager):
        def dump_to_path(self, context: dg.OutputContext, obj: Any, path: Any) -> None:
            self.s3.put_object(Bucket=self.bucket, Key=path.as_posix(), Body=pickle.dumps(obj), **checksum)

    fetched: list[str] = []
    client = OBJECT_CLIENTS["PickledObjectS3IOManager"]

    def fetch(manager: Any, key: str) -> tuple[bytes, str | None]:
        fetched.append(key)
        return client.fetch(manager, key)

    monkeypatch.setitem(OBJECT_CLIENTS, "PickledObjectS3IOManager", replace(client, fetch=fetch))  # type: ignore[attr-defined]
    manager = dg.IOManagerDefinition.hardcoded_io_manager(Uploads(bucket, s3, "lake"))
    project = Project(
        dg.Definitions(assets=producer_and_consumer(lambda: {"a": 1}, dict), resources={"io_manager": manager}), instance, ["raw"]
    )
    assert project.run("raw").success
    fetched.clear()
    assert project.check("raw").get_asset_check_evaluations()[0].passed
    assert len(fetched) == downloads

    s3.put_object(Bucket=bucket, Key="lake/raw", Body=pickle.dumps({"a": 2}), **checksum)
    assert not project.check("raw").get_asset_check_evaluations()[0].passed
    assert project.run("raw").success

    # A store that keeps whatever checksum it is told (S3 does not): a check may be deceived, a reader never.
    if algorithm == "SHA256":
        sealed = s3.head_object(Bucket=bucket, Key="lake/raw", ChecksumMode="ENABLED")["ChecksumSHA256"]
        s3.put_object(Bucket=bucket, Key="lake/raw", Body=pickle.dumps({"a": 3}), ChecksumSHA256=sealed, **checksum)
        told = s3.head_object(Bucket=bucket, Key="lake/raw", ChecksumMode="ENABLED")["ChecksumSHA256"]
        assert told == sealed, "the store computes it: this test deceives nobody any more"
        RAN.clear()
        assert not project.run("features").success
        assert RAN == []


def test_an_asset_that_writes_for_itself_is_first_seen_at_its_check(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    @dg.asset
    def raw() -> dg.MaterializeResult:
        flights(10).to_parquet(tmp_path / "own.parquet")
        return dg.MaterializeResult(metadata={"path": str(tmp_path / "own.parquet")})

    @dg.asset(deps=[raw])
    def features() -> None:
        RAN.append("features")

    project = Project(dg.Definitions(assets=[raw, features]), instance, ["raw"])
    result = project.run()
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.metadata["sealed"].value == "first seen at check"
    flights(10, seed=3).to_parquet(tmp_path / "own.parquet")
    (evaluation,) = project.check("raw").get_asset_check_evaluations()
    assert not evaluation.passed
    assert "raw is not what was written" in str(evaluation.description)


def test_a_wrapped_manager_keeps_its_own_attributes(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    seen: list[Any] = []

    @dg.asset(required_resource_keys={"io_manager"})
    def raw(context: dg.AssetExecutionContext) -> int:
        seen.append(context.resources.io_manager.base_dir)
        return 1

    defs = dg.Definitions(assets=[raw], resources={"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path))})
    assert Project(defs, instance, ["raw"]).run().success
    assert seen == [str(tmp_path)]
