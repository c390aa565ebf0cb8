"""How long does it take to assess a window, and how much memory, beside those who watch for drift?

A window is Parquet with 20 columns (ten floats, four integers, four categories, a timestamp and a boolean label, some nulls). Ours is
`assess`, all channels on, against a history of 24 windows that is prepared before; it reads the file, decides, and yields what has to be
kept. Seconds are those of a process that has done it once before; memory is that of a fresh one that does it once.

The peers read the same window and the one before it. DuckDB counts the cells of every column in one query and does nothing else: nobody
who counts as much can be faster.
"""

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import alternately, in_fresh_process, row
from benchmarks.peers import peer_python
from benchmarks.stability_peers import with_duckdb

SIZES = {"1M rows": 1_000_000, "5M rows": 5_000_000, "20M rows": 20_000_000}
PEERS_AT = "1M rows"
HISTORY_ROWS = 20_000
HISTORY = 24
REPEATS = 5
MOST_MEGABYTES = 700.0
KEY = b"a key of these benchmarks, no secret"


def chunk(rows: int, start: int, seed: int) -> pa.Table:
    """Rows `start` and on of a window."""
    random = np.random.default_rng([seed, start])
    hidden = random.standard_normal((rows, 3), np.float32)
    columns: dict[str, Any] = {}
    for place in range(10):
        values = hidden[:, place % 3] * (0.2 * place) + random.standard_normal(rows)
        values = np.exp(values) if place % 4 == 1 else values
        columns[f"f{place}"] = pa.array(values, mask=random.random(rows) < 0.03 if place % 3 == 0 else None)
    for place, most in enumerate((5, 100, 10_000, 1_000_000)):
        columns[f"i{place}"] = pa.array(random.integers(0, most, rows))
    for name, count in (("city", 200), ("shop", 40), ("colour", 7), ("size", 3)):
        codes = np.minimum(random.exponential(count / 5, rows).astype(np.int32), count - 1)
        names = pa.array([f"{name} {number}" for number in range(count)])
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(codes), names).cast(pa.string())
    columns["moment"] = pa.array((seed * 10**9 + np.arange(start, start + rows) * 25) * 1000, pa.timestamp("us"))
    columns["label"] = pa.array(hidden[:, 0] + 0.5 * hidden[:, 1] + 0.3 * random.standard_normal(rows) > 0.8)
    return pa.table(columns)


def write(path: Path, rows: int, seed: int) -> None:
    """Writes a window, a million rows at a time."""
    with pq.ParquetWriter(path, chunk(1, 0, seed).schema) as writer:
        for start in range(0, rows, 1_000_000):
            writer.write_table(chunk(min(1_000_000, rows - start), start, seed), row_group_size=250_000)


def prepare(folder: Path) -> None:
    """Assesses the windows of the history."""
    from mlsec_dagster.stability.assessment import History

    windows: list[Any] = []
    samples: list[pa.Table] = []
    for seed in range(HISTORY):
        assessed = _assess(chunk(HISTORY_ROWS, 0, seed), History(windows, samples[-8:]))
        windows.append(assessed.window)
        samples.append(assessed.sample)
        (folder / f"window-{seed:02}.json").write_bytes(assessed.window.to_bytes())
        pq.write_table(assessed.sample, folder / f"sample-{seed:02}.parquet")


def _assess(source: Any, history: Any) -> Any:
    from mlsec_dagster.stability.assessment import assess
    from mlsec_dagster.stability.profiles import Roles

    return assess(source, history, roles=Roles(label="label", time="moment"), key=KEY)


def _history(folder: Path) -> Any:
    from mlsec_dagster.stability.assessment import History
    from mlsec_dagster.stability.profiles import Window

    windows = [Window.from_bytes(path.read_bytes()) for path in sorted(folder.glob("window-*.json"))]
    return History(windows, [pq.read_table(path) for path in sorted(folder.glob("sample-*.parquet"))[-8:]])


def ours(folder: str, path: str) -> None:
    assessed = _assess(path, _history(Path(folder)))
    if assessed.judgement is None or assessed.judgement.method == "learning":
        raise RuntimeError("there was no verdict")


