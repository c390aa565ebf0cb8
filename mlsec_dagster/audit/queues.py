"""Log objects that wait to be read: those of one tick, and those of a pass over everything.

queue = Queue(waiting)
while queue:
    read(queue.current)
    queue.next()
"""

import time
from collections.abc import Iterator, Sequence

from mlsec_dagster.audit.objects import LogObject
from mlsec_dagster.audit.reading import Reading
from mlsec_dagster.errors import StoreError
from mlsec_dagster.storage.log_positions import Position


class Everything:
    """A pass over all objects of a place, which may take many calls.

    Args:
        objects: The listing, which goes on where the call before has left it.

    Attributes:
        waiting: Objects that were listed and are to be read.
        seen: Hashes of the keys that were listed.
        refused: What kept objects from being read.
        begun: When the pass began, microseconds since the epoch.
    """

    def __init__(self, objects: Iterator[LogObject]) -> None:
        self.objects = objects
        self.waiting: list[LogObject] = []
        self.seen: set[int] = set()
        self.refused: list[StoreError] = []
        self.begun = time.time_ns() // 1000


class Queue:
    """Objects that are to be read, and the one that is being read. Its length is how many are left.

    Args:
        waiting: The objects, in the order in which they are read.

    Attributes:
        place: How many were read or refused.
        reading: The current one, once begun.
        known: How far some of those that follow had been read before; None where they had not.
        refused: What kept objects from being read, by their place.
        refusals: Objects refused one after another, up to now.
    """

    def __init__(self, waiting: Sequence[LogObject]) -> None:
        self._waiting = waiting
        self.place = 0
        self.reading: Reading | None = None
        self.known: dict[str, Position | None] = {}
        self.refused: dict[int, StoreError] = {}
        self.refusals = 0

    def __len__(self) -> int:
        return len(self._waiting) - self.place

    @property
    def current(self) -> LogObject:
        """The object that is to be read now."""
        return self._waiting[self.place]

    def following(self, count: int) -> Sequence[LogObject]:
        """The current one and those behind it, at most so many."""
        return self._waiting[self.place : self.place + count]

    def next(self) -> None:
        """Go on to the next one."""
        self.place += 1
        self.reading = None

    def refuse(self, reason: StoreError) -> None:
        """Say what keeps the current one from being read, and go on to the next one."""
        self.refused[self.place] = reason
        self.refusals += 1
        self.next()

    def back_to(self, place: int) -> None:
        """Begin again with the object at that place: what came of it and those behind it is not in the trail."""
        self.refused = {at: reason for at, reason in self.refused.items() if at < place}
        self.refusals = 0
        self.place = place
        self.reading = None
        self.known = {}
