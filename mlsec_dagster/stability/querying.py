"""Asking an engine to count a window: the same expressions on DuckDB and on every other one that Ibis knows.

A window is gone over a few times, each time in as few queries as the engine takes: single figures; cells per column, each read by itself;
the sample; and, if anything is null, what is null together. Nothing is ever grouped by values of which there may be any number.
"""

# Ibis and pyarrow bring no types of their own, so what comes out of them is unknown to a type checker.
# pyright: reportAttributeAccessIssue=false, reportMissingTypeStubs=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownParameterType=false, reportUnknownVariableType=false

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from mlsec_dagster.stability.columns import Column, cell
from mlsec_dagster.stability.counting import LONGEST, NAMED, WORD, characters, commonest
from mlsec_dagster.stability.profiles import CATEGORIES, ColumnFrame, ColumnProfile
from mlsec_dagster.stability.sampling import Sample, below, row_hash, share_hashed
from mlsec_dagster.stability.scalars import Scalars, chunked, narrow
from mlsec_dagster.stability.sources import Window

_BY_VALUE: Final = 4096
"""A column with about so many values, none of them long, may be grouped by them."""

_PATTERNS: Final = 100_000
_QUERIES: Final = 64


def count_cells(
    window: Window, table: Any, columns: Sequence[Column], known: Mapping[int, ColumnFrame], found: Mapping[int, Scalars]
) -> tuple[dict[int, list[int]], dict[int, Counter[str]]]:
    """Counts the cells of each column.

    Args:
        window: Where to ask.
        table: Its table, or a slice of it.
        columns: Those whose frames have cells.
        known: Their frames, by place.
        found: Their figures.

    Returns:
        Rows per cell, by place; and, of columns that were grouped by value, the values that the frame does not name.
    """
    import ibis

    counts = {column.place: [0] * known[column.place].cells for column in columns}
    others: dict[int, Counter[str]] = {}
    bins: dict[int, list[int]] = {}
    for some in chunked([column for column in columns if found[column.place].filled], _QUERIES):
        part = narrow(table, some)
        queries: list[Any] = []
        for column in some:
            each, scalars = known[column.place], found[column.place]
            if each.edges:
                number, bins[column.place] = cell(column, column.number(part), each.edges)
                queries.append(_by_cell(ibis, part, column.place, number))
            else:
                few = scalars.distinct <= _BY_VALUE and (column.family != "text" or scalars.longest <= LONGEST)
                if few:
                    others[column.place] = Counter()
                queries.append(_by_value(ibis, part, column, each, few=few))
        for row in window.rows(cast("Any", ibis).union(*queries)):
            place, cells, each = row["place"], counts[row["place"]], known[row["place"]]
            if place in bins:
                if row["cell"] is not None:
                    cells[bins[place][row["cell"]]] += row["rows"]
                continue
            value = row["text"] if row["text"] is not None else None if row["number"] is None else repr(row["number"])
            if value in each.categories:
                cells[each.categories.index(value)] += row["rows"]
            elif value is not None and place in others:
                others[place][value] += row["rows"]
    for column in columns:
        place, cells, scalars = column.place, counts[column.place], found[column.place]
        if place in bins:
            # Null and NaN were counted as larger than every edge.
            cells[-1] -= scalars.rows - scalars.filled + scalars.nans
        else:
            cells[-1] = scalars.filled - scalars.nans - sum(cells)
    return counts, others


def _by_cell(ibis: Any, table: Any, place: int, number: Any) -> Any:
    grouped = table.group_by(cell=number).aggregate(rows=ibis._.count())
    return grouped.select(
        place=ibis.literal(place, "int32"),
        cell=grouped.cell.cast("int32"),
        text=ibis.null("string"),
        number=ibis.null("float64"),
        rows=grouped.rows.cast("int64"),
    )


