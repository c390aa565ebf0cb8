"""Where a project's assets lie, after they were really written: every object that storage then has leads back to its asset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.audit.artifact_map import ArtifactMap
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.locations import locate
from mlsec_dagster.resources import open_store
from mlsec_dagster.sensors.artifact_locations import ProjectArtifacts, ProjectState
from tests.audit.test_artifacts import event

DAYS = dg.StaticPartitionsDefinition(["2026-01-01", "2026-01-02"])


@dg.asset(key_prefix="lake", partitions_def=DAYS)
def raw(context: dg.AssetExecutionContext) -> str:
    return context.partition_key


@dg.asset(kinds={"sklearn"})
def delay_model() -> bytes:
    return b"weights"


def write(instance: dg.DagsterInstance, defs: dg.Definitions) -> None:
    """Materialize both assets, and every partition."""
    job = defs.resolve_implicit_global_asset_job_def()
    for partition in DAYS.get_partition_keys():
        job.execute_in_process(instance=instance, partition_key=partition, asset_selection=[raw.key])
    job.execute_in_process(instance=instance, asset_selection=[delay_model.key])


def report(instance: dg.DagsterInstance, asset: str, partition: str | None = None, **metadata: Any) -> None:
    named = {name.replace("__", "/"): value for name, value in metadata.items()}
    key = dg.AssetKey.from_user_string(asset)
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition, metadata=named))


def told(state: ProjectState, uri: str) -> tuple[str | None, str | None]:
    location = locate(uri)
    assert location is not None
    found, _ = ArtifactMap(knowledge=[state.knowledge]).by_location(location)
    return (None, None) if found is None else (found.asset, found.partition)


def test_files_of_the_filesystem_io_manager(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    defs = dg.Definitions([raw, delay_model], resources={"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "data"))})
    write(instance, defs)
    state = ProjectArtifacts(defs).read(instance)
    assert state.complete
    found = {told(state, str(path)) for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert found == {("lake/raw", "2026-01-01"), ("lake/raw", "2026-01-02"), ("delay_model", None)}


def test_objects_of_the_s3_io_manager(instance: dg.DagsterInstance, s3_bucket: str) -> None:
    import boto3
    from dagster_aws.s3 import S3PickleIOManager, S3Resource

    defs = dg.Definitions(
        [raw, delay_model], resources={"io_manager": S3PickleIOManager(s3_resource=S3Resource(), s3_bucket=s3_bucket, s3_prefix="a/b")}
    )
    write(instance, defs)
    artifacts = ArtifactMap(knowledge=[ProjectArtifacts(defs).read(instance).knowledge])
    keys = [each["Key"] for each in boto3.client("s3").list_objects_v2(Bucket=s3_bucket)["Contents"]]
    found = {artifacts.artifact(event(container=s3_bucket, object=key)) for key in keys}
    assert found == {
        Artifact("dataset", asset="lake/raw", partition="2026-01-01", by="materialization"),
        Artifact("dataset", asset="lake/raw", partition="2026-01-02", by="materialization"),
        Artifact("model", asset="delay_model", model="delay_model", by="materialization"),
    }
    without = ArtifactMap(knowledge=[ProjectArtifacts().read(instance).knowledge])
    assert {without.artifact(event(container=s3_bucket, object=key)).partition for key in keys} == {"2026-01-01", "2026-01-02", None}
    # A partition that no materialization tells of yet is one of the asset that the IO manager keeps there.
    early = artifacts.artifact(event(container=s3_bucket, object="a/b/lake/raw/2026-01-03", action="write"))
    assert early == Artifact("dataset", asset="lake/raw", by="io_manager")


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a Google Cloud Storage that keeps objects in memory and answers over HTTP."""
    from gcp_storage_emulator.server import create_server
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="lake")
    server.start()
    host, port = server._api._httpd.server_address[:2]
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{host}:{port}")
    yield storage.Client(project="test", credentials=AnonymousCredentials())
    server.stop()


