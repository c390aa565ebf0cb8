"""`mlsec ledger show`: newest first, one line each, authenticated, harmless to a terminal; one entry whole, and its export."""

import json
from pathlib import Path

import pytest

from mlsec_dagster.integrity.keys import KeyRing
from mlsec_dagster.integrity.statements import SEAL, Statement
from tests.cli.ledgers import Place, document, mlsec


def indexes(output: str) -> list[int]:
    return [json.loads(line)["index"] for line in output.splitlines()]


def test_entries_are_shown_newest_first_one_line_each(place: Place) -> None:
    result = mlsec("ledger", "show", "--limit", 3)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [int(line.split()[0]) for line in lines] == [11, 10, 9]
    assert "seal" in lines[0]
    assert "raw/flights[week-05]" in lines[0]
    assert "passed" in lines[0]
    assert place.fingerprint[:19] in lines[0]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (("--asset", "raw/flights", "--partition", "week-02"), [5, 4]),
        (("--run", "run-3"), [7, 6]),
        (("--partition", "week-77"), []),
    ],
)
def test_filters_choose_by_asset_partition_and_run(place: Place, filters: tuple[str, ...], expected: list[int]) -> None:
    result = mlsec("ledger", "show", *filters, "--json")
    assert result.exit_code == 0
    assert indexes(result.stdout) == expected


def test_an_unknown_asset_is_an_error_that_suggests_the_nearest(place: Place) -> None:
    result = mlsec("ledger", "show", "--asset", "raw/flihgts")
    assert result.exit_code == 2
    assert "Did you mean 'raw/flights'?" in result.stderr


def test_pages_join_without_a_gap(place: Place) -> None:
    place.ledger().append([Statement("many", f"{n}", SEAL, {}, {}) for n in range(1_100)])
    result = mlsec("ledger", "show", "--limit", 2_000, "--json")
    assert indexes(result.stdout) == list(range(1_111, -1, -1))


def test_an_entry_that_is_not_what_was_signed_is_shown_as_such(place: Place) -> None:
    place.attack("UPDATE mlsec_entries SET payload = CAST(replace(CAST(payload AS TEXT), 'passed', 'failed') AS BLOB) WHERE position = 9")
    result = mlsec("ledger", "show", "--limit", 4)
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["11", "10", "9", "8"]
    assert "NOT AS SIGNED" in result.stdout.splitlines()[2]
    assert "failed" not in result.stdout.splitlines()[2].partition("NOT AS SIGNED")[0]


def test_names_from_data_cannot_steer_the_terminal(place: Place) -> None:
    place.ledger().append([Statement("raw", "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2028next", SEAL, {}, {"verdict": "passed\r\x9b31m"})])
    for command in (("ledger", "show", "--limit", 1), ("ledger", "show", 12)):
        output = mlsec(*command).output
        assert "owned" in output
        assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e", "\u2028"} & set(output)


def test_one_entry_is_shown_whole_with_its_proof(place: Place) -> None:
    result = mlsec("ledger", "show", 4)
    assert result.exit_code == 0
    assert '"run_id": "run-2"' in result.stdout
    assert "inclusion proof (RFC 9162)" in result.stdout
    shown = document(mlsec("ledger", "show", 4, "--json"))
    assert (shown["index"], shown["key"]) == (4, place.fingerprint)
    assert shown["proof"]["entry"]["inclusion_proof"]


def test_an_exported_entry_is_verified_without_the_store(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, pinned = tmp_path / "entry.json", place.fingerprint
    assert mlsec("ledger", "show", 4, "--export", file).exit_code == 0
    monkeypatch.delenv("DAGSTER_HOME")
    place.database.unlink()
    place.key_file.unlink()

    result = mlsec("verify", "--export", file, "--key", pinned)
    assert result.exit_code == 0
    assert "entry 4" in result.stdout
    assert document(mlsec("verify", "--export", file, "--key", pinned, "--json"))["entry"]["index"] == 4


def test_an_exported_entry_that_was_edited_or_signed_by_another_key_is_refused(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "entry.json"
    mlsec("ledger", "show", 4, "--export", file)
    exported = json.loads(file.read_text())
    exported["entry"]["index"] = 5
    file.write_text(json.dumps(exported))
    edited = mlsec("verify", "--export", file, "--key", place.fingerprint)
    assert (edited.exit_code, edited.stdout) == (1, "")
    assert "is not part of its checkpoint" in edited.stderr
    mlsec("ledger", "show", 4, "--export", file)
    assert mlsec("verify", "--export", file, "--key", f"SHA256:{'0' * 64}").exit_code == 1
    file.write_text("not json")
    assert mlsec("verify", "--export", file, "--key", place.fingerprint).exit_code == 2


def test_export_without_an_index_and_an_index_out_of_range_are_told(place: Place, tmp_path: Path) -> None:
    assert mlsec("ledger", "show", "--export", tmp_path / "x.json").exit_code == 2
    outside = mlsec("ledger", "show", 99)
    assert outside.exit_code == 2
    assert "There is no entry 99 in a ledger of 12 entries" in outside.stderr


def test_keys_that_are_not_trusted_show_nothing(place: Place, tmp_path: Path) -> None:
    result = mlsec("ledger", "show", "--key", f"SHA256:{'0' * 64}")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "not signed by any trusted key" in result.stderr
    assert KeyRing.from_file(place.key_file).fingerprint not in result.stdout
