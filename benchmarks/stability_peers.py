"""Those whom `bench_stability` compares with, a function each, for `measure.in_fresh_process`.

All but DuckDB's run in the peers' own Python, where importing this module imports what the function needs, so that no call is charged
for it: name the peer in the environment variable `PEER` first.
"""

# The peers are installed in another environment.
# pyright: reportMissingImports=false

import os
import time
from typing import Any

_STARTED = time.perf_counter()
if os.environ.get("PEER") == "evidently":
    import evidently
    import evidently.presets  # noqa: F401
elif os.environ.get("PEER") == "nannyml":
    import nannyml  # noqa: F401
elif os.environ.get("PEER") == "great_expectations":
    import great_expectations  # noqa: F401
IMPORT_SECONDS = time.perf_counter() - _STARTED


def _told(told: str | None, **figures: float) -> None:
    """Writes what is to be told apart from the time of the call."""
    import json
    from pathlib import Path

    if told is not None:
        Path(told).write_text(json.dumps({"import_seconds": IMPORT_SECONDS, **figures}))


def with_evidently(before: str, now: str, told: str | None = None) -> None:
    """Reads both windows, and compares them with the default preset for drift."""
    import pandas as pd
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset

    then, window = pd.read_parquet(before), pd.read_parquet(now)
    Report([DataDriftPreset()]).run(Dataset.from_pandas(window), Dataset.from_pandas(then)).dict()
    _told(told)


def with_nannyml(before: str, now: str, told: str | None = None) -> None:
    """Reads both windows, fits on the one, and compares the other, column by column."""
    import nannyml as nml
    import pandas as pd

    then, window = pd.read_parquet(before), pd.read_parquet(now)
    columns = [name for name in then.columns if name != "moment"]
    calculator: Any = nml.UnivariateDriftCalculator(
        column_names=columns,
        treat_as_categorical=["label"],
        timestamp_column_name="moment",
        chunk_size=max(len(then) // 10, 1),
        thresholds={"jensen_shannon": nml.thresholds.StandardDeviationThreshold(3, 3)},
    )
    calculator.fit(then)
    start = time.perf_counter()
    calculator.calculate(window)
    _told(told, calculate_seconds=time.perf_counter() - start)


def with_expectations(before: str, now: str, told: str | None = None) -> None:
    """Reads the window, and validates 20 expectations about nulls and 20 Kullback-Leibler divergences.

    The divergences' weights are taken from a small part of the window before.
    """
    import great_expectations
    import numpy as np
    import pandas as pd
    import pyarrow.parquet as pq

    then = next(pq.ParquetFile(before).iter_batches(20_000)).to_pandas()
    gx: Any = great_expectations
    start = time.perf_counter()
    window = pd.read_parquet(now)
    context: Any = gx.get_context(mode="ephemeral")
    batch = context.data_sources.add_pandas("pandas").add_dataframe_asset("window").add_batch_definition_whole_dataframe("all")
    suite: Any = context.suites.add(gx.ExpectationSuite(name="suite"))
    for name in window.columns:
        suite.add_expectation(gx.expectations.ExpectColumnValuesToNotBeNull(column=name, mostly=0.9))
    divergences = [name for name in window.columns if name != "moment"]
    for number, name in enumerate([*divergences, divergences[0]]):
        values = then[name].dropna()
        if values.dtype.kind in "fi":
            edges = np.unique(np.quantile(values.astype(float), np.linspace(0, 1, 33)))
            counts = np.histogram(values, edges)[0]
            partition: dict[str, Any] = {"bins": edges.tolist(), "weights": (counts / counts.sum()).tolist()}
            tails: dict[str, Any] = {"tail_weight_holdout": 0.01, "internal_weight_holdout": 0.01}
        else:
            shares = values.value_counts(normalize=True)
            partition, tails = {"values": shares.index.tolist(), "weights": shares.tolist()}, {}
        suite.add_expectation(
            gx.expectations.ExpectColumnKLDivergenceToBeLessThan(
                column=name, partition_object=partition, threshold=0.1 + number / 1000, **tails
            )
        )
    result: Any = batch.get_batch(batch_parameters={"dataframe": window}).validate(suite)
    seconds = time.perf_counter() - start
    failed = [each for each in result.results if each.exception_info and each.exception_info.get("raised_exception")]
    if failed or len(result.results) != 40:
        raise RuntimeError(f"{len(failed)} of {len(result.results)} expectations could not be computed")
    _told(told, validate_seconds=seconds)


def with_duckdb(path: str, edges: dict[str, list[float]]) -> None:
    """Rows per cell of every column, in one query that reads each column once."""
    import duckdb

    queries: list[str] = []
    for name, (low, high) in edges.items():
        value = f"epoch({name})" if name == "moment" else name
        cell = f"least(greatest(floor(({value} - {low}) * {30 / (high - low)}), -1), 30)::TINYINT"
        queries.append(f"SELECT '{name}' AS name, ({cell})::VARCHAR AS cell, count(*) FROM read_parquet($path) GROUP BY ALL")
    for name in ("city", "shop", "colour", "size", "label"):
        queries.append(f"SELECT '{name}' AS name, {name}::VARCHAR AS cell, count(*) FROM read_parquet($path) GROUP BY ALL")
    duckdb.connect().execute(" UNION ALL ".join(queries), {"path": path}).fetchall()
