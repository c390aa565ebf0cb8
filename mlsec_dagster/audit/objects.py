"""Where logs lie, seen from here: a place that can be listed and read, whatever cloud or disk it is.

    for found in place.list("AWSLogs/123456789012/CloudTrail/eu-west-1/2026/05/01/"):
        rows = cloudtrail.read(place.read(found))

`mlsec_dagster.audit.places` has a place for each kind of storage.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

import msgspec

from mlsec_dagster.errors import StoreError


class LogObject(msgspec.Struct, frozen=True, gc=False):
    """One log object as a listing tells of it.

    Attributes:
        key: Its key below the place's root: "AWSLogs/…/….json.gz", with "/" between folders.
        version: What changes when its content does: an ETag, a generation, or of a local file its inode and modification time.
        size: Bytes as stored.
        modified: When it was last written, microseconds since the epoch, UTC.
        origin: What stays while bytes are only appended, and changes when another object takes the key: the inode of a local file,
            the time at which an append blob was created. Empty where an object is only ever replaced as a whole. Reading may go on
            from an earlier offset if this is not empty and still the same.
    """

    key: str
    version: str
    size: int
    modified: int
    origin: str = ""


class ObjectChangedError(StoreError):
    """An object is not what the listing said: it was replaced, cut short or deleted meanwhile. List again."""


class Place(Protocol):
    """Storage that holds log objects.

    Attributes:
        uri: Its identity: "s3://bucket/prefix/", "gs://bucket/", "abfss://container@account/prefix/", "file:///var/log/mlflow/". No
            credentials. Followed by a key, it names an object.
    """

    uri: str

    def list(self, prefix: str = "", *, after: str | None = None) -> Iterator[LogObject]:
        """Every object whose key begins with `prefix`; with `after`, only keys behind it. Object storages list by key, disks in any order.

        Raises:
            StoreError: It cannot be listed; says what to do.
        """
        ...

    def folders(self, prefix: str = "") -> Iterator[str]:
        """Names of the folders directly below `prefix` (which ends in "/" or is empty), without slashes."""
        ...

    def read(self, found: LogObject, start: int = 0) -> Iterator[bytes]:
        """The bytes of that very version from byte `start` up to `found.size`, in pieces of about a megabyte.

        Raises:
            ObjectChangedError: It is not that version any more. With an `origin`, one that only grew still is.
            StoreError: It cannot be read.
        """
        ...

    def metadata(self, found: LogObject) -> Mapping[str, str]:
        """The object's user metadata, names in small letters; empty on a disk.

        Raises:
            ObjectChangedError: It is not that version any more.
            StoreError: It cannot be read.
        """
        ...
