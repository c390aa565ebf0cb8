"""`mlsec trail`: what matches, in every form, and nothing in it can steer a terminal, a spreadsheet or a query."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mlsec_dagster.audit.ocsf import from_ocsf
from mlsec_dagster.audit.querying import Filter, rows
from mlsec_dagster.audit.rows import events_of
from mlsec_dagster.audit.schema import SCHEMA
from mlsec_dagster.integrity.keys import load_key_file
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.trust import Trust
from tests.cli.ledgers import mlsec
from tests.cli.trails import AGENT, FORMULA, QUOTED, TrailPlace, ordinary

ROOT = Path(__file__).parents[2]


def objects(output: str) -> list[dict]:
    return [json.loads(text) for text in output.splitlines()]


def test_the_table_shows_who_did_what_to_which_model_newest_first(kept: TrailPlace) -> None:
    result = mlsec("trail", "--principal", "ann", "--limit", 3)
    assert result.exit_code == 0
    heading, *lines = result.stdout.splitlines()
    assert heading.split()[:3] == ["time", "(UTC)", "outcome"]
    assert [text[:19] for text in lines] == [f"2026-05-01 00:00:{second}" for second in (19, 18, 17)]
    assert all("success" in text and "ann" in text for text in lines)
    assert "There are more than these 3" in result.stderr
    assert "fraud/2" in mlsec("trail", "--artifact", "fraud/2").stdout


def test_show_is_what_it_does_without_a_command(kept: TrailPlace) -> None:
    assert mlsec("trail", "show", "--principal", "ann").stdout == mlsec("trail", "--principal", "ann").stdout
    assert mlsec("trail").stdout == mlsec("trail", "show").stdout
    helped = mlsec("trail", "--help")
    assert "sources" in helped.stdout
    assert "show" in helped.stdout
    assert mlsec("trail", "shwo").exit_code == 2


def test_nothing_that_matches_is_said(kept: TrailPlace) -> None:
    result = mlsec("trail", "--principal", "nobody")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Nothing matches" in result.stderr


def test_a_quarantined_record_stands_in_the_table_with_its_reason(kept: TrailPlace) -> None:
    assert "QUARANTINED" in mlsec("trail", "--kind", "quarantined").stdout
    (only,) = objects(mlsec("trail", "--kind", "quarantined", "--json").stdout)
    assert only["raw"] == "no json"


def test_texts_from_logs_cannot_steer_the_terminal(kept: TrailPlace) -> None:
    for form in ([], ["--json"], ["--ocsf"]):
        output = mlsec("trail", *form).output
        assert not {"\x1b", "\x07", "\r", "\x9b", "\x7f", "\u202e", "\u2028"} & set(output), form
    table = mlsec("trail").stdout
    assert len(table.splitlines()) == 1 + 20 + 3 + 1
    assert "DROP TABLE" in table


def test_names_with_quotes_and_percent_signs_are_only_names(kept: TrailPlace) -> None:
    (only,) = objects(mlsec("trail", "--principal", QUOTED, "--json").stdout)
    assert only["principal"] == QUOTED
    assert objects(mlsec("trail", "--principal", "%", "--json").stdout) == []
    assert objects(mlsec("trail", "--principal", "' OR ''='", "--json").stdout) == []
    assert objects(mlsec("trail", "--artifact", "x' UNION SELECT 1 --", "--json").stdout) == []


def test_json_has_every_column_and_nothing_changed(kept: TrailPlace) -> None:
    found = objects(mlsec("trail", "--json").stdout)
    assert len(found) == 24
    (hostile,) = [row for row in found if row.get("principal") == QUOTED]
    assert hostile["user_agent"] == AGENT
    assert hostile["time"] == "2026-05-01T00:16:41.000000Z"
    assert set(hostile) <= set(SCHEMA.names)


def test_ocsf_gives_the_events_back_and_counts_what_has_no_such_form(kept: TrailPlace) -> None:
    result = mlsec("trail", "--ocsf")
    back = [from_ocsf(record) for record in objects(result.stdout)]
    assert back == [event for batch in rows(kept.trail, Filter()) for event in events_of(batch)]
    assert len(back) == 23
    assert "1 rows are no events" in result.stderr


def test_csv_holds_no_formula_and_is_read_back_whole(kept: TrailPlace) -> None:
    heading, *lines = csv.reader(io.StringIO(mlsec("trail", "--csv").stdout_bytes.decode(), newline=""))
    assert heading == SCHEMA.names
    assert len(lines) == 24
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cells in lines for cell in cells)
    principals = {cells[heading.index("principal")] for cells in lines}
    assert {f"'{FORMULA}", "'\t=1+1", QUOTED} <= principals
    assert AGENT in {cells[heading.index("user_agent")] for cells in lines}


def test_parquet_is_written_whole_and_never_over_another_file(kept: TrailPlace, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    result = mlsec("trail", "--principal", "ann", "--parquet", target)
    assert (result.exit_code, result.stdout) == (0, "")
    table = pq.read_table(target)
    assert (table.num_rows, table.schema.names) == (20, SCHEMA.names)
    assert target.stat().st_mode & 0o777 == 0o600
    before = target.read_bytes()
    again = mlsec("trail", "--parquet", target)
    assert again.exit_code == 2
    assert "was not overwritten" in again.stderr
    assert target.read_bytes() == before


def test_half_a_parquet_file_is_not_left_behind(kept: TrailPlace, tmp_path: Path) -> None:
    kept.files()[0].unlink()
    result = mlsec("trail", "--parquet", tmp_path / "out.parquet")
    assert result.exit_code == 4
    assert "mlsec verify" in result.stderr
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--since", "soon"), 2, "is no point in time"),
        (("--since", "2026-05-02", "--until", "2026-05-01"), 2, "Nothing lies between 2026-05-02T00:00:00Z and 2026-05-01T00:00:00Z"),
        (("--source", "aws.cloudtrial"), 2, "expected one of aws.cloudtrail"),
        (("--csv", "--parquet", "x"), 2, "exclude each other"),
        (("--parquet", "/nowhere/x.parquet"), 2, "There is no directory /nowhere to write x.parquet into"),
        (("--trail", "/nowhere/at/all"), 4, "There is no audit trail at /nowhere/at/all"),
        (("--home", "/nowhere"), 2, "There is no directory /nowhere"),
    ],
)
def test_wrong_input_gives_one_sentence_and_an_exit_code(kept: TrailPlace, arguments: tuple[str, ...], code: int, sentence: str) -> None:
    result = mlsec("trail", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in result.stderr


def test_a_star_that_stands_for_itself_is_told_so_that_nothing_is_taken_for_an_answer(kept: TrailPlace) -> None:
    for option, value in (("--principal", "*ann"), ("--artifact", "fraud*")):
        result = mlsec("trail", option, value)
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"A * in {option} stands for itself" in result.stderr
    assert "stands for itself" not in mlsec("trail", "--principal", "an*").stderr


def test_storage_options_come_from_the_environment_and_are_never_shown(kept: TrailPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSEC_TRAIL", str(kept.root))
    monkeypatch.delenv("DAGSTER_HOME")
    assert mlsec("trail").exit_code == 0
    monkeypatch.setenv("MLSEC_TRAIL_OPTIONS", "geheim")
    result = mlsec("trail")
    assert result.exit_code == 2
    assert "MLSEC_TRAIL_OPTIONS is no JSON object of texts" in result.stderr
    assert "geheim" not in result.output


# --- the installed command


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from mlsec_dagster.cli import main; main(prog_name='mlsec')", *arguments]


def test_it_starts_without_dagster(kept: TrailPlace) -> None:
    script = (
        "import sys\nfrom mlsec_dagster.cli import main\n"
        "try:\n    main(['trail', '--json'], prog_name='mlsec')\n"
        "finally:\n    print('dagster' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "False")
    assert len(done.stdout.splitlines()) == 24


@pytest.mark.parametrize("form", ["--json", "--csv", "--ocsf", "--limit=100000"])
def test_whoever_reads_only_the_beginning_gets_no_complaint(kept: TrailPlace, form: str) -> None:
    kept.add(ordinary(5_000, 2_000))
    with subprocess.Popen(command("trail", form), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline()
        running.stdout.close()
        said = running.stderr.read()
        assert (running.wait(60), said) == (0, b"")


# --- sources


def test_sources_tell_what_is_known_of_each_place(kept: TrailPlace) -> None:
    (kept.logs / "half.jsonl.gz").write_bytes(gzip.compress(ordinary(50, 5_000))[:-20])
    kept.tick()
    result = mlsec("trail", "sources")
    assert result.exit_code == 0
    assert kept.logs.as_uri() in result.stdout
    assert "records quarantined" in result.stdout
    assert "half.jsonl.gz) ending in the middle" in result.stdout
    (only,) = objects(mlsec("trail", "sources", "--json").stdout)
    assert only["location"] == f"{kept.logs.as_uri()}/"
    assert only["counts"]["quarantined"] >= 2
    assert only["state"]["incomplete"] == ["half.jsonl.gz"]
    assert only["counts"]["unresolved"] > 0
    assert only["state"]["unresolved_sample"]
    assert only["late"] > 0
    assert "from the store itself" in only["not_observable"][0]


def test_sources_before_anything_was_read(place) -> None:
    result = mlsec("trail", "sources")
    assert result.exit_code == 0
    assert "No log was read yet" in result.stdout
    assert mlsec("trail", "sources", "--json").stdout == ""


def test_names_in_the_database_cannot_steer_the_terminal(kept: TrailPlace) -> None:
    kept.place.attack(("UPDATE mlsec_log_locations SET uri = ?", ("s3://\x1b[2Jx",)))
    assert "\x1b" not in mlsec("trail", "sources").output
    kept.place.attack("UPDATE mlsec_log_locations SET state = 'x'")
    broken = mlsec("trail", "sources")
    assert broken.exit_code == 4
    assert "cannot be read" in broken.stderr


def test_the_environment_of_the_tests_names_no_trail() -> None:
    assert "MLSEC_TRAIL" not in os.environ


# --- acknowledge


def test_a_problem_stays_until_somebody_has_looked_and_the_ledger_keeps_who_did(kept: TrailPlace) -> None:
    (kept.logs / "half.jsonl.gz").write_bytes(gzip.compress(ordinary(50, 5_000))[:-20])
    kept.tick()
    where = f"{kept.logs.as_uri()}/"
    assert "half.jsonl.gz" in mlsec("trail", "sources").stdout
    refused = mlsec("trail", "acknowledge", "s3://elsewhere/", "--reason", "x", "--yes")
    assert refused.exit_code == 2
    done = mlsec("trail", "acknowledge", where, "--reason", "the disk was full that night", "--yes")
    assert done.exit_code == 0, done.output
    assert "1 taken off" in done.stdout
    assert "half.jsonl.gz" not in mlsec("trail", "sources").stdout
    ledger = open_ledger(f"sqlite:///{kept.place.home / 'mlsec' / 'ledger.db'}", signer=None, trust=Trust({_key(kept)}))
    (said,) = ledger.history("mlsec:trail", types={"urn:mlsec:trail-acknowledgement:v1"})
    assert said.statement.predicate["why"] == "the disk was full that night"
    assert any("half.jsonl.gz" in problem for problem in said.statement.predicate["problems"])


def _key(kept: TrailPlace) -> str:
    return load_key_file(kept.place.home / "mlsec" / "keys" / "mlsec.pem").fingerprint
