"""A person's rows are found, and afterwards nothing below the table's folder tells of the person; the evidence holds."""

import json
import os
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import delete, text

from mlsec_dagster.audit.compaction import compact
from mlsec_dagster.audit.erasure import KEPT, erase, find
from mlsec_dagster.audit.persons import COLUMNS, Person
from mlsec_dagster.audit.seals import sealed_commits, verify_trail
from mlsec_dagster.audit.ticks import Budget
from mlsec_dagster.audit.trail import Head
from mlsec_dagster.audit.vacuum import GRACE_SECONDS
from mlsec_dagster.errors import ConfigurationError, VerificationError
from mlsec_dagster.storage.tables import log_objects, metadata
from tests.audit.trail.made import ids, line, rows

MARY = "mary.schmidt@example.com"
PERSON = Person(principals=["mary.schmidt@example.com"], emails=[MARY], addresses=["198.51.100.77"])
TRACES = (b"mary.schmidt", b"198.51.100.77")


@pytest.fixture
def accesses(logs: Path, tick, trail) -> None:
    """Mary's, those of others, and a line that nobody can read with Mary in it; in several files of two days."""
    for number in range(4):
        start = number * 40_000
        lines = [line(start + each, user=MARY if each % 3 == 0 else "bob", address="10.0.0.1") for each in range(30)]
        lines.append(line(start + 50, user="bob", address="198.51.100.77"))
        lines.append(b'{"v": 1, "user": "mary.schmidt@example.com", "time": broken\n')
        lines.append(b'{"v": 1, "user": "mary.schmidt%40example.com", broken again\n')
        lines.append(b'{"v": 1, "user": "rosemary.schmidt@example.com.au", broken as well\n')
        (logs / f"{number}.jsonl").write_bytes(b"".join(lines))
        tick()


