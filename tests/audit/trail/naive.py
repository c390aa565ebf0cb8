"""Readers of logs as they are commonly written, to show what a fault costs those who take the obvious way.

reader = ByKey(place, ids_of_delivery)
reader.tick()
reader.found        # how often it has seen each identity
"""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlsec_dagster.audit.objects import LogObject, Place
from mlsec_dagster.errors import StoreError

Parse = Callable[[bytes], list[str]]


def ids_of_delivery(data: bytes) -> list[str]:
    """Of a CloudTrail log file."""
    return [record["eventID"] for record in json.loads(gzip.decompress(data))["Records"]]


def ids_of_lines(data: bytes) -> list[str]:
    """Of lines of JSON; the first bad one raises."""
    return [json.loads(line)["id"] for line in data.decode().splitlines()]


def ids_of_good_lines(data: bytes) -> list[str]:
    """Of lines of JSON; bad ones are skipped."""
    found: list[str] = []
    for line in data.splitlines():
        with suppress(ValueError, KeyError):
            found.append(json.loads(line)["id"])
    return found


@dataclass
class Naive:
    """What all of them do."""

    place: Place
    parse: Parse
    found: Counter[str] = field(default_factory=Counter[str])

    def take(self, each: LogObject) -> None:
        self.found.update(self.parse(b"".join(self.place.read(each))))


@dataclass
class ByKey(Naive):
    """Goes on behind the highest key that it has seen, for names begin with a date."""

    last: str = ""

    def tick(self) -> None:
        for each in sorted(self.place.list(), key=lambda each: each.key):
            if each.key > self.last:
                self.take(each)
                self.last = each.key


@dataclass
class ByTime(Naive):
    """Goes on behind the newest time of writing that it has seen."""

    last: int = 0

    def tick(self) -> None:
        for each in sorted(self.place.list(), key=lambda each: each.modified):
            if each.modified > self.last:
                self.take(each)
                self.last = each.modified


@dataclass
class SinceLastRun(Naive):
    """Reads what was written since it last ran, by its own clock, and logs errors to somewhere."""

    last: int = 0

    def tick(self, now: int) -> None:
        with suppress(StoreError):
            for each in self.place.list():
                if each.modified > self.last:
                    self.take(each)
        self.last = now


@dataclass
class AnewWhenChanged(Naive):
    """Reads an object as a whole whenever its version is another."""

    versions: dict[str, str] = field(default_factory=dict[str, str])

    def tick(self) -> None:
        for each in self.place.list():
            if self.versions.get(each.key) != each.version:
                self.take(each)
                self.versions[each.key] = each.version


@dataclass
class BehindTheSize(Naive):
    """Goes on where the object ended when it was last listed."""

    sizes: dict[str, int] = field(default_factory=dict[str, int])

    def tick(self) -> None:
        for each in self.place.list():
            start = self.sizes.get(each.key, 0)
            if each.size > start:
                self.found.update(self.parse(b"".join(self.place.read(each, start))))
                self.sizes[each.key] = each.size


@dataclass
class BehindTheSizeAfterwards(Naive):
    """Goes on where the object ended when it had been read."""

    sizes: dict[str, int] = field(default_factory=dict[str, int])

    def tick(self) -> None:
        for each in [*self.place.list()]:
            self.found.update(self.parse(b"".join(self.place.read(each, self.sizes.get(each.key, 0)))))
            self.sizes |= {now.key: now.size for now in self.place.list(each.key)}


@dataclass
class TwoFiles(Naive):
    """Keeps rows in one file and what it has read in another, as if nothing could happen between the two.

    Attributes:
        root: Where they are.
        rows_first: Whether the rows are written before what was read.
    """

    root: Path = Path()
    rows_first: bool = True

    def tick(self, between: Callable[[], None] = lambda: None) -> None:
        """`between` is called between the one and the other."""
        rows, read = self.root / "rows", self.root / "read"
        for each in sorted(self.place.list(), key=lambda each: each.key):
            if read.exists() and each.key in read.read_text().splitlines():
                continue
            found = self.parse(b"".join(self.place.read(each)))
            steps = [(rows, found), (read, [each.key])]
            for number, (file, lines) in enumerate(steps if self.rows_first else reversed(steps)):
                if number:
                    between()
                with file.open("a") as opened:
                    opened.writelines(f"{text}\n" for text in lines)

    @property
    def kept(self) -> Counter[str]:
        """How often it has each identity."""
        rows = self.root / "rows"
        return Counter(rows.read_text().splitlines() if rows.exists() else [])
