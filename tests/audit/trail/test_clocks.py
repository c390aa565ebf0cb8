"""A clock that goes back by a year or forward by ten loses nothing, doubles nothing, and stops nobody for longer than a day."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mlsec_dagster.audit.batches import Batch
from mlsec_dagster.audit.completeness import watermarks
from mlsec_dagster.audit.places import Directory
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.storage import log_positions
from tests.audit.trail.made import delivery, ids, line, rows
from tests.audit.trail.naive import SinceLastRun, ids_of_lines

YEAR = 366 * 86_400
SHIFTS = {"back by a year": -YEAR, "forward by ten": 10 * YEAR}
shifted = pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS.keys())


def once(numbers, name="request") -> dict[str, int]:
    return {f"{name}-{number}": 1 for number in numbers}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets this machine's clock by so many seconds from the true time."""
    seconds, nanoseconds = time.time, time.time_ns

    def set_by(shift: int) -> None:
        monkeypatch.setattr(time, "time", lambda: seconds() + shift)
        monkeypatch.setattr(time, "time_ns", lambda: nanoseconds() + shift * 10**9)

    return set_by


def put(path: Path, data: bytes, *, at: float) -> None:
    path.write_bytes(data)
    os.utime(path, (at, at))


@shifted
def test_a_clock_that_is_wrong_for_a_while_loses_nothing(shift, clock, logs, tick, trail, ledger):
    true = time.time()
    naive = SinceLastRun(Directory(logs), ids_of_lines)
    for number, wrong in enumerate((0, shift, shift, 0, 0)):
        clock(wrong)
        # Logs are written by other machines, whose clocks are right.
        put(logs / f"{number}.jsonl", b"".join(map(line, range(number * 10, number * 10 + 10))), at=true + number)
        naive.tick(time.time_ns() // 1000)
        tick()
        assert ids(trail) == once(range(number * 10 + 10))
    assert naive.found != once(range(50))  # Forward, it reads nothing for ten years; back, everything twice.
    assert verify_trail(ledger, trail) == []


@shifted
def test_logs_of_a_machine_whose_clock_is_wrong_for_a_while_are_read(shift, clock, logs, tick, trail):
    for number, wrong in enumerate((0, shift, 0, 0)):
        clock(wrong)
        put(logs / f"{number}.json.gz", delivery(range(number * 10, number * 10 + 10)), at=time.time())
        tick("cloudtrail")
    assert ids(trail) == once(range(40), "event")


@shifted
def test_dated_folders_of_the_past_and_of_the_future_are_read(shift, clock, logs, ingestion, trail):
    for number, wrong in enumerate((0, shift, 0)):
        clock(wrong)
        folder = logs / f"AWSLogs/123456789012/CloudTrail/eu-west-1/{time.strftime('%Y/%m/%d', time.gmtime(time.time()))}"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"123456789012_CloudTrail_eu-west-1_{number}.json.gz"
        put(folder / name, delivery(range(number * 10, number * 10 + 10)), at=time.time())
        ingestion("cloudtrail").tick(Budget())
    ingestion("cloudtrail").reconcile(Budget())
    assert ids(trail) == once(range(30), "event")


def test_a_first_tick_by_a_clock_that_is_ten_years_ahead_passes_over_what_a_reconciliation_finds(clock, logs, ingestion, trail):
    put(logs / "a.jsonl", line(0), at=time.time())
    clock(10 * YEAR)
    ingestion().tick(Budget())
    ingestion().reconcile(Budget())
    assert ids(trail) == once([0])
    clock(0)
    put(logs / "b.jsonl", line(1), at=time.time())
    ingestion().tick(Budget())
    assert ids(trail) == once([0, 1])


def test_a_record_and_a_file_of_the_future_do_not_hide_that_a_log_has_gone_quiet(logs, tick, trail, ledger):
    now = time.time()
    day = 86_400
    put(logs / "a.jsonl", line(0) + line(1, time="2086-01-01T00:00:00Z"), at=now - 1.5 * day)
    put(logs / "b.jsonl", line(2), at=now + 10 * YEAR)
    tick()
    assert ids(trail) == once(range(3))
    (told,) = watermarks(ledger.database, time.time_ns() // 1000)
    assert any("quiet since" in problem for problem in told.problems), told.problems
    assert told.newest is not None
    assert told.newest / 1e6 < now
    put(logs / "c.jsonl", line(3), at=now)
    tick()
    (told,) = watermarks(ledger.database, time.time_ns() // 1000)
    assert told.problems == []


def test_a_log_that_is_of_the_future_alone_is_not_taken_for_a_busy_one(logs, tick, ledger):
    put(logs / "a.jsonl", line(1, time="2086-01-01T00:00:00Z"), at=time.time() + 10 * YEAR)
    tick()
    (told,) = watermarks(ledger.database, time.time_ns() // 1000)
    assert any("of the future" in problem for problem in told.problems), told.problems


@shifted
@pytest.mark.parametrize("wrong_when_killed", [True, False])
def test_a_hold_of_a_process_that_was_killed_binds_nobody_once_the_clock_has_moved(
    wrong_when_killed, shift, clock, logs, tick, trail, ledger, monkeypatch
):
    (logs / "a.json.gz").write_bytes(delivery(range(10)))
    clock(shift if wrong_when_killed else 0)
    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(log_positions, "give_back", lambda *_: None)
        patched.setattr(Batch, "commit", killed)
        tick("cloudtrail")
    clock(0 if wrong_when_killed else shift)
    assert not tick("cloudtrail").held_elsewhere
    assert ids(trail) == once(range(10), "event")
    assert verify_trail(ledger, trail) == []


def test_an_unfinished_line_whose_writer_died_is_kept_an_hour_later_though_nothing_about_its_file_changes(clock, logs, tick, trail):
    (logs / "a.jsonl").write_bytes(line(0) + line(1)[:40])
    for later in (0, 600, 1200):
        clock(later)
        tick()
        assert [row["kind"] for row in rows(trail, "kind")] == ["event"]
    for later in (7200, 7800):
        clock(later)
        tick()
        assert sorted(row["kind"] for row in rows(trail, "kind")) == ["event", "quarantined"]
    assert tick().read == 0


def test_an_unfinished_line_is_not_read_at_every_tick_while_its_writer_may_go_on(clock, logs, ingestion, trail):
    log = logs / "a.jsonl"
    log.write_bytes(line(0) + line(1)[:40])
    reader = ingestion()
    assert [(clock(later), reader.tick(Budget()).read)[1] for later in (0, 600, 7200, 7800)] == [1, 0, 1, 0]
    assert sorted(row["kind"] for row in rows(trail, "kind")) == ["event", "quarantined"]
    with log.open("ab") as more:
        more.write(b"\n" + line(2))
    assert reader.tick(Budget()).read == 1
    assert ids(trail) == once((0, 2))


def test_an_unfinished_line_that_a_clock_ahead_takes_for_all_there_will_be_is_mended(clock, logs, tick, trail):
    log = logs / "a.jsonl"
    log.write_bytes(line(0) + line(1)[:40])
    clock(10 * YEAR)
    tick()
    clock(0)
    with log.open("ab") as opened:
        opened.write(line(1)[40:] + line(2))
    tick()
    assert ids(trail) == once(range(3))
