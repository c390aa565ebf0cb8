"""Days on which logs were delivered, as folders and names tell them.

    for folder in day_folders(place, "AWSLogs/123456789012/CloudTrail/eu-west-1/", first_day(now, 3)):
        ...    # "AWSLogs/123456789012/CloudTrail/eu-west-1/2026/05/01/"

A window has a first day and no last one: whoever named the folders had another clock, and ours may go back.
"""

import re
from collections.abc import Iterator
from datetime import date, timedelta

from mlsec_dagster.audit.objects import Place
from mlsec_dagster.audit.times import EPOCH


def first_day(now: int, days: int) -> date:
    """The first day of a window.

    Args:
        now: Microseconds since the epoch, UTC.
        days: Days before today.
    """
    return EPOCH.date() + timedelta(days=max(0, timedelta(microseconds=now).days - days))


def day_folders(place: Place, prefix: str, start: date, names: tuple[str, str, str] = ("", "", "")) -> Iterator[str]:
    """Folders of days from `start` on, below those of years and months; the oldest first.

    Only those that are there, so that the future needs no guess: two or three requests where there is something, fewer where not.

    Args:
        place: Where they lie.
        prefix: What precedes the years.
        start: The first day.
        names: What precedes the digits of a year, a month and a day.
    """
    first = (start.year, start.month, start.day)

    def below(folder: str, found: tuple[int, ...]) -> Iterator[str]:
        name, width = names[len(found)], 4 if not found else 2
        for each in sorted(place.folders(folder)):
            digits = each.removeprefix(name)
            if each.startswith(name) and len(digits) == width and digits.isascii() and digits.isdigit():
                reached = (*found, int(digits))
                if reached >= first[: len(reached)]:
                    yield from (f"{folder}{each}/",) if len(reached) == 3 else below(f"{folder}{each}/", reached)

    return below(prefix, ())


def dated_folders(place: Place, prefix: str, year: re.Pattern[str], depth: int) -> Iterator[str]:
    """Folders that hold folders of years. Whoever puts a folder of a year beside others does not hide these."""
    names = sorted(place.folders(prefix))
    if any(year.fullmatch(name) for name in names):
        yield prefix
    for name in names if depth else ():
        if not year.fullmatch(name):
            yield from dated_folders(place, f"{prefix}{name}/", year, depth - 1)


def beginnings_since(start: date) -> Iterator[str]:
    """Beginnings that every "YYYY-MM-DD" from `start` to the end of the year behind it has one of, and no day before: a dozen or so."""
    day, month, year = f"{start:%d}", f"{start:%m}", f"{start:%Y}"
    yield f"{year}-{month}-{day}"
    yield from (f"{year}-{month}-{day[0]}{digit}" for digit in range(int(day[1]) + 1, 10))
    yield from (f"{year}-{month}-{digit}" for digit in range(int(day[0]) + 1, 4))
    yield from (f"{year}-{month[0]}{digit}" for digit in range(int(month[1]) + 1, 10 if month[0] == "0" else 3))
    yield from (f"{year}-{digit}" for digit in range(int(month[0]) + 1, 2))
    yield f"{start.year + 1:04}-"
