"""Which keys are trusted, for what, and until when.

    trust = Trust({"SHA256:5c9d…"})                    # the fingerprint comes from outside: configuration, a colleague, paper
    book = trust.resolve(key_changes)
    book.refusal(fingerprint, Role.SEALING, index=41)  # None, or the reason

Trust starts from pinned fingerprints. Further keys come in through `KEYS` statements in the ledger, in its order:

- A key grants only roles that it holds itself, and withdraws only keys whose roles it holds (or itself). So a stolen
  sealing key cannot make itself a checkpoint key, and a key that nobody vouched for can do nothing at all.
- A revocation names `trusted_size`, the size of the last witnessed checkpoint: what the key signed at or after it is not
  trusted. Keys that it let in at or after it are void too, except the one that signed the revocation (the successor).
- A revocation by a trusted key vouches for the older signatures of the key that it revokes. So after a rotation one pins
  the new key alone, and the old entries stay verifiable.
"""

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mlsec_dagster.errors import ConfigurationError, LedgerError, SigningKeyError
from mlsec_dagster.integrity.keys import ALL_ROLES, PublicKey, Role, fingerprint_of, public_key
from mlsec_dagster.integrity.statements import KEYS, KEYS_ASSET, Statement

ADD: Final = "add"
REVOKE: Final = "revoke"


@dataclass(frozen=True, slots=True)
class KeyChange:
    """What a `KEYS` statement says.

    Attributes:
        action: "add" or "revoke".
        fingerprint: The key it is about.
        spki: That key's SubjectPublicKeyInfo, DER.
        roles: What the key may sign.
        trusted_size: For a revocation, the ledger size from which on the key is not trusted.
        reason: For people.
    """

    action: str
    fingerprint: str
    spki: bytes = field(repr=False)
    roles: frozenset[Role]
    trusted_size: int | None = None
    reason: str = ""

    def to_statement(self) -> Statement:
        predicate: dict[str, Any] = {
            "action": self.action,
            "fingerprint": self.fingerprint,
            "public_key": base64.b64encode(self.spki).decode(),
            "roles": sorted(self.roles),
            "reason": self.reason,
        }
        if self.trusted_size is not None:
            predicate["trusted_size"] = self.trusted_size
        return Statement(KEYS_ASSET, None, KEYS, {"sha256": self.fingerprint.removeprefix("SHA256:")}, predicate)

    @classmethod
    def from_statement(cls, statement: Statement) -> "KeyChange":
        """Read a `KEYS` statement.

        Raises:
            LedgerError: It is none, or contradicts itself.
        """
        said = statement.predicate
        try:
            change = cls(
                action=said["action"],
                fingerprint=said["fingerprint"],
                spki=base64.b64decode(said["public_key"], validate=True),
                roles=frozenset(Role(role) for role in said["roles"]),
                trusted_size=said.get("trusted_size"),
                reason=str(said.get("reason", "")),
            )
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise LedgerError(f"A keys statement cannot be read ({error}).") from error
        sized = isinstance(change.trusted_size, int) and change.trusted_size >= 0
        if (
            statement.predicate_type != KEYS
            or statement.asset != KEYS_ASSET
            or statement.partition is not None
            or change.action not in (ADD, REVOKE)
            or sized is not (change.action == REVOKE)
            or fingerprint_of(change.spki) != change.fingerprint
        ):
            raise LedgerError("A keys statement contradicts itself: action, trusted size, or fingerprint and key do not fit.")
        return change


