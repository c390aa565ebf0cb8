"""Changing the trusted keys of a ledger. Every change is a signed entry of the ledger itself.

    rotate(ledger, KeyRing.from_file(new), reason="yearly")                  # the old key signs the new one in, and ends
    rotate(ledger, KeyRing.from_file(new), reason="stolen", trusted_size=4000)
    revoke(ledger, fingerprint, reason="laptop lost")                        # as of the last witnessed checkpoint

After a rotation, pin the new fingerprint: the new key vouches for what the old one signed. After a theft one *must*, for
whoever has the old key can go on writing for those who still pin it.
"""

from mlsec_dagster.errors import ConfigurationError, SigningKeyError
from mlsec_dagster.integrity.checkpoints import signed_by
from mlsec_dagster.integrity.entries import Receipt
from mlsec_dagster.integrity.keys import KeyRing, PublicKey, Role, SigningKey
from mlsec_dagster.integrity.ledger import Ledger
from mlsec_dagster.integrity.statements import Statement
from mlsec_dagster.integrity.trust import ADD, REVOKE, KeyChange


def add_key(ledger: Ledger, key: PublicKey, roles: frozenset[Role], *, reason: str = "") -> Receipt:
    """Let a further key in, beside those that there are.

    Args:
        ledger: Opened with a key that holds these roles itself.
        key: Public half of the new key.
        roles: What it may sign.
        reason: For people.

    Raises:
        SigningKeyError: No key of the ledger's ring may give these roles.
    """
    ring = _ring(ledger)
    signer = _holder(ledger, ring, roles)
    change = KeyChange(ADD, key.fingerprint, key.spki, roles, None, reason)
    return ledger.append_signed(lambda _: [(change.to_statement(), signer)], ring, [])


def rotate(ledger: Ledger, new: KeyRing, *, reason: str = "", trusted_size: int | None = None) -> Receipt:
    """Replace the keys that the ledger is opened with, in one transaction; afterwards it signs with `new`.

    Args:
        ledger: Opened with the old keys.
        new: The new keys.
        reason: For people.
        trusted_size: Ledger size up to which the old keys are still trusted. None: all that they signed until now. After a
            theft, the size of the last witnessed checkpoint from before it (`last_witnessed_size`).

    Raises:
        SigningKeyError: The old keys are not trusted themselves, or old and new are the same.
    """
    old = _ring(ledger)
    fresh = {name: roles for name, roles in new.roles.items() if name not in old.roles}
    gone = {name: roles for name, roles in old.roles.items() if name not in new.roles}
    if not fresh or not gone:
        raise SigningKeyError("The new keys are the old ones; make a new key with `mlsec keys new` first.")

    def choose(size: int) -> list[tuple[Statement, SigningKey]]:
        chosen: list[tuple[Statement, SigningKey]] = []
        for name, roles in fresh.items():
            change = KeyChange(ADD, name, new.publics[name].spki, roles, None, reason)
            chosen.append((change.to_statement(), _holder(ledger, old, roles)))
        for name, roles in gone.items():
            index = size + len(chosen)
            change = KeyChange(
                REVOKE, name, old.publics[name].spki, roles, min(index, index if trusted_size is None else trusted_size), reason
            )
            # Signed by a successor where one holds as much, so that it vouches for the past; else by the key itself.
            successor = next((key for key in _keys(new) if roles <= new.roles[key.fingerprint]), None)
            chosen.append((change.to_statement(), successor or next(key for key in _keys(old) if key.fingerprint == name)))
        return chosen

    receipt = ledger.append_signed(choose, new, [])
    ledger.signer = new
    return receipt


def revoke(ledger: Ledger, fingerprint: str, *, reason: str = "", trusted_size: int | None = None) -> Receipt:
    """Withdraw a key: what it signed at or after `trusted_size` is not trusted.

    Args:
        ledger: Opened with a key that holds all roles of the withdrawn one.
        fingerprint: The key to withdraw.
        reason: For people.
        trusted_size: Ledger size up to which it is trusted. None: that of the last witnessed checkpoint.

    Raises:
        SigningKeyError: The key is unknown, is one that the ledger is opened with, or may not be withdrawn by these.
        ConfigurationError: Neither a size nor a witness is there.
        StoreError: The witness cannot be reached.
    """
    ring, trusted = _ring(ledger), ledger.book().keys.get(fingerprint)
    if trusted is None:
        raise SigningKeyError(
            f"{fingerprint} is not a trusted key of this ledger, so there is nothing to revoke; `mlsec keys show` lists them."
        )
    if fingerprint in ring.roles:
        raise SigningKeyError(
            f"{fingerprint} is the key that this process signs with: rotate it instead, which revokes it in favour of a new one."
        )
    size = last_witnessed_size(ledger) if trusted_size is None else trusted_size
    change = KeyChange(REVOKE, fingerprint, ledger.public_key(fingerprint).spki, trusted.roles, size, reason)
    signer = _holder(ledger, ring, trusted.roles)
    return ledger.append_signed(lambda _: [(change.to_statement(), signer)], ring, [])


def last_witnessed_size(ledger: Ledger) -> int:
    """Size of the largest checkpoint that the witness has and a trusted key signed.

    Raises:
        ConfigurationError: There is no witness, or it has none.
        StoreError: The witness cannot be reached.
    """
    if ledger.witness is None:
        raise ConfigurationError(
            "No witness is configured, so nobody knows what was there before: say with a size how far the key is trusted."
        )
    known = [ledger.public_key(name) for name in ledger.book().keys]
    for seen in reversed(ledger.witness.all()):
        checkpoint = ledger.witness.read(seen)
        if checkpoint is not None and signed_by(checkpoint, known) is not None:
            return seen.size
    raise ConfigurationError(
        f"The witness {ledger.witness.name} has no checkpoint of this ledger: say with a size how far the key is trusted."
    )


def _ring(ledger: Ledger) -> KeyRing:
    if ledger.signer is None:
        raise SigningKeyError("The ledger is open for reading only; changing its keys needs a trusted signing key.")
    return ledger.signer


def _keys(ring: KeyRing) -> list[SigningKey]:
    return list({key.fingerprint: key for key in map(ring.key_for, Role)}.values())


def _holder(ledger: Ledger, ring: KeyRing, roles: frozenset[Role]) -> SigningKey:
    book = ledger.book()
    for key in _keys(ring):
        trusted = book.keys.get(key.fingerprint)
        if trusted is not None and trusted.until is None and roles <= trusted.roles:
            return key
    raise SigningKeyError(
        f"None of the keys in use holds the roles {', '.join(sorted(roles))} in this ledger, so none may give or withdraw them. "
        f"Open the ledger with a trusted key that does."
    )
