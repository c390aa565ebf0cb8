"""Days go when they are due, and stay when somebody must not delete them."""

import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlsec_dagster.audit.compaction import compact
from mlsec_dagster.audit.erasure import erase, find
from mlsec_dagster.audit.legal_hold import Hold, active_holds, lift_hold, set_hold
from mlsec_dagster.audit.persons import Person
from mlsec_dagster.audit.retention import Retention, expire
from mlsec_dagster.audit.seals import sealed_commits, verify_trail
from mlsec_dagster.audit.upkeep import Upkeep
from mlsec_dagster.audit.vacuum import GRACE_SECONDS, vacuum
from mlsec_dagster.errors import ConfigurationError, LedgerError, StoreError, VerificationError
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.witness import Witness
from tests.audit.trail.made import delivery, ids, line

DAY = 86_400
FIRST = datetime(2026, 5, 1, tzinfo=UTC).timestamp()
HOLD = Hold(name="case-17", who="counsel", why="subpoena of June")
ANN = Person(principals=["arn:aws:iam::123456789012:user/ann", "ann"])


@pytest.fixture
def ten_days(logs, tick, trail):
    (logs / "a.json.gz").write_bytes(delivery(day * DAY + number for day in range(10) for number in range(5)))
    tick("cloudtrail")
    (logs / "a.jsonl").write_bytes(b"".join(line(day * DAY) for day in range(10)))
    tick("mlflow")
    return time.time()


def days(trail, source="aws.cloudtrail"):
    return sorted(int(file.day[-2:]) for file in trail.open().files() if file.source == source)


def keeping(ten_days, kept: int) -> int:
    """Days of retention by which the newest so many days are kept."""
    return int((ten_days - FIRST) // DAY) - 10 + kept


def test_days_over_the_retention_go_and_the_others_stay(ten_days, trail, upkeep, ledger):
    report = expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 7)}))
    assert days(trail) == [4, 5, 6, 7, 8, 9, 10]
    assert days(trail, "mlflow.audit") == list(range(1, 11))
    assert report.rows == {"aws.cloudtrail": 15}
    sealed = sealed_commits(ledger, trail.uri)[-1]
    assert (sealed.why, len(sealed.removed), sealed.added) == ("expired", 3, [])
    assert sealed.reason == f"retention of aws.cloudtrail: {keeping(ten_days, 7)} days; days before 2026-05-04"
    assert verify_trail(ledger, trail) == []
    vacuum(upkeep, now=time.time() + GRACE_SECONDS + 60)
    assert len(list(Path(trail.uri).rglob("*.parquet"))) == 17
    assert verify_trail(ledger, trail) == []


def test_the_default_is_for_the_other_sources(ten_days, trail, upkeep):
    expire(upkeep, Retention({"aws.cloudtrail": 36_500}, default=keeping(ten_days, 7)))
    assert days(trail) == list(range(1, 11))
    assert days(trail, "mlflow.audit") == [4, 5, 6, 7, 8, 9, 10]


def test_an_edited_file_of_another_day_is_still_named(ten_days, trail, upkeep, ledger):
    last = trail.open().files()[-1].path
    (Path(trail.uri) / last).write_bytes(b"other")
    expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 7)}))
    assert [(problem.kind, problem.path) for problem in verify_trail(ledger, trail)] == [("edited", last)]


def test_a_replay_of_what_is_kept_adds_nothing(ten_days, trail, upkeep, tick, logs):
    expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 7)}))
    (logs / "b.json.gz").write_bytes(delivery(day * DAY + number for day in range(3, 10) for number in range(5)))
    assert tick("cloudtrail").tally.events == 0


def test_a_clock_that_would_take_most_of_the_days_is_asked_about(ten_days, trail, upkeep):
    report = expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 4)}))
    assert days(trail) == list(range(1, 11))
    assert "more than half" in report.refused[0]
    expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 4)}), most=True)
    assert days(trail) == [7, 8, 9, 10]


def test_a_clock_behind_the_newest_seal_is_not_believed(ten_days, trail, upkeep):
    for work in (lambda now: expire(upkeep, Retention({}, default=1), now=now, most=True), lambda now: vacuum(upkeep, now=now, grace=0)):
        with pytest.raises(StoreError, match="behind the newest sealed commit"):
            work(ten_days - 3600)
    assert days(trail) == list(range(1, 11))


