"""What is appended comes back, authenticated; what is not as it was signed does not come back."""

import json
import os
import threading
from dataclasses import replace
from multiprocessing import get_context

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.errors import ConfigurationError, LedgerError, SigningKeyError, StoreError
from mlsec_dagster.integrity import merkle
from mlsec_dagster.integrity.digests import hash_bytes
from mlsec_dagster.integrity.entries import envelope_bytes, open_envelope
from mlsec_dagster.integrity.keys import KeyRing
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.integrity.statements import ADOPTION, KEYS, SEAL, WRITE, Statement
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.verification import verify_ledger
from tests.ledger.material import behind_its_back, write

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def test_the_newest_entry_about_a_subject_comes_back(ledger: Ledger):
    ledger.append([write("a", "1", "first"), write("a", "2", "first"), write("b", None, "first")])
    ledger.append([write("a", "1", "second")])
    entry = ledger.latest("a", "1", {WRITE})
    assert entry is not None
    assert (entry.index, entry.previous, entry.statement) == (3, 0, write("a", "1", "second"))
    assert ledger.latest("a", "1", {WRITE}, run_id="first").index == 0
    assert ledger.latest("a", "1", {WRITE}, run_id="third") is None
    assert ledger.latest("a", "1", {SEAL}) is None
    assert ledger.latest("a", None, {WRITE}) is None
    assert ledger.latest("b", None, {WRITE, SEAL}).index == 2


def test_an_empty_ledger_has_nothing(ledger: Ledger):
    assert ledger.latest("a", None, {WRITE}) is None
    assert ledger.latest_by_partition("a", ["1"], {WRITE}) == {}
    assert (list(ledger.history("a")), ledger.assets(), ledger.checkpoint(), ledger.guarded_since("a")) == ([], [], None, None)
    assert verify_ledger(ledger).intact


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), unique=True, min_size=1, max_size=5))
def test_a_partition_may_have_any_name(ledger: Ledger, names):
    receipt = ledger.append([write("a", name) for name in names])
    found = ledger.latest_by_partition("a", names, {WRITE})
    assert found == {entry.statement.partition: entry for entry in receipt.entries}
    assert ledger.latest("a", names[0], {WRITE}) == receipt.entries[0]


def test_many_partitions_come_back_with_few_queries(ledger: Ledger):
    from sqlalchemy import event

    ledger.append([write("a", str(i % 300), f"run-{i}") for i in range(600)] + [write("a", None)])
    queries: list[str] = []
    event.listen(ledger.database.engine, "before_cursor_execute", lambda *call: queries.append(call[2]))
    found = ledger.latest_by_partition("a", [None, "nowhere", *(str(i) for i in range(300))], {WRITE})
    assert {partition: entry.index for partition, entry in found.items()} == {None: 600, **{str(i): 300 + i for i in range(300)}}
    assert len(queries) < 15


def test_the_history_of_an_asset_is_complete_and_in_order(ledger: Ledger):
    for run in range(3):
        ledger.append(
            [write("a", "1", f"{run}"), write("a", "2", f"{run}"), Statement("a", "1", SEAL, {}, {"verdict": "passed"}), write("b")]
        )
    assert [entry.index for entry in ledger.history("a")] == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert [entry.index for entry in ledger.history("a", "2")] == [1, 5, 9]
    assert [entry.index for entry in ledger.history("a", "1", {SEAL})] == [2, 6, 10]
    assert ledger.assets() == ["a", "b"]
    assert ledger.guarded_since("a") == ledger.entry(0).recorded_at


def test_a_long_history_is_read_in_pieces(ledger: Ledger):
    ledger.append([write("a", None, str(i)) for i in range(1203)])
    assert [entry.index for entry in ledger.history("a", None)] == list(range(1203))


def test_a_manifest_comes_back_by_its_address(ledger: Ledger):
    content = b"manifest" * 1000
    ledger.append([write(manifest=hash_bytes(content))], [content])
    assert ledger.manifest(hash_bytes(content)) == content
    with pytest.raises(LedgerError, match="missing"):
        ledger.manifest(hash_bytes(b"another"))


