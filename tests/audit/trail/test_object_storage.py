"""The trail in S3 and in Azure Blob storage, as on a disk: exactly once, sealed, asked, compacted, and two writers at once."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mlsec_dagster.audit.compaction import compact
from mlsec_dagster.audit.erasure import erase
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.persons import Person
from mlsec_dagster.audit.querying import Filter
from mlsec_dagster.audit.querying import rows as asked
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Trail, TrailConflictError
from mlsec_dagster.audit.upkeep import Upkeep
from mlsec_dagster.audit.vacuum import vacuum
from mlsec_dagster.errors import StoreError, UnverifiableError
from mlsec_dagster.storage import log_positions
from tests.audit.places.storages import azurite_executable
from tests.audit.trail.made import Nobody, delivery, ids, line, source_of
from tests.audit.trail.object_storages import AZURITE_PORT, ObjectStorage, azurite_blobs, listening, moto_s3


@pytest.fixture(scope="module")
def s3_storage() -> Iterator[ObjectStorage]:
    with moto_s3() as storage:
        yield storage


@pytest.fixture(scope="module")
def azure_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    executable = azurite_executable()
    if executable is None:
        pytest.skip("needs Azurite: `npm install azurite`, and name its azurite-blob in MLSEC_AZURITE if it is not found")
    if listening(AZURITE_PORT):
        pytest.skip(f"needs port {AZURITE_PORT}, where Delta Lake looks for Azure's emulator, and somebody listens there")
    with azurite_blobs(executable, tmp_path_factory.mktemp("azurite")) as storage:
        yield storage


@pytest.fixture(params=["s3", "azure"])
def storage(request: pytest.FixtureRequest) -> ObjectStorage:
    return request.getfixturevalue(f"{request.param}_storage")


@pytest.fixture
def trail(storage: ObjectStorage) -> Trail:
    return storage.trail(uuid4().hex)


@pytest.fixture
def prefix(trail: Trail) -> str:
    return trail.uri.rpartition("/")[2]


def once(numbers, name="event") -> dict[str, int]:
    return {f"{name}-{number}": 1 for number in numbers}


def every(trail: Trail, **wanted: Any) -> list[dict[str, Any]]:
    return [row for batch in asked(trail, Filter(**wanted)) for row in batch.to_pylist()]


def test_it_is_ingested_sealed_and_asked_there(logs, tick, trail, ledger, storage, prefix):
    with pytest.raises(UnverifiableError, match="There is no audit trail"):
        trail.open()
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    assert tick("cloudtrail").tally.events == 100
    (logs / "b.json.gz").write_bytes(delivery([*range(50, 150), *(86_400 + each for each in range(10))]))
    report = tick("cloudtrail")
    assert (report.tally.events, report.tally.duplicates, report.commits) == (60, 50, 1)
    assert tick("cloudtrail").tally.events == 0
    assert ids(trail) == once([*range(150), *(86_400 + each for each in range(10))])
    assert verify_trail(ledger, trail) == []
    assert len(every(trail)) == 160
    assert len(every(trail, principal="arn:aws:iam::*", operation="GetObject")) == 160
    paths = {file.path for file in trail.open().files()}
    assert {key.removeprefix(f"{prefix}/") for key in storage.keys(prefix) if key.endswith(".parquet") and "_delta_log" not in key} == paths


def test_what_somebody_does_there_without_a_key_is_named(logs, tick, trail, ledger, storage, prefix):
    for number in range(3):
        (logs / f"{number}.json.gz").write_bytes(delivery([number]))
        tick("cloudtrail")
    paths = [file.path for file in trail.open().files()]
    data = storage.read(f"{prefix}/{paths[0]}")
    storage.write(f"{prefix}/{paths[0]}", data[:-1] + b"x")
    storage.delete(f"{prefix}/{paths[1]}")
    assert {(problem.kind, problem.path) for problem in verify_trail(ledger, trail)} == {("edited", paths[0]), ("dropped", paths[1])}


def test_of_two_writers_one_is_refused_and_looks_again(logs, ledger, trail, ingestion, tmp_path, monkeypatch):
    from mlsec_dagster.audit.batches import Batch

    other = tmp_path / "other"
    other.mkdir()
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    (other / "b.json.gz").write_bytes(delivery(range(50, 150)))
    commit, refused = Batch.commit, []

    def interrupted(batch: Batch) -> int | None:
        if batch.location.endswith("/logs/") and not refused:
            refused.append(True)
            second = Ingestion(ledger.database, trail, source_of("cloudtrail", other), Nobody(), ledger=ledger)
            assert second.tick(Budget()).tally.events == 100
            with pytest.raises(TrailConflictError) as caught:
                commit(batch)
            raise caught.value
        return commit(batch)

    monkeypatch.setattr(Batch, "commit", interrupted)
    report = ingestion("cloudtrail").tick(Budget())
    assert (report.tally.events, report.tally.duplicates) == (50, 50)
    assert ids(trail) == once(range(150))
    assert verify_trail(ledger, trail) == []


def test_two_writers_at_once_from_two_places_do_no_harm(ledger, trail, tmp_path):
    failures: list[BaseException] = []

    def work(number: int) -> None:
        folder = tmp_path / f"logs-{number}"
        folder.mkdir()
        for each in range(4):
            (folder / f"{each}.json.gz").write_bytes(delivery(range((number + each) * 50, (number + each) * 50 + 50)))
        try:
            source = source_of("cloudtrail", folder)
            Ingestion(ledger.database, trail, source, Nobody(), ledger=ledger, batch_rows=40).tick(Budget())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ids(trail) == once(range(250))
    assert verify_trail(ledger, trail) == []


@pytest.mark.parametrize("step", ["record_intent", "settle"])
def test_what_stopped_before_or_behind_the_commit_is_recovered(step, logs, tick, trail, ledger, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))

    def unreachable(*_: object, **__: object) -> None:
        raise StoreError("The store cannot be reached.")

    with monkeypatch.context() as patched:
        patched.setattr(log_positions, step, unreachable)
        with pytest.raises(StoreError, match="cannot be reached"):
            tick("cloudtrail")
    assert tick("cloudtrail").recovered == (step == "settle")
    assert ids(trail) == once(range(100))
    assert verify_trail(ledger, trail) == []


def test_it_is_compacted_erased_and_vacuumed_there(logs, tick, trail, ledger, storage, prefix):
    for number in range(4):
        (logs / f"{number}.jsonl").write_bytes(b"".join(line(number * 10 + each, user=f"user{each % 2}@example.com") for each in range(10)))
        tick()
    upkeep: Upkeep = Upkeep(ledger.database, trail, ledger)
    report = compact(upkeep)
    assert (report.before, report.after, report.rows) == (4, 1, 40)
    assert ids(trail) == once(range(40), "request")
    assert verify_trail(ledger, trail) == []
    assert len({path for path, size, written in trail.storage.listed() if size and written}) == 5
    assert len(vacuum(upkeep, grace=-3600).deleted) == 4
    erase(upkeep, Person(emails=["user1@example.com"]), reason="DSR-1")
    assert ids(trail) == once(range(0, 40, 2), "request")
    assert verify_trail(ledger, trail) == []
    left = [key for key in storage.keys(prefix) if key.endswith(".parquet") and "_delta_log" not in key]
    assert [key.removeprefix(f"{prefix}/") for key in left] == [file.path for file in trail.open().files()]
    assert b"user1@" not in storage.read(left[0])
    (logs / "9.jsonl").write_bytes(line(1, user="user1@example.com") + line(99))
    tick()
    assert ids(trail) == once([*range(0, 40, 2), 99], "request")


@pytest.fixture
def unreachable(logs: Path, ledger: Any) -> Callable[[Trail], None]:
    def tick(trail: Trail) -> None:
        (logs / "a.json.gz").write_bytes(delivery(range(10)))
        with pytest.raises(StoreError) as caught:
            Ingestion(ledger.database, trail, source_of("cloudtrail", logs), Nobody(), ledger=ledger).tick(Budget())
        assert "cannot be reached" in str(caught.value)
        assert "SEKRET" not in str(caught.value)

    return tick


def test_a_storage_that_refuses_is_told_without_its_secret(s3_storage, unreachable):
    options = {**s3_storage.options, "AWS_SECRET_ACCESS_KEY": "SEKRET"}
    unreachable(Trail("s3://no-such-bucket/trail", options))
