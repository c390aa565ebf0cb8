"""A project whose data carries hostile names, as the webserver loads it."""

import os

import dagster as dg
import pandas as pd

import mlsec_dagster as mlsec
from tests.guard.projects import ParquetIOManager, flights

HOSTILE = "<img src=http://tracker.invalid/x.png>![x](http://tracker.invalid/y.png) **bold**"


@dg.asset(io_manager_key="parquet")
def raw_flights() -> pd.DataFrame:
    """Rows enough for three blocks, and a column whose name tries to be more than text."""
    return flights(150_000).rename(columns={"carrier": HOSTILE})


defs = mlsec.guard(
    dg.Definitions(assets=[raw_flights], resources={"parquet": ParquetIOManager(base_dir=os.environ.get("UI_TEST_DATA", "."))}),
    datasets=["raw_flights"],
)
