"""The sensor, as Dagster's daemon runs it."""

import json
import os
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import SensorExecutionErrorSnap
from dagster._grpc.impl import get_external_sensor_execution

import mlsec_dagster as mlsec
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import ConfigurationError, StoreError
from tests.audit.trail.made import delivery, ids, line, rows


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None, **resources) -> Any:
    definitions = dg.Definitions(sensors=[sensor], resources=resources)
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, definitions=definitions, sensor_name=sensor.name, resources=resources
    )
    return sensor.evaluate_tick(context)


def trail_of(home: Path) -> Trail:
    return Trail(str(home / "mlsec" / "trail"))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def test_a_tick_puts_the_log_into_the_trail_and_materializes_its_days(logs, instance, dagster_home):
    (logs / "a.json.gz").write_bytes(delivery([0, 1, 2, 86400]))
    sensor = mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(directory=str(logs)))
    result = tick(sensor, instance)
    assert ids(trail_of(dagster_home)) == {f"event-{number}": 1 for number in (0, 1, 2, 86400)}
    days = {
        event.partition: event.metadata["new rows"].value for event in result.asset_events if isinstance(event, dg.AssetMaterialization)
    }
    assert days == {"2026-05-01": 3, "2026-05-02": 1}
    assert "1 log objects read, 4 new events" in result.skip_message  # Dagster itself would say "empty result" of this tick.
    again = tick(sensor, instance, result.cursor)
    assert not again.asset_events
    assert "Nothing new" in again.skip_message


def test_a_lost_cursor_reads_nothing_twice(logs, instance, dagster_home):
    (logs / "a.json.gz").write_bytes(delivery(range(10)))
    sensor = mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(directory=str(logs)))
    tick(sensor, instance)
    for cursor in (None, "", "no json", json.dumps({"v": 99})):
        tick(mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(directory=str(logs))), instance, cursor)
    assert ids(trail_of(dagster_home)) == {f"event-{number}": 1 for number in range(10)}


def test_the_real_bucket_is_read_with_the_projects_own_resource(s3_bucket, instance, dagster_home):
    import boto3
    from dagster_aws.s3 import S3Resource

    client = boto3.client("s3")
    key = "AWSLogs/123456789012/CloudTrail/eu-west-1/2026/05/01/123456789012_CloudTrail_eu-west-1_20260501T0005Z_abcdefghijklmnop.json.gz"
    client.put_object(Bucket=s3_bucket, Key=key, Body=delivery(range(10)))
    sensor = mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(bucket=s3_bucket, accounts=["123456789012"]))
    tick(sensor, instance, s3=S3Resource())
    assert ids(trail_of(dagster_home)) == {f"event-{number}": 1 for number in range(10)}
    (where,) = {row["log_object"] for row in rows(trail_of(dagster_home), "log_object")}
    assert where == f"s3://{s3_bucket}/{key}"


def test_an_access_to_a_materialized_asset_is_told_as_one(logs, instance, dagster_home):
    instance.report_runless_asset_event(dg.AssetMaterialization("fraud_features", metadata={"uri": "s3://ml-models/fraud/"}))
    (logs / "a.json.gz").write_bytes(delivery(range(3)))
    tick(mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(directory=str(logs))), instance)
    told = {(row["artifact_kind"], row["artifact_asset"], row["resolved_by"]) for row in rows(trail_of(dagster_home))}
    assert told == {("dataset", "fraud_features", "materialization")}


def test_the_check_fails_for_a_log_that_has_gone_quiet_and_names_it(logs, instance, dagster_home):
    import os

    (logs / "old.jsonl").write_bytes(line(1))
    os.utime(logs / "old.jsonl", (1_700_000_000, 1_700_000_000))
    result = tick(mlsec.build_audit_log_sensor(source=mlsec.MLflow(directory=str(logs))), instance)
    (evaluation,) = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    assert not evaluation.passed
    assert "quiet since" in evaluation.description
    defs = mlsec.build_audit_trail_definitions()
    run = defs.resolve_implicit_global_asset_job_def()
    assert run is not None
    (again,) = [
        event.event_specific_data
        for event in defs.resolve_job_def("__ASSET_JOB").execute_in_process(instance=instance).all_events
        if event.event_type_value == "ASSET_CHECK_EVALUATION"
    ]
    assert not again.passed


