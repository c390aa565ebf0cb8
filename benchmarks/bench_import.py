"""What does importing this package add to importing Dagster, which a project that uses it imports anyway?

Each import happens in a new process, the two in turn, byte code already written. The lazy names of `mlsec_dagster` would
make its bare import cheap whatever stands behind them, so the first real use is a row of its own.
"""

import subprocess
import sys
from typing import Any

from benchmarks.measure import ROOT, alternately, row

USES = {
    "import mlsec_dagster": "import mlsec_dagster",
    "first use": "from mlsec_dagster import guard",
    "integrity and storage": "import mlsec_dagster.integrity, mlsec_dagster.storage",
}
# Prints the seconds, then the packages of Dagster that came along.
TIMED = """\
import sys, time
start = time.perf_counter()
{statement}
print(time.perf_counter() - start)
print(*sorted({{name.partition(".")[0] for name in sys.modules if name.startswith("dagster")}}))
"""


def timed_import(statement: str) -> tuple[float, list[str]]:
    """Seconds that `statement` takes in a new process, and Dagster's packages that are loaded after it."""
    command = [sys.executable, "-c", TIMED.format(statement=statement)]
    seconds, packages = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")[:2]
    return float(seconds), packages.split()


def run(sizes: list[str] | None = None) -> list[dict[str, Any]]:
    rows = []
    for size in sizes or USES:
        statement = USES[size]
        loaded = timed_import(statement)[1]  # and writes the byte code
        timed_import("import dagster")
        ours, peer = alternately(lambda s=statement: timed_import(s)[0], lambda: timed_import("import dagster")[0], repeats=7)
        demand, holds = "at most 1.1x", ours <= 1.1 * peer
        if size == "integrity and storage":
            demand, holds = "at most 1.1x, loads no Dagster", holds and not loaded
        rows.append(row("import", size, ours=ours, peer_name="import dagster", peer=peer, ratio=ours / peer, demand=demand, holds=holds))
    return rows
