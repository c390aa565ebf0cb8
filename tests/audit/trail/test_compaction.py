"""Many small files become few, and no row is lost, doubled or made respectable."""

import os
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsec_dagster.audit import compaction
from mlsec_dagster.audit.compaction import Sizes, compact
from mlsec_dagster.audit.files import Files
from mlsec_dagster.audit.merging import Merging
from mlsec_dagster.audit.seals import sealed_commits, verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Head
from mlsec_dagster.audit.upkeep import Upkeep
from mlsec_dagster.audit.vacuum import GRACE_SECONDS, vacuum
from mlsec_dagster.errors import StoreError, VerificationError
from tests.audit.trail.made import delivery, ids, rows


@pytest.fixture
def small_files(logs, tick, trail):
    """Six files of one day, whose rows are no later from file to file."""
    for number in range(6):
        (logs / f"{number}.json.gz").write_bytes(delivery(range(number, 1200, 6)))
        tick("cloudtrail")
    assert len(trail.open().files()) == 6


def whole(trail) -> Counter[str]:
    return Counter(repr(sorted(row.items())) for row in rows(trail))


def test_small_files_become_one_with_the_same_rows_by_time(small_files, trail, upkeep, ledger):
    before = whole(trail)
    report = compact(upkeep)
    assert (report.before, report.after, report.rows, report.refused) == (6, 1, 1200, [])
    assert len(trail.open().files()) == 1
    assert whole(trail) == before
    times = [row["time"] for row in rows(trail, "time")]
    assert times == sorted(times)
    assert verify_trail(ledger, trail) == []
    assert [commit.why for commit in sealed_commits(ledger, trail.uri)][-1] == "compacted"
    assert compact(upkeep).days == []


def test_what_was_ingested_before_is_known_after(small_files, logs, tick, trail, upkeep, ledger):
    compact(upkeep)
    (logs / "again.json.gz").write_bytes(delivery(range(1000, 1300)))
    assert tick("cloudtrail").tally.events == 100
    assert ids(trail) == {f"event-{number}": 1 for number in range(1300)}
    compact(upkeep)
    assert ids(trail) == {f"event-{number}": 1 for number in range(1300)}
    assert verify_trail(ledger, trail) == []


def test_a_dry_run_changes_nothing(small_files, trail, upkeep):
    version = trail.open().version
    assert compact(upkeep, dry_run=True).before == 6
    assert trail.open().version == version


def test_files_do_not_grow_beyond_their_size(small_files, trail, upkeep, ledger):
    report = compact(upkeep, Sizes(rows=450))
    assert report.after == 3
    assert max(file.rows for file in trail.open().files()) <= 450
    assert ids(trail) == {f"event-{number}": 1 for number in range(1200)}
    assert verify_trail(ledger, trail) == []


def test_a_day_that_is_not_over_waits_until_it_has_many_files(small_files, upkeep):
    today = 1777593600.0 + 3600  # 2026-05-01T01:00:00Z
    assert compact(upkeep, Sizes(files=6), now=today, dry_run=True).before == 0
    assert compact(upkeep, Sizes(files=5), now=today, dry_run=True).before == 6


def test_an_edited_file_is_named_and_its_day_is_left_alone(small_files, logs, tick, trail, upkeep, ledger):
    (logs / "other-day.json.gz").write_bytes(delivery(range(86_400, 86_500)))
    tick("cloudtrail")
    (logs / "other-day-2.json.gz").write_bytes(delivery(range(86_500, 86_600)))
    tick("cloudtrail")
    edited = next(file for file in trail.open().files() if file.day == "2026-05-01")
    path = Path(trail.uri) / edited.path
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    before = [file for file in trail.open().files() if file.day == "2026-05-01"]
    report = compact(upkeep)
    assert [edited.path in sentence for sentence in report.refused] == [True]
    assert report.days == [("aws.cloudtrail", "2026-05-02")]
    assert [file for file in trail.open().files() if file.day == "2026-05-01"] == before
    assert {(problem.kind, problem.path) for problem in verify_trail(ledger, trail)} == {("edited", edited.path)}


