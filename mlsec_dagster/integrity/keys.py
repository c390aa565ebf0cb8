"""Signing keys: where they lie, what they may do, how they sign.

    ring = KeyRing.from_file(load_or_create_key_file(path))         # one Ed25519 key for every role
    ring = KeyRing.from_uri("awskms:alias/mlsec", public_key=pem)   # any securesystemslib signer

A key is known by its fingerprint, "SHA256:" and the hexadecimal SHA-256 of its SubjectPublicKeyInfo in DER, as printed by
`openssl pkey -pubin -in key.pub -outform DER | sha256sum`. Which keys are *trusted* is decided elsewhere (`trust`).

The default key file is signed with through `cryptography` directly: the same Ed25519 as securesystemslib's `file2:` signer,
without half a second of imports in every process and without a hexadecimal detour per signature. Every URI goes through
securesystemslib's `Signer` interface.
"""

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from mlsec_dagster.errors import SigningKeyError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes


class Role(StrEnum):
    """What a key may sign."""

    SEALING = "sealing"
    BASELINES = "baselines"
    CHECKPOINTS = "checkpoints"


SEALING: Final = Role.SEALING
BASELINES: Final = Role.BASELINES
CHECKPOINTS: Final = Role.CHECKPOINTS
ALL_ROLES: Final = frozenset(Role)

_BASELINE_TYPES: Final = "urn:mlsec:baseline"


@lru_cache(maxsize=256)
def role_for(predicate_type: str) -> Role:
    """The role that must sign statements of this type. `KEYS` statements follow a rule of their own, see `trust`."""
    return BASELINES if predicate_type.startswith(_BASELINE_TYPES) else SEALING


def fingerprint_of(spki: bytes) -> str:
    """Fingerprint of a public key given as DER SubjectPublicKeyInfo."""
    return f"SHA256:{sha256(spki).hexdigest()}"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key and how to check with it.

    Attributes:
        fingerprint: "SHA256:<hex>".
        spki: SubjectPublicKeyInfo, DER.
        algorithm: "ed25519", or securesystemslib's scheme name.
        raw: The 32 bytes of an Ed25519 key, else the DER.
    """

    fingerprint: str
    spki: bytes = field(repr=False)
    algorithm: str
    raw: bytes = field(repr=False)
    _check: Callable[[bytes, bytes], None] = field(repr=False, compare=False)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` over `data` was made with this key."""
        try:
            self._check(signature, data)
        except Exception:  # Every library has its own; a check that fails in any way is not a valid signature.
            return False
        return True


@lru_cache(maxsize=256)
def public_key(spki: bytes) -> PublicKey:
    """Read a public key from DER SubjectPublicKeyInfo.

    Raises:
        SigningKeyError: Not a key, or of a kind that cannot sign here.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        return _from_crypto(load_der_public_key(spki), spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningKeyError(f"A public key cannot be read ({error}); expected SubjectPublicKeyInfo in DER.") from error


def _from_crypto(key: "PublicKeyTypes", spki: bytes) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if isinstance(key, Ed25519PublicKey):
        return PublicKey(fingerprint_of(spki), spki, "ed25519", key.public_bytes_raw(), key.verify)

    from securesystemslib.signer import Signature, SSlibKey  # pyright: ignore[reportPrivateImportUsage]

    # The scheme follows from the key alone, so that nobody can choose a weaker one by editing the store.
    known = SSlibKey.from_crypto(key)

    def check(signature: bytes, data: bytes) -> None:
        known.verify_signature(Signature(known.keyid, signature.hex()), data)

    return PublicKey(fingerprint_of(spki), spki, known.scheme, spki, check)


def _spki(key: "PublicKeyTypes") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key in use: its public half and a function that signs.

    Attributes:
        public: The public half.
        sign: Signs bytes.
        concurrent: Whether several threads may call `sign` at once, and gain by it. Not so for sessions with devices and services.
    """

    public: PublicKey
    sign: Callable[[bytes], bytes] = field(repr=False, compare=False)
    concurrent: bool = False

    @property
    def fingerprint(self) -> str:
        return self.public.fingerprint


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys that a process signs with. A role without a key of its own is signed with the sealing key.

    Attributes:
        sealing: Signs statements about datasets.
        baselines: Signs baselines.
        checkpoints: Signs the checkpoint of every transaction.
    """

    sealing: SigningKey
    baselines: SigningKey | None = None
    checkpoints: SigningKey | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """One key file for all roles.

        Raises:
            SigningKeyError: The file is missing, readable by others, or holds no private key.
        """
        return cls(load_key_file(path))

    @classmethod
    def from_uri(cls, uri: str, *, public_key: bytes | str | None = None) -> Self:
        """One securesystemslib key URI for all roles.

        Args:
            uri: `file2:<path>`, `awskms:…`, `gcpkms:…`, `azurekms://…`, `hashivault:…`, `hsm:…`.
            public_key: The public half as PEM. Needed for everything but `file2:`, for it is the key that will be pinned.

        Raises:
            SigningKeyError: The URI is unknown, the key cannot be reached, or the public key is missing or another one.
        """
        return cls(load_key_uri(uri, public_key=public_key))

    def key_for(self, role: Role) -> SigningKey:
        """The key that signs for `role`."""
        chosen = {SEALING: self.sealing, BASELINES: self.baselines, CHECKPOINTS: self.checkpoints}[role]
        return chosen or self.sealing

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the sealing key; with one key for everything, the one to pin."""
        return self.sealing.fingerprint

    @property
    def roles(self) -> dict[str, frozenset[Role]]:
        """The roles in which each key of the ring signs, by fingerprint."""
        held: dict[str, set[Role]] = {}
        for role in Role:
            held.setdefault(self.key_for(role).fingerprint, set()).add(role)
        return {fingerprint: frozenset(roles) for fingerprint, roles in held.items()}

    @property
    def publics(self) -> dict[str, PublicKey]:
        """The public halves, by fingerprint."""
        return {key.fingerprint: key.public for key in map(self.key_for, Role)}