def test_what_cannot_be_reached_fails_the_tick_with_a_sentence(tmp_path, s3_bucket, instance, dagster_home):
    from dagster_aws.s3 import S3Resource

    with pytest.raises(ConfigurationError, match="no directory"):
        tick(mlsec.build_audit_log_sensor(source=mlsec.MLflow(directory=str(tmp_path / "nowhere"))), instance)
    with pytest.raises(StoreError, match="no-such-bucket"):
        tick(mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(bucket="no-such-bucket")), instance, s3=S3Resource())
    for source, expected in (
        (mlsec.MLflow(bucket="b", cloud="gcp", resource_key="s3"), "GCSResource"),
        (mlsec.AzureMonitor(bucket="b", resource_key="s3"), "ADLS2Resource"),
    ):
        with pytest.raises(ConfigurationError, match=f"the resource 's3', which gives a S3: expected that of a {expected}"):
            tick(mlsec.build_audit_log_sensor(source=source), instance, s3=S3Resource())


def test_a_resource_that_is_not_there_is_told_by_the_daemon_too_which_looks_for_it_before_the_sensor_runs(instance, dagster_home):
    defs = mlsec.guard(dg.Definitions(), audit=[mlsec.CloudTrail(bucket="org-trail")])
    repository = defs.get_repository_def()
    answer = get_external_sensor_execution(
        repository,
        None,
        instance.get_ref(),
        "cloudtrail_audit_log",
        None,
        None,
        None,
        None,
        None,  # type: ignore[arg-type]
    )
    assert isinstance(answer, SensorExecutionErrorSnap)
    assert "CloudTrail at 'org-trail' is read with the resource 's3', which this project does not have: add" in answer.error.message


def test_a_source_that_is_none_is_refused_at_once():
    with pytest.raises(ConfigurationError, match="expected a log such as"):
        mlsec.build_audit_log_sensor(source="s3://bucket")
    with pytest.raises(ConfigurationError, match="bucket or in a directory"):
        mlsec.CloudTrail()
    with pytest.raises(ConfigurationError, match="a single CloudTrail: put it into brackets"):
        mlsec.guard(dg.Definitions(), audit=mlsec.CloudTrail(bucket="b"))
    with pytest.raises(ConfigurationError, match=r"A dict was given as artifacts; expected an mlsec.ArtifactMap"):
        mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(bucket="b"), artifacts={"templates": {}})


def test_guard_tails_logs_in_the_line_that_guards_datasets(logs, instance, dagster_home):
    @dg.asset
    def training_set() -> int:
        return 1

    defs = mlsec.guard(
        dg.Definitions(assets=[training_set]),
        datasets=["training_set"],
        audit=[mlsec.MLflow(directory=str(logs)), mlsec.CloudTrail(directory=str(logs / "aws")), mlsec.CloudTrail(bucket="b")],
    )
    assert [sensor.name for sensor in defs.sensors] == ["mlflow_audit_log", "cloudtrail_audit_log_1", "cloudtrail_audit_log_2"]
    assert dg.AssetKey("audit_trail") in {spec.key for spec in defs.resolve_all_asset_specs()}
    checks = {key.name for check in defs.asset_checks for key in check.check_keys}
    assert checks == {"dataset_hash", "distribution_stability", "log_completeness"}


def test_guard_tails_logs_of_a_project_without_datasets(logs):
    defs = mlsec.guard(dg.Definitions(), audit=[mlsec.MLflow(directory=str(logs))])
    assert [sensor.name for sensor in defs.sensors] == ["mlflow_audit_log"]
    with pytest.raises(ConfigurationError, match="no datasets and no audit logs"):
        mlsec.guard(dg.Definitions())


def test_two_logs_of_one_place_are_refused_as_how_far_each_was_read_could_not_be_told(logs):
    for same in (
        [mlsec.MLflow(directory=str(logs)), mlsec.Kubernetes(directory=f"{logs}/../{logs.name}/")],
        [
            mlsec.CloudTrail(bucket="trail", prefix="AWSLogs", accounts=["123456789012"]),
            mlsec.CloudTrail(bucket="trail", prefix="AWSLogs/"),
        ],
        [mlsec.S3AccessLogs(bucket="logs", prefix="s3/a-"), mlsec.S3AccessLogs(bucket="logs", prefix="s3/b-")],
    ):
        with pytest.raises(ConfigurationError, match=r"given twice.*one folder"):
            mlsec.guard(dg.Definitions(), audit=same)
    apart = [mlsec.AzureMonitor(bucket="*"), mlsec.AzureMonitor(bucket="*", resource_key="other_account"), mlsec.CloudTrail(bucket="logs")]
    assert len(mlsec.guard(dg.Definitions(), audit=apart).sensors) == 3


