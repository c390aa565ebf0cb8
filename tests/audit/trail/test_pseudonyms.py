"""Persons are told apart and searched for without being known, and accesses stay known when keys change."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.audit.batches import Batch
from mlsec_dagster.audit.erasure import erase, find
from mlsec_dagster.audit.events import AuditEvent, Quarantined
from mlsec_dagster.audit.persons import Person
from mlsec_dagster.audit.pseudonym_keys import PseudonymKeys, add_pseudonym_key, create_pseudonym_keys
from mlsec_dagster.audit.pseudonyms import TOKEN, Chosen, Pseudonyms
from mlsec_dagster.audit.rows import access_key
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.errors import ConfigurationError, SigningKeyError, VerificationError
from tests.audit.documented import LOGS, lines_of
from tests.audit.test_redaction import KEPT
from tests.audit.trail.made import ids, line, rows
from tests.audit.trail.test_erasure import traces

MARY = "mary.schmidt@example.com"


@pytest.fixture
def path(tmp_path):
    create_pseudonym_keys(tmp_path / "keys" / "pseudonyms")
    return tmp_path / "keys" / "pseudonyms"


@pytest.fixture
def pseudonyms(path) -> Pseudonyms:
    return Pseudonyms(PseudonymKeys.from_file(path))


def event(**more) -> AuditEvent:
    return AuditEvent(
        **{
            "source": "aws.cloudtrail",
            "id": "e-1",
            "time": 1,
            "operation": "GetObject",
            "action": "read",
            "plane": "data",
            "outcome": "success",
        }
        | more
    )


def test_values_are_hidden_equal_ones_stay_equal_and_the_key_reveals_them(pseudonyms):
    found = pseudonyms.event(
        event(
            principal=f"arn:aws:sts::1:assumed-role/Admin/{MARY}",
            principal_name="Mary.Schmidt@Example.com",
            error=f"User {MARY} is not authorized",
            address="198.51.100.77",
            user_agent="aws-cli/2.1 mary",
        )
    )
    token = pseudonyms.token(MARY)
    assert found.principal == f"arn:aws:sts::1:assumed-role/Admin/{token}"
    assert found.principal_name == token
    assert found.error == f"User {token} is not authorized"
    assert TOKEN.fullmatch(token)
    assert pseudonyms.reveal(token) == MARY
    assert pseudonyms.reveal(found.address) == "198.51.100.77"
    assert pseudonyms.reveal(found.user_agent) == "aws-cli/2.1 mary"
    assert pseudonyms.revealed(found.principal) == f"arn:aws:sts::1:assumed-role/Admin/{MARY}"


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.source)
def test_no_text_of_any_log_keeps_an_address_of_a_person(log, pseudonyms):
    """Wherever a log quotes one: times, kinds and what says how to read the record aside."""

    def quoting(value):
        if isinstance(value, dict):
            return {name: each if name in KEPT else quoting(each) for name, each in value.items()}
        if isinstance(value, list):
            return [quoting(each) for each in value]
        return f"{value}/{MARY}" if isinstance(value, str) else value

    if log.source == "aws.s3_access":
        lines = [text.replace(b"models/s3%20dg.pdf", MARY.encode()) for text in log.lines]
    else:
        lines = [json.dumps(quoting(json.loads(text))).encode() for text in log.lines]
    events = [*log.read(lines_of(log, lines).data())]
    assert all(isinstance(each, AuditEvent) for each in events)
    assert any(MARY in str(each) for each in events)
    for each in map(pseudonyms.event, events):
        assert MARY not in str(each)


@given(st.text(max_size=200))
def test_any_value_comes_back(text):
    pseudonyms = Pseudonyms(PseudonymKeys({b"abcd": bytes(range(64))}, bytes(32)))
    assert pseudonyms.reveal(pseudonyms.token(text)) == text


@given(st.text(max_size=300))
def test_no_text_makes_it_fail(text):
    pseudonyms = Pseudonyms(PseudonymKeys({b"abcd": bytes(range(64))}, bytes(32)))
    pseudonyms.event(event(principal=text, address=text, user_agent=text))
    pseudonyms.quarantined(Quarantined(source="mlflow.audit", id="blake3:00", reason=text, raw=text, size=1, offset=0))


def test_it_is_the_published_algorithm():
    """Key, data and result of the deterministic example of RFC 5297, A.1: `cryptography` does what the RFC says."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    key = bytes.fromhex("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    data = bytes.fromhex("112233445566778899aabbccddee")
    aad = bytes.fromhex("101112131415161718191a1b1c1d1e1f2021222324252627")
    assert AESSIV(key).encrypt(data, [aad]).hex() == "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"


