"""Measuring fairly on a machine that does other things: alternate, take medians, count memory in a process of its own.

ours, peer = alternately(lambda: write_ours(), lambda: write_plain(), repeats=5)     # median seconds of each
seconds, megabytes = in_fresh_process("benchmarks.bench_manifest", "stream", path)   # of one call, in its own process
row("manifest", "5M rows", ours=ours, peer_name="pyarrow", peer=peer, ratio=ours / peer, demand="at most 1.3x", holds=…)
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def alternately(*works: Callable[[], object], repeats: int = 5) -> list[float]:
    """Median of each work's seconds. The works take turns, so that a busy moment of the machine falls on all of them.

    A work that returns a float has timed itself; that figure is taken.
    """
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for times, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            own = work()
            times.append(own if isinstance(own, float) else time.perf_counter() - start)
    return [statistics.median(times) for times in seconds]


def in_fresh_process(module: str, function: str, *arguments: Any, python: Path | str = sys.executable) -> tuple[float, float]:
    """Seconds that `module.function(*arguments)` takes, and the peak memory in MB of a process that does nothing else.

    The arguments must be JSON. The time is that of the call alone, without starting Python or importing the module; the
    memory is that of the whole process.
    """
    command = [str(python), "-m", "benchmarks.measure", module, function, json.dumps(arguments)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return seconds, megabytes


def row(
    benchmark: str, size: str, *, ours: float, peer_name: str, peer: float, ratio: float, demand: str, holds: bool, **more: Any
) -> dict[str, Any]:
    """One line of the table. `unit` (seconds unless told) is that of `ours` and `peer`; whatever else is given is kept."""
    fixed = {"benchmark": benchmark, "size": size, "ours": ours, "peer_name": peer_name, "peer": peer}
    return {**fixed, "ratio": ratio, "demand": demand, "holds": holds, "unit": "s", **more}


def machine() -> str:
    """What these figures were measured on, in a line."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = " ".join(line.partition(":")[2].split())
                break
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except OSError:
        memory = ""
    return f"{os.cpu_count()} x {model}{memory}, {platform.system()} {platform.release()}, Python {platform.python_version()}"


def peak_megabytes() -> float:
    """Most memory that this process has held so far."""
    try:
        # Not getrusage: on Linux its figure begins with that of the process which started this one.
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _call() -> None:
    """The child's side of `in_fresh_process`."""
    import importlib

    module, function, arguments = sys.argv[1:]
    work = getattr(importlib.import_module(module), function)
    start = time.perf_counter()
    work(*json.loads(arguments))
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, peak_megabytes()]))


if __name__ == "__main__":
    _call()
