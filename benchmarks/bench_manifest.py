"""What does the manifest of a table cost beside only reading it, and does its memory stay flat?

Ten columns of mixed types in Parquet as pyarrow writes it by default, in the page cache; the peer is pyarrow's `iter_batches` over the
same file. Each run is a process of its own, so that peak memory is its own too, and both take turns.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

# Imported here, so that neither side's seconds are those of importing.
import blake3  # noqa: F401
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from benchmarks.measure import in_fresh_process, row
from mlsec_dagster.integrity import canonical, containers, csv, feather, parquet, readers, weights  # noqa: F401
from mlsec_dagster.integrity.tables import table_grid

SIZES = {"1M rows": 1_000_000, "5M rows": 5_000_000, "10M rows": 10_000_000}
REPEATS = 7
_PIECE = 1 << 20


def write(path: Path, rows: int) -> None:
    """Flights that never were: an id, numbers with and without nulls, texts with few and with many values, times, decimals."""
    random = np.random.default_rng(2013)
    carriers = np.array(["AA", "UA", "DL", "B6", "EV", "MQ", "US", "9E", "WN", "VX"])
    writer = None
    for start in range(0, rows, _PIECE):
        count = min(_PIECE, rows - start)
        cents = pa.array(random.integers(100, 10**6, count)).cast(pa.decimal128(19, 0))
        table = pa.table(
            {
                "id": np.arange(start, start + count),
                "flight": random.integers(1, 9000, count).astype("int32"),
                "delay": pa.array(random.normal(10, 30, count), mask=random.random(count) < 0.03),
                "distance": random.gamma(2.0, 500.0, count),
                "carrier": carriers[random.integers(0, 10, count)],
                "tail": [f"N{number:011x}" for number in random.integers(0, 2**40, count).tolist()],
                "cancelled": random.random(count) < 0.02,
                "departed": pa.array(1_357_000_000_000_000 + random.integers(0, 3 * 10**13, count), pa.timestamp("us", "UTC")),
                "day": pa.array((15_706 + random.integers(0, 365, count)).astype("int32")).cast(pa.date32()),
                "price": cents.cast(pa.decimal128(21, 2)),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def ours(path: str) -> None:
    table_grid(path)


def peer(path: str) -> None:
    for _ in pq.ParquetFile(path).iter_batches():
        pass


def run(sizes: list[str] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    smallest: float | None = None
    for size in sizes or SIZES:
        with tempfile.TemporaryDirectory(prefix="bench-manifest-") as folder:
            path = Path(folder) / "flights.parquet"
            write(path, SIZES[size])
            figures = [
                [in_fresh_process("benchmarks.bench_manifest", name, str(path)) for name in ("ours", "peer")] for _ in range(REPEATS + 1)
            ]
        # The first pair reads the file into the cache.
        (our_seconds, our_peak), (its_seconds, its_peak) = (
            (statistics.median(pair[side][0] for pair in figures[1:]), max(pair[side][1] for pair in figures[1:])) for side in (0, 1)
        )
        smallest = our_peak if smallest is None else smallest
        ratio = our_seconds / its_seconds
        rows.append(
            row(
                "manifest",
                size,
                ours=our_seconds,
                peer_name="pyarrow iter_batches",
                peer=its_seconds,
                ratio=ratio,
                demand="at most 1.3x the time; peak memory under 500 MB, flat in rows",
                holds=ratio <= 1.3 and our_peak < 500 and our_peak < smallest + 100,
                peak_mb=round(our_peak),
                peer_peak_mb=round(its_peak),
            )
        )
    return rows
