"""Learning how to count: which kind each column is, and the bins and categories that its values are counted in.

Frames are learnt from samples, in numpy and Arrow: that of the first window, or those of the windows right before (`references`).
"""

# pyarrow brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.stability.columns import GRID, columns_of
from mlsec_dagster.stability.conversion import TEXT, Family, cut, family_of, shown
from mlsec_dagster.stability.counting import LONGEST
from mlsec_dagster.stability.profiles import BINS, CATEGORIES, ColumnFrame, Frame, Kind, Roles
from mlsec_dagster.stability.samples import numbers_of
from mlsec_dagster.stability.sampling import draw, sample_rows, shuffled
from mlsec_dagster.stability.sources import Held, opened

if TYPE_CHECKING:
    import pyarrow as pa

FEW: Final = 32
"""A number with no more different values than this has an edge between any two of them."""

_FREE_TEXT: Final = 24
"""Characters, on average, from which texts that are nearly all different are prose."""

_HUGE: Final = 2.0**40

_NEARLY_ALL: Final = 0.9


@dataclass(frozen=True)
class Figures:
    """What is asked of a column to tell its kind.

    Attributes:
        filled: Rows with a value, NaN among them.
        distinct: Different values.
        minimum, maximum: Of finite numbers.
        mean, longest: Of the length of texts.
    """

    filled: int
    distinct: int
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    longest: int = 0


def learn_frame(source: Any, roles: Roles, *, partition_columns: Sequence[str] = (), limits: Limits = DEFAULT_LIMITS) -> Frame:
    """Learns the frame of a dataset from a sample of its first window.

    Args:
        source: The window: a path, a table in memory, a DuckDB relation or an Ibis table; see `sources.opened`.
        roles: What columns were declared to be.
        partition_columns: Columns that tell partitions apart, and so differ from one window to the next.
        limits: Bounds for files.

    Returns:
        The frame, its columns in the order of the table.

    Raises:
        UnverifiableError: The window cannot be read or the engine failed.
        LimitExceededError: It asks for more than the limits allow.
    """
    with opened(source, limits) as window:
        if isinstance(window, Held):
            rows = shuffled(window.table, sample_rows(window.table.num_columns))
            sample = [
                cut(shown(rows.column(place), family_of(rows.schema.field(place).type, kind))) for place, kind in enumerate(window.types)
            ]
        else:
            columns = columns_of(window)
            (counted,) = window.rows(window.table.aggregate(rows=window.table.count()))
            sample = draw(window, window.table, (), columns, counted["rows"], b"").rows.columns
        frames = [
            ColumnFrame(name, kind, "other") if name in roles.ignore
            else learn_column(name, kind, values, roles, monotone=name == roles.time or name in partition_columns)
            for name, kind, values in zip(window.names, window.types, sample, strict=True)
        ]  # fmt: skip
        return Frame(tuple(frames))


