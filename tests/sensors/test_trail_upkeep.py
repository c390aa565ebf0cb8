"""The nightly job, and what the trail's settings ask for."""

from pathlib import Path

import dagster as dg
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster.audit.pseudonym_keys import PseudonymKeys, create_pseudonym_keys
from mlsec_dagster.audit.pseudonyms import Pseudonyms
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import ConfigurationError
from tests.audit.trail.made import line, rows
from tests.sensors.test_audit_log import tick, trail_of


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def run(instance: dg.DagsterInstance, trail: mlsec.AuditTrail | None = None) -> dg.ExecuteInProcessResult:
    defs = mlsec.build_audit_trail_definitions(trail=trail)
    return defs.resolve_job_def("audit_trail_upkeep").execute_in_process(instance=instance, raise_on_error=False)


def many_files(logs: Path, instance: dg.DagsterInstance, trail: mlsec.AuditTrail | None = None) -> None:
    sensor = mlsec.build_audit_log_sensor(source=mlsec.MLflow(directory=str(logs)), trail=trail)
    for number in range(5):
        (logs / f"{number}.jsonl").write_bytes(line(number))
        tick(sensor, instance)


def test_the_nightly_job_merges_small_files_and_keeps_every_row(logs, instance, dagster_home):
    many_files(logs, instance)
    before = trail_of(dagster_home).open().files()
    assert run(instance).success
    after = trail_of(dagster_home).open().files()
    assert (len(before), len(after)) == (5, 1)
    assert sorted(row["id"] for row in rows(trail_of(dagster_home), "id")) == [f"request-{number}" for number in range(5)]


def test_the_nightly_job_lets_go_of_what_is_over_its_retention(logs, instance, dagster_home):
    many_files(logs, instance)
    (logs / "today.jsonl").write_bytes(line(20_000_000))
    tick(mlsec.build_audit_log_sensor(source=mlsec.MLflow(directory=str(logs))), instance)
    kept = mlsec.AuditTrail(keep_days={"mlflow.audit": 30})
    assert run(instance, kept).success
    assert [row["id"] for row in rows(trail_of(dagster_home), "id")] == ["request-20000000"]


def test_an_edited_file_fails_the_job_and_is_named(logs, instance, dagster_home):
    many_files(logs, instance)
    file = trail_of(dagster_home).open().files()[0]
    path = Path(trail_of(dagster_home).uri) / file.path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = run(instance)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert Path(file.path).name.split("-")[0] in failure.step_failure_data.error.to_string()
    assert len(trail_of(dagster_home).open().files()) == 5


def test_without_a_trail_there_is_nothing_to_do(instance, dagster_home):
    assert run(instance).success


@pytest.mark.parametrize(
    ("keep_days", "said"),
    [({"cloudtrail": 400}, "no source 'cloudtrail'; expected some of aws.cloudtrail"), ({"default": -1}, "expected 1 or more")],
)
def test_a_retention_of_nothing_is_refused_when_the_project_loads_and_not_at_night(keep_days, said, logs):
    with pytest.raises(ConfigurationError, match=said):
        mlsec.guard(dg.Definitions(), audit=[mlsec.MLflow(directory=str(logs))], trail=mlsec.AuditTrail(keep_days=keep_days))


@pytest.mark.parametrize(
    ("uri", "said"), [("trail", "give an absolute path"), ("ftp://host/trail", "expected a directory, or s3://, gs:// or abfss://")]
)
def test_a_trail_that_lies_nowhere_fails_the_tick_with_a_sentence(uri, said, logs, instance, dagster_home):
    with pytest.raises(ConfigurationError, match=said):
        tick(mlsec.build_audit_log_sensor(source=mlsec.MLflow(directory=str(logs)), trail=mlsec.AuditTrail(uri=uri)), instance)


def test_persons_are_stored_under_pseudonyms_if_the_trail_says_so(logs, instance, dagster_home, tmp_path):
    create_pseudonym_keys(tmp_path / "keys.json")
    trail = mlsec.AuditTrail(uri=str(tmp_path / "pseudonymous"), pseudonym_keys=str(tmp_path / "keys.json"))
    (logs / "a.jsonl").write_bytes(line(1, user="ann@example.com", address="192.0.2.7"))
    tick(mlsec.build_audit_log_sensor(source=mlsec.MLflow(directory=str(logs)), trail=trail), instance)
    (row,) = rows(Trail(str(tmp_path / "pseudonymous")), "principal", "address")
    assert "ann" not in row["principal"]
    pseudonyms = Pseudonyms(PseudonymKeys.from_file(tmp_path / "keys.json"))
    assert pseudonyms.reveal(row["principal"]) == "ann@example.com"
    assert pseudonyms.reveal(row["address"]) == "192.0.2.7"
