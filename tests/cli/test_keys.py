"""`mlsec keys`: made with the right permissions, replaced and withdrawn through the ledger itself, listed with what is pinned."""

import stat
from pathlib import Path

import pytest

from mlsec_dagster.integrity.keys import KeyRing, load_key_file
from mlsec_dagster.integrity.trust import KeyBook
from tests.cli.ledgers import Place, document, mlsec


def test_a_new_key_is_readable_by_its_owner_only_and_its_fingerprint_is_printed(dagster_home: Path) -> None:
    result = mlsec("keys", "new")
    file = dagster_home / "mlsec" / "keys" / "mlsec.pem"
    assert result.exit_code == 0
    assert result.stdout.strip() == load_key_file(file).fingerprint
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "PRIVATE" not in result.output


def test_a_key_is_never_made_over_an_existing_one(place: Place) -> None:
    before = place.key_file.read_bytes()
    result = mlsec("keys", "new")
    assert result.exit_code == 2
    assert "mlsec keys rotate" in result.stderr
    assert place.key_file.read_bytes() == before


def test_after_a_rotation_the_new_key_seals_and_the_past_stays_verifiable(place: Place) -> None:
    old = place.fingerprint
    result = mlsec("keys", "rotate", "--reason", "yearly", "--witness", place.witness, "--json")
    assert result.exit_code == 0
    rotated = document(result)
    assert rotated["replaces"] == old
    assert rotated["fingerprint"] == place.fingerprint != old
    assert load_key_file(rotated["retired_file"]).fingerprint == old
    assert stat.S_IMODE(place.key_file.stat().st_mode) == 0o600

    place.append(2, start=6, witnessed=True)
    for pinned in (place.fingerprint, old):
        assert mlsec("verify", "--no-dagster", "--key", pinned, "--witness", place.witness).exit_code == 0

    listed = {key["fingerprint"]: key for key in document(mlsec("keys", "show", "--key", place.fingerprint, "--json"))["keys"]}
    assert listed[old]["until"] == 13
    assert (listed[place.fingerprint]["until"], listed[place.fingerprint]["pinned"], listed[place.fingerprint]["on_this_machine"]) == (
        None,
        True,
        True,
    )


def test_an_interrupted_rotation_is_taken_up_where_it_stopped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise OSError(5, "power cut")

    old = place.fingerprint
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        assert mlsec("keys", "rotate", "--reason", "yearly").exit_code == 4
    assert place.fingerprint == old  # the ledger knows the new key, the file does not
    again = mlsec("keys", "rotate", "--reason", "yearly", "--json")
    assert again.exit_code == 0
    place.append(1, start=6)
    shown = document(mlsec("keys", "show", "--json"))["keys"]
    assert {key["fingerprint"] for key in shown} == {old, place.fingerprint}
    assert mlsec("verify", "--no-dagster").exit_code == 3


def test_what_a_stolen_key_signed_after_the_last_witnessed_checkpoint_is_not_trusted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    thief = KeyRing(load_key_file(place.key_file))
    mlsec("keys", "rotate", "--reason", "stolen", "--trusted-up-to", 12)
    listed = document(mlsec("keys", "show", "--json"))["keys"]
    assert next(key for key in listed if key["fingerprint"] == thief.fingerprint)["until"] == 12

    # The thief still holds the old key and the database, and his code refuses him nothing; whoever pins the new key sees what he writes.
    with monkeypatch.context() as his:
        his.setattr(KeyBook, "refusal", lambda *_: None)
        place.append(1, start=6, ring=thief)
    result = mlsec("verify", "--no-dagster", "--key", place.fingerprint, "--json")
    assert result.exit_code == 1
    first = document(result)["ledger"]["problems"][0]
    assert (first["kind"], first["index"]) == ("revoked key", 14)


def test_a_retired_key_can_be_distrusted_later_as_far_as_the_witness_reaches(place: Place) -> None:
    old = place.fingerprint
    place.append(2, start=6)  # not witnessed
    mlsec("keys", "rotate", "--reason", "yearly")
    result = mlsec("keys", "revoke", old, "--reason", "found on a laptop", "--witness", place.witness, "--yes")
    assert result.exit_code == 0, result.output
    assert f"{old} is revoked from entry 12 on" in result.stdout
    verified = mlsec("verify", "--no-dagster", "--key", place.fingerprint, "--json")
    assert verified.exit_code == 1
    first = document(verified)["ledger"]["problems"][0]
    assert (first["kind"], first["index"]) == ("revoked key", 12)


def test_revoking_asks_first_and_an_answer_of_no_changes_nothing(place: Place) -> None:
    old = place.fingerprint
    mlsec("keys", "rotate", "--reason", "yearly")
    size = place.ledger().checkpoint().size
    result = mlsec("keys", "revoke", old, "--reason", "x", "--trusted-up-to", 3, stdin="n\n")
    assert result.exit_code == 2
    assert "Trust what" in result.stderr
    assert place.ledger().checkpoint().size == size


@pytest.mark.parametrize(
    ("fingerprint", "code", "sentence"),
    [
        ("SHA256:xyz", 2, "is not a key fingerprint"),
        (f"SHA256:{'0' * 64}", 4, "is not a trusted key of this ledger"),
        ("own", 4, "rotate it instead"),
    ],
)
def test_a_key_that_cannot_be_revoked_is_told_why(place: Place, fingerprint: str, code: int, sentence: str) -> None:
    named = place.fingerprint if fingerprint == "own" else fingerprint
    result = mlsec("keys", "revoke", named, "--reason", "x", "--trusted-up-to", 0, "--yes")
    assert result.exit_code == code
    assert sentence in result.stderr


def test_without_a_witness_revoking_asks_how_far_the_key_is_trusted(place: Place) -> None:
    old = place.fingerprint
    mlsec("keys", "rotate", "--reason", "yearly")
    result = mlsec("keys", "revoke", old, "--reason", "x", "--yes")
    assert result.exit_code == 2
    assert "--trusted-up-to" in result.stderr


def test_keys_are_shown_before_there_is_a_ledger(dagster_home: Path) -> None:
    mlsec("keys", "new")
    result = mlsec("keys", "show")
    assert result.exit_code == 0
    assert "key file on this machine" in result.stdout
    assert "sealing" in result.stdout