def test_a_file_that_is_exchanged_between_its_check_and_its_reading_does_not_get_in(small_files, trail, upkeep, monkeypatch):
    """Whatever lies under the name after it was digested is not read any more."""
    before = whole(trail)
    other = (Path(trail.uri) / trail.open().files()[-1].path).read_bytes()
    opened = Files.open
    seen = []

    def exchanged(files, path):
        found = opened(files, path)
        if path not in seen and path in {file.path for file in trail.open().files()}:
            seen.append(path)
            target = Path(trail.uri) / path
            beside = target.with_suffix(".new")
            beside.write_bytes(other)
            beside.replace(target)  # The open file is still the old one.
        return found

    expected = before
    monkeypatch.setattr(Files, "open", exchanged)
    report = compact(upkeep)
    monkeypatch.setattr(Files, "open", opened)
    assert report.after == 1
    assert whole(trail) == expected


def test_a_file_that_nobody_signed_for_stops_everything(small_files, trail, upkeep, ledger):
    head = trail.open()
    file = head.files()[0]
    copy = file.path.replace(".parquet", "-copy.parquet")
    (Path(trail.uri) / copy).write_bytes((Path(trail.uri) / file.path).read_bytes())
    head.commit(attempt="mallory", why="ingested", sources=["aws.cloudtrail"], added=[type(file)(copy, *_rest(file))])
    with pytest.raises(VerificationError, match="sealed by nobody"):
        compact(upkeep)
    with pytest.raises(VerificationError, match="sealed by nobody"):
        vacuum(upkeep)


def _rest(file):
    return file.source, file.day, file.size, file.rows, file.first, file.last


def test_ingestion_in_the_middle_loses_nothing(small_files, logs, ingestion, trail, upkeep, ledger, monkeypatch):
    commit = Head.commit

    def interrupted(head, **named):
        if named["why"] == "compacted":
            monkeypatch.setattr(Head, "commit", commit)
            (logs / "meanwhile.json.gz").write_bytes(delivery(range(1100, 1400)))
            assert ingestion("cloudtrail").tick(Budget()).tally.events == 200
        return commit(head, **named)

    monkeypatch.setattr(Head, "commit", interrupted)
    assert compact(upkeep).after == 1
    assert ids(trail) == {f"event-{number}": 1 for number in range(1400)}
    assert len(trail.open().files()) == 2
    assert verify_trail(ledger, trail) == []


def test_compaction_in_the_middle_of_ingestion_loses_nothing(small_files, logs, ingestion, trail, upkeep, ledger, monkeypatch):
    commit = Head.commit

    def interrupted(head, **named):
        if named["why"] == "ingested":
            monkeypatch.setattr(Head, "commit", commit)
            assert compact(upkeep).after == 1
        return commit(head, **named)

    (logs / "meanwhile.json.gz").write_bytes(delivery(range(1100, 1400)))
    monkeypatch.setattr(Head, "commit", interrupted)
    assert ingestion("cloudtrail").tick(Budget()).tally.events == 200
    assert ids(trail) == {f"event-{number}": 1 for number in range(1400)}
    assert verify_trail(ledger, trail) == []


def test_two_at_once_are_refused(small_files, ledger, trail, upkeep):
    with upkeep.turn(), pytest.raises(StoreError, match="Somebody else is at the upkeep"):
        compact(Upkeep(ledger.database, trail, ledger))


def test_whoever_was_taken_for_dead_commits_nothing(small_files, ledger, trail, upkeep, monkeypatch):
    merge = compaction._merge
    monkeypatch.setattr("mlsec_dagster.audit.upkeep._HOLD_SECONDS", -1.0)

    def slow(*arguments):
        file = merge(*arguments)
        monkeypatch.setattr(compaction, "_merge", merge)
        assert compact(Upkeep(ledger.database, trail, ledger)).after == 1
        return file

    monkeypatch.setattr(compaction, "_merge", slow)
    report = compact(upkeep)
    assert (report.days, report.later) == ([], [("aws.cloudtrail", "2026-05-01")])
    assert ids(trail) == {f"event-{number}": 1 for number in range(1200)}
    assert verify_trail(ledger, trail) == []


def test_a_full_disk_changes_nothing_and_leaves_nothing(small_files, trail, upkeep, monkeypatch):
    real, before = Files.create, set(Path(trail.uri).rglob("*.parquet"))

    def full(files, path):
        sink = real(files, path)

        def write(data):
            raise OSError(28, "No space left on device")

        sink.write = write
        return sink

    monkeypatch.setattr(Files, "create", full)
    with pytest.raises(StoreError, match="No space left"):
        compact(upkeep)
    assert set(Path(trail.uri).rglob("*.parquet")) == before


# --- vacuum


