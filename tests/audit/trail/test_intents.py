"""Who can write to the database and to the storage, and has no key, gets nothing sealed and nothing deleted by those who have."""

import shutil
from pathlib import Path

import msgspec
import pytest

from mlsec_dagster.audit.batches import Tally
from mlsec_dagster.audit.committing import _Content
from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.seals import sealed_commits, verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.upkeep import Change
from mlsec_dagster.errors import VerificationError
from mlsec_dagster.integrity.keys import KeyRing, create_key_file
from mlsec_dagster.storage import log_positions
from mlsec_dagster.storage.log_positions import Intent
from tests.audit.trail.made import ids, line

ATTEMPT = "f" * 32


@pytest.fixture
def ten_rows(logs, tick, trail, ledger) -> list[TrailFile]:
    (logs / "a.jsonl").write_bytes(b"".join(map(line, range(10))))
    tick()
    return [file for commit in sealed_commits(ledger, trail.uri) for file in commit.added]


@pytest.fixture
def intend(ledger):
    """Write an intent into the database, as whoever may write there can."""

    def write(uri: str, number: int, content: bytes) -> None:
        with ledger.database.write() as connection:
            location = log_positions.location_id(connection, uri)
            log_positions.record_intent(connection, location, Intent(ATTEMPT, number, content))

    return write


def encoded(**content) -> bytes:
    return msgspec.msgpack.encode(_Content(**content))


def test_rows_that_nobody_let_expire_are_dropped_rows(ten_rows, trail, upkeep, ledger, intend):
    change = Change(why="expired", files=[], removed=ten_rows, reason="default retention: 180 days")
    intend(upkeep.uri, 1, msgspec.msgpack.encode(change))
    trail.open().commit(attempt=ATTEMPT, why="expired", sources=["mlflow.audit"], added=(), removed=ten_rows, batch=(upkeep.uri, 1))
    with upkeep.turn(), pytest.raises(VerificationError, match="sealed by nobody"):
        upkeep.look()
    assert [problem.kind for problem in verify_trail(ledger, trail)] == ["dropped"]


def test_rows_that_nobody_ingested_are_inserted_rows(ten_rows, trail, ledger, ingestion, intend):
    uri = ingestion().place.uri
    old = ten_rows[0]
    new = msgspec.structs.replace(old, path=f"{old.path.rpartition('/')[0]}/{ATTEMPT}-1.parquet")
    shutil.copy(Path(trail.uri, old.path), Path(trail.uri, new.path))
    number = trail.open().number(uri) + 1
    intend(uri, number, encoded(files=[new], positions=[], tally=Tally(), incomplete=[]))
    trail.open().commit(attempt=ATTEMPT, why="ingested", sources=["mlflow.audit"], added=[new], batch=(uri, number))
    assert ingestion().tick(Budget()).recovered == 0
    assert [(problem.kind, problem.path) for problem in verify_trail(ledger, trail)] == [("inserted", new.path)]


def test_no_file_is_deleted_on_the_word_of_the_database(ten_rows, trail, ledger, ingestion, upkeep, intend, tmp_path):
    (tmp_path / "other").write_text("mine")
    outside = msgspec.structs.replace(ten_rows[0], path="../other")
    uri = ingestion().place.uri
    intend(uri, trail.open().number(uri) + 1, encoded(files=[*ten_rows, outside], positions=[], tally=Tally(), incomplete=[]))
    ingestion().tick(Budget())
    assert (tmp_path / "other").exists()
    assert sum(ids(trail).values()) == 10
    assert verify_trail(ledger, trail) == []


def test_an_intent_that_another_key_signed_is_nobodys(ten_rows, trail, ledger, upkeep, tmp_path):
    from mlsec_dagster.audit.intents import is_signed, signed

    content = b"content"
    said = signed(ledger, trail, upkeep.uri, ATTEMPT, 1, content)
    assert is_signed(ledger, trail, upkeep.uri, Intent(ATTEMPT, 1, said))
    for location, attempt, number in (("elsewhere", ATTEMPT, 1), (upkeep.uri, "e" * 32, 1), (upkeep.uri, ATTEMPT, 2)):
        assert not is_signed(ledger, trail, location, Intent(attempt, number, said))
    assert not is_signed(ledger, trail, upkeep.uri, Intent(ATTEMPT, 1, content))
    own = ledger.signer
    ledger.signer = KeyRing(create_key_file(tmp_path / "stranger.pem"))
    stranger = signed(ledger, trail, upkeep.uri, ATTEMPT, 1, content)
    assert not is_signed(ledger, trail, upkeep.uri, Intent(ATTEMPT, 1, stranger))
    ledger.signer = own
    assert not is_signed(ledger, trail, upkeep.uri, Intent(ATTEMPT, 1, stranger))
