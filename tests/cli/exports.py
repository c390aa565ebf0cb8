"""A project whose assets write for themselves and report nothing: only the resolver of its guard knows where. `-m tests.cli.exports`."""

import os
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

import mlsec_dagster as mlsec

WEEKS = ("first", "second")


def place(name: str) -> Path:
    """Where an asset writes."""
    return Path(os.environ["DAGSTER_HOME"]) / name


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(WEEKS))
def export(context: dg.AssetExecutionContext) -> None:
    place(f"{context.partition_key}.csv").write_text("item,amount\ntea,1\n")


@dg.asset
def catalog():  # declares nothing, so that its IO manager is handed None
    with duckdb.connect(str(place("catalog.duckdb"))) as connection:
        connection.execute("create or replace table items as select 'tea' as item, 1 as amount")


def where(key: dg.AssetKey, event: dg.AssetMaterialization | None) -> Any:
    """The resolver."""
    if key == dg.AssetKey("export"):
        return place(f"{event.partition}.csv") if event else None
    return duckdb.connect(str(place("catalog.duckdb")), read_only=True).table("items")


defs = mlsec.guard(
    dg.Definitions(assets=[export, catalog], jobs=[dg.define_asset_job("weekly", [export]), dg.define_asset_job("list", [catalog])]),
    datasets=["export", "catalog"],
    resolver=where,
)
