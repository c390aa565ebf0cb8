"""Every delivered access is in the trail, and is there once."""

import os
import time
from pathlib import Path

import pytest

from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from tests.audit.shared import shared
from tests.audit.trail.made import delivery, ids, line, rows


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


def once(numbers, name="event"):
    return {f"{name}-{number}": 1 for number in numbers}


@pytest.mark.parametrize(("folder", "count"), [("invictus", 2900), ("stratus", 310)])
def test_real_deliveries_come_out_exactly(folder, count, logs, tick, trail, ledger):
    for path in shared(f"cloudtrail/{folder}").rglob("*.json*"):
        (logs / path.name).write_bytes(path.read_bytes())
    report = tick("cloudtrail")
    assert report.tally.events == count
    assert len(rows(trail, "id")) == count
    assert tick("cloudtrail").tally.events == 0
    assert len(rows(trail, "id")) == count
    assert verify_trail(ledger, trail) == []


def test_what_comes_twice_is_there_once(logs, tick, trail):
    (logs / "b.json.gz").write_bytes(delivery(range(100)))
    tick("cloudtrail")
    (logs / "a.json.gz").write_bytes(delivery(range(50, 150)))
    (logs / "c.json.gz").write_bytes(delivery([1, 1, 2, 2, 2]))
    report = tick("cloudtrail")
    assert (report.tally.events, report.tally.duplicates) == (50, 55)
    assert ids(trail) == once(range(150))


def test_keys_that_were_just_written_are_not_read_from_the_trail_again(logs, ingestion, trail, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    reader = ingestion("cloudtrail")
    reader.tick(Budget())
    opened: list[str] = []
    open_file = trail.storage.open
    monkeypatch.setattr(trail.storage, "open", lambda path: opened.append(path) or open_file(path))
    (logs / "b.json.gz").write_bytes(delivery(range(50, 150)))
    report = reader.tick(Budget())
    assert (report.tally.events, report.tally.duplicates) == (50, 50)
    assert opened == []


def test_the_same_bytes_under_another_name_are_not_parsed_again(logs, tick, trail):
    (logs / "b.json.gz").write_bytes(delivery(range(100)))
    tick("cloudtrail")
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    report = tick("cloudtrail")
    assert (report.copies, report.tally.events, report.tally.duplicates) == (1, 0, 100)
    assert ids(trail) == once(range(100))


def test_a_log_that_grows_is_read_on_from_its_last_whole_line(logs, tick, trail):
    log = logs / "host-1.jsonl"
    data = b"".join(line(number) for number in range(1000))
    for end in (0, 1, 5000, 5001, len(data) - 1, len(data)):
        log.open("r+b" if log.exists() else "wb").close()
        with log.open("ab") as opened:
            opened.write(data[log.stat().st_size : end])
        tick()
        whole = data[:end].count(b"\n")
        assert ids(trail) == once(range(whole), "request")


def test_a_grown_log_is_not_read_from_its_beginning(logs, ingestion, trail, monkeypatch):
    log = logs / "host-1.jsonl"
    log.write_bytes(b"".join(line(number) for number in range(1000)))
    reader = ingestion()
    reader.tick(Budget())
    begun: list[int] = []
    read = reader.place.read
    monkeypatch.setattr(reader.place, "read", lambda found, start=0: begun.append(start) or read(found, start))
    with log.open("ab") as opened:
        opened.write(line(1000))
    report = reader.tick(Budget())
    assert report.tally.events == 1
    assert min(begun) > log.stat().st_size - len(line(1000)) - 5000


def test_a_log_that_was_replaced_by_a_longer_one_is_read_anew_and_said(logs, tick, trail):
    log = logs / "host-1.jsonl"
    log.write_bytes(b"".join(line(number) for number in range(100)))
    tick()
    log.write_bytes(b"".join(line(number) for number in range(5000, 5200)))
    report = tick()
    assert report.rewritten == ["host-1.jsonl"]
    assert ids(trail) == once([*range(100), *range(5000, 5200)], "request")


def test_an_unfinished_last_line_is_kept_once_nothing_more_comes_and_is_mended_if_it_does(logs, tick, trail):
    log = logs / "host-1.jsonl"
    log.write_bytes(line(0) + line(1)[:40])
    tick()
    assert ids(trail) == once([0], "request")
    old = time.time() - 7200
    os.utime(log, (old, old))
    tick()
    assert [row["kind"] for row in rows(trail, "kind", "time")].count("quarantined") == 1
    with log.open("ab") as opened:
        opened.write(line(1)[40:] + line(2))
    tick()
    assert ids(trail) == once(range(3), "request")


def test_a_tick_stops_when_its_budget_is_spent_and_the_next_one_goes_on(logs, ingestion, trail):
    for number in range(3):
        (logs / f"{number}.json.gz").write_bytes(delivery(range(number * 10_000, (number + 1) * 10_000)))
    counts = []
    for _ in range(100):
        report = ingestion("cloudtrail", batch_rows=7_000).tick(Budget(records=9_000))
        counts.append(report.tally.events)
        if not report.behind:
            break
    assert max(counts) < 20_000
    assert len(counts) > 2
    assert ids(trail) == once(range(30_000))


def test_a_large_object_is_put_into_the_trail_in_several_commits(logs, ingestion, trail):
    (logs / "large.json.gz").write_bytes(delivery(range(15_000)))
    report = ingestion("cloudtrail", batch_rows=2_000).tick(Budget())
    assert report.commits > 3
    assert report.read == 1
    assert ids(trail) == once(range(15_000))


def test_what_cannot_be_read_is_a_row_and_its_neighbours_are_read(logs, tick, trail, tmp_path):
    (logs / "host-1.jsonl").write_bytes(line(1) + b"no json\n" + b"\xff\xfe\n" + line(2))
    report = tick()
    assert (report.tally.events, report.tally.quarantined) == (2, 2)
    raw = {row["raw"] for row in rows(trail, "raw", "kind") if row["kind"] == "quarantined"}
    assert raw == {"no json", "\\xff\\xfe"}
    assert tick().tally.quarantined == 0


def test_a_truncated_delivery_is_said_and_read_again_when_it_is_whole(logs, tick, trail):
    whole = delivery(range(1000))
    (logs / "a.json.gz").write_bytes(whole[: len(whole) // 2])
    assert tick("cloudtrail").incomplete == ["a.json.gz"]
    (logs / "a.json.gz").write_bytes(whole)
    tick("cloudtrail")
    assert ids(trail) == once(range(1000))


def test_an_identity_that_is_used_again_for_another_access_is_not_passed_over(logs, tick, trail):
    (logs / "host-1.jsonl").write_bytes(line(1) + line(1, user="mallory") + line(1))
    tick()
    assert ids(trail) == {"request-1": 2}


def test_events_of_many_days_lie_in_their_days(logs: Path, tick, trail):
    (logs / "a.json.gz").write_bytes(delivery(day * 86400 for day in range(100)))
    report = tick("cloudtrail")
    assert len(report.days) == 100
    assert ids(trail) == once(day * 86400 for day in range(100))
    assert {file.day for file in trail.open().files()} == set(report.days)
