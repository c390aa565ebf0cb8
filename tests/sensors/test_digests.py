"""Digest files, verified by the sensor as Dagster's daemon runs it."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pytest
from dagster_aws.s3 import S3Resource

import mlsec_dagster as mlsec
from mlsec_dagster.errors import ConfigurationError
from mlsec_dagster.sensors import audit_log
from tests.audit.trail.deliveries import KEY, Delivering, der, fingerprint
from tests.audit.trail.made import delivery
from tests.sensors.test_audit_log import tick


@pytest.fixture
def aws(s3_bucket: str) -> Delivering:
    return Delivering(boto3.client("s3"), s3_bucket)


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "key.der").write_bytes(der(KEY))
    return {fingerprint(KEY): str(tmp_path / "key.der")}


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "PROVE_EVERY", 0.0)


def evaluated(aws: Delivering, instance: dg.DagsterInstance, cursor: str | None = None, **settings: Any) -> tuple[Any, str]:
    """The check's evaluation after a tick of a new process, and the sensor's cursor."""
    result = tick(mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(bucket=aws.bucket, **settings)), instance, cursor, s3=S3Resource())
    found = [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]
    return (found[0] if found else None), result.cursor


def shown(evaluation: Any) -> str:
    return f"{evaluation.description} {[value.value for value in evaluation.metadata.values()]}"


def proven(evaluation: Any) -> str:
    (record,) = evaluation.metadata["logs"].records
    return str(record.data.get("proven up to", ""))


def test_the_watermark_says_up_to_when_digest_files_prove_the_log(aws, keys, instance, dagster_home):
    for hour in range(6):
        aws.deliver(hour)
    evaluation, _ = evaluated(aws, instance, public_keys=keys)
    assert evaluation.passed
    assert proven(evaluation) == f"{aws.first + timedelta(hours=6):%Y-%m-%d %H:%M:%S}"


def test_a_deleted_log_file_fails_the_check_and_is_named(aws, keys, instance, dagster_home):
    for hour in range(5):
        aws.deliver(hour)
    _, cursor = evaluated(aws, instance, public_keys=keys)
    aws.deliver(5)
    aws.delete(aws.logs[-1])
    evaluation, cursor = evaluated(aws, instance, cursor, public_keys=keys)
    assert not evaluation.passed
    assert aws.logs[-1] in shown(evaluation)
    again, _ = evaluated(aws, instance, public_keys=keys)
    assert not again.passed


def test_a_log_file_that_was_altered_before_it_was_read_fails_the_check(aws, keys, instance, dagster_home):
    for hour in range(6):
        aws.deliver(hour)
    aws.put(aws.logs[-1], delivery([900]))
    evaluation, _ = evaluated(aws, instance, public_keys=keys)
    assert not evaluation.passed
    assert aws.logs[-1] in shown(evaluation)


def test_without_keys_nothing_is_proven_and_it_is_said_what_to_do(aws, instance, dagster_home):
    for hour in range(6):
        aws.deliver(hour)
    evaluation, _ = evaluated(aws, instance)
    assert evaluation.passed
    assert "not verified" in shown(evaluation)
    assert "cloudtrail:ListPublicKeys" in shown(evaluation)
    assert proven(evaluation) == ""


def test_without_digest_files_it_is_said_how_to_switch_them_on(aws, keys, instance, dagster_home):
    aws.log(aws.first)
    evaluation, _ = evaluated(aws, instance, public_keys=keys)
    assert "--enable-log-file-validation" in shown(evaluation)


def test_a_key_that_cannot_be_read_is_refused_at_once(aws):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(bucket=aws.bucket, public_keys={"ea2f": "/no/such/key.der"}))


def test_digest_files_are_looked_for_every_ten_minutes_and_not_at_every_tick(aws, keys, instance, dagster_home, monkeypatch):
    monkeypatch.setattr(audit_log, "PROVE_EVERY", 600.0)
    looked: list[Any] = []
    prove = audit_log.prove
    monkeypatch.setattr(audit_log, "prove", lambda *given, **more: looked.append(prove(*given, **more)))
    for hour in range(6):
        aws.deliver(hour)
    for _ in range(3):
        evaluated(aws, instance, public_keys=keys)
    (proof,) = looked
    assert proof.verified == 6
