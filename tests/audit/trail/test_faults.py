"""In whatever order, however often and under whatever names log files come: what a naive reader loses or doubles is there once."""

import os
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.layouts import AzureLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.places import Directory
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Trail
from tests.audit.trail.made import Nobody, delivery, ids, line, source_of
from tests.audit.trail.naive import AnewWhenChanged, BehindTheSize, ByKey, ByTime, ids_of_delivery, ids_of_good_lines

HOUR = 3600.0
MOMENT = time.time() - 6 * HOUR
"""Seconds since the epoch: the first tick looks at the days before today only."""


def put(path: Path, data: bytes, modified: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (modified, modified))


def once(numbers, name="event") -> dict[str, int]:
    return {f"{name}-{number}": 1 for number in numbers}


def test_a_file_that_comes_late_with_an_old_time_of_writing_is_read(logs, tick, trail):
    naive = ByTime(Directory(logs), ids_of_delivery)
    put(logs / "a.json.gz", delivery(range(10)), MOMENT)
    naive.tick()
    tick("cloudtrail")
    put(logs / "b.json.gz", delivery(range(10, 20)), MOMENT - HOUR)  # As replication and `aws s3 sync` leave them.
    naive.tick()
    tick("cloudtrail")
    assert naive.found == once(range(10))
    assert ids(trail) == once(range(20))


def test_a_key_that_sorts_before_the_last_one_is_read(logs, tick, trail):
    naive = ByKey(Directory(logs), ids_of_delivery)
    # Two regions deliver into one bucket; the one that sorts first is the slower.
    put(logs / "eu-west-1_20260501T0005Z.json.gz", delivery(range(10)), MOMENT)
    naive.tick()
    tick("cloudtrail")
    put(logs / "eu-central-1_20260501T0000Z.json.gz", delivery(range(10, 20)), MOMENT + 1)
    naive.tick()
    tick("cloudtrail")
    assert naive.found == once(range(10))
    assert ids(trail) == once(range(20))


def test_what_is_delivered_twice_is_there_once(logs, tick, trail):
    naive = ByKey(Directory(logs), ids_of_delivery)
    put(logs / "a.json.gz", delivery(range(10)), MOMENT)
    naive.tick()
    tick("cloudtrail")
    put(logs / "b.json.gz", delivery(range(10)), MOMENT + 1)  # Again, under another name ...
    put(logs / "c.json.gz", delivery([*range(5, 15), 14, 14]), MOMENT + 2)  # ... with others, and within one file.
    naive.tick()
    tick("cloudtrail")
    assert max(naive.found.values()) == 3
    assert ids(trail) == once(range(15))


def test_two_files_of_one_instant_are_both_read(logs, tick, trail):
    naive = ByTime(Directory(logs), ids_of_delivery)
    put(logs / "a.json.gz", delivery(range(10)), MOMENT)
    naive.tick()
    tick("cloudtrail")
    put(logs / "b.json.gz", delivery(range(10, 20)), MOMENT)  # S3 tells whole seconds.
    naive.tick()
    tick("cloudtrail")
    assert naive.found == once(range(10))
    assert ids(trail) == once(range(20))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.permutations(range(6)), st.permutations(range(6)), st.sets(st.integers(0, 5)))
def test_any_order_of_keys_times_and_ticks_gives_every_access_once(tmp_path_factory, ledger, names, times, ticks):
    root = tmp_path_factory.mktemp("order")
    (root / "logs").mkdir()
    trail, source = Trail(str(root / "trail")), source_of("cloudtrail", root / "logs")
    for number in range(6):
        put(root / "logs" / f"{names[number]}.json.gz", delivery(range(number * 5, number * 5 + 7)), MOMENT + times[number])
        if number in ticks:
            Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger).tick(Budget())
    Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger).tick(Budget())
    assert ids(trail) == once(range(32))


def test_out_of_order_a_naive_reader_loses_by_key_and_by_time(logs, tick, trail):
    by_key, by_time = ByKey(Directory(logs), ids_of_delivery), ByTime(Directory(logs), ids_of_delivery)
    for number, (name, second) in enumerate([("d", 3), ("b", 4), ("c", 2), ("a", 1)]):
        put(logs / f"{name}.json.gz", delivery(range(number * 10, number * 10 + 10)), MOMENT + second)
        by_key.tick()
        by_time.tick()
        tick("cloudtrail")
    assert by_key.found == once(range(10))
    assert by_time.found == once(range(20))
    assert ids(trail) == once(range(40))


@pytest.mark.parametrize("dated", [True, False])
def test_a_file_that_is_older_than_the_window_is_found_by_a_reconciliation(dated, logs, ingestion, trail):
    def deliver(numbers: range, modified: float) -> None:
        day = f"{datetime.fromtimestamp(modified, UTC):%Y/%m/%d}"
        name = f"123456789012_CloudTrail_eu-west-1_{day.replace('/', '')}T0000Z_x.json.gz"
        if dated:
            put(logs / f"AWSLogs/123456789012/CloudTrail/eu-west-1/{day}/{name}", delivery(numbers), modified)
        else:
            put(logs / f"{day.replace('/', '-')}.jsonl", b"".join(map(line, numbers)), modified)

    naive = ByTime(Directory(logs), ids_of_delivery if dated else ids_of_good_lines)
    kind, name = ("cloudtrail", "event") if dated else ("mlflow", "request")
    deliver(range(10), MOMENT)
    naive.tick()
    reader = ingestion(kind)
    reader.tick(Budget())
    deliver(range(10, 20), MOMENT - 60 * 24 * HOUR)
    naive.tick()
    reader.tick(Budget())
    assert naive.found == ids(trail) == once(range(10), name)  # A window that looked everywhere would be no window.
    report = reader.reconcile(Budget())
    assert report.reconciled
    assert report.tally.events == 10
    assert ids(trail) == once(range(20), name)
    assert reader.reconcile(Budget()).tally.events == 0


def azure_line(number: int) -> bytes:
    """After https://learn.microsoft.com/azure/storage/blobs/monitor-blob-storage-reference"""
    return (
        b'{"time":"2026-05-01T00:00:%02d.0000000Z","category":"StorageRead","operationName":"GetBlob","statusCode":200,"id":"request-%d",'
        b'"correlationId":"request-%d","uri":"https://account.blob.core.windows.net/models/fraud/%d.pkl"}\n'
    ) % (number % 60, number, number, number)


def correlations(trail: Trail) -> Counter[str]:
    return Counter({name.split("|")[0]: count for name, count in ids(trail).items()})


def test_an_hourly_blob_that_grows_is_neither_doubled_nor_cut(logs, ledger, trail):
    place = Directory(logs)
    whole, behind = AnewWhenChanged(place, ids_of_good_lines), BehindTheSize(place, ids_of_good_lines)
    blob = logs / f"resourceId=/SUBSCRIPTIONS/S/{datetime.fromtimestamp(MOMENT, UTC):y=%Y/m=%m/d=%d/h=%H}/m=00/PT1H.json"
    blob.parent.mkdir(parents=True)
    data = b"".join(map(azure_line, range(40)))
    for step, end in enumerate((1000, 3333, 3334, len(data))):
        with blob.open("ab") as opened:
            opened.write(data[opened.tell() : end])
        os.utime(blob, (MOMENT + step, MOMENT + step))
        whole.tick()
        behind.tick()
        source = LogSource(place, AzureLayout())
        Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger, batch_rows=7).tick(Budget())
    assert max(whole.found.values()) == 4
    assert len(behind.found) < 40  # The line that was unfinished when the blob was listed.
    assert correlations(trail) == once(range(40), "request")
