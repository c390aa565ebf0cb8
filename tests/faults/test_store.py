"""The security store fails: nothing is used that could not be verified, every check says why, and nothing is lost."""

import errno
import os
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
import pytest
from dagster._core.launcher import DefaultRunLauncher

from mlsec_dagster import SecurityStore
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.statements import WRITE, Statement
from mlsec_dagster.resources import open_store
from mlsec_dagster.storage.tables import VERSION_TABLE
from tests.faults.claims import (
    as_a_new_process,
    assert_blocked_between_write_and_check,
    assert_check_fails,
    assert_clean,
    assert_clear,
    assert_refused_at_read,
    evaluation_of,
    said,
)
from tests.faults.projects import full_disk, ledger_file, own_writer, reconciled, verified
from tests.guard.projects import RAN, flights, parquet_project

pytestmark = pytest.mark.timeout(120)

PASSWORD = "s3cr3t/p@ss w0rd"


@pytest.fixture(autouse=True)
def _processes_end() -> Iterator[None]:
    yield
    as_a_new_process()


def assert_said_nowhere(secret: str, instance: dg.DagsterInstance, captured: pytest.CaptureFixture[str]) -> None:
    """Neither in an event, its stack trace or metadata, nor on the console."""
    out, err = captured.readouterr()
    texts = [out, err]
    for run in instance.get_runs():
        texts += [dg.serialize_value(entry) for entry in instance.all_logs(run.run_id)]
    assert sum(map(len, texts)) > 5_000
    for form in {secret, *(part for part in secret.replace("/", " ").split() if len(part) > 5)}:
        assert not any(form in text for text in texts)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# Unreachable


def test_without_its_database_nothing_is_written_read_or_passed_and_no_password_is_told(
    instance: dg.DagsterInstance, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from urllib.parse import quote

    url = f"postgresql+psycopg://mlsec:{quote(PASSWORD, safe='')}@127.0.0.1:{closed_port()}/ledger?connect_timeout=2"
    store = SecurityStore(url=url)
    project = parquet_project(tmp_path, instance, store=store)
    result = project.run()
    assert not result.success
    assert not (tmp_path / "raw.parquet").exists()
    assert RAN == []
    message = result.failure_message("raw")
    assert "The security store postgresql+psycopg://mlsec:***@127.0.0.1" in message
    assert "check that it is there, reachable" in message

    own = own_writer(instance, tmp_path / "own.parquet", store=store)
    result = own.run()
    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert "The security store postgresql+psycopg://mlsec:***@127.0.0.1" in said(evaluation_of(result))
    assert_clear(said(evaluation_of(result)))
    assert_said_nowhere(PASSWORD, instance, capfd)


def test_a_database_that_goes_away_and_comes_back_loses_nothing(
    instance: dg.DagsterInstance, tmp_path: Path, postgres_url: str, postgres_server: Any
) -> None:
    store = SecurityStore(url=postgres_url)
    name = urlsplit(postgres_url).path.lstrip("/")
    project = parquet_project(tmp_path, instance, store=store)

    def stop() -> None:
        postgres_server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false;")
        postgres_server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}';")

    def start() -> None:
        postgres_server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true;")

    assert_clean(project)
    assert_blocked_between_write_and_check(project, stop, "raw could not be verified: The security store postgresql", "run again")
    assert_refused_at_read(project, "The security store")
    assert_check_fails(project, "The security store")
    start()
    assert evaluation_of(project.check("raw")).passed  # what was written and sealed before it went away
    assert_clean(project)
    verified(instance, store)
    reconciled(instance, store)


# Full


