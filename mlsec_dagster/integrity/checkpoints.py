"""Checkpoints: the size and root of the ledger, signed, in the text form that transparency logs share.

    mlsec-dagster/5f2b8c0d9e1f4a76
    4000
    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

    — mlsec-dagster/5f2b8c0d9e1f4a76 Az3grlgtzPICa5OS8npVmf1Myq/5IZni…

This is a C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint) as a C2SP signed note (https://c2sp.org/signed-note): three
lines, an empty line, signature lines. The key name is the origin.
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.keys import PublicKey, SigningKey
from mlsec_dagster.integrity.merkle import HASH_BYTES

_DASH: Final = "\N{EM DASH} "
_MAX_NOTE: Final = 64 * 1024
_MAX_SIZE: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A statement of the ledger's signer: with `size` entries, the root was `root`.

    Reading one proves nothing; `signed_by` does.

    Attributes:
        origin: Identity of the ledger.
        size: Number of entries.
        root: RFC 9162 root over them, 32 bytes.
        note: The whole signed note.
    """

    origin: str
    size: int
    root: bytes
    note: str = field(repr=False)

    @property
    def text(self) -> str:
        """What is signed: everything before the empty line, with its last newline."""
        return checkpoint_text(self.origin, self.size, self.root)


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """The three signed lines."""
    return f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"


def key_id(name: str, key: PublicKey) -> bytes:
    """The four bytes that announce a key in a signature line.

    Ed25519 is type 0x01; ECDSA, by the specification, the start of the key's own digest; anything else is type 0xff with a
    longer name after it.
    """
    if key.algorithm == "ed25519":
        return sha256(name.encode() + b"\n\x01" + key.raw).digest()[:4]
    if key.algorithm.startswith("ecdsa"):
        return sha256(key.spki).digest()[:4]
    return sha256(name.encode() + b"\n\xffmlsec-dagster " + key.algorithm.encode() + b"\n" + key.spki).digest()[:4]


def sign_checkpoint(origin: str, size: int, root: bytes, key: SigningKey) -> Checkpoint:
    """Sign size and root under the name of the ledger."""
    text = checkpoint_text(origin, size, root)
    signature = base64.b64encode(key_id(origin, key.public) + key.sign(text.encode())).decode()
    return Checkpoint(origin, size, root, f"{text}\n{_DASH}{origin} {signature}\n")


def _malformed(why: str) -> LedgerError:
    return LedgerError(f"A checkpoint is malformed: {why}. It was altered, or is not a checkpoint.")


def parse_checkpoint(note: str) -> Checkpoint:
    """Read a signed note as a checkpoint; strict, and without checking any signature.

    Raises:
        LedgerError: Not a C2SP checkpoint.
    """
    if len(note) > _MAX_NOTE or any(ord(sign) < 0x20 and sign != "\n" for sign in note):
        raise _malformed("it is too long or holds control characters")
    text, blank, signatures = note.rpartition("\n\n")
    lines = text.split("\n")
    if not blank or not signatures.endswith("\n") or len(lines) < 3 or not all(lines):
        raise _malformed("expected origin, size, root, an empty line and signatures")
    origin, size, root = lines[:3]
    if len(lines) > 3:
        raise _malformed("it has extension lines, which this ledger never writes")
    if not valid_origin(origin):
        raise _malformed(f"{origin!r} cannot be the name of a ledger")
    if not (size.isascii() and size.isdigit()) or (size[0] == "0" and size != "0") or len(size) > 19 or int(size) >= _MAX_SIZE:
        raise _malformed(f"{size!r} is not a size")
    try:
        digest = base64.b64decode(root, validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != HASH_BYTES or base64.b64encode(digest).decode() != root:
        raise _malformed("the root is not the base64 of 32 bytes")
    return Checkpoint(origin, int(size), digest, note)


def valid_origin(origin: str) -> bool:
    """Whether a text can be a key name: not empty, no white space, no plus sign."""
    return bool(origin) and "+" not in origin and not any(sign.isspace() for sign in origin)


def _signatures(note: str) -> list[tuple[str, bytes, bytes]]:
    found: list[tuple[str, bytes, bytes]] = []
    for line in note.rpartition("\n\n")[2].splitlines():
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        if not line.startswith(_DASH) or not name or len(data) < 5:
            raise _malformed("a signature line is not an em dash, a name and a base64 signature")
        found.append((name, data[:4], data[4:]))
    return found


def signed_by(checkpoint: Checkpoint, keys: Iterable[PublicKey]) -> PublicKey | None:
    """The first of `keys` that signed the checkpoint, or None. Signatures by unknown keys are ignored.

    Raises:
        LedgerError: A signature of a known key is there and wrong, or a signature line is malformed.
    """
    lines = _signatures(checkpoint.note)
    text = checkpoint.text.encode()
    signer: PublicKey | None = None
    for key in keys:
        known = key_id(checkpoint.origin, key)
        for name, identity, signature in lines:
            if name == checkpoint.origin and identity == known:
                if not key.verifies(signature, text):
                    raise LedgerError(
                        f"The checkpoint of size {checkpoint.size} carries a wrong signature of {key.fingerprint}: it was altered."
                    )
                signer = signer or key
    return signer
