"""CloudTrail deliveries to measure with: S3 data events and calls of SageMaker and STS, of the size and shape that AWS documents.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/cloudtrail-logging-understanding-s3-entries.html
"""

import gzip
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

START = datetime(2026, 5, 1, tzinfo=UTC)
PER_SECOND = 50
_AGENTS = tuple(f"[aws-sdk-python/1.{minor} Python/3.11 Linux/6.1 botocore/1.{minor} lang/python#3.11.{minor % 9}]" for minor in range(40))


def record(number: int, chance: random.Random) -> dict[str, Any]:
    """One record; a tenth of them are management events."""
    role = f"training-{number % 23}"
    account = "123456789012"
    common = {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": f"AROAEXAMPLE{number % 23:05}:session-{number % 211}",
            "arn": f"arn:aws:sts::{account}:assumed-role/{role}/session-{number % 211}",
            "accountId": account,
            "accessKeyId": f"ASIAEXAMPLE{number % 211:05}",
            "sessionContext": {
                "sessionIssuer": {
                    "type": "Role",
                    "principalId": f"AROAEXAMPLE{number % 23:05}",
                    "arn": f"arn:aws:iam::{account}:role/{role}",
                    "accountId": account,
                    "userName": role,
                },
                "attributes": {"creationDate": "2026-05-01T00:00:00Z", "mfaAuthenticated": "false"},
            },
        },
        "eventTime": (START + timedelta(seconds=number // PER_SECOND)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "awsRegion": "eu-west-1",
        "sourceIPAddress": f"10.{number % 7}.{number % 211}.{number % 251}",
        "userAgent": _AGENTS[number % len(_AGENTS)],
        "requestID": f"{chance.getrandbits(64):016X}",
        "eventID": f"{chance.getrandbits(128):032x}",
        "eventType": "AwsApiCall",
        "recipientAccountId": account,
        "tlsDetails": {
            "tlsVersion": "TLSv1.3",
            "cipherSuite": "TLS_AES_128_GCM_SHA256",
            "clientProvidedHostHeader": "s3.eu-west-1.amazonaws.com",
        },
    }
    if number % 10 == 0:
        return {
            **common,
            "eventSource": "sagemaker.amazonaws.com",
            "eventName": "DescribeModelPackage",
            "requestParameters": {
                "modelPackageName": f"arn:aws:sagemaker:eu-west-1:{account}:model-package/fraud-{number % 40}/{number % 9}"
            },
            "responseElements": None,
            "readOnly": True,
            "managementEvent": True,
            "eventCategory": "Management",
        }
    bucket, key = f"ml-{number % 5}", f"models/fraud-{number % 400}/{number % 9}/weights-{number % 7}.safetensors"
    return {
        **common,
        "eventSource": "s3.amazonaws.com",
        "eventName": "GetObject" if number % 3 else "PutObject",
        "requestParameters": {"bucketName": bucket, "Host": f"{bucket}.s3.eu-west-1.amazonaws.com", "key": key},
        "responseElements": None,
        "additionalEventData": {
            "SignatureVersion": "SigV4",
            "CipherSuite": "ECDHE-RSA-AES128-GCM-SHA256",
            "bytesTransferredIn": 0,
            "AuthenticationMethod": "AuthHeader",
            "x-amz-id-2": f"{chance.getrandbits(512):0128x}",
            "bytesTransferredOut": float(number % 100_000),
        },
        "readOnly": True,
        "resources": [
            {"type": "AWS::S3::Object", "ARN": f"arn:aws:s3:::{bucket}/{key}"},
            {"accountId": account, "type": "AWS::S3::Bucket", "ARN": f"arn:aws:s3:::{bucket}"},
        ],
        "managementEvent": False,
        "eventCategory": "Data",
    }


def write(path: Path, first: int, count: int, *, level: int = 6) -> int:
    """Write a log file; returns its decompressed bytes."""
    encode, chance, size = msgspec.json.Encoder().encode, random.Random(first), 0
    with gzip.open(path, "wb", compresslevel=level) as opened:
        for piece in _pieces(encode, first, count, chance):
            size += opened.write(piece)
    return size


def _pieces(encode: Any, first: int, count: int, chance: random.Random) -> Iterator[bytes]:
    yield b'{"Records":['
    for start in range(first, first + count, 1000):
        some = range(start, min(start + 1000, first + count))
        yield (b"," if start > first else b"") + b",".join(encode(record(number, chance)) for number in some)
    yield b"]}"
