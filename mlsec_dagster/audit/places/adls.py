"""Logs in Azure Blob storage, which Azure Data Lake Storage Gen2 is one form of.

    place = AzureBlobs(adls2.blob_client, "insights-logs-storageread")    # adls2: dagster_azure.adls2.ADLS2Resource
    place = AzureBlobs(adls2.blob_client)                                 # every container of the account, as its first folders
    place = AzureBlobs(adls2.blob_client, containers="insights-logs-")    # those of them whose names begin so

Of the two clients that `ADLS2Resource` has, this is the one that lists and reads append blobs, with which Azure Monitor writes; they
are blobs of the same account. Needs "Storage Blob Data Reader".

https://learn.microsoft.com/rest/api/storageservices/list-blobs
https://learn.microsoft.com/rest/api/storageservices/get-blob
https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.places.failures import (
    Kind,
    as_folder,
    by_status,
    changed,
    exactly,
    failure,
    in_pieces,
    ranges,
    small_letters,
    translated,
)
from mlsec_dagster.audit.times import since_epoch
from mlsec_dagster.errors import ConfigurationError, MissingExtraError, StoreError

_RANGE: Final = 4 << 20  # A client cuts what is larger into requests of its own, with the first one's ETag as a condition.
_RETRIES: Final = {"retry_total": 1, "retry_status": 0}  # The client's own may take 84 s, longer than a sensor's tick may.
_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys(("BlobNotFound", "ConditionNotMet", "InvalidRange", "PathNotFound"), "changed"),
    **dict.fromkeys(("ServerBusy", "TooManyRequests"), "throttled"),
    **dict.fromkeys(("ExpiredAuthenticationToken", "InvalidAuthenticationInfo", "NoAuthenticationInformation"), "expired"),
    **dict.fromkeys(("AuthorizationFailure", "AuthorizationPermissionMismatch", "InsufficientAccountPermissions"), "denied"),
    **dict.fromkeys(("ContainerNotFound", "FilesystemNotFound"), "absent"),
    **dict.fromkeys(("BlobArchived", "BlobBeingRehydrated"), "archived"),
    # A shared access signature that has run out is told with this code, and so is one that never was valid.
    "AuthenticationFailed": "expired",
}


class AzureBlobs:
    """A `Place` in a container, or in all containers of an account.

    An object's version is its ETag, which changes with every block that is appended. An append blob has an `origin`, the time at which
    it was created, and is read under that instead: a condition on the ETag would refuse to read a log exactly while it is written.
    With each range that is read, the blob must still be an append blob, of that creation, no shorter than it was listed, and not last
    written before that. Other blobs are only ever replaced, and are read under their ETag.

    Args:
        client: An `azure.storage.blob.BlobServiceClient`.
        container: Name of the container. Without one, the names of the containers are the first folders of all keys.
        prefix: Folder that all keys lie below; in a container only.
        page_size: Blobs to ask for at a time.
        containers: Without a container: what the names of those begin with that are looked into. In others, nothing is listed or read.

    Attributes:
        uri: "abfss://container@account/prefix/", or "abfss://account/" for all containers.

    Raises:
        ConfigurationError: A prefix without a container.
    """

    def __init__(self, client: Any, container: str | None = None, prefix: str = "", *, page_size: int = 1000, containers: str = "") -> None:
        self._errors = _errors()
        if container is None and prefix:
            raise ConfigurationError("A prefix lies within a container. Name the container too.")
        self._client = client
        self._container = container
        self._prefix = as_folder(prefix)
        self._page_size = page_size
        self._names = containers
        account: str = client.account_name or str(urlsplit(str(client.primary_endpoint)).hostname)
        self.uri = f"abfss://{account}/" if container is None else f"abfss://{container}@{account}/{self._prefix}"

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        """See `Place.list`; by key, in pages. The service cannot start behind a key, so `after` lists what it leaves out too."""
        for container, folder in self._containers(prefix):
            beginning = prefix[len(folder) :] if prefix.startswith(folder) else ""
            for blob in self._blobs(container, "list_blobs", beginning):
                key = folder + blob.name[len(self._prefix) :]
                if after is None or key.encode() > after.encode():
                    yield LogObject(
                        key=key,
                        version=blob.etag.strip('"'),
                        size=blob.size,
                        modified=since_epoch(blob.last_modified),
                        origin=_origin(blob),
                    )

    def folders(self, prefix: str = "") -> Iterator[str]:
        """See `Place.folders`."""
        if self._container is None and not prefix:
            yield from (container for container, _ in self._containers(""))
            return
        for container, folder in self._containers(prefix):
            root = self._prefix + prefix[len(folder) :]
            for blob in self._blobs(container, "walk_blobs", prefix[len(folder) :]):
                if not hasattr(blob, "blob_type"):  # A prefix is all name.
                    yield blob.name[len(root) : -1]

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        """See `Place.read`."""
        if start < found.size:
            yield from exactly(self._translated(self._pieces(found, start), found), found, start, self.uri + found.key)

    def metadata(self, found: LogObject) -> Mapping[str, str]:
        """See `Place.metadata`."""
        [properties] = self._translated(self._properties(found), found)
        return small_letters(properties.metadata)

    def _containers(self, prefix: str) -> Iterator[tuple[str, str]]:
        """The containers that keys with this prefix lie in, each with what precedes the names of its blobs."""
        if self._container is not None:
            yield self._container, ""
            return
        name, slash, _ = prefix.partition("/")
        if slash:
            if name.startswith(self._names):
                yield name, f"{name}/"
            return
        if not name.startswith(self._names) and not self._names.startswith(name):
            return
        beginning = max(name, self._names, key=len)
        listing = self._client.list_containers(name_starts_with=beginning or None, results_per_page=self._page_size, **_RETRIES)
        for container in translated(listing, self._errors, lambda error: _failure(error, self.uri, listing=True)):
            yield container.name, f"{container.name}/"

    def _blobs(self, container: str, how: str, prefix: str) -> Iterator[Any]:
        client = self._client.get_container_client(container)
        listing = getattr(client, how)(name_starts_with=(self._prefix + prefix) or None, results_per_page=self._page_size, **_RETRIES)
        return translated(listing, self._errors, lambda error: _failure(error, self.uri, listing=True))

    def _pieces(self, found: LogObject, start: int) -> Iterator[bytes]:
        client = self._blob(found)
        for first, length in ranges(start, found.size, _RANGE):
            part = client.download_blob(first, length, max_concurrency=1, **_conditions(found), **_RETRIES)
            self._check(part.properties, found)
            yield from in_pieces(part.readall())

    def _properties(self, found: LogObject) -> Iterator[Any]:
        properties = self._blob(found).get_blob_properties(**_conditions(found), **_RETRIES)
        self._check(properties, found)
        yield properties

    def _blob(self, found: LogObject) -> Any:
        container, name = (self._container, found.key) if self._container is not None else found.key.split("/", 1)
        return self._client.get_blob_client(container, self._prefix + name)

    def _check(self, properties: Any, found: LogObject) -> None:
        """Raise unless this is the append blob that was listed, grown or not."""
        if found.origin and (_origin(properties) != found.origin or since_epoch(properties.last_modified) < found.modified):
            raise changed(self.uri + found.key)

    def _translated(self, items: Iterable[Any], found: LogObject) -> Iterator[Any]:
        return translated(items, self._errors, lambda error: _failure(error, self.uri + found.key))


def _origin(properties: Any) -> str:
    """What an append blob keeps for as long as it is only appended to."""
    return f"append-{since_epoch(properties.creation_time)}" if properties.blob_type == "AppendBlob" else ""


def _conditions(found: LogObject) -> dict[str, Any]:
    from azure.core import MatchConditions

    return {} if found.origin else {"etag": f'"{found.version}"', "match_condition": MatchConditions.IfNotModified}


def _errors() -> tuple[type[Exception], ...]:
    try:
        from azure.core.exceptions import AzureError
    except ImportError as error:
        raise MissingExtraError("Reading logs from Azure needs its client: install mlsec-dagster[azure].") from error
    return (AzureError,)


def _failure(error: Exception, name: str, *, listing: bool = False) -> StoreError:
    from azure.core.exceptions import ClientAuthenticationError

    answer: Any = getattr(error, "response", None)
    code = str(getattr(getattr(error, "error_code", None), "value", None) or getattr(error, "error_code", None) or type(error).__name__)
    kind = _KINDS.get(code) or (
        "expired" if isinstance(error, ClientAuthenticationError) else by_status(getattr(answer, "status_code", None))
    )
    return failure("absent" if listing and kind == "changed" else kind, name, code)
