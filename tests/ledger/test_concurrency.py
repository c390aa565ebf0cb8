"""Many writers, one history."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlsec_dagster.integrity.keys import KeyRing, create_key_file
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.statements import WRITE
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.verification import verify_ledger
from mlsec_dagster.integrity.witness import Witness
from tests.ledger.material import write

ROOT = Path(__file__).resolve().parents[2]


def write_at_once(url: str, key: Path, processes: int, appends: int) -> None:
    create_key_file(key)
    command = [sys.executable, "-m", "tests.ledger.writer", url, str(key)]
    running = [
        subprocess.Popen(
            [*command, f"asset-{number}", str(appends)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for number in range(processes)
    ]
    errors = [process.communicate()[1] for process in running]
    assert [process.returncode for process in running] == [0] * processes, "".join(errors)


def require_one_history(url: str, key: Path, processes: int, appends: int) -> None:
    ring = KeyRing.from_file(key)
    ledger = open_ledger(url, signer=None, trust=Trust({ring.fingerprint}))
    found = verify_ledger(ledger)
    assert (found.problems, found.size, found.checked) == ((), processes * appends, processes * appends)
    for number in range(processes):
        name = f"asset-{number}"
        assert [entry.statement.run_id for entry in ledger.history(name)] == [f"{name}-{i}" for i in range(appends)]
    ledger.close()


def test_processes_that_start_at_once_on_an_empty_sqlite_store_write_one_history(tmp_path):
    url = f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"
    write_at_once(url, tmp_path / "k.pem", 4, 25)
    require_one_history(url, tmp_path / "k.pem", 4, 25)


@pytest.mark.slow
def test_processes_that_start_at_once_on_an_empty_postgresql_store_write_one_history(tmp_path, postgres_url):
    write_at_once(postgres_url, tmp_path / "k.pem", 4, 25)
    require_one_history(postgres_url, tmp_path / "k.pem", 4, 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_eight_processes_with_500_appends_each_write_4000_entries_without_a_fork(tmp_path, kind, request):
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    write_at_once(url, tmp_path / "k.pem", 8, 500)
    require_one_history(url, tmp_path / "k.pem", 8, 500)


def test_postgresql_does_all_that_sqlite_does(opened, tmp_path, postgres_url):
    ledger = opened(postgres_url, witness=Witness(tmp_path / "witness"))
    content = b"manifest"
    ledger.append([write("a", str(i % 3) if i % 4 else None, f"run-{i}") for i in range(1203)], [content])
    ledger.append([write("a", "1", "last")])
    assert ledger.witness_if_due() is None
    reader = opened(postgres_url, signer=None, witness=ledger.witness)
    assert reader.latest("a", "1", {WRITE}).index == 1203
    assert reader.latest("a", "1", {WRITE}, run_id="run-1").index == 1
    assert len(reader.latest_by_partition("a", [None, "0", "1", "2", "3"], {WRITE})) == 4
    assert len(list(reader.history("a"))) == 1204
    assert reader.assets() == ["a"]
    found = verify_ledger(reader)
    assert (found.problems, found.rollback, found.size) == ((), "verified", 1204)
    with ledger.database.write() as connection:
        connection.exec_driver_sql("UPDATE mlsec_entries SET run_id = 'x' WHERE position = 700")
    first = verify_ledger(reader).first
    assert (first.index, first.kind) == (700, "altered")