def create_key_file(path: str | os.PathLike[str]) -> SigningKey:
    """Make a new Ed25519 key: PKCS#8 PEM without passphrase, mode 0600, never over an existing file.

    The file appears complete or not at all, also when several processes try at once: it is written beside its place and
    linked there, which fails when the name is taken.

    Raises:
        FileExistsError: There is a file of this name already; nothing was written.
        SigningKeyError: The directory cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    target = Path(path)
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    beside = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            os.link(beside, target)
        finally:
            beside.unlink()
    except FileExistsError:
        raise
    except OSError as error:
        raise SigningKeyError(
            f"A signing key cannot be created at {target}: {error.strerror}. Choose a directory that this process may write."
        ) from error
    return SigningKey(_from_crypto(private.public_key(), _spki(private.public_key())), private.sign, concurrent=True)


def load_or_create_key_file(path: str | os.PathLike[str]) -> SigningKey:
    """The key at `path`, made on first use. Processes that start at once end up with the same key.

    Raises:
        SigningKeyError: As `create_key_file` and `load_key_file`.
    """
    if not os.path.lexists(path):
        try:
            return create_key_file(path)
        except FileExistsError:
            pass
    return load_key_file(path)


def _read_private_pem(path: Path) -> bytes:
    """Bytes of a private key file, after its permissions were checked on the very descriptor that is read."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SigningKeyError(f"The signing key {path} is not a regular file; expected a PEM file with mode 0600.")
            mode = stat.S_IMODE(status.st_mode)
            if mode & 0o077:
                raise SigningKeyError(
                    f"The signing key {path} can be used by other accounts (mode {mode:04o}, expected 0600). "
                    "Anyone of them may have copied it: "
                    f"make a new key with `mlsec keys rotate`, or run `chmod 600 {path}` if you are sure."
                )
            return file.read(1 << 20)
    except FileNotFoundError as error:
        raise SigningKeyError(
            f"There is no signing key at {path}. Create one with `mlsec keys new`, or restore it from your backup."
        ) from error
    except OSError as error:
        raise SigningKeyError(f"The signing key {path} cannot be read: {error.strerror}. Check its owner and its directory.") from error


def _load_private(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read_private_pem(path)
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The reason is left out on purpose: a parser's message may quote what it read.
        raise SigningKeyError(
            f"The file {path} holds no usable private key; expected PKCS#8 PEM without passphrase, as `mlsec keys new` writes it."
        ) from None


def load_key_file(path: str | os.PathLike[str]) -> SigningKey:
    """Read an Ed25519 private key file (PKCS#8 PEM, mode 0600).

    Raises:
        SigningKeyError: Missing, usable by group or others, not a private key, or not Ed25519.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = _load_private(Path(path))
    if not isinstance(private, Ed25519PrivateKey):
        raise SigningKeyError(f"The key in {path} is not Ed25519. Use it as the URI file2:{path}, or make a new one with `mlsec keys new`.")
    return SigningKey(_from_crypto(private.public_key(), _spki(private.public_key())), private.sign, concurrent=True)


def load_key_uri(uri: str, *, public_key: bytes | str | None = None) -> SigningKey:
    """A key behind a securesystemslib signer URI. See `KeyRing.from_uri`.

    Raises:
        SigningKeyError: The URI is unknown, the key cannot be reached, or the public key is missing or another one.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signer, SSlibKey  # pyright: ignore[reportPrivateImportUsage]

    scheme, _, place = uri.partition(":")
    if scheme not in SIGNER_FOR_URI_SCHEME:
        raise SigningKeyError(f"No signer is known for the key URI {uri!r}; expected one of: {', '.join(sorted(SIGNER_FOR_URI_SCHEME))}.")
    if public_key is None:
        if scheme != "file2":
            raise SigningKeyError(
                f"The key URI {uri!r} needs its public key as PEM beside it, so that the key that signs is the key you mean."
            )
        crypto: Any = _load_private(Path(os.environ.get("CRYPTO_SIGNER_PATH_PREFIX", ""), place)).public_key()
    else:
        try:
            crypto = load_pem_public_key(public_key.encode() if isinstance(public_key, str) else public_key)
        except ValueError as error:
            raise SigningKeyError(f"The public key given for {uri!r} is not PEM SubjectPublicKeyInfo.") from error
        if scheme == "file2":
            _read_private_pem(Path(os.environ.get("CRYPTO_SIGNER_PATH_PREFIX", ""), place))
    public = _from_crypto(crypto, _spki(crypto))
    try:
        signer = Signer.from_priv_key_uri(uri, SSlibKey.from_crypto(crypto))
    except Exception as error:  # Every signer has errors of its own: network, PIN, missing package, wrong key.
        raise SigningKeyError(
            f"The key {uri!r} cannot be used ({type(error).__name__}: {error}). Check the URI, the access to it, and its public key."
        ) from error

    def sign(data: bytes) -> bytes:
        try:
            return bytes.fromhex(signer.sign(data).signature)
        except Exception as error:
            raise SigningKeyError(
                f"The key {uri!r} did not sign ({type(error).__name__}: {error}). Nothing was recorded; try again when it is reachable."
            ) from error

    return SigningKey(public, sign)
