"""CloudTrail's digest files, which prove that no log file is missing, altered or planted.

    keys = public_keys(cloudtrail_client, start, end)
    digest = parse(place.read(found), place.metadata(found))
    findings = [*check_signature(digest, keys, bucket="org-trail", key=prefix + found.key)]
    findings += check_chain(digests, since=start)          # mlsec_dagster.audit.digest_chains
    for log in digest.logs:
        findings += check_log(log, place.read(…))              # or None, if there is no such object

Every hour, for each region and account, CloudTrail delivers a digest file, with the SHA-256 of each log file of that hour, even if there
was none. Its signature is in the object's metadata, and each names the one before it with that one's hash and signature. What could not be
verified is a finding too: nothing here passes because it could not be looked at.

Hashes of digest files and of log files are over their **decompressed** contents. What is signed, with RSA, PKCS #1 v1.5 and SHA-256, is
four lines: the time at which the digest ends, as it is written in the file; bucket and key of the digest file, with "/" between them;
its hash in hexadecimal; the signature of the digest file before it in hexadecimal, or "null".

https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-validation-digest-file-structure.html
https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-log-file-custom-validation.html
`aws cloudtrail validate-logs` does the same (awscli/customizations/cloudtrail/validation.py).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from mlsec_dagster.audit.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.audit.places.failures import printable
from mlsec_dagster.audit.sources.streams import inflate
from mlsec_dagster.audit.times import EPOCH, microseconds
from mlsec_dagster.errors import LimitExceededError, UnverifiableError

Kind = Literal["missing", "altered", "bad signature", "broken chain", "unverifiable"]

_DIGEST_BYTES: Final = 256 << 20  # An hour of a million log files; it is parsed as a whole.
_KEY: Final = re.compile(
    r"(?P<chain>(?:.*/)?AWSLogs/.*/CloudTrail-Digest/[^/]+/)\d{4}/\d\d/\d\d/(?P<name>[^/]+)_\d{8}T\d{6}Z(?P<backfill>_backfill)?\.json\.gz"
)


class DigestFinding(msgspec.Struct, frozen=True):
    """Something about a digest file, or a log file that one names, that a person should look at.

    Attributes:
        kind: What it is. "unverifiable" means that it could not be looked at, which is no better than the others.
        bucket: Where the file lies or should lie.
        key: Its key there.
        sentence: What was expected, what was found, and what that may mean.
    """

    kind: Kind
    bucket: str
    key: str
    sentence: str


class LogFileDigest(
    msgspec.Struct, frozen=True, rename={"bucket": "s3Bucket", "key": "s3Object", "sha256": "hashValue", "algorithm": "hashAlgorithm"}
):
    """A log file as a digest file names it.

    Attributes:
        bucket: Where it was delivered.
        key: Its key there.
        sha256: Of its decompressed content, hexadecimal.
        algorithm: "SHA-256".
    """

    bucket: str
    key: str
    sha256: str
    algorithm: str


class DigestFile(msgspec.Struct, frozen=True):
    """A digest file. Nothing of it is to be believed before its signature was checked.

    Attributes:
        account: Account whose log files it is about.
        bucket: Where it says that it was delivered.
        key: Its key there.
        start: Microseconds since the epoch, UTC, from which on log files were delivered that it names.
        end: The same, up to which.
        ends: `end` as written, which is signed.
        fingerprint: Of the public key that verifies it.
        algorithm: "SHA256withRSA".
        sha256: Of its own decompressed content, hexadecimal.
        signature: Its own signature from the object's metadata, hexadecimal; None if there is none.
        previous_bucket: Where the digest file before it lies; None where a chain begins.
        previous_key: Its key.
        previous_sha256: Its hash.
        previous_signature: Its signature.
        logs: The log files that were delivered in that time.
    """

    account: str
    bucket: str
    key: str
    start: int
    end: int
    ends: str
    fingerprint: str
    algorithm: str
    sha256: str
    signature: str | None
    previous_bucket: str | None
    previous_key: str | None
    previous_sha256: str | None
    previous_signature: str | None
    logs: tuple[LogFileDigest, ...]

    @property
    def chain(self) -> str:
        """What digest files of one chain have in common: account, region, trail, and whether they are backfill, which is chained apart."""
        return chain_of(self.key)


def chain_of(key: str) -> str:
    """The chain of a digest file by where it lies, which is what it should say itself; see `DigestFile.chain`."""
    match = _KEY.fullmatch(key)
    return key.rpartition("/")[0] if match is None else f"{match['chain']}{match['name']}{match['backfill'] or ''}"


class _File(msgspec.Struct, rename="camel"):
    aws_account_id: str
    digest_start_time: str
    digest_end_time: str
    digest_bucket: str = msgspec.field(name="digestS3Bucket")
    digest_object: str = msgspec.field(name="digestS3Object")
    digest_public_key_fingerprint: str
    digest_signature_algorithm: str
    previous_bucket: str | None = msgspec.field(name="previousDigestS3Bucket")
    previous_object: str | None = msgspec.field(name="previousDigestS3Object")
    previous_digest_hash_value: str | None
    previous_digest_signature: str | None
    log_files: tuple[LogFileDigest, ...]
    previous_digest_hash_algorithm: str | None = None


_DECODER: Final = msgspec.json.Decoder(_File)


def parse(data: bytes | Iterable[bytes], metadata: Mapping[str, str], *, limits: Limits = DEFAULT_LIMITS) -> DigestFile:
    """A digest file, read but not verified.

    Args:
        data: The object, compressed or not, whole or in pieces.
        metadata: The object's user metadata, names in small letters; has "signature".
        limits: How much it may ask for.

    Raises:
        UnverifiableError: It is no digest file. Such an object is a finding: see `unreadable`.
    """
    content = bytearray()
    for piece in inflate(data, limits):
        content += piece
        if len(content) > _DIGEST_BYTES:
            raise LimitExceededError(f"has more than {_DIGEST_BYTES:,} bytes; no digest file does")
    try:
        file = _DECODER.decode(content)
        start, end = microseconds(file.digest_start_time), microseconds(file.digest_end_time)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnverifiableError(f"is no digest file ({error})") from error
    return DigestFile(
        account=file.aws_account_id,
        bucket=file.digest_bucket,
        key=file.digest_object,
        start=start,
        end=end,
        ends=file.digest_end_time,
        fingerprint=file.digest_public_key_fingerprint,
        algorithm=file.digest_signature_algorithm,
        sha256=hashlib.sha256(content).hexdigest(),
        signature=metadata.get("signature"),
        previous_bucket=file.previous_bucket,
        previous_key=file.previous_object,
        previous_sha256=file.previous_digest_hash_value,
        previous_signature=file.previous_digest_signature,
        logs=file.log_files,
    )


def unreadable(bucket: str, key: str, error: UnverifiableError) -> DigestFinding:
    """The finding for a digest file that `parse` refused."""
    return DigestFinding("unverifiable", bucket, key, f"The digest file {error}. What it proved is not proved any more.")


def public_keys(client: Any, start: int, end: int) -> dict[str, bytes]:
    """Public keys that CloudTrail signed with, by fingerprint; DER.

    https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_ListPublicKeys.html. Each region has its own: ask the region of the
    digest file. What is fetched here may be kept, and given instead of fetched again.

    Args:
        client: A boto3 client for CloudTrail. Needs cloudtrail:ListPublicKeys.
        start: Microseconds since the epoch, UTC.
        end: The same.
    """
    times = {"StartTime": EPOCH + timedelta(microseconds=start), "EndTime": EPOCH + timedelta(microseconds=end)}
    pages = client.get_paginator("list_public_keys").paginate(**times)
    return {key["Fingerprint"]: key["Value"] for page in pages for key in page["PublicKeyList"]}


def check_signature(digest: DigestFile, keys: Mapping[str, bytes], *, bucket: str, key: str) -> Iterator[DigestFinding]:
    """Nothing if CloudTrail signed this very file for this very place; else what is wrong.

    Args:
        digest: The file.
        keys: Public keys by fingerprint: DER, PKCS #1 as CloudTrail gives them, or SubjectPublicKeyInfo.
        bucket: Where it was found.
        key: Its key there.
    """

    def found(kind: Kind, sentence: str) -> DigestFinding:
        return DigestFinding(kind, bucket, key, sentence)

    if (digest.bucket, digest.key) != (bucket, key):
        yield found(
            "altered",
            f"The digest file says that it is s3://{printable(digest.bucket)}/{printable(digest.key)}; it was moved or copied here.",
        )
    if digest.signature is None:
        yield found(
            "unverifiable", "The digest file's metadata holds no signature. A copy without metadata proves nothing; read the original."
        )
        return
    if digest.algorithm != "SHA256withRSA":
        yield found("unverifiable", f"The digest file is signed with {digest.algorithm[:40]!r}; expected SHA256withRSA.")
        return
    public = keys.get(digest.fingerprint)
    if public is None:
        yield found(
            "unverifiable",
            f"No public key with the fingerprint {digest.fingerprint[:64]!r} is known. Fetch that region's keys of that time.",
        )
        return
    try:
        loaded = load_der_public_key(public)
    except (ValueError, UnsupportedAlgorithm):
        loaded = None
    if not isinstance(loaded, RSAPublicKey):
        yield found("unverifiable", f"The public key with the fingerprint {digest.fingerprint[:64]!r} is no RSA key in DER.")
        return
    try:
        loaded.verify(bytes.fromhex(digest.signature), signed_bytes(digest), PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):
        yield found("bad signature", "The signature is not CloudTrail's over this content: the digest file was altered, or is a forgery.")


def signed_bytes(digest: DigestFile) -> bytes:
    """What the signature of a digest file is over."""
    return f"{digest.ends}\n{digest.bucket}/{digest.key}\n{digest.sha256}\n{digest.previous_signature or 'null'}".encode()


def check_log(log: LogFileDigest, data: bytes | Iterable[bytes] | None, *, limits: Limits = DEFAULT_LIMITS) -> Iterator[DigestFinding]:
    """Nothing if the log file is the one that was delivered.

    Args:
        log: What a verified digest file says of it.
        data: The object, compressed, whole or in pieces; None if it is not there.
        limits: How much it may ask for.
    """

    def found(kind: Kind, sentence: str) -> DigestFinding:
        return DigestFinding(kind, log.bucket, log.key, sentence)

    if data is None:
        yield found("missing", "The log file was delivered, and is not there any more: it was deleted or moved.")
        return
    if log.algorithm != "SHA-256":
        yield found("unverifiable", f"The log file is hashed with {log.algorithm[:40]!r}; expected SHA-256.")
        return
    try:
        actual = content_sha256(data, limits=limits)
    except LimitExceededError as error:
        yield found("unverifiable", f"The log file {error}.")
    except UnverifiableError as error:
        yield found("altered", f"The log file {error}; it was delivered whole.")
    else:
        yield from check_content(log, actual)


def check_content(log: LogFileDigest, sha256: str) -> Iterator[DigestFinding]:
    """As `check_log`, of a log file whose content was hashed when it was read.

    Args:
        log: What a verified digest file says of it.
        sha256: Of its decompressed content, hexadecimal.
    """
    if log.algorithm != "SHA-256":
        yield from check_log(log, b"")
    elif sha256 != log.sha256.lower():
        sentence = f"The log file's content has the SHA-256 {sha256}; delivered was {log.sha256[:64]}."
        yield DigestFinding("altered", log.bucket, log.key, sentence)


def content_sha256(data: bytes | Iterable[bytes], *, limits: Limits = DEFAULT_LIMITS) -> str:
    """SHA-256 of the decompressed content, hexadecimal.

    Raises:
        UnverifiableError: It does not decompress.
        LimitExceededError: More comes out than the limits allow.
    """
    hashed = hashlib.sha256()
    for piece in inflate(data, limits):
        hashed.update(piece)
    return hashed.hexdigest()
