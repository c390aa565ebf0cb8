"""The witness remembers what the database owner would like to be forgotten, and its silence is never taken for consent."""

import os

import pytest

from mlsec_dagster.errors import ConfigurationError, LedgerError
from mlsec_dagster.integrity.verification import verify_ledger
from mlsec_dagster.integrity.witness import Witness
from tests.ledger.material import behind_its_back, write


@pytest.fixture
def witness(tmp_path) -> Witness:
    return Witness(tmp_path / "witness")


def roll_back(file, size: int) -> None:
    with behind_its_back(file) as database:
        database.execute("DELETE FROM mlsec_entries WHERE position >= ?", (size,))
        database.execute("DELETE FROM mlsec_checkpoints WHERE size > ?", (size,))


def test_a_checkpoint_is_published_once_and_read_back(opened, witness):
    ledger = opened(witness=witness)
    ledger.append([write()])
    ledger.witness_now()
    ledger.witness_now()
    (seen,) = witness.all()
    assert (seen.size, seen.root) == (1, ledger.checkpoint().root)
    assert witness.read(seen) == ledger.checkpoint()


def test_it_is_asked_only_when_it_is_due(opened, tmp_path):
    rare, often = Witness(tmp_path / "witness", interval_minutes=60), Witness(tmp_path / "witness", interval_minutes=0)
    ledger = opened(witness=rare)
    for run in range(3):
        ledger.append([write(run_id=str(run))])
        assert ledger.witness_if_due() is None
    assert [seen.size for seen in rare.all()] == [1]
    again = opened(witness=often)
    assert again.witness_if_due() is None
    assert [seen.size for seen in often.all()] == [1, 3]
    assert opened().witness_if_due() is None


def test_a_witness_that_is_down_loses_no_entry_and_is_reported(opened, tmp_path):
    (tmp_path / "witness").write_text("not a directory")
    ledger = opened(witness=Witness(tmp_path / "witness"))
    ledger.append([write()])
    assert "cannot be" in ledger.witness_if_due()
    assert "The ledger is complete" in ledger.witness_if_due()
    found = verify_ledger(ledger)
    assert (found.intact, found.size, found.rollback) == (True, 1, "not verifiable")
    assert "cannot be read" in found.rollback_sentence


def test_a_witness_in_a_scheme_that_nobody_knows_is_reported(opened):
    ledger = opened(witness=Witness("carrierpigeon://user:s3cret@loft/x"))
    ledger.append([write()])
    sentence = ledger.witness_if_due()
    assert "carrierpigeon" in sentence
    assert "s3cret" not in sentence + repr(ledger.witness)


def test_publishing_notices_a_rollback_and_a_fork(opened, file, witness):
    ledger = opened(witness=witness)
    ledger.append([write(run_id="1")])
    ledger.append([write(run_id="2")])
    ledger.witness_now()
    roll_back(file, 1)
    again = opened(witness=witness)
    with pytest.raises(LedgerError, match="rolled back"):
        again.witness_now()
    again.append([write(run_id="other")])
    with pytest.raises(LedgerError, match="forked"):
        again.witness_now()
    found = verify_ledger(again)
    assert (found.first.index, found.first.kind, found.rollback) == (1, "forked", "rolled back")


def test_what_lies_there_unsigned_raises_no_alarm_and_gives_no_assurance(opened, witness, tmp_path, thief):
    from mlsec_dagster.integrity.checkpoints import sign_checkpoint

    ledger = opened(witness=witness)
    ledger.append([write()])
    origin = ledger.checkpoint().origin
    witness.publish(sign_checkpoint(origin, 99, b"\1" * 32, thief.sealing))
    witness.publish(sign_checkpoint(origin, 1, b"\1" * 32, thief.sealing))
    (next((tmp_path / "witness").iterdir()) / f"{7:020d}-{'0' * 64}.txt").write_bytes(b"\xff rubbish")
    found = verify_ledger(ledger)
    assert (found.problems, found.rollback) == ((), "not verifiable")
    ledger.witness_now()
    assert verify_ledger(ledger).rollback == "verified"


def test_its_age_is_checked(opened, witness):
    ledger = opened(witness=witness)
    ledger.append([write()])
    ledger.witness_now()
    (seen,) = witness.all()
    os.utime(seen.path, (seen.at - 7200, seen.at - 7200))
    assert verify_ledger(ledger, max_witness_age_seconds=3 * 3600).rollback == "verified"
    found = verify_ledger(ledger, max_witness_age_seconds=3600)
    assert found.rollback == "not verifiable"
    assert 7200 <= found.witness_age_seconds < 7300
    assert "120 minutes old" in found.rollback_sentence


def test_entries_after_the_last_witnessed_checkpoint_are_said_to_be_open(opened, witness):
    ledger = opened(witness=witness)
    ledger.append([write()])
    ledger.witness_now()
    ledger.append([write(), write()])
    found = verify_ledger(ledger)
    assert (found.rollback, found.witnessed_size) == ("verified", 1)
    assert "2 entries after it are not witnessed yet" in found.rollback_sentence


def test_an_object_store_with_object_lock_is_a_witness(opened, file, s3_bucket, s3_endpoint):
    witness = Witness(f"s3://{s3_bucket}/mlsec", options={"endpoint_url": s3_endpoint})
    assert witness.all() == []
    ledger = opened(witness=witness)
    ledger.append([write(run_id="1")])
    ledger.append([write(run_id="2")])
    ledger.witness_now()
    ledger.witness_now()
    (seen,) = witness.all()
    assert witness.read(seen) == ledger.checkpoint()
    assert verify_ledger(ledger).rollback == "verified"
    roll_back(file, 1)
    assert verify_ledger(opened(witness=witness)).first.kind == "rolled back"


def test_a_witness_needs_an_address_and_publishing_needs_a_witness(ledger):
    with pytest.raises(ConfigurationError, match="directory or a URI"):
        Witness("")
    with pytest.raises(ConfigurationError, match="No witness is configured"):
        ledger.witness_now()
