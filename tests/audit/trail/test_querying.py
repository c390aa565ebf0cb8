"""Looking at the trail finds what is in it, all of it, and nothing that is asked for or stored can be more than data."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit import querying, scanning
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.querying import Filter, instant, rows, summary
from mlsec_dagster.audit.rows import FILE_SCHEMA, event_table, events_of, quarantine_table, quarantined_of
from mlsec_dagster.audit.schema import SCHEMA
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.times import microseconds
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.errors import ConfigurationError, StoreError, UnverifiableError
from tests.audit.trail.made import MIDNIGHT, Names, delivery, line, source_of

HOSTILE = "\x1b]0;owned\x07'; DROP TABLE x; --%\u202e\n=cmd|' /C calc'!A0"


def every(trail: Trail, limit: int | None = None, **wanted) -> list[dict]:
    return [row for batch in rows(trail, Filter(**wanted), limit) for row in batch.to_pylist()]


def at(day: int, second: int = 0) -> str:
    return (MIDNIGHT + timedelta(days=day, seconds=second)).isoformat().replace("+00:00", "Z")


@pytest.fixture
def filled(logs, ledger, trail) -> Trail:
    """Three days of MLflow, 30 accesses each by two people, one that was denied, one hostile, one quarantined; a day of CloudTrail."""
    lines = []
    for day in range(3):
        for number in range(30):
            user = "bob" if number % 3 == 0 and day else "ann"
            lines.append(line(day * 100 + number, time=at(day, number), user=user, bytes_out=number))
    lines.append(line(999, time=at(1, 500), user="eve", status=403, address="203.0.113.9"))
    lines.append(line(1000, time=at(1, 501), user=HOSTILE, user_agent=HOSTILE))
    (logs / "a.jsonl").write_bytes(b"".join(lines) + b"no json\n")
    Ingestion(ledger.database, trail, source_of("mlflow", logs), Names(), ledger=ledger).tick(Budget())
    cloud = logs.parent / "cloud"
    cloud.mkdir()
    (cloud / "b.json.gz").write_bytes(delivery(range(10)))
    Ingestion(ledger.database, trail, source_of("cloudtrail", cloud), Names(), ledger=ledger).tick(Budget())
    return trail


def test_without_a_filter_everything_comes_newest_first(filled):
    found = every(filled)
    assert len(found) == 90 + 2 + 1 + 10
    assert [row["time"] for row in found] == sorted((row["time"] for row in found), reverse=True)
    assert list(found[0]) == SCHEMA.names
    assert {row["source"] for row in found} == {"mlflow.audit", "aws.cloudtrail"}
    assert all(row["day"] == row["time"].date() for row in found)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({"principal": "bob"}, 20),
        ({"principal": "an*"}, 70),
        ({"principal": "arn:aws:iam::*"}, 10),
        ({"principal": "a%"}, 0),
        ({"principal": "a_n"}, 0),
        ({"principal": HOSTILE}, 1),
        ({"principal": "' OR 1=1 --"}, 0),
        ({"source": "aws.cloudtrail"}, 10),
        ({"operation": "GetObject"}, 10),
        ({"outcome": "denied"}, 1),
        ({"address": "203.0.113.9"}, 1),
        ({"kind": "quarantined"}, 1),
        ({"kind": "event"}, 102),
        ({"action": "read", "principal": "bob"}, 20),
        ({"since": microseconds(at(1)), "until": microseconds(at(2)), "source": "mlflow.audit"}, 32),
        ({"since": microseconds(at(1, 10)), "until": microseconds(at(1, 20))}, 10),
    ],
)
def test_each_filter_finds_what_it_says(filled, wanted, count):
    # The quarantined line was written now, which may be in no interval of the test's.
    assert len(every(filled, **wanted)) == count


def test_an_artifact_is_found_by_its_model_and_by_its_version(filled):
    found = every(filled, artifact="fraud")
    assert {row["artifact_version"] for row in found} == {"1", "2"}
    assert {row["artifact_version"] for row in every(filled, artifact="fraud/2")} == {"2"}
    assert len(every(filled, artifact="fraud/1")) + len(every(filled, artifact="fraud/2")) == len(found)
    assert every(filled, artifact="raud") == []
    assert {row["artifact_kind"] for row in every(filled, unresolved=True)} == {"unresolved"}


def test_a_limit_gives_the_newest(filled):
    for limit in (0, 1, 5, 40, 1000):
        for wanted in ({}, {"principal": "ann"}, {"source": "aws.cloudtrail"}):
            assert every(filled, limit, **wanted) == every(filled, **wanted)[:limit]


def test_days_and_sources_that_are_not_asked_for_are_not_opened(filled):
    for file in filled.open().files():
        if file.source != "mlflow.audit" or file.day != "2026-05-02":
            (Path(filled.uri) / file.path).unlink()
    assert len(every(filled, source="mlflow.audit", since=microseconds(at(1)), until=microseconds(at(1, 86399)))) == 32
    with pytest.raises(StoreError, match="mlsec verify"):
        every(filled)


@pytest.mark.parametrize("name", ["tr[a]il", "env=prod", "what*", "source=x"])
def test_a_trail_in_a_folder_with_a_telling_name_is_read_all_the_same(filled, name, tmp_path):
    moved = tmp_path / name / "trail"
    shutil.copytree(filled.uri, moved)
    assert every(Trail(str(moved))) == every(filled)
    assert every(Trail(str(moved)), artifact="fraud/1", limit=3) == every(filled, artifact="fraud/1", limit=3)
    assert summary(Trail(str(moved)), "2026-05-02") == summary(filled, "2026-05-02")


@pytest.fixture
def bucket(monkeypatch) -> Iterator[str]:
    """A bucket in a process of its own: Delta Lake waits for it without letting other threads of this one run."""
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    command = [sys.executable, "-c", f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            client = boto3.client("s3", config=Config(retries={"total_max_attempts": 30, "mode": "standard"}))
            client.create_bucket(Bucket="security")
            yield "security"
        finally:
            server.terminate()


def test_a_trail_in_an_object_storage_is_read_with_its_own_credentials(filled, bucket):
    import boto3

    client = boto3.client("s3")
    for path in Path(filled.uri).rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, f"trail/{path.relative_to(filled.uri).as_posix()}")
    there = Trail(f"s3://{bucket}/trail", {"AWS_ALLOW_HTTP": "true"})
    assert every(there) == every(filled)
    assert every(there, 3, artifact="fraud", since=microseconds(at(1))) == every(filled, 3, artifact="fraud", since=microseconds(at(1)))
    assert summary(there, "2026-05-02") == summary(filled, "2026-05-02")


def test_a_table_that_lists_files_elsewhere_is_not_followed(filled, tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    log = Path(filled.uri) / "_delta_log" / f"{filled.open().version + 1:020}.json"
    for path in ("source=mlflow.audit/day=2026-05-01/../../../x.parquet", "source=mlflow.audit/day=2026-05-01/*.parquet"):
        add = {
            "path": path,
            "partitionValues": {"source": "mlflow.audit", "day": "2026-05-01"},
            "size": 1,
            "modificationTime": 0,
            "dataChange": True,
        }
        log.write_text(json.dumps({"add": add}) + "\n")
        with pytest.raises(UnverifiableError, match="no writer of this package made"):
            every(filled)


def test_days_and_sources_are_those_of_the_paths_whatever_the_tables_log_says(filled):
    before = every(filled)
    logs = sorted((Path(filled.uri) / "_delta_log").glob("*.json"))
    for log in logs:
        log.write_text(log.read_text().replace('"day":"2026-05-02"', '"day":"2020-01-01"'))
    assert {file.day for file in filled.open().files()} >= {"2020-01-01"}
    assert every(filled) == before
    assert len(every(filled, since=microseconds(at(1)), until=microseconds(at(2)))) == 32


def test_where_there_is_no_trail_it_is_said(tmp_path):
    with pytest.raises(UnverifiableError, match="There is no audit trail"):
        every(Trail(str(tmp_path / "nothing")))


@pytest.mark.parametrize("wanted", [{"source": "aws.cloudtrial"}, {"action": "steal"}, {"outcome": "fine"}, {"kind": "x' OR 1"}])
def test_a_value_that_no_row_can_have_is_refused(wanted):
    with pytest.raises(ConfigurationError, match="expected one of"):
        Filter(**wanted)


def test_points_in_time():
    assert instant("2026-05-01") == instant("2026-05-01T00:00:00Z") == instant("2026-05-01T02:00:00+02:00") == microseconds(at(0))
    assert instant("24h", now=100_000) == (100_000 - 86_400) * 1_000_000
    assert instant("999999w") < 0
    for wrong in ("soon", "2026-05-01T00:00:00", "24", "-3h", "٣h"):
        with pytest.raises(ConfigurationError, match="no point in time"):
            instant(wrong)


# --- a day


def test_a_day_in_figures(filled):
    day = summary(filled, "2026-05-02")
    assert (day.events, day.denied, day.quarantined, day.principals) == (32, 1, 0, 4)
    assert day.unresolved == sum(row["artifact_kind"] == "unresolved" for row in every(filled) if str(row["day"]) == day.day)
    assert day.bytes_out == sum(range(30)) + 999 + 1000
    assert (day.first, day.last) == (microseconds(at(1)), microseconds(at(1, 501)))
    assert sum(each.accesses for each in day.accesses) == 32
    assert [each.principal for each in day.readers] == [HOSTILE, "ann", "bob"]  # Whoever was denied has read nothing.
    assert day.readers[2].bytes_out == sum(range(0, 30, 3))


def test_a_first_reader_is_one_who_never_read_it_on_an_earlier_day(filled):
    assert [(each.artifact, each.principal) for each in summary(filled, "2026-05-01").first_reads] == [("fraud", "ann")]
    second = {(each.artifact, each.principal): each for each in summary(filled, "2026-05-02").first_reads}
    assert set(second) == {("fraud", "bob"), *((("fraud", HOSTILE),) if 1000 % 7 in (1, 2) else ())}
    assert summary(filled, "2026-05-03").first_reads_count == 0


def test_a_day_without_files_is_empty(filled):
    assert summary(filled, "2001-01-01").events == 0


# --- the same as comparing every row

_NAMES = st.sampled_from([None, "a", "a", "b", "a/1", "ab"])
_ROWS = st.fixed_dictionaries(
    {
        **dict.fromkeys(("artifact_asset", "artifact_model", "model", "principal", "principal_name", "role"), _NAMES),
        "artifact_version": st.sampled_from([None, "1", "2"]),
        "model_version": st.sampled_from([None, "1", "2"]),
        "outcome": st.sampled_from(["success", "denied"]),
        "seconds": st.integers(0, 3 * 86_400 - 1),
    }
)
_ASKED = st.fixed_dictionaries(
    {"artifact": _NAMES, "principal": st.sampled_from([None, "a", "a*", "b", "*", "a/*"]), "outcome": st.sampled_from([None, "denied"])}
)


def trail_of(made: list[dict], root: Path) -> Trail:
    """A trail of rows that say only what is given, two files a day, with two rows in a row group."""
    trail = Trail(str(root))
    head = trail.open(create=True)
    added = []
    for number in range(6):
        day, rest = f"2026-05-0{number // 2 + 1}", number % 2
        chosen = [row for index, row in enumerate(made) if row["seconds"] // 86_400 == number // 2 and index % 2 == rest]
        if not chosen:
            continue
        columns = [
            pa.array([row.get(field.name, b"%016d" % row["seconds"] if field.name == "key" else None) for row in chosen], field.type)
            if field.name != "time"
            else pa.array([microseconds(at(0, row["seconds"])) for row in chosen], field.type)
            for field in FILE_SCHEMA
        ]
        path = f"source=mlflow.audit/day={day}/{number}.parquet"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(columns, schema=FILE_SCHEMA), root / path, row_group_size=2)
        added.append(TrailFile(path, "mlflow.audit", day, (root / path).stat().st_size, len(chosen)))
    head.commit(attempt="made", why="ingested", sources=["mlflow.audit"], added=added)
    return trail


def is_meant(row: dict, artifact: str | None, principal: str | None, outcome: str | None) -> bool:
    """What `Filter` says, one row at a time."""
    named = {row["artifact_asset"], row["artifact_model"], row["model"]}
    named |= {f"{row['artifact_model']}/{row['artifact_version']}", f"{row['model']}/{row['model_version']}"}
    who = [name for name in (row["principal"], row["principal_name"], row["role"]) if name is not None]
    begins = principal is not None and principal.endswith("*")
    return (
        (artifact is None or artifact in named)
        and (principal is None or any(name.startswith(principal[:-1]) if begins else name == principal for name in who))
        and outcome in (None, row["outcome"])
    )


# DuckDB opens the files of the one, Arrow those of the other.
@pytest.mark.parametrize("folder", ["trail", pytest.param("tr[a]il", marks=pytest.mark.slow)])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(_ROWS, min_size=6, max_size=16, unique_by=lambda row: row["seconds"]),
    asked=st.lists(_ASKED, min_size=3, max_size=3),
    limit=st.sampled_from([None, 1, 2, 4, 16]),
    chunk=st.sampled_from([1, 1_000_000]),
    places=st.sampled_from([0, 2, 1_000_000]),
)
def test_what_is_found_is_what_comparing_every_row_finds(folder, made, asked, limit, chunk, places, monkeypatch):
    monkeypatch.setattr(scanning, "_FIRST_ROWS", chunk)
    monkeypatch.setattr(scanning, "_MOST_ROWS", chunk)
    monkeypatch.setattr(scanning, "_MOST_ROWS_OF_ARROW", chunk)
    monkeypatch.setattr(querying, "_MOST_PLACES", places)
    with tempfile.TemporaryDirectory() as root:
        trail = trail_of(made, Path(root) / folder)
        for wanted in asked:
            right = sorted((row["seconds"] for row in made if is_meant(row, **wanted)), reverse=True)
            found = every(trail, limit, **wanted)
            assert [int(row["key"]) for row in found] == right[:limit]
            assert [row["time"] for row in found] == [MIDNIGHT + timedelta(seconds=seconds) for seconds in right[:limit]]


@pytest.mark.parametrize("also", [{}, {"model": "fraud"}, {"artifact_asset": "fraud", "model": "fraud"}, {"artifact_asset": "other"}])
def test_a_model_that_one_column_tells_is_asked_for_in_that_column_alone(also, tmp_path, monkeypatch):
    row = {"artifact_asset": None, "artifact_model": "fraud", "model": None, "outcome": "success", **also}
    other = {"artifact_asset": "x", "artifact_model": "x", "model": "x", "outcome": "success"}
    trail = trail_of([{**(row if second % 3 else other), "seconds": second} for second in range(30)], tmp_path)
    queries: list[str] = []

    def heard(trail, connection, query, values):
        queries.append(query)
        return scanning.batches(trail, connection, query, values)

    monkeypatch.setattr(querying, "batches", heard)
    assert len(every(trail, artifact="fraud")) == 20
    counted, told = queries
    assert counted.startswith("SELECT count(*)")
    assert told.partition(" WHERE ")[2] == "(artifact_model = $artifact) ORDER BY time DESC, key"
    queries.clear()
    assert every(trail, artifact="nobody") == []
    assert len(queries) == 1  # Where nothing matches, no more than the columns that are compared is read.


# --- rows and back

texts = st.none() | st.text(max_size=8)
numbers = st.none() | st.integers(-(1 << 63), (1 << 63) - 1)
_FIELDS = {field.name: field for field in msgspec.structs.fields(AuditEvent)}
events = st.builds(
    AuditEvent,
    source=st.just("mlflow.audit"),
    id=st.text(max_size=8),
    time=st.integers(0, 1 << 50),
    operation=st.text(max_size=8),
    action=st.sampled_from(["read", "promote", "other"]),
    plane=st.sampled_from(["control", "data"]),
    outcome=st.sampled_from(["success", "denied"]),
    logged=st.none() | st.integers(0, 1 << 50),
    port=st.none() | st.integers(-(1 << 31), (1 << 31) - 1),
    bytes_out=numbers,
    bytes_in=numbers,
    **{name: texts for name, field in _FIELDS.items() if field.type == str | None},
)


def with_partition(table: pa.Table) -> pa.Table:
    """As read from the trail, where the path tells what the file does not."""
    whole = table.append_column("source", pa.array(["mlflow.audit"] * table.num_rows))
    return whole.append_column("day", pa.nulls(table.num_rows, pa.date32())).select(SCHEMA.names).cast(SCHEMA)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, min_size=1, max_size=5))
def test_an_event_comes_back_from_its_row_as_it_was(made):
    count = len(made)
    table = event_table(made, [Artifact("none")] * count, [b"k" * 16] * count, ["x"] * count, 0)
    assert events_of(with_partition(table)) == made
    assert [event for batch in with_partition(table).to_batches() for event in events_of(batch)] == made
    assert quarantined_of(with_partition(table)) == []


@given(st.text(max_size=9), st.text(max_size=9), st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.booleans())
def test_a_quarantined_record_comes_back_as_it_was(reason, raw, size, offset, rest):
    row = Quarantined(source="mlflow.audit", id="blake3:00", reason=reason, raw=raw, size=size, offset=offset, rest=rest)
    table = quarantine_table([row], [b"k" * 16], ["x"], [0], 0)
    assert quarantined_of(with_partition(table)) == [row]
    assert events_of(with_partition(table)) == []


def test_what_no_column_can_hold_comes_back_as_it_was_stored():
    event = AuditEvent("mlflow.audit", "\ud800", 0, "o", "read", "data", "success", bytes_out=1 << 70)
    table = event_table([event], [Artifact("none")], [b"k" * 16], ["x"], 0)
    (back,) = events_of(with_partition(table))
    assert (back.id, back.bytes_out) == ("\\ud800", (1 << 63) - 1)


def test_every_event_of_a_log_comes_back_from_the_trail(filled):
    found = [event for batch in rows(filled, Filter(source="mlflow.audit")) for event in events_of(batch)]
    assert len(found) == 92
    (hostile,) = [event for event in found if event.id == "request-1000"]
    assert (hostile.principal, hostile.user_agent) == (HOSTILE, HOSTILE)
    assert hostile.time == microseconds(datetime(2026, 5, 2, 0, 8, 21, tzinfo=UTC).isoformat())