def run(sizes: list[str] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-stability-") as name:
        folder = Path(name)
        prepare(folder)
        history = _history(folder)
        per_million: dict[str, float] = {}
        for size in sizes or SIZES:
            path = folder / "now.parquet"
            write(path, SIZES[size], HISTORY)
            edges = _edges(path)
            once = partial(_assess, str(path), history)
            # Imports, and the file into the cache.
            once()
            repeats = REPEATS if SIZES[size] <= 5_000_000 else 3
            seconds, duckdb = alternately(lambda once=once: once() and None, partial(with_duckdb, str(path), edges), repeats=repeats)
            peak = in_fresh_process("benchmarks.bench_stability", "ours", str(folder), str(path))[1]
            per_million[size] = seconds / SIZES[size] * 1e6
            rows.append(
                _row(size, seconds, "DuckDB, one pass", duckdb, seconds / duckdb, "at most 5x its time", seconds <= 5 * duckdb, peak)
            )
            rows.append(_memory(size, peak))
            if size == PEERS_AT:
                rows += _peers(folder, path, seconds, once)
        rows += _linear(per_million)
    return rows


def _row(
    size: str, seconds: float, name: str, peer: float, ratio: float, demand: str, holds: bool, peak: float, **more: Any
) -> dict[str, Any]:
    return row("stability", size, ours=seconds, peer_name=name, peer=peer, ratio=ratio, demand=demand, holds=holds, peak_mb=peak, **more)


def _memory(size: str, peak: float) -> dict[str, Any]:
    demand = f"under {MOST_MEGABYTES:g} MB"
    return row(
        "stability",
        size,
        ours=peak,
        peer_name="memory, the demand",
        peer=MOST_MEGABYTES,
        ratio=peak / MOST_MEGABYTES,
        demand=demand,
        holds=peak < MOST_MEGABYTES,
        unit="MB",
    )


def _linear(per_million: dict[str, float]) -> list[dict[str, Any]]:
    """Seconds per million rows of the larger windows beside those of the smallest."""
    first, *others = per_million
    return [
        row(
            "stability",
            size,
            ours=per_million[size],
            peer_name=f"itself at {first}, per million rows",
            peer=per_million[first],
            ratio=per_million[size] / per_million[first],
            demand="at most 1.25x",
            holds=per_million[size] <= 1.25 * per_million[first],
        )
        for size in others
    ]


def _edges(path: Path) -> dict[str, list[float]]:
    """Where the cells of DuckDB's pass begin and end, from the first rows."""
    head = next(pq.ParquetFile(path).iter_batches(20_000)).to_pandas()
    found: dict[str, list[float]] = {}
    for name in head.columns:
        values = head[name].astype("int64") / 1e6 if name == "moment" else head[name]
        if values.dtype.kind in "fi":
            found[name] = [float(values.min()), float(values.max()) + 1e-9]
    return found


def _peers(folder: Path, path: Path, seconds: float, once: Any) -> list[dict[str, Any]]:
    """Evidently, NannyML and Great Expectations, once each; ours again after each, for the machine may have become slower."""
    before = folder / "before.parquet"
    write(before, SIZES[PEERS_AT], HISTORY - 1)
    rows: list[dict[str, Any]] = []
    kept = dict(os.environ)
    os.environ.update({"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1", "GX_ANALYTICS_ENABLED": "false"})
    try:
        for name, package, function, factor in (
            ("Evidently", "evidently", "with_evidently", 50.0),
            ("NannyML", "nannyml", "with_nannyml", 15.0),
            ("GX, 20 expectations and 20 KL", "great_expectations", "with_expectations", 4.0),
        ):
            os.environ["PEER"] = package
            told = folder / f"{package}.told"
            python = peer_python("peers-stability")
            peer, peak = in_fresh_process("benchmarks.stability_peers", function, str(before), str(path), str(told), python=python)
            start = time.perf_counter()
            once()
            mine = (seconds + time.perf_counter() - start) / 2
            more = {f"peer_{key}": value for key, value in json.loads(told.read_text()).items()}
            peer = more.get("peer_validate_seconds", peer)
            demand = f"at least {factor:g}x as fast"
            rows.append(_row(PEERS_AT, mine, name, peer, peer / mine, demand, peer >= factor * mine, 0.0, peer_peak_mb=peak, **more))
    finally:
        os.environ.clear()
        os.environ.update(kept)
    return rows