@given(
    asset=st.text(),
    partition=st.none() | st.text(),
    digests=st.dictionaries(st.text(), st.text()),
    predicate=st.dictionaries(st.text().filter(lambda name: name != "ledger"), JSON),
)
def test_a_statement_survives_its_canonical_bytes(asset, partition, digests, predicate):
    try:
        statement = Statement(asset, partition, SEAL, digests, predicate)
        data = statement.to_bytes()
    except ConfigurationError:  # Lone surrogates, which JSON in UTF-8 cannot carry.
        return
    assert Statement.from_bytes(data) == statement
    assert Statement.from_bytes(data).to_bytes() == data
    assert json.loads(data)["_type"] == "https://in-toto.io/Statement/v1"


def test_statements_that_say_the_same_have_the_same_bytes():
    first = Statement("a", None, SEAL, {"x": "1", "y": "2"}, {"b": {"d": 1, "c": 2}, "a": 3})
    second = Statement("a", None, SEAL, {"y": "2", "x": "1"}, {"a": 3, "b": {"c": 2, "d": 1}})
    assert first.to_bytes() == second.to_bytes()


def test_the_leaf_is_the_canonical_json_of_the_envelope():
    data = envelope_bytes(b'{"x":1}', "SHA256:ab", b"\0\1")
    envelope = json.loads(data)
    assert json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode() == data
    assert open_envelope(envelope) == (b'{"x":1}', "SHA256:ab", b"\0\1")


def test_what_is_signed_is_the_dsse_encoding(ledger: Ledger):
    from securesystemslib.dsse import Envelope

    ledger.append([write()])
    envelope = Envelope.from_dict(ledger.export(0)["entry"]["envelope"])
    (signature,) = envelope.signatures.values()
    assert ledger.signer.sealing.public.verifies(bytes.fromhex(signature.signature), envelope.pae())


def test_an_append_without_statements_or_with_a_reserved_name_is_refused(ledger: Ledger):
    with pytest.raises(ConfigurationError, match="nothing to append"):
        ledger.append([])
    with pytest.raises(ConfigurationError, match="'ledger'"):
        ledger.append([write(ledger={})])
    with pytest.raises(ConfigurationError, match="Keys are changed"):
        ledger.append([Statement("a", None, KEYS, {}, {})])
    with pytest.raises(ConfigurationError, match="NUL"):
        ledger.append([write("a\0b")])
    with pytest.raises(ConfigurationError, match="JSON"):
        ledger.append([write(), write(value=object())])
    assert ledger.checkpoint() is None


@pytest.mark.parametrize("count", [3, 100, 1200])
@pytest.mark.parametrize("place", [0.1, 0.9])
def test_a_signature_that_fails_in_the_middle_of_a_batch_records_nothing(opened, ring: KeyRing, trust: Trust, count, place):
    broken = write("broken")

    def sign(data: bytes) -> bytes:
        if b'"broken"' in data:
            raise SigningKeyError("The device was pulled out.")
        return ring.sealing.sign(data)

    ledger: Ledger = opened(signer=KeyRing(replace(ring.sealing, sign=sign)))
    ledger.append([write("before")])
    batch = [write("a", str(number)) for number in range(count)]
    threads = threading.active_count()
    with pytest.raises(SigningKeyError, match="pulled out"):
        ledger.append([*batch[: int(count * place)], broken, *batch[int(count * place) :]])
    assert threading.active_count() == threads
    assert ledger.checkpoint().size == 1
    assert verify_ledger(opened()).intact
    assert [entry.index for entry in ledger.append(batch).entries] == list(range(1, count + 1))
    assert verify_ledger(opened()).intact


