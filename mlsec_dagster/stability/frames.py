"""Learning how to count: which kind each column is, and the bins and categories that its values are counted in."""

# Ibis brings no types of its own, so what comes out of it is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from mlsec_dagster.integrity.limits import DEFAULT_LIMITS, Limits
from mlsec_dagster.stability.columns import GRID, Column, builtin, columns_of
from mlsec_dagster.stability.profiles import BINS, CATEGORIES, ColumnFrame, Frame, Kind, Roles
from mlsec_dagster.stability.scalars import Scalars, chunked, narrow, scalars_of
from mlsec_dagster.stability.sources import Window, opened

FEW: Final = 32
"""A number with no more different values than this has an edge between any two of them."""

_FREE_TEXT: Final = 24
"""Characters, on average, from which texts that are nearly all different are prose."""

_LONGEST: Final = 256
"""Characters of a category's longest value."""

_HUGE: Final = 2.0**40

_NEARLY_ALL: Final = 0.9
_CLOCKWISE: Final = 0.999
"""Correlation with the declared time from which a number is taken for a clock itself."""


def learn_frame(source: Any, roles: Roles, *, partition_columns: Sequence[str] = (), limits: Limits = DEFAULT_LIMITS) -> Frame:
    """Learns the frame of a dataset from one window of it.

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
        columns = columns_of(window)
        asked = [column for column in columns if column.name not in roles.ignore]
        found = scalars_of(window, window.table, asked, {})
        kinds: dict[int, Kind] = {
            column.place: kind_of(column.family, found[column.place], integer=column.dtype.is_integer(), label=column.name == roles.label)
            for column in asked
        }
        categories = _categories(window, [column for column in asked if kinds[column.place] in ("category", "constant", "boolean")])
        few = [column for column in asked if kinds[column.place] in ("number", "text", "nested") and found[column.place].distinct <= FEW]
        values = _values(window, few)
        for column in few:
            if len(values[column.place]) > FEW:
                del values[column.place]
        many = [column for column in asked if kinds[column.place] in _BINNED and column.place not in values]
        edges = {place: between(each) for place, each in values.items()}
        edges.update(_quantiles(window, many))
        clocks = _clocks(window, asked, found, roles, partition_columns)
        return Frame(
            tuple(
                ColumnFrame(
                    column.name,
                    column.type,
                    kinds.get(column.place, "other"),
                    edges.get(column.place, ()),
                    categories.get(column.place, ()),
                    column.place in clocks,
                )
                for column in columns
            )
        )


_BINNED: Final = ("number", "time", "text", "nested")


def kind_of(family: str, found: Scalars, *, integer: bool, label: bool) -> Kind:
    """What a column is to the tests.

    Args:
        family: Of its type, as `columns.Column` has it.
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
    if found.distinct <= 1 and found.longest <= _LONGEST and family in ("number", "text"):
        return "constant"
    if family == "nested":
        return "nested"
    if family == "binary":
        return "text"
    unique = found.filled > FEW and found.distinct >= _NEARLY_ALL * found.filled
    if family == "text":
        if found.longest > _LONGEST or (unique and (found.mean or 0) > _FREE_TEXT):
            return "text"
        if label:
            return "category"
        return "identifier" if found.distinct > CATEGORIES or unique else "category"
    # A sparse integer that seldom repeats is as likely an amount, whose distribution matters; only what is huge as well is a hash or an id.
    huge = found.maximum is not None and found.maximum >= _HUGE
    return "identifier" if unique and integer and (_dense(found) or (huge and found.filled > 4 * FEW)) else "number"


def _dense(found: Scalars) -> bool:
    """Whether integers fill a range without many gaps: a running number."""
    if found.minimum is None or found.maximum is None or found.filled <= 4 * FEW:
        return False
    return found.distinct >= _NEARLY_ALL * found.filled and found.maximum - found.minimum < 2 * found.filled


def _categories(window: Window, columns: Sequence[Column]) -> dict[int, tuple[str, ...]]:
    """The commonest values as text, sorted."""
    import ibis

    found: dict[int, list[tuple[int, str]]] = {column.place: [] for column in columns}
    for some in chunked(columns, 32):
        table = narrow(window.table, some)
        queries: list[Any] = []
        for column in some:
            if column.family == "boolean":
                continue
            value = column.text(table[column.id]) if column.family == "text" else column.number(table)
            given = table.select(value=value)
            counted = given.filter(given.value.notnull()).group_by("value").aggregate(rows=ibis._.count())
            counted = counted.order_by([ibis.desc("rows"), "value"]).limit(CATEGORIES)
            text = counted.value if column.family == "text" else ibis.null("string")
            number = counted.value if column.family != "text" else ibis.null("float64")
            queries.append(counted.select(place=ibis.literal(column.place, "int32"), text=text, number=number, rows=counted.rows))
        for row in window.rows(ibis.union(*queries)) if queries else ():
            found[row["place"]].append((row["rows"], row["text"] if row["text"] is not None else repr(row["number"])))
    listed = {place: tuple(sorted(value for _, value in sorted(pairs, reverse=True)[:CATEGORIES])) for place, pairs in found.items()}
    return {**listed, **{column.place: ("false", "true") for column in columns if column.family == "boolean"}}


