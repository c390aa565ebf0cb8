"""Small projects as users write them, and a way to run them with the guard on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import numpy as np
import pandas as pd

import mlsec_dagster as mlsec
from mlsec_dagster.resources import open_store
from mlsec_dagster.sealing import SUBJECT_STATEMENTS

RAN: list[str] = []
"""Names of downstream assets whose body ran: what a security test asserts."""


def flights(rows: int, seed: int = 1) -> pd.DataFrame:
    """A small table of mixed types with nulls."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "carrier": random.choice(["UA", "AA", "B6"], rows),
            "distance": random.integers(100, 3000, rows),
            "air_time": random.normal(150, 40, rows),
            "delayed": random.random(rows) < 0.2,
            "time_hour": pd.Timestamp("2013-01-01", tz="UTC") + pd.to_timedelta(np.arange(rows), unit="h"),
        }
    )


class ParquetIOManager(dg.ConfigurableIOManager, dg.UPathIOManager):
    """Pandas as Parquet, as a hundred projects have it; `after_write` is where an attacker of a test stands."""

    base_dir: str
    extension: ClassVar[str] = ".parquet"
    _base_path: Any = None

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        from upath import UPath

        self._base_path = UPath(self.base_dir)

    def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: Any) -> None:
        obj.to_parquet(str(path))

    def load_from_path(self, context: dg.InputContext, path: Any) -> pd.DataFrame:
        return pd.read_parquet(str(path))


@dataclass
class Result:
    """One run, with what tests ask of it."""

    inner: Any

    @property
    def success(self) -> bool:
        return self.inner.success

    def get_asset_check_evaluations(self, check: str = "dataset_hash") -> list[Any]:
        """The evaluations of one kind of check."""
        return [each for each in self.inner.get_asset_check_evaluations() if each.check_name == check]

    def failure_message(self, step: str) -> str:
        failure = self.inner.failure_data_for_node(step)
        error = failure.error
        parts = []
        while error is not None:
            parts.append(error.message)
            error = error.cause
        return "\n".join(parts)


@dataclass
class Project:
    """A project with and without the guard."""

    plain: dg.Definitions
    instance: dg.DagsterInstance
    datasets: Sequence[Any]
    options: dict[str, Any] = field(default_factory=dict)
    after_write: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        self.guarded = mlsec.guard(self.plain, datasets=self.datasets, **self.options)

    def run(self, *names: str, partition: str | None = None, partitions: tuple[str, str] | None = None) -> Result:
        job = self.guarded.resolve_implicit_global_asset_job_def()
        tags = {}
        if partitions:
            tags = {"dagster/asset_partition_range_start": partitions[0], "dagster/asset_partition_range_end": partitions[1]}
        if partition:
            tags = {"dagster/partition": partition}
        selection = [dg.AssetKey.from_user_string(name) for name in names] or None
        checks = {key for key in self.guarded.resolve_asset_graph().asset_check_keys if selection is None or key.asset_key in selection}
        chosen = job.get_subset(asset_selection=set(selection), asset_check_selection=checks) if selection else job
        result = Result(self._execute(chosen, tags))
        _assert_both_spoke_and_one_only_warned(result)
        return result

    def _execute(self, job: dg.JobDefinition, tags: dict[str, str]) -> Any:
        if self.after_write is None:
            return job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)
        with attacker(self.instance, self.after_write):
            return job.execute_in_process(instance=self.instance, tags=tags, raise_on_error=False)

    def check(self, name: str, partition: str | None = None) -> Result:
        """Run the `dataset_hash` check of an asset alone."""
        job = self.guarded.resolve_implicit_global_asset_job_def()
        key = dg.AssetCheckKey(dg.AssetKey.from_user_string(name), "dataset_hash")
        tags = {"dagster/partition": partition} if partition else {}
        return Result(self._execute(job.get_subset(asset_selection=set(), asset_check_selection={key}), tags))

    def entries(self) -> list[Any]:
        """What the ledger says of the stored bytes of every asset."""
        ledger = open_store(self.instance)
        return [entry for asset in ledger.assets() for entry in ledger.history(asset, types=SUBJECT_STATEMENTS)]


def _assert_both_spoke_and_one_only_warned(result: Result) -> None:
    """Wherever one of our checks has an evaluation the other has one, whatever befell the data; `distribution_stability` stops nobody."""
    subjects = [
        sorted((each.asset_key.to_user_string(), each.partition or "") for each in result.get_asset_check_evaluations(check))
        for check in ("dataset_hash", "distribution_stability")
    ]
    assert subjects[0] == subjects[1]
    for each in result.get_asset_check_evaluations("distribution_stability"):
        assert (each.severity, each.blocking) == (dg.AssetCheckSeverity.WARN, False)
        assert each.description
    failed = [event.step_key for event in result.inner.all_events if event.is_step_failure]
    assert not [step for step in failed if str(step).partition("[")[0].endswith("distribution_stability")]


@contextmanager
def attacker(instance: dg.DagsterInstance, act: Callable[[str], None]) -> Iterator[None]:
    """Calls `act` with the asset's name at the moment when Dagster records its materialization: after the write, before the check."""
    handle = instance.handle_new_event

    def handle_new_event(event: Any, **options: Any) -> Any:
        result = handle(event, **options)
        if event.is_dagster_event and event.dagster_event.is_step_materialization:
            act(event.dagster_event.asset_key.to_user_string())
        return result

    instance.handle_new_event = handle_new_event  # type: ignore[method-assign]
    try:
        yield
    finally:
        instance.handle_new_event = handle  # type: ignore[method-assign]


def parquet_project(
    base: Path,
    instance: dg.DagsterInstance,
    *,
    assets: Sequence[Any] | None = None,
    datasets: Sequence[Any] = ("raw", "features"),
    after_write: Callable[[str], None] | None = None,
    **options: Any,
) -> Project:
    """Raw data and features as Parquet below `base`."""
    if assets is None:

        @dg.asset(io_manager_key="parquet")
        def raw() -> pd.DataFrame:
            return flights(1000)

        @dg.asset(io_manager_key="parquet")
        def features(raw: pd.DataFrame) -> pd.DataFrame:
            RAN.append("features")
            return raw.assign(speed=raw["distance"] / raw["air_time"])

        assets = [raw, features]
    plain = dg.Definitions(assets=assets, resources={"parquet": ParquetIOManager(base_dir=str(base))})
    return Project(plain, instance, list(datasets), options, after_write)
