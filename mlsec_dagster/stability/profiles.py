"""What one pass over a table yields, as values that can be stored, signed and compared.

A profile counts; it keeps no rows. Names of categories are values of the data, so profiles lie beside the ledger (which holds
their digest only) and can be erased.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Final, Literal

import msgspec

from mlsec_dagster.errors import UnverifiableError

FORMAT: Final = 1
"""Of stored frames and profiles; another one is not understood."""

Kind = Literal["number", "category", "boolean", "time", "text", "nested", "identifier", "constant", "other"]
"""What a column is to the tests.

`number`, `time`: counted in bins between `edges`. `category`, `boolean`: counted by value. `text`: free text, counted by length.
`nested`: lists, maps and structs, counted by length. `identifier`: nearly every row has a value of its own, or values come and go
(tail numbers); only its nulls, its distinctness and what it goes with are compared. `constant`: one value so far. `other`: a type that can
only be counted.
"""

Role = Literal["label", "time", "ignore", "sensitive", "partition"]

BINS: Final = 32
"""Bins of a number: between the quantiles of the window from which the frame was learnt, and one open bin at each end."""

CATEGORIES: Final = 256
"""Values of a category that are counted by name; all others are counted together."""

SAMPLE_ROWS: Final = 10_000
"""Rows of the sample that a window leaves behind, at most; the whole window if it has no more than that."""


class ColumnFrame(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one column is counted.

    Attributes:
        name: The column.
        type: Its Arrow type as text; another one is a change of schema.
        kind: What it is to the tests.
        edges: Strictly increasing; value v falls into bin i with edges[i-1] <= v < edges[i]. Of a time: seconds since the epoch. Of a
            text or nested column: of the length.
        categories: Values counted by name, as text, sorted.
        monotone: Values only grow from one window to the next (clocks, running numbers), so their distribution is not compared.
    """

    name: str
    type: str
    kind: Kind
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    monotone: bool = False

    @property
    def cells(self) -> int:
        """Length of `ColumnProfile.counts`."""
        if self.kind in ("category", "boolean", "constant"):
            return len(self.categories) + 1
        return len(self.edges) + 1 if self.edges else 0


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """How a window is counted, learnt from the samples of the windows right before it, so that its bins fit them whatever they drift to."""

    columns: tuple[ColumnFrame, ...]
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        return _encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Frame":
        return _decode(data, cls)

    def column(self, name: str) -> ColumnFrame | None:
        return self._first.get(name)

    @cached_property
    def _first(self) -> dict[str, ColumnFrame]:
        return {column.name: column for column in reversed(self.columns)}


class ColumnProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of one window.

    Attributes:
        name: The column.
        type: Its Arrow type as text, as found.
        nulls: Rows without a value.
        nans: Rows that are NaN, which is no null.
        infinities: Rows that are plus or minus infinity.
        distinct: Different values, of texts and identifiers approximately (HyperLogLog) in a large window; of all else those in the sample.
        minimum, maximum, mean, deviation: Of finite numbers; of times in seconds since the epoch; of the length of free texts and nested
            values.
        counts: Rows per cell of the frame, see `ColumnFrame`; without null and NaN. For categories: those named, then all
            others.
        unlisted: The commonest values that the frame does not name, with their rows; empty for identifiers and texts.
        characters: Shares of letters, digits, white space and everything else among the characters of a text column, as far as they are
            in the sample.
    """

    name: str
    type: str
    nulls: int = 0
    nans: int = 0
    infinities: int = 0
    distinct: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    counts: tuple[int, ...] = ()
    unlisted: tuple[tuple[str, int], ...] = ()
    characters: tuple[float, ...] = ()


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """One window of a dataset.

    Attributes:
        rows: Rows.
        columns: In the order of the table. Columns that the frame does not know have no counts.
        patterns: Missingness: which columns are null together, as "0"/"1" per column in the order of `columns` -> rows. The commonest
            `CATEGORIES` only.
        pattern_rows: Rows among which patterns were counted: all of them; or, where there are too many patterns, those that `hashed`
            counts, and then `patterns` is scaled up.
        hashed: Rows whose keyed hash fell into the sample for duplicates.
        duplicates: How many of those repeat another one of them.
        window: Start and end of the window's time column, seconds since the epoch, if one is declared.
    """

    rows: int
    columns: tuple[ColumnProfile, ...]
    patterns: dict[str, int] = {}
    pattern_rows: int = 0
    hashed: int = 0
    duplicates: int = 0
    window: tuple[float, float] | None = None
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        return _encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Profile":
        return _decode(data, cls)

    def column(self, name: str) -> ColumnProfile | None:
        return self._first.get(name)

    @cached_property
    def _first(self) -> dict[str, ColumnProfile]:
        return {column.name: column for column in reversed(self.columns)}


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a window that was looked at, beside its sample.

    Attributes:
        profile: What was counted.
        values: Category column -> the values that it had.
        channels: (test, column, other, value) of every channel, as it was when this window was the newest; see `channels.py`. What was
            beyond the threshold of an alarm stands at the threshold (`decision.winsorised`).
        alarmed: Whether it alarmed.
        statistic: The largest studentised value, and the threshold that it was held against; None while learning.
        sensitive: Columns whose values must not be shown, as they were declared then.
    """

    profile: Profile
    values: dict[str, tuple[str, ...]] = {}
    channels: tuple[tuple[str, str, str, float], ...] = ()
    alarmed: bool = False
    statistic: tuple[float, float] | None = None
    sensitive: tuple[str, ...] = ()
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        return _encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Window":
        return _decode(data, cls)


class Roles(msgspec.Struct, frozen=True):
    """Columns that were declared: what they are to the checks."""

    label: str | None = None
    time: str | None = None
    ignore: Sequence[str] = ()
    sensitive: Sequence[str] = ()


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, order="deterministic")


def _decode(data: bytes, kind: type[Any]) -> Any:
    try:
        value = msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise UnverifiableError(f"a stored {kind.__name__.lower()} cannot be read ({error}); rebuild the baseline") from error
    if value.format != FORMAT:
        raise UnverifiableError(
            f"a stored {kind.__name__.lower()} has format {value.format}, this version knows {FORMAT}; "
            "use the version that wrote it, or rebuild the baseline"
        )
    return value
