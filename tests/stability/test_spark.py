"""Spark and DuckDB say the same of the same data."""

from pathlib import Path
from typing import TYPE_CHECKING

import ibis
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from mlsec_dagster.stability.frames import learn_frame
from mlsec_dagster.stability.measuring import measure
from mlsec_dagster.stability.profiles import Roles
from tests.stability.windows import KEY, accounted, mixed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROLES = Roles(time="moment")


@pytest.mark.java
@pytest.mark.slow
def test_both_engines_say_the_same(spark: "SparkSession", tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(mixed(3000), path)
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    spark.read.parquet(str(path)).createOrReplaceTempView("mlsec_rows")
    table = ibis.pyspark.connect(spark).table("mlsec_rows")
    frame = learn_frame(path, ROLES)
    there = learn_frame(table, ROLES)
    # Ibis does not say that a timestamp of Spark is a moment; its type has no zone there.
    there = replace(
        there,
        columns=tuple(replace(column, type="timestamp[us, UTC]") if column.name == "moment" else column for column in there.columns),
    )
    for ours, theirs in zip(frame.columns, there.columns, strict=True):
        assert (ours.name, ours.type, ours.kind, ours.categories) == (theirs.name, theirs.type, theirs.kind, theirs.categories)
        if len(ours.edges) > 20 and len(ours.edges) == len(theirs.edges):
            width = ours.edges[-1] - ours.edges[0]
            assert max(abs(one - other) for one, other in zip(ours.edges, theirs.edges, strict=True)) < 0.05 * width
    here, sample = measure(path, frame, ROLES, KEY)
    on_spark = replace(
        frame, columns=tuple(replace(column, type="timestamp[us]") if column.name == "moment" else column for column in frame.columns)
    )
    profile, spark_sample = measure(table, on_spark, ROLES, KEY)
    accounted(profile)
    assert (profile.rows, profile.patterns, profile.hashed, profile.duplicates) == (3000, here.patterns, here.hashed, here.duplicates)
    assert profile.window == pytest.approx(here.window)
    assert spark_sample.num_rows == sample.num_rows == 3000
    for one, other in zip(here.columns, profile.columns, strict=True):
        assert (one.name, one.nulls, one.nans) == (other.name, other.nulls, other.nans)
        assert other.distinct == pytest.approx(one.distinct, rel=0.2)
        for figure in ("minimum", "maximum", "mean", "deviation"):
            expected = getattr(one, figure)
            assert getattr(other, figure) == (None if expected is None else pytest.approx(expected, rel=1e-6)), (one.name, figure)
        if frame.column(one.name).kind != "identifier":
            named = len(frame.column(one.name).categories) or None
            assert one.counts[:named] == other.counts[:named], one.name
    begin = frame_start(here.window)
    assert measure(table, frame, ROLES, KEY, between=(begin + 600, begin + 1200))[0].rows == 10


def frame_start(window: tuple[float, float] | None) -> float:
    assert window is not None
    return window[0]
