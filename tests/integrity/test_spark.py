"""What Spark writes is the same table: a folder of parts, timestamps as int96 or not, whatever the partitioning of the job."""

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from mlsec_dagster.integrity.manifest import Manifest
from mlsec_dagster.integrity.tables import table_grid

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS = [
    {
        "carrier": None if n % 7 == 0 else f"C{n % 3}",
        "distance": n * 10,
        "delay": None if n % 5 == 0 else n / 4,
        "late": n % 2 == 0,
        "price": Decimal(n) / 100,
        "day": date(2013, 1, 1 + n % 28),
        "hour": datetime(2013, 1, 1, n % 24, tzinfo=UTC),
    }
    for n in range(300)
]


def arrow_table() -> pa.Table:
    return pa.table(
        {
            "carrier": pa.array([row["carrier"] for row in ROWS], pa.string()),
            "distance": pa.array([row["distance"] for row in ROWS], pa.int64()),
            "delay": pa.array([row["delay"] for row in ROWS], pa.float64()),
            "late": pa.array([row["late"] for row in ROWS], pa.bool_()),
            "price": pa.array([row["price"] for row in ROWS], pa.decimal128(10, 2)),
            "day": pa.array([row["day"] for row in ROWS], pa.date32()),
            "hour": pa.array([row["hour"] for row in ROWS], pa.timestamp("us", "UTC")),
        }
    )


def written_by_spark(spark: "SparkSession", place: Path, rows: list[dict[str, object]], timestamps: str, parts: int) -> Path:
    from pyspark.sql.types import (
        BooleanType,
        DateType,
        DecimalType,
        DoubleType,
        LongType,
        StringType,
        StructField,
        StructType,
        TimestampType,
    )

    kinds = [StringType(), LongType(), DoubleType(), BooleanType(), DecimalType(10, 2), DateType(), TimestampType()]
    schema = StructType([StructField(name, kind) for name, kind in zip(ROWS[0], kinds, strict=True)])
    spark.conf.set("spark.sql.parquet.outputTimestampType", timestamps)
    frame = spark.createDataFrame([tuple(row.values()) for row in rows], schema)
    frame.coalesce(1).orderBy("distance").repartitionByRange(parts, "distance").sortWithinPartitions("distance").write.parquet(str(place))
    return place


@pytest.mark.java
@pytest.mark.parametrize("timestamps", ["INT96", "TIMESTAMP_MICROS"])
def test_what_spark_wrote_has_the_root_of_the_table_in_memory(spark: "SparkSession", tmp_path: Path, timestamps: str) -> None:
    sealed = table_grid(arrow_table())
    place = written_by_spark(spark, tmp_path / "flights", ROWS, timestamps, 3)
    assert len(list(place.glob("part-*"))) > 1
    assert table_grid(place, schema=sealed).root == sealed.root


@pytest.mark.java
def test_one_cell_that_differs_is_named(spark: "SparkSession", tmp_path: Path) -> None:
    sealed = table_grid(arrow_table())
    edited = [dict(row) for row in ROWS]
    edited[123]["late"] = not edited[123]["late"]
    found = table_grid(written_by_spark(spark, tmp_path / "flights", edited, "INT96", 2), schema=sealed)
    (change,) = Manifest(table=sealed).compare(Manifest(table=found)).blocks
    assert change.column == "late"