def test_a_dry_run_takes_nothing(ten_days, trail, upkeep):
    assert expire(upkeep, Retention({}, default=keeping(ten_days, 7)), dry_run=True).rows == {"aws.cloudtrail": 15, "mlflow.audit": 3}
    assert days(trail) == list(range(1, 11))


def test_settings_that_cannot_be_meant_are_refused():
    for wrong in ({"aws.clodtrail": 10}, {"aws.cloudtrail": 0}):
        with pytest.raises(ConfigurationError):
            Retention(wrong)
    with pytest.raises(ConfigurationError):
        Retention({}, default=-1)


# --- holds


def test_a_hold_stops_expiry_erasure_and_vacuum_of_what_it_covers(ten_days, trail, upkeep, ledger, logs, tick):
    (logs / "b.json.gz").write_bytes(delivery(range(100, 110)))
    tick("cloudtrail")
    compact(upkeep)  # Leaves replaced files of May 1st.
    set_hold(ledger, trail, Hold(name="case-17", who="counsel", why="subpoena", sources=["aws.cloudtrail"], last="2026-05-02"))
    report = expire(upkeep, Retention({}, default=keeping(ten_days, 7)))
    assert report.held == {("aws.cloudtrail", "case-17"): ["2026-05-01", "2026-05-02"]}
    assert days(trail) == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert days(trail, "mlflow.audit") == [4, 5, 6, 7, 8, 9, 10]
    with pytest.raises(VerificationError, match="legal hold case-17"):
        erase(upkeep, ANN, reason="DSR-1")
    assert find(upkeep, ANN).holds
    report = vacuum(upkeep, now=time.time() + GRACE_SECONDS + 60)
    assert len(report.held) == 2
    assert all("day=2026-05-01" in path for path in report.held)
    lift_hold(ledger, trail, "case-17", who="counsel", why="settled")
    assert len(vacuum(upkeep, now=time.time() + GRACE_SECONDS + 60).deleted) == 2
    expire(upkeep, Retention({}, default=keeping(ten_days, 7)))
    assert days(trail) == [4, 5, 6, 7, 8, 9, 10]
    assert verify_trail(ledger, trail) == []


def test_a_hold_that_is_set_while_others_work_stops_them_too(ten_days, trail, upkeep, ledger, monkeypatch):
    before = set(Path(trail.uri).rglob("*.parquet"))
    for number, work in enumerate(
        (lambda: expire(upkeep, Retention({}, default=1), most=True), lambda: erase(upkeep, ANN, reason="DSR-1"))
    ):
        put = Upkeep.put

        def late(self, change, attempt, number=number, put=put):
            set_hold(ledger, trail, Hold(name=f"case-{number}", who="counsel", why="subpoena"))
            return put(self, change, attempt)

        with monkeypatch.context() as patched:
            patched.setattr(Upkeep, "put", late)
            with pytest.raises(VerificationError, match=f"legal hold case-{number}"):
                work()
        lift_hold(ledger, trail, f"case-{number}", who="counsel", why="settled")
    assert set(Path(trail.uri).rglob("*.parquet")) == before
    assert verify_trail(ledger, trail) == []


def test_an_erasure_by_others_in_days_without_a_hold_goes_on(ten_days, trail, upkeep, ledger):
    set_hold(ledger, trail, Hold(name="other", who="counsel", why="subpoena", sources=["wandb.audit"]))
    assert erase(upkeep, ANN, reason="DSR-1").found.rows == 60


def test_a_hold_is_set_and_lifted_once_with_who_and_why(ten_days, trail, ledger):
    set_hold(ledger, trail, HOLD)
    assert active_holds(ledger, trail) == [HOLD]
    with pytest.raises(ConfigurationError, match="already"):
        set_hold(ledger, trail, HOLD)
    for wrong in (
        Hold(name="../x", who="a", why="b"),
        Hold(name="x", who="", why="b"),
        Hold(name="x", who="a", why="b", sources=["s3"]),
        Hold(name="x", who="a", why="b", first="2026-5-1"),
        Hold(name="x", who="a", why="b", first="2026-05-02", last="2026-05-01"),
    ):
        with pytest.raises(ConfigurationError):
            set_hold(ledger, trail, wrong)
    lift_hold(ledger, trail, "case-17", who="counsel", why="settled")
    assert active_holds(ledger, trail) == []
    with pytest.raises(ConfigurationError, match="no hold"):
        lift_hold(ledger, trail, "case-17", who="counsel", why="settled")
    set_hold(ledger, trail, HOLD)
    assert active_holds(ledger, trail) == [HOLD]


