"""What somebody writes into a log, or calls a log file, a model or a user, is text: no path, table, terminal or report obeys it."""

import csv
import io
import json
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

import mlsec_dagster as mlsec
from mlsec_dagster.assets.trail_page import day_metadata
from mlsec_dagster.audit.artifacts import Artifact
from mlsec_dagster.audit.files import IN_PARTITION
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.layouts import CloudTrailLayout, MLflowLayout
from mlsec_dagster.audit.log_source import LogSource
from mlsec_dagster.audit.places import S3Bucket
from mlsec_dagster.audit.querying import Filter, summary
from mlsec_dagster.audit.querying import rows as asked
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.cli import main
from tests.audit.trail.made import Nobody, delivery, ids, line, rows, source_of

PARTITION = "2026-05-01/../../../../etc"
TEXTS = {
    "a path": "../../../../etc/cron.d/x",
    "an absolute path": "/etc/passwd",
    "a partition": f"source=aws.cloudtrail/day={PARTITION}",
    "a NUL": "a\0b",
    "lines": "a\r\nb\nc\u2028d\x85e",
    "a terminal": "\x1b]0;owned\x07\x1b[2J\x1b[31m\x9b2J\u202eexe.gpj",
    "SQL": "'; DROP TABLE log_objects; --",
    "Markdown": "[here](http://evil.example/?q=1) ![x](http://evil.example/i.png) <img src=x onerror=alert(1)> | a | b |\n# H",
    "a formula": "=cmd|' /C calc'!A0",
    "percent": "%2e%2e%2f%00",
}


class Everything:
    """A translator that takes a model's name from the log, as a template does."""

    def artifact(self, event) -> Artifact:
        return Artifact("model", model=event.principal, version=event.principal, asset=None, environment=event.principal, by="template")


def attack(text: str, number: int = 1) -> bytes:
    """A line in which everything that the log tells and a client chooses is the text; its time is a genuine one."""
    return line(number, user=text, user_agent=text, run=text, model=text, version=text, experiment=text, client=text, server=text)


@pytest.mark.parametrize(
    ("text", "database_url"),
    [(text, "sqlite") for text in TEXTS.values()] + [(TEXTS[name], "postgresql") for name in ("a NUL", "SQL")],
    ids=[*TEXTS, "a NUL, PostgreSQL", "SQL, PostgreSQL"],
    indirect=["database_url"],
)
def test_no_text_of_a_record_leaves_its_column(text, logs, ledger, trail, tmp_path):
    (logs / "a.jsonl").write_bytes(attack(text) + line(2))
    (logs / "b.jsonl").write_bytes(json.dumps({"time": text, "source": text, "day": text, "id": text}).encode() + b"\n")
    before = {path for path in tmp_path.rglob("*") if Path(trail.uri) not in path.parents}
    source = source_of("mlflow", logs)
    report = Ingestion(ledger.database, trail, source, Everything(), ledger=ledger).tick(Budget())
    assert (report.tally.events, report.tally.quarantined) == (2, 1)
    # Where its files are: by the source that reads and the time of the access.
    files = trail.open().files()
    assert {file.source for file in files} == {"mlflow.audit"}
    assert all(IN_PARTITION.fullmatch(file.path) for file in files)
    assert len(files) == 2
    written = {path for path in tmp_path.rglob("*") if Path(trail.uri) not in path.parents} - before
    assert {path.name for path in written} <= {trail.uri.rpartition("/")[2], "ledger.db-wal", "ledger.db-shm"}
    # What is in them: the text, and nothing that follows from it.
    (found,) = (row for row in rows(trail, "id", "principal", "user_agent", "artifact_model") if row["id"] == "request-1")
    assert found["principal"] == found["user_agent"] == found["artifact_model"] == text
    assert ids(trail) == {"request-1": 1, "request-2": 1}
    only = [row for batch in asked(trail, Filter(principal=text)) for row in batch.to_pylist()]
    assert [row["id"] for row in only] == ["request-1"]
    assert Ingestion(ledger.database, trail, source, Everything(), ledger=ledger).tick(Budget()).tally.events == 0
    assert verify_trail(ledger, trail) == []


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return request.getfixturevalue("postgres_url")


KEYS = {
    "a path": "../../../../etc/x.json.gz",
    "an absolute path": "/etc/x.json.gz",
    "a partition": f"source=x/day={PARTITION}/x.json.gz",
    "a NUL": "a\0b.json.gz",
    "a newline": "a\nb\r\nc.json.gz",
    "a terminal": "\x1b]0;owned\x07\x1b[2J.json.gz",
    "SQL": "'; DROP TABLE log_objects; --.json.gz",
    "Markdown": "[here](http://evil.example).json.gz",
    "private use": "\ue000\uf8ff0\uf8ff.json.gz",
    "only an end": ".json.gz",
}


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_a_key_of_an_object_is_only_a_name(server, ledger, trail, tmp_path):
    for number, key in enumerate(KEYS.values()):
        server.objects[key] = (delivery([number])[: -8 if number % 2 else None], 1_780_000_000 + number)  # Half of them end in the middle.
    before = {path for path in tmp_path.rglob("*") if Path(trail.uri) not in path.parents}

    def reader() -> Ingestion:
        return Ingestion(ledger.database, trail, LogSource(S3Bucket(server.client(), "logs"), CloudTrailLayout()), Nobody(), ledger=ledger)

    report = reader().tick(Budget())
    assert report.read == len(KEYS)
    assert sorted(report.incomplete) == sorted(key for number, key in enumerate(KEYS.values()) if number % 2)
    found = rows(trail, "id", "kind", "log_object")
    assert {row["log_object"] for row in found} == {f"s3://logs/{key}" for key in KEYS.values()}
    again = reader().tick(Budget())
    assert (again.read, again.tally.events, again.tally.quarantined) == (0, 0, 0)
    reconciled = reader().reconcile(Budget())
    assert (reconciled.read, reconciled.missing, reconciled.rewritten) == (0, [], [])
    assert {path for path in tmp_path.rglob("*") if Path(trail.uri) not in path.parents} - before <= {Path(trail.uri)} | {
        tmp_path / f"ledger.db-{kind}" for kind in ("wal", "shm")
    }
    assert verify_trail(ledger, trail) == []


