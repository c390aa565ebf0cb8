"""One entry as a document that stands alone: envelope, inclusion proof, checkpoint, and the keys they need.

    document = ledger.export(41)                                   # JSON, to hand to an auditor
    entry = verify_export(document, Trust({"SHA256:5c9d…"}))       # no database, no network

A document proves that the statement was in the ledger at that checkpoint. It cannot prove what came after: that the statement
was superseded, or that a key was revoked later.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final

from mlsec_dagster.errors import LedgerError
from mlsec_dagster.integrity.checkpoints import Checkpoint, parse_checkpoint, signed_by
from mlsec_dagster.integrity.entries import Entry, Finding, Row, envelope_bytes, examine, key_change, open_envelope, signed_position
from mlsec_dagster.integrity.keys import CHECKPOINTS, PublicKey
from mlsec_dagster.integrity.merkle import leaf_hash, verify_inclusion
from mlsec_dagster.integrity.statements import PAYLOAD_TYPE
from mlsec_dagster.integrity.trust import Trust, readable_keys

FORMAT: Final = "mlsec-dagster ledger entry v1"


def compose(
    checkpoint: Checkpoint, entry: Mapping[str, Any], changes: Sequence[Mapping[str, Any]], keys: Mapping[str, PublicKey]
) -> dict[str, Any]:
    """The document, from proven entries as `proven` makes them."""
    return {
        "format": FORMAT,
        "checkpoint": checkpoint.note,
        "entry": dict(entry),
        "key_changes": [dict(change) for change in changes],
        "public_keys": {name: _text(key.spki) for name, key in sorted(keys.items())},
    }


def proven(row: Row, proof: Sequence[bytes]) -> dict[str, Any]:
    """Envelope, place and audit path of one stored row."""
    envelope = {"payload": _text(row.payload), "payloadType": PAYLOAD_TYPE, "signatures": [{"keyid": row.key, "sig": _text(row.signature)}]}
    return {"envelope": envelope, "index": row.position, "inclusion_proof": [_text(node) for node in proof]}


def verify_export(document: Mapping[str, Any], trust: Trust) -> Entry:
    """The entry in a document, if all of it is what trusted keys signed.

    Raises:
        LedgerError: Anything in it is not; the message says what.
    """
    try:
        if document["format"] != FORMAT:
            raise LedgerError(f"The document has the format {document['format']!r}, expected {FORMAT!r}.")
        checkpoint = parse_checkpoint(document["checkpoint"])
        keys = readable_keys({str(name): _bytes(spki) for name, spki in document["public_keys"].items()})
        rows = [_proven_row(item, checkpoint) for item in document["key_changes"]]
        row = _proven_row(document["entry"], checkpoint)
    except (KeyError, TypeError, AttributeError, binascii.Error, ValueError) as error:
        raise LedgerError(
            f"The document cannot be read ({type(error).__name__}: {error}); expected an export of a ledger entry."
        ) from error
    if trust.origin is not None and checkpoint.origin != trust.origin:
        raise LedgerError(f"The document is from the ledger {checkpoint.origin!r}, expected {trust.origin!r}.")
    changes = [key_change(one, checkpoint.origin, keys) for one in rows]
    for one, change in zip(rows, changes, strict=True):
        if isinstance(change, Finding):
            raise LedgerError(f"Entry {one.position} of the document {change.sentence}.")
    book = trust.resolve(change for change in changes if not isinstance(change, Finding))
    signer = signed_by(checkpoint, [keys[name] for name in book.keys if name in keys])
    if signer is None:
        raise LedgerError("The checkpoint of the document is not signed by any key that is pinned or let in by a pinned one.")
    if (refusal := book.refusal(signer.fingerprint, CHECKPOINTS, checkpoint.size - 1)) is not None:
        raise LedgerError(f"The checkpoint of the document {refusal[1]}.")
    signed = signed_position(row, keys)
    if not isinstance(signed, Finding):
        statement, position = signed
        row = _row(row, asset=statement.asset, partition=statement.partition, type=statement.predicate_type, run_id=statement.run_id)
        row = _row(row, previous=position.previous)
    entry = examine(row, row.position, checkpoint.origin, book, keys)
    if isinstance(entry, Finding):
        raise LedgerError(f"Entry {row.position} of the document {entry.sentence}.")
    return entry


def _proven_row(item: Mapping[str, Any], checkpoint: Checkpoint) -> Any:
    """One entry of the document as a row, after its inclusion was verified."""
    payload, fingerprint, signature = open_envelope(item["envelope"])
    index = item["index"]
    leaf = leaf_hash(envelope_bytes(payload, fingerprint, signature))
    if type(index) is not int or not verify_inclusion(
        leaf, index, checkpoint.size, [_bytes(node) for node in item["inclusion_proof"]], checkpoint.root
    ):
        raise LedgerError(f"Entry {index!r} of the document is not part of its checkpoint of size {checkpoint.size}.")
    return SimpleNamespace(position=index, payload=payload, key=fingerprint, signature=signature)


def _row(row: Any, **columns: Any) -> Any:
    return SimpleNamespace(**{**vars(row), **columns})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
