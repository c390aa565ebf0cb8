"""The peers' verdicts over windows, for `bench_stability_power`; to be run in the peers' own Python.

    $ python -m benchmarks.stability_rules TASK

Prints a line of JSON per window: which rules call it unusual. Every rule sees the same columns, and the eight weeks before as reference.
"""

# The peers are installed in another environment.
# pyright: reportMissingImports=false

import json
import sys
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


@lru_cache(maxsize=2)
def _read(path: str, leave_out: tuple[str, ...]) -> pd.DataFrame:
    return pd.read_parquet(path).drop(columns=list(leave_out))


def _numeric(values: Any) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def stability_index(then: Any, now: Any) -> float:
    """Population stability index over the reference's deciles, or over categories; a part without rows counts as a ten-thousandth."""
    if _numeric(then):
        edges = np.unique(np.nanquantile(then, np.linspace(0, 1, 11)))[1:-1]
        cells = [np.searchsorted(edges, side.dropna(), side="right") for side in (then, now)]
        counts = [np.bincount(side, minlength=len(edges) + 1) for side in cells]
    else:
        names = sorted(set(then.dropna().astype(str)) | set(now.dropna().astype(str)))
        counts = [side.dropna().astype(str).value_counts().reindex(names, fill_value=0).to_numpy() for side in (then, now)]
    p, q = (np.maximum(each / max(each.sum(), 1), 1e-4) for each in counts)
    return float(((q - p) * np.log(q / p)).sum())


def p_value(then: Any, now: Any) -> float:
    from scipy import stats

    if _numeric(then):
        tested: Any = stats.ks_2samp(then.dropna(), now.dropna(), method="asymp")
        return float(tested.pvalue)
    names = sorted(set(then.dropna().astype(str)) | set(now.dropna().astype(str)))
    counts = [side.dropna().astype(str).value_counts().reindex(names, fill_value=0).to_numpy() for side in (then, now)]
    tested = stats.chi2_contingency(np.array(counts)) if len(names) > 1 else None
    return float(tested.pvalue) if tested is not None else 1.0


def evidently(then: Any, now: Any) -> dict[str, bool]:
    from evidently import Dataset, Report
    from evidently.presets import DataDriftPreset

    said = Report([DataDriftPreset()]).run(Dataset.from_pandas(now), Dataset.from_pandas(then)).dict()
    for metric in said["metrics"]:
        if "DriftedColumnsCount" in str(metric.get("metric_name")):
            value = metric["value"]
            return {"Evidently, half of the columns": value["share"] >= 0.5, "Evidently, any column": value["count"] > 0}
    raise RuntimeError("Evidently says nothing of drifted columns")


def nannyml(then: Any, now: Any) -> dict[str, bool]:
    import nannyml as nml

    calculator = nml.UnivariateDriftCalculator(
        column_names=list(then.columns),
        treat_as_categorical=[name for name in then.columns if not _numeric(then[name])],
        continuous_methods=["jensen_shannon"],
        categorical_methods=["jensen_shannon"],
        chunk_size=len(now),
        thresholds={"jensen_shannon": nml.thresholds.StandardDeviationThreshold(3, 3)},
    )
    frame = calculator.fit(then).calculate(now).filter(period="analysis").to_df()
    return {"NannyML, 3 sigma": bool(frame[[name for name in frame.columns if name[-1] == "alert"]].to_numpy().any())}


def rules(then: Any, now: Any, slow: bool) -> dict[str, bool]:
    largest = max(stability_index(then[name], now[name]) for name in then.columns)
    alarms = {"PSI > 0.2": largest > 0.2, "PSI > 0.1": largest > 0.1}
    alarms["KS or chi-squared, p < 0.05"] = min(p_value(then[name], now[name]) for name in then.columns) < 0.05
    alarms |= nannyml(then, now)
    return alarms | evidently(then, now) if slow else alarms


def main(task: str) -> None:
    warnings.filterwarnings("ignore")
    asked: dict[str, Any] = json.loads(Path(task).read_text())
    leave_out = tuple(asked["leave_out"])
    for each in asked["asked"]:
        then = _read(each["before"], leave_out)
        now = pd.read_parquet(each["now"]).drop(columns=list(leave_out))
        alarms = rules(then, now, each["slow"])
        print(json.dumps({"attack": each["attack"], "alarms": {rule: bool(alarm) for rule, alarm in alarms.items()}}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
