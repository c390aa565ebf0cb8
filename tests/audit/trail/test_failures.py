"""What is raised between intent and done costs no rows: a committed file is never tidied away."""

import pytest

from mlsec_dagster.audit import committing as module
from mlsec_dagster.audit.seals import sealed_commits, verify_trail
from mlsec_dagster.audit.trail import Head, Trail
from mlsec_dagster.errors import ConfigurationError, StoreError
from tests.audit.trail.made import delivery, ids


def refused(*_: object, **__: object) -> None:
    raise StoreError("The store cannot be written.")


def test_a_seal_that_fails_costs_no_rows(logs, tick, trail, ledger, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    with monkeypatch.context() as patched:
        patched.setattr(module, "seal", refused)
        with pytest.raises(StoreError):
            tick("cloudtrail")
    assert ids(trail) == {f"event-{number}": 1 for number in range(100)}
    assert tick("cloudtrail").recovered == 1
    assert ids(trail) == {f"event-{number}": 1 for number in range(100)}
    assert verify_trail(ledger, trail) == []


def test_positions_that_cannot_be_written_cost_no_rows(logs, tick, trail, ledger, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    with monkeypatch.context() as patched:
        patched.setattr(module.log_positions, "settle", refused)
        with pytest.raises(StoreError):
            tick("cloudtrail")
    tick("cloudtrail")
    assert ids(trail) == {f"event-{number}": 1 for number in range(100)}
    assert verify_trail(ledger, trail) == []


def test_a_commit_whose_answer_was_lost_costs_no_rows(logs, tick, trail, ledger, monkeypatch):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    commit = Head.commit
    with monkeypatch.context() as patched:
        patched.setattr(Head, "commit", lambda *args, **named: (commit(*args, **named), refused()))
        with pytest.raises(StoreError):
            tick("cloudtrail")
    tick("cloudtrail")
    assert ids(trail) == {f"event-{number}": 1 for number in range(100)}
    assert verify_trail(ledger, trail) == []


def test_a_commit_that_really_failed_leaves_no_files_once_that_is_known(logs, tick, trail, ledger, monkeypatch, tmp_path):
    (logs / "a.json.gz").write_bytes(delivery(range(100)))
    with monkeypatch.context() as patched:
        patched.setattr(Head, "commit", refused)
        with pytest.raises(StoreError):
            tick("cloudtrail")
    assert ids(trail) == {}
    tick("cloudtrail")
    assert ids(trail) == {f"event-{number}": 1 for number in range(100)}
    listed = {file.path for file in trail.open().files()}
    assert {path.relative_to(trail.uri).as_posix() for path in (tmp_path / "trail").rglob("*.parquet")} == listed


def test_the_version_that_is_sealed_is_the_one_that_the_commit_made(logs, tick, trail, ledger):
    for number in range(3):
        (logs / f"{number}.json.gz").write_bytes(delivery([number]))
        tick("cloudtrail")
        assert sealed_commits(ledger, trail.uri)[-1].version == trail.open().version


@pytest.mark.parametrize("name", ["C#", "what?", "a%41b", "back\\slash", "new\nline"])
def test_a_directory_that_delta_lake_takes_for_another_one_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="Choose a directory without"):
        Trail(str(tmp_path / name / "trail"))


@pytest.mark.parametrize("name", ["a b", "gl*b[1]{x}", "100%", "é", "a=b&c+d;e:f'g\"h"])
def test_a_directory_of_any_other_name_is_none(tmp_path, name):
    trail = Trail(str(tmp_path / name / "trail"))
    trail.open(create=True)
    assert trail.open().commit(attempt="a", why="ingested", sources=["mlflow.audit"], added=()) == 1