def test_services_and_service_accounts_are_no_persons(pseudonyms):
    found = pseudonyms.event(event(principal="train@p.iam.gserviceaccount.com", address="sagemaker.amazonaws.com"))
    assert (found.principal, found.address) == ("train@p.iam.gserviceaccount.com", "sagemaker.amazonaws.com")
    assert pseudonyms.event(event(address="ec2-198-51-100-77.compute.amazonaws.com")).address.startswith("pseudonym:")


def test_columns_can_be_chosen(path):
    chosen = Pseudonyms(PseudonymKeys.from_file(path), Chosen(emails=["principal"], addresses=False, user_agents=False))
    found = chosen.event(event(principal=MARY, role=MARY, address="198.51.100.77", user_agent="x"))
    assert (found.role, found.address, found.user_agent) == (MARY, "198.51.100.77", "x")
    assert found.principal == chosen.token(MARY)
    with pytest.raises(ConfigurationError, match="time"):
        Chosen(emails=["time"])


def test_a_token_that_was_changed_or_made_up_is_not_revealed(pseudonyms):
    token = pseudonyms.token(MARY)
    other = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (other, token + "AAAA", "pseudonym:v1:" + "A" * 60, "pseudonym:v1:x", MARY):
        with pytest.raises(VerificationError):
            pseudonyms.reveal(wrong)
    assert pseudonyms.revealed(f"{other} {token}") == f"{other} {MARY}"


def test_lengths_tell_little(pseudonyms):
    assert len(pseudonyms.token("10.0.0.1")) == len(pseudonyms.token("198.51.100.77"))


def test_after_a_rotation_old_and_new_pseudonyms_are_revealed_and_searched_for(path, pseudonyms):
    old = pseudonyms.token(MARY)
    new = Pseudonyms(add_pseudonym_key(path))
    assert new.token(MARY) != old
    assert new.of("MARY.SCHMIDT@example.com") == [new.token(MARY), old]
    assert {new.reveal(token) for token in new.of(MARY)} == {MARY}
    with pytest.raises(VerificationError, match="not among the keys"):
        pseudonyms.reveal(new.token(MARY))
    assert new.key(b"x" * 16) == pseudonyms.key(b"x" * 16) != b"x" * 16


def test_an_identity_that_is_a_hash_of_the_line_cannot_be_tested(pseudonyms):
    found = pseudonyms.event(event(id="blake3:00ff"))
    assert found.id.startswith("keyed:")
    assert pseudonyms.event(event(id="e-1")).id == "e-1"


def test_quarantined_text_has_no_addresses(pseudonyms):
    raw = rf'{{"user": "{MARY}", "x": "\n198.51.100.77:443", "y": "2001:db8::1", "at": "12:30:45", "v": "1.2.3.4.5", "z": "a%40b.example"}}'
    found = pseudonyms.quarantined(Quarantined(source="mlflow.audit", id="blake3:00", reason=f"bad {MARY}", raw=raw, size=1, offset=0))
    assert not any(each in found.raw + found.reason for each in (MARY, "198.51.100.77", "2001:db8", "a%40b"))
    assert "12:30:45" in found.raw
    assert "1.2.3.4.5" in found.raw
    assert json.loads(pseudonyms.revealed(found.raw))["user"] == MARY


# --- keys


def test_keys_are_for_their_owner_only(path):
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(SigningKeyError, match="chmod 600"):
        PseudonymKeys.from_file(path)


