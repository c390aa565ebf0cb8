"""`mlsec verify` on the ledger alone: every kind of tampering is named with its place, and exit codes say what was found."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.cli.ledgers import Place, document, mlsec

LEDGER_ONLY = ("verify", "--no-dagster")


def test_an_untouched_ledger_with_a_witness_is_verified(place: Place) -> None:
    result = mlsec(*LEDGER_ONLY, "--key", place.fingerprint, "--witness", place.witness)
    assert result.exit_code == 0
    assert "12 of 12 entries verified" in result.stdout
    assert f"trust: pinned {place.fingerprint}" in result.stdout
    assert "rollback: verified" in result.stdout
    assert "materializations: not compared, --no-dagster was given" in result.stdout
    assert "verdict: verified" in result.stdout


def test_without_a_witness_rollback_has_a_sentence_and_an_exit_code_of_its_own(place: Place) -> None:
    result = mlsec(*LEDGER_ONLY, "--key", place.fingerprint)
    assert result.exit_code == 3
    assert "rollback: not verifiable, no witness" in result.stdout


def test_a_witness_that_is_older_than_allowed_counts_as_none(place: Place) -> None:
    for file in place.witness.rglob("*.txt"):
        os.utime(file, (0, 0))
    strict = mlsec(*LEDGER_ONLY, "--witness", place.witness, "--max-witness-age", "90m")
    assert strict.exit_code == 3
    assert "old" in strict.stdout
    # All entries are witnessed, so that age alone is told and no more.
    assert mlsec(*LEDGER_ONLY, "--witness", place.witness).exit_code == 0


def test_entries_that_wait_too_long_for_the_witness_make_it_too_old(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.append(1, start=6)
    assert mlsec(*LEDGER_ONLY, "--witness", place.witness).exit_code == 0
    now = time.time()
    monkeypatch.setattr("mlsec_dagster.cli.verify.time", SimpleNamespace(time=lambda: now + 25 * 3600))
    late = mlsec(*LEDGER_ONLY, "--witness", place.witness)
    assert late.exit_code == 3
    assert "2 entries have not reached it" in late.stdout


def test_trust_that_comes_from_the_key_file_is_said_to(place: Place) -> None:
    result = mlsec(*LEDGER_ONLY, "--witness", place.witness)
    assert result.exit_code == 0
    assert "trust: the key file on this machine, not a pinned fingerprint" in result.stdout


def test_fingerprints_are_also_taken_from_the_environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSEC_TRUSTED_KEYS", f"SHA256:{'0' * 64},{place.fingerprint}")
    place.key_file.unlink()
    assert mlsec(*LEDGER_ONLY, "--witness", place.witness).exit_code == 0


def swap(one: int, other: int) -> list[str]:
    return [
        f"UPDATE mlsec_entries SET position = -1 WHERE position = {one}",
        f"UPDATE mlsec_entries SET position = {one} WHERE position = {other}",
        f"UPDATE mlsec_entries SET position = {other} WHERE position = -1",
    ]


def insert_copy(at: int) -> list[str]:
    columns = "asset, partition, type, run_id, previous, key, payload, signature, nodes"
    return [
        f"UPDATE mlsec_entries SET position = -position - 1 WHERE position >= {at}",
        "UPDATE mlsec_entries SET position = -position WHERE position < 0",
        f"INSERT INTO mlsec_entries (position, {columns}) SELECT {at}, {columns} FROM mlsec_entries WHERE position = 0",
    ]


@pytest.mark.parametrize(
    ("kind", "index", "attack"),
    [
        (
            "altered",
            4,
            ["UPDATE mlsec_entries SET payload = CAST(replace(CAST(payload AS TEXT), 'run-2', 'run-9') AS BLOB) WHERE position = 4"],
        ),
        ("altered", 7, ["UPDATE mlsec_entries SET partition = 'week-99' WHERE position = 7"]),
        ("removed", 5, ["DELETE FROM mlsec_entries WHERE position = 5"]),
        ("inserted", 5, insert_copy(5)),
        ("reordered", 3, swap(3, 8)),
        ("truncated", 9, ["DELETE FROM mlsec_entries WHERE position >= 9"]),
    ],
)
def test_tampering_is_named_with_the_first_bad_entry(place: Place, kind: str, index: int, attack: list[str]) -> None:
    place.attack(*attack)
    result = mlsec(*LEDGER_ONLY, "--key", place.fingerprint, "--witness", place.witness, "--json")
    assert result.exit_code == 1
    first = document(result)["ledger"]["problems"][0]
    assert (first["kind"], first["index"]) == (kind, index)

    told = mlsec(*LEDGER_ONLY, "--key", place.fingerprint)
    assert told.exit_code == 1  # a problem outweighs that rollback is not verifiable
    assert f"{kind.upper()}: " in told.stdout
    assert first["sentence"] in told.stdout


def test_a_rolled_back_ledger_is_told_by_its_witness(place: Place, tmp_path: Path) -> None:
    copy = place.copy(tmp_path / "before.db")
    place.append(2, start=6, witnessed=True)
    place.restore(copy)
    result = mlsec(*LEDGER_ONLY, "--key", place.fingerprint, "--witness", place.witness)
    assert result.exit_code == 1
    assert "rollback: rolled back" in result.stdout
    assert mlsec(*LEDGER_ONLY, "--key", place.fingerprint).exit_code == 3


def test_a_forked_ledger_is_told_by_its_witness(place: Place, tmp_path: Path) -> None:
    copy = place.copy(tmp_path / "before.db")
    place.append(1, start=6, witnessed=True)
    place.restore(copy)
    place.append(1, start=7)
    result = mlsec(*LEDGER_ONLY, "--key", place.fingerprint, "--witness", place.witness, "--json")
    assert result.exit_code == 1
    assert "forked" in {problem["kind"] for problem in document(result)["ledger"]["problems"]}


def test_a_ledger_written_anew_under_another_key_is_not_trusted_although_its_key_is_in_the_store(place: Place, tmp_path: Path) -> None:
    forged = Place(tmp_path / "forger")
    forged.append(6)
    pinned = place.fingerprint
    place.restore(forged.database)
    result = mlsec(*LEDGER_ONLY, "--key", pinned, "--json")
    assert result.exit_code == 1
    first = document(result)["ledger"]["problems"][0]
    assert (first["kind"], first["index"]) == ("wrong key", 0)


def test_json_has_the_documented_shape_and_stdout_holds_nothing_else(place: Place) -> None:
    result = mlsec(*LEDGER_ONLY, "--key", place.fingerprint, "--witness", place.witness, "--json")
    found = json.loads(result.stdout)
    assert set(found) == {"verdict", "exit_code", "ledger", "trust", "rollback", "trail", "materializations"}
    assert found["trail"] == {"verified": True, "reason": None, "trails": []}
    assert set(found["ledger"]) == {"store", "origin", "entries", "checked", "problems"}
    assert set(found["rollback"]) == {"verdict", "reason", "witness", "witnessed_entries", "witness_age_seconds"}
    assert set(found["materializations"]) == {"compared", "reason", "assets", "count", "counts", "gaps", "notes"}
    assert (found["exit_code"], found["ledger"]["entries"], found["rollback"]["witnessed_entries"]) == (0, 12, 12)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--key", "SHA256:5C9D"), 2, "is not a key fingerprint; expected SHA256:"),
        (("--home", "/nowhere/at/all"), 2, "There is no directory /nowhere/at/all"),
        (("--max-witness-age", "soon"), 2, "is not a duration"),
        (("--store", "mysql://db/x"), 2, "The store can be SQLite or PostgreSQL"),
        (("--store", "sqlite:////nowhere/ledger.db"), 4, "There is no security store at /nowhere/ledger.db"),
        (("--store", "postgresql+psycopg://owner:geheim@127.0.0.1:1/mlsec"), 4, "cannot be used"),
    ],
)
def test_wrong_input_gives_one_sentence_and_an_exit_code(place: Place, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    result = mlsec(*LEDGER_ONLY, *arguments)
    assert result.exit_code == code
    assert sentence in result.stderr
    assert result.stdout == ""
    assert "geheim" not in result.output


def test_without_a_home_a_store_or_a_key_each_is_asked_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    nowhere = mlsec("verify")
    assert nowhere.exit_code == 2
    assert "set DAGSTER_HOME, or give --home DIR" in nowhere.stderr
    keyless = mlsec("verify", "--store", f"sqlite:///{place.database}")
    assert keyless.exit_code == 4
    assert "No key fingerprint is pinned" in keyless.stderr
    apart = mlsec("verify", "--store", f"sqlite:///{place.database}", "--key", place.fingerprint)
    assert apart.exit_code == 3
    assert "materializations: not compared, DAGSTER_HOME is not set" in apart.stdout


def test_a_key_file_that_others_may_read_is_refused_as_a_start_of_trust(place: Place) -> None:
    place.key_file.chmod(0o644)
    result = mlsec(*LEDGER_ONLY)
    assert result.exit_code == 4
    assert "can be used by other accounts" in result.stderr


def test_a_reader_without_any_private_key_verifies_on_postgresql(place: Place, postgres_url: str) -> None:
    from mlsec_dagster.integrity.ledger import open_ledger
    from mlsec_dagster.integrity.statements import WRITE, Statement
    from mlsec_dagster.integrity.trust import Trust

    ring = place.ring
    open_ledger(postgres_url, signer=ring, trust=Trust(tuple(ring.publics))).append(
        [Statement("raw", None, WRITE, {"blake3": "00"}, {"run_id": "r"})]
    )
    result = mlsec(*LEDGER_ONLY, "--store", postgres_url, "--key", ring.fingerprint, "--json")
    assert result.exit_code == 3
    assert document(result)["ledger"]["checked"] == 1


def test_the_installed_command_starts_without_dagster_and_exits_with_the_verdict(place: Place) -> None:
    place.attack("DELETE FROM mlsec_entries WHERE position = 5")
    script = (
        "import sys\nfrom mlsec_dagster.cli import main\n"
        "try:\n    main(['verify', '--no-dagster'], prog_name='mlsec')\n"
        "finally:\n    print('dagster' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 1
    assert "REMOVED: Entry 5" in done.stdout
    assert done.stderr.splitlines()[-1] == "False"