def _by_value(ibis: Any, table: Any, column: Column, each: ColumnFrame, *, few: bool) -> Any:
    """Rows per value: of all values where there are few, else of those that the frame names."""
    if column.family == "boolean":
        kind, value = "string", ibis.ifelse(table[column.id], "true", "false")
        value = ibis.ifelse(table[column.id].isnull(), ibis.null("string"), value)
    elif column.family == "text":
        kind, value = "string", column.text(table[column.id])
    else:
        kind, value = "float64", column.number(table)
        if column.floating:
            value = ibis.ifelse(value.isnan(), ibis.null("float64"), value)
    given = table.select(value=value)
    if not few:
        listed = [text if kind == "string" else float(text) for text in each.categories]
        given = given.filter(given.value.isin(listed)) if listed else given.limit(0)
    counted = given.group_by("value").aggregate(rows=ibis._.count())
    return counted.select(
        place=ibis.literal(column.place, "int32"),
        cell=ibis.null("int32"),
        text=counted.value if kind == "string" else ibis.null("string"),
        number=counted.value if kind != "string" else ibis.null("float64"),
        rows=counted.rows.cast("int64"),
    )


def profile_of(
    column: Column,
    each: ColumnFrame | None,
    scalars: Scalars,
    counts: Mapping[int, Sequence[int]],
    others: Mapping[int, Counter[str]],
    sample: Sample,
) -> ColumnProfile:
    """Puts together what is known of a column. What was not counted of it is looked up in the sample."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = sample.rows.column(column.id)
    rest: Mapping[str, int] = others.get(column.place, {})
    if each is not None and each.categories and column.family == "text" and column.place not in others and counts[column.place][-1]:
        rest = Counter(text for text in values.to_pylist() if text is not None and text not in each.categories)
    asked = column.family == "text" or (each is not None and each.kind in NAMED)
    return ColumnProfile(
        name=column.name,
        type=column.type,
        nulls=scalars.rows - scalars.filled,
        nans=scalars.nans,
        infinities=scalars.infinities,
        distinct=scalars.distinct
        if asked
        else 0
        if pa.types.is_null(values.type) or column.family == "other"
        else pc.count_distinct(values).as_py(),
        minimum=scalars.minimum,
        maximum=scalars.maximum,
        mean=scalars.mean,
        deviation=scalars.deviation,
        counts=tuple(counts.get(column.place, ())),
        unlisted=commonest(rest),
        characters=characters(values) if column.family == "text" else (),
    )


def patterns_of(
    window: Window, table: Any, columns: Sequence[Column], keyed: Sequence[Column], rows: int, key: bytes
) -> tuple[list[tuple[tuple[int, ...], int]], bool]:
    """Counts which columns are null together, as `counting.patterns` does.

    Where there are more than about `_PATTERNS` of them, they are counted among the rows of the sample for duplicates: chosen by a keyed
    hash, the same table always has the same.

    Args:
        window: Where to ask.
        table: Its table, or a slice of it.
        columns: Those that are null somewhere.
        keyed: Columns of the row hash.
        rows: Rows of `table`.
        key: The secret.

    Returns:
        Pairs of words and rows; and whether that is of all rows.
    """
    import ibis

    zero = ibis.literal(0, "int64")

    def packed(table: Any) -> Any:
        words: dict[str, Any] = {}
        for number, part in enumerate(chunked(columns, WORD)):
            bits = (table[column.id].isnull().cast("int64") * (1 << bit) for bit, column in enumerate(part))
            words[f"w{number}"] = sum(bits, cast("Any", zero))
        return table.select(**words)

    several, whole = packed(table), True
    names = list(several.columns)
    if len(columns) > 16 and rows > _PATTERNS:
        different = ibis.literal("-").join([several[name].cast("string") for name in names]).approx_nunique()
        if window.rows(several.aggregate(different=different))[0]["different"] > _PATTERNS:
            whole = share_hashed(rows) == 1
            if not whole:
                hashed, lowest = row_hash(window, table, keyed, key)
                several = packed(table.filter(below(hashed, lowest, share_hashed(rows))))
    counted = several.group_by(names).aggregate(rows=ibis._.count())
    counted = counted.order_by([ibis.desc("rows"), *names]).limit(CATEGORIES)
    return [(tuple(row[name] for name in names), row["rows"]) for row in window.rows(counted)], whole
