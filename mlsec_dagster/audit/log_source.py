"""One log to read: where it lies, and what its objects are like."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from mlsec_dagster.audit.events import Source
from mlsec_dagster.audit.layouts import Layout
from mlsec_dagster.audit.objects import LogObject, Place


@dataclass(frozen=True)
class LogSource:
    """One log.

    Attributes:
        place: Where it lies.
        layout: Which log it is: its format, and where its objects are below the place.
        window_days: How many days before the newest object are listed at every tick. What lies before is found by a reconciliation.
    """

    place: Place
    layout: Layout
    window_days: int = 2

    @property
    def source(self) -> Source:
        """Which log it is."""
        return self.layout.source

    def window(self, newest: int | None) -> Iterator[LogObject]:
        """Every object within the sliding window.

        Args:
            newest: When the newest object that is known was written, microseconds since the epoch. The window never begins behind it, so
                that a clock that is wrong by years passes nothing over.

        Raises:
            StoreError: The place cannot be listed.
        """
        now = time.time_ns() // 1000
        now = now if newest is None else min(now, newest)
        recent = self.layout.recent
        for prefix in self.layout.window(self.place, now, self.window_days):
            for found in self.place.list(prefix):
                if recent(found, now, self.window_days):
                    yield found