def test_a_second_guard_adds_logs_to_the_trail_that_the_first_one_made(logs):
    first = mlsec.guard(dg.Definitions(), audit=[mlsec.MLflow(directory=str(logs))])
    both = mlsec.guard(first, audit=[mlsec.MLflow(bucket="shipped")])
    dg.Definitions.validate_loadable(dg.Definitions.merge(both, dg.Definitions(resources={"s3": object()})))
    assert [sensor.name for sensor in both.sensors] == ["mlflow_audit_log", "mlflow_audit_log_1"]
    with pytest.raises(ConfigurationError, match="another store or signer"):
        mlsec.guard(first, audit=[mlsec.MLflow(bucket="shipped")], store=mlsec.SecurityStore(url="sqlite:////srv/other.db"))


def test_logs_can_be_added_to_definitions_that_are_guarded_already(logs):
    @dg.asset
    def training_set() -> int:
        return 1

    guarded = mlsec.guard(dg.Definitions(assets=[training_set]), datasets=["training_set"])
    both = mlsec.guard(guarded, audit=[mlsec.MLflow(directory=str(logs))])
    dg.Definitions.validate_loadable(both)
    assert {key.name for check in both.asset_checks for key in check.check_keys} == {
        "dataset_hash",
        "distribution_stability",
        "log_completeness",
    }
    with pytest.raises(ConfigurationError, match="guarded already"):
        mlsec.guard(guarded, datasets=["training_set"], audit=[mlsec.MLflow(directory=str(logs))])


def test_a_clock_that_was_ten_years_ahead_does_not_put_off_the_next_reconciliation(logs, instance, dagster_home, monkeypatch):
    (logs / "a.jsonl").write_bytes(line(0))
    sensor = mlsec.build_audit_log_sensor(source=mlsec.MLflow(directory=str(logs)))
    with monkeypatch.context() as patched:
        seconds, nanoseconds = time.time, time.time_ns
        patched.setattr(time, "time", lambda: seconds() + 3650 * 86_400)
        patched.setattr(time, "time_ns", lambda: nanoseconds() + 3650 * 86_400 * 10**9)
        tick(sensor, instance)
    (logs / "old.jsonl").write_bytes(line(1))
    os.utime(logs / "old.jsonl", (1_700_000_000, 1_700_000_000))
    tick(sensor, instance)
    assert ids(trail_of(dagster_home)) == {"request-0": 1, "request-1": 1}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mlsec.CloudTrail(bucket="b", accounts=[123456789012]), r"accounts=\[123456789012\]: expected account numbers as texts"),
        (lambda: mlsec.CloudTrail(bucket="b", accounts="123456789012"), "expected account numbers as texts"),
        (lambda: mlsec.CloudTrail(bucket="b", accounts=["12345678901"]), "expected account numbers as texts"),
        (lambda: mlsec.AzureMonitor(bucket="*", categories=["StorageRead"]), "expected categories in small letters"),
        (lambda: mlsec.AzureMonitor(bucket="*", categories="storageread"), "expected categories in small letters"),
        (lambda: mlsec.CloudTrail(bucket="s3://org-trail/AWSLogs/"), "is no name of a bucket: give CloudTrail the name alone"),
        (lambda: mlsec.MLflow(bucket="b", cloud="ibm"), "There is no cloud 'ibm'; expected one of aws, gcp, azure"),
        (lambda: mlsec.MLflow(), "in a bucket or in a directory"),
        (lambda: mlsec.MLflow(bucket="b", directory="/logs"), "in a bucket or in a directory"),
        (lambda: mlsec.MLflow(directory=""), "'' is no local directory"),
        (lambda: mlsec.MLflow(directory="s3://mlflow-audit/"), "is no local directory: give the path of one, or bucket and prefix"),
        (lambda: mlsec.CloudTrail(bucket="*"), "CloudTrail lies in one bucket: give its name"),
        (lambda: mlsec.CloudTrail(bucket=dg.EnvVar("TRAIL")), r"bucket=EnvVar\('TRAIL'\): .* give os.environ\['TRAIL'\]"),
        (lambda: mlsec.MLflow(directory=dg.EnvVar("LOGS")), r"directory=EnvVar\('LOGS'\)"),
    ],
)
def test_what_would_read_nothing_is_refused_when_it_is_written(make, said):
    with pytest.raises(ConfigurationError, match=said):
        make()
