"""Keys of pseudonyms: a file that lists them, the newest first, and the one that tells accesses apart.

    create_pseudonym_keys(path)                       # mode 0600, never over an existing file
    keys = PseudonymKeys.from_file(path)
    keys = PseudonymKeys.from_environment("MLSEC_PSEUDONYM_KEYS")   # the file's bytes in base64
    add_pseudonym_key(path)                           # rotation: new values get the new key, the old ones can still be revealed

The file is text, a line each: `pseudonym <id> <base64 of 64 bytes>` and once `access <base64 of 32 bytes>`. A line of the former kind
that is taken out makes all its pseudonyms irreversible. The latter must never change: by it an access is known when it is delivered
again, whichever key its pseudonyms have.
"""

import os
import secrets
import stat
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final, Self

from mlsec_dagster.errors import SigningKeyError

KEY_BYTES: Final = 64
ID_BYTES: Final = 4
_ACCESS_BYTES: Final = 32
_HEADER: Final = "# Keys of pseudonyms of the mlsec audit trail. Who has this file can reveal all of them; without it nobody can."


@dataclass(frozen=True, slots=True)
class PseudonymKeys:
    """Keys in use.

    Attributes:
        keys: Key by its id, the newest first: that one makes new pseudonyms.
        access: Keys the identities of accesses.
    """

    keys: dict[bytes, bytes] = field(repr=False)
    access: bytes = field(repr=False)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a key file.

        Raises:
            SigningKeyError: It is missing, readable by others, or no such file.
        """
        return cls.from_bytes(_read(Path(path)), f"the file {os.fspath(path)}")

    @classmethod
    def from_environment(cls, name: str) -> Self:
        """Read the bytes of a key file, base64, from an environment variable.

        Raises:
            SigningKeyError: It is not set, or holds something else.
        """
        try:
            data = b64decode(os.environ[name], validate=True)
        except KeyError as error:
            raise SigningKeyError(
                f"The environment variable {name} is not set; expected the bytes of a pseudonym key file in base64."
            ) from error
        except (Base64Error, ValueError):
            raise SigningKeyError(f"The environment variable {name} is not base64; expected the bytes of a pseudonym key file.") from None
        return cls.from_bytes(data, f"the environment variable {name}")

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Self:
        """Read the bytes of a key file.

        Args:
            data: The bytes.
            where: Where they come from, for a message.

        Raises:
            SigningKeyError: They are no such file. What they are is not quoted.
        """
        keys: dict[bytes, bytes] = {}
        access = b""
        try:
            for line in data.decode("ascii").splitlines():
                match line.split():
                    case [] | ["#", *_]:
                        continue
                    case ["pseudonym", name, text]:
                        key = b64decode(text, validate=True)
                        if len(key) != KEY_BYTES or bytes.fromhex(name) != _id(key) or _id(key) in keys:
                            raise ValueError
                        keys[_id(key)] = key
                    case ["access", text] if not access:
                        access = b64decode(text, validate=True)
                    case _:
                        raise ValueError
            if not keys or len(access) != _ACCESS_BYTES:
                raise ValueError
        except ValueError:
            raise SigningKeyError(
                f"What is in {where} are no keys of pseudonyms; expected lines as `create_pseudonym_keys` writes them, each key once."
            ) from None
        return cls(keys, access)

    def to_bytes(self) -> bytes:
        """As a key file."""
        lines = [_HEADER, *(f"pseudonym {name.hex()} {b64encode(key).decode()}" for name, key in self.keys.items())]
        return "\n".join([*lines, f"access {b64encode(self.access).decode()}", ""]).encode()


def create_pseudonym_keys(path: str | os.PathLike[str]) -> PseudonymKeys:
    """Make a key file with new keys, mode 0600.

    Raises:
        SigningKeyError: There is a file of this name, or the directory cannot be written. Nothing was written.
    """
    keys = PseudonymKeys(dict([_new()]), secrets.token_bytes(_ACCESS_BYTES))
    target = Path(path)
    beside = _beside(target, keys)
    try:
        os.link(beside, target)  # Fails when the name is taken: pseudonyms without their key are nothing.
    except OSError as error:
        raise SigningKeyError(f"The keys cannot be created at {target}: {error.strerror}. An existing file is never replaced.") from error
    finally:
        beside.unlink()
    return keys


def add_pseudonym_key(path: str | os.PathLike[str]) -> PseudonymKeys:
    """Put a new key before those of a key file.

    Raises:
        SigningKeyError: The file cannot be read or replaced. It is as it was.
    """
    old = PseudonymKeys.from_file(path)
    keys = PseudonymKeys({**dict([_new()]), **old.keys}, old.access)
    target = Path(path)
    beside = _beside(target, keys)
    try:
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SigningKeyError(f"The keys at {target} cannot be replaced: {error.strerror}. They are as they were.") from error
    return keys


def _new() -> tuple[bytes, bytes]:
    key = secrets.token_bytes(KEY_BYTES)
    return _id(key), key


def _id(key: bytes) -> bytes:
    """It follows from the key, so that two that are different cannot have one, and tells nothing about it."""
    return blake2b(key, digest_size=ID_BYTES, person=b"mlsec:pseudonym").digest()


def _beside(target: Path, keys: PseudonymKeys) -> Path:
    beside = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(8)}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(keys.to_bytes())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SigningKeyError(f"The keys cannot be written beside {target}: {error.strerror}. Nothing was changed.") from error
    return beside


def _read(path: Path) -> bytes:
    """Bytes of the file, after its permissions were checked on the very descriptor that is read."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SigningKeyError(f"The pseudonym keys {path} are not a regular file; expected one with mode 0600.")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise SigningKeyError(
                    f"The pseudonym keys {path} can be read by other accounts (mode {stat.S_IMODE(status.st_mode):04o}, expected 0600). "
                    f"Run `chmod 600 {path}`; whoever has copied them can reveal every pseudonym."
                )
            return file.read(1 << 20)
    except OSError as error:
        raise SigningKeyError(f"The pseudonym keys {path} cannot be read: {error.strerror}. Restore them from your backup.") from error