def test_a_full_disk_stops_the_run_and_with_room_made_it_goes_on(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert_clean(project)
    with full_disk(instance):
        result = project.run()
        assert not result.success
        assert RAN == []
        assert "its disk is full" in result.failure_message("raw")
        assert_check_fails(project, "its disk is full")
    assert_clean(project)
    verified(instance)


def test_a_disk_that_fills_between_write_and_check_gives_a_failed_evaluation(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    project = own_writer(instance, tmp_path / "own.parquet")
    assert_clean(project)
    with full_disk(instance):
        result = project.run()
    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert "its disk is full" in said(evaluation_of(result))
    assert_clear(said(evaluation_of(result)))
    assert_clean(project)
    verified(instance)


def test_a_full_temporary_directory_stops_the_private_copy_and_nothing_is_used(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = parquet_project(tmp_path, instance)
    assert_clean(project)

    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr("mlsec_dagster.integrity.files.os.write", no_space)
        assert_refused_at_read(project, "No space left on device", "temporary directory")
        assert_check_fails(project, "No space left on device", "temporary directory")
    assert_clean(project)


# Not what it was


def test_a_store_of_a_newer_version_is_left_alone(instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert_clean(project)
    as_a_new_process()

    def set_version(version: str) -> str:
        with sqlite3.connect(ledger_file(dagster_home)) as connection:
            old = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()[0]
            connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = ?", (version,))
        return old

    ours = set_version("9999")
    written = (tmp_path / "raw.parquet").stat().st_mtime_ns
    result = project.run()
    assert not result.success
    assert RAN == []
    assert "was written by a newer version of mlsec-dagster" in result.failure_message("raw")
    assert (tmp_path / "raw.parquet").stat().st_mtime_ns == written
    assert_refused_at_read(project, "newer version")
    assert_check_fails(project, "newer version", "Upgrade mlsec-dagster")
    set_version(ours)
    assert_clean(project)
    verified(instance)


@pytest.mark.parametrize("damage", ["overwritten", "emptied of its newest entry", "cut"])
def test_a_damaged_ledger_verifies_nothing_until_it_is_restored(
    instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path, damage: str
) -> None:
    project = parquet_project(tmp_path, instance)
    assert_clean(project)
    as_a_new_process()
    file = ledger_file(dagster_home)
    shutil.copy(file, tmp_path / "backup")
    if damage == "overwritten":
        file.write_bytes(os.urandom(file.stat().st_size))
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        with sqlite3.connect(file) as connection:
            connection.execute("DELETE FROM mlsec_entries WHERE position = (SELECT max(position) FROM mlsec_entries WHERE asset = 'raw')")
    assert_refused_at_read(project)
    assert_check_fails(project, "raw could not be verified")
    as_a_new_process()
    for path in file.parent.glob("ledger.db*"):
        path.unlink()
    shutil.copy(tmp_path / "backup", file)
    assert_clean(project)
    verified(instance)


def test_an_old_copy_of_the_ledger_does_not_bring_old_data_back(instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path) -> None:
    project = parquet_project(tmp_path / "data", instance)
    (tmp_path / "data").mkdir()
    assert_clean(project)
    as_a_new_process()
    shutil.copytree(tmp_path / "data", tmp_path / "old")
    shutil.copy(ledger_file(dagster_home), tmp_path / "backup")
    assert_clean(project)
    as_a_new_process()
    for path in ledger_file(dagster_home).parent.glob("ledger.db*"):
        path.unlink()
    shutil.copy(tmp_path / "backup", ledger_file(dagster_home))
    shutil.copytree(tmp_path / "old", tmp_path / "data", dirs_exist_ok=True)
    assert_refused_at_read(project, "without being sealed")
    assert_check_fails(project, "without being sealed")


# The witness


def test_a_witness_that_is_down_loses_no_verdict_and_its_silence_is_told(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    (tmp_path / "in the way").touch()
    store = SecurityStore(witness=str(tmp_path / "in the way" / "witness"), witness_every_minutes=0)
    project = parquet_project(tmp_path, instance, store=store)
    result = project.run()
    assert result.success
    assert RAN == ["features"]
    evaluation = evaluation_of(result)
    assert evaluation.passed
    told = evaluation.metadata["rollback of the ledger"].value
    assert told.startswith("not verifiable: The witness")
    (tmp_path / "in the way").unlink()
    RAN.clear()
    evaluation = evaluation_of(project.run())
    assert evaluation.passed
    assert "rollback of the ledger" not in evaluation.metadata
    assert verified(instance, store).rollback == "verified"


@pytest.mark.parametrize("noticed_by", ["the next process", "a process that had it open"])
def test_a_rollback_of_everything_is_noticed_with_a_witness(
    instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path, noticed_by: str
) -> None:
    """Ledger and data are put back to an older state together."""
    store = SecurityStore(witness=str(tmp_path / "witness"), witness_every_minutes=0)
    (tmp_path / "data").mkdir()
    project = parquet_project(tmp_path / "data", instance, store=store)
    own = own_writer(instance, tmp_path / "own.parquet", store=store)
    assert_clean(project)
    open_store(instance, store).close()
    shutil.copy(ledger_file(dagster_home), tmp_path / "backup")
    shutil.copytree(tmp_path / "data", tmp_path / "old")
    assert_clean(project)
    open_store(instance, store).close()
    if noticed_by == "the next process":
        as_a_new_process()
    for path in ledger_file(dagster_home).parent.glob("ledger.db*"):
        path.unlink()
    shutil.copy(tmp_path / "backup", ledger_file(dagster_home))
    shutil.copytree(tmp_path / "old", tmp_path / "data", dirs_exist_ok=True)

    result = project.run()

    assert not result.success
    assert RAN == []
    assert "rolled back" in result.failure_message("raw")
    assert_check_fails(project, "rolled back")
    result = own.run()
    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert "rolled back" in said(evaluation_of(result))


def test_a_fork_that_the_witness_has_seen_fails_the_check_of_a_process_that_is_running(
    instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path
) -> None:
    """Somebody with the key has gone on with a copy of the ledger, and the witness knows that one."""
    store = SecurityStore(witness=str(tmp_path / "witness"), witness_every_minutes=0)
    project = parquet_project(tmp_path, instance, store=store)
    assert_clean(project)
    ledger = open_store(instance, store)
    assert ledger.signer is not None
    ledger.close()
    shutil.copy(ledger_file(dagster_home), tmp_path / "copy.db")
    copy = open_ledger(f"sqlite:///{tmp_path}/copy.db", signer=ledger.signer, trust=ledger.trust, witness=ledger.witness)
    copy.append([Statement("elsewhere", None, WRITE, {"blake3": "00" * 32}, {"run_id": "-"})] * 20)
    copy.witness_now()
    copy.close()

    result = project.run()

    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert "raw could not be verified: The witness has" in said(evaluation_of(result))


@pytest.mark.parametrize("witnessed", [True, False])
def test_with_the_ledger_deleted_data_is_adopted_again_only_where_no_witness_remembers_it(
    instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path, witnessed: bool
) -> None:
    store = SecurityStore(witness=str(tmp_path / "witness") if witnessed else None, witness_every_minutes=0)
    project = parquet_project(tmp_path, instance, store=store)
    assert_clean(project)
    as_a_new_process()
    for path in ledger_file(dagster_home).parent.glob("ledger.db*"):
        path.unlink()
    flights(1000, seed=666).to_parquet(tmp_path / "raw.parquet")
    if witnessed:
        assert_refused_at_read(project, "it was rolled back")
        assert_check_fails(project, "it was rolled back")
        (tmp_path / "raw.parquet").unlink()
        shutil.rmtree(tmp_path / "witness")  # by its owner, who has decided to begin anew
        as_a_new_process()
        assert_clean(project)
    else:
        # Without a witness this cannot be told from the first day; it stays visible as an adoption.
        (evaluation,) = project.check("raw").get_asset_check_evaluations()
        assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert "adopted" in said(evaluation)


# No place for it


def test_without_a_home_the_check_of_a_self_written_asset_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        project = own_writer(instance, tmp_path / "own.parquet")
        result = project.run()
        assert not result.success
        assert RAN == []
        assert not evaluation_of(result).passed
        assert "DAGSTER_HOME is not set" in said(evaluation_of(result))
        assert_clear(said(evaluation_of(result)))


class PodLauncher(DefaultRunLauncher):
    """Stands for a launcher that starts a machine for each run."""


def test_a_launcher_of_other_machines_is_refused_with_sqlite_and_welcome_with_postgresql(
    dagster_home: Path, tmp_path: Path, postgres_url: str
) -> None:
    (dagster_home / "dagster.yaml").write_text(f"run_launcher:\n  module: {PodLauncher.__module__}\n  class: PodLauncher\n")
    with dg.DagsterInstance.get() as instance:
        assert type(instance.run_launcher).__name__ == "PodLauncher"
        project = parquet_project(tmp_path, instance)
        result = project.run()
        assert not result.success
        assert RAN == []
        assert not (tmp_path / "raw.parquet").exists()
        assert "would lie on the disk of the machine that runs one step, and PodLauncher" in result.failure_message("raw")
        assert_clean(parquet_project(tmp_path, instance, store=SecurityStore(url=postgres_url)))


@dg.executor(name="pods")
def pods(_: Any) -> Any:
    """Stands for an executor that starts a machine for each step."""
    from dagster._core.execution.retries import RetryMode
    from dagster._core.executor.in_process import InProcessExecutor

    return InProcessExecutor(RetryMode.DISABLED)


def job_of_pods() -> dg.JobDefinition:
    import mlsec_dagster as mlsec

    @dg.asset
    def raw() -> int:
        return 1

    @dg.asset
    def features(raw: int) -> None:
        RAN.append("features")

    defs = dg.Definitions(assets=[raw, features], executor=pods, jobs=[dg.define_asset_job("everything")])
    return mlsec.guard(defs, datasets=["raw"]).resolve_job_def("everything")


def test_an_executor_of_other_machines_is_refused_with_sqlite(disk_instance: dg.DagsterInstance) -> None:
    with dg.execute_job(dg.reconstructable(job_of_pods), instance=disk_instance) as result:
        assert not result.success
        assert RAN == []
        cause = result.failure_data_for_node("raw").error.cause
        assert "the executor pods" in cause.message
