"""How fast is one large file hashed, from the page cache, beside those who do nothing else?

Peers: `model_signing`, with its default (SHA-256) and with BLAKE3, in an environment of its own; and the `blake3` package bare,
memory-mapped with all threads, which is as fast as this can be done when nobody may cut the file short meanwhile. All take turns
on the same file, and each one's process stays, so that nobody pays for starting Python.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, alternately, in_fresh_process, row
from benchmarks.peers import peer_python

SIZES = {"64 MB": 1 << 26, "256 MB": 1 << 28, "1 GB": 1 << 30}
REPEATS = 15
# Waits for a line, hashes, answers with the seconds and the digest.
PEER = """\
import sys, time
from model_signing import hashing
configuration = hashing.Config()
if sys.argv[2] != "default":
    configuration = configuration.use_file_serialization(hashing_algorithm=sys.argv[2])
for _ in sys.stdin:
    start = time.perf_counter()
    configuration.hash(sys.argv[1])
    print(time.perf_counter() - start, flush=True)
"""


def ours(path: str) -> str:
    from mlsec_dagster.integrity.files import hash_file

    return hash_file(path).digest


def bare(path: str) -> str:
    import blake3

    return f"blake3:{blake3.blake3(max_threads=blake3.blake3.AUTO).update_mmap(path).hexdigest()}"


@contextmanager
def model_signing(path: str, algorithm: str) -> "Iterator[Any]":
    command = [str(peer_python()), "-c", PEER, path, algorithm]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        asked, answered = process.stdin, process.stdout
        if asked is None or answered is None:
            raise RuntimeError("the peer has no pipes")

        def hash_once() -> float:
            asked.write("\n")
            asked.flush()
            return float(answered.readline())

        hash_once()  # imports and reads into the cache
        yield hash_once
        asked.close()


def run(sizes: list[str] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for size in sizes or SIZES:
        with tempfile.TemporaryDirectory(prefix="bench-hash-") as folder:
            path = str(Path(folder) / "data")
            with open(path, "wb") as file:
                for _ in range(SIZES[size] >> 20):
                    file.write(os.urandom(1 << 20))
            if ours(path) != bare(path):
                raise RuntimeError("our digest is not that of the blake3 package")
            with model_signing(path, "default") as default, model_signing(path, "blake3") as its_blake3:
                seconds = alternately(
                    lambda path=path: ours(path) and None, lambda path=path: bare(path) and None, its_blake3, repeats=REPEATS
                )
                slow = alternately(lambda path=path: ours(path) and None, default, repeats=7)
            peak = in_fresh_process("benchmarks.bench_hash", "ours", path)[1]
            its_peak = in_fresh_process("benchmarks.bench_hash", "bare", path)[1]
        rows += [
            compared(size, "model_signing, its default (SHA-256)", slow[0], slow[1], "at least 3x as fast, at 1 GB", 3.0, peak_mb=peak),
            compared(size, "model_signing, BLAKE3", seconds[0], seconds[2], "none; for comparison", 0.0, peak_mb=peak),
            compared(
                size,
                "blake3, all threads",
                seconds[0],
                seconds[1],
                "at least 0.95x as fast, at 1 GB",
                0.95,
                peak_mb=peak,
                peer_peak_mb=its_peak,
            ),
        ]
    return rows


def compared(size: str, name: str, our_seconds: float, peer: float, demand: str, at_least: float, **more: float) -> dict[str, Any]:
    """A row whose ratio is a speed: how many times as fast as the peer."""
    ratio = peer / our_seconds
    holds = ratio >= at_least or ("1 GB" in demand and size != "1 GB")
    return row("hash", size, ours=our_seconds, peer_name=name, peer=peer, ratio=ratio, demand=demand, holds=holds, **more)
