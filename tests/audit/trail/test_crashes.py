"""Whoever stops anywhere, the trail has every delivered access, once."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit import batches, committing
from mlsec_dagster.audit import ingestion as module
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.batches import Batch
from mlsec_dagster.audit.files import Files
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.places import Directory
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Head, Trail, TrailConflictError
from mlsec_dagster.audit.writing import Part
from mlsec_dagster.errors import StoreError
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.storage import log_positions
from tests.audit.trail.made import Nobody, delivery, ids, line, source_of
from tests.audit.trail.naive import TwoFiles, ids_of_delivery

ROOT = Path(__file__).resolve().parents[3]

CHILD = """
import os, signal, sys
from pathlib import Path
from mlsec_dagster.audit import batches, ingestion, ticks, trail as trails
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.storage import log_positions
from tests.audit.trail.made import Nobody, source_of

root, step = Path(sys.argv[1]), sys.argv[2]
place, name, when = {
    "before the files are whole": (batches.Batch, "finish", "before"),
    "before the intent": (log_positions, "record_intent", "before"),
    "after the intent": (batches.Batch, "commit", "before"),
    "after the commit": (trails.Head, "commit", "after"),
    "after the seal": (Ledger, "append", "after"),
    "in the last transaction": (log_positions, "record_positions", "after"),
    "before the hold is given back": (log_positions, "give_back", "before"),
}[step]
real = getattr(place, name)
def killed(*arguments, **named):
    if when == "after":
        real(*arguments, **named)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(place, name, killed)
