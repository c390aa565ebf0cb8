"""Runs benchmarks and keeps their figures: `python -m benchmarks [name …]`, or `make bench [ONLY=name]`.

Each `bench_<name>.py` here has `run(sizes=None) -> list[dict]`, whose rows `measure.row` makes. The figures go to
`results/latest.json`; rows of benchmarks that were not run this time stay there, each with the machine and day it was
measured on. A demand that does not hold is printed as such and is no error: on another machine it may.
"""

import datetime
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "latest.json"
COLUMNS = ("benchmark", "size", "ours", "peer", "peer_name", "ratio", "demand", "holds")


def main(names: list[str]) -> int:
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    if unknown := sorted(set(names) - set(known)):
        print(f"There is no benchmark {', '.join(unknown)}. There are: {', '.join(known)}.", file=sys.stderr)
        return 2
    measured: list[dict[str, Any]] = []
    broken = False
    for name in names or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            rows = importlib.import_module(f"benchmarks.bench_{name}").run()
        except Exception as error:
            # The others are still worth their figures.
            print(f"{name} could not be measured: {type(error).__name__}: {error}", file=sys.stderr)
            print(getattr(error, "stderr", None) or "", file=sys.stderr)
            broken = True
            continue
        when = {"measured": datetime.datetime.now(datetime.UTC).date().isoformat(), "machine": machine()}
        measured += [{**row, **when} for row in rows]
        keep(measured)
    show(measured)
    return 1 if broken else 0


def keep(measured: list[dict[str, Any]]) -> None:
    """Put these rows in place of the earlier ones of the same benchmarks."""
    again = {row["benchmark"] for row in measured}
    earlier = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = [row for row in earlier if row["benchmark"] not in again] + measured
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(sorted(rows, key=lambda row: row["benchmark"]), indent=2) + "\n")


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table, and after it what does not hold."""
    lines = [COLUMNS, *(tuple(cell(row, column) for column in COLUMNS) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    print(f"\n{machine()}")
    for row in rows:
        if not row["holds"]:
            print(f"DOES NOT HOLD: {row['benchmark']} ({row['size']}): {row['ratio']:.2f}x {row['peer_name']}, demanded: {row['demand']}")


def cell(row: dict[str, Any], column: str) -> str:
    value = row[column]
    if column == "holds":
        return "yes" if value else "NO"
    if column == "ratio":
        return f"{value:.2f}"
    return f"{value:.4g} {row.get('unit', 's')}" if column in ("ours", "peer") else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
