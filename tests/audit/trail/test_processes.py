"""Two processes that read one log at once, or one source from two places, put every access into the trail once."""

import subprocess
import sys
from pathlib import Path

import pytest

from mlsec_dagster.audit.completeness import watermarks
from mlsec_dagster.audit.seals import verify_trail
from mlsec_dagster.storage.log_positions import all_open_intents
from tests.audit.trail.made import delivery, ids

ROOT = Path(__file__).resolve().parents[3]

CHILD = """
import sys
from pathlib import Path
from mlsec_dagster.audit.ingestion import Ingestion
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Trail
from mlsec_dagster.integrity.keys import KeyRing, load_or_create_key_file
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.trust import Trust
from tests.audit.trail.made import Nobody, source_of

url, root, logs = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
ring = KeyRing(load_or_create_key_file(root / "key.pem"))
ledger = open_ledger(url, signer=ring, trust=Trust(list(ring.publics)))
print("ready", flush=True)
sys.stdin.readline()
events = held = 0
for _ in range(1000):
    # A new one each time, which remembers nothing.
    reader = Ingestion(ledger.database, Trail(str(root / "trail")), source_of("cloudtrail", logs), Nobody(), ledger=ledger, batch_rows=60)
    report = reader.tick(Budget(records=100))
    events += report.tally.events
    held += report.held_elsewhere
    if not report.held_elsewhere and not report.behind:
        break
print(events, held, flush=True)
ledger.close()
"""


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.slow
@pytest.mark.parametrize(("database_url", "places"), [("sqlite", 1), ("postgresql", 1), ("postgresql", 2)], indirect=["database_url"])
def test_two_processes_at_once_do_no_harm(places, database_url, tmp_path, ledger, trail):
    folders = [tmp_path / f"logs-{number}" for number in range(places)]
    for number in range(5):
        folder = folders[number % places]
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.json.gz").write_bytes(delivery(range(number * 40, number * 40 + 60)))  # Each overlaps the one before.
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, database_url, str(tmp_path), str(folders[number % places])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n", child.communicate()[1]
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        told = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait()
    assert [child.returncode for child in children] == [0, 0], told
    counted = [int(out.split()[0]) for out, _ in told]
    assert ids(trail) == {f"event-{number}": 1 for number in range(5 * 40 + 20)}
    assert sum(counted) == 5 * 40 + 20
    assert sum(mark.counts["events"] for mark in watermarks(ledger.database, 0)) == 5 * 40 + 20
    assert verify_trail(ledger, trail) == []
    with ledger.database.read() as connection:
        assert all_open_intents(connection) == []
