"""The signing key is wrong, missing, revoked or lies open: nothing is written, nothing passes, and the right key heals it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from mlsec_dagster.integrity.keys import KeyRing, create_key_file
from mlsec_dagster.integrity.rotation import rotate
from mlsec_dagster.resources import open_store
from tests.faults.claims import as_a_new_process, assert_check_fails, assert_clean, assert_refused_at_read, evaluation_of, said
from tests.faults.projects import key_file, own_writer, verified
from tests.guard.projects import RAN, parquet_project


@pytest.fixture(autouse=True)
def _processes_end() -> Iterator[None]:
    yield
    as_a_new_process()


def _wrong(key: Path) -> None:
    key.unlink()
    create_key_file(key)


def _garbage(key: Path) -> None:
    key.write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0IGtleSBtYXRlcmlhbA==\n-----END PRIVATE KEY-----\n")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "wrong": (_wrong, "is not signed by any trusted key"),
    "missing": (lambda key: key.unlink(), "There is no signing key at"),
    "world-readable": (lambda key: key.chmod(0o644), "can be used by other accounts (mode 0644, expected 0600)"),
    "garbage": (_garbage, "holds no usable private key"),
    "a directory": (lambda key: (key.unlink(), key.mkdir()), "signing key"),  # type: ignore[dict-item, return-value]
}


@pytest.mark.parametrize("name", FAULTS)
def test_with_a_key_that_cannot_be_used_nothing_is_written_or_passes(
    instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path, name: str
) -> None:
    fault, says = FAULTS[name]
    key = key_file(dagster_home)
    project = parquet_project(tmp_path, instance)
    own = own_writer(instance, tmp_path / "own.parquet")
    assert_clean(project)
    as_a_new_process()
    secret = key.read_text()
    shutil.copy2(key, tmp_path / "backup")
    written = (tmp_path / "raw.parquet").stat().st_mtime_ns
    fault(key)

    result = project.run()

    assert not result.success
    assert RAN == []
    assert says in result.failure_message("raw")
    assert (tmp_path / "raw.parquet").stat().st_mtime_ns == written
    assert_refused_at_read(project, says)
    assert_check_fails(project, says)
    result = own.run()
    assert not result.success
    assert RAN == []
    assert not evaluation_of(result).passed
    assert says in said(evaluation_of(result))
    body = "".join(secret.splitlines()[1:-1])
    for run in instance.get_runs():
        assert not any(body in dg.serialize_value(entry) for entry in instance.all_logs(run.run_id))

    as_a_new_process()
    if key.is_dir():
        key.rmdir()
    key.unlink(missing_ok=True)
    shutil.copy2(tmp_path / "backup", key)
    assert key.stat().st_mode & 0o777 == 0o600
    assert_clean(project)
    verified(instance)


def test_a_missing_key_of_a_ledger_that_exists_is_not_replaced_by_a_new_one(
    instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path
) -> None:
    project = parquet_project(tmp_path, instance)
    assert_clean(project)
    as_a_new_process()
    key_file(dagster_home).unlink()
    assert_check_fails(project, "restore it from your backup")
    assert not key_file(dagster_home).exists()


def test_a_revoked_key_writes_nothing_more_and_its_successor_does(instance: dg.DagsterInstance, dagster_home: Path, tmp_path: Path) -> None:
    project = parquet_project(tmp_path, instance)
    assert_clean(project)
    ledger = open_store(instance)
    assert ledger.signer is not None
    old = ledger.signer.sealing.fingerprint
    create_key_file(tmp_path / "new.pem")
    rotate(ledger, KeyRing.from_file(tmp_path / "new.pem"), reason="stolen")
    as_a_new_process()

    result = project.run()  # the pipeline still has the old key

    assert not result.success
    assert RAN == []
    assert "revoked" in result.failure_message("raw")
    assert old in result.failure_message("raw")
    assert_check_fails(project, "revoked")

    as_a_new_process()
    shutil.copy2(tmp_path / "new.pem", key_file(dagster_home))
    assert project.run("features").success  # what the old key sealed before it was revoked is vouched for by the new one
    assert_clean(project)
    verified(instance)
