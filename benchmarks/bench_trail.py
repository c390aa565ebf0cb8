"""How fast are logs read into the trail, and how fast is it looked through?

Log files are CloudTrail's, of 5,000 records each unless told. "The same with json" reads, redacts and normalises each record to the same
event as ours, with Python's own gzip and json. DuckDB reads the files as JSON and writes Parquet; it neither deduplicates nor seals.
Listing is of a local directory, in the same process and by the same code. Seconds of ours are those of a process that has done it once.
"""

import gzip
import json
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import alternately, in_fresh_process, row
from benchmarks.trail_records import write

SIZES = {"100k events": 100_000, "400k events": 400_000, "1.6M events": 1_600_000}
PER_FILE = 5_000
LARGE = (530_000, 1_060_000, 2_070_000)  # Records: 0.9, 1.8 and 3.5 GB, decompressed.
OBJECTS = {"10,000 objects": 10_000, "100,000 objects": 100_000, "1,000,000 objects": 1_000_000}
ROWS = {"500k rows": 500_000, "5M rows": 5_000_000, "50M rows": 50_000_000}
REPEATS = 5
MOST_MEGABYTES = 400.0


def run(sizes: dict[str, int] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-trail-") as place:
        folder = Path(place)
        rows += decoding(folder)
        rows += ingesting(folder, sizes or SIZES)
        rows += large_objects(folder)
        rows += idle_ticks(folder)
        rows += looking(folder)
    return rows


# --- decoding


def decoding(folder: Path) -> list[dict[str, Any]]:
    from benchmarks.trail_peers import events_with_json

    rows: list[dict[str, Any]] = []
    for name, count in {"100k events": 100_000, "5,000 events": 5_000}.items():
        file = folder / "decode.json.gz"
        write(file, 0, count)
        data = file.read_bytes()
        assert [*_events(data)] == [*events_with_json(data)], "the peer does something else"
        times = 1 if count >= 100_000 else 20
        ours, peer, inflated = alternately(
            lambda data=data, times=times: [sum(1 for _ in _events(data)) for _ in range(times)],
            lambda data=data, times=times: [sum(1 for _ in events_with_json(data)) for _ in range(times)],
            lambda data=data, times=times: [gzip.decompress(data) for _ in range(times)],
            repeats=REPEATS,
        )
        told = {"events_per_second": round(count * times / ours), "gunzip_events_per_second": round(count * times / inflated)}
        rows.append(
            row(
                "trail: decode",
                name,
                ours=ours,
                peer_name="json, the same",
                peer=peer,
                ratio=peer / ours,
                demand="3x as fast",
                holds=peer / ours >= 3,
                **told,
            )
        )
        rows.append(
            row(
                "trail: decode, limit",
                name,
                ours=ours,
                peer_name="gunzip alone",
                peer=inflated,
                ratio=inflated / ours,
                demand="at least 0.4x",
                holds=inflated / ours >= 0.4,
                **told,
            )
        )
    return rows


def _events(data: bytes) -> Any:
    from mlsec_dagster.audit.sources import cloudtrail

    return cloudtrail.read(data)


# --- into the trail


def ingesting(folder: Path, sizes: dict[str, int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    per_event: list[float] = []
    for name, count in sizes.items():
        logs = folder / f"logs-{count}"
        logs.mkdir()
        for number in range(count // PER_FILE):
            write(logs / f"{number:05}.json.gz", number * PER_FILE, PER_FILE)
        repeats = 3 if count <= 400_000 else 1
        ours, peer, inflated = alternately(
            partial(_ingest, folder, logs), partial(_with_duckdb, folder, logs), partial(_inflated, logs), repeats=repeats
        )
        _, megabytes = in_fresh_process("benchmarks.bench_trail", "ingest_once", str(folder), str(logs))
        per_event.append(ours / count)
        rows.append(
            row(
                "trail: end to end",
                name,
                ours=ours,
                peer_name="DuckDB read_json to Parquet",
                peer=peer,
                ratio=ours / peer,
                demand="no slower, and 50k events/s",
                holds=ours <= peer and count / ours >= 50_000,
                events_per_second=round(count / ours),
                gunzip_events_per_second=round(count / inflated),
                megabytes=round(megabytes),
            )
        )
        if count == 400_000:
            rows += replays(folder, logs, ours)
        shutil.rmtree(logs)
    rows.append(
        row(
            "trail: end to end, growth",
            " / ".join(sizes),
            ours=per_event[-1] * 1e6,
            peer_name="per event at the smallest size",
            peer=per_event[0] * 1e6,
            ratio=per_event[-1] / per_event[0],
            demand="linear: at most 1.3x",
            holds=per_event[-1] / per_event[0] <= 1.3,
            unit="us",
        )
    )
    return rows


def replays(folder: Path, logs: Path, first: float) -> list[dict[str, Any]]:
    """Everything once more: listed again, copied under other names, compressed anew."""
    rows: list[dict[str, Any]] = []
    trail, ingestion = _ingestion(folder / "replay", logs)
    ingestion().tick(_budget())
    before = _rows(trail)
    for what in ("positions lost", "other names", "compressed anew"):
        again = logs.with_name("again")
        shutil.rmtree(again, ignore_errors=True)
        if what == "positions lost":
            _forget(folder / "replay")
            start = time.perf_counter()
            ingestion().tick(_budget())
        else:
            shutil.copytree(logs, again)
            for path in sorted(again.iterdir()):
                if what == "compressed anew":
                    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
                path.rename(logs / f"{what[0]}-{path.name}")
            start = time.perf_counter()
            ingestion().tick(_budget())
        seconds = time.perf_counter() - start
        assert _rows(trail) == before, "a replay has added rows"
        for path in logs.glob(f"{what[0]}-*"):
            path.unlink()  # The next replay is of the same files, and not of these too.
        rows.append(
            row(
                "trail: replay",
                f"400k events, {what}",
                ours=seconds,
                peer_name="first ingestion",
                peer=first,
                ratio=seconds / first,
                demand="at most 0.5x",
                holds=seconds / first <= 0.5,
            )
        )
    shutil.rmtree(folder / "replay")
    return rows


def large_objects(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for count in LARGE:
        logs = folder / "large"
        logs.mkdir()
        size = write(logs / "large.json.gz", 0, count, level=1)
        seconds, megabytes = in_fresh_process("benchmarks.bench_trail", "ingest_once", str(folder), str(logs))
        rows.append(
            row(
                "trail: one large object, memory",
                f"{size / 1e9:.1f} GB",
                ours=megabytes,
                peer_name="the limit",
                peer=MOST_MEGABYTES,
                ratio=megabytes / MOST_MEGABYTES,
                demand="under 400 MB",
                holds=megabytes < MOST_MEGABYTES,
                unit="MB",
                seconds=round(seconds, 1),
                events_per_second=round(count / seconds),
            )
        )
        shutil.rmtree(logs)
    return rows


def ingest_once(folder: str, logs: str) -> None:
    """For a process of its own."""
    _ingest(Path(folder), Path(logs))


def _ingest(folder: Path, logs: Path) -> float:
    """Seconds from the first listing to the last seal, in a new trail."""
    place = folder / "ingest"
    shutil.rmtree(place, ignore_errors=True)
    _, ingestion = _ingestion(place, logs)
    reader = ingestion()
    start = time.perf_counter()
    report = reader.tick(_budget())
    seconds = time.perf_counter() - start
    assert not report.behind
    shutil.rmtree(place)
    return seconds


def _ingestion(place: Path, logs: Path) -> Any:
    from mlsec_dagster.audit.artifact_map import ArtifactMap
    from mlsec_dagster.audit.ingestion import Ingestion
    from mlsec_dagster.audit.layouts import CloudTrailLayout
    from mlsec_dagster.audit.log_source import LogSource
    from mlsec_dagster.audit.places import Directory
    from mlsec_dagster.audit.trail import Trail
    from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
    from mlsec_dagster.integrity.ledger import open_ledger
    from mlsec_dagster.integrity.trust import Trust

    place.mkdir(exist_ok=True)
    ring = KeyRing(load_or_create_key_file(place / "key.pem"))
    ledger = open_ledger(f"sqlite:///{place / 'ledger.db'}", signer=ring, trust=Trust(list(ring.publics)))
    trail = Trail(str(place / "trail"))
    artifacts = ArtifactMap(templates={f"s3://ml-{number}/models/{{model}}/{{version}}/": "model" for number in range(5)})
    source = LogSource(Directory(logs), CloudTrailLayout())
    return trail, lambda: Ingestion(ledger.database, trail, source, artifacts, ledger=ledger)


def _budget() -> Any:
    from mlsec_dagster.audit.ticks import Budget

    return Budget(seconds=3600, records=1 << 40)


def _rows(trail: Any) -> int:
    return sum(file.rows for file in trail.open().files())


def _forget(place: Path) -> None:
    import sqlite3

    with sqlite3.connect(place / "ledger.db") as database:
        database.execute("DELETE FROM mlsec_log_objects")


def _inflated(logs: Path) -> int:
    return sum(len(gzip.decompress(path.read_bytes())) for path in logs.iterdir())


def _with_duckdb(folder: Path, logs: Path) -> float:
    import duckdb

    target = folder / "duckdb.parquet"
    start = time.perf_counter()
    duckdb.sql(
        "COPY (SELECT unnest(Records, recursive := false) AS record FROM read_json("
        f"'{logs}/*.json.gz', maximum_object_size = 67108864)) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
    )
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


# --- ticks that find nothing


def idle_ticks(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, count in OBJECTS.items():
        logs = folder / "idle"
        logs.mkdir()
        _many_files(logs, count)
        _, ingestion = _ingestion(folder / "idle-trail", logs)
        reader = ingestion()
        _settle_all(reader)
        start = time.perf_counter()
        assert reader.tick(_budget()).read == 0
        first = time.perf_counter() - start
        ours, listing = alternately(
            lambda reader=reader: reader.tick(_budget()),
            lambda reader=reader: sum(1 for _ in reader.source.window(None)),
            repeats=max(REPEATS, 300_000 // count),  # What takes milliseconds is at the mercy of whatever else the machine does.
        )
        rows.append(
            row(
                "trail: tick that finds nothing",
                name,
                ours=ours,
                peer_name="listing",
                peer=listing,
                ratio=ours / listing,
                demand="at most 1.2x",
                holds=ours / listing <= 1.2,
                first_tick_of_a_process=round(first / listing, 2),
            )
        )
        shutil.rmtree(logs)
        shutil.rmtree(folder / "idle-trail")
    return rows


def _many_files(logs: Path, count: int) -> None:
    today = datetime.now(UTC)
    name = today.strftime("{account}_CloudTrail_eu-west-1_%Y%m%dT{hour:02}{minute:02}Z_{number:016}.json.gz")
    for start in range(0, count, 1000):
        hour, minute = divmod(start // 1000, 60)
        folder = logs / f"AWSLogs/{start // 100_000:012}/CloudTrail/eu-west-1/{today:%Y/%m/%d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(start, min(start + 1000, count)):
            os.close(
                os.open(
                    folder / name.format(account="123456789012", hour=hour % 24, minute=minute, number=number), os.O_CREAT | os.O_WRONLY
                )
            )


def _settle_all(reader: Any) -> None:
    """As if every object had been read."""
    from mlsec_dagster.storage import log_positions
    from mlsec_dagster.storage.log_positions import Position

    with reader.database.write() as connection:
        location = log_positions.location_id(connection, reader.place.uri)
        listed = reader.source.window(None)
        log_positions.record_positions(
            connection, location, (Position(each.key, each.version, each.size, each.modified, each.size, 1, True) for each in listed)
        )


# --- looking


def looking(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, count in ROWS.items():
        trail = _made_trail(folder / "look", count)
        asked = partial(_ask_trail, trail, "fraud-17")
        bare = partial(_ask_duckdb, folder / "look", "fraud-17")
        assert asked() == bare()
        same = partial(_ask_duckdb_the_same, folder / "look", "fraud-17")
        ours, peer, peer_asked_the_same = alternately(
            lambda asked=asked: bool(asked()), lambda bare=bare: bool(bare()), lambda same=same: bool(same()), repeats=REPEATS
        )
        _, megabytes = in_fresh_process("benchmarks.bench_trail", "look_once", str(folder / "look"))
        rows.append(
            row(
                "trail: mlsec trail --artifact",
                name,
                ours=ours,
                peer_name="DuckDB on the bare files",
                peer=peer,
                ratio=ours / peer,
                demand="at most 1.2x",
                holds=ours / peer <= 1.2,
                megabytes=round(megabytes),
                ratio_asked_the_same=round(ours / peer_asked_the_same, 2),
            )
        )
        shutil.rmtree(folder / "look")
    return rows


def look_once(place: str) -> None:
    """For a process of its own."""
    from mlsec_dagster.audit.trail import Trail

    assert _ask_trail(Trail(place), "fraud-17")


def _made_trail(place: Path, count: int) -> Any:
    """A trail of so many rows in files of half a million, thirty days."""
    import duckdb

    from mlsec_dagster.audit.files import TrailFile
    from mlsec_dagster.audit.rows import FILE_SCHEMA
    from mlsec_dagster.audit.trail import Trail

    trail = Trail(str(place))
    head = trail.open(create=True)
    told = {
        "kind": "'event'",
        "key": "unhex(md5(n::VARCHAR))",
        "id": "md5(n::VARCHAR)",
        "time": "make_timestamptz(1777593600000000 + day * 86400000000 + (n % 500000) * 172800)",
        "operation": "CASE WHEN n % 3 = 0 THEN 'PutObject' ELSE 'GetObject' END",
        "action": "'read'",
        "plane": "'data'",
        "outcome": "'success'",
        "principal": "'arn:aws:sts::123456789012:assumed-role/training-' || (n % 23) || '/session-' || (hash(n) % 1000)",
        "address": "'10.0.' || (n % 211) || '.' || (hash(n) % 251)",
        "container": "'ml-' || (n % 5)",
        "object": "'models/fraud-' || (n % 400) || '/weights-' || (hash(n) % 1000)",
        "bytes_out": "(hash(n) % 1000000)::BIGINT",
        "artifact_kind": "'model'",
        "artifact_model": "'fraud-' || (hash(n) % 400)",
        "artifact_version": "(n % 9)::VARCHAR",
        "log_object": "'s3://org-trail/' || (n // 5000)",
    }
    types = {"int32": "INTEGER", "int64": "BIGINT", "bool": "BOOLEAN", "binary": "BLOB", "timestamp[us, tz=UTC]": "TIMESTAMPTZ"}
    absent = {field.name: f"NULL::{types.get(str(field.type), 'VARCHAR')}" for field in FILE_SCHEMA}
    columns = ", ".join(f'{expression} AS "{name}"' for name, expression in (absent | told).items())
    files: list[TrailFile] = []
    for number, start in enumerate(range(0, count, 500_000)):
        day = number * 30 // max(1, count // 500_000)
        date = f"2026-05-{day + 1:02}"
        path = f"source=aws.cloudtrail/day={date}/made-{number:05}.parquet"
        target = place / path
        target.parent.mkdir(parents=True, exist_ok=True)
        duckdb.sql(
            f"COPY (SELECT {columns} FROM (SELECT range AS n, {day} AS day FROM range({start}, {min(start + 500_000, count)}))) "
            f"TO '{target}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 16384)"
        )
        first = 1_777_593_600_000_000 + day * 86_400_000_000
        files.append(
            TrailFile(path, "aws.cloudtrail", date, target.stat().st_size, min(500_000, count - start), first, first + 86_399_999_999)
        )
    head.commit(attempt="made", why="ingested", sources=["aws.cloudtrail"], added=files)
    return trail


def _ask_trail(trail: Any, model: str) -> int:
    from mlsec_dagster.audit.querying import Filter, rows

    return sum(batch.num_rows for batch in rows(trail, Filter(artifact=model)))


def _ask_duckdb(place: Path, model: str) -> int:
    """One column, in no order."""
    return _counted_by_duckdb(place, f"artifact_model = '{model}'")


def _ask_duckdb_the_same(place: Path, model: str) -> int:
    """What `mlsec trail` answers: every column that may name the model, the newest first."""
    where = " OR ".join(f"{column} = '{model}'" for column in ("artifact_asset", "artifact_model", "model"))
    return _counted_by_duckdb(place, f"{where} ORDER BY time DESC, key")


def _counted_by_duckdb(place: Path, where: str) -> int:
    import duckdb

    found: Any = duckdb.sql(f"SELECT * FROM read_parquet('{place}/source=*/day=*/*.parquet', hive_partitioning = true) WHERE {where}")
    return sum(batch.num_rows for batch in found.to_arrow_reader(16_384))


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
