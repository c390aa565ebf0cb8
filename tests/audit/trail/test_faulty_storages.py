"""Whatever a storage refuses in the middle of a tick, and wherever: the tick says so, nothing is lost, and the next one goes on."""

import time
from collections.abc import Iterator

import pytest

from mlsec_dagster.audit import ingestion as module
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.layouts import CloudTrailLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.places import S3Bucket
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.errors import StoreError
from tests.audit.trail.made import Nobody, delivery, ids
from tests.audit.trail.naive import ByTime, SinceLastRun, ids_of_delivery
from tests.audit.trail.storage_server import Refusal, Server, storage_server

MOMENT = 1_780_000_000
EXPIRED = Refusal(403, "ExpiredToken")
THROTTLED = Refusal(503, "SlowDown")
TOLD = {EXPIRED.code: "absent or expired. Renew", THROTTLED.code: "is throttled by the storage. Nothing is lost"}
OBJECTS, PER_OBJECT = 7, 5


@pytest.fixture
def server() -> Iterator[Server]:
    with storage_server() as server:
        for number in range(OBJECTS):
            # So that half of a body is no copy of another one's half.
            data = delivery(range(number * PER_OBJECT, (number + 1) * PER_OBJECT)) + b"\0" * 64
            server.objects[f"{number}.json.gz"] = (data, MOMENT + number)
        yield server


@pytest.fixture
def read(server, ledger, trail):
    def tick(batch_rows: int):
        source = LogSource(S3Bucket(server.client(), "logs"), CloudTrailLayout())
        return Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger, batch_rows=batch_rows).tick(Budget())

    return tick


def once(numbers) -> dict[str, int]:
    return {f"event-{number}": 1 for number in numbers}


@pytest.mark.parametrize(
    ("refusal", "cut"), [(EXPIRED, False), (THROTTLED, False), (EXPIRED, True)], ids=["expired", "throttled", "expired in a body"]
)
def test_a_refusal_at_any_request_fails_the_tick_with_a_sentence_and_loses_nothing(refusal, cut, server, read, trail, ledger):
    server.refusal, server.cut = refusal, cut
    naive = SinceLastRun(S3Bucket(server.client(), "logs"), ids_of_delivery)
    told: list[str] = []
    before = 0
    for requests in range(1, 100):
        server.left = requests
        try:
            read(batch_rows=8)
        except StoreError as error:
            told.append(str(error))
        else:
            break
        found = ids(trail)
        assert set(found.values()) <= {1}
        assert len(found) >= before
        before = len(found)
    assert len(told) >= 3 + 1  # In its folders, on each page of its listing, and in an object.
    # Why a body ends in the middle no storage tells.
    assert all(TOLD[refusal.code] in each or (cut and "could not be reached" in each) for each in told)
    assert cut == any("could not be reached" in each for each in told)
    assert ids(trail) == once(range(OBJECTS * PER_OBJECT))
    assert verify_trail(ledger, trail) == []
    server.left = 5
    naive.tick((MOMENT + 100) * 1_000_000)
    server.left = None
    naive.tick((MOMENT + 200) * 1_000_000)
    assert 0 < len(naive.found) < OBJECTS * PER_OBJECT


def test_what_was_committed_before_the_credentials_expired_stays_and_is_not_read_again(server, read, trail):
    server.left = 4 + 5  # Folders, three pages, and five objects.
    with pytest.raises(StoreError, match="absent or expired"):
        read(batch_rows=8)
    assert ids(trail) == once(range(5 * PER_OBJECT))
    server.left = 4 + OBJECTS - 5
    report = read(batch_rows=8)
    assert (report.read, report.behind, report.tally.duplicates) == (OBJECTS - 5, 0, 0)
    assert ids(trail) == once(range(OBJECTS * PER_OBJECT))


def test_a_tick_that_fails_leaves_no_file_that_is_in_no_table_and_tells_no_secret(server, read, trail, tmp_path):
    server.left = 5
    with pytest.raises(StoreError) as caught:
        read(batch_rows=1000)
    assert "Signature" not in str(caught.value)
    assert "X-Amz" not in str(caught.value)
    assert caught.value.__cause__ is None
    written = {path.relative_to(trail.uri).as_posix() for path in (tmp_path / "trail").rglob("*.parquet")}
    assert written == {file.path for file in trail.open().files()}


def test_a_reconciliation_that_was_refused_in_its_listing_begins_anew_and_accuses_nobody(server, ledger, trail):
    source = LogSource(S3Bucket(server.client(), "logs"), CloudTrailLayout())
    reader = Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger)
    now = int(time.time())
    server.objects = {key: (data, now) for key, (data, _) in server.objects.items()}
    reader.tick(Budget())
    server.objects["9.json.gz"] = (delivery([99]), now)
    server.left = 1
    with pytest.raises(StoreError, match="absent or expired"):
        reader.reconcile(Budget())
    server.left = None
    report = reader.reconcile(Budget())
    assert report.reconciled
    assert report.missing == []
    assert ids(trail) == once([*range(OBJECTS * PER_OBJECT), 99])


def test_what_a_reconciliation_could_not_read_keeps_it_from_its_end(server, ledger, trail, monkeypatch):
    monkeypatch.setattr(module, "_ASKED_AT_ONCE", 2)
    source = LogSource(S3Bucket(server.client(), "logs"), CloudTrailLayout())
    reader = Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger)
    server.left = 1 + 1  # A page, and an object.
    with pytest.raises(StoreError, match="absent or expired"):
        reader.reconcile(Budget())
    server.left = None
    reports = []
    while not reports or not reports[-1].reconciled:
        reports.append(reader.reconcile(Budget(records=8)))
        assert len(reports) < 50
    assert ids(trail) == once(range(OBJECTS * PER_OBJECT))
    assert len(reports) > 2


@pytest.mark.parametrize("planted", [1, 5])
def test_objects_that_nobody_may_read_keep_nobody_from_reading_the_others(planted, server, ledger, trail):
    # Encrypted with a key of somebody else's, by somebody who may write into the bucket of logs; the oldest, so that they come first.
    for number in range(planted):
        server.objects[f"planted-{number}.json.gz"] = (delivery([1000 + number]), MOMENT - 100 + number)
    server.denied = {key for key in server.objects if key.startswith("planted")}
    naive = ByTime(S3Bucket(server.client(), "logs"), ids_of_delivery)
    for _ in range(3):
        with pytest.raises(StoreError, match="do not allow it"):
            naive.tick()
    assert not naive.found
    source = LogSource(S3Bucket(server.client(), "logs"), CloudTrailLayout())
    reader = Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger)
    for _ in range(3):
        with pytest.raises(StoreError, match=r"planted-\d.json.gz was refused: the credentials do not allow it"):
            reader.tick(Budget())
    assert reader.state().listed_at is None  # It was never read to its end, and says so.
    assert ids(trail) == once(range(OBJECTS * PER_OBJECT))
    with pytest.raises(StoreError, match="do not allow it"):
        reader.reconcile(Budget())
    server.denied = set()
    assert reader.tick(Budget()).behind == 0
    assert reader.reconcile(Budget()).reconciled
    assert ids(trail) == once([*range(OBJECTS * PER_OBJECT), *(1000 + number for number in range(planted))])
    assert verify_trail(ledger, trail) == []