def traces(trail, of=TRACES) -> list[str]:
    """Files below the table's folder that have any of these bytes, also within their compressed pages."""
    found: list[str] = []
    for path in sorted(Path(trail.uri).rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet" and "_delta_log" not in path.parts:
            with suppress(pa.ArrowInvalid):  # One that was never finished has no pages that anybody can find.
                table = pq.read_table(path, partitioning=None)
                data += repr(table.to_pylist()).encode() + repr(pq.ParquetFile(path).metadata.to_dict()).encode()
        if any(trace in data for trace in of):
            found.append(path.relative_to(trail.uri).as_posix())
    return found


def test_a_persons_rows_are_found_and_nothing_is_changed(accesses, trail, upkeep):
    before = trail.open().version
    found = find(upkeep, PERSON)
    assert (found.own, found.quarantined, found.mentions) == (44, 8, 0)
    assert {day: count for (_, day), count in found.days.items() if day < "2026-05-09"} == {"2026-05-01": 33, "2026-05-02": 11}
    assert found.rows == 52
    assert trail.open().version == before


def test_afterwards_no_byte_tells_of_the_person(accesses, trail, upkeep, ledger):
    compact(upkeep)  # So that files lie there which only older versions of the table have.
    assert traces(trail)
    before = len(rows(trail, "key"))
    erased = erase(upkeep, PERSON, reason="DSR-2026-118")
    assert (erased.found.rows, erased.commits, erased.orphans, erased.kept) == (52, 1, 0, 0)
    assert erased.deleted >= 4
    left = rows(trail)
    # Rosemary's three letters before do not make Mary's of her.
    assert traces(trail, (b"198.51.100.77",)) == []
    assert {row["raw"] for row in left if row["raw"]} == {'{"v": 1, "user": "rosemary.schmidt@example.com.au", broken as well'}
    assert [row for row in left if "mary.schmidt" in repr(row).replace("rosemary.schmidt", "")] == []
    assert len(left) == before
    assert Counter(row["kind"] for row in left)["erased"] == 52
    for row in left:
        if row["kind"] == "erased":
            assert {name for name, value in row.items() if value is not None} == set(KEPT)
    assert verify_trail(ledger, trail) == []
    assert find(upkeep, PERSON).rows == 0


def test_no_statistics_dictionaries_log_or_intent_keep_the_name(logs, tick, trail, upkeep, ledger):
    (logs / "a.jsonl").write_bytes(b"".join(line(each, user=MARY if each % 2 else "bob") for each in range(100)))
    tick()
    assert traces(trail)
    erase(upkeep, PERSON, reason="DSR-2026-118")
    assert traces(trail) == []
    sealed = json.dumps([repr(commit) for commit in sealed_commits(ledger, trail.uri)]).encode()
    assert not any(trace in sealed for trace in TRACES)
    with ledger.database.read() as connection:
        for table in metadata.tables.values():
            kept = repr(connection.execute(text(f"SELECT * FROM {table.name}")).all()).encode()
            assert not any(trace in kept for trace in TRACES), table.name


def test_the_statement_is_a_reference_and_no_person(accesses, trail, upkeep, ledger):
    erase(upkeep, PERSON, reason="DSR-2026-118")
    commit = sealed_commits(ledger, trail.uri)[-1]
    assert (commit.why, commit.reason) == ("erased", "DSR-2026-118")
    for wrong in ("", "for Mary.Schmidt@example.com", "see mail from 198.51.100.77"):
        with pytest.raises(ConfigurationError):
            erase(upkeep, PERSON, reason=wrong)


def test_what_is_delivered_again_is_still_known(accesses, logs, tick, ingestion, trail, upkeep, ledger):
    erase(upkeep, PERSON, reason="DSR-2026-118")
    count = len(rows(trail, "key"))
    for path in list(logs.iterdir()):
        (logs / f"again-{path.name}").write_bytes(
            b"".join(each + b"\n" for each in path.read_bytes().splitlines() if b"broken" not in each)
        )
    assert tick().tally.events == 0
    with ledger.database.write() as connection:
        connection.execute(delete(log_objects))  # As if all positions had been lost.
    report = ingestion().tick(Budget())
    assert (report.tally.events, report.tally.quarantined) == (0, 0)
    assert len(rows(trail, "key")) == count
    assert traces(trail, (b"198.51.100.77",)) == []


def test_erasure_and_compaction_in_either_order_keep_the_counts(accesses, trail, upkeep, ledger):
    keys = Counter(row["key"] for row in rows(trail, "key"))
    erase(upkeep, PERSON, reason="DSR-1")
    compact(upkeep)
    assert Counter(row["key"] for row in rows(trail, "key")) == keys
    assert Counter(row["kind"] for row in rows(trail, "kind"))["erased"] == 52
    assert verify_trail(ledger, trail) == []
    assert erase(upkeep, PERSON, reason="DSR-1").commits == 0


def test_an_edited_file_stops_it_and_is_named(accesses, trail, upkeep, ledger):
    path = Path(trail.uri) / trail.open().files()[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    version = trail.open().version
    for work in (lambda: find(upkeep, PERSON), lambda: erase(upkeep, PERSON, reason="DSR-1")):
        with pytest.raises(VerificationError, match=path.name):
            work()
    assert trail.open().version == version
    assert [problem.kind for problem in verify_trail(ledger, trail)] == ["edited"]


def test_an_edited_file_is_still_named_afterwards(accesses, trail, upkeep, ledger):
    erase(upkeep, PERSON, reason="DSR-1")
    path = Path(trail.uri) / trail.open().files()[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert [problem.kind for problem in verify_trail(ledger, trail)] == ["edited"]


def test_rows_that_come_in_meanwhile_are_erased_too(accesses, logs, ingestion, trail, upkeep, ledger, monkeypatch):
    commit = Head.commit

    def interrupted(head, **named):
        if named["why"] == "erased":
            monkeypatch.setattr(Head, "commit", commit)
            (logs / "meanwhile.jsonl").write_bytes(b"".join(line(200_000 + each, user=MARY) for each in range(5)))
            assert ingestion().tick(Budget()).tally.events == 5
        return commit(head, **named)

    monkeypatch.setattr(Head, "commit", interrupted)
    report = erase(upkeep, PERSON, reason="DSR-1")
    assert (report.found.rows, report.commits) == (57, 2)
    assert traces(trail, (b"198.51.100.77", b"user': 'mary", b"principal': 'mary")) == []
    assert verify_trail(ledger, trail) == []


def test_mentions_by_others_are_told_and_erased_only_if_asked_for(logs, tick, trail, upkeep):
    (logs / "a.jsonl").write_bytes(
        line(1, user=MARY)
        + line(2, user="bob", path="/api/2.0/mlflow-artifacts/artifacts/1/run/mary.schmidt%40example.com/model.pkl")
        + line(3, user="bob")
    )
    tick()
    found = find(upkeep, PERSON)
    assert (found.own, found.mentions, found.rows) == (1, 1, 1)
    erase(upkeep, PERSON, reason="DSR-1")
    assert [row["principal"] for row in rows(trail, "principal")].count("bob") == 2
    assert erase(upkeep, PERSON, reason="DSR-1", mentions=True).found.rows == 1
    assert traces(trail) == []


def test_a_log_object_that_is_named_after_the_person_is_not_named_any_more(logs, tick, trail, upkeep):
    (logs / f"{MARY}.jsonl").write_bytes(line(1, user=MARY))
    tick()
    erase(upkeep, PERSON, reason="DSR-1")
    assert traces(trail) == []
    assert [row["kind"] for row in rows(trail, "kind")] == ["erased"]


def test_files_of_killed_processes_are_said(accesses, trail, upkeep):
    orphan = Path(trail.uri) / "source=mlflow.audit/day=2026-05-01/killed-1.parquet"
    orphan.write_bytes(b"x")
    before = time.time() - 2 * GRACE_SECONDS
    os.utime(orphan, (before, before))
    assert erase(upkeep, PERSON, reason="DSR-1").orphans == 1


def test_whoever_is_not_said_is_not_erased():
    for wrong in ({}, {"principals": ["a"]}, {"emails": ["mary"]}):
        with pytest.raises(ConfigurationError):
            Person(**wrong)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("mary.schmidt@example.com", True),
        ("arn:aws:sts::1:assumed-role/Admin/Mary.Schmidt@Example.com", True),
        ("write to mary.schmidt@example.com.", True),
        ("mary.schmidt%40example.com/x", True),
        (r"\nmary.schmidt\u0040example.com", True),
        ("rosemary.schmidt@example.com", False),
        ("mary.schmidt@example.com.au", False),
        ("mary.schmidt@example.community", False),
        ("x-mary.schmidt@example.com", False),
    ],
)
def test_an_address_is_found_whole_in_any_spelling(value, found):
    columns = {name: pa.array([value if name == "principal" else None], pa.string()) for name in COLUMNS}
    table = pa.table({**columns, "kind": ["event"]})
    matches = Person(emails=[MARY]).matches(table)
    assert matches.own.to_pylist() == [found]


def test_ids_of_others_stay(accesses, trail, upkeep):
    before = ids(trail)
    erase(upkeep, PERSON, reason="DSR-1")
    assert len(before) - len(ids(trail)) == 44


@pytest.mark.parametrize(
    "text",
    [
        "jörg+ml@example.com",
        "j%C3%B6rg%2Bml%40example.com",
        "j%c3%b6rg%2bml@example.com",
        "j%25C3%25B6rg%252Bml%2540example.com",
        r"j\u00f6rg\u002bml\u0040example.com",
        r"\u003cj\u00F6rg+ml@example.com\u003e",
        "JÖRG+ML@EXAMPLE.COM",
        "J%C3%96RG+ML@example.com",
        "jo\u0308rg+ml@example.com",
    ],
)
def test_an_address_is_found_however_a_record_that_nobody_can_read_escapes_it(text, logs, tick, trail, upkeep):
    (logs / "a.jsonl").write_bytes(f'{{"v": 1, "user": "{text}", broken\n{{"v": 1, "user": "a{text}", broken\n'.encode())
    tick()
    person = Person(emails=["jörg+ml@example.com"])
    assert person.in_text(f"for {text}")
    erase(upkeep, person, reason="DSR-2026-118")
    left = sorted(row["kind"] for row in rows(trail))
    assert left == (["erased", "erased"] if text.startswith("\\u003c") else ["erased", "quarantined"])


def test_a_name_is_found_in_the_forms_of_urls_and_json(logs, tick, trail, upkeep):
    texts = ("Jörg Weiß", "J%C3%B6rg+Wei%C3%9F", "J%C3%B6rg%20Wei%C3%9F", r"J\u00f6rg Wei\u00df", "山田太", r"\u5c71\u7530\u592a")
    (logs / "a.jsonl").write_bytes("".join(f'{{"v": 1, "user": "{text}", broken\n' for text in texts).encode())
    tick()
    assert find(upkeep, Person(names=["Jörg Weiß"])).quarantined == 4
    assert find(upkeep, Person(names=["山田太"])).quarantined == 2


def test_others_rows_lose_the_name_of_a_log_object_that_names_the_person(logs, tick, trail, upkeep, ledger):
    (logs / f"{MARY}.jsonl").write_bytes(b"".join(line(each, user=MARY if each else "bob") for each in range(3)))
    tick()
    person = Person(emails=[MARY])
    assert (find(upkeep, person).own, find(upkeep, person).mentions) == (2, 1)
    erase(upkeep, person, reason="DSR-2026-118")
    assert [row["principal"] for row in rows(trail) if row["log_object"]] == ["bob"]
    assert find(upkeep, person).mentions == 1
    erase(upkeep, person, reason="DSR-2026-119", mentions=True)
    assert traces(trail) == []
    assert [row["principal"] for row in rows(trail) if row["kind"] == "event"] == ["bob"]
    assert find(upkeep, person).mentions == 0
    assert verify_trail(ledger, trail) == []
