"""Two kept windows, column by column.

    for each in differences(before, now, sample_before, sample_now): print(each.column, each.distance)

Windows are kept as they were counted when they were the newest, each in bins of its own, so the distance is taken from their samples.
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false, reportAttributeAccessIssue=false

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlsec_dagster.stability.channels import Floats, divergence
from mlsec_dagster.stability.profiles import ColumnProfile, Window
from mlsec_dagster.stability.samples import seconds_of
from mlsec_dagster.stability.wording import LEAST_SHOWN

if TYPE_CHECKING:
    import pyarrow as pa

_BINS: Final = 20


@dataclass(frozen=True, slots=True)
class Side:
    """A column in one of the windows: shares of its rows, and what is usual of its values.

    Attributes:
        type: As found; empty where the window does not have the column.
        nulls: Share of rows without a value (NaN among them).
        distinct: Different values, approximately.
        mean, deviation: Of numbers, of times (seconds since the epoch) and of lengths of texts; None of others.

    Of a sensitive column there is neither mean nor deviation, and nothing that is about fewer than `LEAST_SHOWN` rows or values.
    """

    type: str = ""
    nulls: float = math.nan
    distinct: int | None = 0
    mean: float | None = None
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """One column in two windows.

    Attributes:
        column: Its name.
        distance: Jensen-Shannon distance of its values in the samples, 0 (alike) to 1 (nothing in common); NaN where it cannot be said.
        before: The one window; `now`: the other.
        changed: The value whose share changed most, its share before and now; None of numbers and of sensitive columns.
    """

    column: str
    distance: float
    before: Side
    now: Side
    changed: tuple[str, float, float] | None = None


def side(window: Window, name: str, *, secret: bool = False) -> Side:
    """One column of a window; `secret`: a sensitive one."""
    found: ColumnProfile | None = window.profile.column(name)
    if found is None:
        return Side()
    nulls, rows = found.nulls + found.nans, window.profile.rows
    missing = nulls / rows if rows else math.nan
    if secret:
        few = min(nulls, rows - nulls) < LEAST_SHOWN
        return Side(found.type, math.nan if few else missing, None if found.distinct < LEAST_SHOWN else found.distinct)
    return Side(found.type, missing, found.distinct, found.mean, found.deviation)


def differences(
    before: Window, now: Window, sample_before: "pa.Table", sample_now: "pa.Table", sensitive: Collection[str] = ()
) -> list[Difference]:
    """All columns of either window, the most different first; those of which nothing can be said last."""
    names = list(dict.fromkeys(column.name for window in (now, before) for column in window.profile.columns))
    found: list[Difference] = []
    for name in names:
        distance, changed = math.nan, None
        if sample_before.column_names.count(name) == sample_now.column_names.count(name) == 1:
            distance, changed = _compared(sample_before.column(name), sample_now.column(name))
        secret = name in sensitive
        then, later = (side(window, name, secret=secret) for window in (before, now))
        found.append(Difference(name, distance, then, later, None if secret else changed))
    return sorted(found, key=lambda each: -1.0 if math.isnan(each.distance) else each.distance, reverse=True)


def _compared(then: "pa.ChunkedArray[Any]", now: "pa.ChunkedArray[Any]") -> tuple[float, tuple[str, float, float] | None]:
    then_numbers, now_numbers = _numbers(then), _numbers(now)
    if then_numbers is not None and now_numbers is not None:
        if not len(then_numbers) or not len(now_numbers):
            return math.nan, None
        edges = np.unique(np.quantile(then_numbers, np.linspace(0, 1, _BINS + 1)[1:-1]))
        counts = [
            np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1).astype(float)
            for values in (then_numbers, now_numbers)
        ]
        return _distance(counts[1], counts[0]), None
    before, after = _counts(then), _counts(now)
    if not before or not after:
        return math.nan, None
    values = list(dict.fromkeys([*before, *after]))
    rows_before, rows_after = (np.array([each.get(value, 0) for value in values], float) for each in (before, after))
    change = rows_after / rows_after.sum() - rows_before / rows_before.sum()
    place = int(np.argmax(np.abs(change)))
    changed = (values[place], float(rows_before[place] / rows_before.sum()), float(rows_after[place] / rows_after.sum()))
    return _distance(rows_after, rows_before), changed


def _distance(now: Floats, then: Floats) -> float:
    return math.sqrt(divergence(now, then) / math.log(2))


def _numbers(values: "pa.ChunkedArray[Any]") -> Floats | None:
    """Finite values as numbers; None if they are none."""
    import pyarrow as pa

    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        flat = seconds_of(values)
    elif pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        flat = np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), float)
    else:
        return None
    return None if flat is None else flat[np.isfinite(flat)]


def _counts(values: "pa.ChunkedArray[Any]") -> dict[str, int]:
    """Rows per value, as text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        plain = values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values
        counted = pc.value_counts(plain.drop_null())
    except pa.ArrowException:  # Not every type can be counted.
        return {}
    return {str(each["values"]): int(each["counts"]) for each in counted.to_pylist()}
