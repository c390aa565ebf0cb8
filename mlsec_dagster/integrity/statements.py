"""What is recorded: in-toto statements about datasets, in one canonical byte form.

    statement = Statement("raw/flights", "2013-01", WRITE, {"blake3": "5c9d…"}, {"run_id": "0f3a…"})
    payload = statement.to_bytes()

A statement is an in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) in JSON
with sorted keys and no white space. Its one subject is the asset; a partition stands in the subject's annotations. When the
ledger seals a statement it adds its `Position` to the predicate, under the reserved name `ledger`, *before* signing: a
signature is therefore good for one place in one ledger and cannot be replayed elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mlsec_dagster.errors import ConfigurationError, LedgerError

WRITE: Final = "urn:mlsec:dataset-write:v1"
SEAL: Final = "urn:mlsec:dataset-seal:v1"
ADOPTION: Final = "urn:mlsec:adoption:v1"
KEYS: Final = "urn:mlsec:keys:v1"

OWN_SUBJECTS: Final = "mlsec:"
"""What the subjects of statements begin with that are about no asset: keys, baselines and whatever else we keep."""

KEYS_ASSET: Final = "mlsec:keys"
"""The subject of all `KEYS` statements. No Dagster asset can have it, for asset names hold no colon."""

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"

_encoder = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True, slots=True)
class Statement:
    """One claim about one dataset.

    Attributes:
        asset: Dagster asset key as text, parts joined by "/".
        partition: Partition key, or None for an unpartitioned asset.
        predicate_type: What kind of claim it is: `WRITE`, `SEAL`, `ADOPTION` or `KEYS`.
        digests: Digest of the subject, hexadecimal, by algorithm. Empty only where there was nothing to hash.
        predicate: The claim itself: JSON values only. The name "ledger" is reserved for the position.
    """

    asset: str
    partition: str | None
    predicate_type: str
    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    predicate: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def to_bytes(self) -> bytes:
        """The statement as canonical in-toto JSON, without a position."""
        return _encode(self, self.predicate)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Statement":
        """Read a statement, sealed or not; a position in it is left out.

        Raises:
            LedgerError: `data` is not an in-toto Statement v1 with exactly one subject.
        """
        return read_payload(data)[0]

    @property
    def run_id(self) -> str | None:
        """The Dagster run that the predicate names, if it names one."""
        run_id = self.predicate.get("run_id")
        return run_id if isinstance(run_id, str) else None


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Where and when a statement was sealed; part of what the sealing key signs.

    Attributes:
        index: Place in the ledger, from 0.
        origin: Identity of the ledger, the first line of its checkpoints.
        previous: Place of the newest earlier entry about the same asset and partition, or None.
        recorded_at: Seconds since the epoch, by the writer's clock.
        size: Size of the ledger after the transaction; a signed checkpoint of this size must exist.
    """

    index: int
    origin: str
    previous: int | None
    recorded_at: float
    size: int


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]
    annotations: dict[str, str] = {}


class _InToto(msgspec.Struct):
    type: str = msgspec.field(name="_type")
    predicate_type: str = msgspec.field(name="predicateType")
    subject: list[_Subject]
    predicate: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(_InToto)


def _encode(statement: Statement, predicate: Mapping[str, Any]) -> bytes:
    subject: dict[str, Any] = {"name": statement.asset, "digest": statement.digests}
    if statement.partition is not None:
        subject["annotations"] = {"partition": statement.partition}
    try:
        return _encoder.encode(
            {"_type": STATEMENT_TYPE, "predicateType": statement.predicate_type, "subject": [subject], "predicate": predicate}
        )
    except (TypeError, ValueError, UnicodeError) as error:
        raise ConfigurationError(
            f"The statement about {statement.asset!r} holds a value that JSON cannot carry ({error}); "
            "use text, numbers, lists and mappings only."
        ) from error


def sealed_payload(statement: Statement, position: Position) -> bytes:
    """The bytes that are signed and become part of a leaf: the statement with its position in the predicate.

    Raises:
        ConfigurationError: The predicate already has a member "ledger", or is not JSON.
    """
    if "ledger" in statement.predicate:
        raise ConfigurationError(
            f"The predicate about {statement.asset!r} uses the name 'ledger', which is reserved for the entry's position."
        )
    return _encode(statement, {**statement.predicate, "ledger": position})


def read_payload(data: bytes) -> tuple[Statement, Position | None]:
    """Read the bytes of a statement and, when it was sealed, its position.

    Raises:
        LedgerError: Not an in-toto Statement v1 with exactly one subject.
    """
    try:
        raw = _decoder.decode(data)
        place = raw.predicate.pop("ledger", None)
        position = None if place is None else msgspec.convert(place, Position)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LedgerError(f"The payload is not an in-toto statement ({error}).") from error
    if raw.type != STATEMENT_TYPE or len(raw.subject) != 1:
        raise LedgerError(
            f"The payload is not an in-toto Statement v1 about exactly one subject: type {raw.type!r}, {len(raw.subject)} subjects."
        )
    subject = raw.subject[0]
    statement = Statement(subject.name, subject.annotations.get("partition"), raw.predicate_type, subject.digest, raw.predicate)
    return statement, position