@pytest.fixture
def server():
    from tests.audit.trail.storage_server import storage_server

    with storage_server() as server:
        yield server


def test_the_page_of_a_day_shows_text_as_text(logs, ledger, trail):
    (logs / "a.jsonl").write_bytes(b"".join(attack(text, number) for number, text in enumerate(TEXTS.values())))
    Ingestion(ledger.database, trail, source_of("mlflow", logs), Everything(), ledger=ledger).tick(Budget())
    shown = day_metadata(summary(trail, "2026-05-01"))
    cells = [
        str(value)
        for table in shown.values()
        if isinstance(table, dg.TableMetadataValue)
        for row in table.records
        for value in row.data.values()
    ]
    assert len(cells) >= 3 * len(TEXTS)
    assert all(cell.isprintable() for cell in cells)
    # A table's cells are shown as they are, which tests/ui sees in a browser. Markdown would be obeyed.
    assert not any(isinstance(value, dg.MarkdownMetadataValue) for value in shown.values())
    assert not any(text in str(value) for text in TEXTS.values() for value in shown.values() if isinstance(value, str))


def test_a_sensor_says_nothing_that_markdown_obeys_of_names_in_a_bucket(server, instance, dagster_home, monkeypatch):
    for number, key in enumerate(KEYS.values()):
        server.objects[key] = (delivery([number])[:-8], 1_780_000_000 + number)
    from dagster_aws.s3 import S3Resource

    sensor = mlsec.build_audit_log_sensor(source=mlsec.CloudTrail(bucket="logs"))
    s3 = S3Resource(endpoint_url=server.url, aws_access_key_id="testing", aws_secret_access_key="testing", region_name="us-east-1")
    definitions = dg.Definitions(sensors=[sensor], resources={"s3": s3})
    context = dg.build_sensor_context(instance=instance, definitions=definitions, sensor_name=sensor.name, resources={"s3": s3})
    result = sensor.evaluate_tick(context)
    (evaluation,) = (each for each in result.asset_events if isinstance(each, dg.AssetCheckEvaluation))
    told = [evaluation.description or "", *(str(value.value) for value in evaluation.metadata.values())]
    assert any("ending in the middle" in each for each in told)
    for each in told:
        assert "](http" not in each
        assert "\x1b" not in each
        assert "\0" not in each


def test_what_the_command_prints_steers_no_terminal_and_no_spreadsheet(logs, ledger, trail, dagster_home):
    lines = [attack(text, number) for number, text in enumerate(TEXTS.values())]
    (logs / "a.jsonl").write_bytes(b"".join(each + each[:-10] + b"\n" for each in lines))
    Ingestion(ledger.database, trail, source_of("mlflow", logs), Everything(), ledger=ledger).tick(Budget())
    control = {chr(code) for code in [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2028, 0x2029]}

    def printed(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["trail", *arguments, "--trail", trail.uri])
        assert result.exit_code == 0, result.output
        return result.stdout

    for form in ([], ["--json"], ["--ocsf"], ["--kind", "quarantined"], ["--kind", "quarantined", "--json"]):
        assert not control & set(printed(*form)), form
    assert len(printed().splitlines()) == 1 + 2 * len(TEXTS)
    assert {json.loads(each)["principal"] for each in printed("--kind", "event", "--json").splitlines()} == {*TEXTS.values()}
    heading, *records = csv.reader(io.StringIO(printed("--csv"), newline=""))
    assert len(records) == 2 * len(TEXTS)
    assert {len(cells) for cells in records} == {len(heading)}
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cells in records for cell in cells)


def test_a_file_name_on_a_disk_that_holds_a_newline_or_an_escape_is_only_a_name(logs, tick, trail, tmp_path):
    for number, name in enumerate(["a\nb.jsonl", "\x1b[2J.jsonl", "a\\x00.jsonl", "..jsonl", "-rf.jsonl"]):
        (logs / name).write_bytes(line(number))
    (logs / "link.jsonl").symlink_to("/etc/passwd")
    tick()
    # A name that begins with a dot is a hidden file, which no log is.
    assert ids(trail) == {f"request-{number}": 1 for number in (0, 1, 2, 4)}
    assert MLflowLayout().belongs("..jsonl") is False
    assert isinstance(trail, Trail)
