"""Checkpoints are C2SP signed notes: the specification's own examples, and strictness against everything near them."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.checkpoints import key_id, parse_checkpoint, sign_checkpoint, signed_by
from mlsec_dagster.integrity.keys import KeyRing, public_key

# https://c2sp.org/tlog-checkpoint
EXAMPLE = """\
example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
"""
# A verifier key and a signature of https://c2sp.org/signed-note and its Go implementation.
VERIFIER = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"


def test_the_example_of_the_specification_is_read():
    checkpoint = parse_checkpoint(EXAMPLE)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert base64.b64encode(checkpoint.root) == b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    assert EXAMPLE.startswith(checkpoint.text + "\n")


def test_the_key_id_is_that_of_a_published_verifier_key():
    name, identity, encoded = VERIFIER.split("+", 2)
    raw = base64.b64decode(encoded)[1:]
    spki = Ed25519PublicKey.from_public_bytes(raw).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key_id(name, public_key(spki)).hex() == identity


def test_a_checkpoint_is_signed_and_verified(ring: KeyRing, thief: KeyRing):
    made = sign_checkpoint("mlsec-dagster/1", 7, b"\7" * 32, ring.sealing)
    read = parse_checkpoint(made.note)
    assert read == made
    assert signed_by(read, [thief.sealing.public]) is None
    assert signed_by(read, [thief.sealing.public, ring.sealing.public]) == ring.sealing.public


def test_a_further_signature_by_an_unknown_key_is_ignored(ring: KeyRing, thief: KeyRing):
    made = sign_checkpoint("mlsec-dagster/1", 7, b"\7" * 32, ring.sealing)
    cosigned = made.note + sign_checkpoint("mlsec-dagster/1", 7, b"\7" * 32, thief.sealing).note.rpartition("\n\n")[2]
    assert signed_by(parse_checkpoint(cosigned), [ring.sealing.public]) == ring.sealing.public


def test_the_wrong_signature_of_a_known_key_rejects_the_note(ring: KeyRing):
    made = sign_checkpoint("mlsec-dagster/1", 7, b"\7" * 32, ring.sealing)
    with pytest.raises(LedgerError, match="wrong signature"):
        signed_by(parse_checkpoint(made.note.replace("\n7\n", "\n8\n", 1)), [ring.sealing.public])


def test_a_key_that_is_not_ed25519_signs_checkpoints_too(tmp_path):
    private = generate_private_key(SECP256R1())
    path = tmp_path / "p256.pem"
    path.touch(0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    ring = KeyRing.from_uri(f"file2:{path}")
    made = sign_checkpoint("mlsec-dagster/1", 7, b"\7" * 32, ring.sealing)
    assert signed_by(parse_checkpoint(made.note), [ring.sealing.public]) == ring.sealing.public


@pytest.mark.parametrize(
    "wrong",
    [
        EXAMPLE.replace("20852163", "020852163"),
        EXAMPLE.replace("20852163", "-1"),
        EXAMPLE.replace("20852163", "\uff11\uff12"),
        EXAMPLE.replace("20852163", "9" * 30),
        EXAMPLE.replace("CsUY", "CsU"),
        EXAMPLE.replace("q2I=\n\n", "q2J=\n\n"),
        EXAMPLE.replace("\n\n", "\nextension\n\n"),
        EXAMPLE.replace("\n\n", "\n"),
        EXAMPLE.replace("example.com/behind-the-sofa\n", "\n", 1),
        EXAMPLE.replace("example.com", "exa mple.com"),
        EXAMPLE.replace("example.com", "exa+mple.com"),
        EXAMPLE.replace("\n", "\r\n"),
        EXAMPLE.rstrip("\n"),
        "",
        "\n\n",
    ],
)
def test_what_is_nearly_a_checkpoint_is_none(wrong: str):
    with pytest.raises(LedgerError, match="malformed"):
        parse_checkpoint(wrong)


@given(st.text(max_size=300))
def test_no_text_makes_the_parser_fail_in_another_way(text: str):
    try:
        checkpoint = parse_checkpoint(text)
        signed_by(checkpoint, [])
    except LedgerError:
        return
    assert text.startswith(checkpoint.text)
