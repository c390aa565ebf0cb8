"""What does `dataset_hash` add to a run of one small asset, beside the same asset with one trivial check of Dagster's own?

The check that `guard` adds beside it, `distribution_stability`, is left out of those jobs. Its own row is about a small table, which both
checks look at; nothing is demanded there. Each run is a real one on a real SQLite instance. In process the runs take turns inside one warm
process; with the multiprocess executor each step is a process of its own, and the row also lists what our modules imported, for either
check, that an asset which is no table does not need.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, alternately, row

HEAVY = ("pyarrow", "pandas", "polars", "duckdb", "ibis", "sklearn", "numpy", "securesystemslib")
LEARNING = "in process, with distribution_stability, learning"
DEMANDS = {
    "in process": "at most 1.5x",
    "multiprocess": "no heavy import in a child process that does not need it",
    LEARNING: "none; for comparison",
}
REPEATS = 15
"""With the run that warms up, fewer than the 20 windows after which `distribution_stability` compares."""


def project(guarded: bool, *, table: bool = False) -> Any:
    """One small asset with one check: ours (guarded, sealed at write), or a trivial one. A table has both of ours."""
    import dagster as dg

    @dg.asset
    def small() -> Any:
        if not table:
            return {"rows": 1}
        import pandas as pd

        return pd.DataFrame({"number": range(1000), "group": ["a", "b"] * 500})

    @dg.asset_check(asset=small, blocking=True)
    def trivial() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    chosen = dg.AssetSelection.assets("small")
    if guarded and not table:
        chosen = chosen.without_checks() | dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey("small"), "dataset_hash"))
    job = dg.define_asset_job("small_job", selection=chosen)
    if not guarded:
        return dg.Definitions(assets=[small], asset_checks=[trivial], jobs=[job])
    import mlsec_dagster as mlsec

    return mlsec.guard(dg.Definitions(assets=[small], jobs=[job]), datasets=["small"])


def guarded_job() -> Any:
    return project(guarded=True).resolve_job_def("small_job")


def trivial_job() -> Any:
    return project(guarded=False).resolve_job_def("small_job")


def _home(place: str) -> None:
    import logging
    import os

    os.environ["DAGSTER_HOME"] = place
    (Path(place) / "dagster.yaml").write_text("python_logs:\n  python_log_level: CRITICAL\ntelemetry:\n  enabled: false\n")
    logging.disable(logging.CRITICAL)


def _in_process(*, table: bool = False) -> tuple[float, float]:
    import dagster as dg

    with tempfile.TemporaryDirectory() as place:
        _home(place)
        with dg.DagsterInstance.get() as instance:
            jobs = [project(guarded, table=table).resolve_job_def("small_job") for guarded in (True, False)]

            def once(job: Any) -> None:
                if not job.execute_in_process(instance=instance).success:
                    raise RuntimeError("the measured run failed")

            for job in jobs:
                once(job)
            ours, peer = alternately(*(lambda job=job: once(job) for job in jobs), repeats=REPEATS)
    return ours, peer


def _multiprocess(job: str) -> float:
    """Seconds of one run whose steps are processes, in this (new) process."""
    import dagster as dg

    with tempfile.TemporaryDirectory() as place:
        _home(place)
        with dg.DagsterInstance.get() as instance:
            start = time.perf_counter()
            result = dg.execute_job(dg.reconstructable(globals()[job]), instance=instance)
            seconds = time.perf_counter() - start
            if not result.success:
                raise RuntimeError("the measured run failed")
    return seconds


IMPORTED = """\
import sys
import dagster
before = set(sys.modules)
import tempfile, dagster as dg, logging
from benchmarks import bench_overhead
with tempfile.TemporaryDirectory() as place:
    bench_overhead._home(place)
    with dg.DagsterInstance.get() as instance:
        both = bench_overhead.project(guarded=True).resolve_implicit_global_asset_job_def()
        assert len(both.execute_in_process(instance=instance).get_asset_check_evaluations()) == 2
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def needless_imports() -> list[str]:
    """Heavy packages that a guarded run of an asset that is no table imports."""
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, check=True, capture_output=True, text=True)
    return [name for name in done.stdout.splitlines()[-1].split() if name in HEAVY]


def run(sizes: list[str] | None = None) -> list[dict[str, Any]]:
    rows = []
    for size in sizes or list(DEMANDS):
        if size == "in process":
            ours, peer = _in_process()
            rows.append(_row(size, ours, peer, holds=ours <= 1.5 * peer))
        elif size == LEARNING:
            rows.append(_row(size, *_in_process(table=True), holds=True))
        else:
            ours, peer = alternately(lambda: _fresh("guarded_job"), lambda: _fresh("trivial_job"), repeats=3)
            needless = needless_imports()
            rows.append(_row(size, ours, peer, holds=not needless, needless_imports=needless))
    return rows


def _fresh(job: str) -> float:
    command = [sys.executable, "-c", f"from benchmarks.bench_overhead import _multiprocess; print(_multiprocess({job!r}))"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def _row(size: str, ours: float, peer: float, *, holds: bool, **more: Any) -> dict[str, Any]:
    name = "a trivial Dagster check"
    return row("overhead", size, ours=ours, peer_name=name, peer=peer, ratio=ours / peer, demand=DEMANDS[size], holds=holds, **more)