ring = KeyRing(load_or_create_key_file(root / "key.pem"))
ledger = open_ledger(f"sqlite:///{root / 'ledger.db'}", signer=ring, trust=Trust(list(ring.publics)))
ingestion.Ingestion(
    ledger.database, trails.Trail(str(root / "trail")), source_of("cloudtrail", root / "logs"), Nobody(), ledger=ledger
).tick(ticks.Budget())
"""
STEPS = (
    "before the files are whole",
    "before the intent",
    "after the intent",
    "after the commit",
    "after the seal",
    "in the last transaction",
    "before the hold is given back",
)


@pytest.fixture(params=[True, False], ids=["rows first", "rows last"])
def naive(request: pytest.FixtureRequest, tmp_path: Path, logs: Path) -> TwoFiles:
    """One that keeps rows and positions apart, in this order or in that."""
    root = tmp_path / "naive"
    root.mkdir()
    return TwoFiles(Directory(logs), ids_of_delivery, root=root, rows_first=request.param)


def stopped() -> None:
    raise OSError(28, "No space left on device")


def test_a_naive_reader_that_is_stopped_between_rows_and_position_doubles_or_loses(naive, logs):
    """By `kill -9`, by a full disk, by whatever. The tests below stop ours there."""
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    with pytest.raises(OSError, match="No space"):
        naive.tick(stopped)
    naive.tick()
    assert naive.kept == ({f"event-{number}": 2 for number in range(100)} if naive.rows_first else {})


def test_two_naive_readers_at_once_double(naive, logs):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    other = dataclasses.replace(naive, rows_first=True)
    dataclasses.replace(naive, rows_first=True).tick(other.tick)
    assert naive.kept == {f"event-{number}": 2 for number in range(100)}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_killed_loses_nothing_and_doubles_nothing(step, tmp_path, logs, ledger, trail, tick, monkeypatch):
    for number in range(3):
        (logs / f"{number}.json.gz").write_bytes(delivery(range(number * 100, number * 100 + 100)))
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), step], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (logs / "later.json.gz").write_bytes(delivery(range(250, 400)))
    assert tick("cloudtrail").held_elsewhere  # As far as anybody knows, the killed one is still at it ...
    monkeypatch.setattr(log_positions.time, "time", lambda: __import__("time").time_ns() / 1e9 + 3600)  # ... for two minutes.
    tick("cloudtrail")
    tick("cloudtrail")
    assert ids(trail) == {f"event-{number}": 1 for number in range(400)}
    assert verify_trail(ledger, trail) == []


def test_a_process_that_was_taken_for_dead_and_wakes_up_cannot_commit(logs, ingestion, trail, ledger, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    monkeypatch.setattr(module, "_HOLD_SECONDS", -1.0)
    commit = Batch.commit
    woken: list[bool] = []

    def late(batch: Batch) -> int | None:
        if not woken:
            woken.append(True)
            assert ingestion("cloudtrail").tick(Budget()).tally.events == 100  # Somebody else, meanwhile.
            with pytest.raises(TrailConflictError):
                commit(batch)
            raise TrailConflictError("as it was")
        return commit(batch)

    monkeypatch.setattr(Batch, "commit", late)
    assert ingestion("cloudtrail").tick(Budget()).tally.events == 0
    assert ids(trail) == {f"event-{number}": 1 for number in range(100)}
    assert verify_trail(ledger, trail) == []


def test_a_process_that_wakes_up_behind_one_that_cleared_up_and_died_cannot_commit_what_is_gone(
    logs, ingestion, trail, ledger, monkeypatch
):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    monkeypatch.setattr(module, "_HOLD_SECONDS", -1.0)
    commit, record_intent = Batch.commit, log_positions.record_intent
    woken: list[bool] = []

    def killed(*_: object) -> None:
        raise Killed

    def late(batch: Batch) -> int | None:
        if woken:
            return commit(batch)
        woken.append(True)
        # Somebody else finds the intent, settles that it is lost, deletes its files, and is killed before a commit of its own.
        monkeypatch.setattr(log_positions, "record_intent", killed)
        with pytest.raises(Killed):
            ingestion("cloudtrail").tick(Budget())
        monkeypatch.setattr(log_positions, "record_intent", record_intent)
        return commit(batch)

    monkeypatch.setattr(Batch, "commit", late)
    assert ingestion("cloudtrail").tick(Budget()).tally.events == 100
    assert ids(trail) == {f"event-{number}": 1 for number in range(100)}
    assert verify_trail(ledger, trail) == []


def test_whoever_comes_second_with_the_same_accesses_from_elsewhere_is_refused_and_looks_again(
    logs, ledger, trail, ingestion, tmp_path, monkeypatch
):
    other = tmp_path / "other"
    other.mkdir()
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    (other / "b.json.gz").write_bytes(delivery(range(50, 150)))
    commit = Batch.commit

    def interrupted(batch: Batch) -> int | None:
        if batch.location.endswith("/logs/"):
            monkeypatch.setattr(Batch, "commit", commit)
            second = Ingestion(ledger.database, trail, source_of("cloudtrail", other), Nobody(), ledger=ledger)
            assert second.tick(Budget()).tally.events == 100
        return commit(batch)

    monkeypatch.setattr(Batch, "commit", interrupted)
    report = ingestion("cloudtrail").tick(Budget())
    assert (report.tally.events, report.tally.duplicates) == (50, 50)
    assert ids(trail) == {f"event-{number}": 1 for number in range(150)}
    assert verify_trail(ledger, trail) == []


def test_two_at_once_do_no_harm(logs, ingestion, trail, ledger):
    for number in range(20):
        (logs / f"{number}.json.gz").write_bytes(delivery(range(number * 100, number * 100 + 150)))
    readers = [ingestion("cloudtrail", batch_rows=500) for _ in range(3)]
    failures: list[BaseException] = []

    def work(reader: Ingestion) -> None:
        try:
            reader.tick(Budget())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    ingestion("cloudtrail").tick(Budget())
    assert ids(trail) == {f"event-{number}": 1 for number in range(2050)}
    assert verify_trail(ledger, trail) == []


def test_a_full_disk_loses_nothing_and_leaves_no_files(logs, ingestion, trail, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(1000)))
    real = Files.create

    def full(files: Files, path: str):
        sink = real(files, path)

        def write(data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sink, "write", write)
        return sink

    with monkeypatch.context() as patched:
        patched.setattr(Files, "create", full)
        with pytest.raises(StoreError, match=r"No space left.*Nothing was recorded, and nothing is lost"):
            ingestion("cloudtrail").tick(Budget())
    assert ids(trail) == {}
    assert not list(Path(trail.uri).rglob("*.parquet"))
    assert ingestion("cloudtrail").tick(Budget()).tally.events == 1000


def test_a_tick_that_is_interrupted_while_a_file_is_closed_waits_for_that_and_leaves_no_file(logs, ingestion, trail, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(10)))
    begun, may_go_on, removing = threading.Event(), threading.Event(), threading.Event()
    close, result, wait, remove = Part.close, Future.result, batches.wait, Files.remove
    asked, removed_meanwhile = [], []

    def slow(part: Part, source: str):
        begun.set()
        assert may_go_on.wait(30)
        removed_meanwhile.append(removing.wait(0.3))
        return close(part, source)

    def interrupted(future, timeout=None):
        asked.append(future)
        if len(asked) == 1:  # The rows; the second one is the end of the file.
            return result(future, timeout)
        assert begun.wait(30)
        raise KeyboardInterrupt

    def waited(futures):
        may_go_on.set()
        return wait(futures)

    def removed(files: Files, path: str):
        removing.set()
        remove(files, path)

    with monkeypatch.context() as patched:
        patched.setattr(Part, "close", slow)
        patched.setattr(Files, "remove", removed)
        patched.setattr(Future, "result", interrupted)
        patched.setattr(batches, "wait", waited)
        with pytest.raises(KeyboardInterrupt):
            ingestion("cloudtrail").tick(Budget())
        assert (removed_meanwhile, removing.is_set()) == ([False], True)
    assert not list(Path(trail.uri).rglob("*.parquet"))
    assert ingestion("cloudtrail").tick(Budget()).tally.events == 10


def test_a_translator_that_fails_costs_no_rows_and_is_said(logs, ledger, trail):
    class Broken:
        def artifact(self, event) -> Artifact:
            raise KeyError("oops")

    (logs / "a.json.gz").write_bytes(delivery(range(10)))
    report = Ingestion(ledger.database, trail, source_of("cloudtrail", logs), Broken()).tick(Budget())
    assert (report.tally.events, report.tally.unresolved) == (10, 10)
    assert report.tally.translator_error == "KeyError: 'oops'"


class Killed(BaseException):
    """Stands for kill -9: what is behind it does not happen."""


FAULTS = ("record_intent", "commit", "committed", "append", "settle", "finish")


STEPS_IN_ANY_ORDER = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.integers(0, 60), st.integers(1, 30)),
        st.tuples(st.just("grow"), st.integers(0, 2), st.integers(1, 400)),
        st.tuples(st.just("tick"), st.sampled_from(["cloudtrail", "mlflow"]), st.none()),
        st.tuples(st.just("crash"), st.sampled_from(["cloudtrail", "mlflow"]), st.sampled_from(FAULTS)),
    ),
    min_size=3,
    max_size=14,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(STEPS_IN_ANY_ORDER)
def test_any_order_of_deliveries_crashes_and_restarts_gives_exactly_what_was_delivered(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("any")
    exactly_what_was_delivered(root, f"sqlite:///{root / 'ledger.db'}", steps)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(STEPS_IN_ANY_ORDER)
def test_the_same_on_postgresql(tmp_path_factory, new_postgres_url, steps):
    exactly_what_was_delivered(tmp_path_factory.mktemp("any"), new_postgres_url(), steps)


def exactly_what_was_delivered(root: Path, database_url: str, steps: list[tuple[str, Any, Any]]) -> None:
    ring = KeyRing(load_or_create_key_file(root / "key.pem"))
    ledger = open_ledger(database_url, signer=ring, trust=Trust(list(ring.publics)))
    trail = Trail(str(root / "trail"))
    folders = {kind: root / kind for kind in ("cloudtrail", "mlflow")}
    for folder in folders.values():
        folder.mkdir()
    delivered: set[int] = set()
    grown = dict.fromkeys(range(3), b"")

    def run(kind: str) -> None:
        Ingestion(ledger.database, trail, source_of(kind, folders[kind]), Nobody(), ledger=ledger, batch_rows=20).tick(Budget())

    try:
        for number, (what, which, more) in enumerate(steps):
            if what == "deliver":
                # Names in no order, contents that overlap.
                (folders["cloudtrail"] / f"{(number * 7) % 11}-{number}.json.gz").write_bytes(delivery(range(which, which + more)))
                delivered |= set(range(which, which + more))
            elif what == "grow":
                start = grown[which].count(b"\n")
                grown[which] += b"".join(line(which * 10_000 + each) for each in range(start, start + 3))
                with (folders["mlflow"] / f"{which}.jsonl").open("ab") as opened:
                    # The last piece may end anywhere in a line, and goes on there.
                    opened.write(grown[which][opened.tell() : len(grown[which]) - more % 100])
            elif what == "tick":
                run(which)
            else:
                crash(more, lambda which=which: run(which))
        for name, data in grown.items():
            with (folders["mlflow"] / f"{name}.jsonl").open("ab") as opened:
                opened.write(data[opened.tell() :])
        for kind in folders:
            run(kind)
            run(kind)
        lines = {f"request-{name * 10_000 + each}" for name, data in grown.items() for each in range(data.count(b"\n"))}
        assert ids(trail) == dict.fromkeys({f"event-{number}" for number in delivered} | lines, 1)
        if trail.exists() and trail.open().files():
            assert verify_trail(ledger, trail) == []
    finally:
        ledger.close()


def crash(where: str, run) -> None:
    """Run until it comes there, if it does; and as after kill -9, nobody tidies up."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Batch, "abandon", lambda batch: batch._writing.shutdown(wait=True))
        patched.setattr(log_positions, "give_back", lambda *_: None)
        patched.setattr(module, "_HOLD_SECONDS", -1.0)

        def killed(*_, **__):
            raise Killed

        if where == "record_intent":
            patched.setattr(log_positions, "record_intent", killed)
        elif where == "commit":
            patched.setattr(Batch, "commit", killed)
        elif where == "committed":
            real = Head.commit
            patched.setattr(Head, "commit", lambda *args, **named: (real(*args, **named), killed()))
        elif where == "append":
            patched.setattr(committing, "seal", killed)
        elif where == "settle":
            patched.setattr(log_positions, "settle", killed)
        else:
            patched.setattr(Batch, "finish", killed)
        with suppress(Killed):
            run()


def test_a_commit_that_is_older_than_the_tables_log_tells_is_still_known(ingestion, trail, ledger, logs, monkeypatch):
    """Whoever was killed before the seal and comes again after a month: Delta Lake has cleaned its log by then."""
    (logs / "a.jsonl").write_bytes(b"".join(map(line, range(10))))
    with monkeypatch.context() as killed:
        killed.setattr(committing, "seal", _killed)
        with pytest.raises(KeyboardInterrupt):
            ingestion().tick(Budget())
    long_ago = time.time() - 60 * 86_400
    for number in range(1, 60):
        for path in Path(trail.uri, "_delta_log").glob("*.*"):
            os.utime(path, (long_ago, long_ago))
        trail.open().take_number("file:///elsewhere/", number)
    assert not Path(trail.uri, "_delta_log", f"{1:020}.json").exists()
    report = ingestion().tick(Budget())
    assert report.recovered == 1
    assert ids(trail) == dict.fromkeys((f"request-{number}" for number in range(10)), 1)
    assert verify_trail(ledger, trail) == []


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt
