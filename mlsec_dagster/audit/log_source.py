"""One log to read: where it lies, which of the objects there are part of it, and how they are read."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mlsec_dagster.audit.events import AuditEvent, Quarantined, Source
from mlsec_dagster.audit.limits import Limits
from mlsec_dagster.audit.objects import Place


class Reader(Protocol):
    """A format, see `mlsec_dagster.audit.sources`."""

    def __call__(self, data: bytes | Iterable[bytes], *, limits: Limits = ...) -> Iterator[AuditEvent | Quarantined]: ...


@dataclass(frozen=True, kw_only=True)
class LogSource:
    """One log.

    Attributes:
        source: Which.
        place: Where it lies.
        read: Its format.
        belongs: Whether an object there is part of it, by its key.
        grows: Whether an object, by its key, grows in place: then it is read from where it ended, up to its last whole line.
        window: Prefixes of the objects that may be new; asked at every tick.
    """

    source: Source
    place: Place
    read: Reader
    belongs: Callable[[str], bool]
    grows: Callable[[str], bool]
    window: Callable[[], Iterable[str]]
