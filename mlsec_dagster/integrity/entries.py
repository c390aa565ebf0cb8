"""One entry of the ledger: its signed envelope, its leaf, and whether a stored row is what was signed.

The leaf is the DSSE envelope (https://github.com/secure-systems-lab/dsse) in canonical JSON, so that the tree covers the
signature and the key's name too: one stripped, added or exchanged signature is another leaf.
"""

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.checkpoints import Checkpoint
from mlsec_dagster.integrity.keys import PublicKey, role_for
from mlsec_dagster.integrity.statements import KEYS, PAYLOAD_TYPE, Position, Statement, read_payload
from mlsec_dagster.integrity.trust import KeyBook, KeyChange, SignedKeyChange

_PAE: Final = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} ".encode()
_BEFORE_KEY: Final = f'","payloadType":"{PAYLOAD_TYPE}","signatures":[{{"keyid":"'.encode()


class Entry(msgspec.Struct, frozen=True):
    """A sealed statement. A struct and not a dataclass, for it is made a million times.

    Attributes:
        index: Place in the ledger, from 0.
        statement: What was said.
        key: Fingerprint of the key that signed it.
        recorded_at: Seconds since the epoch, by the writer's clock.
        previous: Place of the entry before this one about the same asset and partition.
        size: Size of the ledger after the transaction that wrote it.
    """

    index: int
    statement: Statement
    key: str
    recorded_at: float
    previous: int | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an append left behind: its entries and the checkpoint that covers them."""

    entries: tuple[Entry, ...]
    checkpoint: Checkpoint


class Row(Protocol):
    """A stored entry as it came out of the database; nothing in it is trusted."""

    position: Any
    asset: Any
    partition: Any
    type: Any
    run_id: Any
    previous: Any
    key: Any
    payload: Any
    signature: Any
    nodes: Any


class Finding(NamedTuple):
    """What is wrong with an entry: a kind ("altered", "wrong key", …) and a clause that continues "entry 7 …"."""

    kind: str
    sentence: str


def pae(payload: bytes) -> bytes:
    """DSSE pre-authentication encoding: the bytes that are signed."""
    return b"%b%d %b" % (_PAE, len(payload), payload)


def envelope_bytes(payload: bytes, fingerprint: str, signature: bytes) -> bytes:
    """The DSSE envelope as canonical JSON (sorted keys, no white space): the data of the leaf."""
    return b'{"payload":"%b%b%b","sig":"%b"}]}' % (
        b2a_base64(payload, newline=False),
        _BEFORE_KEY,
        fingerprint.encode(),
        b2a_base64(signature, newline=False),
    )


def open_envelope(envelope: Mapping[str, Any]) -> tuple[bytes, str, bytes]:
    """Payload, key fingerprint and signature of an envelope with exactly one signature.

    Raises:
        LedgerError: It is not one of this ledger's envelopes.
    """
    try:
        (signed,) = envelope["signatures"]
        payload = a2b_base64(envelope["payload"], strict_mode=True)
        signature = a2b_base64(signed["sig"], strict_mode=True)
        fingerprint = signed["keyid"]
        known = (
            envelope["payloadType"] == PAYLOAD_TYPE and isinstance(fingerprint, str) and fingerprint.isascii() and fingerprint.isprintable()
        )
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"The envelope cannot be read ({error}); expected DSSE with one signature.") from error
    if not known or '"' in fingerprint or "\\" in fingerprint:
        raise LedgerError(f"The envelope is not an in-toto statement with a key fingerprint; expected payload type {PAYLOAD_TYPE}.")
    return payload, fingerprint, signature


def leaf_data(row: Row) -> bytes | None:
    """The data of the leaf of a stored row, or None if its columns cannot be that."""
    if isinstance(row.payload, bytes) and isinstance(row.signature, bytes) and isinstance(row.key, str):
        return envelope_bytes(row.payload, row.key, row.signature)
    return None


def signed_position(row: Row, keys: Mapping[str, PublicKey]) -> tuple[Statement, Position] | Finding:
    """What a row says and where it says it belongs, after its signature was checked. Trust is another question."""
    key = keys.get(row.key)
    if key is None:
        return Finding("wrong key", f"is signed by {row.key!r}, whose public key is not in the store")
    if not (isinstance(row.payload, bytes) and isinstance(row.signature, bytes)) or not key.verifies(row.signature, pae(row.payload)):
        return Finding(
            "altered", f"does not carry a valid signature of {row.key}: its content, its signature or the name of its key was changed"
        )
    try:
        statement, position = read_payload(row.payload)
    except LedgerError as error:
        return Finding("altered", f"is signed but unreadable: {error}")
    if position is None:
        return Finding("inserted", "carries a signed statement that was never given a place in a ledger")
    return statement, position


def examine(row: Row, index: int, origin: str, book: KeyBook, keys: Mapping[str, PublicKey]) -> Entry | Finding:
    """The entry in a row, if the row is in every respect what a trusted key signed for this place; else what is wrong."""
    signed = signed_position(row, keys)
    if isinstance(signed, Finding):
        return signed
    statement, position = signed
    if position.origin != origin:
        return Finding("inserted", f"was signed for another ledger, {position.origin!r}, not for {origin!r}")
    if position.index != index:
        return Finding("reordered", f"holds the statement that was signed as entry {position.index}")
    for column, found, expected in (
        ("asset", row.asset, statement.asset),
        ("partition", row.partition, statement.partition),
        ("type", row.type, statement.predicate_type),
        ("run_id", row.run_id, statement.run_id),
        ("previous", row.previous, position.previous),
    ):
        if found != expected or type(found) is not type(expected):
            return Finding(
                "altered", f"is indexed under {column} {found!r}, but its signed statement says {expected!r}: the index column was changed"
            )
    if statement.predicate_type != KEYS:
        refusal = book.refusal(row.key, role_for(statement.predicate_type), index)
    elif index in book.accepted:
        refusal = None
    else:
        refusal = book.refused.get(index, ("wrong key", f"changes the trusted keys but is signed by {row.key}, which is not trusted"))
    if refusal is not None:
        return Finding(*refusal)
    return Entry(index, statement, row.key, position.recorded_at, position.previous, position.size)


def key_change(row: Row, origin: str, keys: Mapping[str, PublicKey]) -> SignedKeyChange | Finding:
    """The keys change in a row, with its signature checked, not its signer's trust."""
    signed = signed_position(row, keys)
    if isinstance(signed, Finding):
        return signed
    statement, position = signed
    if position.origin != origin or position.index != row.position:
        return Finding("reordered", f"holds a keys statement that was signed as entry {position.index} of {position.origin!r}")
    try:
        return SignedKeyChange(position.index, row.key, KeyChange.from_statement(statement))
    except LedgerError as error:
        return Finding("altered", str(error))
