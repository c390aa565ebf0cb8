"""Points in time as logs write them (RFC 3339), as microseconds since the epoch."""

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_AHEAD: Final = timedelta(days=1) // _MICROSECOND


@lru_cache(maxsize=4096)  # Records come in crowds: most share their second with others.
def microseconds(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 time; digits behind the sixth of a fraction are dropped.

    Raises:
        ValueError: `text` is no point in time: not ISO 8601, or without an offset from UTC.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"the time {text[:40]!r} has no offset from UTC")
    return since_epoch(moment)


def since_epoch(moment: datetime) -> int:
    """Microseconds from the epoch to an aware time."""
    return (moment - EPOCH) // _MICROSECOND


def latest_credible() -> int:
    """Microseconds since the epoch, beyond which a time is of a clock that is wrong: a day from now.

    One record of the year 2036 would else be the newest for ten years, and hide that a log has gone quiet.
    """
    return time.time_ns() // 1000 + _AHEAD


def rfc3339(moment: int) -> str:
    """The inverse of `microseconds`, always with six digits of fraction and "Z".

    Raises:
        OverflowError: Not between the years 1 and 9999.
    """
    return (EPOCH + timedelta(microseconds=moment)).isoformat(timespec="microseconds").replace("+00:00", "Z")
