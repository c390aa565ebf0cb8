"""Power cuts, full disks, lost databases, other versions: one sentence each, and nothing is lost."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import event

from mlsec_dagster.errors import ConfigurationError, StoreError
from mlsec_dagster.integrity.keys import KeyRing, create_key_file
from mlsec_dagster.integrity.ledger import Ledger, open_ledger
from mlsec_dagster.integrity.statements import WRITE
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.verification import verify_ledger
from mlsec_dagster.storage import database as database_module
from tests.ledger.material import behind_its_back, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_writer_killed_in_the_middle_loses_nothing_that_it_reported(tmp_path, kind, request):
    """SIGKILL while it appends as fast as it can; what it printed was committed before."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    create_key_file(tmp_path / "k.pem")
    ring = KeyRing.from_file(tmp_path / "k.pem")
    reported = 0
    for life in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.writer", url, str(tmp_path / "k.pem"), f"life-{life}", "100000"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        lines = 0
        for _ in process.stdout:
            lines += 1
            if lines == 20 + 7 * life:
                process.send_signal(signal.SIGKILL)
        process.wait()
        reported += lines
        ledger = open_ledger(url, signer=ring, trust=Trust({ring.fingerprint}))
        found = verify_ledger(ledger)
        assert found.intact
        # One more may have been committed than was reported, once per life.
        assert reported <= found.size <= reported + life + 1
        ledger.append([write("survivor", None, str(life))])
        reported = ledger.checkpoint().size
        ledger.close()


def test_a_writer_killed_between_its_rows_and_its_checkpoint_leaves_no_trace(ledger: Ledger, opened):
    ledger.append([write(run_id="before")])
    pid = os.fork()
    if pid == 0:
        engine = ledger.database.engine

        def die(command: str) -> None:
            if "INTO mlsec_checkpoints" in command:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(engine, "connect", lambda connection, _: connection.set_trace_callback(die))
        ledger.append([write(run_id=f"lost-{i}") for i in range(600)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    again = opened()
    assert again.checkpoint().size == 1
    again.append([write(run_id="after")])
    assert [entry.statement.run_id for entry in again.history("raw/flights")] == ["before", "after"]
    assert verify_ledger(again).intact


def append_until_it_fails(ledger: Ledger) -> None:
    for i in range(1000):
        ledger.append([write(run_id=str(i), padding="x" * 2000)])


def limit_pages(ledger: Ledger, more: int) -> None:
    """Make the database as full as if its disk had only `more` pages left."""

    def limit(connection, *_: object) -> None:
        used = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {used + more}")

    ledger.database.close()
    event.listen(ledger.database.engine, "connect", limit)


def test_a_full_disk_loses_nothing_and_is_said(ledger: Ledger, opened):
    ledger.append([write(run_id="before")])
    limit_pages(ledger, 6)
    with pytest.raises(StoreError, match=r"disk is full.*nothing was lost; make room"):
        append_until_it_fails(ledger)
    size = ledger.checkpoint().size
    assert verify_ledger(ledger).intact
    again = opened()
    again.append([write(run_id="after")])
    found = verify_ledger(again)
    assert (found.intact, found.size) == (True, size + 1)


def test_a_really_full_file_system_loses_nothing(tmp_path, opened):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        ledger = opened(f"sqlite:///{tmp_path / 'small.db'}")
        ledger.append([write(run_id="before")])
        with pytest.raises(StoreError, match="disk is full or failing"):
            append_until_it_fails(ledger)
        found = verify_ledger(ledger)
        assert found.intact
        assert found.size >= 1
        ledger.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("signs", [True, False])
def test_an_unreachable_database_is_said_without_its_password(ring, trust, signs):
    with pytest.raises(StoreError, match=r"postgresql\+psycopg://mlsec:\*\*\*@127\.0\.0\.1:1/ledger.*cannot be used") as caught:
        open_ledger("postgresql+psycopg://mlsec:t0p-s3cret@127.0.0.1:1/ledger", signer=ring if signs else None, trust=trust)
    assert "t0p-s3cret" not in repr(caught.value)
    assert caught.value.__suppress_context__


def test_a_database_that_goes_away_is_said_and_comes_back(opened, postgres_server, postgres_url):
    ledger = opened(postgres_url)
    ledger.append([write(run_id="1")])
    name = re.search(r"/(test_\w+)", postgres_url)[1]
    killed = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}';"
    postgres_server.psql(killed)
    ledger.append([write(run_id="2")])  # The broken connection is noticed before it is used.

    def lose_it_meanwhile() -> None:
        with ledger.database.write() as connection:
            postgres_server.psql(killed)
            connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StoreError, match="cannot be used"):
        lose_it_meanwhile()
    ledger.append([write(run_id="3")])
    assert verify_ledger(ledger).size == 3


