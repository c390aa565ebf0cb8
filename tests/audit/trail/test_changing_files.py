"""A log file that changes between listing and reading, or while it is read, is read as it is, each record once."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.layouts import AzureLayout, CloudTrailLayout, MLflowLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.objects import LogObject, Place
from mlsec_dagster.audit.ticks import Budget
from tests.audit.places.storages import S3, Blobs, Disk, azurite, azurite_executable, blob_client
from tests.audit.trail.made import Nobody, delivery, ids, line
from tests.audit.trail.naive import BehindTheSizeAfterwards, ByKey, ids_of_good_lines


class Meddled:
    """A place where somebody does something when a listing has ended, and when the first piece of an object was read; each once."""

    def __init__(self, place: Place, *, listed: Callable[[], None] | None = None, begun: Callable[[], None] | None = None) -> None:
        self._place, self._listed, self._begun = place, listed, begun
        self.uri = place.uri

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        found = [*self._place.list(prefix, after=after)]
        if self._listed is not None and found:
            self._listed()
            self._listed = None
        yield from found

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        for piece in self._place.read(found, start):
            yield piece
            if self._begun is not None:
                self._begun()
                self._begun = None


class Unguarded:
    """A place as a reader has it that asks for so many bytes of a name, whatever lies there now."""

    def __init__(self, place: Meddled, now: Callable[[str], bytes]) -> None:
        self._place, self._now = place, now
        self.uri = place.uri

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        data = self._now(found.key)[start : found.size]
        for position in range(0, len(data), 1 << 20):
            yield data[position : position + (1 << 20)]
            if self._place._begun is not None:
                self._place._begun()
                self._place._begun = None


@pytest.fixture
def read(ledger, trail) -> Callable[..., Any]:
    def tick(place: Any, layout: Any) -> Any:
        return Ingestion(ledger.database, trail, LogSource(place, layout), Nobody(), ledger=ledger).tick(Budget())

    return tick


def lines(numbers: range) -> bytes:
    return b"".join(map(line, numbers))


def once(numbers, name="request") -> dict[str, int]:
    return {f"{name}-{number}": 1 for number in numbers}


@pytest.fixture(params=["disk", "s3"])
def storage(request: pytest.FixtureRequest, logs: Path) -> Any:
    return Disk(logs) if request.param == "disk" else S3(request.getfixturevalue("s3_bucket"))


def content_of(storage: Any) -> Callable[[str], bytes]:
    if isinstance(storage, Disk):
        return lambda key: (storage.root / key).read_bytes()
    return lambda key: storage.client.get_object(Bucket=storage.bucket, Key=key)["Body"].read()


def test_an_object_that_is_replaced_between_listing_and_reading_is_read_as_it_is_then(storage, read, trail):
    storage.put("a.jsonl", lines(range(10)))
    naive = ByKey(
        Unguarded(Meddled(storage.place(), listed=lambda: storage.put("a.jsonl", lines(range(20)))), content_of(storage)),
        ids_of_good_lines,
    )
    naive.tick()
    naive.tick()
    assert naive.found.keys() < once(range(20)).keys()  # So many bytes as were listed, and never again.
    storage.put("a.jsonl", lines(range(10)))
    place = Meddled(storage.place(), listed=lambda: storage.put("a.jsonl", lines(range(20))))
    report = read(place, MLflowLayout())
    assert report.changed == ["a.jsonl"]
    assert ids(trail) == {}
    assert read(place, MLflowLayout()).tally.events == 20
    assert ids(trail) == once(range(20))


def test_a_delivery_that_is_replaced_between_listing_and_reading_costs_its_neighbours_nothing(storage, read, trail):
    for name in "abc":
        storage.put(f"{name}.json.gz", delivery([ord(name)]))
    place = Meddled(storage.place(), listed=lambda: storage.put("b.json.gz", delivery([7, 8, 9])))
    assert read(place, CloudTrailLayout()).changed == ["b.json.gz"]
    assert ids(trail) == once([ord("a"), ord("c")], "event")
    read(place, CloudTrailLayout())
    assert ids(trail) == once([ord("a"), ord("c"), 7, 8, 9], "event")


def test_an_object_that_is_gone_when_it_is_read_fails_no_tick(storage, read, trail):
    storage.put("a.json.gz", delivery(range(10)))
    storage.put("b.json.gz", delivery(range(10, 20)))
    place = Meddled(storage.place(), listed=lambda: storage.delete("a.json.gz"))
    assert read(place, CloudTrailLayout()).changed == ["a.json.gz"]
    assert ids(trail) == once(range(10, 20), "event")


def test_a_file_that_is_cut_and_written_anew_while_it_is_read_is_not_mixed(logs, read, trail):
    log = logs / "a.jsonl"
    old, new = lines(range(20_000)), lines(range(50_000, 60_000))
    assert len(old) > 3 << 20

    def rewrite() -> None:
        log.write_bytes(new)  # The same file: `copytruncate`, and a server that begins again.

    log.write_bytes(old)
    naive = ByKey(Unguarded(Meddled(Disk(logs).place(), begun=rewrite), lambda _: log.read_bytes()), ids_of_good_lines)
    naive.tick()
    naive.tick()
    assert not naive.found.keys() & once(range(50_000, 60_000)).keys()
    log.write_bytes(old)
    place = Meddled(Disk(logs).place(), begun=rewrite)
    assert read(place, MLflowLayout()).changed == ["a.jsonl"]
    read(place, MLflowLayout())
    found = ids(trail)
    assert set(found.values()) == {1}
    assert found.keys() >= once(range(50_000, 60_000)).keys()  # Of the old ones all that could be read before.


@pytest.fixture(params=["disk", "blobs"])
def growing(request: pytest.FixtureRequest, logs: Path, tmp_path: Path) -> Iterator[Any]:
    if request.param == "disk":
        yield Disk(logs)
        return
    executable = azurite_executable()
    if executable is None:
        pytest.skip("needs Azurite: `npm install azurite`, and name its azurite-blob in MLSEC_AZURITE if it is not found")
    with azurite(executable, tmp_path) as url:
        yield Blobs(blob_client(url))


@pytest.mark.parametrize("moment", ["listed", "begun"])
def test_a_log_that_grows_while_it_is_read_is_read_on_where_it_ended(growing, moment, read, trail):
    azure = isinstance(growing, Blobs)
    layout = AzureLayout() if azure else MLflowLayout()
    name = f"resourceId=/S/{datetime.now(UTC):y=%Y/m=%m/d=%d/h=%H}/m=00/PT1H.json" if azure else "a.jsonl"
    data = b"".join(grown(number, azure) for number in range(30))
    cut = len(data) // 2 + 5
    places: dict[str, Meddled] = {}
    for whose in ("naive", "ours"):
        growing.append(f"{whose}/{name}", data[:cut])
        more = partial(growing.append, f"{whose}/{name}", data[cut:])
        places[whose] = Meddled(growing.place(whose), **{moment: more})
    naive = BehindTheSizeAfterwards(places["naive"], ids_of_good_lines)
    naive.tick()
    naive.tick()
    assert 14 <= len(naive.found) <= 15  # What came meanwhile is never read.
    first = read(places["ours"], layout)
    assert first.changed == []
    assert 14 <= first.tally.events <= 15
    read(places["ours"], layout)
    assert Counter({name.split("|")[0]: count for name, count in ids(trail).items()}) == once(range(30))
    assert read(places["ours"], layout).tally.events == 0


def grown(number: int, azure: bool) -> bytes:
    if not azure:
        return line(number)
    return (
        b'{"time":"2026-05-01T00:00:%02dZ","category":"StorageRead","operationName":"GetBlob","statusCode":200,"id":"request-%d",'
        b'"correlationId":"request-%d","uri":"https://account.blob.core.windows.net/models/fraud/%d.pkl"}\n'
    ) % (number % 60, number, number, number)