def learn_column(name: str, stored: str, values: "pa.ChunkedArray[Any]", roles: Roles, *, monotone: bool) -> ColumnFrame:
    """Learns how to count one column.

    Args:
        name: Its name.
        stored: Its type in storage, as text.
        values: Of a sample.
        roles: Declared columns.
        monotone: Whether its values only grow from one window to the next.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as t

    if t.is_boolean(values.type):
        # Of what an engine cannot read, a sample says whether it is there.
        return ColumnFrame(name, stored, "boolean", (), ("false", "true")) if stored == "bool" else ColumnFrame(name, stored, "other")
    filled = len(values) - values.null_count
    if t.is_string(values.type):
        counts = [(rows, text) for text, rows in _value_counts(values) if text is not None]
        lengths = pc.utf8_length(values)
        figures = Figures(filled, len(counts), mean=pc.mean(lengths).as_py(), longest=pc.max(lengths).as_py() or 0)
        # A text that was cut is as long as the sample lets it be.
        kind = "text" if figures.longest >= TEXT else kind_of("text", figures, integer=False, label=name == roles.label)
        if kind in ("category", "constant"):
            commonest = sorted(counts, key=lambda pair: (-pair[0], pair[1]))[:CATEGORIES]
            return ColumnFrame(name, stored, kind, (), tuple(sorted(text for _, text in commonest)))
        if kind == "identifier":
            return ColumnFrame(name, stored, kind)
        return ColumnFrame(name, stored, kind, edges_of(numbers_of(lengths.cast(pa.float64()))), (), monotone)
    numbers = numbers_of(values)
    present = np.unique(numbers[~np.isnan(numbers)])
    finite = present[np.isfinite(present)]
    figures = Figures(filled, len(present), float(finite[0]) if len(finite) else None, float(finite[-1]) if len(finite) else None)
    kind = kind_of(_family(values, stored), figures, integer=t.is_integer(values.type), label=name == roles.label)
    if kind == "constant":
        return ColumnFrame(name, stored, kind, (), tuple(repr(float(value)) for value in present[:1]))
    return ColumnFrame(name, stored, kind, () if kind == "identifier" else edges_of(numbers), (), monotone)


def _value_counts(values: "pa.ChunkedArray[Any]") -> "list[tuple[Any, int]]":
    import pyarrow.compute as pc

    found = pc.value_counts(values)
    return list(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True))


def _family(values: "pa.ChunkedArray[Any]", stored: str) -> Family:
    import pyarrow.types as t

    if stored.startswith(("list", "map", "struct", "large_list", "fixed_size_list")):
        return "nested"
    if "binary" in stored:
        return "binary"
    return "time" if t.is_temporal(values.type) or stored.startswith("time") else "number"


def kind_of(family: Family, found: Figures, *, integer: bool, label: bool) -> Kind:
    """What a column is to the tests.

    Args:
        family: Of its type, as `conversion.family_of` has it.
        found: Its figures.
        integer: Whether its type is one of integers.
        label: Whether it is the declared label.
    """
    if family == "other":
        return "other"
    if family == "boolean":
        return "boolean"
    if not found.filled:
        return "constant"  # of no value so far
    if family == "time":
        return "time"
    if found.distinct <= 1 and found.longest <= LONGEST and family in ("number", "text"):
        return "constant"
    if family == "nested":
        return "nested"
    if family == "binary":
        return "text"
    unique = found.filled > FEW and found.distinct >= _NEARLY_ALL * found.filled
    if family == "text":
        if found.longest > LONGEST or (unique and (found.mean or 0) > _FREE_TEXT):
            return "text"
        if label:
            return "category"
        return "identifier" if found.distinct > CATEGORIES or unique else "category"
    # A sparse integer that seldom repeats is as likely an amount, whose distribution matters; only what is huge as well is a hash or an id.
    huge = found.maximum is not None and found.maximum >= _HUGE
    return "identifier" if unique and integer and (_dense(found) or (huge and found.filled > 4 * FEW)) else "number"


def _dense(found: Figures) -> bool:
    """Whether integers fill a range without many gaps: a running number."""
    if found.minimum is None or found.maximum is None or found.filled <= 4 * FEW:
        return False
    return found.distinct >= _NEARLY_ALL * found.filled and found.maximum - found.minimum < 2 * found.filled


def edges_of(numbers: NDArray[np.float64]) -> tuple[float, ...]:
    """Edges of bins for values like these: between any two where there are few, else at their quantiles."""
    finite = numbers[np.isfinite(numbers)]
    values = np.unique(finite)
    if len(values) <= FEW:
        return between(values.tolist())
    quantiles = np.quantile(finite, np.arange(1, BINS) / BINS, method="inverted_cdf")
    return on_a_grid(_increasing(quantiles.tolist()))


def between(values: Sequence[float]) -> tuple[float, ...]:
    """Edges halfway between values, and one beyond each end, so that values never seen have bins of their own."""
    if not values:
        return ()
    inner = [low / 2 + high / 2 for low, high in pairwise(values)]
    gap = min((high - low for low, high in pairwise(values)), default=1.0) / 2
    return _increasing([values[0] - gap, *inner, math.nextafter(values[-1], math.inf) if not gap else values[-1] + gap])


def _increasing(edges: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted({edge + 0.0 for edge in edges if math.isfinite(edge)}))


def on_a_grid(edges: tuple[float, ...]) -> tuple[float, ...]:
    """Moves edges to multiples of a power of two where that leaves most of them apart: they are found faster there (`columns.cell`)."""
    if len(edges) < 2:
        return edges
    width = edges[-1] - edges[0]
    if not 2.0**-400 < width < 2.0**400:
        return edges
    step = 2.0 ** math.ceil(math.log2(width / (GRID - 2)))
    if max(abs(edges[0]), abs(edges[-1])) / step >= 2.0**52:
        return edges
    moved = _increasing([round(edge / step) * step for edge in edges])
    return moved if len(moved) >= 0.75 * len(edges) else edges