def test_only_a_key_that_allows_it_signs_in_other_threads(opened, ring: KeyRing):
    """A session with a device or a service belongs to the thread that opened it."""

    def threads_of(concurrent: bool) -> set[int]:
        seen: set[int] = set()

        def sign(data: bytes) -> bytes:
            seen.add(threading.get_ident())
            return ring.sealing.sign(data)

        ledger: Ledger = opened(signer=KeyRing(replace(ring.sealing, sign=sign, concurrent=concurrent)))
        ledger.append([write("a", str(number)) for number in range(600)])
        return seen - {threading.get_ident()}

    assert threads_of(concurrent=False) == set()
    assert threads_of(concurrent=True) != set()
    assert verify_ledger(opened()).intact


def test_what_was_not_committed_is_nobodys_predecessor(opened, ring: KeyRing, thief: KeyRing, trust: Trust):
    """The checkpoint's signature fails when the entries are in the transaction already."""
    fails = [False]

    def sign(data: bytes) -> bytes:
        if fails[0]:
            raise SigningKeyError("The service was away.")
        return thief.sealing.sign(data)

    both = Trust({ring.fingerprint: {"sealing"}, thief.fingerprint: {"checkpoints"}})
    ledger: Ledger = opened(trust=both, signer=KeyRing(ring.sealing, checkpoints=replace(thief.sealing, sign=sign)))
    ledger.append([write("a")])
    fails[0] = True
    with pytest.raises(SigningKeyError, match="away"):
        ledger.append([write("a"), write("b"), write("b")])
    fails[0] = False
    assert [entry.previous for entry in ledger.append([write("a"), write("b")]).entries] == [0, None]
    assert verify_ledger(ledger).intact


def test_ledgers_that_append_by_turns_write_one_history(opened):
    """Each finds a head that is not the one it committed last, and each knows other predecessors."""
    ledgers: list[Ledger] = [opened(), opened(), opened()]
    for turn in range(24):
        receipt = ledgers[turn * turn % 3].append([write("a", str(turn % 2)), write("b")])
        assert [entry.previous for entry in receipt.entries] == [2 * (turn - 2) if turn > 1 else None, 2 * turn - 1 if turn else None]
    assert verify_ledger(opened()).intact
    assert verify_ledger(opened()).size == 48


def test_a_head_that_somebody_else_wrote_is_verified_before_it_is_built_upon(opened, ledger: Ledger, thief: KeyRing, file, monkeypatch):
    from mlsec_dagster.integrity import knowledge
    from mlsec_dagster.integrity.checkpoints import sign_checkpoint

    verified: list[int] = []
    original = knowledge.signed_by
    monkeypatch.setattr(knowledge, "signed_by", lambda head, keys: verified.append(head.size) or original(head, keys))
    ledger.append([write("a")])
    ledger.append([write("a")])
    assert verified == []  # It is byte for byte what this very process signed and committed.
    opened().append([write("b")])
    assert verified == [2]
    ledger.append([write("a")])
    assert verified == [2, 3]
    head = ledger.checkpoint()
    forged = sign_checkpoint(head.origin, head.size, head.root, thief.sealing)
    with behind_its_back(file) as database:
        database.execute("UPDATE mlsec_checkpoints SET note = ? WHERE size = ?", (forged.note, forged.size))
    with pytest.raises(LedgerError, match="not signed by any trusted key"):
        ledger.append([write("a")])


def test_a_history_can_be_read_on_from_a_place(ledger: Ledger, file):
    for run in range(4):
        ledger.append([write("a", "1", str(run)), write("a", "2", str(run))])
    assert [entry.index for entry in ledger.history("a", start=5)] == [5, 6, 7]
    assert [entry.index for entry in ledger.history("a", "2", start=5)] == [5, 7]
    assert list(ledger.history("a", start=8)) == []
    with behind_its_back(file) as database:
        database.execute("UPDATE mlsec_entries SET asset = 'x' WHERE position = 5")
    with pytest.raises(LedgerError, match="Entry 5 about 'a' is missing"):
        list(ledger.history("a", start=5))


