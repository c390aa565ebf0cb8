"""Whoever stops anywhere in the upkeep, the trail has the same rows and can be verified, and the next one finishes it."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit import upkeep as module
from mlsec_dagster.audit.compaction import Sizes, compact
from mlsec_dagster.audit.due import due_files
from mlsec_dagster.audit.erasure import erase
from mlsec_dagster.audit.files import Files
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.persons import Person
from mlsec_dagster.audit.retention import Retention, expire
from mlsec_dagster.audit.rewriting import Rewriting
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Head, Trail
from mlsec_dagster.audit.upkeep import Upkeep
from mlsec_dagster.audit.vacuum import GRACE_SECONDS, vacuum
from mlsec_dagster.errors import StoreError
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.storage import log_positions
from tests.audit.trail.made import Nobody, ids, line, rows, source_of
from tests.audit.trail.test_erasure import traces

ROOT = Path(__file__).resolve().parents[3]
MARY = "mary.schmidt@example.com"

CHILD = """
import os, signal, sys
from pathlib import Path
from mlsec_dagster.audit import rewriting, trail as trails
from mlsec_dagster.audit.files import Files
from mlsec_dagster.audit.upkeep import Upkeep
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.storage import log_positions
from tests.audit.trail.test_upkeep_crashes import WORK

