"""Trust starts at the pin and follows signed changes only; rotation and revocation end what they say they end."""

import itertools

import pytest

from mlsec_dagster.errors import ConfigurationError, LedgerError, SigningKeyError
from mlsec_dagster.integrity import rotation
from mlsec_dagster.integrity.keys import ALL_ROLES, SEALING, KeyRing, Role, create_key_file
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.integrity.statements import WRITE, Statement
from mlsec_dagster.integrity.trust import ADD, REVOKE, KeyChange, SignedKeyChange, Trust
from mlsec_dagster.integrity.verification import verify_ledger
from mlsec_dagster.integrity.witness import Witness
from tests.ledger.material import write

A, B, C, T = (f"SHA256:{letter * 64}" for letter in "abcd")
SEALS = frozenset({SEALING})


def add(index: int, signer: str, key: str, roles: frozenset[Role] = ALL_ROLES) -> SignedKeyChange:
    return SignedKeyChange(index, signer, KeyChange(ADD, key, b"", roles))


def end(index: int, signer: str, key: str, size: int, roles: frozenset[Role] = ALL_ROLES) -> SignedKeyChange:
    return SignedKeyChange(index, signer, KeyChange(REVOKE, key, b"", roles, size))


@pytest.fixture
def new(tmp_path) -> KeyRing:
    return KeyRing(create_key_file(tmp_path / "new.pem"))


def test_a_key_let_in_by_a_trusted_one_is_trusted_from_there_on():
    book = Trust({A}).resolve([add(5, A, B, SEALS)])
    assert book.refusal(B, SEALING, 5) is None
    assert book.refusal(B, SEALING, 4)[0] == "wrong key"
    assert book.refusal(B, Role.CHECKPOINTS, 9)[0] == "wrong key"


def test_a_key_that_nobody_vouches_for_can_let_nobody_in():
    book = Trust({A}).resolve([add(1, T, T), add(2, T, B), end(3, T, A, 0)])
    assert set(book.keys) == {A}
    assert set(book.refused) == {1, 2, 3}


def test_a_key_gives_only_roles_that_it_holds():
    book = Trust({A: ["sealing"]}).resolve([add(1, A, T, ALL_ROLES), add(2, A, B, SEALS)])
    assert set(book.keys) == {A, B}
    assert book.refused[1][0] == "wrong key"


def test_a_key_withdraws_only_keys_that_hold_no_more_than_itself():
    book = Trust({A}).resolve([add(1, A, B, SEALS), end(2, B, A, 0), end(3, B, B, 3, SEALS)])
    assert book.keys[A].until is None
    assert book.keys[B].until == 3


def test_what_a_revoked_key_signed_from_the_trusted_size_on_is_not_trusted():
    book = Trust({A}).resolve([add(1, A, B), end(9, B, A, 6)])
    assert book.refusal(A, SEALING, 5) is None
    assert book.refusal(A, SEALING, 6)[0] == "revoked key"


def test_keys_that_a_thief_let_in_are_void_and_the_successor_is_not():
    book = Trust({A}).resolve([add(7, A, T), add(8, T, C), add(9, A, B), end(10, B, A, 6)])
    assert set(book.keys) == {A, B}


def test_pinning_the_successor_keeps_the_past_and_shuts_the_thief_out():
    """Even when the thief, who has the old key, was faster in withdrawing the new one."""
    changes = [add(7, A, T), add(8, A, B), end(9, T, B, 8), end(10, B, A, 6)]
    book = Trust({B}).resolve(changes)
    assert book.refusal(A, SEALING, 5) is None
    assert book.refusal(A, SEALING, 6)[0] == "revoked key"
    assert book.refusal(B, SEALING, 50) is None
    assert T not in book.keys


def test_a_chain_of_rotations_is_followed_from_either_end():
    changes = [add(5, A, B), end(6, B, A, 6), add(15, B, C), end(16, C, B, 16)]
    for pin in (A, C):
        book = Trust({pin}).resolve(changes)
        assert [book.refusal(key, SEALING, index) for key, index in ((A, 5), (B, 10), (C, 20))] == [None] * 3
        assert book.refusal(A, SEALING, 6)[0] == book.refusal(B, SEALING, 16)[0] == "revoked key"


def test_a_revocation_cannot_trust_a_key_into_the_future():
    assert Trust({A}).resolve([add(1, A, B), end(5, A, B, 100)]).refused[5][0] == "wrong key"


def test_no_order_of_a_strangers_changes_makes_him_trusted():
    changes = [add(1, T, T), add(2, T, A), end(3, T, A, 0), add(4, A, B), add(5, C, T)]
    for order in itertools.permutations(range(5)):
        moved = [SignedKeyChange(place, one.signer, one.change) for place, one in zip(order, changes, strict=True)]
        assert T not in Trust({A}).resolve(moved).keys