def test_a_ledger_continues_only_what_it_was(opened, ledger: Ledger, tmp_path):
    ledger.append([write("a"), write("b")])
    then = verify_ledger(ledger)
    ledger.append([write("c")])
    reader: Ledger = opened(signer=None)
    reader.require_continuation(then.origin, then.size, then.root)
    other: Ledger = opened(f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(LedgerError, match="is empty now"):
        other.require_continuation(then.origin, then.size, then.root)
    other.append([write("a"), write("b"), write("c")])
    with pytest.raises(LedgerError, match="rolled back or replaced"):
        other.require_continuation(then.origin, then.size, then.root)
    with pytest.raises(LedgerError, match="rolled back or replaced"):
        reader.require_continuation(then.origin, 4, then.root)
    with pytest.raises(LedgerError, match="forked"):
        reader.require_continuation(then.origin, then.size, bytes(32))


def test_a_large_batch_keeps_its_order(opened, ledger: Ledger):
    batch = [write(f"asset-{number % 7}", str(number)) for number in range(1201)]
    assert [entry.statement for entry in ledger.append(batch).entries] == batch
    assert verify_ledger(opened()).intact
    for number in (0, 250, 499, 500, 749, 1200):
        assert ledger.latest(f"asset-{number % 7}", str(number), {WRITE}).index == number


def test_a_ledger_open_for_reading_cannot_be_written(opened, ledger: Ledger):
    ledger.append([write()])
    reader = opened(signer=None)
    assert reader.latest("raw/flights", None, {WRITE}).index == 0
    with pytest.raises(SigningKeyError, match="reading only"):
        reader.append([write()])
    with pytest.raises(StoreError, match="reading only"), reader.database.write():
        pass


def test_a_key_that_is_not_trusted_writes_nothing(opened, ledger: Ledger, thief: KeyRing):
    ledger.append([write()])
    with pytest.raises(SigningKeyError, match="neither is pinned"):
        opened(signer=thief).append([write()])
    assert ledger.checkpoint().size == 1


def test_keys_sign_only_in_their_roles(opened, ring: KeyRing, thief: KeyRing):
    pins = {ring.fingerprint: {"sealing"}, thief.fingerprint: {"checkpoints"}}
    with pytest.raises(SigningKeyError, match="not for checkpoints"):
        opened(trust=Trust(pins)).append([write()])
    both = opened(trust=Trust(pins), signer=KeyRing(ring.sealing, checkpoints=thief.sealing))
    both.append([write()])
    assert verify_ledger(both).intact
    with pytest.raises(SigningKeyError, match="not for baselines"):
        both.append([Statement("a", None, "urn:mlsec:baseline:v1", {}, {})])


def test_two_ledgers_of_one_key_cannot_be_exchanged(opened, ledger: Ledger, tmp_path, trust: Trust, ring: KeyRing):
    ledger.append([write()])
    pinned = Trust({ring.fingerprint}, origin=ledger.checkpoint().origin)
    assert opened(trust=pinned).latest("raw/flights", None, {WRITE}) is not None
    other = opened(f"sqlite:///{tmp_path}/other.db")
    other.append([write()])
    with pytest.raises(LedgerError, match="another ledger"):
        opened(f"sqlite:///{tmp_path}/other.db", trust=pinned).latest("raw/flights", None, {WRITE})
    assert verify_ledger(opened(f"sqlite:///{tmp_path}/other.db", trust=pinned)).first.kind == "forked"


def test_a_process_does_not_follow_a_ledger_that_was_rolled_back_or_replaced(opened, ledger: Ledger, file):
    ledger.append([write(run_id="1")])
    ledger.append([write(run_id="2")])
    reader = opened(signer=None)
    assert reader.checkpoint().size == 2
    with behind_its_back(file) as database:
        database.execute("DELETE FROM mlsec_entries WHERE position = 1")
        database.execute("DELETE FROM mlsec_checkpoints WHERE size = 2")
    with pytest.raises(LedgerError, match="rolled back"):
        reader.latest("raw/flights", None, {WRITE})
    with pytest.raises(LedgerError, match="rolled back"):
        ledger.append([write(run_id="3")])
    opened().append([write(run_id="fork")])
    with pytest.raises(LedgerError, match=r"seen before|put in its place|another root|forked"):
        reader.latest("raw/flights", None, {WRITE})


def test_a_writer_never_signs_over_an_edited_store(opened, ledger: Ledger, file):
    """An attacker who recomputes every hash still cannot get an honest writer to sign the result."""
    ledger.append([write(run_id=str(i)) for i in range(4)])
    with behind_its_back(file) as database:
        edge = merkle.Frontier()
        rows = database.execute("SELECT position, payload, key, signature FROM mlsec_entries").fetchall()
        for position, payload, key, signature in rows:
            forged = payload.replace(b'"run_id":"2"', b'"run_id":"X"')
            nodes = edge.push(merkle.leaf_hash(envelope_bytes(forged, key, signature)))
            database.execute("UPDATE mlsec_entries SET payload = ?, nodes = ? WHERE position = ?", (forged, nodes, position))
    with pytest.raises(LedgerError, match="altered"):
        opened().append([write(run_id="5")])


def test_an_entry_that_was_slipped_in_behind_the_checkpoint_stops_the_writer(ledger: Ledger, file):
    ledger.append([write()])
    with behind_its_back(file) as database:
        columns = "asset, partition, type, run_id, previous, key, payload, signature, nodes"
        database.execute(f"INSERT INTO mlsec_entries SELECT 1, {columns} FROM mlsec_entries")
    with pytest.raises(LedgerError, match="inserted"):
        ledger.append([write()])


def test_threads_share_a_ledger(ledger: Ledger):
    def work(name: str) -> None:
        for i in range(10):
            ledger.append([write(name, None, str(i))])
            assert ledger.latest(name, None, {WRITE}).statement.run_id == str(i)

    threads = [threading.Thread(target=work, args=(f"asset-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify_ledger(ledger).intact
    assert ledger.checkpoint().size == 40


def append_in_child(ledger: Ledger, name: str) -> None:
    ledger.append([write(name)])
    os._exit(0 if ledger.latest(name, None, {WRITE}) else 1)


def test_a_forked_process_opens_connections_of_its_own(ledger: Ledger):
    ledger.append([write("parent")])
    children = [get_context("fork").Process(target=append_in_child, args=(ledger, f"child-{i}")) for i in range(3)]
    for child in children:
        child.start()
    ledger.append([write("parent", None, "again")])
    for child in children:
        child.join(30)
        assert child.exitcode == 0
    assert verify_ledger(ledger).intact
    assert ledger.checkpoint().size == 5


def test_nothing_printed_holds_a_password(trust: Trust, ring: KeyRing):
    from mlsec_dagster.integrity.ledger import open_ledger

    with pytest.raises(StoreError) as caught:
        open_ledger("postgresql+psycopg://mlsec:s3cret%2Fpw@127.0.0.1:1/x?connect_timeout=1&sslpassword=s3cret", signer=ring, trust=trust)
    shown = repr(caught.value) + str(caught.value.__cause__) + str(caught.value.__context__ and caught.value.__suppress_context__)
    assert "s3cret" not in shown
    assert "postgresql+psycopg://mlsec:***@127.0.0.1:1/x" in str(caught.value)
    assert "check that it is there" in str(caught.value)


def test_the_predicate_is_kept_exactly(ledger: Ledger):
    predicate = {"run_id": "r", "inputs": [{"asset": "x", "partition": None, "rows": 3.5}], "nested": {"ä": [1, None, True]}}
    ledger.append([Statement("a", None, WRITE, {"blake3": "00"}, predicate)])
    assert ledger.entry(0).statement.predicate == predicate
    assert msgspec.json.decode(ledger.entry(0).statement.to_bytes())["predicate"] == predicate


def test_adoption_is_a_statement_like_others(ledger: Ledger):
    ledger.append(
        [Statement("a", "1", ADOPTION, {"blake3": "00"}, {"trusted_from": "2026-01-01", "reason": "first day", "adopted_by": "sam"})]
    )
    assert ledger.latest("a", "1", {WRITE, SEAL, ADOPTION}).statement.predicate["adopted_by"] == "sam"
