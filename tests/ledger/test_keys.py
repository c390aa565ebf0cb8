"""Keys: made once, read only when nobody else can, and used wherever they lie."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from mlsec_dagster.errors import SigningKeyError
from mlsec_dagster.integrity.keys import KeyRing, create_key_file, fingerprint_of, load_key_file, load_or_create_key_file, public_key
from mlsec_dagster.integrity.statements import WRITE
from mlsec_dagster.integrity.trust import Trust
from mlsec_dagster.integrity.verification import verify_ledger
from tests.ledger.material import write


def private_file(path: Path, private) -> Path:
    path.touch(0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def test_a_new_key_is_private_and_comes_back_the_same(tmp_path):
    path = tmp_path / "keys" / "mlsec.pem"
    made = create_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert load_key_file(path).fingerprint == made.fingerprint
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_key_is_never_overwritten(tmp_path):
    made = create_key_file(tmp_path / "k.pem")
    with pytest.raises(FileExistsError):
        create_key_file(tmp_path / "k.pem")
    assert load_or_create_key_file(tmp_path / "k.pem").fingerprint == made.fingerprint


def test_the_fingerprint_is_what_openssl_and_sha256sum_print(tmp_path):
    made = create_key_file(tmp_path / "k.pem")
    der = subprocess.run(
        ["openssl", "pkey", "-in", tmp_path / "k.pem", "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout
    printed = subprocess.run(["sha256sum"], input=der, check=True, capture_output=True).stdout.decode().split()[0]
    assert made.fingerprint == f"SHA256:{printed}" == fingerprint_of(der)


def test_threads_that_start_at_once_end_up_with_one_key(tmp_path):
    found: set[str] = set()
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        found.add(load_or_create_key_file(tmp_path / "keys" / "k.pem").fingerprint)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_use_is_refused(tmp_path, mode):
    create_key_file(tmp_path / "k.pem")
    (tmp_path / "k.pem").chmod(mode)
    with pytest.raises(SigningKeyError, match=f"mode {mode:04o}, expected 0600.*chmod 600"):
        load_key_file(tmp_path / "k.pem")
    with pytest.raises(SigningKeyError, match="chmod 600"):
        KeyRing.from_uri(f"file2:{tmp_path / 'k.pem'}")


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(SigningKeyError, match=r"no signing key at .*k\.pem.*mlsec keys new"):
        KeyRing.from_file(tmp_path / "k.pem")


def test_a_file_that_is_no_key_is_refused_without_showing_it(tmp_path):
    (tmp_path / "k.pem").touch(0o600)
    (tmp_path / "k.pem").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n")
    with pytest.raises(SigningKeyError, match="no usable private key") as caught:
        load_key_file(tmp_path / "k.pem")
    assert "c2VjcmV0" not in str(caught.value)
    with pytest.raises(SigningKeyError, match="not a regular file"):
        load_key_file("/dev/null")


def test_a_key_of_another_kind_is_pointed_to_its_uri(tmp_path):
    path = private_file(tmp_path / "p256.pem", generate_private_key(SECP256R1()))
    with pytest.raises(SigningKeyError, match=r"not Ed25519.*file2:"):
        load_key_file(path)


@pytest.mark.parametrize("private", [generate_private_key(SECP256R1()), generate_rsa_key(65537, 2048)], ids=["ecdsa", "rsa"])
def test_a_key_behind_a_uri_seals_and_verifies(opened, tmp_path, private):
    path = private_file(tmp_path / "key.pem", private)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    ring = KeyRing.from_uri(f"file2:{path}", public_key=pem)
    ledger = opened(signer=ring, trust=Trust({ring.fingerprint}))
    ledger.append([write(), write()])
    reader = opened(signer=None, trust=Trust({ring.fingerprint}))
    assert reader.latest("raw/flights", None, {WRITE}).index == 1
    assert verify_ledger(reader).intact


def test_a_key_uri_needs_a_known_scheme_and_the_right_public_key(tmp_path):
    create_key_file(tmp_path / "k.pem")
    other = create_key_file(tmp_path / "other.pem").public.spki
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    pem = load_der_public_key(other).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(SigningKeyError, match=r"No signer is known.*awskms"):
        KeyRing.from_uri("carrier-pigeon:x")
    with pytest.raises(SigningKeyError, match="needs its public key"):
        KeyRing.from_uri("awskms:alias/x")
    with pytest.raises(SigningKeyError, match="cannot be used"):
        KeyRing.from_uri(f"file2:{tmp_path / 'k.pem'}", public_key=pem)
    with pytest.raises(SigningKeyError, match="not PEM"):
        KeyRing.from_uri(f"file2:{tmp_path / 'k.pem'}", public_key=b"x")


def test_a_ring_shows_no_private_key(ring: KeyRing):
    assert "sign=" not in repr(ring)
    assert "private" not in repr(ring).lower()
    assert repr(ring.sealing.public.spki) not in repr(ring)


def test_the_public_key_that_is_read_is_the_one_of_its_fingerprint(ring: KeyRing):
    assert public_key(ring.sealing.public.spki) == ring.sealing.public
    with pytest.raises(SigningKeyError, match="cannot be read"):
        public_key(b"no key")


def test_signing_with_a_key_file_does_not_load_securesystemslib(tmp_path):
    code = (
        "import sys; from mlsec_dagster.integrity.keys import load_or_create_key_file;"
        f"load_or_create_key_file({str(tmp_path / 'k.pem')!r}).sign(b'x');"
        "assert 'securesystemslib' not in sys.modules and 'sqlalchemy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "."})
