"""A small project, with and without its guard: what `-m tests.cli.shop` loads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
from dagster import UPathIOManager

import mlsec_dagster as mlsec

DAYS = ("monday", "tuesday")
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
during: list[Callable[[], None]] = []
"""What `report` does while it runs."""


class ParquetIOManager(UPathIOManager):
    extension = ".parquet"

    def dump_to_path(self, context: dg.OutputContext, obj: pd.DataFrame, path: Any) -> None:
        Path(str(path)).parent.mkdir(parents=True, exist_ok=True)
        obj.to_parquet(str(path))

    def load_from_path(self, context: dg.InputContext, path: Any) -> pd.DataFrame:
        return pd.read_parquet(str(path))

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        # Reports no path: who wants to know where it lies must ask the IO manager.
        for path in self._get_paths_for_partitions(context).values():
            self.dump_to_path(context, obj, path)


@dg.io_manager
def parquet(context: dg.InitResourceContext) -> ParquetIOManager:
    from upath import UPath

    return ParquetIOManager(base_path=UPath(tables()))


def tables() -> Path:
    """Where the tables lie."""
    return Path(os.environ["DAGSTER_HOME"]) / "tables"


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(DAYS), io_manager_key="parquet")
def sales(context: dg.AssetExecutionContext) -> pd.DataFrame:
    return pd.DataFrame({"item": ["tea", "rice"] * 50, "amount": [float(len(context.partition_key))] * 100})


@dg.asset
def prices() -> dict[str, float]:
    return {"tea": 3.5, "rice": 2.0}


@dg.asset
def report(prices: dict[str, float]) -> str:
    for action in during:
        action()
    return f"{len(prices)} prices"


everything = dg.AssetSelection.assets(prices, report)
plain = dg.Definitions(
    assets=[sales, prices, report],
    resources={"parquet": parquet},
    jobs=[
        dg.define_asset_job("daily", dg.AssetSelection.assets(sales)),
        dg.define_asset_job("publish", everything),
        dg.define_asset_job("publish_unchecked", everything.without_checks()),
        dg.define_asset_job("report_only", dg.AssetSelection.assets(report).without_checks()),
        dg.define_asset_job("check_prices", dg.AssetSelection.checks_for_assets(prices)),
    ],
)
defs = mlsec.guard(plain, datasets=["sales", "prices", "report"])
