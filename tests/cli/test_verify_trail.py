"""`mlsec verify` on the audit trail: whatever was done to it without the key is named, and what could not be looked at has not passed."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mlsec_dagster.audit import committing
from mlsec_dagster.audit.trail import Trail
from tests.cli.ledgers import document, mlsec
from tests.cli.trails import TrailPlace, ordinary

pytestmark = pytest.mark.usefixtures("kept")


def verify(kept: TrailPlace, *more: object):
    return mlsec("verify", "--no-dagster", "--key", kept.place.fingerprint, "--witness", kept.place.witness, *more)


def problems(kept: TrailPlace) -> list[tuple[str, str | None]]:
    """What is found, after it was found that both forms tell it."""
    result = verify(kept, "--json")
    (found,) = document(result)["trail"]["trails"]
    told = verify(kept)
    assert told.exit_code == result.exit_code == document(result)["exit_code"]
    for problem in found["problems"]:
        assert f"{problem['kind'].upper()}: {problem['sentence']}" in told.stdout
    return [(problem["kind"], problem["path"]) for problem in found["problems"]]


def path_of(kept: TrailPlace, file: Path) -> str:
    return file.relative_to(kept.root).as_posix()


def test_an_untouched_trail_is_verified(kept: TrailPlace) -> None:
    result = verify(kept)
    assert result.exit_code == 0
    assert f"trail: {kept.root}, {len(kept.files())} files: all as sealed" in result.stdout
    assert document(verify(kept, "--json"))["trail"]["trails"][0]["verdict"] == "verified"


def test_an_edited_file_is_named(kept: TrailPlace) -> None:
    file = kept.files()[0]
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.slice(1), file)
    assert problems(kept) == [("edited", path_of(kept, file))]
    result = verify(kept)
    assert result.exit_code == 1
    assert "verdict: not what it should be" in result.stdout


def test_one_altered_byte_is_enough(kept: TrailPlace) -> None:
    file = kept.files()[-1]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert problems(kept) == [("edited", path_of(kept, file))]


def test_a_file_that_another_one_replaced_is_named(kept: TrailPlace) -> None:
    first, second = kept.files()[:2]
    shutil.copy(first, second)
    assert problems(kept) == [("edited", path_of(kept, second))]


def test_a_file_that_is_gone_from_the_storage_is_named(kept: TrailPlace) -> None:
    file = kept.files()[0]
    file.unlink()
    assert problems(kept) == [("dropped", path_of(kept, file))]
    assert verify(kept).exit_code == 1


def test_a_file_that_a_forged_commit_takes_out_is_named(kept: TrailPlace) -> None:
    path = kept.added()["path"]
    kept.forge({"remove": {"path": path, "deletionTimestamp": 0, "dataChange": True}})
    assert problems(kept) == [("dropped", path)]
    assert verify(kept).exit_code == 1


def test_a_file_that_a_forged_commit_puts_in_is_named(kept: TrailPlace) -> None:
    file = kept.files()[0]
    shutil.copy(file, file.with_name("forged-1.parquet"))
    kept.forge({"add": {**kept.added(), "path": path_of(kept, file.with_name("forged-1.parquet")), "size": file.stat().st_size}})
    assert problems(kept) == [("inserted", path_of(kept, file.with_name("forged-1.parquet")))]
    assert verify(kept).exit_code == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"day":"2026-05-01"', '"day":"1999-01-01"'),
        ('numRecords\\": 20', 'numRecords\\": 0'),
        ("2026-05-01T00:00:19", "1999-01-01T00:00:19"),
    ],
)
def test_what_was_changed_in_the_tables_log_so_that_queries_pass_over_a_file_is_named(kept: TrailPlace, before: str, after: str) -> None:
    log = kept.root / "_delta_log" / f"{1:020}.json"
    assert before in log.read_text()
    (path,) = [action["add"]["path"] for action in map(json.loads, log.read_text().splitlines()) if "add" in action]
    log.write_text(log.read_text().replace(before, after))
    assert problems(kept) == [("edited", path)]


def test_a_table_whose_newest_commits_were_taken_away_is_rolled_back(kept: TrailPlace) -> None:
    logs = sorted((kept.root / "_delta_log").glob("*.json"))
    logs[-1].unlink()
    kinds = {kind for kind, _ in problems(kept)}
    assert kinds == {"rolled back", "dropped"}
    assert verify(kept).exit_code == 1


def test_another_table_in_its_place_is_told(kept: TrailPlace, tmp_path: Path) -> None:
    shutil.rmtree(kept.root / "_delta_log")
    Trail(str(kept.root)).open(create=True)
    kinds = {kind for kind, _ in problems(kept)}
    assert kinds == {"exchanged", "rolled back", "dropped"}
    assert verify(kept).exit_code == 1


def test_a_trail_that_is_not_there_has_not_passed(kept: TrailPlace) -> None:
    shutil.rmtree(kept.root)
    result = verify(kept)
    assert result.exit_code == 4
    assert f"trail: {kept.root}, could not be verified: There is no trail any more where the ledger has sealed one" in result.stdout
    assert document(verify(kept, "--json"))["trail"]["trails"][0]["verdict"] == "could not be verified"
    left_out = verify(kept, "--no-trail")
    assert left_out.exit_code == 0
    assert "trail: not verified, --no-trail was given" in left_out.stdout


def test_a_table_that_nobody_can_read_has_not_passed(kept: TrailPlace) -> None:
    for log in (kept.root / "_delta_log").glob("*.json"):
        log.write_text("{")
    result = verify(kept)
    assert result.exit_code == 4
    assert "could not be verified" in result.stdout


def test_a_commit_whose_seal_is_due_has_not_passed_and_is_told_apart_from_a_forged_one(
    kept: TrailPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(committing, "seal", killed)
        with pytest.raises(Killed):
            kept.add(ordinary(5, 100))
    assert [kind for kind, _ in problems(kept)] == ["unsealed"]
    assert verify(kept).exit_code == 4
    # The digest that the database tells is that of another file now.
    path = problems(kept)[0][1]
    assert path is not None
    (kept.root / path).write_bytes(b"x")
    assert problems(kept) == [("inserted", path)]
    assert verify(kept).exit_code == 1


def test_the_next_tick_seals_what_was_due(kept: TrailPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(committing, "seal", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            kept.add(ordinary(5, 100))
    assert verify(kept).exit_code == 4
    kept.tick()
    assert verify(kept).exit_code == 0


def test_what_was_sealed_while_it_was_verified_is_no_problem(kept: TrailPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Trail.open
    late: list[bool] = []

    def meanwhile(trail: Trail, *, create: bool = False):
        if not late and not create:
            late.append(True)
            kept.add(ordinary(5, 200))
        return opened(trail, create=create)

    monkeypatch.setattr("mlsec_dagster.cli.verify_trails._named", lambda _: [])
    monkeypatch.setattr(Trail, "open", meanwhile)
    result = verify(kept)
    assert late
    assert result.exit_code == 0, result.output


def test_a_trail_of_which_nothing_was_sealed_has_not_passed(kept: TrailPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    shutil.copytree(kept.root, other)
    monkeypatch.setenv("MLSEC_TRAIL", str(other))
    result = verify(kept)
    assert result.exit_code == 4
    assert f"Nothing about a trail at {other} was ever sealed" in result.stdout
    assert f"trail: {kept.root}, {len(kept.files())} files: all as sealed" in result.stdout


def test_a_ledger_without_a_trail_says_so(kept: TrailPlace, tmp_path: Path) -> None:
    kept.place.append(1, start=90)
    empty = tmp_path / "elsewhere"
    empty.mkdir()
    place = type(kept.place)(empty / "home")
    place.home.mkdir()
    place.append(1, witnessed=True)
    result = mlsec("verify", "--no-dagster", "--home", place.home, "--witness", place.witness)
    assert result.exit_code == 0
    assert "trail: the ledger speaks of none" in result.stdout


def test_the_ledger_shows_what_was_sealed_about_a_trail(kept: TrailPlace) -> None:
    result = mlsec("ledger", "show", "--asset", "mlsec:trail")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    assert "trail-commit" in lines[0]
    assert "ingested: " in lines[0]
    assert "mlsec:trail[" in lines[0]
    assert mlsec("ledger", "show", "12").exit_code == 0
    assert kept.place.ledger().assets() == ["raw/flights"]


def test_dagster_is_asked_about_no_trail(kept: TrailPlace) -> None:
    result = mlsec("verify", "--key", kept.place.fingerprint, "--witness", kept.place.witness, "--json")
    found = document(result)
    assert found["materializations"]["assets"] == 1
    assert found["trail"]["trails"][0]["verdict"] == "verified"


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize("announced", [True, False])
def test_a_deletion_vector_hides_no_row_and_is_told(kept: TrailPlace, removed: bool, announced: bool) -> None:
    before, add = mlsec("trail", "--json").stdout, kept.added()
    # As in https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vectors: inline, six rows.
    inline = "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"
    vector = {"storageType": "i", "pathOrInlineDv": inline, "sizeInBytes": 40, "cardinality": 6}
    features = ["deletionVectors"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    kept.forge(
        *([{"protocol": protocol}] if announced else []),
        *([{"remove": {"path": add["path"], "deletionTimestamp": 0, "dataChange": True}}] if removed else []),
        {"add": {**add, "deletionVector": vector}},
    )
    assert mlsec("trail", "--json").stdout == before
    assert {kind for kind, _ in problems(kept)} == {"edited"}
    assert verify(kept).exit_code == 1


def test_columns_that_the_tables_log_hides_from_other_readers_are_told(kept: TrailPlace) -> None:
    first = (kept.root / "_delta_log" / f"{0:020}.json").read_text().splitlines()
    (metadata,) = [json.loads(text)["metaData"] for text in first if "metaData" in text]
    schema = json.loads(metadata["schemaString"])
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "principal"]
    kept.forge({"metaData": {**metadata, "schemaString": json.dumps(schema)}})
    assert problems(kept) == [("edited", None)]
    assert verify(kept).exit_code == 1
