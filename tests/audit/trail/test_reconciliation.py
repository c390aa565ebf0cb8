"""What no window shows: everything is listed again, and what is gone is told."""

import os
import time

import pytest

from mlsec_dagster.audit.completeness import watermarks
from mlsec_dagster.audit.findings import acknowledge
from mlsec_dagster.audit.ticks import Budget
from tests.audit.documented import MLFLOW
from tests.audit.trail.made import delivery, ids, line

OLD = 1_600_000_000


def problems(ledger):
    (mark,) = watermarks(ledger.database, time.time_ns() // 1000)
    return mark.problems


def test_a_file_that_is_older_than_the_window_is_found_by_the_reconciliation(logs, ingestion, trail):
    (logs / "new.jsonl").write_bytes(line(1))
    ingestion().tick(Budget())
    (logs / "old.jsonl").write_bytes(line(2))
    os.utime(logs / "old.jsonl", (OLD, OLD))
    ingestion().tick(Budget())
    assert ids(trail) == {"request-1": 1}  # What a window alone would have made of it.
    report = ingestion().reconcile(Budget())
    assert (report.reconciled, report.missing) == (True, [])
    assert ids(trail) == {"request-1": 1, "request-2": 1}


def test_among_objects_that_nothing_has_happened_to_the_ones_that_have_grown_or_are_new_are_found(logs, ingestion, trail):
    for number in range(20):
        (logs / f"{number}.jsonl").write_bytes(line(number))
    reader = ingestion()
    assert [reader.tick(Budget()).read for _ in range(3)] == [20, 0, 0]
    (logs / "7.jsonl").write_bytes(line(7) + line(107))
    (logs / "new.jsonl").write_bytes(line(200))
    assert [reader.tick(Budget()).read for _ in range(3)] == [2, 0, 0]
    assert ids(trail) == {f"request-{number}": 1 for number in (*range(20), 107, 200)}
    (logs / "7.jsonl").write_bytes(line(7) + line(107) + line(108))
    assert reader.tick(Budget()).read == 1
    assert ids(trail)["request-108"] == 1


def test_a_reconciliation_that_takes_many_calls_goes_on_where_it_stopped(logs, ingestion, trail):
    for number in range(30):
        (logs / f"{number}.jsonl").write_bytes(line(number))
        os.utime(logs / f"{number}.jsonl", (OLD, OLD))
    reader = ingestion()
    calls = 0
    while not reader.reconcile(Budget(records=4)).reconciled:
        calls += 1
        assert calls < 100
    assert calls > 2
    assert ids(trail) == {f"request-{number}": 1 for number in range(30)}


def test_a_log_object_that_is_deleted_after_it_was_read_is_told_until_somebody_has_looked(logs, ingestion, ledger, trail):
    for name in ("a", "b"):
        (logs / f"{name}.json.gz").write_bytes(delivery([ord(name)]))
    ingestion("cloudtrail").tick(Budget())
    (logs / "a.json.gz").unlink()
    report = ingestion("cloudtrail").reconcile(Budget())
    assert report.missing == ["a.json.gz"]
    (told,) = [each for each in problems(ledger) if "a.json.gz" in each]
    assert "gone from where it lay" in told
    ingestion("cloudtrail").tick(Budget())
    assert told in problems(ledger)
    assert acknowledge(ledger.database, logs.as_uri() + "/", [told]) == [told]
    assert ingestion("cloudtrail").reconcile(Budget()).missing == []
    assert told not in problems(ledger)
    (logs / "a.json.gz").write_bytes(delivery([ord("a")]))  # It comes back.
    ingestion("cloudtrail").reconcile(Budget())
    assert ids(trail) == {"event-97": 1, "event-98": 1}


def test_only_what_was_seen_is_taken_off(logs, ingestion, ledger):
    for name in ("a", "b"):
        (logs / f"{name}.json.gz").write_bytes(delivery([ord(name)]))
    ingestion("cloudtrail").tick(Budget())
    (logs / "a.json.gz").unlink()
    ingestion("cloudtrail").reconcile(Budget())
    seen = [each for each in problems(ledger) if "gone" in each]
    (logs / "b.json.gz").unlink()
    ingestion("cloudtrail").reconcile(Budget())
    assert acknowledge(ledger.database, logs.as_uri() + "/", seen) == []
    assert any("a.json.gz" in each and "b.json.gz" in each for each in problems(ledger))


def test_a_delivery_that_is_rewritten_is_told(logs, ingestion, ledger, trail):
    (logs / "a.json.gz").write_bytes(delivery(range(10)))
    ingestion("cloudtrail").tick(Budget())
    (logs / "a.json.gz").write_bytes(delivery(range(5)))
    ingestion("cloudtrail").tick(Budget())
    assert [each for each in problems(ledger) if "a.json.gz" in each and "rewritten" in each]
    assert len(ids(trail)) == 10  # What was read is kept.


@pytest.mark.parametrize("kind", ["cloudtrail", "mlflow"])
def test_a_log_without_any_object_is_told(kind, ingestion, ledger):
    ingestion(kind).tick(Budget())
    assert any("no log object at all" in each for each in problems(ledger))


def test_what_is_no_object_of_a_log_does_not_pass_for_it(logs, ingestion, ledger):
    (logs / "notes.txt").write_text("made today")
    for _ in range(2):
        ingestion("cloudtrail").tick(Budget())
        ingestion("cloudtrail").reconcile(Budget())
    assert any("no log object at all" in each for each in problems(ledger))


def test_what_is_no_object_of_a_log_does_not_hide_that_it_is_quiet(logs, ingestion, ledger):
    (logs / "a.json.gz").write_bytes(delivery(range(10)))
    os.utime(logs / "a.json.gz", (0, time.time() - 7 * 3600))
    reader = ingestion("cloudtrail")
    reader.tick(Budget())
    quiet = [each for each in problems(ledger) if "quiet" in each]
    (logs / "notes.txt").write_text("made today")
    reader.tick(Budget())
    assert quiet
    assert [each for each in problems(ledger) if "quiet" in each] == quiet


def test_a_log_of_which_nothing_can_be_read_is_told_until_something_can(logs, ingestion, ledger):
    (logs / "other.jsonl").write_text('{"kind": "Event"}\n' * 3)
    ingestion("mlflow").tick(Budget())
    assert any("None of its 3 records could be read" in each for each in problems(ledger))
    (logs / "mlflow.jsonl").write_bytes(MLFLOW.data())
    ingestion("mlflow").tick(Budget())
    assert not any("could be read" in each for each in problems(ledger))