def test_objects_of_the_gcs_io_manager_which_reports_no_bucket(
    instance: dg.DagsterInstance, gcs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster_gcp.gcs import GCSPickleIOManager, GCSResource

    monkeypatch.setenv("BUCKET", "lake")
    defs = dg.Definitions(
        [raw, delay_model], resources={"io_manager": GCSPickleIOManager(gcs=GCSResource(project="test"), gcs_bucket=dg.EnvVar("BUCKET"))}
    )
    write(instance, defs)
    for project in (defs, defs.get_repository_def()):
        artifacts = ArtifactMap(knowledge=[ProjectArtifacts(project).read(instance).knowledge])
        found = [artifacts.artifact(event(source="gcp.audit", container="lake", object=blob.name)) for blob in gcs.list_blobs("lake")]
        assert {(each.kind, each.asset, each.partition) for each in found} == {
            ("dataset", "lake/raw", "2026-01-01"),
            ("dataset", "lake/raw", "2026-01-02"),
            ("model", "delay_model", None),
        }
    blind = ProjectArtifacts().read(instance)
    assert blind.knowledge.locations == ()
    assert "leads nowhere without its bucket" in blind.knowledge.unseen[0]


def test_the_adls_io_manager_is_placed_by_its_configuration(instance: dg.DagsterInstance) -> None:
    from dagster_azure.adls2 import ADLS2PickleIOManager, ADLS2Resource, ADLS2SASToken

    lake = ADLS2Resource(storage_account="acme", credential=ADLS2SASToken(token="x"))
    defs = dg.Definitions([raw], resources={"io_manager": ADLS2PickleIOManager(adls2=lake, adls2_file_system="fs", lease_duration=60)})
    report(instance, "lake/raw", "2026-01-01", path=dg.MetadataValue.path("dagster/lake/raw/2026-01-01"))
    read = event(source="azure.monitor", container="acme/fs", object="dagster/lake/raw/2026-01-01")
    for project in (defs, mlsec.guard(defs, datasets=[raw]), mlsec.guard(defs, datasets=[raw]).get_repository_def()):
        artifacts = ArtifactMap(knowledge=[ProjectArtifacts(project).read(instance).knowledge])
        assert artifacts.artifact(read).partition == "2026-01-01"


def test_what_an_io_manager_of_the_user_does_is_not_guessed(instance: dg.DagsterInstance) -> None:
    from dagster_aws.s3 import S3PickleIOManager, S3Resource

    class Elsewhere(S3PickleIOManager):
        pass

    defs = dg.Definitions([raw], resources={"io_manager": Elsewhere(s3_resource=S3Resource(), s3_bucket="lake")})
    assert ProjectArtifacts(defs).read(instance).knowledge.locations == ()


def test_metadata_of_every_kind_tells_the_place(instance: dg.DagsterInstance) -> None:
    report(instance, "a", dagster__uri="s3://lake/a")
    report(instance, "b", Path=dg.MetadataValue.path("s3://lake/b/"))
    report(instance, "c", uri=dg.MetadataValue.url("https://acme.blob.core.windows.net/lake/c"))
    report(instance, "d", model_uri="runs:/0a1b/model", path="/tmp/d")
    state = ProjectArtifacts().read(instance)
    assert [told(state, f"s3://lake/{name}/x")[0] for name in "ab"] == ["a", "b"]
    assert told(state, "abfss://lake@acme.dfs.core.windows.net/c")[0] == "c"
    assert told(state, "runs:/0a1b/model")[0] == told(state, "/tmp/d")[0] == "d"


def test_tables_of_a_database_are_told_as_what_cannot_be_seen(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    import pandas as pd
    from dagster_duckdb_pandas import DuckDBPandasIOManager

    @dg.asset
    def flights() -> pd.DataFrame:
        return pd.DataFrame({"a": [1]})

    defs = dg.Definitions([flights], resources={"io_manager": DuckDBPandasIOManager(database=str(tmp_path / "x.duckdb"))})
    assert defs.resolve_implicit_global_asset_job_def().execute_in_process(instance=instance).success
    assert ProjectArtifacts(defs).read(instance).knowledge.unseen == (
        "Only names of tables, which no log of a storage names, are reported by flights.",
    )


def test_a_reading_is_bounded_newest_first_and_then_incremental(instance: dg.DagsterInstance) -> None:
    for i in range(12):
        report(instance, "raw", f"p{i:02}", uri=f"s3://lake/raw/{i:02}")
    report(instance, "other", uri="s3://lake/other")
    project = ProjectArtifacts(limit=6)
    state = project.read(instance)
    assert not state.complete
    assert "still to be read" in state.knowledge.unseen[0]
    assert told(state, "s3://lake/other")[0] == "other"
    assert told(state, "s3://lake/raw/11") == ("raw", "p11")
    assert told(state, "s3://lake/raw/00") == (None, None)
    readings = 1
    while not state.complete:
        state, readings = project.read(instance, state), readings + 1
    assert readings >= 3
    assert all(told(state, f"s3://lake/raw/{i:02}") == ("raw", f"p{i:02}") for i in range(12))
    assert project.read(instance, state) is state
    # A partition that moved is found at both places; one place of two partitions tells neither; another asset's belongs to who wrote last.
    report(instance, "raw", "p00", uri="s3://lake/moved/00")
    report(instance, "raw", "p01", uri="s3://lake/raw/02")
    state = project.read(instance, state)
    assert told(state, "s3://lake/moved/00") == told(state, "s3://lake/raw/00") == ("raw", "p00")
    assert told(state, "s3://lake/raw/02") == ("raw", None)
    report(instance, "other", uri="s3://lake/raw/03")
    assert told(project.read(instance, state), "s3://lake/raw/03") == ("other", None)


def test_reading_in_pieces_gives_the_same_map_as_reading_at_once(instance: dg.DagsterInstance) -> None:
    for i in range(9):
        report(instance, f"asset{i % 2}", f"p{i}", uri=f"s3://lake/{i}")
    whole, pieces, state = ProjectArtifacts().read(instance), ProjectArtifacts(limit=2), None
    while state is None or not state.complete:
        state = pieces.read(instance, state)
    assert ArtifactMap(knowledge=[state.knowledge]) == ArtifactMap(knowledge=[whole.knowledge])


def test_an_asset_that_was_wiped_stops_nothing(instance: dg.DagsterInstance) -> None:
    report(instance, "raw", uri="s3://lake/raw")
    project = ProjectArtifacts()
    state = project.read(instance)
    instance.wipe_assets([dg.AssetKey("raw")])
    assert told(project.read(instance, state), "s3://lake/raw")[0] == "raw"
    report(instance, "raw", uri="s3://lake/new")
    assert told(project.read(instance, state), "s3://lake/new")[0] == "raw"


def test_models_are_told_by_their_kinds_and_by_the_user(instance: dg.DagsterInstance) -> None:
    @dg.asset(tags={"dagster/kind/pytorch": ""}, metadata={"dagster/uri": "s3://ml/net"})
    def net() -> None: ...

    @dg.asset(kinds={"sklearn"}, metadata={"dagster/uri": "s3://lake/split"})
    def split() -> None: ...

    @dg.asset(kinds={"parquet"}, metadata={"dagster/uri": "s3://ml/table"})
    def table() -> None: ...

    project = ProjectArtifacts(dg.Definitions([net, split, table]), models={"table": "lookup"}, datasets=["split"])
    artifacts = ArtifactMap(knowledge=[project.read(instance).knowledge])
    assert artifacts.artifact(event(container="ml", object="net/x")) == Artifact("model", asset="net", model="net", by="definition")
    assert artifacts.artifact(event(container="lake", object="split/x")).kind == "dataset"
    assert artifacts.artifact(event(container="ml", object="table/x")).model == "lookup"


def test_the_ledger_tells_where_an_asset_was_sealed_whatever_metadata_claims(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    plain = dg.Definitions([delay_model, raw], resources={"io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "data"))})
    write(instance, mlsec.guard(plain, datasets=[raw, delay_model]))
    path = str(tmp_path / "data" / "delay_model")
    report(instance, "harmless", path=path)
    project = ProjectArtifacts(plain)
    assert told(project.read(instance), path)[0] == "harmless"
    ledger = open_store(instance)
    state = project.read(instance, ledger=ledger)
    assert state.complete
    assert told(state, path)[0] == "delay_model"
    assert told(state, str(tmp_path / "data" / "lake" / "raw" / "2026-01-02")) == ("lake/raw", "2026-01-02")
    assert project.read(instance, state, ledger=ledger).sealed is state.sealed
    few, state = ProjectArtifacts(plain, limit=1), ProjectState()
    while not (state := few.read(instance, state, ledger=ledger)).complete:
        pass
    assert told(state, path)[0] == "delay_model"


def test_in_a_sensor_the_repository_is_at_hand(instance: dg.DagsterInstance) -> None:
    read: list[ProjectState] = []

    @dg.sensor(target=[delay_model])
    def trail(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        assert context.repository_def is not None
        read.append(ProjectArtifacts(context.repository_def).read(context.instance))
        return dg.SkipReason("nothing to run")

    defs = dg.Definitions([delay_model], sensors=[trail])
    report(instance, "delay_model", uri="s3://ml/delay")
    with dg.build_sensor_context(instance, repository_def=defs.get_repository_def()) as context:
        trail(context)
    assert read[0].models == {"delay_model": "delay_model"}
    assert told(read[0], "s3://ml/delay")[0] == "delay_model"
