"""What one pass says of each column as single figures: how many, how many different, how large, how spread."""

# Ibis brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mlsec_dagster.stability.columns import Column
from mlsec_dagster.stability.sources import Window

T = TypeVar("T")

_COLUMNS = 64


@dataclass(frozen=True)
class Scalars:
    """Figures of one column.

    Attributes:
        rows: Rows of the table.
        filled: Rows with a value, NaN among them.
        nans: Rows that are NaN.
        infinities: Rows that are infinite.
        distinct: Different values, approximately; of texts and of columns that are counted by value.
        minimum, maximum, mean, deviation: Of finite values or lengths; None where there are none.
        longest: Characters of the longest text.
    """

    rows: int
    filled: int
    nans: int = 0
    infinities: int = 0
    distinct: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    longest: int = 0

    @property
    def plain(self) -> bool:
        """Whether all values are finite."""
        return not self.nans and not self.infinities


def chunked(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Splits work into queries that an engine's planner can still take."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def narrow(table: Any, columns: Sequence[Column]) -> Any:
    """Leaves other columns out: a query of Ibis costs time for each column of its table, whether it is asked for or not."""
    return table.select([column.id for column in columns]) if len(table.columns) > 2 * _COLUMNS else table


def scalars_of(
    window: Window, table: Any, columns: Sequence[Column], centers: Mapping[int, float], named: Collection[int] = ()
) -> dict[int, Scalars]:
    """Computes the figures of all columns in one pass (of `_COLUMNS` columns each).

    Moments are sums of differences from a center, and of their squares: twice as fast as the engines' own, and as exact while the
    center is not far away. Columns in which that fails, because they hold NaN or infinities, or values so large or so far from the
    center that squares lose them, are gone over again one step at a time.

    Args:
        window: Where to ask.
        table: Its table, or a slice of it.
        columns: Which ones.
        centers: Something in the middle of each column, by place.
        named: Places of columns that are counted by value: of their texts only the longest is looked for, not how long they are.
    """
    found: dict[int, Scalars] = {}
    again: list[Column] = []
    for some in chunked(columns, _COLUMNS):
        part = narrow(table, some)
        figures: dict[str, Any] = {"rows": part.count()}
        for column in some:
            figures.update(_asked(part, column, centers.get(column.place, 0.0), column.place in named))
        (row,) = window.rows(part.aggregate(**figures))
        for column in some:
            scalars, sure = _read(row, column, centers.get(column.place, 0.0))
            found[column.place] = scalars
            if not sure:
                again.append(column)
    if not columns:
        return found
    for some in chunked(again, _COLUMNS):
        found.update(_carefully(window, table, some, found))
    return found


def _measured(column: Column) -> bool:
    return column.family in ("number", "time", "text", "binary", "nested")


def _asked(table: Any, column: Column, center: float, named: bool) -> dict[str, Any]:
    value, name = table[column.id], column.id
    asked: dict[str, Any] = {f"{name}_filled": value.count()}
    if column.family == "text" or (named and column.family == "number"):
        asked[f"{name}_distinct"] = value.approx_nunique()
    if named and column.family == "text":
        asked[f"{name}_longest"] = column.number(table).max()
    elif _measured(column):
        number = column.number(table)
        away = number - center if center else number
        asked |= {
            f"{name}_min": number.min(),
            f"{name}_max": number.max(),
            f"{name}_sum": away.sum(),
            f"{name}_squares": (away * away).sum(),
        }
    return asked


def _read(row: dict[str, Any], column: Column, center: float) -> tuple[Scalars, bool]:
    name = column.id
    filled = int(row[f"{name}_filled"])
    scalars = Scalars(int(row["rows"]), filled, distinct=min(int(row.get(f"{name}_distinct") or 0), filled))
    if f"{name}_longest" in row:
        return replace(scalars, longest=int(row[f"{name}_longest"] or 0)), True
    if not _measured(column) or not filled:
        return scalars, True
    low, high, total, squares = (row[f"{name}_{what}"] for what in ("min", "max", "sum", "squares"))
    if low is None or total is None or squares is None:  # lengths of values that have none
        return scalars, True
    scalars = replace(scalars, minimum=float(low), maximum=float(high), longest=int(high) if column.family in ("text", "binary") else 0)
    if not all(map(math.isfinite, (low, high, total, squares))):
        return scalars, False
    away = total / filled
    variance = squares / filled - away * away
    scalars = replace(scalars, mean=center + away, deviation=math.sqrt(max(variance, 0.0)))
    # Squares of values a thousand deviations away have lost six of their sixteen digits.
    return scalars, low == high or (variance > 0 and away * away < 1e6 * variance)


def _carefully(window: Window, table: Any, columns: Sequence[Column], first: Mapping[int, Scalars]) -> dict[int, Scalars]:
    """Counts what is not finite, then scales what is by its largest value, then takes squares around the mean."""
    import ibis

    numbers: dict[str, Any] = {column.id: column.number(table) for column in columns}
    given = table.select(**numbers)
    finite = given.select(
        **{
            column.id: ibis.ifelse(given[column.id].isnan() | given[column.id].isinf(), ibis.null("float64"), given[column.id])
            for column in columns
        }
    )
    asked: dict[str, Any] = {}
    for column in columns:
        value = given[column.id]
        asked |= {f"{column.id}_nans": value.isnan().cast("int64").sum(), f"{column.id}_infs": value.isinf().cast("int64").sum()}
    (strange,) = window.rows(given.aggregate(**asked))
    asked = {}
    for column in columns:
        value = finite[column.id]
        asked |= {f"{column.id}_count": value.count(), f"{column.id}_min": value.min(), f"{column.id}_max": value.max()}
    (range_,) = window.rows(finite.aggregate(**asked))
    scales = {column.id: max(abs(range_[f"{column.id}_min"] or 0.0), abs(range_[f"{column.id}_max"] or 0.0)) or 1.0 for column in columns}
    (means,) = window.rows(finite.aggregate(**{column.id: (finite[column.id] / scales[column.id]).mean() for column in columns}))
    spread = {
        column.id: (lambda away: (away * away).mean())(finite[column.id] / scales[column.id] - float(means[column.id] or 0.0))
        for column in columns
    }
    (squares,) = window.rows(finite.aggregate(**spread))
    found: dict[int, Scalars] = {}
    for column in columns:
        name, any_left = column.id, bool(range_[f"{column.id}_count"])
        found[column.place] = replace(
            first[column.place],
            nans=int(strange[f"{name}_nans"] or 0),
            infinities=int(strange[f"{name}_infs"] or 0),
            minimum=range_[f"{name}_min"],
            maximum=range_[f"{name}_max"],
            mean=means[name] * scales[name] if any_left else None,
            deviation=math.sqrt(max(squares[name], 0.0)) * scales[name] if any_left else None,
        )
    return found