root, work, step = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
place, name, when = {
    "before the files are whole": (rewriting.Rewriting, "finish", "before"),
    "before the intent": (log_positions, "record_intent", "before"),
    "after the intent": (trails.Head, "commit", "before"),
    "after the commit": (trails.Head, "commit", "after"),
    "after the seal": (Ledger, "append", "after"),
    "before the old files are deleted": (Files, "destroy", "before"),
    "between two old files": (Files, "destroy", "after"),
    "in the last transaction": (log_positions, "settle", "after"),
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
WORK[work](Upkeep(ledger.database, trails.Trail(str(root / "trail")), ledger))
"""
COMMON = (
    "before the intent",
    "after the intent",
    "after the commit",
    "after the seal",
    "in the last transaction",
    "before the hold is given back",
)
WRITING = ("before the files are whole",)
DELETING = ("before the old files are deleted", "between two old files")
CASES = [
    *(("compact", step) for step in (*WRITING, *COMMON)),
    *(("expire", step) for step in COMMON),
    *(("erase", step) for step in (*WRITING, *COMMON, *DELETING)),
]


def kept_days() -> int:
    """Of the two days in these tests the first is over the retention."""
    return int(time.time() // 86_400) - 20_574 - 1  # 2026-05-01 is day 20574 since the epoch.


WORK = {
    "compact": compact,
    "expire": lambda upkeep: expire(upkeep, Retention({}, default=kept_days())),
    "erase": lambda upkeep: erase(upkeep, Person(emails=[MARY]), reason="DSR-1"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("work", "step"), CASES)
def test_a_process_that_is_killed_leaves_a_trail_that_can_be_verified_and_the_next_one_finishes(
    work, step, tmp_path, logs, ledger, trail, tick, upkeep, monkeypatch
):
    for number in range(3):
        for day in range(2):
            start = day * 86_400 + number * 10
            (logs / f"{number}-{day}.jsonl").write_bytes(
                b"".join(line(start + each, user=MARY if each % 2 else "bob") for each in range(10))
            )
        tick()
    before = Counter(row["key"] for row in rows(trail, "key"))
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path), work, step], cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    due = due_files(upkeep.database)
    assert {problem.kind for problem in verify_trail(ledger, trail, due=due.added, leaving=due.leaving)} <= {"unsealed"}
    with pytest.raises(StoreError, match="Somebody else is at the upkeep"):
        WORK[work](upkeep)  # As far as anybody knows, the killed one is still at it.
    real = time.time
    monkeypatch.setattr(log_positions.time, "time", lambda: real() + 3600)
    WORK[work](upkeep)
    assert verify_trail(ledger, trail) == []
    left = Counter(row["key"] for row in rows(trail, "key"))
    if work == "expire":
        assert {file.day for file in trail.open().files()} == {"2026-05-02"}
    else:
        assert left == before
    if work == "compact":
        assert len(trail.open().files()) == 2
    if work == "erase":
        if step in {"before the files are whole", "before the intent"}:
            # What was written and is in nobody's table is told from what is being written by its age alone.
            assert traces(trail, (MARY.encode(),)) == []  # The new files, and they do not tell of the person.
            old = real() - GRACE_SECONDS - 60
            orphans = {path for path, _, _ in trail.storage.listed()} - {file.path for file in trail.open().files()}
            for path in orphans:
                os.utime(Path(trail.uri) / path, (old, old))
            assert orphans
            assert set(vacuum(upkeep).deleted) == orphans
        assert traces(trail, (MARY.encode(),)) == []
        assert Counter(row["kind"] for row in rows(trail, "kind"))["erased"] == 30
    again = tick()
    assert again.tally.events == 0
    with ledger.database.read() as connection:
        assert log_positions.all_open_intents(connection) == []


class Killed(BaseException):
    """Stands for kill -9: what is behind it does not happen."""


FAULTS = ("record_intent", "commit", "committed", "seal", "settle", "finish", "destroy")


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("deliver"), st.integers(0, 60), st.none()),
            st.tuples(st.sampled_from(["compact", "erase", "vacuum"]), st.integers(1, 3), st.one_of(st.none(), st.sampled_from(FAULTS))),
        ),
        min_size=4,
        max_size=12,
    )
)
def test_any_order_of_deliveries_upkeep_crashes_and_restarts_keeps_every_access_once(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("any")
    (root / "logs").mkdir()
    ring = KeyRing(load_or_create_key_file(root / "key.pem"))
    ledger = open_ledger(f"sqlite:///{root / 'ledger.db'}", signer=ring, trust=Trust(list(ring.publics)))
    trail = Trail(str(root / "trail"))
    upkeep = Upkeep(ledger.database, trail, ledger)
    delivered: set[int] = set()
    erased: set[int] = set()

    def deliver(start: int, name: str) -> None:
        (root / "logs" / name).write_bytes(b"".join(line(each, user=f"user{each % 4}@example.com") for each in range(start, start + 12)))
        delivered.update(range(start, start + 12))
        Ingestion(ledger.database, trail, source_of("mlflow", root / "logs"), Nobody(), ledger=ledger).tick(Budget())

    def run(what: str, which: int) -> None:
        if what == "compact":
            compact(upkeep, Sizes(rows=10 * which, files=1))
        elif what == "vacuum":
            vacuum(upkeep, grace=0)
        else:
            erase(upkeep, Person(emails=[f"user{which}@example.com"]), reason="DSR-1")
            erased.update(each for each in delivered if each % 4 == which)

    try:
        deliver(0, "first.jsonl")
        for number, (what, which, fault) in enumerate(steps):
            if what == "deliver":
                deliver(which, f"{number}.jsonl")
            else:
                crash(fault, lambda what=what, which=which: run(what, which))
        for which in (1, 2, 3):
            run("erase", which)
        run("vacuum", 1)
        run("compact", 3)
        assert ids(trail) == {f"request-{each}": 1 for each in delivered if each % 4 == 0}
        assert len(rows(trail, "key")) == len(delivered)
        assert verify_trail(ledger, trail) == []
        assert traces(trail, (b"user1@", b"user2@", b"user3@")) == []
    finally:
        ledger.close()


def crash(where: str | None, run) -> None:
    """Run until it comes there, if it does; and as after kill -9, nobody tidies up."""
    with pytest.MonkeyPatch.context() as patched:
        if where is not None:
            patched.setattr(Rewriting, "__exit__", lambda *_: None)
            patched.setattr(log_positions, "give_back", lambda *_: None)

            def killed(*_, **__):
                raise Killed

            if where == "committed":
                real = Head.commit
                patched.setattr(Head, "commit", lambda *args, **named: (real(*args, **named), killed()))
            else:
                place = {"commit": Head, "finish": Rewriting, "destroy": Files, "seal": module}.get(where, log_positions)
                patched.setattr(place, where, killed)
        patched.setattr(module, "_HOLD_SECONDS", -1.0)
        with suppress(Killed):
            run()


def test_a_seal_that_could_not_be_written_is_written_later(logs, tick, trail, upkeep, ledger, monkeypatch):
    for number in range(3):
        (logs / f"{number}.jsonl").write_bytes(line(number))
        tick()

    def unreachable(*_):
        raise StoreError("The store cannot be reached.")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "append", unreachable)
        with pytest.raises(StoreError, match="cannot be reached"):
            compact(upkeep)
    due = due_files(upkeep.database)
    assert {problem.kind for problem in verify_trail(ledger, trail, due=due.added, leaving=due.leaving)} == {"unsealed"}
    assert vacuum(upkeep).deleted == []
    assert verify_trail(ledger, trail) == []
    assert len(trail.open().files()) == 1


def test_a_commit_that_is_sealed_while_somebody_looks_is_no_rollback(logs, tick, trail, upkeep, monkeypatch):
    (logs / "a.jsonl").write_bytes(line(1))
    tick()
    real = module.sealed_entries

    def meanwhile(*arguments):
        if not (logs / "b.jsonl").exists():
            (logs / "b.jsonl").write_bytes(line(2))
            tick()
        return real(*arguments)

    monkeypatch.setattr(module, "sealed_entries", meanwhile)
    with upkeep.turn():
        view = upkeep.look()
    assert view.head.version == trail.open().version
    assert view.files.keys() == view.sealed.keys()
    assert len(view.files) == 2