def test_replaced_files_stay_for_the_grace_and_go_then(small_files, trail, upkeep, ledger):
    compact(upkeep)
    assert vacuum(upkeep).deleted == []
    assert len(list(Path(trail.uri).rglob("*.parquet"))) == 7
    report = vacuum(upkeep, now=time.time() + GRACE_SECONDS + 60, dry_run=True)
    assert len(report.deleted) == 6
    assert len(list(Path(trail.uri).rglob("*.parquet"))) == 7
    assert len(vacuum(upkeep, now=time.time() + GRACE_SECONDS + 60).deleted) == 6
    assert len(list(Path(trail.uri).rglob("*.parquet"))) == 1
    assert ids(trail) == {f"event-{number}": 1 for number in range(1200)}
    assert verify_trail(ledger, trail) == []


def test_orphans_of_killed_processes_go_and_files_being_written_stay(small_files, trail, upkeep):
    folder = Path(trail.uri) / "source=aws.cloudtrail/day=2026-05-01"
    old, new = folder / "killed-1.parquet", folder / "writing-1.parquet"
    old.write_bytes(b"x")
    new.write_bytes(b"x")
    before = time.time() - GRACE_SECONDS - 60
    os.utime(old, (before, before))
    assert [path.rpartition("/")[2] for path in vacuum(upkeep).deleted] == ["killed-1.parquet"]
    assert new.exists()


def test_a_clock_that_is_ahead_does_not_make_orphans_of_files_being_written(small_files, trail, upkeep):
    new = Path(trail.uri) / "source=aws.cloudtrail/day=2026-05-01/writing-1.parquet"
    new.write_bytes(b"x")
    vacuum(upkeep, now=time.time() + 400 * 86_400)
    assert new.exists()


def test_nothing_outside_the_partitions_is_deleted(small_files, trail, upkeep, tmp_path):
    outside = tmp_path / "outside" / "day=2026-05-01"
    outside.mkdir(parents=True)
    root = Path(trail.uri)
    strangers = [
        outside / "a.parquet",
        root / "notes.parquet",
        root / "source=aws.cloudtrail" / "notes.parquet",
        root / "source=aws.cloudtrail" / "day=2026-05-01" / "notes.txt",
        root / "_delta_log" / "stray.parquet",
    ]
    before = time.time() - 2 * GRACE_SECONDS
    for path in strangers:
        path.write_bytes(b"x")
        os.utime(path, (before, before))
    (root / "source=mlflow.audit").symlink_to(tmp_path / "outside")
    assert vacuum(upkeep).deleted == []
    with pytest.raises(StoreError, match="through a link"):
        trail.storage.destroy("source=mlflow.audit/day=2026-05-01/a.parquet")
    with pytest.raises(StoreError, match="no file of a partition"):
        trail.storage.destroy("../outside/day=2026-05-01/a.parquet")
    assert all(path.exists() for path in strangers)


def test_a_file_that_was_taken_out_without_a_signature_is_evidence_and_stays(small_files, trail, upkeep, ledger):
    head = trail.open()
    file = head.files()[0]
    head.commit(attempt="mallory", why="expired", sources=["aws.cloudtrail"], added=[], removed=[file])
    with pytest.raises(VerificationError):
        vacuum(upkeep, now=time.time() + 10 * GRACE_SECONDS)
    assert (Path(trail.uri) / file.path).exists()
    assert [problem.kind for problem in verify_trail(ledger, trail)] == ["dropped"]


# --- merging


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 300), max_size=200), max_size=8))
def test_merging_gives_every_row_once_by_time(pieces):
    from mlsec_dagster.audit import merging as module

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_PIECE_ROWS", 50)
        patched.setattr(module, "_LITTLE_ROWS", 7)
        given_rows: Counter[tuple[int, bytes]] = Counter()
        with Merging() as merging:
            for number, times in enumerate(pieces):
                keys = [b"%d-%d" % (number, place) for place in range(len(times))]
                given_rows.update(zip(times, keys, strict=True))
                merging.add(pa.table({"time": pa.array(times, pa.timestamp("us", tz="UTC")), "key": pa.array(keys, pa.binary())}))
            found = [
                row
                for table in merging.merged()
                for row in zip(table["time"].cast(pa.int64()).to_pylist(), table["key"].to_pylist(), strict=True)
            ]
    assert Counter(found) == given_rows
    assert [time for time, _ in found] == sorted(time for time, _ in found)
