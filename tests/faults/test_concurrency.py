"""Several processes at once, and processes that are killed: no fork, no gap, nothing lost, nothing used that is not sealed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

import mlsec_dagster as mlsec
from mlsec_dagster import SecurityStore
from mlsec_dagster.integrity.statements import WRITE
from mlsec_dagster.resources import open_store
from tests.faults.projects import reconciled, verified
from tests.faults.workers import KILLS, RUNS, WRITERS
from tests.guard.projects import ParquetIOManager, flights

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]


def work(mode: str, base: Path, url: str | None = None) -> dict[str, Any]:
    """Run `tests.faults.workers` and return its report."""
    command = [sys.executable, "-m", "tests.faults.workers", mode, str(base), *([url] if url else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    report: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert all(code == 0 for code in report.get("exits", [])), done.stderr[-8000:]
    return report


def assert_each_run_is_sealed(instance: dg.DagsterInstance, store: SecurityStore | None) -> None:
    found = reconciled(instance, store)
    assert found.materializations == 2 * WRITERS * RUNS
    ledger = open_store(instance, store)
    for asset in ("raw", "features"):
        records = instance.fetch_materializations(dg.AssetKey(asset), limit=1000).records
        sealed = {(e.statement.partition, e.statement.predicate["run_id"]) for e in ledger.history(asset, types=(WRITE,))}
        assert {(record.partition_key, record.run_id) for record in records} == sealed
        assert len(records) == WRITERS * RUNS
    verification = verified(instance, store)
    # Each materialization was sealed by its writer and by its check, and left a window behind.
    assert verification.size == 3 * 2 * WRITERS * RUNS


@pytest.mark.slow
def test_runs_in_several_processes_seal_at_once_on_a_new_sqlite_ledger(disk_instance: dg.DagsterInstance, tmp_path: Path) -> None:
    work("writers", tmp_path)
    assert_each_run_is_sealed(disk_instance, None)


@pytest.mark.slow
def test_runs_in_several_processes_seal_at_once_on_a_new_postgresql_ledger(
    disk_instance: dg.DagsterInstance, tmp_path: Path, postgres_url: str
) -> None:
    work("writers", tmp_path, postgres_url)
    assert_each_run_is_sealed(disk_instance, SecurityStore(url=postgres_url))


def assert_kills_lose_nothing(report: dict[str, Any]) -> None:
    assert set(report) == set(KILLS)
    for point, found in report.items():
        assert found["signal"] == signal.SIGKILL, point
        assert found["ended"] == 0, point
        assert found["problems"] == [], point
        assert found["unsealed"] == [], point
        assert (found["again"], found["again ran"]) == (True, ["features"]), point
        if point in KILLS[:3]:
            # What lies there was not sealed: whoever reads it next is told so, and the run after heals it.
            assert (found["reader"], found["reader ran"]) == (False, []), point
            assert "raw[w0] is not what run" in found["reader says"], point
        else:
            # It was sealed by its writer before the kill, so its bytes are known.
            assert (found["reader"], found["reader ran"]) == (True, ["features"]), point


@pytest.mark.slow
def test_a_run_killed_at_any_point_loses_nothing_on_sqlite(disk_instance: dg.DagsterInstance, tmp_path: Path) -> None:
    assert_kills_lose_nothing(work("kills", tmp_path))
    verified(disk_instance)


@pytest.mark.slow
def test_a_run_killed_at_any_point_loses_nothing_on_postgresql(
    disk_instance: dg.DagsterInstance, tmp_path: Path, postgres_url: str
) -> None:
    assert_kills_lose_nothing(work("kills", tmp_path, postgres_url))
    verified(disk_instance, SecurityStore(url=postgres_url))


# The multiprocess executor


@dg.success_hook
def attack_after_write(context: dg.HookContext) -> None:
    """Stands between the write of `raw` and its check, in the process of the write."""
    base = Path(os.environ["FAULTS_BASE"])
    if context.op.name == "raw" and (base / "attack").exists():
        flights(100, seed=666).to_parquet(base / "raw.parquet")


def multiprocess_job(name: str) -> dg.JobDefinition:
    base = Path(os.environ["FAULTS_BASE"])

    @dg.asset(io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(100)

    @dg.asset(io_manager_key="parquet")
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        (base / "features ran").touch()
        return raw

    defs = dg.Definitions(
        assets=[raw, features],
        resources={"parquet": ParquetIOManager(base_dir=str(base))},
        jobs=[
            dg.define_asset_job("everything", hooks={attack_after_write}),
            dg.define_asset_job("consumer", selection=dg.AssetSelection.assets("features").without_checks()),
        ],
        executor=dg.multiprocess_executor.configured(
            {"max_concurrent": 1, "start_method": {"forkserver": {"preload_modules": ["tests.faults.test_concurrency", "pyarrow.parquet"]}}}
        ),
    )
    return mlsec.guard(defs, datasets=["raw"]).resolve_job_def(name)


def everything_job() -> dg.JobDefinition:
    return multiprocess_job("everything")


def consumer_job() -> dg.JobDefinition:
    return multiprocess_job("consumer")


@pytest.mark.slow
def test_the_multiprocess_executor_seals_checks_and_stops(
    disk_instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULTS_BASE", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = tmp_path / "features ran"

    def run(job: Callable[[], dg.JobDefinition]) -> tuple[bool, dict[str, bool], str]:
        ran.unlink(missing_ok=True)
        with dg.execute_job(dg.reconstructable(job), instance=disk_instance) as result:
            failures = [event.event_specific_data.error for event in result.all_events if event.is_step_failure]
            messages = [line for error in failures for line in (error.message, error.cause.message if error.cause else "")]
            evaluations = {each.check_name: each.passed for each in result.get_asset_check_evaluations()}
            return result.success, evaluations, "\n".join(messages)

    assert run(everything_job)[:2] == (True, {"dataset_hash": True, "distribution_stability": True})
    assert ran.exists()

    original = (tmp_path / "raw.parquet").read_bytes()
    flights(100, seed=666).to_parquet(tmp_path / "raw.parquet")
    success, _, message = run(consumer_job)
    assert not success
    assert not ran.exists()
    assert "raw is not what run" in message
    (tmp_path / "raw.parquet").write_bytes(original)

    (tmp_path / "attack").touch()
    success, verdicts, _ = run(everything_job)
    assert (success, verdicts["dataset_hash"]) == (False, False)
    assert not ran.exists()
    verified(disk_instance)