def test_an_error_in_a_transaction_costs_no_later_one(ledger: Ledger, file):
    """Writers keep their connection; what went wrong on it must not stay with it."""
    ledger.append([write(run_id="1")])

    def fail() -> None:
        with ledger.database.write() as connection:
            connection.exec_driver_sql("INSERT INTO mlsec_notes VALUES ('x', 'y')")
            connection.exec_driver_sql("SELECT * FROM there_is_no_such_table")

    with pytest.raises(StoreError, match="no such table"):
        fail()
    ledger.append([write(run_id="2")])
    with behind_its_back(file) as other:
        assert other.execute("SELECT * FROM mlsec_notes").fetchall() == []
        other.execute("BEGIN IMMEDIATE")  # Nothing is locked between transactions.
        other.rollback()
    ledger.close()
    assert not file.with_name(file.name + "-wal").exists()  # SQLite removes it with the last connection.
    ledger.append([write(run_id="3")])
    assert verify_ledger(ledger).size == 3


def test_a_store_of_a_newer_version_is_refused(ledger: Ledger, opened, file):
    ledger.append([write()])
    with behind_its_back(file) as database:
        database.execute("UPDATE mlsec_schema_version SET version_num = '0042'")
    for signer in ({}, {"signer": None}):
        with pytest.raises(StoreError, match=r"newer version of mlsec-dagster \(schema 0042; this version knows up to 0002\). Upgrade"):
            opened(**signer)


def test_a_store_that_is_not_there_is_not_created_by_reading(opened, file):
    with pytest.raises(StoreError, match="no security store at"):
        opened(signer=None)
    assert not file.exists()
    sqlite3.connect(file).close()
    file.touch()
    with pytest.raises(StoreError, match="holds no ledger"):
        opened(signer=None)


def test_a_damaged_database_is_said(opened, file):
    file.write_bytes(b"this is no database at all, but it is long enough" * 100)
    with pytest.raises(StoreError, match=r"damaged.*backup"):
        opened()


def test_a_locked_store_is_said_after_the_wait(monkeypatch, opened, file):
    monkeypatch.setattr(database_module, "WAIT_SECONDS", 0.2)
    ledger = opened()
    with behind_its_back(file) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="stayed locked by another writer"):
            ledger.append([write()])
        other.rollback()
    ledger.append([write()])
    assert ledger.latest("raw/flights", None, {WRITE}).index == 0


@pytest.mark.parametrize("url", ["", "no url", "mysql://x/y", "sqlite://", "sqlite:///:memory:"])
def test_a_url_that_cannot_be_a_store_is_refused(url, ring, trust):
    with pytest.raises(ConfigurationError):
        open_ledger(url, signer=ring, trust=trust)


def test_a_directory_that_cannot_be_made_is_said(tmp_path, ring, trust):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be created"):
        open_ledger(f"sqlite:///{tmp_path / 'file' / 'sub' / 'ledger.db'}", signer=ring, trust=trust)


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(ledger: Ledger, opened, postgres_url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from mlsec_dagster.storage.tables import KNOWN_VERSIONS, SCHEMA_VERSION, VERSION_TABLE, metadata

    for one in (ledger, opened(postgres_url)):
        with one.database.read() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            assert context.get_current_revision() == SCHEMA_VERSION
            assert compare_metadata(context, metadata) == []
    scripts = (ROOT / "mlsec_dagster/storage/migrations/versions").glob("v*.py")
    versions = {path.name.split("_")[0].removeprefix("v") for path in scripts}
    assert versions == KNOWN_VERSIONS


def test_opening_a_current_store_does_not_load_alembic(ledger: Ledger, file):
    code = (
        "import sys; from mlsec_dagster.integrity.ledger import open_ledger; from mlsec_dagster.integrity.trust import Trust;"
        f"open_ledger('sqlite:///{file}', signer=None, trust=Trust({{{ledger.signer.fingerprint!r}}})).checkpoint();"
        "heavy = {'alembic', 'dagster', 'pyarrow', 'pandas', 'numpy', 'fsspec', 'securesystemslib'}; print(heavy & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
