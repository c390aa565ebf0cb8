"""Which accesses are in the trail already?

    known = KnownKeys(trail.files(), open_file)
    new = ~known.among("aws.cloudtrail", keys, times)

An access has one time, and so it can only be in a file whose times span it: files of other days and hours are not looked at. Logs
arrive nearly in order, so these are few, however large the trail. Keys are compared exactly, in memory that `_CACHED_BYTES` bounds.
"""

# pyarrow brings no types of its own and makes its compute functions when it is imported, so a type checker does not know them.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlsec_dagster.audit.files import TrailFile
from mlsec_dagster.audit.rows import DAY, KEY_BYTES

Keys = NDArray[np.uint64]
"""Keys as two numbers each, sorted by the first."""

_CACHED_BYTES: Final = 64 << 20


class _Cache:
    """Keys of files. A file of the trail never changes under its name, so what is here stays right."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Keys] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def get(self, path: str, load: Callable[[], Keys]) -> Keys:
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        found = load()
        with self._lock:
            if path not in self._kept and found.nbytes <= _CACHED_BYTES:
                self._kept[path] = found
                self._bytes += found.nbytes
                while self._bytes > _CACHED_BYTES:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return found


_CACHE: Final = _Cache()


class KnownKeys:
    """The keys of the trail at one version.

    Args:
        files: The trail's files at that version.
        open_file: Opens one of them for random reading, by its path.
        identity: Of the table, so that two tables do not share what is remembered.
    """

    def __init__(self, files: Sequence[TrailFile], open_file: Callable[[str], Any], identity: str) -> None:
        self._open = open_file
        self._identity = identity
        self._files: dict[str, list[TrailFile]] = {}
        for file in files:
            self._files.setdefault(file.source, []).append(file)
        self._spans = {
            source: (
                np.array([-(1 << 62) if file.first is None else file.first for file in listed], np.int64),
                np.array([1 << 62 if file.last is None else file.last for file in listed], np.int64),
            )
            for source, listed in self._files.items()
        }

    def among(self, source: str, keys: Sequence[bytes], times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these accesses the trail has.

        Args:
            source: The log.
            keys: Their keys.
            times: Their times, microseconds since the epoch.
        """
        found = np.zeros(len(keys), bool)
        spans = self._spans.get(source)
        if spans is None or not keys:
            return found
        wanted = as_numbers(keys)
        days = times // DAY
        for day in np.unique(days):
            of_day = np.flatnonzero(days == day)
            first, last = times[of_day].min(), times[of_day].max()
            for index in np.flatnonzero((spans[0] <= last) & (spans[1] >= first)):
                file = self._files[source][index]
                open_ones = of_day[~found[of_day]]
                if not len(open_ones):
                    break
                stored = _CACHE.get(f"{self._identity}/{file.path}", lambda file=file: self._load(file.path))
                found[open_ones] = _contained(wanted[open_ones], stored)
        return found

    def _load(self, path: str) -> Keys:
        with self._open(path) as opened:
            return _sorted(key_numbers(pq.ParquetFile(opened).read(columns=["key"]).column("key")))


def remember(identity: str, path: str, keys: Keys) -> None:
    """Keep the keys of a file that was just written, in any order."""
    _CACHE.get(f"{identity}/{path}", lambda: _sorted(keys))


def as_numbers(keys: Sequence[bytes]) -> Keys:
    """Keys as an array of two numbers each."""
    return np.frombuffer(b"".join(keys), dtype="<u8").reshape(-1, KEY_BYTES // 8)


def key_numbers(column: pa.ChunkedArray) -> Keys:
    """A column of keys as an array of two numbers each."""
    pieces = [np.empty((0, KEY_BYTES // 8), np.uint64)]
    for chunk in column.cast(pa.binary(KEY_BYTES)).chunks:
        if len(chunk):
            numbers = np.frombuffer(chunk.buffers()[1], dtype="<u8").reshape(-1, KEY_BYTES // 8)
            pieces.append(numbers[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(pieces)


def _sorted(keys: Keys) -> Keys:
    return keys[np.argsort(keys[:, 0], kind="stable")]


def _contained(wanted: Keys, stored: Keys) -> NDArray[np.bool_]:
    found = np.zeros(len(wanted), bool)
    if not len(stored):
        return found
    place = np.searchsorted(stored[:, 0], wanted[:, 0])
    while True:  # Once, and again for keys that agree in their first half only.
        inside = place < len(stored)
        at = np.where(inside, place, 0)
        same_half = inside & (stored[at, 0] == wanted[:, 0])
        found |= same_half & (stored[at, 1] == wanted[:, 1])
        if not (same_half & ~found).any():
            return found
        place = place + (same_half & ~found)
        place[~same_half | found] = len(stored)
