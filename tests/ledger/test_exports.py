"""An exported entry stands alone: an auditor needs the document and the pinned fingerprint."""

import base64
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity import rotation
from mlsec_dagster.integrity.exports import verify_export
from mlsec_dagster.integrity.keys import KeyRing, create_key_file
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.integrity.trust import Trust
from tests.ledger.material import write


def round_trip(document: dict) -> dict:
    return json.loads(json.dumps(document))


def test_every_entry_can_be_handed_out_and_verified_alone(ledger: Ledger, trust: Trust):
    ledger.append([write(run_id=str(i)) for i in range(7)])
    for index in range(7):
        assert verify_export(round_trip(ledger.export(index)), trust) == ledger.entry(index)


def test_a_document_from_after_a_rotation_verifies_with_either_pin(ledger: Ledger, tmp_path, ring: KeyRing):
    ledger.append([write(run_id="1")])
    new = KeyRing(create_key_file(tmp_path / "new.pem"))
    rotation.rotate(ledger, new)
    ledger.append([write(run_id="2")])
    for pin in (ring, new):
        for index in range(4):
            assert verify_export(round_trip(ledger.export(index)), Trust({pin.fingerprint})).index == index


def test_a_document_means_nothing_to_somebody_who_pins_another_key(ledger: Ledger, thief: KeyRing):
    ledger.append([write()])
    with pytest.raises(LedgerError, match="not signed by any key that is pinned"):
        verify_export(ledger.export(0), Trust({thief.fingerprint}))


def test_a_document_of_another_ledger_is_refused_where_the_origin_is_pinned(ledger: Ledger, ring: KeyRing):
    ledger.append([write()])
    with pytest.raises(LedgerError, match="expected 'mine'"):
        verify_export(ledger.export(0), Trust({ring.fingerprint}, origin="mine"))


def test_there_is_no_document_for_an_entry_that_is_not_there(ledger: Ledger):
    ledger.append([write()])
    for index in (-1, 1):
        with pytest.raises(LedgerError, match="no entry"):
            ledger.export(index)


@pytest.mark.parametrize("wrong", [{}, {"format": "x"}, [], {"format": "mlsec-dagster ledger entry v1"}])
def test_what_is_no_document_is_refused_with_a_sentence(wrong, trust):
    with pytest.raises(LedgerError, match="document"):
        verify_export(wrong, trust)


def leaves(value: object, path: tuple = ()) -> list[tuple]:
    if isinstance(value, dict):
        return [found for name, item in value.items() for found in leaves(item, (*path, name))]
    if isinstance(value, list):
        return [found for place, item in enumerate(value) for found in leaves(item, (*path, place))]
    return [path]


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_document_says_anything_else(ledger: Ledger, trust: Trust, data):
    if ledger.checkpoint() is None:
        ledger.append([write(run_id=str(i)) for i in range(5)])
    document = round_trip(ledger.export(3))
    path = data.draw(st.sampled_from(leaves(document)))
    place = document
    for step in path[:-1]:
        place = place[step]
    old = place[path[-1]]
    if isinstance(old, int):
        place[path[-1]] = data.draw(st.sampled_from([old + 1, old - 1, None, True, "3", 3.0]))
    else:
        spot = data.draw(st.integers(0, len(old) - 1))
        place[path[-1]] = data.draw(
            st.sampled_from([old[:spot] + "A" + old[spot + 1 :], old[:spot], "", None, base64.b64encode(b"x").decode()])
        )
    if document == ledger.export(3):
        return
    try:
        assert verify_export(document, trust) == ledger.entry(3)
    except LedgerError:
        return
    # What may differ is only what nothing depends on: signatures by keys that nobody knows.
    assert path[0] == "checkpoint"


def test_an_auditor_verifies_a_document_by_the_written_format_alone(ledger: Ledger, trust: Trust):
    """As docs/ledger.md tells it, with none of our code: the standard library, and one Ed25519 verification."""
    from hashlib import sha256

    from cryptography.hazmat.primitives.serialization import load_der_public_key

    ledger.append([write(run_id=str(i)) for i in range(11)])
    (pinned,) = trust.pinned
    document = round_trip(ledger.export(6))

    spki = base64.b64decode(document["public_keys"][pinned])
    assert "SHA256:" + sha256(spki).hexdigest() == pinned
    key = load_der_public_key(spki)

    envelope = document["entry"]["envelope"]
    payload = base64.b64decode(envelope["payload"])
    key.verify(
        base64.b64decode(envelope["signatures"][0]["sig"]), b"DSSEv1 28 application/vnd.in-toto+json %d %b" % (len(payload), payload)
    )

    node = sha256(b"\0" + json.dumps(envelope, sort_keys=True, separators=(",", ":")).encode()).digest()
    text, _, line = document["checkpoint"].rpartition("\n\n")
    origin, size, root = text.split("\n")
    place, last = document["entry"]["index"], int(size) - 1
    for encoded in document["entry"]["inclusion_proof"]:
        other = base64.b64decode(encoded)
        if place % 2 or place == last:
            node = sha256(b"\1" + other + node).digest()
            while place % 2 == 0 and place:
                place, last = place // 2, last // 2
        else:
            node = sha256(b"\1" + node + other).digest()
        place, last = place // 2, last // 2
    assert (last, base64.b64encode(node).decode()) == (0, root)

    dash, name, signature = line.split()
    assert (dash, name) == ("—", origin)
    assert base64.b64decode(signature)[:4] == sha256(origin.encode() + b"\n\1" + spki[-32:]).digest()[:4]
    key.verify(base64.b64decode(signature)[4:], (text + "\n").encode())
    position = json.loads(payload)["predicate"]["ledger"]
    assert (position["origin"], position["index"], position["size"]) == (origin, 6, int(size))
