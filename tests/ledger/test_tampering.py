"""Somebody with the database, our source and no key changes something: it is found, and the first bad entry is named."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.digests import hash_bytes
from mlsec_dagster.integrity.entries import envelope_bytes, pae
from mlsec_dagster.integrity.keys import KeyRing
from mlsec_dagster.integrity.ledger import open_ledger
from mlsec_dagster.integrity.merkle import Frontier, leaf_hash
from mlsec_dagster.integrity.statements import KEYS_ASSET, SEAL, WRITE, Position, Statement, sealed_payload
from mlsec_dagster.integrity.trust import KeyChange, Trust
from mlsec_dagster.integrity.verification import Verification, verify_ledger
from mlsec_dagster.integrity.witness import Witness
from tests.ledger.material import behind_its_back, write

TRANSACTIONS = [3, 1, 4, 2, 1, 5, 2, 3]
ENDS = [sum(TRANSACTIONS[: i + 1]) for i in range(len(TRANSACTIONS))]
SIZE = ENDS[-1]
COLUMNS = ["position", "asset", "partition", "type", "run_id", "previous", "key", "payload", "signature", "nodes"]


@dataclass(frozen=True)
class Prepared:
    """A ledger of `SIZE` entries, witnessed to its end, and another of the same key."""

    file: Path
    other: Path
    witness: Witness
    trust: Trust
    ring: KeyRing


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, ring: KeyRing) -> Prepared:
    place = tmp_path_factory.mktemp("prepared")
    trust, witness = Trust({ring.fingerprint}), Witness(place / "witness")
    for name in ("ledger.db", "other.db"):
        ledger = open_ledger(f"sqlite:///{place / name}", signer=ring, trust=trust, witness=witness if name == "ledger.db" else None)
        number = 0
        for count in TRANSACTIONS:
            statements, contents = [], []
            for _ in range(count):
                content = f"manifest {number}".encode()
                kind = SEAL if number % 3 == 2 else WRITE
                partition = None if number % 4 == 0 else str(number % 4)
                said = {"run_id": f"run-{number // 2}", "manifest": hash_bytes(content), "padding": name}
                statements.append(Statement("a" if number % 5 else "b", partition, kind, {"blake3": "5c" * 32}, said))
                contents.append(content)
                number += 1
            ledger.append(statements, contents)
            if ledger.witness is not None:
                ledger.witness_now()
        ledger.close()
        with behind_its_back(place / name) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Prepared(place / "ledger.db", place / "other.db", witness, trust, ring)


@pytest.fixture
def attack(prepared: Prepared, tmp_path: Path) -> Callable[..., Verification]:
    """Copies the ledger, lets the attacker at the copy, and verifies that."""
    counter = iter(range(10**6))

    def attacked(change: Callable[[sqlite3.Connection], object], *, witness: bool = False) -> Verification:
        file = tmp_path / f"{next(counter)}.db"
        shutil.copyfile(prepared.file, file)
        with behind_its_back(file) as database:
            change(database)
        ledger = open_ledger(f"sqlite:///{file}", signer=None, trust=prepared.trust, witness=prepared.witness if witness else None)
        try:
            return verify_ledger(ledger)
        finally:
            ledger.close()
            for path in tmp_path.glob(f"{file.name}*"):
                path.unlink()

    return attacked


def rows_of(database: sqlite3.Connection) -> list[tuple]:
    return database.execute("SELECT * FROM mlsec_entries ORDER BY position").fetchall()


def put_rows(database: sqlite3.Connection, rows: list[tuple], *, rehash: bool = False) -> None:
    """Write these rows as the ledger, numbered anew; with `rehash`, all tree hashes are made to fit."""
    database.execute("DELETE FROM mlsec_entries")
    edge = Frontier()
    for position, row in enumerate(rows):
        nodes = edge.push(leaf_hash(envelope_bytes(row[7], row[6], row[8]))) if rehash else row[9]
        database.execute("INSERT INTO mlsec_entries VALUES (?,?,?,?,?,?,?,?,?,?)", (position, *row[1:9], nodes))


def changed(row: tuple, **columns: object) -> tuple:
    return tuple(columns.get(name, value) for name, value in zip(COLUMNS, row, strict=True))


def test_an_untouched_ledger_is_intact_and_its_rollback_excluded(attack):
    found = attack(lambda _: None, witness=True)
    assert (found.problems, found.checked, found.size, found.rollback, found.witnessed_size) == ((), SIZE, SIZE, "verified", SIZE)


def test_without_a_witness_rollback_is_not_verifiable_and_that_is_said(attack):
    found = attack(lambda _: None)
    assert (found.intact, found.rollback) == (True, "not verifiable")
    assert "no witness is configured" in found.rollback_sentence


index = st.integers(0, SIZE - 1)
rehash = st.booleans()
fast = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fast
@given(index=index, column=st.sampled_from(COLUMNS[1:]), rehashed=rehash, data=st.data())
def test_an_edited_column_is_found_at_its_entry(attack, index, column, rehashed, data):
    def change(database):
        rows = rows_of(database)
        old = rows[index][COLUMNS.index(column)]
        if isinstance(old, bytes):
            place = data.draw(st.integers(0, len(old) - 1))
            new = old[:place] + bytes([old[place] ^ data.draw(st.integers(1, 255))]) + old[place + 1 :]
            new = data.draw(st.sampled_from([new, b"", old[:-1], old + b" "]))
        elif column == "previous":
            new = data.draw(st.sampled_from([None, 0, index, SIZE + 5]).filter(lambda new: new != old))
        else:
            new = data.draw(
                st.sampled_from([None, "a", "b", "1", WRITE, SEAL, "x", KEYS_ASSET]).filter(
                    lambda new: new != old and (new or column in ("partition", "run_id"))
                )
            )
        rows[index] = changed(rows[index], **{column: new})
        put_rows(
            database,
            rows,
            rehash=rehashed
            and column != "nodes"
            and all(isinstance(rows[index][i], kind) for i, kind in ((6, str), (7, bytes), (8, bytes))),
        )

    first = attack(change).first
    assert (first.index, first.kind) in {(index, "altered"), (index, "wrong key")}
    assert f"Entry {index} " in first.sentence


@fast
@given(index=index, renumbered=st.booleans(), rehashed=rehash)
def test_a_deleted_entry_is_found_at_its_place(attack, index, renumbered, rehashed):
    def change(database):
        if renumbered:
            rows = rows_of(database)
            put_rows(database, rows[:index] + rows[index + 1 :], rehash=rehashed)
        else:
            database.execute("DELETE FROM mlsec_entries WHERE position = ?", (index,))

    first = attack(change).first
    assert (first.index, first.kind) == (index, "truncated" if index == SIZE - 1 else "removed")


@fast
@given(index=st.integers(0, SIZE), source=index, rehashed=rehash, from_other=st.booleans())
def test_an_inserted_copy_is_found_at_its_place(attack, prepared, index, source, rehashed, from_other):
    def change(database):
        rows = rows_of(database)
        with behind_its_back(prepared.other) as other:
            copy = rows_of(other)[source] if from_other else rows[source]
        put_rows(database, [*rows[:index], copy, *rows[index:]], rehash=rehashed)

    first = attack(change).first
    # A copy in front of its original is the original; what was inserted is then the one behind.
    assert (first.index, first.kind) == (index + (source == index and not from_other), "inserted")


@fast
@given(first=index, second=index, rehashed=rehash)
def test_exchanged_entries_are_found_at_the_first_of_them(attack, first, second, rehashed):
    if first == second:
        return

    def change(database):
        rows = rows_of(database)
        rows[first], rows[second] = rows[second], rows[first]
        put_rows(database, rows, rehash=rehashed)

    found = attack(change).first
    assert (found.index, found.kind) == (min(first, second), "reordered")


@fast
@given(index=index, source=index, rehashed=rehash)
def test_an_old_entry_replayed_in_the_place_of_a_newer_one_is_found(attack, index, source, rehashed):
    if index == source:
        return

    def change(database):
        rows = rows_of(database)
        rows[index] = rows[source]
        put_rows(database, rows, rehash=rehashed)

    found = attack(change).first
    assert (found.index, found.kind) == (index, "altered" if source < index else "removed")


@fast
@given(kept=st.integers(0, SIZE - 1))
def test_a_cut_off_end_is_found_while_its_checkpoints_remain(attack, kept):
    first = attack(lambda database: database.execute("DELETE FROM mlsec_entries WHERE position >= ?", (kept,))).first
    assert (first.index, first.kind) == (kept, "truncated")


@pytest.mark.parametrize("kept", [0, *ENDS[:-1]])
def test_a_ledger_rolled_back_with_its_checkpoints_is_known_to_the_witness_only(attack, kept):
    def change(database):
        database.execute("DELETE FROM mlsec_entries WHERE position >= ?", (kept,))
        database.execute("DELETE FROM mlsec_checkpoints WHERE size > ?", (kept,))

    found = attack(change, witness=True)
    assert (found.rollback, found.first.index, found.first.kind) == ("rolled back", kept, "rolled back")
    assert f"size {SIZE}" in found.first.sentence
    alone = attack(change)
    assert (alone.intact, alone.rollback) == (True, "not verifiable")


def test_a_ledger_wiped_with_its_keys_is_known_to_the_witness(attack):
    def change(database):
        for table in ("entries", "checkpoints", "public_keys", "manifests"):
            database.execute(f"DELETE FROM mlsec_{table}")

    assert attack(change, witness=True).rollback == "rolled back"


def test_a_ledger_replaced_by_another_of_the_same_key_is_a_fork(attack, prepared):
    def change(database):
        database.execute("ATTACH ? AS other", (str(prepared.other),))
        for table in ("entries", "checkpoints"):
            database.execute(f"DELETE FROM main.mlsec_{table}")
            database.execute(f"INSERT INTO main.mlsec_{table} SELECT * FROM other.mlsec_{table}")
        database.commit()

    found = attack(change, witness=True)
    assert (found.first.kind, found.rollback) == ("forked", "rolled back")


@pytest.mark.parametrize("size", ENDS)
def test_a_removed_checkpoint_is_found(attack, size):
    first = attack(lambda database: database.execute("DELETE FROM mlsec_checkpoints WHERE size = ?", (size,))).first
    # Without the newest one, the entries that it covered hang in the air.
    assert (first.index, first.kind) == ((size - 1, "removed") if size != SIZE else (ENDS[-2], "truncated"))


@fast
@given(size=st.sampled_from(ENDS), other=st.sampled_from(ENDS))
def test_a_checkpoint_of_another_size_in_its_place_is_found(attack, size, other):
    if size == other:
        return

    def change(database):
        database.execute(
            "UPDATE mlsec_checkpoints SET note = (SELECT note FROM mlsec_checkpoints WHERE size = ?) WHERE size = ?", (other, size)
        )

    first = attack(change).first
    assert first is not None
    assert first.index == size - 1 if size != SIZE else first.index >= other - 1


@fast
@given(size=st.sampled_from(ENDS), data=st.data())
def test_an_edited_checkpoint_is_found(attack, size, data):
    def change(database):
        note = database.execute("SELECT note FROM mlsec_checkpoints WHERE size = ?", (size,)).fetchone()[0]
        place = data.draw(st.integers(0, len(note) - 1))
        new = note[:place] + data.draw(st.sampled_from("xA\n0 ").filter(lambda sign: sign != note[place])) + note[place + 1 :]
        database.execute("UPDATE mlsec_checkpoints SET note = ? WHERE size = ?", (new, size))

    found = attack(change)
    assert not found.intact


def test_an_inserted_checkpoint_is_found(attack):
    first = attack(
        lambda database: database.execute("INSERT INTO mlsec_checkpoints SELECT 2, note FROM mlsec_checkpoints WHERE size = 3")
    ).first
    assert (first.index, first.kind) == (1, "altered")


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("DELETE FROM mlsec_manifests WHERE digest = ?", "removed"),
        ("UPDATE mlsec_manifests SET content = (SELECT max(content) FROM mlsec_manifests WHERE digest <> ?1) WHERE digest = ?1", "altered"),
        ("UPDATE mlsec_manifests SET content = x'00' WHERE digest = ?", "altered"),
        ("UPDATE mlsec_manifests SET content = 'text' WHERE digest = ?", "altered"),
    ],
)
def test_a_swapped_or_missing_manifest_is_found_at_the_entry_that_names_it(attack, change, kind):
    first = attack(lambda database: database.execute(change, (hash_bytes(b"manifest 7"),))).first
    assert (first.index, first.kind) == (7, kind)


def test_bytes_that_are_no_text_are_located(attack):
    first = attack(lambda database: database.execute("UPDATE mlsec_entries SET asset = CAST(x'ff' AS TEXT) WHERE position = 9")).first
    assert (first.index, first.kind) == (9, "altered")


def test_a_missing_public_key_is_not_passed_over(attack):
    found = attack(lambda database: database.execute("DELETE FROM mlsec_public_keys"))
    assert (found.first.index, found.first.kind) == (0, "wrong key")


def forge(ring: KeyRing, statement: Statement, origin: str, index: int, size: int) -> tuple:
    """A row as the ledger would write it, under another key."""
    payload = sealed_payload(statement, Position(index, origin, None, 1.0, size))
    signature = ring.sealing.sign(pae(payload))
    return (
        index,
        statement.asset,
        statement.partition,
        statement.predicate_type,
        statement.run_id,
        None,
        ring.fingerprint,
        payload,
        signature,
        b"",
    )


def test_a_key_that_lets_itself_in_is_not_trusted(attack, prepared, thief):
    """The attacker signs a keys statement with his own key, seals with it, and signs a new checkpoint."""
    from mlsec_dagster.integrity.checkpoints import parse_checkpoint, sign_checkpoint
    from mlsec_dagster.integrity.keys import ALL_ROLES

    def change(database):
        origin = parse_checkpoint(database.execute("SELECT note FROM mlsec_checkpoints").fetchone()[0]).origin
        change = KeyChange("add", thief.fingerprint, thief.sealing.public.spki, ALL_ROLES)
        rows = rows_of(database)
        rows += [forge(thief, change.to_statement(), origin, SIZE, SIZE + 2), forge(thief, write("a"), origin, SIZE + 1, SIZE + 2)]
        put_rows(database, rows, rehash=True)
        edge = Frontier()
        for row in rows:
            edge.push(leaf_hash(envelope_bytes(row[7], row[6], row[8])))
        note = sign_checkpoint(origin, SIZE + 2, edge.root(), thief.sealing).note
        database.execute("INSERT INTO mlsec_checkpoints VALUES (?, ?)", (SIZE + 2, note))
        database.execute("INSERT INTO mlsec_public_keys VALUES (?, ?)", (thief.fingerprint, thief.sealing.public.spki))

    found = attack(change)
    assert (found.first.index, found.first.kind) == (SIZE, "inserted")
    assert thief.fingerprint in found.first.sentence
    assert (found.problems[1].index, found.problems[1].kind) == (SIZE + 1, "wrong key")


def test_a_public_key_exchanged_under_the_pinned_name_is_not_used(attack, prepared, thief):
    change = "UPDATE mlsec_public_keys SET spki = ?"
    assert attack(lambda database: database.execute(change, (thief.sealing.public.spki,))).first.kind == "wrong key"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE mlsec_entries SET asset = 'c' WHERE position = 20",
        "UPDATE mlsec_entries SET payload = replace(CAST(payload AS TEXT), 'run-10', 'run-11') WHERE position = 20",
        "UPDATE mlsec_entries SET signature = (SELECT signature FROM mlsec_entries WHERE position = 19) WHERE position = 20",
        "UPDATE mlsec_entries SET nodes = zeroblob(32) WHERE position = 19",
        "DELETE FROM mlsec_entries WHERE position = 19",
        "UPDATE mlsec_checkpoints SET note = (SELECT note FROM mlsec_checkpoints WHERE size = 18) WHERE size = 21",
        "DELETE FROM mlsec_public_keys",
        "DELETE FROM mlsec_checkpoints",
    ],
)
def test_a_lookup_refuses_what_it_would_have_to_believe(prepared, tmp_path, change):
    """Entry 20, the newest, is looked up after its row, its neighbour, its key or its checkpoint was changed."""
    file = tmp_path / "copy.db"
    shutil.copyfile(prepared.file, file)
    with behind_its_back(file) as database:
        asset, partition = database.execute("SELECT asset, partition FROM mlsec_entries WHERE position = 20").fetchone()
        database.execute(change)
        if "asset =" in change:
            asset = "c"
    ledger = open_ledger(f"sqlite:///{file}", signer=None, trust=prepared.trust)
    with pytest.raises(LedgerError):
        ledger.latest(asset, partition, {WRITE, SEAL})
    ledger.close()


def test_a_database_that_answers_with_another_subject_is_not_believed(prepared, tmp_path):
    """The table is replaced by a view under which everything is about what is asked for."""
    file = tmp_path / "copy.db"
    shutil.copyfile(prepared.file, file)
    with behind_its_back(file) as database:
        database.execute("ALTER TABLE mlsec_entries RENAME TO hidden")
        database.execute(
            "CREATE VIEW mlsec_entries AS SELECT position, asset COLLATE NOCASE AS asset, partition, type, run_id, previous,"
            " key, payload, signature, nodes FROM hidden"
        )
    ledger = open_ledger(f"sqlite:///{file}", signer=None, trust=prepared.trust)
    with pytest.raises(LedgerError, match="another subject"):
        ledger.latest("A", "1", {WRITE, SEAL})
    with pytest.raises(LedgerError, match="another subject"):
        ledger.latest_by_partition("A", ["1"], {WRITE, SEAL})
    with pytest.raises(LedgerError, match="another subject"):
        list(ledger.history("A"))
    with pytest.raises(LedgerError, match="another subject"):
        ledger.guarded_since("A")
    ledger.close()


def test_an_entry_hidden_in_the_middle_of_a_history_is_missed(prepared, tmp_path):
    file = tmp_path / "copy.db"
    shutil.copyfile(prepared.file, file)
    with behind_its_back(file) as database:
        database.execute("UPDATE mlsec_entries SET asset = 'c' WHERE position = 6")
    ledger = open_ledger(f"sqlite:///{file}", signer=None, trust=prepared.trust)
    with pytest.raises(LedgerError, match=r"Entry 6 .* is missing"):
        list(ledger.history("a"))
    ledger.close()


def test_a_writer_misled_about_the_previous_entry_is_found_out_later(prepared, tmp_path):
    """The index column is changed only while an honest writer looks, then put back."""
    file = tmp_path / "copy.db"
    shutil.copyfile(prepared.file, file)
    ledger = open_ledger(f"sqlite:///{file}", signer=prepared.ring, trust=prepared.trust)
    with behind_its_back(file) as database:
        asset, partition = database.execute("SELECT asset, partition FROM mlsec_entries WHERE position = 20").fetchone()
        database.execute("UPDATE mlsec_entries SET asset = 'c' WHERE position = 20")
    ledger.append([write(asset, partition)])
    with behind_its_back(file) as database:
        database.execute("UPDATE mlsec_entries SET asset = ? WHERE position = 20", (asset,))
    found = verify_ledger(ledger).first
    ledger.close()
    assert (found.index, found.kind) == (SIZE, "altered")
    assert "that is entry 20" in found.sentence


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_done_to_the_rows_is_found(attack, data):
    """Several random changes on top of each other."""
    before: list[tuple] = []
    after: list[tuple] = []

    def change(database):
        rows = rows_of(database)
        before[:] = rows
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, max(len(rows) - 1, 0)))
            what = data.draw(st.sampled_from(["edit", "delete", "insert", "move", "cut"]))
            if what == "edit" and rows:
                payload = rows[place][7]
                rows[place] = changed(rows[place], payload=payload[:10] + bytes([payload[10] ^ 1]) + payload[11:])
            elif what == "delete" and rows:
                del rows[place]
            elif what == "insert" and rows:
                rows.insert(data.draw(st.integers(0, len(rows))), rows[place])
            elif what == "move" and rows:
                rows.insert(data.draw(st.integers(0, len(rows) - 1)), rows.pop(place))
            elif what == "cut":
                rows = rows[: max(place, 1)]
        after[:] = rows
        put_rows(database, rows, rehash=data.draw(rehash))

    found = attack(change)
    if before == after:
        assert found.intact
    else:
        first_difference = next(i for i in range(SIZE + 1) if before[i : i + 1] != after[i : i + 1])
        assert found.first.index == first_difference
