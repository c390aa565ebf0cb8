"""Processes of one project, started by `test_concurrency.py`: `python -m tests.faults.workers <mode> <base> [<url>]`.

Everything is imported once, and each process is a fork of that: so they really run at once, and a kill hits nothing but its own.
Prints one JSON document on the last line.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow.parquet  # noqa: F401 - here, so that no fork has to

import mlsec_dagster.asset_checks.examination
import mlsec_dagster.integrity.tables
import mlsec_dagster.integrity.verification
import mlsec_dagster.reconciliation
import mlsec_dagster.storage.database
from mlsec_dagster import SecurityStore
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.resources import open_store
from tests.faults.baselines import Shop, ordinary
from tests.guard.projects import RAN, ParquetIOManager, Project, flights

WRITERS, RUNS = 4, 3
KILLS = ("half written", "before its seal", "in the transaction of its seal", "after its seal", "in the transaction of its check")


def project(instance: dg.DagsterInstance, base: Path, url: str | None, manager: type[ParquetIOManager] = ParquetIOManager) -> Project:
    """One partition for each writer, and what reads it."""
    parts = dg.StaticPartitionsDefinition([f"w{i}" for i in range(WRITERS)])

    @dg.asset(partitions_def=parts, io_manager_key="parquet")
    def raw() -> pd.DataFrame:
        return flights(200, seed=len(instance.get_runs(limit=100)))

    @dg.asset(partitions_def=parts, io_manager_key="parquet")
    def features(raw: pd.DataFrame) -> pd.DataFrame:
        RAN.append("features")
        return raw

    defs = dg.Definitions(assets=[raw, features], resources={"parquet": manager(base_dir=str(base))})
    return Project(defs, instance, ["raw", "features"], {"store": SecurityStore(url=url)} if url else {})


def forked(work: Callable[[], Any]) -> int:
    """Start a process that does nothing but `work`; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write(base: Path, url: str | None, worker: int) -> None:
    with dg.DagsterInstance.get() as instance:
        mine = project(instance, base, url)
        for _ in range(RUNS):
            RAN.clear()
            result = mine.run(partition=f"w{worker}")
            assert result.success
            assert [e.passed for e in result.get_asset_check_evaluations()] == [True, True]
            assert [e.passed for e in result.get_asset_check_evaluations("distribution_stability")] == [True, True]
            assert RAN == ["features"]


def writers(base: Path, url: str | None) -> dict[str, Any]:
    """Several processes run at once, on a store that is not there yet."""
    return {"exits": [status_of(pid) for pid in [forked(lambda i=i: write(base, url, i)) for i in range(WRITERS)]]}


def windows(base: Path, url: str | None) -> dict[str, Any]:
    """Several processes materialize and check the same asset at once; no window alarms, and no check stops."""

    def run(number: int) -> None:
        with dg.DagsterInstance.get() as instance:
            shop = Shop(instance, base, None)
            for turn in range(2):
                verdict = shop.run(ordinary(2 * number + turn), None)
                assert verdict.outcome == "learning", verdict.sentence

    return {"exits": [status_of(pid) for pid in [forked(lambda i=i: run(i)) for i in range(3)]]}


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_commit(ledger: Ledger) -> None:
    """The next commit is never made. On SQLite the ledger says it to the driver, which SQLAlchemy's own event does not see."""
    from sqlalchemy import event

    engine = ledger.database.engine
    if engine.dialect.name != "sqlite":
        event.listen(engine, "commit", die)
        return
    ledger.close()
    event.listen(engine, "connect", lambda driver, _: driver.set_trace_callback(lambda command: command == "COMMIT" and die()))


def killed(base: Path, url: str | None, point: str) -> None:
    """One run that is killed at one point."""

    class Killed(ParquetIOManager):
        def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: Any) -> None:
            super().dump_to_path(context, obj, path)
            if point == "half written":
                os.truncate(str(path), 1000)
                die()

    append = Ledger.append
    appended: list[int] = []

    def append_and_die(self: Ledger, *arguments: Any, **named: Any) -> Any:
        appended.append(1)
        if point == "before its seal":
            die()
        if (point, len(appended)) in (("in the transaction of its seal", 1), ("in the transaction of its check", 2)):
            die_at_commit(self)
        receipt = append(self, *arguments, **named)
        if point == "after its seal":
            die()
        return receipt

    with dg.DagsterInstance.get() as instance:
        mine = project(instance, base, url, Killed)
        Ledger.append = append_and_die  # type: ignore[method-assign]
        mine.run(partition="w0")


def aftermath(base: Path, url: str | None, report: Path) -> None:
    """What the next processes find: a reader of what the killed run left, then a whole run, then the ledger as a whole."""
    with dg.DagsterInstance.get() as instance:
        mine = project(instance, base, url)
        reader = mine.run("features", partition="w0")
        ran = list(RAN)
        RAN.clear()
        again = mine.run(partition="w0")
        ledger = open_store(instance, *mine.options.values())
        report.write_text(
            json.dumps(
                {
                    "reader": reader.success,
                    "reader ran": ran,
                    "reader says": "" if reader.success else reader.failure_message("features"),
                    "again": again.success,
                    "again ran": RAN,
                    "problems": [p.sentence for p in mlsec_dagster.integrity.verification.verify_ledger(ledger).problems],
                    "unsealed": [g.sentence for g in mlsec_dagster.reconciliation.reconcile(ledger, instance).gaps if g.kind == "unsealed"],
                }
            )
        )


def kills(base: Path, url: str | None) -> dict[str, Any]:
    """A run is killed at each point in turn; in between, everything works."""
    found: dict[str, Any] = {}
    report = base / "report.json"
    assert status_of(forked(lambda: write(base, url, 0))) == 0
    for point in KILLS:
        signalled = -status_of(forked(lambda point=point: killed(base, url, point)))
        ended = status_of(forked(lambda: aftermath(base, url, report)))
        found[point] = {"signal": signalled, "ended": ended, **json.loads(report.read_text())}
        report.unlink()
    return found


if __name__ == "__main__":
    mode, where, *rest = sys.argv[1:]
    outcome = {"writers": writers, "windows": windows, "kills": kills}[mode](Path(where), rest[0] if rest else None)
    sys.stdout.write("\n" + json.dumps(outcome) + "\n")
