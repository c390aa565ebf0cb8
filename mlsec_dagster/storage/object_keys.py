"""Keys of log objects as every database can hold them.

    rows = [{"object": as_stored(position.object), …}]
    Position(as_key(row.object), …)

An object in S3 may have a NUL in its key, and PostgreSQL stores none: whoever can write one object would stop the reading of all.
"""

from typing import Final

_MARK: Final = "\ue000"  # For private use, so that a genuine key has none.


def as_stored(key: str) -> str:
    """A key, or the beginning of one, as it is stored."""
    return key.replace(_MARK, f"{_MARK}1").replace("\0", f"{_MARK}0") if "\0" in key or _MARK in key else key


def as_key(stored: str) -> str:
    """What `as_stored` was given."""
    return stored.replace(f"{_MARK}0", "\0").replace(f"{_MARK}1", _MARK) if _MARK in stored else stored