@pytest.mark.parametrize("wrong", [set(), {"x"}, {"SHA256:" + "A" * 64}, {"SHA256:" + "a" * 63}, "SHA256:x"])
def test_a_pin_that_is_no_fingerprint_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="mlsec keys show"):
        Trust(wrong)


def test_a_keys_statement_that_contradicts_itself_is_not_read(ring: KeyRing):
    good = KeyChange(ADD, ring.fingerprint, ring.sealing.public.spki, ALL_ROLES).to_statement()
    assert KeyChange.from_statement(good).fingerprint == ring.fingerprint
    for name, value in {"fingerprint": A, "roles": ["king"], "action": "x", "trusted_size": 3, "public_key": "AA=="}.items():
        with pytest.raises(LedgerError):
            KeyChange.from_statement(Statement(good.asset, None, good.predicate_type, good.digests, {**good.predicate, name: value}))


def test_after_a_rotation_both_pins_verify_and_the_old_key_writes_nothing(opened, ledger: Ledger, ring, new):
    stale = opened()
    stale.append([write(run_id="1")])
    ledger.append([write(run_id="2")])
    rotation.rotate(ledger, new, reason="yearly")
    ledger.append([write(run_id="3")])
    with pytest.raises(SigningKeyError, match="revoked"):
        stale.append([write(run_id="4")])
    for pin in (ring, new):
        reader = opened(signer=None, trust=Trust({pin.fingerprint}))
        assert verify_ledger(reader).intact
        assert [entry.statement.run_id for entry in reader.history("raw/flights")] == ["1", "2", "3"]


def test_what_a_stolen_key_signed_after_the_last_witnessed_checkpoint_is_not_trusted(opened, tmp_path, ring, new):
    ledger = opened(witness=Witness(tmp_path / "witness"))
    ledger.append([write("kept", None, "1")])
    ledger.witness_now()
    ledger.append([write("doubtful", None, "2")])
    rotation.rotate(ledger, new, reason="stolen", trusted_size=rotation.last_witnessed_size(ledger))
    for pin in (ring, new):
        reader = opened(signer=None, trust=Trust({pin.fingerprint}), witness=ledger.witness)
        assert reader.latest("kept", None, {WRITE}).index == 0
        with pytest.raises(LedgerError, match="revoked"):
            reader.latest("doubtful", None, {WRITE})
        found = verify_ledger(reader)
        assert [(problem.index, problem.kind) for problem in found.problems] == [(1, "revoked key"), (1, "revoked key")]
        assert found.rollback == "verified"
    ledger.append([write("doubtful", None, "3")])
    assert opened(signer=None, trust=Trust({new.fingerprint})).latest("doubtful", None, {WRITE}).statement.run_id == "3"


def test_a_further_key_is_let_in_and_withdrawn_again(opened, tmp_path, new):
    ledger = opened(witness=Witness(tmp_path / "witness"))
    rotation.add_key(ledger, new.sealing.public, frozenset({SEALING}), reason="second site")
    second = opened(signer=KeyRing(new.sealing, checkpoints=ledger.signer.sealing))
    second.append([write(run_id="1")])
    with pytest.raises(SigningKeyError, match="not for checkpoints"):
        opened(signer=new).append([write()])
    ledger.witness_now()
    rotation.revoke(ledger, new.fingerprint, reason="site closed")
    assert ledger.latest("raw/flights", None, {WRITE}).index == 1
    with pytest.raises(SigningKeyError, match="revoked"):
        second.append([write(run_id="2")])
    assert verify_ledger(ledger).intact


def test_a_sealing_key_cannot_make_itself_more(opened, ledger: Ledger, new):
    rotation.add_key(ledger, new.sealing.public, frozenset({SEALING}))
    limited = opened(signer=KeyRing(new.sealing, checkpoints=ledger.signer.sealing))
    change = KeyChange(ADD, new.fingerprint, new.sealing.public.spki, ALL_ROLES)
    with pytest.raises(SigningKeyError, match="does not hold itself"):
        limited.append_signed(lambda _: [(change.to_statement(), new.sealing)], limited.signer)


def test_a_revocation_needs_a_size_or_a_witness_and_a_known_key(ledger: Ledger, new):
    with pytest.raises(SigningKeyError, match="not a trusted key"):
        rotation.revoke(ledger, new.fingerprint)
    rotation.add_key(ledger, new.sealing.public, ALL_ROLES)
    with pytest.raises(ConfigurationError, match="No witness"):
        rotation.revoke(ledger, new.fingerprint)
    with pytest.raises(SigningKeyError, match="rotate it instead"):
        rotation.revoke(ledger, ledger.signer.fingerprint)
    with pytest.raises(SigningKeyError, match="new keys are the old ones"):
        rotation.rotate(ledger, ledger.signer)
    rotation.revoke(ledger, new.fingerprint, trusted_size=1)
    assert ledger.book().keys[new.fingerprint].until == 1
