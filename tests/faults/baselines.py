"""A dataset of weekly partitions with a past: twenty ordinary windows, assessed once and kept in the ledger of each test that asks."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa

import mlsec_dagster as mlsec
from mlsec_dagster.resources import open_store
from mlsec_dagster.stability.assessment import WINDOWS_NEEDED, Assessment, History, assess
from mlsec_dagster.stability.baselines import Baseline
from mlsec_dagster.stability.profiles import Roles
from tests.faults.claims import said
from tests.guard.projects import RAN, ParquetIOManager, Result

LABELLED = Roles(label="bought")
KEY = b"a key of thirty-two bytes, or so"
WEEKS = dg.WeeklyPartitionsDefinition(start_date="2013-01-06")
PAST = WEEKS.get_partition_keys()[:WINDOWS_NEEDED]
NOW, NEXT = WEEKS.get_partition_keys()[WINDOWS_NEEDED : WINDOWS_NEEDED + 2]
ROWS = 400
CHECK = "distribution_stability"


def ordinary(seed: int, rows: int = ROWS) -> pd.DataFrame:
    """A window like any other; the first twenty seeds are those of the past."""
    random = np.random.default_rng(seed)
    price = random.normal(100, 20, rows)
    return pd.DataFrame(
        {
            "price": price,
            "cost": 0.5 * price + random.normal(0, 2, rows),
            "region": random.choice(["north", "south", "west"], rows, p=[0.5, 0.3, 0.2]),
            "code": [f"K{number:06d}" for number in random.integers(0, 10**6, rows)],
            "bought": np.where(price > 100, "yes", "no"),
        }
    )


def arrow(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


@cache
def past(made: Callable[[int], pd.DataFrame] = ordinary, count: int = WINDOWS_NEEDED, roles: Roles = LABELLED) -> tuple[Assessment, ...]:
    """Windows of the past, oldest first."""
    found: list[Assessment] = []
    for seed in range(count):
        found.append(assess(arrow(made(seed)), history_of(found), roles=roles, key=KEY))
    return tuple(found)


def history_of(assessed: Sequence[Assessment]) -> History:
    return History([each.window for each in assessed], [each.sample for each in assessed[-8:]])


def remember(instance: dg.DagsterInstance, assessed: Sequence[Assessment], partitions: Sequence[str | None] = PAST) -> Baseline:
    """Keeps windows in the instance's ledger, as runs of the past would have."""
    baseline = Baseline(open_store(instance), "raw")
    for number, (partition, each) in enumerate(zip(partitions, assessed, strict=False)):
        baseline.keep(partition, each, {"run_id": f"past-{number}", "storage_id": -1 - number, "timestamp": 1.4e9 + number})
    return baseline


class Shop:
    """`raw`, which is checked, and `features`, whose body must not run if a blocking check fails."""

    def __init__(self, instance: dg.DagsterInstance, base: Path, partitions_def: Any = WEEKS, **options: Any) -> None:
        self.instance = instance
        self.base = base
        self.table: pd.DataFrame = ordinary(1000)
        options = {"blocking": True, "label": "bought", **options}

        @dg.asset(partitions_def=partitions_def, io_manager_key="parquet")
        def raw() -> pd.DataFrame:
            return self.table

        @dg.asset(partitions_def=partitions_def, deps=[raw])
        def features() -> None:
            RAN.append("features")

        self.defs = dg.Definitions(
            assets=[raw, features],
            asset_checks=mlsec.build_distribution_stability_checks(assets=[raw], **options),
            resources={"parquet": ParquetIOManager(base_dir=str(base))},
        )

    def run(self, table: pd.DataFrame | None = None, partition: str | None = NOW, *, only_check: bool = False) -> "Verdict":
        """Materializes everything, or runs the check alone."""
        RAN.clear()
        if table is not None:
            self.table = table
        job = self.defs.resolve_implicit_global_asset_job_def()
        if only_check:
            job = job.get_subset(asset_selection=set(), asset_check_selection={dg.AssetCheckKey(dg.AssetKey("raw"), CHECK)})
        tags = {} if partition is None else {"dagster/partition": partition}
        return Verdict(Result(job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)))

    def kept(self) -> list[Any]:
        """The windows that count, of every partition and materialization."""
        return Baseline(open_store(self.instance), "raw").windows()


class Verdict:
    """What one run of the check said, and whether downstream ran."""

    def __init__(self, result: Result) -> None:
        self.result = result
        self.ran = list(RAN)
        (self.evaluation,) = result.get_asset_check_evaluations(CHECK)
        self.sentence = said(self.evaluation)
        self.outcome = str(self.evaluation.metadata["verdict"].value)
        self.passed = self.evaluation.passed

    def blocked(self, outcome: str) -> str:
        """Asserts that it failed with this outcome and nothing came after it; returns the sentence."""
        assert (self.outcome, self.passed, self.ran, self.result.success) == (outcome, False, [], False), self.sentence
        return self.sentence

    def passed_on(self, outcome: str) -> str:
        """Asserts that it passed with this outcome and downstream ran; returns the sentence."""
        assert (self.outcome, self.passed, self.ran, self.result.success) == (outcome, True, ["features"], True), self.sentence
        return self.sentence
