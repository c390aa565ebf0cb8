"""Logs in a bucket of Google Cloud Storage.

    place = GCSBucket(gcs.get_client(), "audit-sink")    # gcs: dagster_gcp.GCSResource

Needs storage.objects.list and storage.objects.get (roles/storage.objectViewer).

https://cloud.google.com/storage/docs/json_api/v1/objects/list
https://cloud.google.com/storage/docs/request-preconditions
https://cloud.google.com/storage/docs/json_api/v1/status-codes
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.places.failures import as_folder, by_status, exactly, failure, in_pieces, ranges, small_letters, translated
from mlsec_dagster.audit.times import since_epoch
from mlsec_dagster.errors import MissingExtraError, StoreError

_PATIENCE: Final = 20.0  # Seconds to try again for. The client's own are 120, twice what a sensor's tick may take.
_RANGE: Final = 8 << 20  # The client gives a range when it is whole; a request for each megabyte would take longer than the bytes.


class GCSBucket:
    """A `Place` in a bucket.

    An object's version is its generation.

    Args:
        client: A `google.cloud.storage.Client`.
        bucket: Name of the bucket.
        prefix: Folder that all keys lie below.
        page_size: Objects to ask for at a time.

    Attributes:
        uri: "gs://bucket/prefix/".
    """

    def __init__(self, client: Any, bucket: str, prefix: str = "", *, page_size: int = 1000) -> None:
        self._errors = _errors()
        self._client = client
        self._bucket = bucket
        self._prefix = as_folder(prefix)
        self._page_size = page_size
        self.uri = f"gs://{bucket}/{self._prefix}"

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        """See `Place.list`; by key, in pages."""
        first = None if after is None else self._prefix + after
        fields = "items(name,generation,size,updated),nextPageToken"
        for page in self._pages(prefix=self._prefix + prefix, start_offset=first, fields=fields):
            for blob in page:
                # Where listing starts is within it; and an emulator may not know about it at all.
                if first is None or blob.name.encode() > first.encode():
                    yield LogObject(
                        key=blob.name[len(self._prefix) :],
                        version=str(blob.generation),
                        size=blob.size,
                        modified=since_epoch(blob.updated),
                    )

    def folders(self, prefix: str = "") -> Iterator[str]:
        """See `Place.folders`."""
        root = self._prefix + prefix
        for page in self._pages(prefix=root, delimiter="/", fields="prefixes,nextPageToken"):
            for name in page.prefixes:
                yield name[len(root) : -1]

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        """See `Place.read`. Bytes as stored: an object with Content-Encoding gzip comes compressed."""
        if start < found.size:
            yield from exactly(self._translated(self._pieces(found, start), found), found, start, self.uri + found.key)

    def metadata(self, found: LogObject) -> Mapping[str, str]:
        """See `Place.metadata`."""
        [blob] = self._translated(self._reloaded(found), found)
        return small_letters(blob.metadata)

    def _pages(self, **settings: Any) -> Iterator[Any]:
        listing = self._client.list_blobs(self._bucket, page_size=self._page_size, retry=_retry(), **settings)
        return translated(listing.pages, self._errors, lambda error: _failure(error, self.uri, listing=True))

    def _pieces(self, found: LogObject, start: int) -> Iterator[bytes]:
        blob = self._blob(found)
        for first, length in ranges(start, found.size, _RANGE):
            # A range has no checksum; what it is a part of is known by its generation. Raw: gzip stays gzip, so that ranges mean bytes.
            part = {"start": first, "end": first + length - 1, "raw_download": True, "checksum": None}
            yield from in_pieces(blob.download_as_bytes(**part, if_generation_match=int(found.version), retry=_retry()))

    def _reloaded(self, found: LogObject) -> Iterator[Any]:
        blob = self._blob(found)
        blob.reload(if_generation_match=int(found.version), retry=_retry())
        yield blob

    def _blob(self, found: LogObject) -> Any:
        return self._client.bucket(self._bucket).blob(self._prefix + found.key)

    def _translated(self, items: Iterable[Any], found: LogObject) -> Iterator[Any]:
        return translated(items, self._errors, lambda error: _failure(error, self.uri + found.key))


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY  # pyright: ignore[reportMissingTypeStubs]

    return DEFAULT_RETRY.with_timeout(_PATIENCE)


def _errors() -> tuple[type[Exception], ...]:
    try:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse  # pyright: ignore[reportMissingTypeStubs]
        from requests.exceptions import RequestException
    except ImportError as error:
        raise MissingExtraError("Reading logs from Google Cloud Storage needs its client: install mlsec-dagster[gcp].") from error
    return GoogleAPIError, GoogleAuthError, InvalidResponse, DataCorruption, RequestException


def _failure(error: Exception, name: str, *, listing: bool = False) -> StoreError:
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, RetryError) and isinstance(error.cause, Exception):
        error = error.cause  # What it could not be retried out of.
    code = type(error).__name__
    if isinstance(error, GoogleAuthError):
        return failure("unreachable" if isinstance(error, TransportError) else "expired", name, code)
    answer: Any = getattr(error, "response", None)
    status: Any = error.code if isinstance(error, GoogleAPICallError) else getattr(answer, "status_code", None)
    kind = by_status(None if status is None else int(status))
    return failure("absent" if listing and kind == "changed" else kind, name, code)