def test_a_hold_whose_statement_was_edited_or_hidden_is_noticed(ten_days, trail, upkeep, ledger):
    from sqlalchemy import text

    set_hold(ledger, trail, HOLD)
    set_hold(ledger, trail, Hold(name="later", who="counsel", why="subpoena", sources=["wandb.audit"]))
    with ledger.database.write() as connection:
        connection.execute(text("UPDATE mlsec_entries SET partition = 'elsewhere' WHERE CAST(payload AS TEXT) LIKE '%case-17%'"))
    with pytest.raises(LedgerError):
        expire(upkeep, Retention({}, default=1), most=True)
    assert days(trail) == list(range(1, 11))


def test_a_ledger_that_was_rolled_back_behind_a_hold_is_told_by_its_witness(ten_days, trail, ledger, tmp_path):
    witness = Witness(str(tmp_path / "witness"))
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    (tmp_path / "before.db").write_bytes(_stored(ledger, tmp_path))
    watched = open_ledger(url, signer=ledger.signer, trust=ledger.trust, witness=witness)
    set_hold(watched, trail, HOLD)
    watched.witness_now()
    watched.close()
    ledger.close()
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "ledger.db").write_bytes((tmp_path / "before.db").read_bytes())
    rolled = open_ledger(url, signer=ledger.signer, trust=ledger.trust, witness=witness)
    with pytest.raises(LedgerError, match="rolled back"):
        expire(Upkeep(rolled.database, trail, rolled), Retention({}, default=1), most=True)
    assert days(trail) == list(range(1, 11))
    rolled.close()


def test_a_ledger_that_was_rolled_back_behind_a_commit_stops_everything(ten_days, trail, upkeep, ledger, tmp_path):
    before = _stored(ledger, tmp_path)
    expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 7)}))
    ledger.close()
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "ledger.db").write_bytes(before)
    rolled = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", signer=ledger.signer, trust=ledger.trust)
    assert {problem.kind for problem in verify_trail(rolled, trail)} == {"dropped"}
    with pytest.raises(VerificationError, match="sealed by nobody"):
        vacuum(Upkeep(rolled.database, trail, rolled), now=time.time() + 2 * GRACE_SECONDS)
    assert len(list(Path(trail.uri).rglob("*.parquet"))) == 20
    rolled.close()


def _stored(ledger, root: Path) -> bytes:
    """The database as it is, in one file."""
    with sqlite3.connect(root / "ledger.db") as source, sqlite3.connect(root / "copy.db") as target:
        source.backup(target)
    source.close()
    target.close()
    return (root / "copy.db").read_bytes()


def test_what_expired_is_gone_from_the_counts(ten_days, trail, upkeep):
    expire(upkeep, Retention({}, default=keeping(ten_days, 7)))
    assert len(ids(trail)) == 35 + 7


def test_a_day_that_the_tables_log_makes_old_does_not_go(ten_days, trail, upkeep, ledger):
    for commit in Path(trail.uri, "_delta_log").glob("*.json"):
        commit.write_text(commit.read_text().replace('"day":"2026-05-09"', '"day":"2020-01-01"'))
    report = expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 7)}))
    assert report.days == {"aws.cloudtrail": ["2026-05-01", "2026-05-02", "2026-05-03"]}
    assert any("day=2026-05-09" in file.path for file in trail.open().files() if file.source == "aws.cloudtrail")
    assert {problem.kind for problem in verify_trail(ledger, trail)} == {"edited"}


def test_an_old_day_that_the_tables_log_tells_otherwise_stays_and_is_named(ten_days, trail, upkeep):
    for commit in Path(trail.uri, "_delta_log").glob("*.json"):
        commit.write_text(commit.read_text().replace('"day":"2026-05-02"', '"day":"2026-05-08"'))
    report = expire(upkeep, Retention({"aws.cloudtrail": keeping(ten_days, 7)}))
    assert report.days == {"aws.cloudtrail": ["2026-05-01", "2026-05-03"]}
    assert [("day=2026-05-02" in sentence, "It stays" in sentence) for sentence in report.refused] == [(True, True)]
