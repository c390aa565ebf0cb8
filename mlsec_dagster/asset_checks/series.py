"""Which windows come before which: the order in which a dataset's windows are compared.

Windows are partitions where partitions follow one another: those of a time (a multi-dimensional partition is compared within its other
keys), and dynamic ones in the order in which they were added. Where they do not (a partition for each country), and where there are none,
the windows are the successive materializations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import dagster as dg


@dataclass(frozen=True, slots=True)
class Series:
    """The partitions among which one is compared.

    Attributes:
        partitions: In their order.
        starts: When each begins, where they are of a time.
        ends: When each ends, likewise.
    """

    partitions: Sequence[str]
    starts: Sequence[datetime] | None = None
    ends: Sequence[datetime] | None = None

    def phases(self) -> dict[str, int] | None:
        """Season of each partition: the hour of hourly ones, the weekday of daily ones, in their own time zone; None for longer ones."""
        if self.starts is None or len(self.starts) < 2:
            return None
        steps = sorted(after - before for before, after in pairwise(self.starts))
        step = steps[len(steps) // 2]
        if step < timedelta(hours=12):
            return {name: start.hour for name, start in zip(self.partitions, self.starts, strict=True)}
        if step < timedelta(days=2):
            return {name: start.weekday() for name, start in zip(self.partitions, self.starts, strict=True)}
        return None

    def end_of(self, partition: str) -> datetime | None:
        """When a partition's time is over."""
        return self.ends[list(self.partitions).index(partition)] if self.ends is not None and partition in self.partitions else None


def series_of(partitions_def: dg.PartitionsDefinition | None, partition: str | None, instance: dg.DagsterInstance) -> Series | None:
    """The series of partitions that `partition` belongs to; None where windows are materializations."""
    if partition is None or partitions_def is None:
        return None
    if isinstance(partitions_def, dg.TimeWindowPartitionsDefinition):
        return _of_time(partitions_def, _with(partition, partitions_def.get_partition_keys()), str)
    if isinstance(partitions_def, dg.DynamicPartitionsDefinition):
        return Series(_with(partition, list(partitions_def.get_partition_keys(dynamic_partitions_store=instance))))
    if isinstance(partitions_def, dg.MultiPartitionsDefinition) and partitions_def.has_time_window_dimension:
        return _of_one_dimension(partitions_def, partition)
    return None


def _with(partition: str, keys: Sequence[str]) -> list[str]:
    """The keys with one that is not among them yet, such as one of the future, at the end."""
    return list(keys) if partition in keys else [*keys, partition]


def _of_time(partitions_def: Any, keys: Sequence[str], name: Any) -> Series:
    windows = sorted((partitions_def.time_window_for_partition_key(key), name(key)) for key in keys)
    return Series([key for _, key in windows], [window.start for window, _ in windows], [window.end for window, _ in windows])


def _of_one_dimension(partitions_def: dg.MultiPartitionsDefinition, partition: str) -> Series:
    dimension = partitions_def.time_window_dimension
    own = partitions_def.get_partition_key_from_str(partition).keys_by_dimension

    def whole(key: str) -> str:
        return str(dg.MultiPartitionKey({**own, dimension.name: key}))

    keys = _with(own[dimension.name], dimension.partitions_def.get_partition_keys())
    return _of_time(dimension.partitions_def, keys, whole)