def test_keys_are_never_replaced_by_new_ones(path):
    before = path.read_bytes()
    with pytest.raises(SigningKeyError, match="never replaced"):
        create_pseudonym_keys(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["pseudonyms"]


def test_keys_come_from_the_environment_too(path, monkeypatch):
    monkeypatch.setenv("KEYS", base64.b64encode(path.read_bytes()).decode())
    assert PseudonymKeys.from_environment("KEYS") == PseudonymKeys.from_file(path)
    monkeypatch.setenv("KEYS", "rubbish!")
    with pytest.raises(SigningKeyError, match="not base64"):
        PseudonymKeys.from_environment("KEYS")
    with pytest.raises(SigningKeyError, match="not set"):
        PseudonymKeys.from_environment("OTHER")


def test_a_file_that_is_damaged_is_refused_and_not_quoted(path):
    lines = path.read_text().splitlines()
    for wrong in (
        lines[:-1],
        [*lines, lines[-1]],
        [*lines, "pseudonym 00 AA=="],
        [lines[0], lines[1].replace("A", "B", 1) + "x", lines[2]],
    ):
        path.write_text("\n".join(wrong))
        with pytest.raises(SigningKeyError) as refused:
            PseudonymKeys.from_file(path)
        assert lines[1].split()[2] not in str(refused.value)


# --- in the trail


def test_the_trail_holds_pseudonyms_and_each_access_once_over_a_rotation(logs, ingestion, trail, ledger, path):
    lines = b"".join(line(each, user=MARY, address="198.51.100.77", user_agent="mary/1") for each in range(10))
    (logs / "a.jsonl").write_bytes(lines + b"broken mary.schmidt@example.com\n")
    assert ingestion(pseudonyms=Pseudonyms(PseudonymKeys.from_file(path))).tick(Budget()).tally.events == 10
    assert traces(trail, (b"mary.schmidt", b"198.51.100.77", b"mary/1")) == []
    new = Pseudonyms(add_pseudonym_key(path))
    (logs / "b.jsonl").write_bytes(lines + line(10, user=MARY))
    assert ingestion(pseudonyms=new).tick(Budget()).tally.events == 1
    assert ids(trail) == {f"request-{each}": 1 for each in range(11)}
    assert {new.reveal(row["principal"]) for row in rows(trail, "principal") if row["principal"]} == {MARY}
    assert verify_trail(ledger, trail) == []


def test_what_was_ingested_before_there_were_pseudonyms_is_known(logs, ingestion, trail, pseudonyms):
    (logs / "a.jsonl").write_bytes(b"".join(line(each, user=MARY) for each in range(10)))
    ingestion().tick(Budget())
    (logs / "b.jsonl").write_bytes(b"".join(line(each, user=MARY) for each in range(12)))
    assert ingestion(pseudonyms=pseudonyms).tick(Budget()).tally.events == 2


def test_the_stored_key_does_not_betray_the_principal(logs, ingestion, trail, pseudonyms):
    (logs / "a.jsonl").write_bytes(line(1, user=MARY))
    ingestion(pseudonyms=pseudonyms).tick(Budget())
    (row,) = rows(trail)
    micros = int(row["time"].timestamp() * 1_000_000)
    guess = event(source="mlflow.audit", id=row["id"], time=micros, operation=row["operation"], principal=MARY)
    assert row["key"] != access_key(guess)
    assert row["key"] == pseudonyms.key(access_key(guess))


def test_the_translator_sees_what_the_log_says(logs, ledger, trail, pseudonyms, tmp_path):
    from mlsec_dagster.audit.artifacts import Artifact

    seen = []

    class Translator:
        def artifact(self, event):
            seen.append(event.principal)
            return Artifact("none")

    batch = Batch(
        trail,
        location="file:///x",
        source="aws.cloudtrail",
        translator=Translator(),
        writing=ThreadPoolExecutor(1),
        pseudonyms=pseudonyms,
    )
    batch.add([event(principal=MARY)], "file:///x/a", 1)
    batch.finish()
    batch.commit()
    assert seen == [MARY]
    assert traces(trail, (MARY.encode(),)) == []


def test_a_person_is_erased_whose_rows_have_pseudonyms_of_several_keys(logs, ingestion, trail, upkeep, path, ledger):
    first = Pseudonyms(PseudonymKeys.from_file(path))
    (logs / "a.jsonl").write_bytes(line(1, user=MARY) + line(2, user="bob", address="198.51.100.77") + b"broken " + MARY.encode() + b"\n")
    ingestion(pseudonyms=first).tick(Budget())
    second = Pseudonyms(add_pseudonym_key(path))
    (logs / "b.jsonl").write_bytes(line(3, user=f"corp/{MARY}") + line(4, user="bob"))
    ingestion(pseudonyms=second).tick(Budget())
    person = Person(emails=[MARY], addresses=["198.51.100.77"])
    assert find(upkeep, person).rows == 0
    person = person.with_pseudonyms(second)
    assert find(upkeep, person).rows == 4
    erase(upkeep, person, reason="DSR-1")
    assert traces(trail, [token.encode() for value in (MARY, "198.51.100.77") for token in second.of(value)]) == []
    assert ids(trail) == {"request-4": 1}
    assert verify_trail(ledger, trail) == []


def test_real_deliveries_keep_their_counts(logs, ingestion, trail, pseudonyms):
    from tests.audit.shared import shared

    for source in shared("cloudtrail/stratus").rglob("*.json*"):
        (logs / source.name).write_bytes(source.read_bytes())
    assert ingestion("cloudtrail", pseudonyms=pseudonyms).tick(Budget()).tally.events == 310
    assert {row["user_agent"][:13] for row in rows(trail, "user_agent") if row["user_agent"]} == {"pseudonym:v1:"}
