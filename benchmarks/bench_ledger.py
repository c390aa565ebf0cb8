"""What does a signed, chained, durable statement cost beside the bytes alone, and a verification beside its bare arithmetic?

`one at a time`: appends with a commit each, beside SQLite inserting and committing the same bytes. `batched`: one append of
many, beside the slower of SQLite inserting the same bytes in one transaction and the bare key signing the same statements
(both start from `Statement`s: what is signed is their DSSE encoding; nothing is chained, proven, indexed or kept).
Both peers use the ledger's own durability (WAL, synchronous=FULL) and directory. `verification`: `verify_ledger`, beside
hashing every leaf, every node and checking every signature in a loop, rows already in memory. `linear`: the same per entry
at a million entries, beside itself at a twentieth of that. The large sizes are measured less often, for all of it to end within
five minutes on two cores.
"""

import gc
import hashlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.dsse import Envelope
from securesystemslib.signer import CryptoSigner  # pyright: ignore[reportPrivateImportUsage]

from benchmarks.measure import alternately, in_fresh_process, row
from mlsec_dagster.integrity.entries import envelope_bytes, pae
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.statements import PAYLOAD_TYPE, WRITE, Statement
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.verification import verify_ledger

SIZES = {
    "one at a time": [100, 300, 1000],
    "batched": [1_000, 10_000, 50_000],
    "verification": [1_000, 10_000, 50_000],
    "linear": [1_000_000],
}
PER_TRANSACTION = 1_000  # entries of one append in the ledgers that are verified
LONG_TRANSACTION = 10_000  # and in the one of a million


def statements(count: int, first: int = 0) -> list[Statement]:
    """What the wrapper around an IO manager records: about 700 bytes of JSON each."""
    return [
        Statement(
            f"area/asset_{number % 50}",
            f"2013-01-{number % 28 + 1:02}",
            WRITE,
            {"blake3": f"{number:064x}", "content": f"{number + 1:064x}"},
            {
                "run_id": f"{number // 20:08x}-1111-4222-8333-444444444444",
                "step_key": f"area__asset_{number % 50}",
                "io_manager": "FilesystemIOManager",
                "location": f"/data/area/asset_{number % 50}/2013-01-{number % 28 + 1:02}",
                "files_root": f"blake3:{number:064x}",
                "content_root": f"blake3:{number + 1:064x}",
                "code_version": "4",
                "inputs": [{"asset": "raw/flights", "partition": None, "files_root": f"blake3:{number + 2:064x}"}],
            },
        )
        for number in range(first, first + count)
    ]


