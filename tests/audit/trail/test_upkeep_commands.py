"""The commands of the upkeep, as a person at a terminal runs them."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.pseudonym_keys import PseudonymKeys
from mlsec_dagster.audit.pseudonyms import Pseudonyms
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.cli import main
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.trust import Trust
from tests.audit.trail.made import Nobody, line, rows, source_of

MARY = "mary.schmidt@example.com"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a trail of two days, three files each, and a way to run commands there."""
    for name in ("MLSEC_STORE_URL", "MLSEC_WITNESS", "MLSEC_TRUSTED_KEYS", "MLSEC_SIGNER", "MLSEC_TRAIL", "MLSEC_PSEUDONYM_KEYS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "logs").mkdir()
    ring = KeyRing(load_or_create_key_file(tmp_path / "mlsec" / "keys" / "mlsec.pem"))
    ledger = open_ledger(f"sqlite:///{tmp_path / 'mlsec' / 'ledger.db'}", signer=ring, trust=Trust(list(ring.publics)))
    trail = Trail(str(tmp_path / "mlsec" / "trail"))

    def ingest(name: str, data: bytes, **settings) -> None:
        (tmp_path / "logs" / name).write_bytes(data)
        Ingestion(ledger.database, trail, source_of("mlflow", tmp_path / "logs"), Nobody(), ledger=ledger, **settings).tick(Budget())

    for number in range(3):
        lines = [line(day * 86_400 + number * 10 + each, user=MARY if each % 2 else "bob") for day in range(2) for each in range(10)]
        ingest(f"{number}.jsonl", b"".join(lines))

    def run(*arguments: str, code: int = 0, said: str | None = None):
        options = () if arguments[0] in {"pseudonyms", "reveal"} else ("--home", str(tmp_path))
        done = CliRunner().invoke(main, ["trail", *arguments, *options], input=said)
        assert done.exit_code == code, done.output
        return done.output

    yield SimpleNamespace(run=run, trail=trail, ledger=ledger, ingest=ingest, path=tmp_path)
    ledger.close()


def test_compact_merges_says_so_and_keeps_the_old_files_for_a_while(home):
    assert "6 files of 2 days would become 2" in home.run("compact", "--dry-run")
    assert len(home.trail.open().files()) == 6
    output = home.run("compact")
    assert "6 files of 2 days became 2, with 60 rows." in output
    assert "6 files that are no part of the trail any more wait" in output
    assert json.loads(home.run("compact", "--json"))["files_before"] == 0
    assert "were deleted" in home.run("compact", "--grace", "0")
    assert verify_trail(home.ledger, home.trail) == []


def test_compact_names_an_edited_file_and_fails(home):
    path = Path(home.trail.uri) / home.trail.open().files()[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    output = home.run("compact", code=1)
    assert path.name in output.replace("\n", "")
    assert "3 files of 1 day became 1" in output


def test_retain_asks_takes_out_and_says_which_rule(home):
    from tests.audit.trail.test_upkeep_crashes import kept_days

    rule = f"mlflow.audit={kept_days()}"
    assert "1 day, 2026-05-01 to 2026-05-01, 30 rows would go" in home.run("retain", "--keep", rule, "--dry-run")
    assert "nothing was changed" in home.run("retain", "--keep", rule, code=2, said="n\n")
    assert len(home.trail.open().files()) == 6
    assert "30 rows were taken out" in home.run("retain", "--keep", rule, said="y\n")
    assert {file.day for file in home.trail.open().files()} == {"2026-05-02"}
    refused = home.run("retain", "--default", "1", "--yes", code=1)
    assert "more than half" in refused
    assert "`mlsec trail retain --most`" in refused
    assert "Nothing is due" not in refused
    assert json.loads(home.run("retain", "--default", "1", "--yes", "--most", "--json"))["rows"] == {"mlflow.audit": 30}
    assert verify_trail(home.ledger, home.trail) == []
    home.run("retain", code=2)
    home.run("retain", "--keep", "mlflow.audit", code=2)
    home.run("retain", "--keep", "mlflow=3", code=2)


def test_a_hold_is_set_listed_and_lifted_and_stops_what_it_covers(home):
    home.run("hold", "set", "case-17", "--source", "mlflow.audit", "--last", "2026-05-01", "--reason", "subpoena")
    assert "case-17 (mlflow.audit, the beginning to 2026-05-01" in home.run("hold", "list")
    assert json.loads(home.run("hold", "list", "--json"))[0]["why"] == "subpoena"
    assert "1 day stay because of the hold case-17" in home.run("retain", "--default", "1", "--dry-run").replace("days", "day")
    assert "legal hold case-17" in home.run("erase", "--email", MARY, "--reference", "DSR-1", "--yes", code=1)
    assert "nothing was changed" in home.run("hold", "lift", "case-17", "--reason", "settled", code=2, said="n\n")
    home.run("hold", "lift", "case-17", "--reason", "settled", said="y\n")
    assert "There is no hold" in home.run("hold", "list")
    home.run("hold", "lift", "case-17", "--reason", "settled", "--yes", code=2)


def test_erase_shows_asks_for_the_words_and_erases(home):
    output = home.run("erase", "--email", MARY, "--dry-run")
    assert "mlflow.audit  2026-05-01  15 rows" in output
    assert "30 accesses by the person" in output
    assert "nothing was changed" in home.run("erase", "--email", MARY, "--reference", "DSR-1", code=2, said="yes\n")
    assert Counter(row["kind"] for row in rows(home.trail, "kind")) == {"event": 60}
    assert "30 rows were erased and 6 files deleted" in home.run("erase", "--email", MARY, "--reference", "DSR-1", said="erase 30\n")
    assert Counter(row["kind"] for row in rows(home.trail, "kind")) == {"event": 30, "erased": 30}
    assert "0 accesses by the person" in home.run("erase", "--email", MARY, "--reference", "DSR-1")
    assert verify_trail(home.ledger, home.trail) == []
    home.run("erase", "--email", MARY, code=2)
    home.run("erase", "--reference", "DSR-1", code=2)
    assert "names the person" in home.run("erase", "--email", MARY, "--reference", f"for {MARY}", code=2)


def test_pseudonyms_are_made_searched_for_revealed_and_erased(home):
    file = str(home.path / "keys")
    home.run("pseudonyms", "new", file)
    home.ingest("4.jsonl", line(500_000, user=MARY), pseudonyms=Pseudonyms(PseudonymKeys.from_file(file)))
    home.run("pseudonyms", "rotate", file)
    new, old = home.run("pseudonyms", "of", MARY, "--pseudonym-keys", file).split()
    assert home.run("reveal", new, old, "--pseudonym-keys", file).split() == [MARY, MARY]
    assert old in {row["principal"] for row in rows(home.trail, "principal")}
    home.run("reveal", old[:-1], "--pseudonym-keys", file, code=1)
    home.run("reveal", old, code=4)
    assert json.loads(home.run("erase", "--email", MARY, "--dry-run", "--json"))["own"] == 30
    found = json.loads(home.run("erase", "--email", MARY, "--pseudonym-keys", file, "--reference", "DSR-1", "--yes", "--json"))
    assert found["erased"] == 31


@pytest.mark.parametrize("name", ["reveal", "pseudonyms"])
def test_what_needs_no_home_has_no_ledger_options(name):
    assert "--store" not in CliRunner().invoke(main, ["trail", name, "--help"]).output


def test_rows_that_expired_before_are_erased_from_the_storage(home):
    home.run("retain", "--default", "1", "--yes", "--most")
    assert not home.trail.open().files()
    assert len([*Path(home.trail.uri).rglob("day=*/*.parquet")]) == 6
    said = home.run("erase", "--email", MARY, "--dry-run")
    assert "6 files that were taken out of the trail before still lie in the storage" in said
    home.run("erase", "--email", MARY, "--reference", "DSR-2026-118", "--yes")
    assert not [*Path(home.trail.uri).rglob("day=*/*.parquet")]
