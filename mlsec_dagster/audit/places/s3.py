"""Logs in an S3 bucket, or in whatever speaks its protocol.

    place = S3Bucket(s3.get_client(), "org-trail", "AWSLogs/o-1/")    # s3: dagster_aws.s3.S3Resource

Needs s3:ListBucket on the bucket and s3:GetObject on the objects, and kms:Decrypt on their key where they are encrypted with one.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.places.failures import PIECE, Kind, as_folder, by_status, exactly, failure, small_letters, translated
from mlsec_dagster.audit.times import since_epoch
from mlsec_dagster.errors import MissingExtraError, StoreError

_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion", "PreconditionFailed", "InvalidRange"), "changed"),
    **dict.fromkeys(
        ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "ServiceUnavailable"), "throttled"
    ),
    **dict.fromkeys(("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"), "expired"),
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"), "denied"),
    "NoSuchBucket": "absent",
    "InvalidObjectState": "archived",
}
_CREDENTIALS: Final = (
    "Credential",
    "Token",
    "SSO",
    "Profile",
    "Login",
)  # Exceptions of botocore about them have one of these in their name.


class S3Bucket:
    """A `Place` in a bucket.

    An object's version is its ETag: an object that is written again with the same bytes is the same.

    Args:
        client: A boto3 client for S3.
        bucket: Name of the bucket.
        prefix: Folder that all keys lie below.

    Attributes:
        uri: "s3://bucket/prefix/".
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "") -> None:
        self._errors = _errors()
        self._client = client
        self._bucket = bucket
        self._prefix = as_folder(prefix)
        self.uri = f"s3://{bucket}/{self._prefix}"

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        """See `Place.list`; by key, in pages of a thousand."""
        from_key = {} if after is None else {"StartAfter": self._prefix + after}
        for page in self._pages(Prefix=self._prefix + prefix, **from_key):
            for entry in page.get("Contents", ()):
                yield LogObject(
                    key=entry["Key"][len(self._prefix) :],
                    version=entry["ETag"].strip('"'),
                    size=entry["Size"],
                    modified=since_epoch(entry["LastModified"]),
                )

    def folders(self, prefix: str = "") -> Iterator[str]:
        """See `Place.folders`."""
        root = self._prefix + prefix
        for page in self._pages(Prefix=root, Delimiter="/"):
            for entry in page.get("CommonPrefixes", ()):
                yield entry["Prefix"][len(root) : -1]

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        """See `Place.read`."""
        if start < found.size:
            yield from exactly(self._translated(self._pieces(found, start), found), found, start, self.uri + found.key)

    def metadata(self, found: LogObject) -> Mapping[str, str]:
        """See `Place.metadata`."""
        [answer] = self._translated(self._head(found), found)
        return small_letters(answer["Metadata"])

    def _pages(self, **settings: str) -> Iterator[Any]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **settings)
        return translated(pages, self._errors, lambda error: _failure(error, self.uri, listing=True))

    def _pieces(self, found: LogObject, start: int) -> Iterator[bytes]:
        answer = self._client.get_object(**self._named(found), Range=f"bytes={start}-{found.size - 1}")
        body = answer["Body"]
        try:
            while piece := body.read(PIECE):
                yield piece
        finally:
            body.close()

    def _head(self, found: LogObject) -> Iterator[Any]:
        yield self._client.head_object(**self._named(found))

    def _named(self, found: LogObject) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + found.key, "IfMatch": f'"{found.version}"'}

    def _translated(self, items: Iterable[Any], found: LogObject) -> Iterator[Any]:
        return translated(items, self._errors, lambda error: _failure(error, self.uri + found.key))


def _errors() -> tuple[type[Exception], ...]:
    try:
        from botocore.exceptions import BotoCoreError, ClientError  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError("Reading logs from S3 needs boto3: install mlsec-dagster[aws].") from error
    return BotoCoreError, ClientError


def _failure(error: Exception, name: str, *, listing: bool = False) -> StoreError:
    answer: dict[str, Any] | None = getattr(error, "response", None)
    if answer is None:
        code = type(error).__name__
        return failure("expired" if any(word in code for word in _CREDENTIALS) else "unreachable", name, code)
    code = str(answer.get("Error", {}).get("Code", ""))
    # HEAD has no body, so its code is the status alone.
    kind = _KINDS.get(code) or by_status(answer.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    return failure("absent" if listing and kind == "changed" else kind, name, code)