@contextmanager
def place() -> Iterator[Path]:
    """A directory of its own, on the disk that temporary files are on."""
    directory = Path(tempfile.mkdtemp(prefix="bench-ledger-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def opened(directory: Path, name: str = "ledger.db") -> Ledger:
    ring = KeyRing(load_or_create_key_file(directory / "key.pem"))
    return open_ledger(f"sqlite:///{directory / name}", signer=ring, trust=Trust({ring.fingerprint}))


def stored_rows(ledger: Ledger) -> list[tuple[Any, ...]]:
    with ledger.database.read() as connection:
        return [tuple(entry) for entry in connection.exec_driver_sql("SELECT * FROM mlsec_entries ORDER BY position")]


class PlainSqlite:
    """A table of bytes, as durable as the ledger, in a fresh file."""

    def __init__(self, file: Path) -> None:
        file.unlink(missing_ok=True)
        self.connection = sqlite3.connect(file, isolation_level=None)
        for setting in ("journal_mode=WAL", "synchronous=FULL"):
            self.connection.execute(f"PRAGMA {setting}")
        self.connection.execute("CREATE TABLE bytes (position INTEGER PRIMARY KEY, content BLOB NOT NULL)")
        self.next = 0

    def insert(self, contents: list[bytes]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO bytes VALUES (?, ?)", enumerate(contents, self.next))
        self.connection.execute("COMMIT")
        self.next += len(contents)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call, without garbage of what came before."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def one_at_a_time(count: int) -> dict[str, Any]:
    with place() as directory:
        ledger, plain = opened(directory), PlainSqlite(directory / "plain.db")
        ledger.append(statements(1))
        made = statements(count)
        contents = [bytes(stored[7]) + bytes(stored[8]) + bytes(stored[9]) for stored in stored_rows(ledger)] * count

        def ours() -> float:
            return timed(lambda: [ledger.append([statement]) for statement in made])

        def peer() -> float:
            return timed(lambda: [plain.insert([content]) for content in contents])

        seconds, peer_seconds = alternately(ours, peer, repeats=5)
        ledger.close()
    rate, peer_rate = count / seconds, count / peer_seconds
    return row(
        "ledger", f"{count} one at a time", ours=rate, peer_name="SQLite insert and commit", peer=peer_rate, ratio=rate / peer_rate,
        demand="at least 0.4x", holds=rate >= 0.4 * peer_rate, unit="per s",
    )  # fmt: skip


def batched(count: int) -> dict[str, Any]:
    with place() as directory:
        made = statements(count)
        key = load_or_create_key_file(directory / "key.pem")
        names = iter(range(1000))
        first = opened(directory, "first.db")
        first.append(made)
        rows = stored_rows(first)
        first.close()
        contents = [bytes(stored[7]) + bytes(stored[8]) + bytes(stored[9]) for stored in rows]

        def ours() -> float:
            ledger = opened(directory, f"{next(names)}.db")
            seconds = timed(lambda: ledger.append(made))
            ledger.close()
            return seconds

        def signing() -> float:
            return timed(lambda: [key.sign(pae(statement.to_bytes())) for statement in made])

        def inserting() -> float:
            plain = PlainSqlite(directory / "plain.db")
            seconds = timed(lambda: plain.insert(contents))
            plain.connection.close()
            return seconds

        private: Any = load_pem_private_key((directory / "key.pem").read_bytes(), None)
        signer = CryptoSigner(private)

        seconds, signed, inserted = alternately(ours, signing, inserting, repeats=7 if count < 20_000 else 3)
        some = made[:1000]  # For comparison only.
        enveloped = timed(lambda: [Envelope(statement.to_bytes(), PAYLOAD_TYPE, {}).sign(signer) for statement in some]) / len(some)
    name, slower = max(("bare signing", signed), ("SQLite insert in one transaction", inserted), key=lambda peer: peer[1])
    rate, peer_rate = count / seconds, count / slower
    return row(
        "ledger", f"{count} batched", ours=rate, peer_name=name, peer=peer_rate, ratio=rate / peer_rate,
        demand="at least 0.8x", holds=rate >= 0.8 * peer_rate, unit="per s", securesystemslib_dsse=1 / enveloped,
    )  # fmt: skip


def fill(directory: Path, count: int, per_transaction: int = PER_TRANSACTION) -> Ledger:
    ledger = opened(directory)
    for first in range(0, count, per_transaction):
        ledger.append(statements(min(per_transaction, count - first), first))
    return ledger


def bare_checks(rows: list[tuple[Any, ...]], ledger: Ledger) -> None:
    """Hash every leaf and node, check every signature, compare nothing."""
    assert ledger.signer is not None
    key, stack = ledger.signer.sealing.public, list[bytes]()
    for number, stored in enumerate(rows):
        assert key.verifies(stored[8], pae(stored[7]))
        node, size = hashlib.sha256(b"\0" + envelope_bytes(stored[7], stored[6], stored[8])).digest(), number
        while size & 1:
            node = hashlib.sha256(b"\1" + stack.pop() + node).digest()
            size >>= 1
        stack.append(node)


def verify(directory: str) -> None:
    """For a process of its own, to see its memory."""
    found = verify_ledger(opened(Path(directory)))
    assert found.intact, found.first


def verification(count: int) -> dict[str, Any]:
    with place() as directory:
        ledger = fill(directory, count)
        rows = stored_rows(ledger)
        seconds, peer_seconds = alternately(
            lambda: timed(lambda: verify_ledger(ledger)),
            lambda: timed(lambda: bare_checks(rows, ledger)),
            repeats=5 if count < 5_000 else 3 if count < 20_000 else 1,
        )
        rows.clear()
        ledger.close()
        memory = in_fresh_process("benchmarks.bench_ledger", "verify", str(directory))[1]
    return row(
        "ledger", f"{count} verified", ours=seconds, peer_name="bare hashing and signature checks", peer=peer_seconds,
        ratio=seconds / peer_seconds, demand="at most 3x", holds=seconds <= 3 * peer_seconds, peak_mb=memory,
    )  # fmt: skip


def linear(count: int) -> dict[str, Any]:
    """The verification per entry of a long ledger, beside that of a short one."""
    short = max(count // 20, 1000)
    figures: list[tuple[float, float]] = []
    for size, repeats in ((short, 3), (count, 1)):  # Once in a million: it is long enough to be its own average.
        with place() as directory:
            fill(directory, size, LONG_TRANSACTION).close()
            runs = [in_fresh_process("benchmarks.bench_ledger", "verify", str(directory)) for _ in range(repeats)]
            figures.append(sorted(runs)[repeats // 2])
    (short_seconds, _), (seconds, memory) = figures
    ours, peer = seconds / count * 1e6, short_seconds / short * 1e6
    return row(
        "ledger", f"{count} per entry", ours=ours, peer_name=f"itself at {short}", peer=peer, ratio=ours / peer,
        demand="linear: at most 1.3x per entry", holds=ours <= 1.3 * peer, unit="µs per entry", peak_mb=memory,
    )  # fmt: skip


WORKS = {"one at a time": one_at_a_time, "batched": batched, "verification": verification, "linear": linear}


def run(sizes: list[str] | None = None) -> list[dict[str, Any]]:
    """All rows; `sizes` picks kinds ("batched") or single rows ("batched 1000")."""
    return [
        work(count) for name, work in WORKS.items() for count in SIZES[name] if sizes is None or name in sizes or f"{name} {count}" in sizes
    ]