@dataclass(frozen=True, slots=True)
class SignedKeyChange:
    """A `KeyChange` whose signature was verified with the key that it names as its signer, trusted or not."""

    index: int
    signer: str
    change: KeyChange


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key with what it may do.

    Attributes:
        fingerprint: The key.
        roles: What it may sign.
        since: First entry it is trusted for.
        until: Entries from here on are not trusted, or None for no end.
        added_by: Who let it in; None for a pinned key.
    """

    fingerprint: str
    roles: frozenset[Role]
    since: int = 0
    until: int | None = None
    added_by: str | None = None


@dataclass(frozen=True, slots=True)
class KeyBook:
    """The trusted keys of one ledger.

    Attributes:
        keys: By fingerprint.
        refused: The changes of keys that were not accepted, by index, with kind and reason.
        accepted: The indexes of those that were.
    """

    keys: Mapping[str, TrustedKey]
    refused: Mapping[int, tuple[str, str]]
    accepted: frozenset[int]

    def refusal(self, fingerprint: str, role: Role, index: int) -> tuple[str, str] | None:
        """Why a signature of this key for entry `index` is not trusted: (kind, sentence). None if it is.

        For a checkpoint of size n, `index` is n - 1, its last entry.
        """
        key = self.keys.get(fingerprint)
        if key is None or index < key.since:
            return "wrong key", f"is signed by {fingerprint}, which neither is pinned nor was let in by a trusted key"
        if role not in key.roles:
            return "wrong key", f"is signed by {fingerprint}, which is trusted for {', '.join(sorted(key.roles))} but not for {role}"
        if key.until is not None and index >= key.until:
            return "revoked key", f"is signed by {fingerprint}, which was revoked: what it signed from entry {key.until} on is not trusted"
        return None


@dataclass(frozen=True, slots=True, init=False)
class Trust:
    """What somebody outside the ledger knows about it.

    Attributes:
        pinned: Fingerprints to start from, each with its roles.
        origin: Identity of the ledger, if known. Without it another ledger signed by the same key could be put in its place.
    """

    pinned: Mapping[str, frozenset[Role]]
    origin: str | None

    def __init__(self, pinned: Collection[str] | Mapping[str, Collection[str]], *, origin: str | None = None) -> None:
        """Pin keys.

        Args:
            pinned: Fingerprints ("SHA256:<64 hexadecimal digits>"), trusted in all roles, or a mapping of fingerprint to roles.
            origin: First line of the ledger's checkpoints, if known.

        Raises:
            ConfigurationError: No fingerprint, or something that is none.
        """
        if isinstance(pinned, str):
            pinned = {pinned}
        given: dict[str, Collection[str]] = {}
        for fingerprint in pinned:
            given[fingerprint] = pinned[fingerprint] if isinstance(pinned, Mapping) else ALL_ROLES
        if not given:
            raise ConfigurationError(
                "No key fingerprint is pinned, so nothing in the ledger could be trusted. Pin the one that `mlsec keys show` prints."
            )
        checked: dict[str, frozenset[Role]] = {}
        for fingerprint, roles in given.items():
            name, _, digits = fingerprint.partition(":")
            if name != "SHA256" or len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
                raise ConfigurationError(
                    f"{fingerprint!r} is not a key fingerprint; "
                    "expected SHA256: and 64 lower-case hexadecimal digits, as `mlsec keys show` prints it."
                )
            try:
                checked[fingerprint] = frozenset(Role(role) for role in roles)
            except ValueError as error:
                raise ConfigurationError(f"{error}; a key's roles are {', '.join(Role)}.") from error
        object.__setattr__(self, "pinned", checked)
        object.__setattr__(self, "origin", origin)

    def resolve(self, changes: Iterable[SignedKeyChange]) -> KeyBook:
        """Follow the changes, in the order of the ledger, from the pinned keys."""
        ordered = sorted(changes, key=lambda signed: signed.index)
        pinned = {fingerprint: TrustedKey(fingerprint, roles) for fingerprint, roles in self.pinned.items()}
        vouched: dict[str, TrustedKey] = {}
        while True:
            book, found = _follow({**vouched, **pinned}, ordered)
            new = {fingerprint: key for fingerprint, key in found.items() if fingerprint not in vouched and fingerprint not in pinned}
            if not new:
                return book
            vouched |= new  # A key that vouches backwards may explain statements before its own: look again.


def _follow(start: Mapping[str, TrustedKey], ordered: Sequence[SignedKeyChange]) -> tuple[KeyBook, dict[str, TrustedKey]]:
    keys = dict(start)
    refused: dict[int, tuple[str, str]] = {}
    vouched: dict[str, TrustedKey] = {}

    def void(added_by: str, since: int, successor: str) -> None:
        for other in list(keys.values()):
            if other.added_by == added_by and other.since >= since and other.fingerprint != successor:
                del keys[other.fingerprint]
                void(other.fingerprint, 0, successor)

    for signed in ordered:
        change, signer, index = signed.change, keys.get(signed.signer), signed.index
        if signer is None or index < signer.since:
            refused[index] = "wrong key", f"changes the trusted keys but is signed by {signed.signer}, which is not trusted"
        elif change.action == ADD and change.fingerprint in start and change.roles <= start[change.fingerprint].roles:
            continue  # It says what the reader knows from elsewhere: how a stolen key let in its successor, which is pinned now.
        elif signer.until is not None and index >= signer.until:
            refused[index] = (
                "revoked key",
                f"changes the trusted keys but is signed by {signed.signer}, which is revoked from entry {signer.until} on",
            )
        elif change.action == ADD:
            if not change.roles <= signer.roles:
                refused[index] = "wrong key", f"is signed by {signed.signer}, which gives roles that it does not hold itself"
            elif change.fingerprint not in keys:
                keys[change.fingerprint] = TrustedKey(change.fingerprint, change.roles, index, None, signed.signer)
        else:
            size, target = change.trusted_size or 0, keys.get(change.fingerprint)
            if size > index:
                refused[index] = "wrong key", f"trusts the revoked key up to entry {size}, which did not exist yet"
            elif signed.signer != change.fingerprint and not (target.roles if target else change.roles) <= signer.roles:
                refused[index] = "wrong key", f"is signed by {signed.signer}, which may not withdraw a key with more roles than its own"
            elif target is None:
                vouched[change.fingerprint] = TrustedKey(change.fingerprint, change.roles, 0, size, signed.signer)
            else:
                keys[change.fingerprint] = replace(target, until=size if target.until is None else min(size, target.until))
                void(change.fingerprint, size, signed.signer)
    return KeyBook(keys, refused, frozenset(signed.index for signed in ordered) - refused.keys()), vouched


def readable_keys(blobs: Mapping[str, bytes]) -> dict[str, PublicKey]:
    """Public keys by fingerprint. A blob that is not the key of its fingerprint is left out: it then counts as missing."""
    found: dict[str, PublicKey] = {}
    for fingerprint, spki in blobs.items():
        if fingerprint_of(spki) == fingerprint:
            try:
                found[fingerprint] = public_key(spki)
            except SigningKeyError:
                continue
    return found
