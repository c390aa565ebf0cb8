"""A table that holds its own past: slices of its time as windows, for as long as there are too few materializations to compare.

    assessed = assess_newest_slice(path, span, roles=roles, key=key, false_alarms=0.01)
    assessed.slice, assessed.assessment          # (start, end) in seconds, and what was found about it; or None: too short a past

The newest slice that is complete is judged against those before it. The last one of a table is not over as a rule and is left out, as
is the first. What was rewritten in older slices is not judged: that is seen once there are enough materializations, and `dataset_hash`
with the policy `append_only` sees it at once.
"""

# pyarrow's tables bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportUnknownMemberType=false

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from mlsec_dagster.stability.assessment import WINDOWS_NEEDED, Assessment, History, assess
from mlsec_dagster.stability.channels import REFERENCE_WINDOWS
from mlsec_dagster.stability.profiles import Roles

HOUR, DAY = 3600.0, 86_400.0
LENGTHS: Final = (30 * DAY, 7 * DAY, DAY, HOUR)
"""Slices are of the longest of these of which the table has enough."""

MOST_SLICES: Final = 40
MOST_ROWS: Final = 5_000_000
"""Each slice is a query of its own, so larger tables wait for their materializations."""

_MONDAY: Final = 4 * DAY
"""1970-01-05; weeks begin on Mondays."""


@dataclass(frozen=True, slots=True)
class SliceAssessment:
    """What was found about the newest complete slice.

    Attributes:
        slice: Start and end, seconds since the epoch.
        assessment: Of the rows in it.
        history: The slices before it.
    """

    slice: tuple[float, float]
    assessment: Assessment
    history: History


def slices_of(span: tuple[float, float]) -> list[tuple[float, float]]:
    """The complete slices of a time span, oldest first; empty where there are too few of any length.

    Args:
        span: Smallest and largest time, seconds since the epoch.
    """
    first, last = span
    for length in LENGTHS:
        offset = _MONDAY if length == 7 * DAY else 0.0
        begin = (first - offset) // length + 1
        end = (last - offset) // length
        count = int(end - begin)
        if count > WINDOWS_NEEDED:
            edges = [offset + (begin + place) * length for place in range(count + 1)]
            return list(pairwise(edges))[-MOST_SLICES:]
    return []


def assess_newest_slice(
    source: Any, span: tuple[float, float], *, roles: Roles, key: bytes, false_alarms: float = 0.01
) -> SliceAssessment | None:
    """Assess the newest complete slice of a table.

    Args:
        source: The table, as `measuring.measure` takes it; not a stream, for it is read once for every slice.
        span: Smallest and largest value of the time column, seconds since the epoch.
        roles: Declared columns, `time` among them.
        key: Secret bytes.
        false_alarms: How often a slice in which nothing changed may alarm.

    Returns:
        None if there are too few slices with rows in them.

    Raises:
        UnverifiableError: The table could not be read or the engine failed.
    """
    windows: list[Any] = []
    samples: list[Any] = []
    newest: SliceAssessment | None = None
    for between in slices_of(span):
        history = History(tuple(windows), tuple(samples[-REFERENCE_WINDOWS:]))
        found = assess(source, history, roles=roles, key=key, false_alarms=false_alarms, between=between)
        if found.window.profile.rows:
            windows.append(found.window)
            samples.append(found.sample)
            newest = SliceAssessment(between, found, history)
    return newest if newest is not None and newest.assessment.outcome != "learning" else None