def _values(window: Window, columns: Sequence[Column]) -> dict[int, list[float]]:
    """All values of columns that have few."""
    import ibis

    found: dict[int, set[float]] = {column.place: set() for column in columns}
    for some in chunked(columns, 32):
        table = narrow(window.table, some)
        queries: list[Any] = []
        for column in some:
            given = table.select(value=column.number(table))
            distinct = given.filter(given.value.notnull()).group_by("value").aggregate(rows=ibis._.count()).limit(2 * FEW + 2)
            queries.append(distinct.select(place=ibis.literal(column.place, "int32"), value=distinct.value))
        for row in window.rows(ibis.union(*queries)):
            if math.isfinite(row["value"]):
                found[row["place"]].add(row["value"])
    return {place: sorted(values) for place, values in found.items()}


def between(values: Sequence[float]) -> tuple[float, ...]:
    """Edges halfway between values, and one beyond each end, so that values never seen have bins of their own."""
    if not values:
        return ()
    inner = [low / 2 + high / 2 for low, high in pairwise(values)]
    gap = min((high - low for low, high in pairwise(values)), default=1.0) / 2
    return _increasing([values[0] - gap, *inner, math.nextafter(values[-1], math.inf) if not gap else values[-1] + gap])


def _increasing(edges: Sequence[float]) -> tuple[float, ...]:
    return tuple(sorted({edge + 0.0 for edge in edges if math.isfinite(edge)}))


def _quantiles(window: Window, columns: Sequence[Column]) -> dict[int, tuple[float, ...]]:
    """Edges at the quantiles: one native call per column, with all probabilities at once."""
    import ibis

    places = [number / BINS for number in range(1, BINS)]
    found: dict[int, tuple[float, ...]] = {}
    for some in chunked(columns, 32):
        part = narrow(window.table, some)
        given: dict[str, Any] = {}
        for column in some:
            value = column.number(part)
            if column.floating:
                value = ibis.ifelse(value.isnan() | value.isinf(), ibis.null("float64"), value)
            given[column.id] = value
        table = part.select(**given)
        figures: dict[str, Any] = {}
        for column in some:
            if window.engine in ("duckdb", "pyspark"):
                name = "approx_quantile" if window.engine == "duckdb" else "percentile_approx"
                inner = "float32" if window.engine == "duckdb" else "float64"
                wanted: Any = ibis.array(places)
                function = builtin(name, ["float64", f"array<{inner}>"], "array<float64>", aggregate=True)
                figures[column.id] = function(table[column.id], wanted.cast(f"array<{inner}>"))
            else:
                figures[column.id] = table[column.id].approx_quantile(places)
        (row,) = window.rows(table.aggregate(**figures))
        for column in some:
            found[column.place] = on_a_grid(_increasing([edge for edge in row[column.id] or () if edge is not None]))
    return found


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


def _clocks(
    window: Window, columns: Sequence[Column], found: dict[int, Scalars], roles: Roles, partition_columns: Sequence[str]
) -> set[int]:
    """Columns whose values only grow from one window to the next."""
    import pyarrow.compute as pc

    clocks = {column.place for column in columns if column.name == roles.time or column.name in partition_columns}
    head = window.head() if window.head is not None else None
    for column in columns:
        if column.family == "number" and column.dtype.is_integer() and _dense(found[column.place]):
            clocks.add(column.place)
        elif column.family == "time" and head is not None and head.num_rows >= 4 * FEW:
            values = head.column(column.id).drop_null()
            if (
                len(values)
                and values[0] != values[-1]
                and pc.all(pc.greater_equal(values.slice(1), values.slice(0, len(values) - 1))).as_py()
            ):
                clocks.add(column.place)
    clock = next((column for column in columns if column.name == roles.time and column.family in ("time", "number")), None)
    others = [column for column in columns if column.place not in clocks and column.family in ("time", "number")]
    if clock is None:
        return clocks
    for some in chunked(others, 64):
        given = window.table.select(clock=clock.number(window.table), **{column.id: column.number(window.table) for column in some})
        sensible = {
            column.id: given[column.id].corr(given.clock, how="pop")
            for column in some
            if found[column.place].filled > FEW and found[column.place].deviation and found[column.place].plain
        }
        if sensible and found[clock.place].deviation:
            (row,) = window.rows(given.aggregate(**sensible))
            clocks |= {int(name[1:]) for name, value in row.items() if value is not None and value >= _CLOCKWISE}
    return clocks
