"""CloudTrail, as it delivers log files and digest files into a bucket. Written from its documentation, not from our code."""

import gzip
import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.audit.trail.made import delivery

ACCOUNT = "111122223333"
KEY = generate_private_key(65537, 2048)
STRANGER = generate_private_key(65537, 2048)


def der(key: RSAPrivateKey) -> bytes:
    """PKCS #1, as ListPublicKeys gives it."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)


def fingerprint(key: RSAPrivateKey) -> str:
    return hashlib.md5(der(key)).hexdigest()


def signed(key: RSAPrivateKey, content: bytes) -> str:
    """The signature of a digest file, hexadecimal, as its metadata has it."""
    told = json.loads(content)
    text = "\n".join(
        (
            told["digestEndTime"],
            f"{told['digestS3Bucket']}/{told['digestS3Object']}",
            hashlib.sha256(content).hexdigest(),
            told["previousDigestSignature"] or "null",
        )
    )
    return key.sign(text.encode(), PKCS1v15(), SHA256()).hex()


def _utc(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Delivering:
    """One trail in one region; `client` is a boto3 client for S3."""

    client: Any
    bucket: str
    prefix: str = ""
    account: str = ACCOUNT
    region: str = "us-east-2"
    trail: str = "trail"
    key: RSAPrivateKey = KEY
    first: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=6))
    said_bucket: str | None = None
    digests: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)
    previous: tuple[str, bytes, str] | None = None
    events: int = 0

    def put(self, key: str, body: bytes, metadata: dict[str, str] | None = None) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=body, Metadata=metadata or {})

    def get(self, key: str) -> tuple[bytes, dict[str, str]]:
        answer = self.client.get_object(Bucket=self.bucket, Key=key)
        return answer["Body"].read(), answer["Metadata"]

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def log_key(self, moment: datetime, name: str) -> str:
        file = f"{self.account}_CloudTrail_{self.region}_{moment:%Y%m%dT%H%MZ}_{name}.json.gz"
        return f"{self.prefix}AWSLogs/{self.account}/CloudTrail/{self.region}/{moment:%Y/%m/%d}/{file}"

    def log(self, moment: datetime) -> dict[str, Any]:
        data = delivery(range(self.events, self.events + 3))
        self.events += 3
        key = self.log_key(moment, f"Mu0KsOhtH1ar{self.events:04d}")
        self.put(key, data)
        self.logs.append(key)
        return {
            "s3Bucket": self.said_bucket or self.bucket,
            "s3Object": key,
            "hashValue": hashlib.sha256(gzip.decompress(data)).hexdigest(),
            "hashAlgorithm": "SHA-256",
            "newestEventTime": _utc(moment),
            "oldestEventTime": _utc(moment),
        }

    def digest_key(self, hour: int) -> str:
        end = self.first + timedelta(hours=hour + 1)
        file = f"{self.account}_CloudTrail-Digest_{self.region}_{self.trail}_us-east-2_{end:%Y%m%dT%H%M%SZ}.json.gz"
        return f"{self.prefix}AWSLogs/{self.account}/CloudTrail-Digest/{self.region}/{end:%Y/%m/%d}/{file}"

    def deliver(self, hour: int, logs: int = 2, *, more: list[dict[str, Any]] | None = None) -> str:
        """The log files of an hour, and then its digest file."""
        start = self.first + timedelta(hours=hour)
        key = self.digest_key(hour)
        previous_key, previous_content, previous_signature = self.previous or (None, None, None)
        bucket = self.said_bucket or self.bucket
        told = {
            "awsAccountId": self.account,
            "digestStartTime": _utc(start),
            "digestEndTime": _utc(start + timedelta(hours=1)),
            "digestS3Bucket": bucket,
            "digestS3Object": key,
            "digestPublicKeyFingerprint": fingerprint(self.key),
            "digestSignatureAlgorithm": "SHA256withRSA",
            "newestEventTime": None,
            "oldestEventTime": None,
            "previousDigestS3Bucket": bucket if previous_key else None,
            "previousDigestS3Object": previous_key,
            "previousDigestHashValue": hashlib.sha256(previous_content).hexdigest() if previous_content else None,
            "previousDigestHashAlgorithm": "SHA-256" if previous_key else None,
            "previousDigestSignature": previous_signature,
            "logFiles": [*(self.log(start + timedelta(minutes=10 * number + 5)) for number in range(logs)), *(more or [])],
        }
        content = json.dumps(told).encode()
        signature = signed(self.key, content)
        self.put(key, gzip.compress(content), {"signature": signature, "signature-algorithm": "SHA256withRSA"})
        self.digests.append(key)
        self.previous = (key, content, signature)
        return key

    def end(self, hours: int) -> int:
        """When the digest file of the last of so many hours ends, microseconds since the epoch."""
        return int((self.first + timedelta(hours=hours)).timestamp()) * 1_000_000
